"""A trained model at one moment: reading, scoring and writing in pieces; and whose line is warned of."""

import dataclasses
import inspect
import linecache
import warnings
from types import SimpleNamespace
from unicodedata import normalize

import numpy as np
import pytest

import rngru
from rngru import ModelState, Texts, checkpoint, making, models
from rngru.backends import backend
from rngru.dataset import DataSet
from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.reader import Reader, filling, generating, inspecting
from rngru.reader import reader as reading
from rngru.reader.generating import generate, generateall, glimpse
from rngru.reader.scoring import evaluate
from rngru.sampling import Filled, Sample, Sampling
from rngru.text import ByteSet, CharSet, WordSet
from tests.models import Canned

TEXT = "so it goes,\nand so it went\n"
EUROS = "größer — 5 € für «ÿ»\n"
VOCABS = {"char": CharSet(TEXT), "word": WordSet(TEXT), "byte": ByteSet(EUROS)}


def made(vocab, modeltype="GRUEncode", seed=2) -> Reader:
    """A small model of a vocabulary, with weights large enough for its states to matter."""
    model, hyper = models.named(modeltype), HyperParams(vocab.vocab_size, state_size=8, layers=2)
    weights = model.initial(hyper, np.random.default_rng(seed))
    weights = {name: array * 3 for name, array in weights.items()}
    return Reader(model, hyper, vocab, weights, backend("cpu", model, hyper))


def canned(symbols: int, looks=()) -> Reader:
    """A reader whose backend computes nothing."""
    compute = Canned(HyperParams(symbols), looks=looks)
    vocab = SimpleNamespace(units="characters", level="char", unknown_in=lambda text: "")
    return Reader(compute.model, compute.hyper, vocab, compute.weights(), compute)


@pytest.fixture(scope="module", params=VOCABS)
def reader(request) -> Reader:
    return made(VOCABS[request.param])


def write(reader, count, *, temp=0.0, seed=None, start=None, rng=None, **options) -> Sample:
    rng = np.random.default_rng(5) if rng is None else rng
    return generate(reader, count, Sampling(temp), seed=seed, start=start, rng=rng, **options)


def restart(*, symbols=60):
    """Ids all over a vocabulary of five."""
    return np.random.default_rng(8).integers(0, 5, symbols).astype(np.int32)


# ---------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("piece", [1, 7, 59, 60, 61])
def test_pieces_give_what_one_trace_gives(monkeypatch, piece):
    """A piece that begins with an empty state, or a symbol lost or read twice between two."""
    reader = made(CharSet("abcd"))
    ids = restart()
    whole = reader.backend.trace(reader.weights, ids[:, np.newaxis], reader.freshstate())
    monkeypatch.setattr(reading, "PIECE", piece)
    pieces = list(reader.read(ids))
    assert [trace.states.shape[1] for trace in pieces[:-1]] == [piece] * (len(pieces) - 1)
    states = np.concatenate([trace.states for trace in pieces], axis=1)
    logits = np.concatenate([trace.logits for trace in pieces])
    np.testing.assert_allclose(states, whole.states, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, whole.logits, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(pieces[-1].ending, whole.ending, rtol=1e-5, atol=1e-6)


def test_reading_goes_on_from_a_state():
    """The state that is given is ignored, or used for each piece."""
    reader, ids = made(CharSet("abcd")), restart()
    (whole,) = reader.read(ids)
    (first,) = reader.read(ids[:23])
    (second,) = reader.read(ids[23:], first.ending)
    np.testing.assert_allclose(second.logits, whole.logits[23:], rtol=1e-5, atol=1e-5)
    (fresh,) = reader.read(ids[23:])
    assert np.abs(fresh.logits - second.logits).max() > 0.01, "the state matters"


def test_a_model_of_both_directions_reads_at_once(monkeypatch):
    """A piece of a text, whose end the backward stack takes for the end of all."""
    reader = made(CharSet("abcd"), "BiGRU")
    monkeypatch.setattr(reading, "PIECE", 7)
    (trace,) = reader.read(restart())
    assert trace.logits.shape == (60, 1, 5)


def test_nothing_to_read_gives_nothing():
    """A kernel called with no symbols."""
    assert list(made(CharSet("abcd")).read(np.empty(0, np.int32))) == []


@pytest.mark.parametrize("wrong", [None, 3, b"so", ["so"], ""], ids=repr)
def test_what_is_no_text_is_refused(wrong):
    """A list read as its first text, or an empty text that fails deep inside."""
    with pytest.raises(InputError, match="^Expected "):
        made(CharSet("abcd")).encode(wrong)


# ---------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize(
    ("start", "stop", "symbols"),
    [
        (0, 300, 300),
        (0, 2, 2),
        (1, 300, 300),
        (120, 121, 300),
        (450, 1500, 2000),
        (700, 25_000, 25_001),
    ],
)
def test_each_symbol_is_predicted_once(start, stop, symbols):
    """The first symbol after a warm-up, or those at the border of two lanes, counted twice or never."""
    # Every symbol of the text is another one, and its loss is its own number.
    reader = canned(symbols, looks=lambda x, y, state: y)
    losses = np.concatenate(list(reader.losses(np.arange(symbols, dtype=np.int32), start, stop)))
    assert np.array_equal(np.sort(losses), np.arange(max(start, 1), stop))


def test_lanes_carry_their_state_and_stop_where_nothing_counts():
    """A state of one chunk forgotten in the next; or hours of reading padding."""
    reader = canned(25_000, looks=lambda x, y, state: y)
    list(reader.losses(np.arange(25_000, dtype=np.int32), 0, 25_000))
    calls, read = reader.backend.calls, 0
    for call in calls:
        assert (call.state[0, :, 0] == read).all()
        read += len(call.x)
    assert len(calls[0].x) == 200
    lanes = calls[0].x.shape[1]
    assert lanes == 32
    assert read <= -(-25_000 // lanes) + 500


def test_the_mean_is_over_all_symbols():
    """A mean of the means of chunks, in which the last, short one counts too much."""
    found = evaluate(canned(300, looks=lambda x, y, state: y), np.arange(300, dtype=np.int32), 10)
    assert found.nats == pytest.approx(np.arange(10, 300).mean())
    assert found.characters == 290
    assert not found.interrupted


def test_a_score_that_was_stopped_says_so():
    """A mean of the beginning sold as that of the text."""
    reader = canned(900, looks=lambda x, y, state: y)
    found = evaluate(reader, np.arange(900, dtype=np.int32), asked=lambda: True)
    assert found.interrupted
    assert (found.characters, found.nats) == (200, pytest.approx(np.arange(1, 201).mean()))


def test_scores_are_those_of_reading():
    """Losses shifted by a symbol: that of each is minus the log of its share after those before."""
    reader, ids = made(CharSet("abcd")), restart()
    (trace,) = reader.read(ids)
    logits = trace.logits[:-1, 0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = -logs[np.arange(59), ids[1:]]
    found = np.concatenate(list(reader.losses(ids, 0, 60)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------- writing


COUNT = 24


@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_a_text_in_two_halves_is_the_text_in_one_piece(reader, temp):
    """A symbol fed twice or never, its character taken for its id, a random number too many."""
    for seed in ("so", ""):
        whole = write(reader, COUNT, temp=temp, seed=seed)
        assert len(whole.ids) == COUNT
        for cut in range(COUNT + 1):
            rng = np.random.default_rng(5)
            first = write(reader, cut, temp=temp, seed=seed, rng=rng)
            if seed == "" and not cut:
                continue  # nothing was begun
            second = write(reader, COUNT - cut, temp=temp, start=first, rng=rng)
            assert np.array_equal(np.append(first.ids, second.ids), whole.ids)
            assert np.array_equal(second.state, whole.state)
            assert second.last == whole.last
            assert second.seed == seed + first.text


def echo(text: str) -> Reader:
    """A byte model that writes ``text`` over and over: its canned backend knows what comes next."""
    data = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    reader = canned(256)

    class Echo(Canned):
        def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None):
            at = int(state[0, 0, 0]) + 1
            written = data[(at + np.arange(len(uniforms))) % len(data)][:, np.newaxis]
            fed = np.vstack([ids[np.newaxis], written[:-1]])
            logprobs = np.zeros(written.shape, np.float32)
            return rngru.backends.Written(written, self._after(fed, state), logprobs)

    compute = Echo(reader.hyper)
    return Reader(compute.model, compute.hyper, ByteSet(), reader.weights, compute)


def test_bytes_cut_inside_a_character():
    """Half a character, shown as U+FFFD, fed to the model as the three bytes of that."""
    reader, size = echo(EUROS), len(EUROS.encode())
    whole = write(reader, size - 1, seed=EUROS[0])
    assert str(whole) == EUROS[1:]
    broken = 0
    for cut in range(size):
        first = write(reader, cut, seed=EUROS[0])
        second = write(reader, size - 1 - cut, start=first)
        ids = np.append(first.ids, second.ids)
        assert reader.vocab.decode(ids) == EUROS[1:]
        broken += str(first) + str(second) != EUROS[1:]
    assert broken > 5, "some cuts lie inside a character"


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
def test_each_symbol_takes_one_random_number(count):
    """A block of numbers drawn for nothing: what the generator draws next depends on the block's size."""
    reader, rng, other = made(VOCABS["char"]), np.random.default_rng(1), np.random.default_rng(1)
    sample = write(reader, count, temp=1.0, seed="so", rng=rng)
    other.random(count)
    assert len(sample.ids) == count
    assert rng.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("seed", ["", "so", None])
def test_nothing_to_write_draws_nothing(reader, seed):
    """One symbol where none was wanted; or a generator that has moved on."""
    rng = np.random.default_rng(1)
    sample = write(reader, 0, seed=seed, rng=rng)
    assert (str(sample), len(sample), len(sample.ids)) == ("", 0, 0)
    assert rng.bit_generator.state == np.random.default_rng(1).bit_generator.state
    assert (sample.last is None) == (seed == "")


def test_no_seed_is_a_newline(reader):
    """A text that begins in the middle of a line, or the seed missing in the record."""
    assert write(reader, 9).seed == "\n"
    (trace,) = reader.read(reader.encode("\n"))
    likely = np.argsort(-trace.logits[0, 0], kind="stable").tolist()
    first = next(i for i in likely if i and not reader.vocab.charatidx(i).isspace())
    assert write(reader, 9).ids[0] == first


def test_a_newline_given_is_a_seed_as_any_other(reader):
    """seed="\\n" taken for "not given" where there is a sample to go on from."""
    start = write(reader, 5, seed="so")
    newline = write(reader, 9, seed="\n", start=start)
    last = reader.vocab.charatidx(start.last)
    after = write(reader, 9, seed=reader.vocab.decode([start.last]) + "\n", start=start.state)
    if last != reader.vocab.unknown_char:  # half a character of several bytes
        assert np.array_equal(newline.ids, after.ids)
    assert newline.seed == "\n"
    behind = np.array([start.last, *reader.encode("\n")], np.int32)
    *_, trace = reader.read(behind, start.state)
    assert newline.ids[0] == trace.logits[-1, 0].argmax()


def test_an_empty_seed_begins_a_line():
    """A symbol that no line begins with; or the drawn symbol missing in what is returned."""
    reader = made(CharSet("x\nso\n\nand\nso"))
    first = {str(write(reader, 3, seed="", rng=np.random.default_rng(i)))[0] for i in range(40)}
    assert first == {"s", "a"}
    assert write(reader, 3, seed="").seed == ""


def test_a_text_without_newlines_has_no_default_seed_and_no_warning():
    """A person who gave no seed warned of a character that they never typed."""
    reader = made(CharSet("soitgoes"))
    sample = write(reader, 5)  # a warning is an error
    assert sample.seed == ""
    assert np.array_equal(sample.ids, write(reader, 5, seed="").ids)
    with pytest.warns(UserWarning, match=r"never seen '\\n'"):
        write(reader, 5, seed="\n")


def test_a_sample_of_another_vocabulary_is_refused():
    """Ids of other symbols, read as if they were ours."""
    reader, other = made(CharSet("abcd")), made(CharSet("wxyz"))
    with pytest.raises(InputError, match="a sample of another model, whose symbols are others"):
        write(reader, 3, start=write(other, 3, seed="x"))
    same = made(CharSet("dcba"), seed=9)
    assert len(write(same, 3, start=write(reader, 3, seed="a"))) == 3


@pytest.mark.parametrize(
    "start", [np.zeros((2, 8)), np.zeros((1, 1, 8)), np.full((2, 1, 8), np.nan), 5], ids=repr
)
def test_a_state_that_does_not_fit_is_refused(start):
    """A kernel reads beyond the end; or nan for ever."""
    with pytest.raises(InputError, match="^init_state has shape"):
        write(made(CharSet("abcd")), 3, seed="a", start=start)


def test_stopping_keeps_what_is_there_and_it_goes_on_exactly():
    """Ctrl-C loses the text so far; or what continues it skips a block."""
    reader = made(VOCABS["char"])
    whole, rng = write(reader, 150, temp=1.0, seed="so"), np.random.default_rng(5)
    answers = iter([False, True, True])
    first = write(reader, 150, temp=1.0, seed="so", rng=rng, asked=lambda: next(answers))
    assert first.interrupted
    assert len(first) == generating.AT_ONCE
    rest = write(reader, 150 - len(first), temp=1.0, start=first, rng=rng)
    assert str(first) + str(rest) == str(whole)
    assert not rest.interrupted


# -------------------------------------------------------------------------- what may be written


def controlled(reader, count, seed=5, **rules):
    """Text at temperature 1, and the generator afterwards."""
    rng = np.random.default_rng(seed)
    how = Sampling(1.0, **rules)
    return generate(reader, count, how, seed=None, start=None, rng=rng), rng


@pytest.mark.parametrize("piece", [1, 7, 64])
def test_a_text_that_stops_is_the_beginning_of_one_that_does_not(reader, monkeypatch, piece):
    """Its state is that of the text, and what it has not drawn is left in the generator."""
    monkeypatch.setattr(generating, "AT_ONCE", piece)
    whole, _ = controlled(reader, 150)
    symbols = [reader.vocab.charatidx(int(i)) for i in whole.ids]
    if reader.vocab.level == "byte":
        pytest.skip("a byte is no text; the next test has them")
    for at in (0, 3, 63, 64, 100):
        stop = "".join(symbols[at : at + 2])
        first = next(n for n in range(150) if stop in "".join(symbols[: n + 1]))
        sample, rng = controlled(reader, 150, stop=stop)
        assert sample.text == "".join(symbols[: first + 1]) and sample.text.count(stop) == 1
        plain, there = controlled(reader, first + 1)
        assert np.array_equal(sample.state, plain.state) and sample.last == plain.last
        assert rng.bit_generator.state == there.bit_generator.state
        rest = generate(reader, 149 - first, Sampling(1.0), seed=None, start=sample, rng=rng)
        assert np.array_equal(np.concatenate([sample.ids, rest.ids]), whole.ids)


def test_a_stop_may_be_of_several_bytes_or_several_texts():
    reader = made(VOCABS["byte"])
    whole, _ = controlled(reader, 3000)
    data = whole.ids.astype(np.uint8).tobytes()
    stops = ["ö", "z!", "ß"]
    ends = [
        data.find(stop.encode()) + len(stop.encode()) for stop in stops if stop.encode() in data
    ]
    sample, _ = controlled(reader, 3000, stop=stops)
    assert sample.bytes == data[: min(ends, default=3000)]
    assert controlled(reader, 20, stop="€" * 30)[0].bytes == data[:20]


def test_a_seed_that_is_drawn_may_be_the_end():
    reader = made(VOCABS["char"])
    sample = generate(
        reader, 9, Sampling(stop=list("abcdefghijklmnopqrstuvwxyz")), seed="", start=None,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    assert len(sample.text) == 1


def test_only_what_is_allowed_is_written(reader):
    """And with the same numbers as from a model that gives the rest no probability."""
    known = [reader.vocab.charatidx(i) for i in range(reader.vocab.vocab_size)]
    if reader.vocab.level == "byte":
        known = list("abcdefg")
    some = known[2:6]
    allowed, _ = controlled(reader, 80, allow=some)
    assert {reader.vocab.charatidx(int(i)) for i in allowed.ids} <= set(some)
    others, _ = controlled(reader, 80, forbid=some)
    assert not {reader.vocab.charatidx(int(i)) for i in others.ids} & set(some)
    barred = reader.barred(Sampling(allow=some))
    both = reader.barred(Sampling(allow=some, forbid=some[:1]))
    assert (~barred).sum() == 4 and (~both).sum() == 3
    masked = dict(
        reader.weights, c=reader.weights["c"] + np.where(barred, -1e9, 0).astype(np.float32)
    )
    same, _ = controlled(dataclasses.replace(reader, weights=masked), 80)
    assert np.array_equal(same.ids, allowed.ids)


@pytest.mark.parametrize("seed", ["\n", "so"])
def test_streams_are_each_as_if_alone(reader, seed):
    """A column of the random numbers each, the same start, a state that goes on exactly."""
    count, streams = 90, 3
    rng = np.random.default_rng(5)
    samples = generateall(
        reader, count, Sampling(1.0), streams, seed=seed, start=None, rng=np.random.default_rng(5)
    )
    uniforms = np.concatenate([rng.random((64, streams)), rng.random((26, streams))])
    ids = reader.encode(seed)
    state = reader.freshstate()
    for trace in reader.read(ids[:-1]):
        state = trace.ending
    for b, sample in enumerate(samples):
        alone = reader.write(ids[-1:], state, Sampling(1.0), uniforms[:, b : b + 1])
        assert np.array_equal(sample.ids, alone.ids[:, 0])
        assert np.array_equal(sample.state, alone.ending)
    assert len({sample.text for sample in samples}) == streams


def test_streams_stop_each_where_it_ends():
    reader = made(VOCABS["char"])
    how, rng = Sampling(1.0, stop="s"), np.random.default_rng(5)
    samples = generateall(reader, 200, how, 9, seed=None, start=None, rng=rng)
    assert {sample.text.count("s") for sample in samples} == {1}
    assert all(sample.text.endswith("s") for sample in samples)
    for sample in samples:
        ids = np.concatenate([reader.encode("\n"), sample.ids])[:-1]
        *_, trace = reader.read(ids)
        assert np.allclose(sample.state, trace.ending, atol=1e-6)
        assert sample.last == sample.ids[-1]


def test_streams_without_a_seed_begin_each_with_a_symbol_of_its_own():
    reader = made(CharSet("a\nb\nc\nd\n"))
    rng = np.random.default_rng(1)
    samples = generateall(reader, 5, Sampling(1.0), 40, seed="", start=None, rng=rng)
    assert len({sample.text[0] for sample in samples}) > 1
    assert {len(each) for each in samples} == {5}


def test_streams_at_the_prompt(newmodel, verse, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    ms = newmodel(verse)
    samples, states = ms.generatestring(60, streams=5, rng=1, ret_state=True)
    assert states.shape == (2, 5, 8) and len(samples) == 5
    lines = repr(samples).splitlines()
    assert len(lines) == 6 and all(len(line) <= 40 for line in lines)
    assert ms.generatestring(60, streams=5, rng=1)[4].text == samples[4].text
    again = ms.generatestring(9, init_state=samples[2], rng=3)
    assert again.seed == samples[2].seed + samples[2].text
    with pytest.raises(InputError, match="streams"):
        ms.generatestring(streams=0)


@pytest.mark.parametrize(
    "rules", [{"allow": "XYZ"}, {"forbid": TEXT}, {"allow": "s", "forbid": "s"}]
)
def test_a_rule_that_leaves_nothing_is_refused(rules):
    with pytest.raises(InputError, match="leave no symbol"):
        controlled(made(VOCABS["char"]), 5, **rules)


@pytest.mark.parametrize("wrong", ["", [], [""], 5, [1], ("a", None)])
def test_a_stop_that_is_no_text_is_refused(wrong):
    with pytest.raises(InputError, match="stop"):
        Sampling(stop=wrong)


def test_a_glimpse_is_a_hundred_symbols_after_one_that_begins_a_line():
    """The symbol that nobody drew from the model shown as if it had."""
    reader = made(VOCABS["char"])
    state = np.full((2, 1, 8), 0.25, np.float32)
    data = DataSet.fromtext(TEXT, reader.vocab)
    shown = glimpse(reader, state, data, 0, np.random.default_rng(3))
    rng = np.random.default_rng(3)
    seed = reader.vocab.semirandomch(rng)
    assert shown == str(write(reader, 100, temp=0.5, seed=seed, start=state, rng=rng))


def test_two_directions_cannot_write_on_and_one_cannot_fill():
    """Text from a model that has not learned to predict from the left alone."""
    with pytest.raises(InputError, match="fillin"):
        write(made(CharSet("abcd"), "BiGRU"), 3, seed="a")
    with pytest.raises(InputError, match="BiGRU"):
        filling.fillgaps(made(CharSet("abcd")), "a_c", "_", 1, check=lambda: None)


# ---------------------------------------------------------------------------------- records


@pytest.mark.parametrize("kind", [Sample, Filled])
def test_a_record_shows_signs_and_is_text(kind):
    """A model of bytes clears the screen, or sets the title of the window; or str() is not its text."""
    text = "a\x1b[2J\x00\x07\r\x7f\x9b31m\u202eb\n\tc"
    record = kind(text, np.zeros((1, 1, 4), np.float32) if kind is Sample else ())
    assert repr(record) == "a␛[2J␀␇␍␡\\x9b31m\\u202eb\n\tc"
    assert str(record) == text
    assert f"{record}" == text


# ------------------------------------------------------------------------- whose line it is


def points_here(caught, call: str) -> bool:
    """Whether one warning was given, at a line of this file that has ``call`` in it."""
    (warning,) = caught
    return warning.filename == __file__ and call in linecache.getline(__file__, warning.lineno)


def test_warnings_of_reading_and_writing_point_at_the_caller(newmodel):
    """A frame too few or too many: a line of rngru's that the person has never seen."""
    ms = newmodel(TEXT * 20)
    with pytest.warns(UserWarning, match="never seen 'Ω'") as caught:
        ms.evaluate("so Ω")
    assert points_here(caught, "ms.evaluate(")
    with pytest.warns(UserWarning, match="never seen 'Ω'") as caught:
        ms.generatestring(3, seed="Ω")
    assert points_here(caught, "ms.generatestring(3")
    with pytest.warns(UserWarning, match="never seen 'Ω'") as caught:
        rngru.generatestring(ms, 3, seed="Ω")
    assert points_here(caught, "rngru.generatestring(ms")
    with pytest.warns(UserWarning, match="never seen 'Ω'") as caught:
        ms.trackneurons("Ω")
    assert points_here(caught, "ms.trackneurons(")


def test_the_warning_of_filling_points_at_the_caller(newmodel):
    """As above: another way through the house."""
    ms = newmodel(TEXT * 20, modeltype="BiGRU", layers=1)
    with pytest.warns(UserWarning, match="never seen 'Ω'") as caught:
        ms.fillin("s_ Ωt goes")
    assert points_here(caught, "ms.fillin(")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ms.fillin("s_ it \ufffdgoes")


def test_warnings_of_loading_point_at_the_caller(newmodel):
    """As above: each warning of loading has a depth of its own."""
    ms = newmodel(TEXT * 20)
    folder = ms.workdir / "checkpoints"
    arrays, meta = checkpoint.load(folder / "0")
    checkpoint.save(folder, 1, arrays, meta | {"versions": meta["versions"] | {"numpy": "9.9"}})
    with pytest.warns(UserWarning, match="numpy 9.9") as caught:
        ModelState.load(ms.workdir)
    assert points_here(caught, "ModelState.load(")
    (ms.workdir / "checkpoints" / "1" / "arrays.npz").unlink()
    with pytest.warns(UserWarning, match="Checkpoint 0 is used instead") as caught:
        ModelState.load(ms.workdir)
    assert points_here(caught, "ModelState.load(")
    checkpoint.discard(folder, 1)
    (ms.workdir / "data").rename(ms.workdir / "elsewhere")
    with pytest.warns(UserWarning, match="can generate and score, but not train") as caught:
        ModelState.load(ms.workdir)
    assert points_here(caught, "ModelState.load(")


def test_the_warning_of_a_new_model_points_at_the_caller(tmp_path, monkeypatch):
    """As above, from inside two with statements."""
    monkeypatch.setattr(making, "LARGE_VOCABULARY", 3)
    with pytest.warns(UserWarning, match="different characters: training will take") as caught:
        ModelState.initfromsrcfile(Texts([TEXT * 20]), tmp_path, state_size=8, report="silent")
    assert points_here(caught, "ModelState.initfromsrcfile(")


def test_this_file_is_what_it_says():
    """linecache finds no line, and the tests above would pass with any."""
    assert inspect.getsourcefile(points_here) == __file__
    assert "def points_here" in linecache.getline(__file__, points_here.__code__.co_firstlineno)


# ------------------------------------------------------------------- two spellings of one letter

FRENCH = "un café à la crème, s'il vous plaît\n"
SPELT = {"NFC": "as one character", "NFD": "apart"}


@pytest.mark.parametrize("level", [CharSet, WordSet])
@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_letters_are_found_in_either_spelling(level, form, other):
    """An accented letter unknown to a model whose text is full of it, because a keyboard composes it."""
    reader = made(level(normalize(form, FRENCH)))
    expected = reader.encode(normalize(form, "café à"))  # a warning is an error
    with pytest.warns(UserWarning, match=f"{SPELT[form]}, .*normalize.'{form}'") as caught:
        assert np.array_equal(reader.encode(normalize(other, "café à")), expected)
    assert len(caught) == 1 and "U+0301" in str(caught[0].message)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_every_reader_of_a_text_respells_it(form):
    """A verb that reads what was typed past the one place where it is respelt."""
    typed = normalize("NFD" if form == "NFC" else "NFC", "crème")
    forwards, both = (
        made(CharSet(normalize(form, FRENCH))),
        made(CharSet(normalize(form, FRENCH)), "BiGRU"),
    )
    for call in (
        lambda: write(forwards, 3, seed=typed),
        lambda: inspecting.track(forwards, typed, 1.0),
        lambda: filling.fillgaps(both, f"caf_ {typed}", "_", 1, check=int),
    ):
        with pytest.warns(UserWarning, match=f"normalize.'{form}'") as caught:
            call()
        assert len(caught) == 1


def test_a_text_that_is_no_better_in_another_form_stays_as_it_is():
    """Letters of a text changed for nothing; or a long text normalised for one emoji."""
    reader = made(CharSet(normalize("NFD", "café") + "ñ"))
    assert np.count_nonzero(reader.encode("ñ" + normalize("NFD", "é")) == 0) == 0
    with pytest.warns(UserWarning, match="never seen 'ü☃'"):
        assert np.count_nonzero(reader.encode("caf☃ü") == 0) == 2
    assert made(ByteSet()).encode("é").size == 2


def test_a_mark_alone_is_named_by_its_number():
    """An accent shown on the quote before it, where nobody can see or copy it."""
    with pytest.warns(UserWarning, match=r"never seen 'x', U\+0308, U\+0C3F; read"):
        made(CharSet("abc")).encode("a\u0308b\u0c3fx")
    with pytest.warns(UserWarning, match=r"never seen 'naïve', U\+0301; read"):
        made(WordSet("a b")).encode("a naïve \u0301")
    with pytest.warns(UserWarning, match=r"never seen U\+0301; read"):
        made(CharSet("abc")).encode("a\u0301")
