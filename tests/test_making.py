"""A level or a limit that does not suit a text is told, with what is lost; others are not."""

import re

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.corpora import pydoc
from rngru.corpus import Corpus, encodecorpus
from rngru.making import whatislost

HAN = [chr(0x4E00 + n) for n in range(800)]


def spaceless(rng, phrases):
    """Chinese, as far as a tokeniser can tell."""
    chance = 1 / np.arange(1, 801)
    return "".join(
        "".join(rng.choice(HAN, rng.integers(4, 14), p=chance / chance.sum())) + "，"
        for _ in range(phrases)
    )


def told(tmp_path, text, **options):
    """What is said of a text."""
    return whatislost(encodecorpus(Texts([text]), tmp_path / "data", **options))


def test_words_of_a_script_without_spaces(tmp_path):
    """Catches half of a text read as unknown, or as words that come once, without a word about it."""
    text = spaceless(np.random.default_rng(1), 2000)
    said = told(tmp_path, text, level="word", max_vocab=200)
    corpus = Corpus.open(tmp_path / "data")
    train, valid = (100 * np.mean(part.ids == 0) for part in (corpus.train, corpus.valid))
    assert f"{train:.0f} % of the text and {valid:.0f} % of the validation text" in said
    assert "level='char' reads all of it" in said
    said = told(tmp_path, text, level="word")
    assert re.search(
        r"^(49|50) % of the text, counted in words, is words that occur only once", said
    )
    assert "level='char' suits" in said
    assert told(tmp_path, text) == ""


def test_limits_that_lose_much(tmp_path):
    """Catches a limit that is harmless for one alphabet and loses another."""
    text = spaceless(np.random.default_rng(1), 500)
    said = told(tmp_path, text, min_count=20)
    assert "% of the text" in said and "smaller min_count=" in said and "level='byte'" in said
    assert told(tmp_path, text, level="byte") == ""
    text = "so it goes, " * 200 + "\ufffd" * 100
    assert "U+FFFD already: perhaps encoding=" in told(tmp_path, text, trainfrac=0.5)


def test_validation_in_another_language(tmp_path):
    """Catches validation whose words are all unknown, and a loss that looks good for it."""
    for name, text in [
        ("a.txt", "so it goes, " * 500),
        ("b.txt", "und es geht so weiter. "),
    ]:
        (tmp_path / name).write_text(text)
    corpus = encodecorpus(
        tmp_path / "a.txt", tmp_path / "data",
        validfiles=tmp_path / "b.txt", level="word", min_count=3,
    )  # fmt: skip
    assert re.match(r"\d\d % of the validation text, counted in words", whatislost(corpus))


def test_a_new_model_says_what_is_lost(tmp_path, capsys):
    """Catches a share that is counted and told to nobody; or told by a warning to a script that chose it."""
    text = spaceless(np.random.default_rng(1), 2000)
    options = {"level": "word", "max_vocab": 200, "state_size": 4, "report": "plain"}
    ModelState.initfromsrcfile(Texts([text]), tmp_path / "work", **options)
    assert " % of the text and " in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [{}, {"min_count": 5}, {"level": "word"}, {"level": "word", "min_count": 2}]
    + [{"level": "word", "max_vocab": 3000}],
    ids=str,
)
def test_what_suits_a_text_is_not_warned_of(tmp_path, options):
    """Catches a warning for English, whose rare words are few, however long it is."""
    for size in (3000, 60_000, 400_000):
        assert (
            told(tmp_path, pydoc()[:size], **options) == ""
            or size == 3000
            and "min_count" in options
        )
    assert told(tmp_path, "so it goes\nand goes", **options | {"min_count": 1}) == ""
