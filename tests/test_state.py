"""``ModelState`` as a person meets it: names and defaults, saving, loading, generating, looking inside.

And what happens when that person gets something wrong: an error that says so, and nothing is lost.
"""

import inspect
import json
import math
import os
import pydoc
import random
import re
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import rngru
from rngru import HyperParams, ModelState, Texts, checkpoint, generatestring, state
from rngru.backends import backend
from rngru.errors import (
    CheckpointDamaged,
    InputError,
    NoModelError,
    RngruError,
    TextError,
    WorkdirError,
)
from rngru.hyper import GATES, OPTIMIZERS, SCHEDULES
from rngru.models import MODELS
from rngru.reader import Evaluation
from rngru.text import LEVELS

QUIET = {"print_every": 0, "report": "silent"}


def bits(ms):
    """The parameters, to the bit."""
    return {name: array.tobytes() for name, array in ms.parameters().items()}


def elsewhere(code, *arguments):
    """Run code in a new process and return what it prints, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def trained(newmodel, verse):
    """A model with three checkpoints, of 0, 4 and 8 batches."""
    ms = newmodel(verse, learnrate=0.01)
    ms.trainmodel(2, batchsize=2, train_len=4, **QUIET)
    return ms


# ---- Names and defaults ----

EMPTY, GIVEN = inspect.Parameter.empty, object()
PUBLIC = {
    "initfromsrcfile": {
        "srcfile": EMPTY,
        "usedir": EMPTY,
        "modeltype": "GRUEncode",
        "seq_len": 100,
        "trainfrac": 0.9,
        "init_checkpoint": True,
        "rng": None,
        "backend": GIVEN,
        "overwrite": False,
        "encoding": GIVEN,
    },
    "trainmodel": {
        "num_rounds": None,
        "batchsize": None,
        "train_len": None,
        "valid_len": None,
        "print_every": None,
        "clear_state": False,
        "max_seconds": None,
    },
    "generatestring": {
        "numchars": 100,
        "temp": 0.5,
        "seed": None,
        "init_state": None,
        "ret_state": False,
        "rng": None,
    },
    "trackneurons": {"usestr": EMPTY, "temp": GIVEN, "ret_output": False, "transpose": True},
    "evaluate": {"text": None, "init_state": None},
    "copied": {"text": EMPTY, "least": 20},
    "load": {"workdir": EMPTY},
    "restore": {"which": None},
    "newcheckpoint": {},
    "checkpoints": {},
    "traintime": {},
    "parameters": {},
    "plotloss": {},
}
BY_NAME_ONLY = set(PUBLIC["initfromsrcfile"]) - {"srcfile", "usedir"} | {"max_seconds", "rng"}


@pytest.mark.parametrize("method", PUBLIC)
def test_the_public_names_and_defaults(method):
    """A script of 2016 calls by these names, in this order, and relies on these defaults."""
    parameters = inspect.signature(getattr(ModelState, method)).parameters
    assert [name for name in parameters if name in PUBLIC[method]] == list(PUBLIC[method])
    for name, default in PUBLIC[method].items():
        assert default is GIVEN or parameters[name].default == default, name
        by_name_only = parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert by_name_only == (name in BY_NAME_ONLY), name


def test_hyperparameters_have_their_defaults():
    """Those of 2016, with the two layers that its README says."""
    hyper = HyperParams(vocab_size=66)
    wanted = {
        "layers": 2,
        "state_size": 128,
        "learnrate": 1e-3,
        "decay": 0.95,
        "regcost": 0.1,
        "gate": "sigmoid",
    }
    assert {name: getattr(hyper, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    "name",
    [
        "ModelState",
        "HyperParams",
        "CharSet",
        "DataSet",
        "Checkpoint",
        "GRUEncode",
        "GRUResize",
        "generatestring",
    ],
)
def test_it_is_importable_and_documented(name):
    """help() of a name that the manual mentions must not be empty."""
    assert name in [*rngru.__all__]
    assert len(pydoc.plain(pydoc.render_doc(getattr(rngru, name)))) > 200


def test_the_parts_are_usable_alone():
    """Without a ModelState around them."""
    data = rngru.DataSet.fromtext("so it goes\n" * 9, rngru.CharSet("so it goes\n"))
    x, y = data.batch(0, batchsize=2, seq_len=5)
    assert x.shape == y.shape == (5, 2)
    for model in (rngru.GRUEncode, rngru.GRUResize):
        arrays = model.initial(HyperParams(9, layers=3, state_size=4), np.random.default_rng(1))
        assert arrays["layers.2.W"].shape == (4, 12)


def test_help_tells_the_workflow_in_order():
    """help() sorts methods by name, so the story has to be in the class's own words."""
    text = pydoc.plain(pydoc.render_doc(ModelState)).split("Methods defined here")[0]
    steps = ["initfromsrcfile(", "trainmodel(", "generatestring(", "load(", "checkpoints("]
    steps += ["restore(", "evaluate(", "trackneurons(", "plotloss(", "traintime("]
    places = [text.index(f".{step}") for step in steps]
    assert places == sorted(places)


def test_help_on_hyperparameters_is_a_table():
    """Name, meaning, unit and default of every one of them."""
    lines = pydoc.plain(pydoc.render_doc(HyperParams)).splitlines()
    heads = [line.split() for line in lines]
    assert any(head[-4:] == ["name", "meaning", "unit", "default"] for head in heads)
    for name, default in HyperParams(66).to_json().items():
        row = next(head for head in heads if name in head[:2])
        assert name == "vocab_size" or row[-1] == repr(default), row


# ---- A new model ----


def test_making_a_model_reports_what_it_found(verse, tmp_path, capsys):
    """The character set, the two sizes, a first checkpoint, and a first loss close to the entropy.

    That of single characters, for a new model knows how often each of them occurs.
    """
    (tmp_path / "verse.txt").write_text(verse, encoding="utf-8")
    ms = ModelState.initfromsrcfile(tmp_path / "verse.txt", tmp_path / "new" / "work", rng=1)
    said = capsys.readouterr().out
    train = math.floor(len(verse) * 0.9)
    assert f"{ms.chars.vocab_size} different characters" in said
    assert f"{len(verse):,} characters: {train:,} for training" in said
    assert f"{len(verse) - train:,} for validation" in said
    untrained = float(said.split("Before training: ")[1].split()[0])
    shares = np.unique(list(verse), return_counts=True)[1] / len(verse)
    assert untrained == pytest.approx(-shares @ np.log(shares), abs=0.1)
    assert untrained == pytest.approx(ms.evaluate().nats, abs=1e-4)
    assert [each.step for each in ms.checkpoints()] == [0]
    assert ms.hyper == HyperParams(ms.chars.vocab_size)
    assert (ms.modeltype, ms.backend, ms.seq_len) == ("GRUEncode", "cpu", 100)


def test_a_model_without_a_first_checkpoint(newmodel, verse):
    """It lives in memory until it is saved."""
    ms = newmodel(verse, init_checkpoint=False)
    assert not ms.checkpoints()
    with pytest.raises(NoModelError):
        ModelState.load(ms.workdir)
    ms.newcheckpoint()
    assert bits(ModelState.load(ms.workdir)) == bits(ms)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "GRUResize"])
@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_have_the_names_and_shapes_of_the_design(newmodel, verse, modeltype, layers):
    """Whoever reads a checkpoint with NumPy alone relies on them."""
    ms = newmodel(verse, modeltype=modeltype, layers=layers)
    v, s = ms.chars.vocab_size, 8
    shapes = {"E": (v, s), "a": (s,)} if modeltype == "GRUEncode" else {}
    for layer in range(layers):
        into = v if layer == 0 and modeltype == "GRUResize" else s
        shapes |= {f"layers.{layer}.U": (into, 3 * s), f"layers.{layer}.W": (s, 3 * s)}
        shapes |= {f"layers.{layer}.b": (3 * s,)}
    shapes |= {"V": (s, v), "c": (v,)}
    found = ms.parameters()
    assert {name: array.shape for name, array in found.items()} == shapes
    assert {array.dtype for array in found.values()} == {np.dtype("float32")}
    before = bits(ms)
    found["V"][:] = 0
    assert bits(ms) == before, "what parameters() returns is a copy"


def test_the_text_lies_encoded_in_the_working_directory(newmodel, verse):
    """One byte per character, mapped, not copied: a text larger than memory can be trained on."""
    ms = newmodel(verse)
    [ids] = [path for path in (ms.workdir / "data").iterdir() if path.suffix != ".json"]
    assert ids.stat().st_size == len(verse)
    assert ms.chars.decode(np.fromfile(ids, np.uint8)) == verse


def test_the_prompt_shows_one_sentence(trained):
    """Model, size, parameters, corpus, epoch and position, last losses, backend."""
    shown, count = repr(trained), sum(array.size for array in trained.parameters().values())
    for part in (
        "GRUEncode",
        "2 layers of 8",
        f"{count:,} parameters",
        "1,609 characters of a text",
        "epoch 0.22",
        "position 320",
        "train loss 3.",
        "valid loss 3.",
        "cpu",
    ):
        assert part in shown, part
    assert "\n" not in shown
    assert repr(ModelState.load(trained.workdir)) == shown


# ---- Save, load, go on ----

RELOADED = """
import hashlib, json, sys
from rngru import ModelState
ms = ModelState.load(sys.argv[1])
drawn = str(ms.generatestring(80, temp=0.9, seed="The ", rng=5))
_, outputs = ms.trackneurons("The ship drove fast", temp=1.0, ret_output=True)
light = sorted({"pytensor", "matplotlib"} & set(sys.modules))
history = ms.trainmodel(batchsize=2, train_len=5, print_every=0, report="silent")
print(json.dumps({
    "drawn": drawn, "outputs": hashlib.sha256(outputs.tobytes()).hexdigest(), "loaded": light,
    "losses": history.losses.tolist(), "position": ms.position,
    "parameters": {n: hashlib.sha256(a.tobytes()).hexdigest() for n, a in ms.parameters().items()},
}))
"""


def test_another_process_goes_on_to_the_bit(trained):
    """Same text from the same rng, same outputs, and training as if nothing had come between."""
    from hashlib import sha256

    drawn = str(trained.generatestring(80, temp=0.9, seed="The ", rng=5))
    _, outputs = trained.trackneurons("The ship drove fast", temp=1.0, ret_output=True)
    here = trained.checkpoints()[-1]
    found = elsewhere(RELOADED, trained.workdir)
    trained.restore(here)  # the other has gone on; this is another way from the same place
    assert found["drawn"] == drawn
    assert found["outputs"] == sha256(outputs.tobytes()).hexdigest()
    assert found["loaded"] == [], "loading and generating are light"
    history = trained.trainmodel(batchsize=2, train_len=5, **QUIET)
    assert found["losses"] == history.losses.tolist()
    assert found["position"] == trained.position
    assert found["parameters"] == {n: sha256(b).hexdigest() for n, b in bits(trained).items()}


def test_the_saved_generator_goes_on(trained):
    """The model's own random numbers, also after reloading."""
    trained.rng.random(10)
    trained.newcheckpoint()
    again = ModelState.load(trained.workdir)
    one, other = (ms.generatestring(50, temp=1.0, rng=ms.rng).text for ms in (again, trained))
    assert one == other


def test_without_rng_each_text_is_another(trained):
    """A model that was loaded wrote what it had written yesterday; and it uses up nothing."""
    before = trained.rng.bit_generator.state
    texts = {ModelState.load(trained.workdir).generatestring(60, temp=1.0).text for _ in range(3)}
    assert len(texts) == 3
    trained.generatestring(9)
    assert trained.rng.bit_generator.state == before
    assert len({trained.generatestring(60, temp=1.0, rng=3).text for _ in range(3)}) == 1


def test_restore_goes_to_any_checkpoint(trained):
    """By number, by its record, by its path, to the best, and to the newest."""
    table, newest = trained.checkpoints(), bits(trained)
    assert [each.step for each in table] == [0, 4, 8]
    older = bits(trained.restore(4))
    assert older != newest
    for which in (4, table[1], table[1].path):
        assert bits(trained.restore(which)) == older
        assert trained.position == 160
        assert bits(trained.restore()) == newest
    assert trained.restore(0).position == 0
    lowest = min(table, key=lambda each: each.validloss)
    assert trained.restore("best").position == lowest.position
    assert trained.restore(4) is trained, "so that the prompt shows where it is"


def test_training_from_an_older_checkpoint_repeats_what_followed_it(trained):
    """State, optimizer and position come from that checkpoint, too, not from where one was."""
    after = bits(trained)
    trained.restore(4)
    trained.trainmodel(batchsize=2, train_len=4, **QUIET)
    assert bits(trained) == after


def test_another_way_on_from_an_older_checkpoint_keeps_the_first(trained):
    """Going back to try another learning rate must not cost the run that one comes from."""
    trained.restore(4)
    trained.trainmodel(batchsize=2, train_len=4, learnrate=0.5, **QUIET)
    positions = [each.position for each in trained.checkpoints()]
    assert positions == [0, 160, 320, 320]


def test_a_checkpoint_by_its_path(trained, monkeypatch):
    """As text or not, from here or from the root: it is the one of that number."""
    path = trained.checkpoints()[1].path
    monkeypatch.chdir(path.parents[2])
    near = path.relative_to(path.parents[2])
    link = path.parents[2] / "link"
    link.symlink_to(path.parents[1], target_is_directory=True)
    for which in (path, str(path), near, str(near), near / ".." / "4", link / "checkpoints" / "4"):
        assert trained.restore(0).restore(which).position == 160
        assert len(trained.history()) == 1, "its history is known"
    for which in ("", str(near.parent), "5"):
        with pytest.raises(InputError, match="There are: 0, 4, 8"):
            trained.restore(which)
    assert trained.newcheckpoint().step == 9


def test_a_checkpoint_that_does_not_exist(trained):
    """It says which there are."""
    with pytest.raises(InputError, match="0, 4, 8"):
        trained.restore(5)
    assert trained.position == 320


def test_a_new_checkpoint_keeps_what_is_known_of_the_model(trained):
    """Saving once more, with nothing changed, must not forget the losses or which is best."""
    shown, best = repr(trained), trained.checkpoints().best.step
    saved = trained.newcheckpoint()
    assert saved.position == trained.position
    assert repr(trained) == shown
    assert trained.checkpoints().best.step == best
    assert trained.checkpoints()[-1].validloss is not None


def test_the_table_of_checkpoints(trained):
    """Step, epoch, losses and date."""
    head, *rows = repr(trained.checkpoints()).splitlines()
    for word in ("step", "epoch", "train", "valid", "saved"):
        assert word in head
    assert [row.split()[0] for row in rows] == ["0", "4", "8"]
    assert sum("best" in row for row in rows) == 1
    assert not [row for row in rows if len(row) > 79]


def spoil(path):
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["a bit", "cut", "gone"])
def test_a_damaged_checkpoint_is_passed_over(trained, how):
    """The one before is used, and it is said."""
    arrays = trained.checkpoints()[-1].path / "arrays.npz"
    if how == "a bit":
        spoil(arrays)
    elif how == "cut":
        arrays.write_bytes(arrays.read_bytes()[:-100])
    else:
        arrays.unlink()
    with pytest.warns(UserWarning, match="4 is used instead"):
        ms = ModelState.load(trained.workdir)
    assert ms.position == 160
    ms.trainmodel(batchsize=2, train_len=1, **QUIET)
    assert ModelState.load(trained.workdir).position == 200, "what is new is loaded next time"


def test_nothing_but_damaged_checkpoints(trained):
    """Neither a model made of noise nor a traceback of zipfile."""
    for each in trained.checkpoints():
        spoil(each.path / "meta.json")
    with pytest.raises(CheckpointDamaged, match="No checkpoint can be used"):
        ModelState.load(trained.workdir)


def test_a_load_on_another_backend(trained):
    """The same model, computed by the reference: what was drawn at random may not change."""
    here = trained.generatestring(30, temp=0, seed="The ")
    with pytest.warns(UserWarning, match="backend cpu .here scan"):
        ms = ModelState.load(trained.workdir, backend="scan")
    assert str(ms.generatestring(30, temp=0, seed="The ")) == str(here)


def test_it_goes_on_after_the_shell_has_moved(newmodel, verse, tmp_path, monkeypatch):
    """``os.chdir`` at the prompt must not send the next checkpoint elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "verse.txt").write_text(verse, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ms = ModelState.initfromsrcfile("verse.txt", "work", state_size=8, report="silent")
    monkeypatch.chdir(tmp_path / "elsewhere")
    ms.trainmodel(train_len=1, batchsize=2, **QUIET)
    assert not list(Path().iterdir())
    assert ModelState.load(tmp_path / "work").position == ms.position


# ---- Generating ----


def test_a_sample_shows_its_text(trained):
    """Whatever way it is looked at."""
    sample = trained.generatestring(50)
    assert repr(sample) == str(sample) == sample.text
    assert len(sample) == len(sample.text) == 50
    assert set(sample.text) <= set(trained.chars.chars)
    assert sample.state.shape == (2, 1, 8)
    assert str(trained.generatestring(0)) == ""


def test_the_function_is_the_method(trained):
    """The README of 2016 calls it as a function, with the same arguments in the same order."""
    first = trained.generatestring(40, 0.7, "The ", None, True, rng=3)
    second = generatestring(trained, 40, 0.7, "The ", None, True, rng=3)
    assert str(first[0]) == str(second[0])
    assert (first[1] == second[1]).all()
    assert len(generatestring(trained).text) == 100


def test_ret_state_returns_the_state_as_well(trained):
    """The same one that the sample holds."""
    sample, state = trained.generatestring(10, ret_state=True)
    assert (state == sample.state).all()


def test_pieces_with_their_states_are_one_long_sample(trained):
    """A character fed twice or left out at the seam changes all that follows."""
    whole = trained.generatestring(90, temp=1.0, seed="The ", rng=9)
    rng = np.random.default_rng(9)
    first = trained.generatestring(35, temp=1.0, seed="The ", rng=rng)
    second = trained.generatestring(
        55, temp=1.0, seed=first.text[-1], init_state=first.state, rng=rng
    )
    assert first.text + second.text == whole.text
    assert (second.state == whole.state).all()


def test_a_longer_seed_warms_the_state(trained):
    """All of it is read, in order, also where it is longer than what is read at once."""
    for seed in ("The ", "The ship drove fast, " * 100):
        whole = trained.generatestring(30, temp=0, seed=seed)
        warm = trained.trackneurons(seed[:-1])[:, np.newaxis, :, -1]
        assert str(trained.generatestring(30, temp=0, seed=seed[-1], init_state=warm)) == str(whole)


def test_greedy_takes_the_likeliest(trained):
    """Each character is the one that the outputs after all text before it name."""
    text = "The ship"
    drawn = str(trained.generatestring(25, temp=0, seed=text, rng=1))
    assert drawn == str(trained.generatestring(25, temp=0, seed=text, rng=2))
    for char in drawn:
        _, outputs = trained.trackneurons(text, temp=1.0, ret_output=True)
        assert char == trained.chars.charatidx(int(outputs[-1].argmax()))
        text += char


def test_an_empty_seed_starts_a_line(newmodel):
    """With a character that starts one in the source; it is part of the text returned."""
    ms = newmodel("apple\nbanana\ncherry\n" * 20, trainfrac=0.5)
    firsts = {str(ms.generatestring(5, seed="", rng=rng))[0] for rng in range(40)}
    assert firsts == set("abc")
    assert len(ms.generatestring(5, seed="").text) == 5


def test_a_text_without_lines_generates_too(newmodel):
    """The system of 2016 failed on a text without a newline, whenever a sample was due."""
    ms = newmodel("abcabcabdabe" * 20)
    assert len(ms.generatestring(5).text) == 5, "nor is there a word about a seed that nobody gave"
    with pytest.warns(UserWarning, match=r"\\n"):
        assert len(ms.generatestring(5, seed="\n").text) == 5
    assert len(ms.generatestring(5, seed="").text) == 5
    ms.trainmodel(train_len=2, print_every=1, report="silent")


def test_unseen_characters_are_listed(trained):
    """And read as "unknown", each as a character of its own."""
    with pytest.warns(UserWarning, match="never seen") as caught:
        sample = trained.generatestring(10, temp=0, seed="Ωh é!")
    assert "Ω" in str(caught[0].message)
    assert "é" in str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the call"
    assert str(trained.generatestring(10, temp=0, seed="\ufffdh \ufffd!")) == str(sample)


def test_the_temperature_is_that_of_the_outputs(trained):
    """Half the temperature squares the odds."""
    _, warm = trained.trackneurons("The ", temp=1.0, ret_output=True)
    _, cold = trained.trackneurons("The ", temp=0.5, ret_output=True)
    squared = warm**2
    np.testing.assert_allclose(cold, squared / squared.sum(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("temp", [-0.1, math.nan, math.inf, "hot", None])
def test_a_temperature_that_makes_no_sense(trained, temp):
    """Not a traceback of NumPy, and not a text of one repeated character."""
    with pytest.raises(InputError, match="temp="):
        trained.generatestring(temp=temp)


@pytest.mark.parametrize("numchars", [-1, 1.5, "10", True])
def test_a_count_that_makes_no_sense(trained, numchars):
    """Named in the error."""
    with pytest.raises(InputError, match="numchars="):
        trained.generatestring(numchars)


@pytest.mark.parametrize("seed", [5, b"a", ["a"]], ids=repr)
def test_a_seed_that_is_no_text(trained, seed):
    """Shown in the error."""
    with pytest.raises(InputError, match="text"):
        trained.generatestring(seed=seed)


@pytest.mark.parametrize("rng", ["dice", -1, 1.5])
def test_chance_that_is_none(trained, rng):
    """Named in the error."""
    with pytest.raises(InputError, match="rng="):
        trained.generatestring(rng=rng)


@pytest.mark.parametrize("state", [np.zeros((2, 8)), np.zeros((1, 1, 8)), "warm"], ids=repr)
def test_a_state_that_does_not_fit(trained, state):
    """It says what would."""
    with pytest.raises(InputError, match="init_state"):
        trained.generatestring(init_state=state)


def test_a_state_in_another_order_of_memory_is_the_same_state(trained):
    """A transpose of an array that the user kept: its layers were read as each other's."""
    state = np.random.default_rng(1).normal(size=trained.generatestring(1).state.shape)
    assert state.shape[0] > 1
    for same in (np.asfortranarray(state), state[:, :, ::-1].copy()[:, :, ::-1]):
        found, expected = (
            trained.generatestring(1, seed="th", init_state=each, rng=1).state
            for each in (same, state)
        )
        assert np.array_equal(found, expected)


# ---- Looking inside ----


def test_neurons_have_a_row_each(trained):
    """(layer, neuron, step), or (step, layer, neuron) as it was computed."""
    states = trained.trackneurons("The ship")
    assert states.shape == (2, 8, 8)
    assert states.dtype == np.float32
    turned, outputs = trained.trackneurons("The ship", 0.5, True, False)
    assert (turned == states.transpose(2, 0, 1)).all()
    assert outputs.shape == (8, trained.chars.vocab_size)
    np.testing.assert_allclose(outputs.sum(1), 1)
    assert (trained.trackneurons("The s")[:, :, :5] == states[:, :, :5]).all(), "no look ahead"


def test_evaluating_is_predicting_character_by_character(trained):
    """In one lane, to the last digit that float32 leaves."""
    text = "The ship drove fast, loud roared the blast,\n" * 3
    nats = []
    for place in range(1, len(text)):
        _, outputs = trained.trackneurons(text[:place], temp=1.0, ret_output=True)
        nats.append(-math.log(outputs[-1, trained.chars.idxofchar(text[place])]))
    found = trained.evaluate(text)
    assert found.nats == pytest.approx(np.mean(nats), rel=1e-6)
    assert found.bits == pytest.approx(found.nats / math.log(2))
    assert found.perplexity == pytest.approx(math.exp(found.nats))
    assert found.characters == len(text) - 1
    assert f"{found.nats:.4f} nats per character" in repr(found)


def test_many_lanes_agree_with_one_unbroken_pass(newmodel):
    """To 0.001 nats, each character counted once, on a model whose states have a long memory."""
    from rngru.corpora import pydoc

    text = pydoc()[:40_000]
    ms = newmodel(text, trainfrac=0.5, state_size=32, learnrate=0.01, seq_len=50)
    ms.trainmodel(2, batchsize=8, **QUIET)
    _, outputs = ms.trackneurons(text, temp=1.0, ret_output=True)
    following = ms.chars.encode(text)[1:].astype(int)
    nats = -np.log(outputs[np.arange(len(following)), following])
    found = ms.evaluate()
    assert found.characters == 20_000
    assert found.nats < 2.9, "it has learned something"
    assert found.nats == pytest.approx(nats[19_999:].mean(), abs=1e-3)
    everything = ms.evaluate(text)
    assert everything.characters == len(text) - 1
    assert everything.nats == pytest.approx(nats.mean(), abs=1e-3)


def test_without_a_validation_text_there_is_nothing_to_evaluate(newmodel, verse):
    """It says why, and what to do."""
    ms = newmodel(verse, trainfrac=1.0)
    with pytest.raises(InputError, match="trainfrac=1.0"):
        ms.evaluate()
    assert ms.evaluate(verse).characters == len(verse) - 1


@pytest.mark.parametrize("text", ["", "a"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_text_too_short_to_look_at(trained, text, wide):
    """Nothing is predicted in one character; nothing at all is read in none."""
    if wide or not text:
        with pytest.raises(InputError, match="text|character"):
            trained.evaluate(text) if wide else trained.trackneurons(text)
    else:
        assert trained.trackneurons(text).shape == (2, 8, 1)


# ---- Bad input gets a clear error and nothing is lost ----

TEXTS = {
    "missing": (None, "no such file"),
    "empty": (b"", "empty"),
    "one character": (b"x", "one|short|two"),
    "two characters": (b"xy", "2"),
    "not UTF-8": (b"caf\xe9 au lait\n" * 9, r"offset 3\b.*encoding="),
    "binary": (bytes(range(256)) * 9, "byte"),
    "UTF-16": ("so it goes".encode("utf-16"), "utf-16"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_file_that_cannot_be_read_as_text(tmp_path, kind):
    """The error names the file, what is wrong and what would help; no directory is left behind."""
    data, words = TEXTS[kind]
    path = tmp_path / "book.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(TextError, match=f"(?s){words}") as caught:
        ModelState.initfromsrcfile(path, tmp_path / "work", report="silent")
    assert "book.txt" in str(caught.value)
    with pytest.raises(NoModelError):
        ModelState.load(tmp_path / "work")


def test_other_encodings_and_ends_of_lines(tmp_path):
    """cp1252 when asked for; a byte order mark dropped; CR LF kept as text."""
    path = tmp_path / "book.txt"
    path.write_bytes(b"caf\xe9 au lait\r\n" * 9)
    ms = ModelState.initfromsrcfile(path, tmp_path / "1", encoding="cp1252", report="silent")
    assert "é" in ms.chars.chars
    assert "\r" in ms.chars.chars
    path.write_bytes(b"\xef\xbb\xbf" + b"so it goes\r\n" * 9)
    ms = ModelState.initfromsrcfile(path, tmp_path / "2", report="silent")
    assert ms.chars.chars == "\ufffd" + "".join(sorted(set("so it goes\r\n")))
    assert "position 0" in repr(ms)
    assert "108 characters" in repr(ms)


WRONG = {
    "modeltype": ("GRUEncod", "'GRUEncode'.*'GRUResize'"),
    "state_sise": (8, "'state_size'"),
    "backend": ("cpuu", "'cpu'.*'scan'"),
    "gate": ("sigmoyd", "'sigmoid'"),
    "encoding": ("utf8000", "encoding"),
    "report": ("loud", "'rich'"),
    "state_size": (0, "state_size=0"),
    "layers": (-1, "layers=-1"),
    "seq_len": (0, "seq_len=0"),
    "trainfrac": (1.5, "trainfrac=1.5"),
    "learnrate": (math.nan, "learnrate=nan"),
    "decay": ("much", "decay='much'"),
    "regcost": (-0.1, "regcost=-0.1"),
    "vocab_size": (10, "vocab_size"),
    "rng": ("dice", "rng='dice'"),
}
MORE = [("trainfrac", 0), ("trainfrac", "most"), ("trainfrac", math.nan), ("state_size", 8.5)]
MORE += [("state_size", "8"), ("layers", True), ("seq_len", 2.5), ("rng", -1)]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [*((n, *case) for n, case in WRONG.items()), *((n, v, n) for n, v in MORE)],
)
def test_a_wrong_argument_costs_nothing(trained, verse, name, value, words):
    """Even with ``overwrite=True``, what the directory holds is there until it can be replaced."""
    before = bits(trained)
    with pytest.raises(InputError, match=f"(?s){words}") as caught:
        ModelState.initfromsrcfile(
            Texts([verse]),
            trained.workdir,
            **({"overwrite": True, "report": "silent"} | {name: value}),
        )
    assert "pytensor" not in "".join(traceback.format_exception(caught.value))
    again = ModelState.load(trained.workdir)
    assert bits(again) == before
    again.trainmodel(batchsize=2, train_len=1, **QUIET)


@pytest.mark.parametrize("kind", TEXTS)
def test_a_wrong_text_costs_nothing(trained, tmp_path, kind):
    """The old text is what the old model goes on with."""
    data, _ = TEXTS[kind]
    path = tmp_path / "book.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(TextError):
        ModelState.initfromsrcfile(path, trained.workdir, overwrite=True, report="silent")
    ModelState.load(trained.workdir).trainmodel(batchsize=2, train_len=1, **QUIET)


@pytest.mark.parametrize("wrong, right", [("seqlen", "seq_len"), ("modeltyp", "modeltype")])
def test_a_mistyped_argument_is_recognised(tmp_path, verse, wrong, right):
    """To whoever types it, ``seq_len`` is as much a number of the model as ``state_size``."""
    with pytest.raises(InputError, match=f"Did you mean '{right}'"):
        ModelState.initfromsrcfile(Texts([verse]), tmp_path / "work", **{wrong: 8})


def test_a_directory_with_a_model_is_refused(trained, verse):
    """By name, with the way to load it; only ``overwrite=True`` throws it away."""
    before = bits(trained)
    with pytest.raises(WorkdirError, match="overwrite=True") as caught:
        ModelState.initfromsrcfile(Texts([verse]), trained.workdir, report="silent")
    assert str(trained.workdir) in str(caught.value)
    assert bits(ModelState.load(trained.workdir)) == before
    ms = ModelState.initfromsrcfile(
        Texts([verse]), trained.workdir, overwrite=True, state_size=4, report="silent"
    )
    assert [each.step for each in ms.checkpoints()] == [0]
    assert ModelState.load(trained.workdir).hyper.state_size == 4
    assert not (trained.workdir / "history.jsonl").exists()


def test_a_directory_that_cannot_be_one(tmp_path, verse):
    """A file in the way: the error names it."""
    (tmp_path / "file").write_text("mine")
    for usedir in (tmp_path / "file", tmp_path / "file" / "work"):
        with pytest.raises(WorkdirError, match="file"):
            ModelState.initfromsrcfile(Texts([verse]), usedir, report="silent")
        with pytest.raises(NoModelError, match="file"):
            ModelState.load(usedir)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_may_not_be_written(tmp_path, verse):
    """The error names it."""
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(WorkdirError, match="work"):
            ModelState.initfromsrcfile(Texts([verse]), tmp_path / "work", report="silent")
    finally:
        tmp_path.chmod(0o700)


def test_a_checkpoint_that_cannot_be_written_costs_nothing(trained, monkeypatch):
    """Something in the way of the next checkpoint: the model goes on, and can be saved later."""
    before = trained.parameters()
    folder = trained.workdir / "checkpoints"
    folder.rename(trained.workdir / "aside")
    folder.write_text("in the way")
    with pytest.raises(RngruError, match="checkpoints"):
        trained.trainmodel(batchsize=2, train_len=2, **QUIET)
    assert trained.position == 400
    assert any((trained.parameters()[name] != before[name]).any() for name in before)
    folder.unlink()
    (trained.workdir / "aside").rename(folder)
    trained.newcheckpoint()
    assert bits(ModelState.load(trained.workdir)) == bits(trained)


def test_a_directory_without_a_model(tmp_path, verse):
    """Missing, empty, or something else altogether."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "checkpoints").mkdir(parents=True)
    for name in ("missing", "empty", "other"):
        with pytest.raises(NoModelError, match=name):
            ModelState.load(tmp_path / name)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("inside", ["checkpoints", "checkpoints/0", "data"])
def test_a_folder_of_a_model_is_not_the_model(trained, inside):
    """``load('work/checkpoints')`` asked for a directory with 'checkpoints' in it, and named none."""
    with pytest.raises(NoModelError, match=re.escape(f"The model is in {str(trained.workdir)!r}.")):
        ModelState.load(trained.workdir / inside)


def test_a_home_that_nobody_has():
    """Two full stops, one of them Python's."""
    with pytest.raises(InputError, match=r"determine home directory\.$"):
        ModelState.load("~nobody-of-this-name/work")


def test_a_home_directory_may_be_abbreviated(tmp_path, verse, monkeypatch):
    """A folder that is called ``~`` is what nobody wants, and a dangerous thing to remove."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    ModelState.initfromsrcfile(Texts([verse]), "~/work", state_size=4, report="silent")
    assert not list(here.iterdir())
    assert ModelState.load("~/work").hyper.state_size == 4


def test_a_new_model_that_cannot_be_made_costs_nothing(trained, verse, monkeypatch):
    """Memory or disk may be too small for it; that shows only when the text has been read."""
    before = bits(trained)

    def toolarge(*_):
        raise MemoryError

    monkeypatch.setattr(type(rngru.GRUEncode), "initial", toolarge)
    with pytest.raises((RngruError, MemoryError)):
        ModelState.initfromsrcfile(
            Texts(["so it goes\n" * 30]), trained.workdir, overwrite=True, report="silent"
        )
    again = ModelState.load(trained.workdir)
    assert bits(again) == before
    again.trainmodel(batchsize=2, train_len=1, **QUIET)


def test_every_error_is_of_one_tree(trained, tmp_path):
    """One ``except`` at the prompt, or in a script, is enough."""
    for wrong in (
        lambda: ModelState.load(tmp_path / "nothing"),
        lambda: ModelState.initfromsrcfile(tmp_path / "nothing", tmp_path / "work"),
        lambda: trained.generatestring(temp=-1),
        lambda: trained.restore(99),
        lambda: trained.restore("bset"),
        lambda: trained.restore(tmp_path / "nothing"),
        lambda: HyperParams(66, layers=0),
    ):
        with pytest.raises(RngruError) as caught:
            wrong()
        assert len(str(caught.value)) > 20
        assert "pytensor" not in "".join(traceback.format_exception(caught.value))


def test_a_checkpoint_of_another_model_is_refused(trained, newmodel):
    """Its characters mean something else here."""
    other = newmodel("so it goes, " * 30)
    before = bits(trained)
    with pytest.raises(RngruError, match="another"):
        trained.restore(checkpoint.listing(other.workdir / "checkpoints")[0])
    assert bits(trained) == before


# ---- Reading in both directions ----

BOTH = ["BiGRU", "BiLSTM", "BiRNN"]


@pytest.mark.parametrize("backend", ["cpu", "scan"])
@pytest.mark.parametrize("modeltype", BOTH)
def test_a_prediction_follows_everything_but_its_own_character(newmodel, verse, modeltype, backend):
    """The models of 2016 that read both ways saw what they had to predict."""
    ms = newmodel(verse, modeltype=modeltype, backend=backend, layers=1)
    text = verse[:20]
    _, outputs = ms.trackneurons(text, temp=1.0, ret_output=True)
    for place in (0, 1, 9, 18, 19):
        other = text[:place] + "q" + text[place + 1 :]
        _, changed = ms.trackneurons(other, temp=1.0, ret_output=True)
        same = (changed == outputs).all(1)
        assert same.tolist() == [i == place for i in range(20)]


@pytest.mark.parametrize("modeltype", BOTH)
def test_the_probabilities_that_it_is_scored_on_add_up_to_one(newmodel, verse, modeltype):
    """Those of all characters at one place, each scored in a text of its own: a model that peeps at
    the answer finds every answer likely.
    """
    ms = newmodel(verse, modeltype=modeltype)
    symbols, computes = ms.chars.vocab_size, backend("cpu", MODELS[modeltype], ms.hyper)
    arrays = {name: 4 * array for name, array in ms.parameters().items()}
    ids = np.tile(ms.chars.encode(verse[:12]).astype(np.int32)[:, np.newaxis], symbols)
    for place in (1, 5, 11):
        lanes = ids.copy()
        lanes[place] = np.arange(symbols)
        losses, _ = computes.losses(arrays, lanes[:-1], lanes[1:], computes.freshstate(symbols))
        assert np.exp(-losses[place - 1]).sum() == pytest.approx(1, abs=1e-4)


def test_its_loss_is_called_a_cloze_loss(newmodel, verse):
    """It is lower by nature, and would win every comparison with a model that reads forwards."""
    both, forwards = newmodel(verse, modeltype="BiRNN").evaluate(), newmodel(verse).evaluate()
    assert repr(both).startswith("cloze loss: ") and both.cloze
    assert "cloze" not in repr(forwards) and not forwards.cloze


def test_gaps_are_filled_together(newmodel):
    """Each with what is likeliest given the others: alone, a gap of two may begin one word and end
    another.
    """
    words = ["rabt"] * 4 + ["rcdt", "redt", "rgdt"] * 2
    text = " ".join(random.Random(1).choices(words, k=400)) + " "
    ms = newmodel(text, modeltype="BiGRU", layers=1, state_size=16, learnrate=0.02)
    ms.trainmodel(batchsize=4, train_len=60, **QUIET)
    _, outputs = ms.trackneurons("rabt r\ufffd\ufffdt redt", temp=1.0, ret_output=True)
    alone = "".join(ms.chars.charatidx(i + 1) for i in outputs[6:8, 1:].argmax(1))
    assert f"r{alone}t" not in words, "the test would notice"
    filled = ms.fillin("rabt r__t redt", choices=3)
    assert str(filled) == repr(filled) == filled.text
    assert filled.text in {f"rabt {word} redt" for word in words}
    assert [place for place, _ in filled.gaps] == [6, 7]
    _, outputs = ms.trackneurons(filled.text, temp=1.0, ret_output=True)
    outputs[:, ms.chars.unknown_idx] = 0
    outputs /= outputs.sum(1, keepdims=True)
    for place, alternatives in filled.gaps:
        best = outputs[place].argsort()[::-1][:3]
        assert [symbol for symbol, _ in alternatives] == [ms.chars.charatidx(i) for i in best]
        np.testing.assert_allclose([p for _, p in alternatives], outputs[place][best], rtol=1e-4)
        assert alternatives[0][0] == filled.text[place]


def test_what_fills_gaps_and_what_writes(newmodel, verse):
    """Each says why it cannot do the other's work, and what can."""
    both, forwards = newmodel(verse, modeltype="BiGRU"), newmodel(verse)
    with pytest.raises(InputError, match=r"both sides.*ms\.fillin\("):
        both.generatestring()
    with pytest.raises(InputError, match="forwards only.*'BiGRU', 'BiLSTM' or 'BiRNN'"):
        forwards.fillin("The sh_p")
    with pytest.raises(InputError, match="no '_' in the text.*blank="):
        both.fillin("The ship")
    with pytest.raises(InputError, match=r"no '\?' in the text"):
        both.fillin("The sh_p", blank="?")
    for wrong in ({"text": 5}, {"text": "The sh_p", "choices": 0}):
        with pytest.raises(InputError, match="text|choices=0"):
            both.fillin(**wrong)
    with pytest.warns(UserWarning, match="never seen 'Ω'"):
        assert both.fillin("Ωh_").text[:2] == "\ufffdh"


def test_gaps_between_words(newmodel, verse, capsys):
    """No two words may become one around a gap, neither here nor in the samples while it trains."""
    ms = newmodel(verse, modeltype="BiRNN", level="word")
    ms.trainmodel(batchsize=2, train_len=2, print_every=1, report="plain")
    assert capsys.readouterr().out.count("--- epoch") == 2
    filled = ms.fillin("The _ drove fast, _ loud")
    assert filled.text.startswith("The ") and " drove fast, " in filled.text
    assert [place for place, _ in filled.gaps] == [2, 9]


# ---- Levels ----


@pytest.mark.parametrize("level", ["char", "word", "byte"])
def test_a_model_of_any_level_comes_back(newmodel, verse, level):
    """What is counted is called by its name, and what is drawn is so many of that."""
    ms = newmodel(verse + "“naïve”", level=level, learnrate=0.01)
    ms.trainmodel(batchsize=2, train_len=3, **QUIET)
    units = {"char": "characters", "word": "words", "byte": "bytes"}[level]
    assert f" {units} of a text" in repr(ms)
    assert f"nats per {units[:-1]}" in repr(ms.evaluate("The ship drove fast, naïve"))
    again = ModelState.load(ms.workdir)
    assert again.chars == ms.chars
    sample = again.generatestring(30, temp=1.0, seed="The ", rng=3)
    assert sample.text == ms.generatestring(30, temp=1.0, seed="The ", rng=3).text
    # 30 symbols, whatever one is; at random, few words are of one letter.
    assert len(sample.text) > 60 if level == "word" else len(sample.text) <= 30


def test_any_file_is_read_as_bytes(tmp_path):
    """What the error about a binary file suggests has to work."""
    data = b"\x7fELF" + bytes(range(256)) * 4 + bytes(100)
    path = tmp_path / "program"
    path.write_bytes(data)
    with pytest.raises(TextError, match="program: .*level='byte' reads any file"):
        ModelState.initfromsrcfile(path, tmp_path / "work", report="silent")
    ms = ModelState.initfromsrcfile(
        path, tmp_path / "work", level="byte", state_size=4, report="silent"
    )
    [ids] = (ms.workdir / "data").glob("ids-*.bin")
    assert ids.read_bytes() == data
    assert np.isfinite(ms.trainmodel(train_len=2, **QUIET).losses).all()


@pytest.mark.parametrize(
    "limit", [{"min_count": 20}, {"max_vocab": 12}, {"level": "word", "max_vocab": 12}], ids=str
)
def test_what_is_too_rare_is_reported(verse, tmp_path, capsys, limit):
    """How many, how often, and which; a vocabulary that shrinks in silence is a riddle later."""
    symbols = Counter(
        re.findall(r"\w+(?:[’'\-]\w+)*|[^\w\s]|\s+", verse) if "level" in limit else verse
    )
    kept = [s for s, n in symbols.items() if n >= limit.get("min_count", 1)]
    kept = sorted(kept, key=lambda s: (-symbols[s], s))[: limit.get("max_vocab", 10**6) - 1]
    ms = ModelState.initfromsrcfile(Texts([verse]), tmp_path / "work", **limit, state_size=4)
    rare = symbols.keys() - set(kept)
    often = sum(symbols[s] for s in rare)
    said = capsys.readouterr().out
    assert ms.hyper.vocab_size == len(kept) + 1
    assert f"{len(rare):,} rare {ms.chars.units} ({often:,} occurrences) are left out" in said
    assert repr(max(rare, key=lambda s: (symbols[s], s.swapcase()))) in said


# ---- More that a person may get wrong ----


def test_a_huge_vocabulary_is_worth_a_warning(newmodel):
    """With what it costs: the weights of each symbol, what the optimizer remembers of them, their
    gradients and what is new of both; and the outputs of a batch.
    """
    text = "".join(map(chr, (*range(0x3400, 0x9FFF), *range(0x20000, 0x25800))))
    with pytest.warns(UserWarning, match="different characters") as caught:
        ms = newmodel(text, state_size=64, layers=1, trainfrac=0.999, optimizer="adam")
    [warning] = caught
    assert warning.filename.endswith("conftest.py"), "it points at the call"
    size, lane = (float(each) for each in re.findall(r"([\d.]+) GB", str(warning.message)))
    symbols = len(text) + 1
    assert f"{symbols:,} different characters" in str(warning.message)
    weights = [each.nbytes for each in ms.parameters().values() if symbols in each.shape]
    assert size == pytest.approx(7 * sum(weights) / 1e9, abs=0.06)
    assert lane == pytest.approx(2 * 4 * 20 * symbols / 1e9, abs=0.006)
    for word in ("min_count=", "max_vocab=", "level='byte'"):
        assert word in str(warning.message)


@pytest.mark.parametrize(
    ("name", "wrong", "right", "choices"),
    [
        ("modeltype", "LSTMEncod", "LSTMEncode", MODELS),
        ("modeltype", "BiLstm", "BiLSTM", MODELS),
        ("level", "words", "word", LEVELS),
        ("backend", "cpuu", "cpu", ["cpu", "scan"]),
        ("optimizer", "adm", "adam", OPTIMIZERS),
        ("optimizer", "SGD", "sgd", OPTIMIZERS),
        ("schedule", "cosinus", "cosine", SCHEDULES),
        ("gate", "hardsigmoid", "hard_sigmoid", GATES),
    ],
)
def test_unknown_names_list_the_choices_and_the_nearest(
    newmodel, verse, name, wrong, right, choices
):
    """A list of nine is read faster with a finger on one of them."""
    with pytest.raises(InputError, match=f"{name}='{wrong}'.*Did you mean '{right}'") as caught:
        newmodel(verse, **{name: wrong})
    assert all(repr(choice) in str(caught.value) for choice in choices)


@pytest.mark.parametrize(
    ("modeltype", "why", "instead"),
    [
        ("GRUResize", "no encoder", "GRUEncode"),
        ("RNNResize", "no encoder", "RNNEncode"),
        ("BiLSTM", "twice as wide", "Leave it out"),
    ],
)
def test_weights_that_cannot_be_shared(newmodel, verse, modeltype, why, instead):
    """Why, and what to do; where they can be, the output has none of its own."""
    with pytest.raises(InputError, match=f"tied=True.*{modeltype}.*{why}.*{instead}"):
        newmodel(verse, modeltype=modeltype, tied=True)
    assert "V" not in newmodel(verse, tied=True, modeltype="LSTMEncode").parameters()


def test_files_held_out_that_do_not_exist_cost_nothing(trained, verse, tmp_path):
    """It says which pattern matched nothing; the old model is there until a new one can be made."""
    before = bits(trained)
    (tmp_path / "book.txt").write_text(verse)
    for wrong, words in (
        ("*.md", "no file matches"),
        ("none.txt", "no such file"),
        ([], "no files"),
    ):
        held = str(tmp_path / wrong) if wrong else wrong
        with pytest.raises(TextError, match=f"validfiles: .*{words}"):
            ModelState.initfromsrcfile(
                tmp_path / "book.txt",
                trained.workdir,
                validfiles=held,
                overwrite=True,
                report="silent",
            )
    assert bits(ModelState.load(trained.workdir)) == before


# ---- The best, and the end ----


def validated(monkeypatch, *losses):
    """Let validation say these losses, one after the other."""
    said = iter(losses)

    def validate(*_):
        yield 10
        return Evaluation(next(said), 10, 1.0)

    monkeypatch.setattr(state, "validate", validate)


def test_patience_ends_where_nothing_gets_better(newmodel, verse, monkeypatch):
    """Rounds in a row: one that is better gives all of it back; one that is as good does not."""
    ms = newmodel(verse)
    validated(monkeypatch, 3.0, 3.1, 2.9, 2.9, 3.0, 1.0)
    history = ms.trainmodel(6, batchsize=2, train_len=1, patience=2, **QUIET)
    assert history.validloss.tolist() == [3.0, 3.1, 2.9, 2.9, 3.0]
    assert history.reason == "patience"
    assert "no longer falls" in repr(history)


def test_the_best_is_marked_kept_and_restored(newmodel, verse, monkeypatch):
    """However old it is; it is what one wants of a run that has learned its text by heart."""
    ms, straight = newmodel(verse, learnrate=0.01), newmodel(verse, learnrate=0.01)
    validated(monkeypatch, *[3.0, 1.0, 2.0, 2.5, 2.25], *[3.0, 1.0])
    ms.trainmodel(5, batchsize=2, train_len=2, keep=2, **QUIET)
    assert [each.step for each in ms.checkpoints()] == [4, 8, 10]
    head, *rows = repr(ms.checkpoints()).splitlines()
    assert [row.endswith("best") for row in rows] == [True, False, False]
    straight.trainmodel(2, batchsize=2, train_len=2, **QUIET)
    assert bits(ModelState.load(ms.workdir).restore("best")) == bits(straight)
    for wrong in ({"patience": -1}, {"keep": -1}, {"keep": 1.5}, {"save_every": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ms.trainmodel(**wrong, **QUIET)


# ---- Where one was yesterday ----


def test_a_restored_model_is_the_one_that_is_loaded(newmodel, verse):
    """The best was chosen in the evening, and in the morning the worst is back."""
    ms = newmodel(verse)
    ms.trainmodel(3, batchsize=2, train_len=2, **QUIET)
    ms.restore(4)
    assert bits(ModelState.load(ms.workdir)) == bits(ms)
    assert ModelState.load(ms.workdir).history()[-1].checkpoint == "4"
    other = ModelState.load(ms.workdir)
    other.restore()
    assert ModelState.load(ms.workdir).position == other.position > ms.position, "the newest"
    ms.restore(4)
    ms.trainmodel(1, **QUIET)
    assert ModelState.load(ms.workdir).position == ms.position, "something newer was saved"
    assert not (ms.workdir / "restored.json").exists()


def test_a_bookmark_that_does_not_hold_is_not_followed(newmodel, verse):
    """A crash at load; or a model of last year, for a file says so."""
    ms = newmodel(verse)
    ms.trainmodel(2, batchsize=2, train_len=2, **QUIET)
    newest, path = bits(ms), ms.workdir / "restored.json"
    ms.restore(2)
    good = path.read_text()
    assert bits(ModelState.load(ms.workdir)) == bits(ms)
    for wrong in (
        "", "{", "[]", "null", '{"restored": true}', "\0" * 99, good.replace('"step": 2', '"step": 3'),
        good.replace('"newest": 4', '"newest": 5'), good.replace('"step": 2', '"step": "2"'),
        good.replace('"model": "', '"model": "0'), good.replace('"format": 1', '"format": 2'),
    ):  # fmt: skip
        path.write_text(wrong)
        assert bits(ModelState.load(ms.workdir)) == newest, wrong
    path.write_text(good)
    (ms.workdir / "checkpoints/2/arrays.npz").write_bytes(b"spoilt")
    with pytest.warns(UserWarning, match="The newest checkpoint is used instead"):
        assert bits(ModelState.load(ms.workdir)) == newest


def test_keep_best_ends_at_the_best(newmodel, verse, monkeypatch):
    """After a night of learning by heart the model is the worst of all that were saved."""
    ms = newmodel(verse)
    validated(monkeypatch, 3.0, 1.0, 2.0, 2.5, 0.5)
    history = ms.trainmodel(4, batchsize=2, train_len=2, keep_best=True, **QUIET)
    assert len(history) == 4 and ms.position == history[1].position
    assert repr(history).endswith("Back to the lowest validation loss, 1.0000, of round 2.")
    assert ModelState.load(ms.workdir).position == ms.position
    assert ms.history()[-1].validloss == 1.0
    ms.trainmodel(1, **QUIET)
    assert ms.position == history[1].position + 80, "it trains on from there"


def test_the_table_says_where_the_best_is(newmodel, verse, monkeypatch):
    """The model stays at its worst, and nothing says how to go back."""
    ms = newmodel(verse)
    validated(monkeypatch, 3.0, 1.0, 2.0, 2.5)
    history = ms.trainmodel(3, batchsize=2, train_len=2, **QUIET)
    told = (
        "The lowest validation loss was 1.0000, of {}; the model is now at {}. ms.restore('best')"
    )
    assert told.format("round 2", "2.0000") in " ".join(repr(history).split())
    again = " ".join(repr(ms.trainmodel(1, **QUIET)).split())
    assert told.format("an earlier call", "2.5000") in again
    ms.restore("best")
    assert "lowest" not in repr(ms.history())


def test_what_a_call_was_told_holds_for_the_next(newmodel, verse):
    """batchsize=32 typed every morning, and a run of 16 lanes the morning one forgets it."""
    ms = newmodel(verse, report=None)
    ms.trainmodel(2, batchsize=3, train_len=2, patience=50, keep=2, print_every=0, report="silent")
    ms = ModelState.load(ms.workdir)
    history = ms.trainmodel(learnrate=0.01, report="silent")
    assert (len(history), len(history.losses), ms._model.progress.state.shape[1]) == (1, 2, 3)
    assert [each.step for each in ms.checkpoints()] == [4, 6]
    assert ms.traintime(batches=1).batchsize == 3
    ms.trainmodel(1, train_len=1, keep=0, report="silent")
    assert [each.step for each in ms.checkpoints()] == [4, 6, 7]
    with pytest.raises(InputError, match="memory"):
        ms.trainmodel(batchsize=10**7, report="silent")
    assert ms.traintime(batches=1).batchsize == 3, "what was refused is not remembered"


def test_how_a_model_reports_is_said_once(newmodel, verse, capsys):
    """report='silent' in each call of a script."""
    ms = newmodel(verse, report="silent")
    ms.trainmodel(1, batchsize=2, train_len=2)
    assert capsys.readouterr().out == ""
    ms.trainmodel(1, report="plain")
    assert "round 1" in capsys.readouterr().out


def test_a_script_that_runs_twice_loads_the_second_time(newmodel, verse, tmp_path):
    """A night of training thrown away, or a script that works once only."""
    source, work = tmp_path / "verse.txt", tmp_path / "work"
    source.write_text(verse)
    options = {"state_size": 8, "seq_len": 20, "rng": 1, "report": "silent", "exist": "load"}
    for round_ in 1, 2:
        ms = ModelState.initfromsrcfile(source, work, **options)
        ms.trainmodel(1, batchsize=2, train_len=3)
        assert ms.position == round_ * 120
    with pytest.warns(UserWarning, match=r"state_size=8 \(not 9\)"):
        ModelState.initfromsrcfile(source, work, **options | {"state_size": 9})
    with pytest.warns(UserWarning, match=r"trainfrac=0\.9 \(not 0\.5\)"):
        ModelState.initfromsrcfile(source, work, **options, trainfrac=0.5)
    (other := tmp_path / "other.txt").write_text(verse[::-1])
    with pytest.warns(UserWarning, match=r"the text .*verse\.txt \(not the one given\)"):
        ModelState.initfromsrcfile(other, work, **options)
    with pytest.warns(UserWarning, match="no such file.* not known whether the model"):
        ModelState.initfromsrcfile(tmp_path / "gone.txt", work, **options)
    assert not ModelState.initfromsrcfile(source, work, **options, overwrite=True).position
    with pytest.raises(WorkdirError, match="holds a model already"):
        ModelState.initfromsrcfile(source, work, **options | {"exist": "refuse"})
    with pytest.raises(InputError, match="exist='lod'.*Did you mean 'load'"):
        ModelState.initfromsrcfile(source, work, **options | {"exist": "lod"})


@pytest.mark.parametrize(
    ("call", "meant"),
    [
        (lambda ms: ms.trainmodel(epochs=3), "num_rounds"),
        (lambda ms: ms.trainmodel(batch_size=3), "batchsize"),
        (lambda ms: ms.trainmodel(lr=3), "learnrate"),
        (lambda ms: ms.generatestring(temperature=1.0), "temp"),
        (lambda ms: ms.generatestring(prompt="a"), "seed"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", hidden_size=3), "state_size"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", lr=3), "learnrate"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", num_layers=3), "layers"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", epochs=3), "num_rounds"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", modeltype="GRU"), "GRUEncode"),
        (lambda ms: ModelState.initfromsrcfile("x", "y", modeltype="lstm"), "LSTMEncode"),
    ],
)
def test_what_people_type_is_understood(newmodel, verse, call, meant):
    """'GRU' took one to BiGRU, which cannot generate; epochs= to a bare TypeError."""
    with pytest.raises(InputError, match=f"Did you mean '{meant}'"):
        call(newmodel(verse))


def test_a_graphics_card_is_not_a_processor():
    """'gpu': did you mean 'cpu'?"""
    with pytest.raises(InputError) as told:
        ModelState.initfromsrcfile("x", "y", backend="gpu")
    assert "Did you mean" not in str(told.value)


def test_help_shows_the_arguments_of_verbs_that_name_the_nearest():
    """(*values, **named) at the prompt."""
    for name, verb in inspect.getmembers(ModelState, inspect.isfunction):
        if not name.startswith("_"):
            assert "values" not in inspect.signature(verb).parameters, name


def test_a_text_far_too_short_is_said(newmodel, capsys):
    """Five characters for 198,789 parameters pass in silence."""
    newmodel("abcab" * 20, state_size=64, report="plain")
    assert re.search(
        r"90 characters to train on are few for [\d,]+ parameters", capsys.readouterr().out
    )
    newmodel("abcab" * 2000, state_size=8, report="plain")
    assert "are few" not in capsys.readouterr().out


def test_help_fits_80_columns_and_shows_public_types():
    """A page whose words are cut in two, and types of modules that nobody has heard of."""
    page = pydoc.plain(pydoc.render_doc(ModelState)).splitlines()
    assert [line for line in page if len(line) > 80] == []
    assert not [line for line in page if re.search(r"\w\._\w|rngru\.\w+\.\w+\.\w", line)]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("train", "trainmodel"),
        ("sample", "generatestring"),
        ("save", "newcheckpoint"),
        ("loss", "evaluate"),
    ],
)
def test_a_verb_of_another_library_is_understood(newmodel, verse, name, meant):
    """'ModelState' object has no attribute 'train'. Did you mean: '_train'?"""
    ms = newmodel(verse)
    with pytest.raises(AttributeError, match=f"has no '{name}'. Did you mean {meant}"):
        getattr(ms, name)
    assert not hasattr(ms, "colour")
    with pytest.raises(InputError, match=r"ModelState\.load\('work'\) loads"):
        ModelState("work")


def test_the_history_of_several_calls_has_the_speed_of_each(newmodel, verse):
    """A call that trained longer than the one before was taken for its second round."""
    ms = newmodel(verse)
    first = ms.trainmodel(1, batchsize=2, train_len=2, **QUIET)
    second = ms.trainmodel(1, batchsize=2, train_len=40, **QUIET)
    speeds = [row[7] for history in (first, second) for row in history.table().rows]
    assert [row[7] for row in ms.history().table().rows] == speeds


def test_going_back_does_not_forget_what_was_told(newmodel, verse):
    """restore('best') takes batchsize back to that of last week."""
    ms = newmodel(verse)
    ms.trainmodel(1, batchsize=2, train_len=2, **QUIET)
    ms.trainmodel(1, batchsize=3, train_len=4, **QUIET)
    ms.restore(2)
    assert ms.traintime(batches=1).batchsize == 3
    ms.trainmodel(1, keep_best=True, **QUIET)
    assert ms.traintime(batches=1).batchsize == 3
