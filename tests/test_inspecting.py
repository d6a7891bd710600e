"""Neurons that are held, found and drawn, against plain loops that do the same."""

import math
import os
import re
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from rngru import HyperParams, ModelState, Texts, models
from rngru.backends import backend
from rngru.errors import InputError, MissingExtra, WorkdirBusy
from rngru.events import Round
from rngru.pictures import curves
from rngru.reader import Reader, Similar, neurons, vectors
from rngru.reader.inspecting import clamp, track, tracked
from rngru.reader.neurons import follow, propertyof
from rngru.reader.properties import BUILTIN
from rngru.text import CharSet
from tests import reference

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
    ("MinGRUEncode", {"gate": "hard_sigmoid"}),
    ("MinLSTMResize", {}),
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
    np.testing.assert_allclose(
        plain.states[:, :, 0], free, atol=1e-5, err_msg="it has changed the model"
    )


@pytest.mark.parametrize(
    "modeltype", ["GRUEncode", "LSTMEncode", "RNNEncode", "MinGRUEncode", "MinLSTMEncode"]
)
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
    assert clamped.score("The ship").nats.mean() == pytest.approx(
        clamped.evaluate("The ship").nats, abs=1e-5
    )
    assert clamped.predict("The shi").choices != ms.predict("The shi").choices
    sample = clamped.generatestring(70, rng=1)
    assert sample.state[0, 0, 3] == pytest.approx(0.9, abs=1e-6)
    more = clamped.generatestring(30, init_state=sample, rng=2)
    assert (
        more.text
        == clamped.generatestring(30, init_state=sample.state, seed=sample.text[-1], rng=2).text
    )
    for _, states in tracked(reader, reader.encode(verse * 7)):  # in lanes
        np.testing.assert_allclose(states[0, :, 3], 0.9, atol=1e-6)
    assert (ms.evaluate().nats, ms.generatestring(50, rng=1).text) == before


def test_continuing_a_held_sample_changes_no_bit(ms):
    """What the cell makes of 0.9 is 0.9000001, and to write 0.9 over it gives another text."""
    clamped = ms.clamped({(layer, i): 0.07 * i for layer in (0, 1) for i in range(10)})
    rng = np.random.default_rng(5)
    one = clamped.generatestring(200, rng=np.random.default_rng(5))
    first = clamped.generatestring(90, rng=rng)
    second = clamped.generatestring(110, init_state=first, rng=rng)
    assert clamped._reader.begun(first.state).tobytes() == first.state.tobytes()
    assert first.text + second.text == one.text
    assert second.state.tobytes() == one.state.tobytes()


def test_training_goes_on_beside_a_clamped_model(newmodel, verse):
    """What both share is never written to."""
    ms = newmodel(verse)
    clamped = ms.clamped({(0, 3): 0.9})
    before = clamped.trackneurons("The ship", ret_output=True)
    ms.trainmodel(train_len=5, **QUIET)
    after = clamped.trackneurons("The ship", ret_output=True)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_neurons_are_held_one_call_after_the_other(ms):
    """The second call must not let go of what the first holds."""
    both = ms.clamped({(0, 3): 0.9, (1, 2): -0.5})
    after = ms.clamped({(0, 3): 0.1}).clamped({(1, 2): -0.5, (0, 3): 0.9})
    assert after.values == both.values
    np.testing.assert_array_equal(after.trackneurons("The ship"), both.trackneurons("The ship"))
    assert repr(both) == (
        "<Clamped: layer 0, neuron 3 held at 0.9; layer 1, neuron 2 held at -0.5; of "
        + repr(ms)
        + ">"
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
        ({(0, 1): 1.5}, "layer 0, neuron 1=1.5: expected a number of at least -1 and at most 1"),
        ({(0, 1): math.nan}, "at most 1"),
        ({(0, 1): "high"}, "at most 1"),
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
    for wanted in (
        "thé",
        re.compile("thé"),
        inside,
        lambda text: inside.tolist(),
        np.array(expected),
    ):
        name, values = propertyof(reader, text, wanted)
        assert values.tolist() == expected, name


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("quotd", "matches nothing.*Did you mean 'quoted'"),
        ("(", "no regular expression"),
        (re.compile(b"a"), "for bytes"),
        ([1, 2, 3], "3 values, but the text has 69 symbols"),
        (lambda text: [math.nan] * len(text), "finite"),
        (lambda text: text, "finite numbers"),
        ("digit", "is 0 at every symbol"),
        (".", "is 1 at every symbol"),
        (12.5, r"shape \(\)"),
    ],
)
def test_what_is_no_property_is_said(ms, wanted, told):
    """A property that never changes makes every correlation NaN."""
    with pytest.raises(InputError, match=told):
        ms.neurons(TEXT, wanted)


# ---- Neurons that follow a property ----


def figures(states, values, half):
    """Correlations on both halves and AUC on the second, by NumPy and SciPy; states (neuron, n)."""
    first = np.array([np.corrcoef(each[:half], values[:half])[0, 1] for each in states])
    second = np.array([np.corrcoef(each[half:], values[half:])[0, 1] for each in states])
    later, own = values[half:], states[:, half:]
    auc, off = [], []
    for each, sign in zip(own, np.sign(first), strict=True):
        high, low = each[later == 1], each[later == 0]
        u = mannwhitneyu(high, low).statistic / (len(high) * len(low))
        auc.append(u if sign > 0 else 1 - u)
        bins = [np.histogram(x, 256, (-1, 1))[0] / len(x) for x in (high, low)]
        off.append((bins[0] * bins[1]).sum() / 2 + 1e-9)
    return first, second, np.array(auc), np.array(off)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize", "BiRNN"])
@pytest.mark.parametrize("repeats", [6, 170])
def test_figures_of_neurons_are_those_of_numpy(modeltype, repeats):
    """Halves exchanged, a lane counted twice, a property that is one symbol off, a sign lost."""
    reader, rng = newreader(modeltype, size=5), np.random.default_rng(11)
    text = "".join(rng.permutation(list(TEXT * repeats)))
    what, values = propertyof(reader, text, "[aeiou]")
    found = follow(reader, text, what, values)
    states, _ = track(reader, text)
    states = states.transpose(0, 2, 1).reshape(-1, len(text))
    half = len(text) // 2
    first, second, auc, off = figures(states, values, half)
    index = found.layer * 5 + found.neuron
    assert sorted(index) == [*range(len(states))]
    # Of a text that is read in lanes, or in windows, the first states of each differ a little.
    allowed = 2e-4 if len(text) > 10_000 else 2e-5
    np.testing.assert_allclose(found.first, first[index], atol=allowed)
    np.testing.assert_allclose(found.correlation, second[index], atol=allowed)
    assert (np.abs(found.auc - auc[index]) <= off[index] + allowed).all()
    assert (np.diff(np.abs(found.first)) <= 0).all()
    assert (found.sign == np.sign(found.first)).all()
    assert (found.what, found.symbols) == ("'[aeiou]'", len(text) - half)
    shifted = [
        np.corrcoef(states[:, half:], np.roll(values, len(values) * k // 20)[half:])[-1, :-1]
        for k in range(1, 20)
    ]
    assert found.chance == pytest.approx(np.abs(shifted).max(), abs=allowed)


def test_each_symbol_of_a_long_text_counts_once():
    """A lane's warm-up counted, or the last symbol, which nothing follows, left out."""
    for modeltype in ("GRUEncode", "BiGRU"):
        reader = newreader(modeltype, size=4)
        ids = np.random.default_rng(1).integers(1, 9, 20_333).astype(np.int32)
        (whole,) = reader.read(ids, most=len(ids))
        seen = np.zeros(len(ids), int)
        for where, states in tracked(reader, ids):
            seen[where] += 1
            np.testing.assert_allclose(states, whole.states[:, where, 0], atol=1e-4)
        assert (seen == 1).all()


def test_a_number_is_followed_as_well_as_a_class(ms, verse):
    """No AUC for what is more than 0 and 1; a neuron that never changes follows nothing."""
    found = ms.neurons(verse, "line position")
    assert np.isnan(found.auc).all() and "AUC" not in repr(found)
    silenced = ms.clamped({found[0]: 0.25}).neurons(verse, "line position")
    place = [*silenced].index(found[0])
    assert silenced.correlation[place] == silenced.first[place] == 0
    assert silenced[-1] == found[0]


def test_a_chance_find_is_not_sold_as_one(ms, verse):
    """The best of many neurons on the text they were chosen on beats any of them on another."""
    noise = np.random.default_rng(2).integers(0, 2, len(verse))
    found = ms.neurons(verse, noise)
    assert abs(found.correlation[0]) < found.chance < 0.2
    assert "in the order of the first half of the text, measured on the" in repr(found)


def test_neurons_read_well(ms, verse):
    """A table that fits, columns for a data frame, pairs by index."""
    found = ms.neurons(verse, "blank")
    lines = repr(found).splitlines()
    assert lines[0].split() == ["layer", "neuron", "correlation", "AUC"]
    assert max(map(len, lines)) <= 80
    assert found[0] == (found.layer[0], found.neuron[0]) and len(found[:3]) == 3
    assert {len(column) for column in found.columns().values()} == {len(found)} == {24}
    assert "<table>" in found._repr_html_()


@pytest.mark.parametrize("text", ["", "short", 5])
def test_a_text_too_short_is_said(ms, text):
    with pytest.raises(InputError, match="at least 40 characters|Expected a text"):
        ms.neurons(text, "blank")


def test_a_half_without_the_property_is_said(ms):
    with pytest.raises(InputError, match="0 throughout the second half"):
        ms.neurons(TEXT.replace("the ship", "It is") + TEXT, "upper case")


def test_neurons_of_every_level(leveled, verse, tmp_path):
    """Text, a file of it, and at byte level bytes."""
    text = verse.replace("the", "thé")
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    found = leveled.neurons(text, "thé")
    again = leveled.neurons(path, lambda text: [*map(str.isalpha, text)])
    assert found.units == leveled.chars.units and len(again) == len(found)
    sample = leveled.generatestring(300, temp=1.0, rng=1)  # words that nobody would write so
    assert leveled.neurons(sample, np.arange(300) % 2).symbols == 150
    assert "".join(leveled.plotneurons(sample, (0, 0)).pieces) == "".join(
        map(leveled.chars.charatidx, sample.ids)
    )
    if leveled.chars.level == "byte":
        same = leveled.neurons(text.encode(), "thé")
        np.testing.assert_array_equal(same.correlation, found.correlation)


def test_an_interrupted_search_tells_what_it_read(ms, verse):
    """Both halves are read side by side, so half a reading is half of each."""
    text, calls = verse * 10, iter([False, False, True])
    found = follow(ms._reader, text, "x", BUILTIN["blank"](text) + 0.0, asked=lambda: next(calls))
    assert found.interrupted and "characters, interrupted)" in repr(found)
    assert 0 < found.symbols < len(text) // 2
    assert abs(found.correlation[0]) > 0.1


# ---- Texts as vectors ----


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize", "BiGRU"])
@pytest.mark.parametrize("how", ["last", "mean"])
def test_vectors_are_states(modeltype, how):
    """Texts of other lengths beside it, or padding behind it, must not change a text's vector."""
    reader = newreader(modeltype)
    rng = np.random.default_rng(4)
    texts = ["".join(rng.choice(list(TEXT), n)) for n in [3, 700, 1, 250, 3, 40, 200, *[5] * 40]]
    found = vectors(reader, texts, how)
    for text, vector in zip(texts, found, strict=True):
        states, _ = track(reader, text)
        expected = states.mean(1) if how == "mean" else states[:, -1]
        if reader.model.both and how == "last":  # the second stack begins at the end
            expected = np.concatenate([states[:2, -1], states[2:, 0]])
        np.testing.assert_allclose(vector, expected.ravel(), atol=2e-6)


def test_similar_texts_come_first(ms):
    """A text is most similar to itself, and the numbers say where the others were."""
    texts = ["The ship drove", "fast", "and southward aye"]
    found = ms.similar("and southward aye", texts)
    assert isinstance(found, Similar) and found[0] == (texts[2], pytest.approx(1, abs=1e-6))
    points = ms.vectors(texts).astype(float)
    cosines = points @ points[2] / np.linalg.norm(points, axis=1) / np.linalg.norm(points[2])
    np.testing.assert_allclose(found.similarity, np.sort(cosines)[::-1], atol=1e-6)
    assert found.numbers.tolist() == np.argsort(-cosines).tolist()
    assert repr(found).splitlines()[1] == "     1.000       2  and southward aye"
    assert [*found.columns()] == ["number", "similarity", "text"]


def test_what_is_no_list_of_texts_is_said(ms):
    """One string would be read as a list of its characters."""
    for call in (ms.vectors, lambda texts: ms.similar("a", texts)):
        with pytest.raises(
            InputError, match=r"expected a list of texts, got str\. Put one text into"
        ):
            call("The ship")
    with pytest.raises(InputError, match="got none"):
        ms.similar("a", [])
    with pytest.raises(InputError, match="how='median' is not known"):
        ms.vectors(["a"], how="median")
    assert ms.vectors([]).shape == (0, 24)


# ---- Tracking ----


def test_several_texts_are_tracked(ms):
    """A list gives a list; what is no text is said."""
    both = ms.trackneurons(["The ship", "A sail"], transpose=False)
    np.testing.assert_array_equal(both[1], ms.trackneurons("A sail", transpose=False))
    assert [len(each) for each in both] == [8, 6]
    with pytest.raises(InputError, match=r"usestr\[1\]: expected a text, got int"):
        ms.trackneurons(["The ship", 5])
    with pytest.raises(InputError, match="usestr: expected a list of texts, got int"):
        ms.trackneurons(5)


def test_tracking_goes_on_from_a_state(ms):
    """The state of a sample is the one before its last symbol."""
    whole = ms.trackneurons("The ship drove")
    state = np.ascontiguousarray(whole[:, np.newaxis, :, 7])
    rest, outputs = ms.trackneurons(" drove", ret_output=True, init_state=state)
    np.testing.assert_allclose(rest, whole[:, :, 8:], atol=1e-6)
    assert outputs.shape == (6, ms.chars.vocab_size)
    sample = ms.generatestring(10, seed="The ship", rng=1)
    expected = ms.trackneurons("The ship" + sample.text + " drove")
    np.testing.assert_allclose(
        ms.trackneurons(" drove", init_state=sample), expected[:, :, -6:], atol=1e-6
    )


def test_every_verb_reads_on_behind_a_sample(ms):
    """Its last symbol, which its state has not read, is read first."""
    sample = ms.generatestring(10, temp=1.0, seed="The ship", rng=1)
    whole = sample.whole + " drove"
    after = dict(ms.predict(" drove", init_state=sample))
    assert after == pytest.approx(dict(ms.predict(whole)), abs=1e-6)
    assert ms.score(" drove", init_state=sample).nats == pytest.approx(
        ms.score(whole).nats[-6:], abs=1e-5
    )
    long = ms.generatestring(30, temp=0, seed=whole).text
    assert ms.generatestring(30, temp=0, seed=" drove", init_state=sample).text == long
    assert "".join(ms.stream(30, 0, " drove", sample)) == long
    assert ms.beam(" drove", 9, 3, sample)[0].text == ms.beam(whole, 9, 3)[0].text


def test_a_file_is_read_wherever_a_text_is(ms, tmp_path):
    path, text = tmp_path / "drove.txt", "The ship drove"
    path.write_text(text)
    np.testing.assert_array_equal(ms.trackneurons(path), ms.trackneurons(text))
    np.testing.assert_array_equal(ms.trackneurons([text, path])[1], ms.trackneurons(text))
    assert ms.predict(path)[:] == ms.predict(text)[:]
    assert repr(ms.plotneurons(path, (0, 1))) == repr(ms.plotneurons(text, (0, 1)))


@pytest.mark.parametrize("name", ["cpu", "scan"])
def test_the_memory_of_an_lstm(name):
    """Against the loop: h = o tanh(m), so the memory is not the state."""
    reader = newreader("LSTMEncode", name)
    memory, _ = track(reader, TEXT, memory=True)
    states, _ = track(reader, TEXT)
    p = {k: reference.array(v.astype(np.float64)) for k, v in reader.weights.items()}
    s, found = np.zeros((1, 12)), []
    for row in reader.encode(TEXT):
        pre = reference.tanh(p["E"][[row]] + p["a"]) @ p["layers.0.U"] + p["layers.0.b"]
        s = reference.lstm(pre, reference.array(s), p["layers.0.W"], None, reference.sigmoid).value
        found.append(s[0])
    np.testing.assert_allclose(memory[0], np.array(found)[:, 6:], atol=1e-5)
    np.testing.assert_allclose(states[0], np.array(found)[:, :6], atol=1e-5)


@pytest.mark.parametrize("modeltype", ["GRUEncode", "RNNResize", "BiLSTM"])
def test_a_model_without_memory_says_so(modeltype):
    with pytest.raises(InputError, match=f"{modeltype} has no memory"):
        track(newreader(modeltype), TEXT, memory=True)


def test_a_bidirectional_model_has_no_beginning():
    reader = newreader("BiGRU")
    with pytest.raises(InputError, match="BiGRU reads a text from both its ends"):
        track(reader, TEXT, start=reader.freshstate())


# ---- Drawing ----


def test_a_text_is_drawn_by_its_neurons(leveled, verse, tmp_path):
    """Each symbol in the colour of its own state, at every level; a heat map of several."""
    text = verse[:60].replace("the", "thé")
    plot = leveled.plotneurons(text, (1, 4))
    states = leveled.trackneurons(text)
    np.testing.assert_array_equal(plot.states, states[1, [4]])
    assert len(plot.pieces) == states.shape[2]
    assert repr(plot).startswith("layer 1, neuron 4\n")
    assert f"{states[1, 4, 0]:+.2f}" in plot._repr_html_()
    assert plot.save(tmp_path / "one.png").stat().st_size > 1000
    figure = leveled.plotneurons(text, [(0, 3), (1, 4)]).figure
    cells = figure.axes[0].images[0].get_array()
    sizes = [len(piece) for piece in plot.pieces]
    np.testing.assert_array_equal(cells, np.repeat(states[[0, 1], [3, 4]], sizes, axis=1))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0, 3", "1, 4"]


def test_the_best_neuron_is_drawn(ms, verse):
    found = ms.neurons(verse, "blank")
    assert ms.plotneurons("The ship", found).names == (found[0],)
    assert ms.plotneurons("The ship", found[:2]).names == tuple(found[:2])


@pytest.mark.parametrize("which", [(2, 0), (0, 12), [(0, 1), (0, -1)], [], "best", 5, [0, 1, 2]])
def test_a_neuron_that_is_not_there_is_not_drawn(ms, which):
    with pytest.raises(InputError, match=r"There is no neuron|is no neuron|got none"):
        ms.plotneurons("The ship", which)


def test_a_long_text_is_cut_on_the_screen(ms, verse):
    plot = ms.plotneurons((verse * 4)[:5100], (0, 0))
    assert repr(plot).endswith("\nand 100 more")
    assert "<p>and 100 more</p>" in plot._repr_html_()
    with pytest.raises(InputError, match="5,100 characters do not fit in a picture"):
        plot.save("a.png")


# ---- Other parameters ----


def test_parameters_are_replaced(newmodel, verse):
    """Numbers of the caller's, copied; the others as they were, and an optimizer that forgets."""
    ms = newmodel(verse, optimizer="adam")
    ms.trainmodel(train_len=3, **QUIET)
    before, saved = ms.parameters(), ms.checkpoints()
    own = {"V": (2 * before["V"]).tolist(), "c": np.zeros(len(before["c"]))}
    loss = ms.evaluate().nats
    assert ms.setparameters(own) is ms
    own["c"][:] = 5
    after = ms.parameters()
    np.testing.assert_array_equal(after["V"], 2 * before["V"])
    assert not after["c"].any() and (after["E"] == before["E"]).all()
    assert ms.evaluate().nats != loss and "loss" not in repr(ms)
    assert ms._model.progress.scores.best is None, "a loss of other parameters is not to be beaten"
    for cache in ms._model.progress.caches.values():
        assert not cache["V"].any() and not cache["c"].any() and cache["E"].any()
    assert len(ms.checkpoints()) == len(saved), "nothing is saved yet"
    assert (ModelState.load(ms.workdir).parameters()["V"] == before["V"]).all()
    new = ms.newcheckpoint()
    assert new.step not in [each.step for each in saved], "what was trained is still there"
    assert (ModelState.load(ms.workdir).parameters()["V"] == after["V"]).all()
    ms.restore(saved[-1].step)
    assert all((ms.parameters()[name] == before[name]).all() for name in before)
    ms.setparameters(after).trainmodel(train_len=2, **QUIET)


def test_a_packed_model_takes_other_parameters(newmodel, verse, tmp_path):
    """It has no directory that could be locked."""
    ms = ModelState.load(newmodel(verse).pack(tmp_path / "a.rngru"))
    ms.setparameters({"c": np.arange(ms.chars.vocab_size)})
    assert ms.parameters()["c"].tolist() == [*range(ms.chars.vocab_size)]


def test_what_is_no_parameter_changes_nothing(newmodel, verse):
    """All that is wrong is said at once, and nothing is half done."""
    ms = newmodel(verse)
    before = ms.parameters()
    good = {"a": before["a"] + 1}
    for wrong, told in [
        (
            {"layers.0.w": before["a"]},
            "parameter='layers.0.w' is not known. Did you mean 'layers.0.W'",
        ),
        ({"c": before["a"]}, r"c: expected shape \(\d+,\), got \(8,\)"),
        ({"V": before["V"] * np.nan}, "V: expected finite"),
        ({"V": before["V"].astype(float) + 1e39}, "V: expected finite"),
        ({"c": "zero"}, "c: expected numbers"),
        ({"V": [[1, 2], [3]]}, "V: expected numbers"),
        ({"V": before["V"] * 1j}, "V: expected numbers"),
    ]:
        with pytest.raises(InputError, match=told):
            ms.setparameters(good | wrong)
    with pytest.raises(InputError, match="(?s)V: expected finite.*c: expected numbers"):
        ms.setparameters({"V": before["V"] * np.inf, "c": None})
    with pytest.raises(InputError, match="by name, as parameters"):
        ms.setparameters([1, 2])
    assert all((ms.parameters()[name] == before[name]).all() for name in before)


def test_parameters_are_not_replaced_while_another_thread_trains(newmodel, verse):
    """The next step of that thread would quietly put its own back."""
    ms = newmodel(verse)
    with ms._disk.alone():
        raised = []

        def other():
            try:
                ms.setparameters({})
            except WorkdirBusy as busy:
                raised.append(busy)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert raised


# ---- Pictures ----


def test_the_loss_curve_shows_itself(newmodel, verse, monkeypatch, tmp_path):
    """A path that a notebook shows as a picture; in characters where there is no matplotlib."""
    ms = newmodel(verse)
    ms.trainmodel(3, train_len=2, **QUIET)
    picture = ms.plotloss()
    assert picture.name == "loss.png" and Path(picture) == ms.workdir / "loss.png"
    assert picture._repr_png_() == Path(picture).read_bytes()
    assert picture._repr_svg_() is None and repr(picture) == str(picture) == str(Path(picture))
    svg = ms.plotloss(tmp_path / "a.svg")
    assert "<svg" in svg._repr_svg_() and svg._repr_png_() is None
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"rngru\[plot\]"):
        ms.plotloss(tmp_path / "b.png")
    pytest.importorskip("plotille")
    drawn = ms.plotloss()
    assert repr(drawn).startswith(
        "nats per character against characters read: training (line), validation (o)"
    )
    assert max(map(len, repr(drawn).splitlines())) <= 80
    with pytest.raises(MissingExtra, match=r"There is no file.*rngru\[plot\]"):
        os.fspath(drawn)
    monkeypatch.setitem(sys.modules, "plotille", None)
    with pytest.raises(MissingExtra, match=r"rngru\[plot\]"):
        ms.plotloss()


def test_curves_have_their_points():
    """Each loss beside its number on the axis; one round is enough, and NaN is left out."""
    pytest.importorskip("plotille")
    rounds = [Round(n, 1000 * n, 1.0, 4 - n, None, None, 1e-3, 1.0, 0, 0.0, None) for n in (1, 2)]
    assert "validation" not in curves(rounds) and curves(rounds[:1])
    broken = Round(3, 3000, 1.0, math.nan, 2.4, None, 1e-3, 1.0, 0, 0.0, None)
    lines = curves([*rounds, broken]).splitlines()[1:]
    [place] = [i for i, line in enumerate(lines) if line.endswith("o")]
    assert float(lines[place].split()[0]) <= 2.4 < float(lines[place - 1].split()[0])
    assert [line.split()[1] for line in lines[-1:]] == ["0"]
    with pytest.raises(InputError, match="train first"):
        curves([broken])


def test_a_search_answers_to_the_keyboard(ms, verse, monkeypatch):
    """A megabyte takes seconds: who has seen enough presses Ctrl-C, and the model is as it was."""
    text, before = verse * 40, signal.getsignal(signal.SIGINT)

    def pressed(*given):
        for number, each in enumerate(tracked(*given)):
            if number == 7:
                signal.raise_signal(signal.SIGINT)
            yield each

    monkeypatch.setattr(neurons, "tracked", pressed)
    found = ms.neurons(text, "blank")
    assert found.interrupted and 0 < found.symbols < len(text) // 2
    assert signal.getsignal(signal.SIGINT) == before
