"""What is exported computes what the model does, in programs that know nothing of rngru; and the way back."""

import ast
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

import rngru.export
from rngru.backends import backend
from rngru.errors import InputError, MissingExtra, WorkdirError
from rngru.export import Parameters, export, fromtorch, weights
from rngru.hyper import HyperParams
from rngru.models import MODELS
from rngru.reader import Reader, clamp
from rngru.state import ModelState
from rngru.text import CharSet, Texts, WordSet, vocabularyfromjson
from tests.exported import KINDS, logits, reader, written

LENGTH = 2000


@pytest.fixture(scope="module", params=KINDS)
def kind(request, verse):
    """(a model, ids of a text of 2,000 symbols)."""
    modeltype, level, options = KINDS[request.param]
    model = reader(verse, modeltype, level, **options)
    return model, np.resize(model.encode(verse), LENGTH)


@pytest.fixture
def torch():
    """PyTorch, if it is there, on one core: many threads would wait for each other."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)


@pytest.fixture
def gru(verse):
    return reader(verse, "GRUEncode")


def loaded(path):
    """A module from a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def worst(one, other):
    assert one.shape == other.shape
    return np.abs(one - other).max()


# ------------------------------------------------------------------------------ a program alone


def test_the_program_computes_the_same(kind, tmp_path):
    """A gate in the wrong place, a missing bias, a layer that reads the memory instead of the output."""
    model, ids = kind
    program = loaded(export(model, tmp_path / "model.py"))
    state, found = np.zeros(model.freshstate().shape[::2], np.float32), []
    for symbol in ids:
        now, state = program.step(symbol, state)
        found.append(now)
    assert worst(np.array(found), logits(model, ids)) < 1e-5


@pytest.mark.parametrize(
    ("seed", "options"),
    [
        ("The ship", {}),
        ("", {"temp": 0}),
        (None, {"top_k": 5, "temp": 1.5}),
        ("And", {"top_p": 0.7}),
        ("", {"temp": 2.0, "top_k": 20, "top_p": 0.9, "min_p": 0.02}),
    ],
    ids=str,
)
def test_the_program_writes_the_same(kind, tmp_path, seed, options):
    """A seed that is read once too often, a rule of sampling in another order, "unknown" in the text."""
    model, _ = kind
    program = loaded(export(model, tmp_path / "model.py"))
    options = {"temp": 1.0} | options
    assert program.generate(seed, 80, rng=3, **options) == written(model, 80, seed, 3, **options)


def test_a_clamped_model_is_exported_where_the_file_can_say_it(verse, tmp_path):
    """An LSTM that is held at 0.9 begins at 0.9, and the program began at 0."""
    model = reader(verse, "LSTMEncode")
    silenced = clamp(model, {(0, 1): 0.0})
    program = loaded(export(silenced, tmp_path / "model.py"))
    assert program.generate("And", 80, temp=1.0, rng=3) == written(silenced, 80, "And", 3, temp=1.0)
    with pytest.raises(InputError, match="Hold them at 0"):
        export(clamp(silenced, {(1, 2): 0.9}), tmp_path / "held.py")
    assert not (tmp_path / "held.py").exists()


def test_the_program_needs_numpy_alone(gru, tmp_path):
    """It is for a machine where nothing else is installed."""
    path = export(gru, tmp_path / "model.py")
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy"}
    command = [sys.executable, path, "--seed", "The ", "--temp", "0.7", "-n", "80", "--rng", "4"]
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path)
    told = done.stdout.decode().replace("\r\n", "\n")
    assert told == written(gru, 80, "The ", rng=4, temp=0.7) + "\n"
    refused = subprocess.run([*command, "--top-k", "0"], capture_output=True, check=False)
    assert refused.returncode == 2 and b"--top-k" in refused.stderr


@pytest.mark.parametrize("text", ["caf\u00e9 br\u00fbl\u00e9\n", "cafe\u0301 bru\u0302le\u0301\n"])
def test_the_program_reads_accents_in_both_forms(tmp_path, text):
    """What looks the same must be read the same."""
    model = reader(text, "GRUEncode")
    program = loaded(export(model, tmp_path / "model.py"))
    for seed in ("caf\u00e9", "cafe\u0301"):
        with pytest.warns() if seed not in text else pytest.MonkeyPatch.context():
            expected = model.encode(seed).tolist()
        assert program.encode(seed) == expected and 0 not in expected


def test_a_text_without_lines_begins_anywhere(tmp_path):
    """There is nothing to count there, and zero symbols cannot be drawn from."""
    model = reader("to be or not to be", "RNNEncode")
    program = loaded(export(model, tmp_path / "model.py"))
    for rng in range(20):
        assert program.generate("", 5, rng=rng) == written(model, 5, "", rng=rng, temp=0.5)


# ------------------------------------------------------------------------------ other libraries


def test_onnx_computes_the_same(kind, tmp_path):
    """A matrix that is to be transposed, an order of gates, a state of another shape."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    model, ids = kind
    path = export(model, tmp_path / "model.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    state, found = model.freshstate(2), []
    for symbol in ids:  # two texts side by side, of which the second stays behind
        given = {"ids": np.array([symbol, ids[0]], np.int64), "state": state}
        now, state = session.run(["logits", "new_state"], given)
        found.append(now)
    found = np.array(found)
    assert worst(found[:, 0], logits(model, ids)) < 1e-5
    assert worst(found[:, 1], logits(model, np.full(LENGTH, ids[0]))) < 1e-5
    about = json.loads(session.get_modelmeta().custom_metadata_map["rngru"])
    assert vocabularyfromjson(about["vocabulary"]) == model.vocab
    assert HyperParams.from_json(about["hyper"]) == model.hyper


def torchmodel(torch, path):
    """The module that was written beside a state dict, with its parameters."""
    model = loaded(path.with_name(f"{path.stem}_model.py")).Model()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


def test_pytorch_computes_the_same(kind, tmp_path, torch):
    """The order of the gates, which bias is where, what z means: one slip and it writes noise."""
    model, ids = kind
    if model.model.name.startswith("Min"):
        with pytest.raises(InputError, match="cannot compute the layers of Min"):
            export(model, tmp_path / "verse.pt")
        return
    other = torchmodel(torch, export(model, tmp_path / "verse.pt"))
    half = torch.tensor(ids[: LENGTH // 2, None].astype(np.int64))
    rest = torch.tensor(ids[LENGTH // 2 :, None].astype(np.int64))
    with torch.no_grad():
        first, state = other(half)
        last, _ = other(rest, state)
    found = torch.cat([first, last])[:, 0].numpy()
    assert worst(found, logits(model, ids)) < 1e-5


def test_pytorch_has_its_own_layers_where_it_can(verse, tmp_path, torch):
    """cuDNN runs nn.GRU, not what we write."""
    kinds = {
        "LSTMEncode": torch.nn.LSTM, "RNNResize": torch.nn.RNN, "GRUEncode": torch.nn.GRU,
    }  # fmt: skip
    for modeltype, expected in kinds.items():
        options = {"reset_after": True} if modeltype == "GRUEncode" else {}
        path = export(reader(verse, modeltype, **options), tmp_path / f"{modeltype}.pt")
        assert type(torchmodel(torch, path).layers) is expected


def test_the_pytorch_module_writes_and_learns(verse, tmp_path, torch):
    """It is a module like any other: it samples at a shell, and its parameters have gradients."""
    model = reader(verse, "GRUEncode", tied=True)
    path = export(model, tmp_path / "verse.pt")
    other = torchmodel(torch, path)
    greedy = other.generate("The ship", 50, temp=0)
    assert greedy == written(model, 50, "The ship", rng=0, temp=0)
    loss = other(torch.tensor([[1], [2], [3]]))[0].square().sum()
    loss.backward()
    assert all(each.grad is not None and each.grad.any() for each in other.parameters())
    command = [sys.executable, tmp_path / "verse_model.py", "-n", "50", "--temp", "0"]
    done = subprocess.run([*command, "--seed", "The ship"], capture_output=True, check=True)
    assert done.stdout.decode().replace("\r\n", "\n") == greedy + "\n"


# ------------------------------------------------------------------------------ and back


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_parameters_come_back_as_they_went(kind, tmp_path, ending):
    """To the bit: whoever goes there and back twice must not drift."""
    pytest.importorskip({".pt": "torch"}.get(ending, "safetensors"))
    model, _ = kind
    if ending == ".pt" and model.model.name.startswith("Min"):
        return  # refused
    found = weights(export(model, tmp_path / f"verse{ending}"), symbols=None)
    assert set(found) == set(model.weights)
    assert all(np.array_equal(found[name], model.weights[name]) for name in found)
    assert found.modeltype == model.model.name
    hyper = HyperParams(model.vocab.vocab_size, **found.options)
    assert hyper.replace(gate=model.hyper.gate) == model.hyper
    assert hyper.gate == model.hyper.gate or ending == ".pt"


def test_a_model_that_reads_both_ways_can_be_saved(verse, tmp_path):
    """Its weights are no less worth keeping."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = reader(verse, "BiLSTM")
    found = weights(export(model, tmp_path / "verse.safetensors"))
    assert found.modeltype == "BiLSTM"
    assert all(np.array_equal(found[name], model.weights[name]) for name in model.weights)


@pytest.mark.parametrize("option", ["layernorm", "residual"])
def test_what_is_between_layers_is_saved_and_refused_elsewhere(verse, tmp_path, option):
    """A file without it would write something else, and nobody would know that it is wrong."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = reader(verse, "GRUEncode", **{option: True})
    for ending in (".py", ".html", ".onnx", ".pt"):
        with pytest.raises(InputError, match=f"{option}=True.*safetensors"):
            export(model, tmp_path / f"verse{ending}")
    found = weights(export(model, tmp_path / "verse.safetensors"))
    assert HyperParams(model.vocab.vocab_size, **found.options) == model.hyper
    assert all(np.array_equal(found[name], model.weights[name]) for name in model.weights)


@pytest.mark.parametrize("ending", [".py", ".html", ".onnx", ".pt"])
def test_a_model_that_reads_both_ways_is_refused_elsewhere(verse, tmp_path, ending):
    """Half of it would write something, and nobody would know that it is wrong."""
    with pytest.raises(InputError, match="both directions.*safetensors"):
        export(reader(verse, "BiGRU"), tmp_path / f"verse{ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("cell", ["GRU", "LSTM", "RNN"])
def test_a_module_of_pytorch_becomes_a_model(cell, encoded, bias, verse, torch):
    """Gates in PyTorch's order that are taken for ours, an embedding that is forgotten."""
    vocab, size, width = CharSet(verse), 9, 7
    symbols = vocab.chars[::-1]  # any order but ours
    torch.manual_seed(3)
    layers = getattr(torch.nn, cell)(width if encoded else len(symbols), size, 2, bias=bias)
    module = torch.nn.ModuleDict({"rnn": layers, "head": torch.nn.Linear(size, len(symbols))})
    if encoded:
        module["table"] = torch.nn.Embedding(len(symbols), width)
    ids = torch.tensor([symbols.index(char) for char in verse[:LENGTH]])
    given = (
        module["table"](ids) if encoded else torch.nn.functional.one_hot(ids, len(symbols)).float()
    )
    with torch.no_grad():
        expected = module["head"](layers(given[:, None])[0])[:, 0].numpy()
    found = fromtorch(module, symbols=symbols, vocab=vocab)
    assert found.modeltype == f"{cell}Resize"
    hyper, model = HyperParams(vocab.vocab_size, **found.options), MODELS[found.modeltype]
    mine = Reader(model, hyper, vocab, found, backend("cpu", model, hyper))
    ours = logits(mine, mine.encode(verse[:LENGTH]))
    order = [symbols.index(char) for char in vocab.chars]
    assert worst(ours, expected[:, order]) < 1e-5
    assert fromtorch(module.state_dict()).keys() == found.keys()


def test_symbols_that_the_other_model_lacks_are_hardly_ever_drawn():
    """Zero weights alone would make them as likely as any other."""
    before, vocab = CharSet("abc"), CharSet("bcd")
    model = reader("abc", "GRUEncode")
    moved = Parameters.of(model.weights).forvocab(before.chars, vocab)
    hyper = model.hyper.replace(vocab_size=vocab.vocab_size)
    other = Reader(model.model, hyper, vocab, moved, backend("cpu", model.model, hyper))
    one, two = (logits(each, each.encode("bcbbc")) for each in (model, other))
    assert worst(one[:, before.encode("bc")], two[:, vocab.encode("bc")]) < 1e-6
    p = np.exp(two) / np.exp(two).sum(-1, keepdims=True)
    assert p[:, vocab.encode("d")].max() < 1e-8


def test_a_saved_model_knows_its_symbols(gru, tmp_path):
    """Otherwise a text with one more character would shift every row, without a word."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = export(gru, tmp_path / "verse.safetensors")
    vocab = CharSet("~" + "".join(gru.vocab.chars[1:]) + "!#")
    found = weights(path, vocab=vocab)
    for char in "The ship":
        here, there = gru.vocab.idxofchar(char), vocab.idxofchar(char)
        assert np.array_equal(found["E"][there], gru.weights["E"][here])
    with pytest.raises(InputError, match="reads characters, but vocab is one of words"):
        weights(path, vocab=WordSet("to be"))


STATE = {
    "rnn.weight_ih_l0": np.zeros((12, 5)), "rnn.weight_hh_l0": np.zeros((12, 4)),
    "rnn.bias_ih_l0": np.zeros(12), "rnn.bias_hh_l0": np.zeros(12),
    "out.weight": np.zeros((5, 4)), "out.bias": np.zeros(5),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rnn.weight_hh_l0": None}, "one nn.GRU, nn.LSTM or nn.RNN, found 0"),
        ({"other.weight_hh_l0": np.zeros((12, 4))}, "found 2"),
        ({"rnn.weight_ih_l0_reverse": np.zeros((12, 5))}, "in one direction"),
        ({"rnn.weight_hr_l0": np.zeros((2, 4))}, "without a projection"),
        ({"out.bias": None}, "nn.Linear with bias"),
        ({"norm.weight": np.ones(4)}, "norm.weight"),
        ({"rnn.weight_hh_l0": np.zeros((20, 4))}, "expected a GRU"),
        ({"out.weight": np.zeros((6, 4))}, "nn.Linear with bias"),
        ({"rnn.bias_hh_l0": "no"}, "expected a tensor or an array, got str"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_module_of_another_form_is_refused(changes, told):
    """A layer that is left out in silence gives a model that writes noise."""
    assert fromtorch(STATE).modeltype == "GRUResize"
    state = {name: each for name, each in (STATE | changes).items() if each is not None}
    with pytest.raises(InputError, match=told):
        fromtorch(state)


def test_what_is_no_file_of_weights_is_refused(tmp_path, gru, torch):
    """Whatever is in the file, the message names it."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    for ending in (".safetensors", ".pt", ".pth"):
        path = tmp_path / f"bad{ending}"
        with pytest.raises(WorkdirError, match="There is no file"):
            weights(path)
        path.write_bytes(b"not what it says")
        with pytest.raises(InputError, match=f"bad{ending}"):
            weights(path)
    torch.save(torch.nn.GRU(2, 3), path)
    with pytest.raises(InputError, match="a whole module, which is code"):
        weights(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="holds list, expected a state dict"):
        weights(path)
    with pytest.raises(InputError, match="expected a file that ends in"):
        weights(tmp_path / "weights.npz")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layers.0.W": None}, "no parameters of a recurrent model"),
        ({"layers.0.W": np.zeros((12, 24))}, "1, 3 or 4 times"),
        ({"V": np.zeros((3, 3))}, r"V: expected \(12, 50\), got \(3, 3\)"),
        ({"layers.1.b": None}, r"layers.1.b: expected \(36,\), got nothing"),
        ({"w": np.zeros(1)}, "w: expected no such name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_arrays_that_make_no_model_are_refused(gru, changes, told):
    """All that is wrong is named at once, before anybody uses it."""
    arrays = {n: each for n, each in (dict(gru.weights) | changes).items() if each is not None}
    with pytest.raises(InputError, match=told):
        Parameters.of(arrays)


# ------------------------------------------------------------------------------ files


def test_a_file_of_the_same_kind_is_replaced_and_no_other(gru, tmp_path):
    """ms.export('train.py') in a folder of scripts must not cost anybody a script."""
    path = tmp_path / "model.py"
    export(gru, path)
    before = path.read_bytes()
    assert export(gru, str(path)) == path and path.read_bytes() == before
    path.write_text("import rngru\n")
    with pytest.raises(InputError, match="there already, and rngru has not written it"):
        export(gru, path)
    assert path.read_text() == "import rngru\n"
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        export(gru, tmp_path / "folder.html")
    with pytest.raises(WorkdirError, match="There is no directory"):
        export(gru, tmp_path / "nowhere" / "model.py")


@pytest.mark.parametrize("ending", [".safetensors", ".onnx", ".pt"])
def test_every_kind_of_file_is_known_again(kind, tmp_path, ending):
    """A file that is not known as ours could be written once only."""
    pytest.importorskip({".pt": "torch"}.get(ending, ending[1:]))
    model, _ = kind
    if ending == ".pt" and model.model.name.startswith("Min"):
        return  # refused
    path = export(model, tmp_path / f"verse{ending}")
    before = path.read_bytes()
    assert export(model, path).read_bytes() == before, "the same model gives the same bytes"
    path.write_bytes(b"something else")
    with pytest.raises(InputError, match="has not written it"):
        export(model, path)


def test_the_module_beside_a_state_dict_is_not_written_over_another(gru, tmp_path, torch):
    """It was not asked for by name, so nobody expects it to replace anything."""
    (tmp_path / "verse_model.py").write_text("mine")
    with pytest.raises(InputError, match="verse_model.py is there already"):
        export(gru, tmp_path / "verse.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["verse_model.py"]


@pytest.mark.parametrize("path", ["model", "model.docx", "model.npz", 7])
def test_an_ending_that_means_nothing_is_refused(gru, tmp_path, path):
    """The message lists those that do."""
    with pytest.raises(InputError, match="path of a file" if path == 7 else r"\.safetensors"):
        export(gru, path)


@pytest.mark.parametrize(
    ("ending", "package", "install"),
    [
        (".safetensors", "safetensors", r"pip install 'rngru\[export\]'"),
        (".onnx", "onnx", r"pip install 'rngru\[onnx\]'"),
        (".pt", "torch", "pip install torch"),
    ],
)
def test_a_missing_extra_is_named(gru, tmp_path, monkeypatch, ending, package, install):
    """'No module named onnx' leaves the reader to find out what to do."""
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=install):
        export(gru, tmp_path / f"verse{ending}")
    assert not list(tmp_path.iterdir())


def test_no_folder_of_the_user_is_in_a_file(verse, tmp_path):
    """What is given away tells nobody where its author keeps things."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    model = reader(verse, "GRUEncode")
    model.vocab.srcinfo = "/home/somebody/secret/verse.txt and 2 more"
    for ending in (".py", ".html", ".safetensors"):
        data = export(model, tmp_path / f"verse{ending}").read_bytes()
        assert b"secret" not in data and b"verse.txt and 2 more" in data


def test_a_model_state_is_exported_and_comes_back(newmodel, verse, tmp_path):
    """The verb, on a model that has learned: its program writes what generatestring does."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=10, learnrate=0.02, print_every=0)
    program = loaded(ms.export(tmp_path / "model.py"))
    assert program.generate("The ", 300, 0.7, rng=1) == str(
        ms.generatestring(300, 0.7, "The ", rng=1)
    )
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    found = rngru.export.weights(ms.export(tmp_path / "model.safetensors"), vocab=ms.chars)
    mine = ms.parameters()
    assert all(np.array_equal(found[name], mine[name]) for name in mine)
    assert repr(found) == "<Parameters of GRUEncode, 50 symbols, state_size=8, layers=2>"


def test_a_module_becomes_a_model_at_once(verse, tmp_path, torch):
    """Three calls, two of them on a text that nobody has, would be asked for otherwise."""
    torch.manual_seed(4)
    symbols = CharSet(verse).chars[:0:-1]
    module = torch.nn.ModuleDict(
        {"rnn": torch.nn.LSTM(len(symbols), 6), "out": torch.nn.Linear(6, len(symbols))}
    )
    ms = ModelState.frommodule(module, tmp_path / "theirs.rngru", symbols=symbols, rng=1)
    text = verse[:40]
    ids = torch.tensor([symbols.index(char) for char in text])
    with torch.no_grad():
        given = torch.nn.functional.one_hot(ids, len(symbols)).float()
        theirs = torch.log_softmax(module["out"](module["rnn"](given[:, None])[0])[:, 0], -1)
    expected = -theirs[torch.arange(39), ids[1:]].numpy()
    assert np.abs(ms.score(text).nats - expected).max() < 1e-4
    assert len(ms.generatestring(5, seed=text, rng=1)) == 5
    learning = ModelState.initfromsrcfile(
        Texts([verse]), tmp_path / "work", model=ms, report="silent"
    )
    assert abs(learning.evaluate(text).nats - expected.mean()) < 1e-4
    with pytest.raises(InputError, match="expected characters, got 'ab'"):
        ModelState.frommodule(module, tmp_path / "theirs.rngru", symbols=["ab", "c"])
    with pytest.raises(InputError, match="expected 256: bytes"):
        ModelState.frommodule(module, tmp_path / "theirs.rngru")
