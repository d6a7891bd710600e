"""Scores of each symbol against a plain softmax, and how they read at the prompt."""

import math
import warnings

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import InputError
from rngru.reader import Comparison, Prediction, Scores, Sums
from rngru.reader.predicting import score

LEVELS = ("char", "word", "byte")
QUIET = {"report": "silent", "print_every": 0}


@pytest.fixture(scope="module", params=LEVELS)
def model(request, tmp_path_factory, verse):
    """A model of each level that has learned a little."""
    folder = tmp_path_factory.mktemp("scores") / request.param
    ms = ModelState.initfromsrcfile(
        Texts([verse]),
        folder,
        level=request.param,
        state_size=12,
        rng=1,
        report="silent",
        seq_len=20,
    )
    ms.trainmodel(train_len=20, learnrate=0.01, **QUIET)
    return ms


def part(text, first, last):
    """From a space to a space, so that no word is cut."""
    return text[text.index(" ", first) if first else 0 : text.index(" ", last)]


def plain(ms, text):
    """Nats, ranks and entropy of each symbol but the first, by a softmax in float64 of one pass."""
    reader = ms._reader
    ids = reader.encode(text)
    logits = np.concatenate([trace.logits[:, 0] for trace in reader.read(ids)]).astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    chosen = [row[i] for row, i in zip(p, ids[1:], strict=False)]
    ranks = [1 + sum(row > row[i]) for row, i in zip(p, ids[1:], strict=False)]
    return -np.log(chosen), np.array(ranks), -(p * np.log(p)).sum(-1)[:-1]


def test_scores_are_those_of_a_softmax(model, verse):
    """One step too early, the wrong base of the logarithm, an entropy of the step after."""
    text = part(verse, 100, 500)
    scores = model.score(text)
    nats, ranks, entropy = plain(model, text)
    assert np.allclose(scores.nats, nats, atol=2e-5) and np.allclose(
        scores.entropy, entropy, atol=2e-5
    )
    assert (scores.ranks == ranks).mean() > 0.999, "a tie may fall either way"
    assert scores.text == text and len(scores) == len(nats)
    assert np.allclose(scores.bits, nats / math.log(2)) and scores.nats.dtype == np.float64
    assert np.allclose(scores.cumulated, np.cumsum(scores.nats))
    assert scores.evaluation.nats == pytest.approx(model.evaluate(text).nats, abs=1e-5)


def test_a_long_text_is_read_in_lanes_as_evaluate_does(model, verse):
    """Positions of lanes mixed up: the mean would still be right."""
    text = verse * 12
    scores = model.score(text)
    assert scores.evaluation.nats == pytest.approx(model.evaluate(text).nats, abs=1e-5)
    assert scores.text == text
    nats, _, _ = plain(model, text)
    assert len(nats) >= 3000 and np.abs(scores.nats - nats).max() < 1e-3


def test_words_and_lines_add_up(model, verse):
    """A symbol at a border counted twice, or not at all."""
    text = part(verse, 0, 600)
    scores = model.score(text)
    for sums in (scores.words(), scores.lines()):
        assert sums.nats.sum() == pytest.approx(scores.nats.sum())
        assert scores.before + "".join(sums.texts) == text
        assert [nats for _, nats in sums] == sums.nats.tolist()
    assert all(text.endswith("\n") for text in scores.lines().texts[:-1])
    whole = scores.bits.sum() / (len(text) - len(scores.before))
    assert scores.bitspercharacter == pytest.approx(whole)


def test_after_a_sample_the_first_symbol_is_scored(model, verse):
    """It has something before it: the sample."""
    sample = model.generatestring(30, rng=1)
    text = model._reader.vocab.decode(model._reader.encode(part(verse, 0, 200)))
    scores = model.score(text, init_state=sample)
    start = model._reader.encode("\n")
    ids = np.concatenate([start, sample.ids, model._reader.encode(text)])
    assert scores.before == "" and scores.text == text
    logits = np.concatenate([trace.logits[:, 0] for trace in model._reader.read(ids)])
    last = logits[-len(scores) - 1 : -1].astype(np.float64)
    nats = np.log(np.exp(last).sum(-1)) - last[np.arange(len(scores)), scores.ids]
    assert np.allclose(scores.nats, nats, atol=1e-4)


def test_two_models_are_compared_symbol_by_symbol(newmodel, verse):
    one, other = (newmodel(verse, rng=seed) for seed in (1, 2))
    one.trainmodel(train_len=40, learnrate=0.01, **QUIET)
    difference = one.score(verse) - other.score(verse)
    means = one.score(verse).nats.mean(), other.score(verse).nats.mean()
    assert difference.mean == pytest.approx(means[0] - means[1])
    low, high = difference.interval()
    assert low < difference.mean < high < 0 and difference.interval() == (low, high)
    assert "the first predicts better" in repr(difference)
    assert "no difference" in repr(one.score(verse) - one.score(verse))
    with pytest.raises(InputError, match="different texts"):
        one.score(verse) - other.score(verse[:-1])


def test_the_interval_is_that_of_the_mean():
    """Of independent numbers: within a tenth of 1.96 standard errors."""
    numbers = np.random.default_rng(3).normal(0.5, 2, 5000)
    low, high = Comparison(numbers).interval()
    error = 1.96 * numbers.std() / math.sqrt(len(numbers))
    assert high - low == pytest.approx(2 * error, rel=0.1)
    assert (low + high) / 2 == pytest.approx(numbers.mean(), abs=0.2 * error)
    assert Comparison(np.full(9, 0.25)).interval() == (0.25, 0.25)


def test_several_texts_and_files(newmodel, verse, tmp_path):
    ms, path = newmodel(verse), tmp_path / "verse.txt"
    path.write_text(verse, encoding="utf-8")
    one, two = ms.score([verse[:50], path])
    assert np.array_equal(one.nats, ms.score(verse[:50]).nats)
    assert np.array_equal(two.nats, ms.score(verse).nats)
    data = newmodel(verse, level="byte")
    assert np.array_equal(data.score(path).nats, data.score(verse.encode()).nats)


@pytest.mark.parametrize("text", ["", "a"])
def test_nothing_to_predict_is_refused(newmodel, verse, text):
    with pytest.raises(InputError):
        newmodel(verse).score(text)


def test_a_model_of_both_directions_scores_every_symbol(newmodel, verse):
    """Each from all the others: the first has something after it."""
    ms = newmodel(verse, modeltype="BiGRU")
    scores = ms.score(verse[:60])
    (trace,) = ms._reader.read(scores.ids)
    last = trace.logits[:, 0].astype(np.float64)
    nats = np.log(np.exp(last).sum(-1)) - last[np.arange(60), scores.ids]
    assert len(scores) == 60 and scores.cloze and np.allclose(scores.nats, nats, atol=1e-5)
    with pytest.raises(InputError, match="fillin"):
        ms.predict("the ")


def test_stopped_it_gives_what_it_has(newmodel, verse, monkeypatch):
    from rngru.reader import reader

    monkeypatch.setattr(reader, "PIECE", 50)
    ms, looks = newmodel(verse), iter([False, True])
    scores = score(ms._reader, verse, asked=lambda: next(looks))
    assert len(scores) == 100 and scores.interrupted and scores.text == verse[:101]
    assert "(interrupted)" in repr(scores)


def test_unknown_is_told_once(newmodel, verse):
    ms = newmodel(verse)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        scores = ms.score("the € ship")
    assert len(told) == 1 and scores.text == "the € ship"


def test_scores_read_well_at_the_prompt(model, verse, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    scores = model.score(part(verse, 0, 300))
    first, heading, *rows = repr(scores).splitlines()
    assert first == repr(scores.evaluation) and heading.split() == [
        "position",
        "nats",
        "rank",
        "entropy",
    ]
    assert len(rows) == 10 and all(len(line) <= 80 for line in (first, heading, *rows))
    surprise = [float(line.split()[1]) for line in rows]
    assert surprise == sorted(surprise, reverse=True)
    assert surprise[0] == pytest.approx(scores.nats.max(), abs=0.01)
    assert repr(scores.words()).endswith(f"The most surprising of {len(scores.words()):,}.")


def test_a_notebook_shows_the_text_and_runs_nothing():
    """A text that is HTML is shown, not obeyed."""
    scores = Scores(
        "<",
        ("<b>", "&", "\x1b"),
        np.arange(3),
        np.array([0.0, 3, 99]),
        np.ones(3, int),
        np.zeros(3),
    )
    shown = scores._repr_html_()
    assert "<b>" not in shown and "&lt;b&gt;" in shown and "&amp;" in shown and "\x1b" not in shown
    assert "0.00)" in shown and "0.50)" in shown and "1.00)" in shown


def test_columns_are_ready_for_a_data_frame(model, verse):
    scores = model.score(part(verse, 0, 80))
    columns = scores.columns()
    assert {len(column) for column in columns.values()} == {len(scores)}
    assert (
        columns["position"][0] == 1
        and "".join(columns["symbol"]) == scores.text[len(scores.before) :]
    )
    sums = Sums(("a", "b"), np.array([1.0, 2.0]))
    assert list(sums.columns()["text"]) == ["a", "b"] and len(sums) == 2


def test_what_comes_next_is_the_models_own_distribution(model):
    """The likeliest first; all of them are one."""
    found = model.predict("the ")
    chances = [chance for _, chance in found]
    assert sum(chances) == pytest.approx(1) and chances == sorted(chances, reverse=True)
    _, outputs = model.trackneurons("the ", ret_output=True)
    assert chances == pytest.approx(sorted(outputs[-1], reverse=True), abs=1e-6)
    vocab = model._reader.vocab
    assert [symbol for symbol, _ in found[:3]] == [
        vocab.charatidx(int(i)) for i in (-outputs[-1]).argsort()[:3]
    ]
    assert isinstance(found, Prediction) and len(repr(found).splitlines()) == 12
    sample = model.generatestring(9, rng=2)
    after = model.predict(model._reader.vocab.decode(sample.ids[-1:]), init_state=sample)
    assert len(after) == vocab.vocab_size
