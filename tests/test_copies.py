"""What of a text stands in the training text, against a search by hand."""

import time
import tracemalloc

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import InputError, WorkdirError
from rngru.reader import Copies, Copy
from rngru.reader.novelty import longest

PARTS = [(1, 1 << 20), (2, 7), (3, 1), (2, 13)]
"""Threads, and symbols that each reads at a time."""


def byhand(corpus, text, least):
    """Lengths and places by comparing every stretch with every place; symbols below 0 match nothing."""
    corpus, text = list(corpus), list(text)
    lengths, places = [0] * len(text), [-1] * len(text)
    for end in range(len(text)):
        for length in range(least, end + 2):
            stretch = text[end + 1 - length : end + 1]
            found = [
                last
                for last in range(length - 1, len(corpus))
                if corpus[last + 1 - length : last + 1] == stretch
            ]
            if found and min(stretch) >= 0:
                lengths[end], places[end] = length, found[0]
    return lengths, places


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
def test_what_is_found_is_what_a_search_by_hand_finds(kind):
    """In small alphabets everything repeats; borders of threads and parts fall everywhere."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        symbols, least = int(rng.integers(1, 5)), int(rng.integers(1, 7))
        corpus = rng.integers(0, symbols, rng.integers(1, 50)).astype(kind)
        text = rng.integers(-1 if rng.random() < 0.3 else 0, symbols, rng.integers(1, 20))
        if rng.random() < 0.4:  # so that there are long stretches, too
            place = int(rng.integers(0, len(corpus)))
            text = np.concatenate([text, corpus[place : place + 12], text])
        expected = byhand(corpus, text, least)
        for threads, block in PARTS:
            lengths, places = longest(corpus, text, least, threads=threads, block=block)
            assert (lengths.tolist(), places.tolist()) == expected


def test_texts_that_repeat_themselves():
    """A filter that is left too early, or too late: periods, with and without a fault, of any phase."""
    pieces = [b"a" * 60, b"ab" * 30, b"aab" * 20, b"a" * 31 + b"b" + b"a" * 31, b"abcabd" * 10]
    for corpus in pieces:
        for text in pieces:
            for least in (2, 20):
                ids, words = np.frombuffer(text, np.uint8), np.frombuffer(corpus, np.uint8)
                lengths, places = longest(words, ids, least, threads=2, block=17)
                for end in range(len(text)):
                    inside = [
                        n for n in range(least, end + 2) if text[end + 1 - n : end + 1] in corpus
                    ]
                    length = max(inside, default=0)
                    first = corpus.find(text[end + 1 - length : end + 1]) + length - 1
                    assert (lengths[end], places[end]) == (length, first if length else -1)


def test_a_stretch_that_begins_within_another():
    """The filter takes over between the two, and must begin with the first window that can be there."""
    letters = np.arange(60, dtype=np.uint8)
    for least in (6, 7, 20):
        for shared in range(least):
            one, other = letters[:30], letters[30 - shared : 30 - shared + least]
            text = np.concatenate([one, [-1], other])
            lengths, places = longest(letters, text, least, threads=1)
            assert (lengths[29], lengths[-1], places[-1]) == (30, least, 29 - shared + least)


def test_the_time_does_not_depend_on_the_texts():
    """Ten thousand spaces stand at two million places: all of them tried would take hours."""
    spaces, blanks = np.zeros(2_000_000, np.uint8), np.zeros(10_000, np.int32)
    longest(spaces[:100], blanks[:50], 20)  # compiled now
    began = time.monotonic()
    lengths, places = longest(spaces, blanks, 20)
    assert lengths.tolist() == [0] * 19 + list(range(20, 10_001))
    assert places[-1] == 9_999 and time.monotonic() - began < 10


def test_what_was_not_written_again_is_told_apart_from_what_was():
    """A long text in which a filter has something to pass over, and false alarms to get over."""
    rng = np.random.default_rng(2)
    corpus, text = (rng.integers(0, 20, size).astype(np.uint8) for size in (300_000, 3_000))
    for begin, place, size in ((100, 4_000, 25), (500, 299_900, 100), (2_980, 0, 20), (900, 7, 19)):
        text[begin : begin + size] = corpus[place : place + size]
    lengths, places = longest(corpus, text, 20, threads=2, block=50_000)
    assert lengths[124] >= 25 and lengths[599] >= 100 and lengths[-1] == 20
    assert (places[124], places[599], places[-1]) == (4_024, 299_999, 19)
    assert lengths[918] == 0 and np.count_nonzero(lengths) < 6 + 81 + 1 + 20


# ---------------------------------------------------------------------------------- of a model


def model(verse, folder, **options):
    """A model of three texts; the last tenth of them is for validation."""
    parts = [verse[:500], verse[500:700], verse[700:]]
    options = {"state_size": 8, "rng": 1, "report": "silent"} | options
    return ModelState.initfromsrcfile(
        Texts(parts, names=["one.txt", "two.txt", "three.txt"]), folder, **options
    )


@pytest.fixture(scope="module")
def ms(tmp_path_factory, verse):
    return model(verse, tmp_path_factory.mktemp("copies") / "work")


def test_a_stretch_is_found_where_it_stands(ms, verse):
    """Counted from the wrong file, or from its wrong end."""
    found = ms.copied("qqqqqqqq" + verse[520:560] + "!?!" + verse[10:35], least=10)
    first, second = found
    assert first == Copy(8, 40, "two.txt", 20, 1 + verse[500:520].count("\n"), ())
    assert second == Copy(51, 25, "one.txt", 10, 1, ())
    assert [each.text for each in found] == [verse[520:560], verse[10:35]]
    assert repr(second).startswith("<Copy of 25: ") and "'one.txt', offset 10" in repr(second)
    assert found.share == pytest.approx(65 / 76) and found.covered.sum() == 65
    assert found.covered[8] and not found.covered[7] and found.covered[-1]


def test_a_stretch_may_go_on_in_the_next_file(ms, verse):
    """All files are one text."""
    (copy,) = ms.copied(verse[680:730])
    assert (copy.file, copy.offset, copy.length) == ("two.txt", 180, 50)
    assert copy.line == 1 + verse[500:680].count("\n")


def test_the_validation_text_does_not_count(ms, verse):
    """What the model was never trained on cannot be copied from there."""
    split = ms._corpus.split
    assert not ms.copied(verse[split:], least=40)
    (copy,) = ms.copied(verse[split - 50 : split + 50], least=40)
    assert (copy.position, copy.length) == (0, 50)


def test_the_longest_stretches_are_listed_and_none_inside_another(ms, verse):
    text = verse[100:150] + verse[130:190] + "?"
    found = ms.copied(text, least=15)
    assert [each.length for each in found] == sorted((e.length for e in found), reverse=True)
    spans = [(each.position, each.position + each.length) for each in found]
    assert all(
        one == other or not (other[0] <= one[0] and one[1] <= other[1])
        for one in spans
        for other in spans
    )
    assert all(
        text[a:b] == each.text and each.text in verse
        for (a, b), each in zip(spans, found, strict=True)
    )


@pytest.mark.parametrize("text", ["", "The shi"])
def test_a_text_that_is_too_short(ms, text):
    """An empty one is a mistake; a short one has nothing of that length."""
    if not text:
        with pytest.raises(InputError, match="at least one character"):
            ms.copied(text)
    else:
        found = ms.copied(text)
        assert len(found) == 0 and found.share == 0
        assert repr(found) == (
            "Nothing is copied: no 20 characters in a row are in the training text."
        )


def test_unknown_symbols_match_nothing(newmodel, verse, tmp_path):
    """U+FFFD stands for what is unknown, in the text and in the corpus: for what, nobody knows."""
    ms = newmodel(verse + "\ufffd" * 50 + verse)
    with pytest.warns(UserWarning, match="never seen"):
        found = ms.copied(verse[:30] + "€" * 40 + verse[:25])
    assert [(each.position, each.length) for each in found] == [(0, 30), (70, 25)]
    assert not ms.copied("\ufffd" * 50, least=3)


@pytest.mark.parametrize("level", ["word", "byte"])
def test_other_levels(tmp_path, verse, level):
    """A stretch is counted in words, or bytes; what is drawn is not split anew."""
    text = verse.replace("Mariner", "Märiner")
    ms = model(text, tmp_path / "work", level=level)
    place = text.index(" ", 300)
    stretch = text[place : text.index(" ", 420)]
    (copy,) = ms.copied("?" + stretch + "?", least=10)
    encoded = ms.chars.encode(text[:place])
    assert (copy.position, copy.offset, copy.text) == (1, len(encoded), stretch)
    assert copy.length == len(ms.chars.encode(stretch))
    assert copy.line == (None if level == "word" else 1 + text[:place].count("\n"))
    assert ms.copied(stretch).units == {"word": "words", "byte": "bytes"}[level]
    sample = ms.generatestring(60, temp=1.0, rng=3)
    assert len(ms.copied(sample, least=2).symbols) == len(sample.ids)


def test_bytes_are_shown_as_the_characters_they_are(newmodel, verse):
    """Half a character at the border of a stretch, or bytes that are none, shown as something else."""
    ms = newmodel("größe" + verse, level="byte")
    found = ms.copied(b"gr\xc3\xb6\xff\xe4\xb8\xad", least=4)
    assert found[0].text == "grö" and found[0].length == 4
    assert "".join(found.symbols) == "grö\ufffd中" and len(found.symbols) == 8


def test_memory_does_not_grow_with_what_overlaps(newmodel, verse):
    """Thirty thousand stretches of as many spaces, each with a text of its own, would be a gigabyte."""
    ms = newmodel(verse + " " * 30_000 + verse * 30)
    tracemalloc.start()
    found = ms.copied(" " * 60_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 30_001 and found.share == 1 and len(repr(found).splitlines()) == 4
    assert peak < 100e6


def test_a_file_is_read(ms, verse, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(verse[:40], encoding="utf-8")
    assert [each.length for each in ms.copied(path)] == [40]


def test_it_stops_between_two_parts(ms, verse):
    """Ctrl-C while a gigabyte is read; what is half known is not told."""
    looks = iter([None, KeyboardInterrupt])

    def check():
        if (look := next(looks)) is not None:
            raise look

    with pytest.raises(KeyboardInterrupt):
        longest(np.zeros(100, np.uint8), np.zeros(30, np.int32), 20, block=10, check=check)


@pytest.mark.parametrize("least", [0, -1, 1.5, None])
def test_a_length_that_makes_no_sense(ms, least):
    with pytest.raises(InputError, match="least"):
        ms.copied("The ship", least=least)


def test_without_the_training_text_it_says_so(newmodel, verse):
    import shutil

    ms = newmodel(verse)
    shutil.rmtree(ms.workdir / "data")
    with pytest.warns(UserWarning):
        again = ModelState.load(ms.workdir)
    with pytest.raises(WorkdirError, match=r"copied\(\) do not"):
        again.copied(verse)


# ---------------------------------------------------------------------------------- how it reads


def test_it_reads_well_at_the_prompt(ms, verse, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = repr(ms.copied(verse[400:1400] + "?" + verse[:60]))
    told, heading, *rows = shown.splitlines()
    assert told == "100 % of 1,061 characters are in the training text: 2 stretches of 20 or more."
    assert heading.split() == ["position", "length", "file", "line", "offset"]
    assert rows[0].split()[:5] == ["0", "1,000", "one.txt", str(1 + verse[:400].count("\n")), "400"]
    assert len(rows) == 2 and all(len(line) <= 80 for line in shown.splitlines())
    assert all("⟪" in row and row.endswith("⟫") for row in rows)


def test_a_row_of_dashes_is_one_line_of_the_table(newmodel, verse):
    """All ten lines would show one row of dashes, begun one dash later each."""
    ms = newmodel(verse + "-" * 60 + verse)
    found = ms.copied("-" * 80 + "?" + verse[:30], least=20)
    assert len(found) == 22 and found.covered.sum() == 110
    *_, one, two, more = repr(found).splitlines()
    assert one.split()[:2] == ["0", "60"] and two.split()[:2] == ["81", "30"]
    assert more == "and 20 more, most of which overlap these"


def test_columns_and_indexing(ms, verse):
    found = ms.copied(verse[:60] + "?" + verse[100:130])
    columns = found.columns()
    assert {len(column) for column in columns.values()} == {2}
    assert columns["length"].tolist() == [60, 30] and list(columns["file"]) == ["one.txt"] * 2
    assert found[1].text == verse[100:130] and [each.length for each in found] == [60, 30]


def test_a_notebook_shows_the_text_and_where_it_is_from():
    found = Copies("<b>x</b>", (Copy(0, 3, "a&b.txt", 5, 7, "<b>x</b>"),), least=3)
    shown = found._repr_html_()
    assert "<b>" not in shown and "a&amp;b.txt, line 7" in shown
    assert shown.count("0.50)") == 3 and "38 %" in shown
