"""Cells of one's own: a model of one is a model like any other, where its cell is registered.

Run as a script, this file is another process: it loads a working directory, with the cell registered
or without, trains, and says what became of it.
"""

import json
import sys
from hashlib import sha256

import numpy as np
import pytensor.tensor as pt
import pytest

from rngru import ModelState, cells, export
from rngru.backends import backend, freshcaches
from rngru.errors import InputError, RngruError
from rngru.hyper import HyperParams
from rngru.models import MODELS
from rngru.sampling import Sampling
from tests.robust import QUIET, program

LIKE = {
    "RNN": (cells.rnn, {"gates": ("c",)}),
    "GRU": (cells.gru, {"gates": ("z", "r", "c")}),
    "LSTM": (cells.lstm, {"gates": ("i", "f", "o", "c"), "state": 2, "initial": {"f": 1}}),
    "MinGRU": (cells.min_gru, {"gates": ("z", "c"), "recurrent": False}),
}
"""Cells that are there already, as anybody would register them."""


def mine(pre, state, gate, recurrent):
    """The minimal gated unit (Zhou et al., arXiv 1603.09420)."""
    size = state.shape[1]
    f = gate(pre[:, :size] + state @ recurrent[:, :size])
    c = pt.tanh(pre[:, size:] + (f * state) @ recurrent[:, size:])
    return (1 - f) * state + f * c


def registermine():
    cells.register("Mine", mine, gates=("f", "c"), initial={"f": -1.0})


@pytest.mark.parametrize("cell", LIKE)
def test_a_registered_copy_computes_what_its_model_does(registered, cell):
    """To the bit: initial parameters, three steps of training, states, losses and text."""
    step, options = LIKE[cell]
    cells.register(f"My{cell}", step, **options)
    found, ids = [], np.random.default_rng(2).integers(0, 7, (6, 3)).astype(np.int32)
    for name in (f"{cell}Encode", f"My{cell}Encode"):
        hyper = HyperParams(7, 5, gate="hard_sigmoid", bptt_truncate=4, learnrate=0.01)
        model = MODELS[name]
        compute = backend("scan", model, hyper)
        arrays = model.initial(hyper, np.random.default_rng(1))
        caches, state = freshcaches(arrays, hyper), compute.freshstate(3)
        for number in (1, 2, 3):
            taken = compute.step(arrays, caches, ids[:-1], ids[1:], state, 0.01, number=number)
            arrays, caches, state = taken.arrays, taken.caches, taken.state
        text = compute.generate(arrays, ids[0], state, np.full((9, 3), 0.5), Sampling(1.0))
        results = [*arrays.values(), state, *compute.trace(arrays, ids, state), *text]
        found.append((list(arrays), results))
    (names, one), (others, other) = found
    assert names == others
    assert all(map(np.array_equal, one, other))


@pytest.mark.parametrize("name", ["cpu", "scan"])
def test_it_trains_and_writes_and_is_looked_into_on_both_backends(
    registered, newmodel, verse, name, capsys
):
    """Each verb at the prompt has a way of its own to the arrays."""
    registermine()
    ms = newmodel(verse, modeltype="MineResize", backend=name, report="plain")
    assert ("no kernels" in "".join(capsys.readouterr())) == (name == "cpu"), "said once, when made"
    before = ms.evaluate().nats
    ms.trainmodel(train_len=20, batchsize=4, **QUIET)
    assert ms.evaluate().nats < before
    assert ms.parameters()["layers.0.b"].shape == (16,)
    assert len(ms.generatestring(30, rng=1)) >= 30
    states = ms.trackneurons("the ship")
    assert states.shape == (2, 8, 8)
    again = ModelState.load(ms.workdir)
    assert str(again.generatestring(30, rng=1)) == str(ms.generatestring(30, rng=1))


def facts(ms):
    losses = ms.trainmodel(train_len=6, batchsize=3, **QUIET).losses.tolist()
    arrays = {name: sha256(each.tobytes()).hexdigest() for name, each in ms.parameters().items()}
    return [losses, arrays, str(ms.generatestring(20, rng=3, temp=1.0))]


def elsewhere(*arguments):
    with program(__file__, *arguments) as other:
        return json.loads(other.communicate()[0])


def test_another_process_goes_on_to_the_bit_or_says_what_to_register(registered, newmodel, verse):
    """A checkpoint holds no code: without the cell it is neither damaged nor too new."""
    registermine()
    straight, first = (newmodel(verse, modeltype="MineEncode", layers=1) for _ in "12")
    for ms in (straight, first):
        ms.trainmodel(train_len=4, batchsize=3, **QUIET)
    where = str(first.workdir)
    packed = str(first.pack(first.workdir.parent / "packed.rngru"))
    for kind, told in elsewhere("without", where, packed):
        assert kind == "CellUnknown"
        assert told == (
            "This model has the cell 'Mine', which is not registered. Call "
            'rngru.cells.register("Mine", …) as when it was made, then load.'
        )
    [(kind, told)] = elsewhere("otherwise", where)
    assert kind == "CellUnknown"
    assert "registered with gates=['f', 'c'], state=1, recurrent=True" in told
    assert elsewhere("with", where) == [facts(straight)]


def test_the_same_again_is_fine_and_another_is_refused(registered):
    """A notebook's cell is run twice; but a model must not change under its parameters."""
    registermine()
    again = {"__name__": "again"}
    lines = compile("def step(p, s, g, r):\n    return s\n", "a cell of a notebook", "exec")
    for name in ("Same", "Same"):
        exec(lines, again)
        cells.register(name, again["step"], gates=("a",))
    registermine()
    assert MODELS["MineEncode"].encode and not MODELS["MineResize"].encode
    for step, options in (
        (cells.rnn, {"gates": ("f", "c")}),
        (mine, {"gates": ("f", "c")}),
        (mine, {"gates": ("f", "d"), "initial": {"f": -1}}),
    ):
        with pytest.raises(InputError, match="another cell 'Mine'"):
            cells.register("Mine", step, **options)
    for name in ("GRU", "GRU_AFTER", "MinLSTM"):
        with pytest.raises(InputError, match=r"another cell|letters and digits"):
            cells.register(name, cells.gru, gates=("z", "r", "c"))


@pytest.mark.parametrize(
    ("name", "step", "options", "told"),
    [
        ("my cell", mine, {}, "letters and digits"),
        ("", mine, {}, "letters and digits"),
        ("A", mine, {"gates": "fc"}, "a different name for each gate"),
        ("A", mine, {"gates": ("f", "f")}, "a different name for each gate"),
        ("A", mine, {"gates": ()}, "a different name for each gate"),
        ("A", mine, {"state": 0}, "at least 1"),
        (
            "A",
            mine,
            {"initial": {"g": 1.0}},
            "initial={'g': 1.0}: expected a finite number for one of",
        ),
        ("A", mine, {"initial": {"f": float("nan")}}, "a finite number"),
        ("A", lambda p, s, g, r: p, {}, "2 S numbers for each lane, expected 1 S"),
        ("A", lambda p, s, g, r: None, {}, "returned NoneType: expected the new state"),
        ("A", lambda p, s, g, r: (s, s), {}, "returned tuple"),
        ("A", lambda p, s, g, r: s.sum(), {}, "a float32 matrix"),
    ],
)
def test_what_is_no_cell_is_said(registered, name, step, options, told):
    """Later, PyTensor would say it in the words of its own graphs."""
    before = set(MODELS)
    with pytest.raises(InputError, match=told):
        cells.register(name, step, **{"gates": ("f", "c")} | options)
    assert set(MODELS) == before and name not in cells.STEPS


def test_what_cannot_be_done_with_it_is_said(registered, newmodel, verse, tmp_path):
    """Nobody else knows its equations, and nobody knows what its gates do."""
    registermine()
    ms = newmodel(verse, modeltype="MineEncode")
    with pytest.raises(InputError, match="a cell of your own"):
        ms.clamped({(0, 1): 0.5})
    for ending in (".py", ".html"):
        with pytest.raises(InputError, match=rf"A {ending} file cannot compute the layers of Mine"):
            ms.export(tmp_path / f"mine{ending}")
    with pytest.raises(InputError, match=r"reset_after=True is a form of the GRU"):
        newmodel(verse, modeltype="MineEncode", reset_after=True)
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    cells.register("Three", cells.gru, gates=("z", "r", "c"))
    path = newmodel(verse, modeltype="ThreeEncode").export(tmp_path / "three.safetensors")
    with pytest.raises(InputError, match="'ThreeEncode', which has a cell"):
        export.weights(path)


def main(how, *paths):
    """Load models where their cell is registered, or not, or otherwise; and train them."""
    if how == "with":
        registermine()
    if how == "otherwise":
        cells.register("Mine", cells.rnn, gates=("c",))
    answers = []
    for path in paths:
        try:
            answers.append(facts(ModelState.load(path)))
        except RngruError as problem:
            answers.append([type(problem).__name__, str(problem)])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
