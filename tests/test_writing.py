"""What is written keeps to its rules, is as likely as it says, and goes on exactly: also from a file."""

import codecs
import copy
import itertools
import json
import os
import pickle
import re
import signal
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rngru import models
from rngru.backends import Written, backend
from rngru.checkpoint import packarrays, unpackarrays
from rngru.errors import CheckpointTooNew, InputError, MissingExtra, WorkdirError
from rngru.hyper import HyperParams
from rngru.reader import Reader, beam, generate, generateall, generating, stream
from rngru.reader.limits import symbols
from rngru.sampling import Sample, Samples, Sampling, probabilities
from rngru.text import ByteSet, CharSet, WordSet
from tests.models import Canned

TEXT = "so it goes,\nand so it went\n"
VOCABS = {"char": CharSet(TEXT), "word": WordSet(TEXT), "byte": ByteSet(TEXT)}
KINDS = {
    "char": ("GRUEncode", {}),
    "word": ("LSTMEncode", {}),
    "byte": ("GRUEncode", {"reset_after": True}),
}


def made(vocab, modeltype="GRUEncode", changes=None, computes="cpu") -> Reader:
    """A small model, with weights large enough for its states to matter."""
    model = models.named(modeltype)
    hyper = HyperParams(vocab.vocab_size, state_size=8, layers=2, **changes or {})
    weights = model.initial(hyper, np.random.default_rng(2))
    weights = {name: array * 3 for name, array in weights.items()}
    return Reader(model, hyper, vocab, weights, backend(computes, model, hyper))


READERS = {level: made(vocab, *KINDS[level]) for level, vocab in VOCABS.items()}


@pytest.fixture(params=READERS)
def reader(request) -> Reader:
    return READERS[request.param]


def write(reader, count, *, seed="so", start=None, rng=5, streams=None, temp=1.0, **rules):
    how, rng = Sampling(temp, **rules), np.random.default_rng(rng)
    return generateall(reader, count, how, streams, seed=seed, start=start, rng=rng)


def logits(reader, ids):
    """The logits after the last of some ids, from the beginning of the text."""
    *_, trace = reader.read(np.asarray(ids, np.int32))
    return trace.logits[-1, 0].astype(np.float64)


def likely(reader, before, ids):
    """ln p of each of ``ids`` after what was read before, a pass for each."""
    texts = [np.concatenate([before, ids[:n]]) for n in range(len(ids))]
    found = [probabilities(logits(reader, text), 1.0) for text in texts]
    return np.log([p[i] for p, i in zip(found, ids, strict=True)])


# ---- What a sample says of itself ----


@pytest.mark.parametrize(
    "rules",
    [{}, {"temp": 0.3, "top_k": 3}, {"forbid": ["o", "i"], "repeat": 3.0}, {"stop": "t"}],
    ids=str,
)
def test_a_sample_is_as_likely_as_the_model_says(reader, rules):
    """Not as likely as the rules made it: texts drawn in two ways could not be compared."""
    for sample in (write(reader, 80, **rules), *write(reader, 80, streams=3, **rules)):
        wanted = likely(reader, reader.encode("so"), sample.ids)
        np.testing.assert_allclose(sample.logprobs, wanted, atol=1e-4)
        assert sample.logprob == pytest.approx(wanted.sum(), abs=1e-3)
        assert sample.temp == rules.get("temp", 1.0)
        assert sample.sampling == Sampling(**{"temp": 1.0} | rules)
        assert sample.whole == "so" + sample.text
        assert sample.before.tolist() == reader.encode("so").tolist()


def test_a_first_symbol_that_the_model_did_not_draw_is_not_counted(reader):
    sample = write(reader, 9, seed="")
    wanted = likely(reader, sample.ids[:1], sample.ids[1:])
    assert np.isnan(sample.logprobs[0])
    assert sample.logprob == pytest.approx(wanted.sum(), abs=1e-3)
    assert write(reader, 0).logprob == 0


@pytest.mark.parametrize(
    "again", [lambda s: pickle.loads(pickle.dumps(s)), copy.copy, copy.deepcopy]
)
def test_a_sample_is_copied_whole(reader, again):
    """Also one whose rules were a function, which cannot be pickled."""
    sample = write(reader, 9, allow=lambda text: None, regex=r"[\s\S]*")
    other = again(sample)
    assert same(sample, other) and other.sampling == Sampling(1.0, regex=r"[\s\S]*")


def same(one: Sample, other: Sample) -> bool:
    return one.__dict__.keys() == other.__dict__.keys() and all(
        np.array_equal(one.__dict__[name], other.__dict__[name], equal_nan=name == "logprobs")
        for name in one.__dict__
    )


# ---- A sample as a file ----

RULES = {"temp": 0.9, "repeat": 4.0, "repeat_last": 9, "top_p": 0.95}


@pytest.mark.parametrize("cut", [0, 1, 5, 33])
@pytest.mark.parametrize("seed", ["so", "", None])
def test_a_saved_sample_goes_on_exactly(reader, tmp_path, cut, seed):
    """A symbol lost at the seam, or what was read before it, which makes others less likely."""
    rng = np.random.default_rng(5)
    whole = write(reader, 60, seed=seed, **RULES)
    if cut == 0 and seed != "so":
        return  # nothing was said: what begins then is another text
    how = Sampling(**RULES)
    first = generate(reader, cut, how, seed=seed, start=None, rng=rng)
    path = first.save(tmp_path / "mood.npz")
    again = Sample.load(str(path))
    assert same(first, again)
    for start in (first, again):
        there = np.random.default_rng()
        there.bit_generator.state = rng.bit_generator.state
        second = generate(reader, 60 - cut, how, seed=None, start=start, rng=there)
        assert np.array_equal(np.append(first.ids, second.ids), whole.ids)
        assert np.array_equal(second.state, whole.state) and second.last == whole.last
        assert np.array_equal(
            np.append(first.logprobs, second.logprobs), whole.logprobs, equal_nan=True
        )
        assert second.seed + second.text == whole.seed + whole.text
    with np.load(path, allow_pickle=False) as arrays:  # and others can read it
        assert np.array_equal(arrays["ids"], first.ids)
    assert [each.name for each in tmp_path.iterdir()] == ["mood.npz"]


def test_a_sample_with_signs_of_any_kind_is_saved(tmp_path):
    sample = Sample("a\ud800\0é\n", np.ones((1, 1, 2), np.float32), seed="\udfff")
    assert same(Sample.load(sample.save(tmp_path / "no ending")), sample)


def test_a_sample_replaces_a_sample_and_nothing_else(tmp_path):
    """A name typed in a hurry, and a text of years is gone."""
    one, other = write(READERS["char"], 5), write(READERS["char"], 9)
    path = one.save(tmp_path / "mood.npz")
    assert same(Sample.load(other.save(path)), other)
    for name, data in {
        "novel.txt": b"Call me Ishmael.",
        "a.npz": packarrays({"b": np.ones(3)}),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="no saved sample"):
            one.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == data
    with pytest.raises(WorkdirError, match="none"):
        one.save(tmp_path / "none" / "mood.npz")


def test_a_file_that_holds_no_sample_is_refused(tmp_path):
    """Cut at any byte or changed anywhere: an error in words, or the very sample."""
    sample, path = write(READERS["char"], 5), tmp_path / "mood.npz"
    data = sample.save(path).read_bytes()
    rng = np.random.default_rng(1)
    for number in range(400):
        wrong = bytearray(data[: rng.integers(len(data))] if number % 2 else data)
        if number % 2 == 0:
            wrong[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(wrong)
        try:
            found = Sample.load(path)
        except InputError as problem:
            assert str(path) in str(problem) and "sample.save()" in str(problem)
        else:
            assert same(found, sample)
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="cannot be read"):
            Sample.load(other)
    with pytest.raises(InputError, match="NUL"):
        Sample.load("a\0b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ids", np.zeros(5, np.int64)),
        ("ids", np.zeros(4, np.int32)),
        ("state", np.full((2, 1, 8), np.nan, np.float32)),
        ("state", np.zeros((2, 8), np.float32)),
        ("text", np.array([255], np.uint8)),
        ("level", 5),
        ("last", "x"),
        ("interrupted", None),
        ("sampling", {"temp": -1}),
        ("sampling", 7),
        ("sample", 0),
    ],
)
def test_a_saved_sample_is_checked(tmp_path, name, value):
    path = write(READERS["char"], 5).save(tmp_path / "mood.npz")
    arrays = unpackarrays(path.read_bytes())
    if isinstance(value, np.ndarray):
        arrays[name] = value
    else:
        about = json.loads(arrays["about"].tobytes()) | {name: value}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path.write_bytes(packarrays(arrays))
    with pytest.raises(InputError, match="damaged"):
        Sample.load(path)


@pytest.mark.parametrize("change", [{"sample": 2}, {"sampling": {"warmth": 3}}])
def test_a_newer_sample_is_no_damaged_one(tmp_path, change):
    path = write(READERS["char"], 5).save(tmp_path / "mood.npz")
    arrays = unpackarrays(path.read_bytes())
    about = json.loads(arrays["about"].tobytes()) | change
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path.write_bytes(packarrays(arrays))
    with pytest.raises(CheckpointTooNew):
        Sample.load(path)


def test_a_sample_of_another_model_is_refused(newmodel, verse, tmp_path):
    """Its ids name other symbols, or none: a kernel that reads beyond its table."""
    ms, path = newmodel(verse), tmp_path / "mood.npz"
    sample = ms.generatestring(9, rng=1)
    sample.save(path)
    expected = ms.generatestring(20, init_state=sample, rng=2)
    for start in (path, str(path)):
        assert ms.generatestring(20, init_state=start, rng=2).text == expected.text
        assert ms.predict("s", init_state=start)[0] == ms.predict("s", init_state=sample)[0]
        assert ms.score("s", init_state=start).nats == ms.score("s", init_state=sample).nats
        assert ms.evaluate("s", init_state=start).nats == ms.evaluate("s", init_state=sample).nats
        assert "".join(ms.stream(20, init_state=start, rng=2)) == expected.text
    with pytest.raises(InputError, match="another model"):
        newmodel(verse + "Ω").generatestring(init_state=path)
    with pytest.raises(InputError, match="init_state has shape"):
        newmodel(verse, layers=1).generatestring(init_state=path)
    for fields in (
        {"last": 999},
        {"last": -1},
        {"ids": np.array([999])},
        {"before": np.array([-1])},
    ):
        wrong = Sample("x", sample.state, **{"last": 1} | fields)
        with pytest.raises(InputError, match="another model"):
            ms.generatestring(5, init_state=wrong)
    with pytest.raises(InputError, match=r"^init_state: expected one sample, got several"):
        ms.generatestring(init_state=ms.generatestring(3, streams=2, rng=1))
    with pytest.raises(InputError, match=r"^init_state: 'no\.npz' cannot be read"):
        ms.generatestring(init_state="no.npz")


# ---- Several temperatures ----


def test_several_temperatures_are_one_text_each(newmodel, verse, monkeypatch):
    ms = newmodel(verse)
    rng = np.random.default_rng(3)
    alone = [ms.generatestring(30, temp=temp, rng=rng).text for temp in (0.2, 1.0, 5)]
    for several in ([0.2, 1.0, 5], (0.2, 1.0, 5), np.array([0.2, 1, 5])):
        found = ms.generatestring(30, temp=several, rng=3)
        assert [sample.text for sample in found] == alone
        assert [sample.temp for sample in found] == [0.2, 1.0, 5.0]
    lines = repr(found).splitlines()
    assert lines[0] == "sample  temp" and lines[1].split()[:2] == ["0", "0.2"]
    assert found.columns()["temp"].tolist() == [0.2, 1, 5]
    assert found.columns()["text"].tolist() == alone
    assert "<th>temp</th>" in found._repr_html_()
    assert repr(found[1:]).splitlines()[1].split()[:2] == ["0", "1"]
    many, state = ms.generatestring(9, temp=[0.5, 1], streams=3, ret_state=True)
    assert [sample.temp for sample in many] == [0.5] * 3 + [1.0] * 3 and state.shape == (2, 6, 8)
    for width in (40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        assert all(len(line) <= width for line in repr(found).splitlines())
    for wrong in ([], [0.5, -1], ["warm"], "warm", [[1]]):
        with pytest.raises(InputError, match="temp"):
            ms.generatestring(temp=wrong)


# ---- Repetition ----


@pytest.mark.parametrize("last", [1, 3, 9])
def test_what_was_just_written_does_not_come_again(reader, last):
    """With a factor beyond all logits: also what the seed ends with, and nothing older."""
    for sample in (write(reader, 300, repeat=1e30, repeat_last=last), *write(
        reader, 300, repeat=1e30, repeat_last=last, streams=2
    )):  # fmt: skip
        if last >= reader.vocab.vocab_size - 1:
            continue
        ids = np.concatenate([sample.before, sample.ids]).tolist()
        for n in range(len(sample.before), len(ids)):
            assert ids[n] not in ids[max(n - last, 0) : n]
        gaps = [
            b - a for i in set(ids) for a, b in pairwise(n for n, j in enumerate(ids) if j == i)
        ]
        assert reader.vocab.level == "byte" or min(gaps) == last + 1, "what is older may come again"


def test_repeating_costs_the_factor(reader):
    """The very text that a loop over the definition draws."""
    rules = {"repeat": 2.5, "repeat_last": 6, "temp": 0.8}
    sample, uniforms = write(reader, 60, **rules), np.random.default_rng(5).random(60)
    ids = reader.encode("so").tolist()
    for uniform, drawn in zip(uniforms, sample.ids.tolist(), strict=True):
        here = logits(reader, ids)
        here[reader.barred(Sampling())] = -np.inf
        here[sorted(set(ids[-6:]))] -= np.log(2.5)
        reached = probabilities(here, 0.8).cumsum()
        if np.abs(reached - uniform).min() > 1e-5:
            assert drawn == (reached > uniform).argmax()
        ids.append(drawn)


def test_both_backends_write_the_same(newmodel, verse):
    """What is kept of a text between two calls, and what one backend has of its own."""
    texts = []
    for computes in ("cpu", "scan"):
        ms = newmodel(verse, backend=computes, layers=1)
        first = ms.generatestring(70, repeat=2.0, repeat_last=9, rng=1)
        more = ms.generatestring(30, repeat=2.0, repeat_last=9, init_state=first, rng=2, streams=2)
        kept = ms.generatestring(20, regex="[a-m ]+", top_k=9, rng=3)
        texts.append([first.text, *(each.text for each in more), kept.text])
        assert -first.logprob == pytest.approx(ms.score(first.whole).nats.sum(), rel=1e-5)
    assert texts[0] == texts[1]


# ---- Functions and regular expressions ----

PATTERNS = {
    r"\w{3,5} \w+\n": "char", r"(so|it)( (so|it|went))*": "word", r"[a-y]{4}": "char",
    r"(?:so it goes,\n)+": "char", r"([a-z]+[ ,\n]){2}": "byte", r"[^o]*": "word",
    r"(.)\1[^e]*e": "char", r"\bgoes, (?!so)\w+": "word", r"\xc3\xa9+x": "byte",
}  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_text_is_kept_to_a_regular_expression(pattern):
    """It matches, or was cut before it could."""
    reader = READERS[PATTERNS[pattern]]
    for number in range(15):
        try:
            sample = write(reader, 40, rng=number, regex=pattern)
        except InputError as problem:  # no symbol that this model knows leads on to a match
            assert "leave no symbol" in str(problem)
            continue
        text = sample.bytes.decode("latin-1") if reader.vocab.level == "byte" else sample.text
        assert re.fullmatch(pattern, text) or len(sample.ids) == 40


def test_a_word_is_tried_as_a_whole():
    """Its first letter may begin a match, and the word may not."""
    for number in range(20):
        text = write(READERS["word"], 5, temp=3.0, rng=number, regex="(?:wa|an|so)(?: so)*").text
        assert text == "so so so"


TAILS = ["".join(each) for n in range(7) for each in itertools.product("ab", repeat=n)]
LETTERS = made(CharSet("ab"))


@st.composite
def patterns(draw, depth=3):
    """Regular expressions of a and b."""
    if depth == 0:
        return draw(st.sampled_from(["a", "b", ".", "[ab]", "b?", "aa"]))
    kind = draw(st.sampled_from(["join", "either", "star", "one"]))
    one = draw(patterns(depth - 1))
    if kind == "join":
        return one + draw(patterns(depth - 1))
    if kind == "either":
        return f"(?:{one}|{draw(patterns(depth - 1))})"
    return f"(?:{one})*" if kind == "star" and "*" not in one else one


@settings(max_examples=60)
@given(patterns(), st.integers(0, 99))
def test_symbols_that_cannot_lead_to_a_match_are_masked_and_no_others(pattern, number):
    """The text drawn is that of a loop which tries all ends of every text."""
    found, count = re.compile(pattern), 6
    if not any(found.fullmatch(tail) for tail in TAILS):
        return
    uniforms, ids, text = np.random.default_rng(number).random(count), [1], ""
    while len(text) < count:
        may = [c for c in "ab" if any(found.fullmatch(text + c + tail) for tail in TAILS)]
        if not may:
            break
        here = logits(LETTERS, ids)
        here[[i for i, c in enumerate("\ufffdab") if c not in may]] = -np.inf
        ids.append(int((probabilities(here, 1.0).cumsum() > uniforms[len(text)]).argmax()))
        text += "\ufffdab"[ids[-1]]
    assert write(LETTERS, count, seed="a", rng=number, regex=pattern).text == text


def test_a_function_is_asked_before_every_symbol(reader):
    """It sees all that is read, the seed included, also of the sample that is continued."""
    seen: list[str] = []

    def allow(text):
        seen.append(text)
        return ["s", "so", " "] if len(seen) % 2 else None

    first = write(reader, 6, allow=allow)
    second = write(reader, 6, seed=None, start=first, allow=allow)
    assert seen[0] == "so" and seen[6] == first.whole and second.whole.startswith(seen[-1])
    assert all(after.startswith(before) for before, after in pairwise(seen))
    drawn = [symbols(reader.vocab)[i] for i in (*first.ids, *second.ids)]
    assert set(drawn[::2]) <= {"s", "so", " ", "o"} and len(set(drawn)) > 3
    assert not {
        symbols(reader.vocab)[i] for i in write(reader, 50, forbid=lambda text: "s").ids
    } & {"s"}
    assert len(write(reader, 5, streams=3, allow=lambda text: ["s", "so"])) == 3


@pytest.mark.parametrize("wrong", [5, [5], ["s", None]])
def test_a_function_that_returns_no_symbols(reader, wrong):
    with pytest.raises(InputError, match=r"allow\('so'\) returned"):
        write(reader, 5, allow=lambda text: wrong)


@pytest.mark.parametrize("rules", [{"allow": lambda text: []}, {"forbid": lambda text: TEXT.split(" ")
    + [*TEXT]}, {"regex": "[0-9]"}], ids=["allow", "forbid", "regex"])  # fmt: skip
def test_rules_that_leave_nothing_at_some_point(rules):
    with pytest.raises(InputError, match="After 'so' the rules leave no symbol"):
        write(READERS["char"], 5, **rules)


@pytest.mark.parametrize(
    ("level", "wrong", "match"),
    [
        ("char", "(", "no regular expression"),
        ("byte", "é", r"xc3"),
        ("char", "", "regex="),
        ("char", 5, "regex="),
    ],
)
def test_a_pattern_that_makes_no_sense(level, wrong, match):
    with pytest.raises(InputError, match=match):
        write(READERS[level], 5, regex=wrong)


def test_an_expression_that_takes_years_is_given_up(monkeypatch):
    """Ctrl-C does not reach into a match: the prompt hung until the process was killed."""
    monkeypatch.setattr("rngru.reader.limits.PATIENCE", 0.05)
    with pytest.raises(InputError, match=r"takes longer than 0\.05 seconds"):
        write(LETTERS, 60, seed="a", rng=1, regex="(a|a)*c")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[regex\]'"):
        write(READERS["char"], 5, regex="a")


@st.composite
def anyrules(draw):
    """Rules of all kinds that leave something."""
    known = list("\n ,adeginostw")
    some = draw(st.lists(st.sampled_from(known), min_size=1, max_size=9, unique=True))
    rules = {"temp": draw(st.sampled_from([0, 0.5, 1.0, 3.0]))}
    kind = draw(st.sampled_from(["allow", "forbid", "allow it", "forbid it", "regex", "none"]))
    if kind in ("allow", "forbid"):
        rules[kind] = some
    if kind.endswith(" it"):
        rules[kind[:-3]] = lambda text: some
    if kind == "regex":
        rules["regex"] = f"[{''.join(some)}]*"
    if draw(st.booleans()):
        rules |= {"top_k": draw(st.integers(1, 9)), "min_p": 0.02, "top_p": 0.9}
    if draw(st.booleans()):
        rules |= {
            "repeat": draw(st.sampled_from([1.2, 5.0])),
            "repeat_last": draw(st.integers(1, 30)),
        }
    if draw(st.booleans()):
        rules["stop"] = draw(st.sampled_from(["t", "so", "\n", "e,"]))
    allowed = (
        set(known) - set(some) if "forbid" in kind else set(known) if kind == "none" else set(some)
    )
    return rules, allowed


@settings(max_examples=80)
@given(anyrules(), st.integers(0, 99), st.sampled_from(["so", "", None]))
def test_no_rule_is_ever_broken(given_rules, number, seed):
    """And the text is the same in whatever pieces it is drawn, side by side, or as a stream."""
    rules, allowed = given_rules
    reader = READERS["char"]
    sample = write(reader, 90, rng=number, seed=seed, **rules)
    assert set(sample.text) <= allowed and "\ufffd" not in sample.text
    stop = rules.get("stop")
    assert stop is None or stop not in sample.text[:-1]
    assert len(sample.text) == 90 or stop is not None and sample.text.endswith(stop)
    for each in write(reader, 30, rng=number, seed=seed, streams=3, **rules):
        assert set(each.text) <= allowed
    for piece in (1, 7):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(generating, "AT_ONCE", piece)
            other = write(reader, 90, rng=number, seed=seed, **rules)
            assert same(sample, other) or "allow" in rules or "forbid" in rules
            assert np.array_equal(sample.ids, other.ids)
            pieces = [*streamed(reader, 90, rng=number, seed=seed, **rules)]
            assert "".join(pieces) == sample.text and all(pieces)


# ---- The first symbol ----


def test_a_first_text_does_not_begin_with_white_space(newmodel, verse):
    """The first thing that a person sees of a new model looked broken: a screen of nothing."""
    vocab = CharSet(verse)
    model, hyper = models.GRUEncode, HyperParams(vocab.vocab_size, state_size=8)
    blank = np.array([char.isspace() for char in vocab.chars])
    weights = model.initial(hyper, np.random.default_rng(1))
    weights = weights | {"c": np.where(blank, 30, 0).astype(np.float32)}
    reader = Reader(model, hyper, vocab, weights, backend("cpu", model, hyper))
    one = write(reader, 200, seed=None)
    assert not one.text[0].isspace() and one.text[1:].isspace()
    assert "".join(streamed(reader, 200, seed=None)) == one.text
    assert all(not each.text[0].isspace() for each in write(reader, 9, seed=None, streams=5))
    assert not beam(reader, 3, 4, seed=None, start=None)[0].text[0].isspace()
    assert write(reader, 9, seed="\n").text.isspace()
    assert write(reader, 9, seed=None, start=one).text.isspace()
    assert write(reader, 9, seed=None, allow=" \n").text.isspace(), "nothing else is allowed"
    assert write(reader, 9, seed=None, regex=r"\s*").text.isspace()
    for level in ("word", "byte"):
        ms = newmodel(verse, level=level)
        for number in range(20):
            assert not ms.generatestring(3, temp=3.0, rng=number).text[0].isspace()


def test_an_empty_seed_keeps_to_the_rules():
    """Its first symbol is drawn from the text, not from the model, and yet must be allowed."""
    reader = made(CharSet("apple\nbanana\ncherry\n"))
    firsts = {write(reader, 3, seed="", rng=n, forbid="a").text[0] for n in range(30)}
    assert firsts == {"b", "c"}
    assert {write(reader, 3, seed="", rng=n, allow="nyr").text[0] for n in range(40)} == set("nyr")
    for sample in write(reader, 3, seed="", streams=20, forbid="ab"):
        assert sample.text[0] == "c"


# ---- Piece by piece ----


def streamed(reader, count, *, seed="so", start=None, rng=5, temp=1.0, **rules):
    how, rng = Sampling(temp, **rules), np.random.default_rng(rng)
    return stream(reader, count, how, seed=seed, start=start, rng=rng)


@pytest.mark.parametrize("piece", [1, 2, 64])
def test_pieces_together_are_the_text(reader, monkeypatch, piece):
    monkeypatch.setattr(generating, "AT_ONCE", piece)
    for rules in ({}, {"stop": "t"}, RULES):
        for seed in ("so", "", None):
            wanted = write(reader, 200, seed=seed, **rules).text
            assert "".join(streamed(reader, 200, seed=seed, **rules)) == wanted
    endless = itertools.islice(streamed(reader, None), 300)
    start = "".join(endless)
    assert len(start) > 200 and write(reader, len(start), seed="so").text.startswith(start[:200])
    assert list(streamed(reader, 0)) == []


@settings(max_examples=200)
@given(st.binary(max_size=60), st.integers(1, 9))
def test_no_character_is_cut(data, piece):
    """Bytes of any kind, of which some are UTF-8: half a character is held back."""

    def pieces():
        for at in range(0, len(data), piece):
            ids = np.frombuffer(data[at : at + piece], np.uint8).astype(np.int32)[:, np.newaxis]
            yield Written(ids, None, None)

    found = list(generating._pieces(ByteSet(), pieces()))
    assert "".join(found) == data.decode("utf-8", "replace") and all(found)
    strict = codecs.getincrementaldecoder("utf-8")()
    try:
        wanted = data.decode()
    except UnicodeDecodeError:
        return
    assert "".join(found) == wanted == strict.decode(data) and "\ufffd" not in "".join(found)


def test_a_stream_uses_the_weights_as_they_were(newmodel, verse):
    """Half a text of one model, half of another."""
    ms = newmodel(verse)
    wanted = ms.generatestring(300, temp=1.0, rng=3).text
    pieces = ms.stream(300, temp=1.0, rng=3)
    ms.trainmodel(train_len=3, batchsize=2, print_every=0, report="silent")
    first = next(pieces)
    ms.trainmodel(train_len=3, batchsize=2, print_every=0, report="silent")
    assert first + "".join(pieces) == wanted
    assert ms.generatestring(300, temp=1.0, rng=3).text != wanted


def test_a_stream_says_at_once_what_is_wrong(newmodel, verse):
    """Not when the first piece is asked for, somewhere else."""
    ms = newmodel(verse)
    for wrong in ({"numchars": -1}, {"temp": -1}, {"seed": 5}, {"forbid": verse}, {"regex": "("}):
        with pytest.raises(InputError):
            ms.stream(**wrong)
    with pytest.warns(UserWarning, match="never seen") as caught:
        ms.stream(5, seed="Ω")
    assert caught[0].filename == __file__


def test_ctrl_c_ends_the_loop_over_a_stream(newmodel, verse):
    """As any loop of the user's; and the next one goes on as if nothing had been."""
    ms, before = newmodel(verse), signal.getsignal(signal.SIGINT)
    pieces, text = ms.stream(temp=1.0, rng=3), ""
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for piece in pieces:
            text += piece
    timer.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert ms.generatestring(len(text), temp=1.0, rng=3).text == text


# ---- The likeliest texts ----


def test_a_beam_that_is_wide_enough_finds_the_likeliest():
    """Of all texts of four symbols, in order."""
    reader = made(CharSet("abc"))
    texts = list(itertools.product((1, 2, 3), repeat=4))
    before = reader.encode("ab")
    each = {text: likely(reader, before, np.array(text)).sum() for text in texts}
    wanted = sorted(each, key=each.get, reverse=True)[:27]
    found = beam(reader, 4, 27, seed="ab", start=None)
    assert [tuple(sample.ids.tolist()) for sample in found] == wanted
    assert [s.logprob for s in found] == pytest.approx([each[t] for t in wanted], abs=1e-4)
    assert len(beam(reader, 1, 27, seed="ab", start=None)) == 3


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("computes", ["cpu", "scan"])
def test_a_beam_is_what_a_loop_keeps(reader, width, computes):
    """Also its states: each text goes on as if it had been the seed."""
    if computes == "scan" and reader.vocab.level != "word":
        return
    reader = made(reader.vocab, *KINDS[reader.vocab.level], computes=computes)
    before, texts = reader.encode("so"), [((), 0.0)]
    for _ in range(12):
        more = []
        for text, total in texts:
            p = probabilities(logits(reader, [*before, *text]), 1.0)
            more += [((*text, i), total + np.log(p[i])) for i in range(len(p)) if p[i] > 0]
        more = [each for each in more if each[0][-1] != reader.vocab.unknown_idx]
        texts = sorted(more, key=lambda each: -each[1])[:width]
    found = beam(reader, 12, width, seed="so", start=None)
    assert [tuple(sample.ids.tolist()) for sample in found] == [text for text, _ in texts]
    for sample in found:
        *_, trace = reader.read(np.concatenate([before, sample.ids[:-1]]))
        np.testing.assert_allclose(sample.state, trace.ending, atol=1e-5)
        assert sample.last == sample.ids[-1] and sample.temp is None and sample.whole[:2] == "so"


def test_a_beam_at_the_prompt(newmodel, verse):
    ms = newmodel(verse)
    found = ms.beam("The ", 20)
    assert isinstance(found, Samples) and len(found) == 8
    assert repr(found).splitlines()[0] == "sample  logprob"
    logprobs = found.columns()["logprob"]
    assert (np.diff(logprobs) <= 0).all() and np.isnan(found.columns()["temp"]).all()
    greedy = ms.beam("The ", 20, 1)[0]
    assert greedy.text == ms.generatestring(20, temp=0, seed="The ").text
    more = ms.generatestring(9, temp=0, init_state=found[2])
    assert more.text == ms.generatestring(9, temp=0, seed=found[2].whole).text
    assert ms.beam(init_state=found[2], numchars=3)[0].seed == found[2].whole
    assert ms.beam("The ", 0)[0].text == ""
    for wrong in ({"numchars": -1}, {"width": 0}, {"seed": ""}, {"seed": 5}):
        with pytest.raises(InputError):
            ms.beam(**wrong)


def test_a_beam_that_is_stopped_has_what_it_found():
    reader = READERS["char"]
    answers = iter([False] * 5 + [True] * 9)
    found = beam(reader, 90, 3, seed="s", start=None, asked=lambda: next(answers))
    assert {len(sample) for sample in found} == {5} and found[0].interrupted
    assert [s.text for s in found] == [s.text for s in beam(reader, 5, 3, seed="s", start=None)]


def test_two_directions_write_no_stream_and_no_beam():
    reader = made(CharSet("abcd"), "BiGRU")
    for call in (
        lambda: streamed(reader, 3, seed="a"),
        lambda: beam(reader, 3, 2, seed="a", start=None),
    ):
        with pytest.raises(InputError, match="fillin"):
            call()


def test_a_backend_of_another_kind_is_enough():
    """What writes asks for nothing but ``generate``."""
    compute = Canned(HyperParams(5))
    reader = Reader(compute.model, compute.hyper, CharSet("abcd"), compute.weights(), compute)
    assert write(reader, 4, seed="a", repeat=2.0).ids.tolist() == [2, 3, 4, 0]
