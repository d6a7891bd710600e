"""Neurons that are held, found and drawn, against plain loops that do the same."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from . import reference

from rngru import HyperParams, ModelState, Texts, models
from rngru.backends import backend
from rngru.errors import InputError
from rngru.reader import Neurons, Reader, Similar
from rngru.reader.inspecting import clamp, track, tracked
from rngru.reader.neurons import follow, propertyof
from rngru.reader.properties import BUILTIN
from rngru.text import CharSet

QUIET = {"report": "silent", "print_every": 0}
TEXT = "the ship drove fast, loud roared the blast, and southward aye we fled"

CELLS = [
    ("GRUEncode", {}),
    ("GRUEncode", {"gate": "hard_sigmoid", "tied": True}),
    ("GRUResize", {"reset_after": True}),
    ("GRUEncode", {"reset_after": True, "gate": "hard_sigmoid"}),
    ("LSTMEncode", {}),
    ("LSTMResize", {"gate": "hard_sigmoid"}),
    ("RNNEncode", {"tied": True}),
    ("RNNResize", {}),
    ("BiGRU", {"reset_after": True}),
    ("BiLSTM", {}),
    ("BiLSTM", {"gate": "hard_sigmoid"}),
    ("BiRNN", {}),
]


def newreader(modeltype, name="cpu", layers=2, size=6, text=TEXT, **options):
    """A model with large weights, so that every neuron matters to the others."""
    vocab, model = CharSet(text), models.named(modeltype)
    hyper = HyperParams(vocab.vocab_size, state_size=size, layers=layers, **options)
    rng = np.random.default_rng(7)
    weights = {
        key: rng.normal(0, 0.7, shape).astype(np.float32)
        for key, shape in model.shapes(hyper).items()
    }
    return Reader(model, hyper, vocab, weights, backend(name, model, hyper))


def overwritten(reader, ids, held, start=None):
    """States (layer, step, neuron) and logits (step, V) of a loop that overwrites neurons.

    In float64. Each neuron of ``held`` gets its value before the first step, unless the model reads in
    both directions, and after every step.
    """
    model, hyper = reader.model, reader.hyper
    p = {k: reference.array(v.astype(np.float64)) for k, v in reader.weights.items()}
    cell, n = model.spec(hyper).cell, hyper.state_size
    gate = reference.hard_sigmoid if hyper.gate == "hard_sigmoid" else reference.sigmoid

    def stack(tower, first, ids, start):
        states = np.zeros((hyper.layers, len(ids), n))
        inputs = None
        for k in range(hyper.layers):
            U, W, b, d = (p.get(f"{tower}.{k}.{letter}") for letter in "UWbd")
            values = {i: v for (layer, i), v in held.items() if layer == first + k}
            s = start[k].copy()
            if not model.both:
                s[0, list(values)] = list(values.values())
            for t, row in enumerate(ids):
                if k:
                    pre = inputs[t] @ U + b
                elif model.encode:
                    pre = reference.tanh(p["E"][[row]] + p["a"]) @ U + b
                else:
                    pre = U[[row]] + b
                s = reference.CELLS[cell](pre, reference.array(s), W, d, gate).value.copy()
                s[0, list(values)] = list(values.values())
                states[k, t] = s[0, :n]
            inputs = [reference.array(each[np.newaxis]) for each in states[k]]
        return states

    zeros = np.zeros((hyper.layers, 1, model.spec(hyper).state(n)))
    states = stack("layers", 0, ids, zeros if start is None else start.astype(np.float64))
    top = states[-1]
    if model.both:
        back = stack("back", hyper.layers, ids[::-1], zeros)[:, ::-1]
        none = np.zeros((1, n))
        top = np.hstack([np.vstack([none, top[:-1]]), np.vstack([back[-1][1:], none])])
        states = np.concatenate([states, back])
    out = reader.weights["E"].T if hyper.tied else reader.weights["V"]
    return states, top @ out.astype(np.float64) + reader.weights["c"].astype(np.float64)


@pytest.mark.parametrize(("modeltype", "options"), CELLS, ids=str)
@pytest.mark.parametrize("name", ["cpu", "scan"])
def test_a_held_neuron_is_overwritten_after_each_step(name, modeltype, options):
    """A gate that is not quite shut, a bias in the wrong column, a start that is not held."""
    reader = newreader(modeltype, name, **options)
    top = 2 * len(reader.model.towers) - 1
    held = {(0, 1): 0.6, (0, 4): -0.3, (top, 0): 0.0, (top, 5): -0.75}
    clamped, ids = clamp(reader, held), reader.encode(TEXT)
    (trace,) = clamped.read(ids)
    states, logits = overwritten(reader, ids, held)
    np.testing.assert_allclose(trace.logits[:, 0], logits, atol=1e-5)
    np.testing.assert_allclose(trace.states[:, :, 0], states, atol=1e-5)
    free, _ = overwritten(reader, ids, {})
    assert np.abs(states[1] - free[1]).max() > 0.05, "holding them has changed nothing"
    (plain,) = reader.read(ids)
    np.testing.assert_allclose(plain.states[:, :, 0], free, atol=1e-5, err_msg="it has changed the model")


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMEncode", "RNNEncode"])
@pytest.mark.parametrize("value", [-1.0, -0.99, 0.0, 0.999, 1.0])
def test_a_value_is_held_for_ever(modeltype, value):
    """A gate of 1 - 1e-7 forgets a tenth of a memory in a million steps; here in 30,000."""
    held = clamp(newreader(modeltype), {(0, 2): value})
    ids = np.tile(held.encode(TEXT), 450)
    *_, last = held.read(ids)
    assert last.states[0, -1, 0, 2] == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMEncode", "RNNEncode"])
def test_a_state_that_is_given_is_held_as_well(modeltype):
    """The others start where the user says, the held ones at their value."""
    reader, rng = newreader(modeltype), np.random.default_rng(3)
    start = rng.uniform(-0.5, 0.5, reader.freshstate().shape).astype(np.float32)
    held = {(1, 3): 0.5}
    states, _ = track(clamp(reader, held), TEXT, start=start)
    expected, _ = overwritten(reader, reader.encode(TEXT), held, start)
    np.testing.assert_allclose(states, expected, atol=1e-5)


@pytest.fixture(scope="module")
def ms(tmp_path_factory, verse):
    """A trained model."""
    folder = tmp_path_factory.mktemp("inspecting") / "ms"
    ms = ModelState.initfromsrcfile(
        Texts([verse]), folder, state_size=12, rng=1, report="silent", seq_len=20
    )
    ms.trainmodel(train_len=30, learnrate=0.01, **QUIET)
    return ms


@pytest.fixture(scope="module", params=["char", "word", "byte"])
def leveled(request, tmp_path_factory, verse):
    """A model of each level, untrained."""
    folder = tmp_path_factory.mktemp("level") / "ms"
    return ModelState.initfromsrcfile(
        Texts([verse.replace("the", "thé")]), folder, level=request.param, state_size=10, rng=1,
        report="silent",
    )  # fmt: skip


def test_a_clamped_model_does_what_a_model_does(ms, verse):
    """Each verb must use the held weights and the held start, and none change the model."""
    before = ms.evaluate().nats, ms.generatestring(50, rng=1).text
    clamped = ms.clamped({(0, 3): 0.9})
    assert clamped.trackneurons("The ship")[0, 3] == pytest.approx([0.9] * 8, abs=1e-6)
    reader = clamped._reader
    ids, start = ms._text().validation
    nats = np.concatenate([*reader.losses(ids, start, len(ids))])
    assert clamped.evaluate().nats == pytest.approx(nats.mean(), abs=1e-6)
    assert abs(clamped.evaluate().nats - before[0]) > 1e-4
    assert clamped.score("The ship").nats.mean() == pytest.approx(clamped.evaluate("The ship").nats, abs=1e-5)
    assert clamped.predict("The shi").choices != ms.predict("The shi").choices
    sample = clamped.generatestring(70, rng=1)
    assert sample.state[0, 0, 3] == pytest.approx(0.9, abs=1e-6)
    more = clamped.generatestring(30, init_state=sample, rng=2)
    assert more.text == clamped.generatestring(30, init_state=sample.state, seed=sample.text[-1], rng=2).text
    assert (ms.evaluate().nats, ms.generatestring(50, rng=1).text) == before


def test_continuing_a_held_sample_changes_no_bit(ms):
    """What the cell makes of 0.9 is 0.9000001, and to write 0.9 over it gives another text."""
    clamped = ms.clamped({(0, 3): 0.9})
    rng = np.random.default_rng(5)
    one = clamped.generatestring(200, rng=np.random.default_rng(5))
    first = clamped.generatestring(90, rng=rng)
    second = clamped.generatestring(110, init_state=first, rng=rng)
    assert first.text + second.text == one.text
    assert second.state.tobytes() == one.state.tobytes()


def test_neurons_are_held_one_call_after_the_other(ms):
    """The second call must not let go of what the first holds."""
    both = ms.clamped({(0, 3): 0.9, (1, 2): -0.5})
    after = ms.clamped({(0, 3): 0.1}).clamped({(1, 2): -0.5, (0, 3): 0.9})
    assert after.values == both.values
    np.testing.assert_array_equal(after.trackneurons("The ship"), both.trackneurons("The ship"))
    assert repr(both) == (
        "<Clamped: layer 0, neuron 3 held at 0.9; layer 1, neuron 2 held at -0.5; of " + repr(ms) + ">"
    )
    assert "; 9 more; of" in repr(ms.clamped({(0, i): 0.0 for i in range(12)}))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "got none"),
        ([(0, 1)], "got list"),
        ({(2, 0): 0.0}, "layers 0 to 1, with neurons 0 to 11"),
        ({(0, -1): 0.0}, "no neuron -1"),
        ({0: 0.0}, "0 is no neuron"),
        ({(0, 1.5): 0.0}, "is no neuron"),
        ({(0, 1): 1.5}, "between -1 and 1"),
        ({(0, 1): math.nan}, "between -1 and 1"),
        ({(0, 1): "high"}, "a number"),
    ],
)
def test_what_cannot_be_held_is_said(ms, values, told):
    """A negative index would quietly hold another neuron."""
    with pytest.raises(InputError, match=told):
        ms.clamped(values)


def test_what_a_bidirectional_lstm_cannot_hold_is_said():
    """From an empty memory, one step leads to tanh 1 at most."""
    with pytest.raises(InputError, match=r"0\.9.*from -0\.76 to 0\.76"):
        clamp(newreader("BiLSTM"), {(3, 0): 0.9})


# ---- Properties ----

PROSE = 'He said "no, (not [3])".\n  She:\t“Yes”\n\n"A" 12\n'


def plain(text):
    """Each property by a loop over the characters."""
    found = {name: [] for name in BUILTIN}
    quotes = curly = depth = column = word = indent = 0
    leading = True
    for i, char in enumerate(text):
        if text[:i].endswith("\n\n"):
            quotes = curly = 0
        if i and text[i - 1] == "\n":
            column, indent, leading = 0, 0, True
        quotes += char == '"'
        curly += (char in "“«") - (char in "”»")
        depth = max(depth + (char in "([{") - (char in ")]}"), 0)
        word = word + 1 if char.isalnum() or char == "_" else 0
        leading = leading and char in " \t"
        indent += leading
        found["quoted"].append(quotes % 2 == 1 or curly > 0)
        found["brackets"].append(depth)
        found["line position"].append(column)
        found["word position"].append(word)
        found["indent"].append(indent)
        found["upper case"].append(char.isupper())
        found["digit"].append(char.isdigit())
        found["blank"].append(char.isspace())
        column += 1
    return found


@pytest.mark.parametrize("name", BUILTIN)
def test_properties_are_those_of_a_loop(name):
    """A quotation that ends one symbol early, a bracket too many, a column counted from 1."""
    text = PROSE + ")]" + PROSE + '"open\n\nnot (' + PROSE
    assert BUILTIN[name](text).tolist() == plain(text)[name]


def test_a_property_is_given_in_four_ways(leveled, verse):
    """Names, expressions, functions and arrays, at the level of characters, words and bytes."""
    reader, text = leveled._reader, verse[:300].replace("the", "thé")
    inside = np.zeros(len(text))
    for found in re.finditer("thé", text):
        inside[found.start() : found.end()] = 1
    if leveled.chars.level == "byte":
        expected = [x for x, char in zip(inside, text, strict=True) for _ in char.encode()]
    else:
        symbols, expected, where = reader.vocab.split(text), [], 0
        for symbol in symbols:
            expected.append(inside[where : where + len(symbol)].max())
            where += len(symbol)
    for wanted in ("thé", re.compile("thé"), inside, lambda text: inside.tolist(), np.array(expected)):
        name, values = propertyof(reader, text, wanted)
        assert values.tolist() == expected, name
