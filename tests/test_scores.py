"""Scores of each symbol against a plain softmax, and how they read at the prompt."""

import math
import re
import warnings

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import InputError, TextError
from rngru.plots import savepicture
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


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_interval_of_a_short_text_is_never_nan(newmodel, verse, count):
    """One symbol tells nothing, and is no proof that one model is better."""
    one, other = (newmodel(verse, rng=seed) for seed in (1, 2))
    difference = one.score(verse[: count + 1]) - other.score(verse[: count + 1])
    low, high = difference.interval()
    assert low <= difference.mean <= high
    if count == 1:
        assert (low, high) == (-math.inf, math.inf) and "no difference can be told" in repr(
            difference
        )
    with pytest.raises(InputError, match="level"):
        difference.interval(level=1.5)


def test_models_of_two_texts_are_compared(newmodel, verse):
    """Their ids differ, and mean the same symbols."""
    one, other = newmodel(verse), newmodel(verse + "äöü 123")
    difference = one.score("The ship, the") - other.score("The ship, the")
    nats = one.score("The ship, the").nats - other.score("The ship, the").nats
    assert np.array_equal(difference.nats, nats)
    pair = newmodel(verse, level="byte"), newmodel(verse, level="byte")
    with pytest.raises(InputError, match="different texts"):
        pair[0].score("The é") - pair[1].score("The è")
    with pytest.raises(InputError, match="whose symbols are others"):
        one.score("The ship") - pair[0].score("The ship")


def test_a_comparison_shows_where_two_models_differ_most(newmodel, verse, monkeypatch):
    """The largest difference, of either sign, first."""
    monkeypatch.setenv("COLUMNS", "80")
    one, other = (newmodel(verse, rng=seed) for seed in (1, 2))
    one.trainmodel(train_len=40, learnrate=0.01, **QUIET)
    text = verse[:300]
    difference = one.score(text) - other.score(text)
    _, _, heading, *rows = repr(difference).splitlines()
    assert heading.split() == ["position", "difference", "first", "second"] and len(rows) == 10
    shown = [float(row.split()[1]) for row in rows]
    assert np.allclose(np.abs(shown), np.sort(np.abs(difference.nats))[::-1][:10], atol=0.006)
    for row in rows:
        place, gap, first, second = map(float, row.split()[:4])
        assert gap == pytest.approx(first - second, abs=0.011)
        assert f"[{text[int(place)]}]".replace("\n", "⏎") in row
    assert all(len(line) <= 80 for line in repr(difference).splitlines())
    columns = difference.columns()
    assert np.array_equal(columns["first"] - columns["second"], columns["difference"])
    assert "".join(columns["symbol"]) == text[1:] and len(difference) == 299
    page = difference._repr_html_()
    assert "rgba(214,47,39" in page and "rgba(33,102,172" in page and "<table>" in page


def test_several_texts_and_files(newmodel, verse, tmp_path):
    ms, path = newmodel(verse), tmp_path / "verse.txt"
    path.write_text(verse, encoding="utf-8")
    one, two = ms.score([verse[:50], path])
    assert np.array_equal(one.nats, ms.score(verse[:50]).nats)
    assert np.array_equal(two.nats, ms.score(verse).nats)
    data = newmodel(verse, level="byte")
    assert np.array_equal(data.score(path).nats, data.score(verse.encode()).nats)


def test_several_texts_are_evaluated_as_one(model, verse):
    """A mean of means, in which a short text counts as much as a long one; a state that is carried on."""
    texts = [part(verse, 0, 400), part(verse, 500, 560), part(verse, 700, 1500)]
    each = [model.evaluate(text) for text in texts]
    found = model.evaluate(texts)
    assert found.characters == sum(one.characters for one in each)
    assert found.nats == pytest.approx(
        sum(one.nats * one.characters for one in each) / found.characters, rel=1e-6
    )
    written = sum(one.written for one in each)
    assert found.bitspercharacter == pytest.approx(found.bits * found.characters / written)
    assert model.evaluate(text for text in texts).nats == found.nats


def test_a_text_is_evaluated_from_a_start(model, verse):
    """As it is scored from there; after a sample the first symbol counts, too."""
    sample, text = model.generatestring(40, temp=1.0, rng=2), part(verse, 100, 1400)
    for start, first in ((sample, 0), (sample.state, 1)):
        scores, found = model.score(text, start), model.evaluate(text, start)
        assert found.characters == len(scores) == len(model._reader.encode(text)) - first
        assert found.nats == pytest.approx(scores.nats.mean(), abs=1e-5)
        assert found.bitspercharacter == pytest.approx(scores.bitspercharacter, abs=1e-4)
        assert model.evaluate([text, text], start).nats == pytest.approx(found.nats, abs=1e-6)
    with pytest.raises(InputError, match="give the text, too"):
        model.evaluate(init_state=sample)


def test_bits_per_character_compare_levels(newmodel, verse):
    """Bits per byte, or per word, sold as bits per character."""
    text = verse.replace("e", "é")
    for level in LEVELS:
        ms = newmodel(text, level=level)
        whole = ms.evaluate(text)
        first = ms._reader.symbols(text)[0]
        rest = len(text) - len(first)
        assert whole.written == rest
        assert whole.bitspercharacter * rest == pytest.approx(whole.bits * whole.characters)
        valid, split = ms.evaluate(), ms._corpus.split
        ids = ms._corpus.ids[split:]
        if level == "byte":
            assert valid.written == sum(byte & 0xC0 != 0x80 for byte in ids.tolist())
            assert "bits per character" in repr(valid)
        else:
            assert valid.written == len(ms.chars.decode(ids))


def test_bits_per_character_are_not_guessed(newmodel, verse):
    """Bytes that are no text have no characters, and nobody knows how long an unknown word was."""
    data = newmodel(verse, level="byte")
    assert data.evaluate(b"\xff\xfe\x00\x80" * 9).bitspercharacter is None
    assert data.score(b"\xff\xfe\x00\x80" * 9).bitspercharacter is None
    words = newmodel(verse, level="word", max_vocab=20)
    assert words.evaluate().bitspercharacter is None and "bits," in repr(words.evaluate())
    with pytest.warns(UserWarning, match="does not know"):
        assert words.evaluate(verse[:31]).written == 31 - 2, "what was given is known"


@pytest.mark.parametrize("call", ["score", "evaluate"])
def test_what_is_no_text_is_told(newmodel, verse, tmp_path, call):
    """An empty list as the mean of nothing, a directory as all texts in it, a mistake in some item."""
    ms, data = newmodel(verse), newmodel(verse, level="byte")
    for model in (ms, data):
        ask = getattr(model, call)
        with pytest.raises(InputError, match="an empty list"):
            ask([])
        with pytest.raises(InputError, match="is a directory"):
            ask(tmp_path)
        with pytest.raises(TextError, match="no-such-file"):
            ask(tmp_path / "no-such-file.txt")
        with pytest.raises(InputError, match=r"^Text 2: Expected a text"):
            ask(["The ship", ""])
        with pytest.raises(InputError, match="got int"):
            ask(5)
        with pytest.raises(InputError, match="Give at least 2"):
            ask(["a"])


def test_a_model_of_both_directions_has_two_starts(newmodel, verse):
    """A state that is quietly ignored."""
    ms = newmodel(verse, modeltype="BiGRU")
    for ask in (ms.score, ms.evaluate):
        with pytest.raises(InputError, match="both directions"):
            ask(verse[:50], init_state=ms._reader.freshstate())


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


def test_pieces_of_a_long_text_say_where_they_are(newmodel, verse, monkeypatch):
    """Lanes read from all over a text; a position counted in what was read is that of another word."""
    text = verse * 8
    ms, looks = newmodel(text), iter([False] * 3 + [True])
    scores = score(ms._reader, text, asked=lambda: next(looks))
    assert scores.interrupted and 1000 < len(scores) < len(text) - 1
    assert all(
        text[at] == symbol for at, symbol in zip(scores.positions, scores.symbols, strict=True)
    )
    for row in repr(scores).splitlines()[2:]:
        at, around = int(row.split()[0].replace(",", "")), row[row.index("[") + 1 :]
        assert text[at:].replace("\n", "⏎").startswith(around.replace("]", "", 1))


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


def test_a_terminal_shows_the_text_in_colour(model, verse, monkeypatch, shown):
    """As much of it as fits above the table; others get no colour, and no text twice."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    scores = model.score(part(verse, 0, 1500))
    lines = shown(scores).splitlines()
    assert lines[0] == repr(scores.evaluation) and len(lines) <= 22
    place = next(number for number, line in enumerate(lines) if line.startswith("position"))
    text = re.sub(r"\x1b\[[\d;]*m|⏎", "", "\n".join(lines[1 : place - 1]))
    assert verse.startswith(text) and len(text) > 200 and lines[place - 1] == "…"
    assert "\x1b" not in repr(scores) and len(repr(scores).splitlines()) == 12
    short = shown(model.score(part(verse, 0, 90))).splitlines()
    assert "…" not in short and "position" in short[-11]


def test_bytes_of_one_character_are_shown_as_it(newmodel, verse, shown):
    """Half a character shows as nothing that anybody has written."""
    scores = newmodel(verse, level="byte").score("größe 中\n")
    for text in (shown(scores).split("position")[0], scores._repr_html_()):
        assert "ö" in text and "中" in text and "\ufffd" not in text
    assert "".join(scores.words().texts) == "röße 中\n"


def test_sums_in_a_notebook(model, verse):
    scores = model.score(part(verse, 0, 600))
    page = scores.lines()._repr_html_()
    assert page.count('nats"') == len(scores.lines()) and "1.00)" in page and "<table>" in page


def test_scores_are_drawn(model, verse, tmp_path):
    """A bar for each symbol of a short text, with its name; the mean of a long one where it is."""
    short = model.score(part(verse, 0, 60))
    bands = short.plot().axes
    assert np.allclose([bar.get_height() for axes in bands for bar in axes.patches], short.bits)
    assert all(axes.get_ylim() == (0, pytest.approx(1.05 * short.bits.max())) for axes in bands)
    names = "".join(label.get_text() for axes in bands for label in axes.get_xticklabels())
    assert names.replace("·", " ").replace("↵", "\n") == "".join(short.symbols)
    long = model.score(verse)
    figure = long.plot()
    curve, mean = figure.axes[0].lines
    x, y = curve.get_xdata(), curve.get_ydata()
    wide = max(len(long) // 100, 10) // 2
    assert y[7] == pytest.approx(long.bits[x[7] - 1 - wide : x[7] - 1 + wide].mean())
    assert mean.get_ydata()[0] == pytest.approx(long.bits.mean())
    assert savepicture(figure, tmp_path / "scores.png").stat().st_size > 1000


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
    after = model.predict("the", init_state=sample)
    assert len(after) == vocab.vocab_size
