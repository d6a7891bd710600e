"""Text ↔ ids: every level gives texts back, however they are cut into pieces, or says why not."""

import builtins
import io
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rngru.errors import CheckpointDamaged, InputError, TextError
from rngru.text import (
    LEVELS,
    ByteSet,
    CharSet,
    Texts,
    Tokens,
    WordSet,
    opentexts,
    readtext,
    sources,
    tokens,
    vocabularyfromjson,
    wordset,
)

TRICKY = (
    "Ünïcode “quotes”, it's a well-known\r\n\r\n  fact:\n"
    "日本語 text — and 😀 emoji_2 don't-\n'tis a--b"
)
# Every rule of a token meets every other; code points of one to four bytes in UTF-8.
alphabet = st.sampled_from("ab_1é日😀'’-.,!“\n\r\t \u00a0\u2028\ufffd\0")
texts = st.text(alphabet, min_size=1, max_size=60) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40
)


def made(level, text, **limits):
    vocab = LEVELS[level]
    tally = vocab.tally([text])
    return vocab.fromcounts(tally.counts, tally.linestarts, **limits)


# Characters, words and bytes


@pytest.mark.parametrize("level", LEVELS)
@given(text=texts)
def test_decoding_gives_the_text_back(level, text):
    """Catches ids that wrap, and tokens that lose white space or punctuation."""
    vocab = made(level, text + "!")
    ids = vocab.encode(text)
    assert vocab.decode(ids) == text
    assert ids.dtype == vocab.dtype
    assert not vocab.unknown_in(text)


# What readers of text stumble over: line ends, marks, what joins or combines, what is no character.
AWKWARD = [
    *("\r\n", "\r", "\n\r", "\n", "\x85", "\u2028", "\0", "\x1a", "\x1b"),
    *("\ufeff", "\ufffe", "\uffff", "\ufffd", "\U0010ffff", "\u200d", "\u202e", "\ufe0f"),
    *("\u0301", "e\u0301", "\u00e9", "\u1100\u1161", "\u0130", "\u00df", "\U0001f1e6"),
    *("\U0001f468\u200d\U0001f469", "\u2019", "'", "-", "_", " "),
]
unicode = st.lists(
    st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    max_size=30,
).map("".join)


@settings(max_examples=1000)
@pytest.mark.parametrize("level", LEVELS)
@given(text=unicode, block=st.integers(1, 9) | st.just(1 << 17))
def test_any_unicode_at_all_comes_back(level, text, block):
    """Catches text that is normalised, translated, cut at a NUL or between blocks, or stripped of
    a mark that is not at its start; what looks binary is refused, and bytes are suggested.
    """
    data = text.encode()
    words = tokens(text.removeprefix("\ufeff"))
    counts = Counter({"char": text, "word": words, "byte": b""}[level])
    vocab = LEVELS[level].fromcounts({**counts, "!": 1} if level != "byte" else counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        (document,) = opentexts(Texts([text]))
        if level != "byte" and data[:block].count(0) * 100 > len(data[:block]):
            with pytest.raises(TextError, match="binary.*level='byte'"):
                list(vocab.pieces(document))
            return
        ids = [vocab.encode(piece) for piece in vocab.pieces(document)]
    whole = np.concatenate([*ids, np.zeros(0, vocab.dtype)])
    assert vocab.decode(whole) == (text if level == "byte" else text.removeprefix("\ufeff"))
    assert level != "byte" or whole.tobytes() == data


@settings(max_examples=30)
@pytest.mark.parametrize("level", LEVELS)
@given(before=unicode, half=st.characters(categories=["Cs"]), after=unicode)
def test_half_a_surrogate_pair_is_refused_or_unknown(level, before, half, after):
    """Catches a corpus that cannot be written, and bytes that are no UTF-8 made up in silence."""
    text, place = before + half + after, f"surrogate.* at character {len(before):,}:"
    with pytest.raises(TextError, match=f"(?s){place}"):
        opentexts(Texts([text]))
    vocab = made(level, "abc")
    if level == "byte":
        for use in (vocab.encode, vocab.split):
            with pytest.raises(TextError, match=f"(?s){place}"):
                use(text)
    else:
        assert half in vocab.unknown_in(text)
        assert vocab.unknown_char in vocab.decode(vocab.encode(text))


def test_the_fast_split_tells_all_words_apart():
    """Catches hashes that mix up words of the same letters, runs of one, and words lost in growing."""
    many = [f"{a:b}" for a in range(3000)] + [" " * n for n in range(1, 3000)]
    text, seen = "".join(f"{word}." for word in many), Tokens()
    which, words = seen.number(text), seen.words()
    assert [words[n] for n in which] == tokens(text)
    assert len(words) == len({*many, "."})


def test_a_token_longer_than_all_before():
    """Catches one that finds no room."""
    seen = Tokens()
    for word in ("a", "b" * 100_000, "c" * 1_000_000, "a"):
        (which,) = seen.number(word)
        assert seen.words()[which] == word
    assert seen.size == 3


@given(
    words=st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "e", "fff"])),
    kept=st.sets(st.integers(0, 5)),
)
def test_tokens_that_are_kept_stay_what_they_are(words, kept):
    """Catches words that run into each other when those between them are forgotten."""
    seen = Tokens()
    for word in words:
        seen.number(word)
    before = seen.words()
    keep = np.array([n in kept for n in range(seen.size)], bool)
    seen.keep(keep)
    assert seen.words() == [word for word, stays in zip(before, keep, strict=True) if stays]
    which = [int(seen.number(word)[0]) for word in words]
    assert [seen.words()[n] for n in which] == words


@given(st.lists(st.sampled_from(["a", "it's", "b-c", ",", "日本", "a--b"])), st.integers(6, 9))
def test_long_texts_are_worked_on_in_parts(words, size):
    """Catches a word cut in two where a long text is."""
    text = " ".join(words)
    vocab = WordSet(text + "!")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wordset, "PIECE", size)
        assert vocab.decode(vocab.encode(text)) == text
        assert len(vocab.encode(text)) == len(tokens(text))
        assert WordSet.tally([text]).counts == Counter(tokens(text))


def test_characters_are_sorted_after_unknown():
    """Catches an order that depends on the process, as that of a set."""
    chars = CharSet("zebra \ufffd\nÄ")
    assert chars.chars == "\ufffd\n aberzÄ"
    assert [chars.idxofchar(char) for char in chars.chars] == list(range(8 + 1))
    assert chars.charatidx(0) == chars.unknown_char
    assert chars.unknown_idx == 0


@pytest.mark.parametrize(
    ("size", "dtype"), [(2, "u1"), (255, "u1"), (256, "u1"), (257, "u2"), (65536, "u2")]
)
def test_smallest_type_holds_every_id(size, dtype):
    """Catches the wrap of 130 to -126 with signed bytes, and off-by-one at 256 ids."""
    text = "".join(chr(0x10000 + n) for n in range(size - 1))
    chars = CharSet(text)
    assert (chars.vocab_size, chars.dtype) == (size, np.dtype(dtype))
    assert chars.encode(text).tolist() == list(range(1, size))


def test_unknown_symbols():
    """Catches unknown characters that are mapped silently, or to a known one."""
    chars = CharSet("abc")
    assert chars.encode("aXbY").tolist() == [1, 0, 2, 0]
    assert chars.decode(chars.encode("aX")) == "a\ufffd"
    assert chars.unknown_in("XaYX") == "XY"
    words = WordSet("a b")
    assert words.encode("a quick b").tolist() == [2, 1, 0, 1, 3]
    assert words.unknown_in("a quick b") == "quick"
    assert ByteSet().unknown_in("anything") == ""


@pytest.mark.parametrize("level", LEVELS)
def test_impossible_ids_are_refused(level):
    """Catches negative ids that index from the end."""
    vocab = made(level, "abc")
    for wrong in ([-1], [vocab.vocab_size], np.array([[1]]), np.array([0.5])):
        with pytest.raises(InputError):
            vocab.decode(wrong)
    assert vocab.decode([]) == ""


def test_one_symbol_at_a_time():
    """Catches a string, or half a byte sequence, taken for one symbol."""
    for vocab in (CharSet("abc"), ByteSet()):
        with pytest.raises(InputError, match="one"):
            vocab.idxofchar("ab")
    with pytest.raises(InputError, match="2 bytes"):
        ByteSet().idxofchar("é")
    assert WordSet("ab c").idxofchar("ab") == 2


# Line starts


def linestarts(text):
    """The reference: symbols right after a newline that are no line end themselves."""
    found = re.findall(r"(?<=\n)[^\r\n]", text)
    return {char: found.count(char) for char in found}


@given(texts, st.integers(1, 5))
def test_line_starts_are_counted_across_pieces(text, size):
    """Catches a line start lost between two pieces."""
    pieces = [text[n : n + size] for n in range(0, len(text), size)]
    tally = CharSet.tally(pieces)
    assert tally.linestarts == linestarts(text)
    assert tally.counts == {char: text.count(char) for char in text}
    assert tally.total == len(text)
    data = [piece.encode() for piece in pieces]
    whole = ByteSet.tally([text.encode()])
    assert ByteSet.tally(data) == whole
    assert whole.total == len(text.encode())


def test_line_starts_of_words():
    """Catches an indented line whose first word is not found."""
    words = WordSet("one two\n  three\n\nfour\r\nthree, one")
    assert words.decode(np.flatnonzero(words.linestarts)) == "fourthree"
    assert words.linestarts[words.idxofchar("three")] == 2
    assert WordSet.tally(["one\n", "two"]).linestarts == {"two": 1}


@pytest.mark.parametrize("level", LEVELS)
def test_random_seeds(level):
    """Catches draws that ignore the frequencies, and crash without any newline."""
    rng = np.random.default_rng(7)
    vocab = made(level, "x\na\na\na\nb\n")
    drawn = [vocab.semirandomch(rng) for _ in range(2000)]
    assert set(drawn) == {"a", "b"}
    assert abs(drawn.count("a") / 2000 - 0.75) < 0.05
    assert vocab.findlinestarts("q\nb\n").tolist() == [
        int(vocab.decode([idx]) == "b") for idx in range(vocab.vocab_size)
    ]
    flat = CharSet("abc")
    assert {flat.semirandomch(rng) for _ in range(200)} == set("abc")
    assert {flat.randomidx(rng=rng) for _ in range(200)} == {1, 2, 3}


def test_random_newline_only_if_allowed():
    rng = np.random.default_rng(1)
    chars = CharSet("a\n")
    assert {chars.randomidx(rng=rng) for _ in range(50)} == {2}
    assert {chars.randomidx(allow_newline=True, rng=rng) for _ in range(50)} == {1, 2}
    assert CharSet("\n\n").randomidx(rng=rng) == 1


# Rare symbols


def test_rare_symbols_become_unknown_and_are_reported():
    """Catches a report that counts kinds where it should count occurrences."""
    chars = CharSet("aaaabbbcc" + "d", min_count=3)
    assert chars.chars == "\ufffdab"
    assert (chars.rare.distinct, chars.rare.occurrences) == (2, 3)
    assert chars.rare.symbols == ("c", "d")
    assert repr(chars.rare) == (
        "2 rare characters (3 occurrences) are left out of the vocabulary and read as 'unknown': "
        "'c' 'd'"
    )
    assert repr(WordSet("a a b", max_vocab=3).rare) == (
        "1 rare word (1 occurrence) is left out of the vocabulary and read as 'unknown': 'b'"
    )
    assert not CharSet("ab").rare
    assert repr(CharSet("ab").rare) == "no characters are left out of the vocabulary"


def test_max_vocab_keeps_the_most_frequent():
    words = WordSet("a a a b b b c c d", max_vocab=4)
    assert words.words == ("\ufffd", " ", "a", "b")
    assert words.rare.symbols == ("c", "d")
    assert words.vocab_size == 4


def test_limits_that_make_no_sense():
    for limits in ({"min_count": 0}, {"max_vocab": 1}):
        with pytest.raises(InputError, match=next(iter(limits))):
            CharSet.fromcounts({"a": 1}, **limits)
    with pytest.raises(InputError, match="256"):
        ByteSet.fromcounts({}, min_count=2)
    with pytest.raises(TextError, match="lower min_count"):
        CharSet("abc", min_count=2)
    with pytest.raises(TextError, match="no characters"):
        CharSet("")


def test_counting_words_forgets_the_rarest_when_there_are_too_many(monkeypatch):
    """Catches memory that grows with every misprint, and totals that shrink with it."""
    monkeypatch.setattr(wordset, "CANDIDATES", 3)
    tally = WordSet.tally(["a a b b c ", "a d e f "])
    assert tally.counts == {"a": 3, " ": 9}
    assert tally.total == 18


def test_counting_words_by_batches_is_counting_them_one_by_one(monkeypatch):
    """Catches counts and line starts that go to other words once some are forgotten."""
    monkeypatch.setattr(wordset, "CANDIDATES", 3)
    pieces = ["x\na a b\nb c ", "b\n", "a\na d e\nf "]
    counts, starts, before, rare, size = Counter(), Counter(), "", 0, 0
    for piece in pieces:
        for token in tokens(piece):
            counts[token] += 1
            starts[token] += "\n" in before
            before, size = token, size + 1
        if size >= 3 and len(counts) > 3:
            rare += 1
            for token in [each for each in counts if counts[each] <= rare]:
                del counts[token], starts[token]
        size = 0 if size >= 3 else size
    tally = WordSet.tally(pieces)
    assert (tally.counts, tally.linestarts) == (+counts, +starts)
    assert rare == 2 and tally.total == sum(len(tokens(piece)) for piece in pieces)


def test_encoding_piece_by_piece_forgets_words_and_no_ids(monkeypatch):
    """Catches ids of words that had those numbers before."""
    monkeypatch.setattr(wordset, "CANDIDATES", 2)
    vocab = WordSet("a b c d")
    encode = vocab.encoder()
    for piece in ("a b ", "c d e ", "", "e a ", "d c b a "):
        assert encode(piece).tolist() == [vocab.idxofchar(token) for token in tokens(piece)]
    assert encode("b").dtype == vocab.dtype


# Vocabularies as values


@pytest.mark.parametrize("level", LEVELS)
def test_json_round_trip(level):
    """Catches what a checkpoint would lose."""
    vocab = made(level, TRICKY)
    vocab.srcinfo = "tricky.txt"
    again = vocabularyfromjson(json.loads(json.dumps(vocab.to_json())))
    assert again == vocab
    assert hash(again) == hash(vocab)
    assert again.digest == vocab.digest
    assert np.array_equal(again.linestarts, vocab.linestarts)
    assert (again.srcinfo, again.rare) == (vocab.srcinfo, vocab.rare)
    assert again.encode(TRICKY).tolist() == vocab.encode(TRICKY).tolist()
    assert "\n" not in repr(again)
    assert "tricky.txt" in repr(again)


def test_vocabularies_are_equal_by_content():
    assert CharSet("abc") == CharSet("cba", srcinfo="elsewhere")
    assert CharSet("abc") != CharSet("abd")
    assert CharSet("ab") != WordSet("a b")
    assert len({CharSet("abc"), CharSet("cab")}) == 1
    assert len(CharSet("abc")) == 4


def test_digest_is_the_same_in_every_process():
    """Catches a digest or an order that depends on hash randomisation."""
    script = (
        "from rngru.text import CharSet, WordSet\n"
        "print(CharSet('hash').digest, WordSet('a-b c').digest)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert found == [CharSet("hash").digest, WordSet("a-b c").digest]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.pop("symbols"),
        lambda data: data.update(level="hieroglyph"),
        lambda data: data.update(symbols=5),
        lambda data: data.update(symbols=data["symbols"][1:] or "x"),
        lambda data: data.update(symbols=data["symbols"] * 2 or "x"),
        lambda data: data.update(linestarts=[1]),
        lambda data: data.update(linestarts=[-1] * len(data["linestarts"])),
        lambda data: data.update(rare=None),
    ],
)
def test_damaged_json_is_refused(level, damage):
    """Catches a vocabulary whose ids silently mean other symbols."""
    data = made(level, "abc abd\nabe").to_json()
    damage(data)
    with pytest.raises(CheckpointDamaged):
        vocabularyfromjson(data)


def test_json_of_another_level_is_refused():
    for data in (WordSet("a b").to_json(), None, []):
        with pytest.raises(CheckpointDamaged):
            CharSet.from_json(data)
    with pytest.raises(CheckpointDamaged):
        vocabularyfromjson(None)


# Reading files


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("level", LEVELS)
def test_reading_in_blocks_changes_nothing(tmp_path, monkeypatch, level, block):
    """Catches blocks that end inside a UTF-8 sequence, a CRLF, a word or a mark."""
    path = tmp_path / "tricky.txt"
    path.write_bytes(b"\xef\xbb\xbf" * (level != "byte") + TRICKY.encode())
    monkeypatch.setattr(sources, "BLOCK", block)
    (document,) = opentexts(path)
    vocabclass = LEVELS[level]
    whole = TRICKY.encode() if level == "byte" else TRICKY
    pieces = list(vocabclass.pieces(document))
    assert vocabclass.tally(pieces) == vocabclass.tally([whole])
    vocab = made(level, whole)
    streamed = np.concatenate([vocab.encode(piece) for piece in pieces])
    assert streamed.tolist() == vocab.encode(whole).tolist()


@given(text=texts, block=st.integers(1, 9))
def test_word_pieces_end_where_a_word_does(text, block):
    """Catches ``don't`` cut into three tokens."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        patch.setattr(sources.Document, "_refuse_zeros", lambda *_: None)
        (document,) = opentexts(Texts([text]))
        found = [token for piece in WordSet.pieces(document) for token in tokens(piece)]
    assert found == tokens(text.removeprefix("\ufeff"))


def test_ticks_add_up_to_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 10)
    path = tmp_path / "a.txt"
    path.write_text(TRICKY, encoding="utf-8", newline="")
    (document,) = opentexts(path)
    seen = []
    assert "".join(document.characters(seen.append)) == TRICKY
    assert sum(seen) == document.nbytes == len(TRICKY.encode())
    assert max(seen) == 10


def test_mark_is_dropped_and_line_ends_are_kept(tmp_path):
    path = tmp_path / "dos.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n\xef\xbb\xbf")
    assert readtext(path) == readtext(path, "utf-8-sig") == "one\r\ntwo\rthree\n\ufeff"
    path.write_text("ab", encoding="utf-16")
    assert readtext(path, "UTF-16") == "ab"


def test_sources(tmp_path, monkeypatch):
    """Catches files in the order of the file system, and hidden files read as text."""
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "deep/er/c.txt", "deep/d.md", ".git/x", "deep/.hidden"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    assert readtext("b.txt") == "b.txt"
    assert readtext(tmp_path / "b.txt") == "b.txt"
    assert readtext(["b.txt", tmp_path / "a.txt"]) == "b.txta.txt"
    assert readtext(["b.txt", "deep"]) == "b.txtdeep/d.mddeep/er/c.txt"
    assert readtext(".") == "a.txtb.txtdeep/d.mddeep/er/c.txt"
    assert readtext("**/*.txt") == "a.txtb.txtdeep/er/c.txt"
    assert readtext(tmp_path.glob("?.txt")) in ("a.txtb.txt", "b.txta.txt")
    assert readtext(Texts("b.txt")) == readtext(Texts(["b.t", "xt"])) == "b.txt"
    (tmp_path / "odd[1].txt").write_text("odd")
    assert readtext("odd[1].txt") == "odd"


def test_sources_that_hold_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hamlet.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for source, message in [
        ("hamlte.txt", "no such file .* Did you mean 'hamlet.txt'"),
        ("nowhere/a.txt", "no such file"),
        ("empty", "holds no files"),
        ("*.md", "no file matches"),
        ([], "no files and no texts"),
        (Texts([]), "no files and no texts"),
        ("To be,\nor not to be", r"got a text: .*Texts\(\["),
        ("To be or not to be, that is the question. " * 20, r"file name.*Texts\(\["),
        (5, "type int"),
        ([5], "type int"),
        ([b"a"], "type bytes"),
    ]:
        with pytest.raises(TextError, match=f"(?s){message}"):
            opentexts(source)


def test_a_device_is_not_a_text():
    with pytest.raises(TextError, match="neither a file"):
        opentexts("/dev/null")


@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_is_one_order_in_every_process(tmp_path, monkeypatch, kind):
    """The order of a set is another one in each process, so that the same seed gave another run."""
    monkeypatch.chdir(tmp_path)
    names = [f"{number:02}.txt" for number in range(30)]
    for name in names:
        (tmp_path / name).write_text(name)
    assert [document.name for document in opentexts(kind(names))] == names
    assert Texts(kind(names)).texts == tuple(names)
    backwards = dict.fromkeys(reversed(names)).keys()
    assert readtext(backwards) == "".join(reversed(names)), "in its own order"


def test_an_open_file_is_not_a_list_of_names(tmp_path):
    """The first line of an open file was taken for the name of a file that does not exist."""
    path = tmp_path / "poem.txt"
    path.write_text("Tyger\nTyger\n")
    for mode in ("r", "rb"):
        with (
            open(path, mode) as stream,
            pytest.raises(TextError, match=re.escape(f"{str(path)!r}")),
        ):
            opentexts(stream)
    with pytest.raises(TextError, match=r"an open one\. To read .* Texts"):
        opentexts(io.StringIO("Tyger"))


def test_texts_must_be_strings():
    for wrong, message in [([b"a"], "item 1 is of type bytes"), (["a", None], "item 2")]:
        with pytest.raises(TextError, match=message):
            Texts(wrong)
    with pytest.raises(TextError, match="2 texts but 1 names"):
        Texts(["a", "b"], names=["a"])
    with pytest.raises(TextError, match="text 1: half a surrogate .* at character 2"):
        opentexts(Texts(["ab\ud800"]))


@pytest.mark.parametrize("block", [1, 4, 1 << 20])
def test_not_utf8_names_the_byte(tmp_path, monkeypatch, block):
    """Catches offsets counted from the block, or from the character kept from the one before."""
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "old.txt"
    path.write_bytes("日本 naïve".encode() + "café déjà vu".encode("cp1252"))
    at = len("日本 naïve".encode()) + 3
    with pytest.raises(
        TextError,
        match=f"old.txt: not utf-8: byte 0xe9 at offset {at}, line 1 .*UTF-8, but for 2 more .*errors=",
    ):
        readtext(path)
    path.write_bytes(b"abc" + "é".encode()[:1])
    with pytest.raises(TextError, match="byte 0xc3 at offset 3, line 1 "):
        readtext(path)


def test_cp1252_is_suggested_and_works(tmp_path, monkeypatch):
    text = "“Déjà vu”, said the naïve café owner – and left.\n" * 5
    path = tmp_path / "old.txt"
    path.write_bytes(text.encode("cp1252"))
    with pytest.raises(TextError, match="encoding='cp1252'"):
        readtext(path)
    assert readtext(path, "cp1252") == text

    find = builtins.__import__

    def without_guess(name, *rest):
        if name == "charset_normalizer":
            raise ImportError(name)
        return find(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_guess)
    with pytest.raises(TextError, match="encoding='cp1252'"):
        readtext(path)
    path.write_bytes(b"\x81")
    with pytest.raises(TextError, match="not cp1252: byte 0x81 at offset 0, line 1 .*level='byte'"):
        readtext(path, "cp1252")


def test_binary_files_suggest_bytes(tmp_path):
    path = tmp_path / "program"
    for data in (b"ELF" + bytes(50), b"\x89PNG\0\0\0\r" + bytes(range(256))):
        path.write_bytes(data)
        with pytest.raises(TextError, match="level='byte'"):
            readtext(path)
    path.write_bytes("wide".encode("utf-16"))
    with pytest.raises(TextError, match="encoding='utf-16'"):
        readtext(path)
    path.write_bytes(b"a" * 1000 + b"\0")
    assert len(readtext(path)) == 1001


def test_unknown_encoding():
    for wrong in ("utf9", "hex", None):
        with pytest.raises(InputError, match=f"encoding={wrong!r}"):
            opentexts(Texts("a"), wrong)
    with pytest.raises(InputError, match="Did you mean 'latin_1'"):
        opentexts(Texts("a"), "latin_11")


def test_a_file_that_grows_is_read_as_it_was(tmp_path):
    """Catches a log that never ends, and two passes that see different texts."""
    path = tmp_path / "log.txt"
    path.write_text("abc")
    (document,) = opentexts(path)
    path.write_text("abcdef")
    assert "".join(document.characters()) == "abc"


def test_a_file_that_vanishes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("ab")
    (document,) = opentexts(path)
    path.unlink()
    with pytest.raises(TextError, match=r"a\.txt: cannot be read: No such file"):
        list(document.blocks())


def test_a_word_without_end(tmp_path, monkeypatch):
    """Catches a file without spaces that is held in memory whole."""
    monkeypatch.setattr(wordset, "PIECE", 100)
    monkeypatch.setattr(sources, "BLOCK", 10)
    path = tmp_path / "genome.txt"
    path.write_text("acgt" * 50)
    with pytest.raises(TextError, match=r"genome\.txt: a single word .* level='char'"):
        list(WordSet.pieces(opentexts(path)[0]))
