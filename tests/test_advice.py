"""What a file is that cannot be read as text: the message names it, and its advice works."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import zipfile

import numpy as np
import pytest

from rngru.corpus import encodecorpus
from rngru.errors import InputError, MissingExtra, TextError
from rngru.text import advice, readtext

SCRIPTS = {
    "fr": "“Déjà vu”, dit l’été naïf — où ça, monsieur ? Le cœur et la main.\n",
    "de": "Fünf große Bären laufen über die Straße und essen.\n",
    "ru": "Привет, как дела? Сегодня хорошая погода.\n",
    "el": "Καλημέρα, τι κάνεις σήμερα;\n",
    "he": "שלום עולם, מה שלומך\n",
    "zh": "他边都是小小葱，包括重庆那边。\n",
    "ja": "これは日本語の文章です。カタカナもあります。\n",
    "ko": "안녕하세요 오늘은 날씨가 좋습니다.\n",
}
OLD = {
    "fr": "cp1252", "de": "cp1252", "ru": "cp1251", "el": "cp1253", "he": "cp1255",
    "zh": "gb18030", "ja": "shift_jis", "ko": "cp949",
}  # fmt: skip


def refusal(path, data, **options):
    """What is said of a file with these bytes."""
    path.write_bytes(data)
    with pytest.raises(TextError) as caught:
        readtext(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def advised(message):
    """The encodings that a message advises."""
    return [part.split("'")[0] for part in message.split("encoding='")[1:]]


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("wrong", [b"\xff", b"\x80", "\ud800".encode("utf-8", "surrogatepass")])
def test_one_bad_byte_is_no_other_encoding(tmp_path, script, wrong):
    """Catches advice to read a UTF-8 file as cp1252 because one of its bytes is broken."""
    good = (SCRIPTS[script] * 200).encode()
    place = good.index(b"\n", 3000) + 1
    message = refusal(tmp_path / "a.txt", good[:place] + wrong + good[place:])
    line = 1 + good[:place].count(b"\n")
    assert f"byte 0x{wrong[0]:02x} at offset {place:,}, line {line:,} " in message
    assert "The rest of it is UTF-8. " in message and "errors='replace'" in message
    assert not advised(message)
    text = readtext(tmp_path / "a.txt", errors="replace")
    assert text.replace("\ufffd", "") == SCRIPTS[script] * 200


def test_a_bad_byte_far_into_a_large_file(tmp_path, monkeypatch):
    """Catches a line counted from the part that is looked at, and a whole file that is held in memory."""
    monkeypatch.setattr("rngru.text.sources.WINDOW", 4000)
    good = (SCRIPTS["ru"] * 1000).encode()
    place = good.index(b"\n", 60_000)
    message = refusal(tmp_path / "a.txt", good[:place] + b"\xfe" + good[place:])
    assert f"offset {place:,}, line {1 + good[:place].count(10):,} (invalid start byte)" in message
    assert "The text around it is UTF-8. " in message


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_encoding_that_is_advised_reads_the_text(tmp_path, script):
    """Catches cp1252 offered for every old file, mojibake and all."""
    path, text = tmp_path / "a.txt", SCRIPTS[script] * 40
    message = refusal(path, text.encode(OLD[script]))
    assert readtext(path, advised(message)[0]) == text


@pytest.mark.parametrize("script", [*SCRIPTS, "en"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("given", [{}, {"encoding": "utf-16"}, {"encoding": "cp1252"}])
def test_utf16_without_a_mark_is_recognised(tmp_path, script, encoding, given):
    """Catches exports of Windows that are called binary, and an error of Python's own."""
    path, text = tmp_path / "a.txt", SCRIPTS.get(script, "hello world\r\n") * 9
    message = refusal(path, text.encode(encoding), **given)
    assert advised(message) == [encoding]
    assert readtext(path, encoding) == text


def test_a_mark_says_which_encoding(tmp_path):
    """Catches UTF-32 taken for UTF-16, and Chinese, which has no zeros, taken for something else."""
    for text in ("plain\n" * 9, "他边都是" * 50):
        for encoding in ("utf-16", "utf-32"):
            assert advised(refusal(tmp_path / "a", text.encode(encoding))) == [encoding]
            assert readtext(tmp_path / "a", encoding) == text


def test_utf8_is_not_read_as_something_wider(tmp_path):
    """Catches English read as Chinese because encoding= was left over from another file."""
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        message = refusal(tmp_path / "a", b"plain text, a line of it\n" * 9, encoding=encoding)
        assert "it is UTF-8. Leave out encoding=." in message
    assert advised(refusal(tmp_path / "a", "naïve, déjà\n".encode(), encoding="ascii")) == ["utf-8"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "gb18030"])
def test_what_is_cut_short_is_not_called_binary(tmp_path, encoding):
    """Catches a file that ends within a character, or has half of one, named as something else."""
    data = (SCRIPTS["zh"] * 30).encode(encoding)
    message = refusal(
        tmp_path / "a", data[:-1] if "utf" in encoding else data[:-2], encoding=encoding
    )
    assert f"The rest of it is {encoding.upper()}" in message and not advised(message)
    kept = readtext(tmp_path / "a", encoding, errors="replace")
    assert kept.rstrip("\ufffd") in SCRIPTS["zh"] * 30


def zipped(name, content="x" * 40):
    """A ZIP archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, content)
        archive.writestr("more.txt", "more")
    return stream.getvalue()


def saved(array):
    """An array as NumPy saves it."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def database(folder):
    """An empty database with a table."""
    base = sqlite3.connect(folder / "base")
    base.execute("create table words (word text)")
    base.close()
    return (folder / "base").read_bytes()


def test_files_are_named_for_what_they_are(tmp_path):
    """Catches a book in PDF or Word of which it is only said that it is no UTF-8."""
    for data, named in [
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF document"),
        (zipped("word/document.xml"), "a Word document (DOCX)"),
        (zipped("xl/workbook.xml"), "an Excel workbook (XLSX)"),
        (zipped("mimetype", "application/epub+zip"), "an e-book (EPUB)"),
        (zipped("mimetype", "application/vnd.oasis.opendocument.text"), "an OpenDocument file"),
        (zipped("book.txt"), "a ZIP archive"),
        (b"{\\rtf1\\ansi hello}", "a Rich Text document (RTF)"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an old Office document"),
        (gzip.compress(b"text"), "compressed (gzip)"),
        (bz2.compress(b"text"), "compressed (bzip2)"),
        (lzma.compress(b"text"), "compressed (xz)"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\r", "a picture"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a picture"),
        (database(tmp_path), "a database (SQLite)"),
        (b"\x7fELF\2\1\1" + bytes(50), "a program"),
        (saved(np.ones(3)), "an array of numbers"),
        (pickle.dumps([1, "a"]), "a Python pickle"),
    ]:
        message = refusal(tmp_path / "a.txt", data)
        assert message.startswith(f"{tmp_path / 'a.txt'}: {named}"), message
        assert "level='byte'" in message


def test_texts_that_begin_like_something_else_are_texts(tmp_path):
    """Catches prose refused for its first letters."""
    for data in (
        b"MZ\n" * 99,
        b"PK, he said.\n",
        b"ID3 tags\n",
        b"II* x\n",
        b"BZh9 is a flag\n",
        b"%PDF",
    ):
        (tmp_path / "a").write_bytes(data)
        assert readtext(tmp_path / "a") == data.decode()


def test_advice_needs_no_other_package(tmp_path, monkeypatch):
    """Catches advice that fails, or guesses cp1252 for Russian, where charset-normalizer is missing."""
    monkeypatch.setitem(__import__("sys").modules, "charset_normalizer", None)
    message = refusal(tmp_path / "a", (SCRIPTS["ru"] * 9).encode("cp1251"))
    assert not advised(message) and "Give the right encoding=" in message
    assert advised(refusal(tmp_path / "a", "a naïve café".encode("cp1252"))) == ["cp1252"]


def test_noise_is_no_writing(tmp_path):
    """Catches an encoding advised for bytes that are no text in any."""
    noise = np.random.default_rng(1).integers(128, 256, 3000, np.uint8).tobytes()
    assert not advised(refusal(tmp_path / "a", noise))
    assert advice.likely(b"\x81") == []


def test_bytes_that_are_not_in_the_encoding_become_unknown(tmp_path):
    """Catches a way round that is offered and does not reach the corpus."""
    (tmp_path / "a").write_bytes(b"ab\xffab\xff" * 9)
    corpus = encodecorpus(tmp_path / "a", tmp_path / "data", errors="replace")
    assert corpus.ids.tolist() == [1, 2, 0] * 18
    with pytest.raises(InputError, match="errors='ignore'.*'replace', 'strict'"):
        readtext(tmp_path / "a", errors="ignore")


def test_a_web_page_in_place_of_a_text_is_told(tmp_path):
    """Catches the page of an error, downloaded as book.txt, that is learned for the book."""
    for name in ("book.txt", "page.html"):
        (tmp_path / name).write_text("<!DOCTYPE html>\n<html><p>404 Not found</p></html>\n")
    with pytest.warns(UserWarning, match=r"book\.txt: a web page"):
        encodecorpus(tmp_path / "book.txt", tmp_path / "data")
    encodecorpus(tmp_path / "page.html", tmp_path / "data")
    encodecorpus(tmp_path / "book.txt", tmp_path / "data", level="byte")


# ---- Files of several kinds in one folder ----

FRENCH = "Où sont les neiges d'antan ? À la forêt, près du château, l'été déjà.\n" * 30
RUSSIAN = (
    "Все счастливые семьи похожи друг на друга, каждая несчастлива по-своему. Всё смешалось в доме. "
    "Жена узнала, что муж был в связи с бывшею в их доме гувернанткой.\n"
) * 30


@pytest.fixture
def mixed(tmp_path):
    """A folder with a text, a picture, and texts of two other encodings."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "a.txt").write_text("naïve café\n" * 30, encoding="utf-8")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    (folder / "c.txt").write_text(FRENCH, encoding="cp1252")
    (folder / "d.txt").write_text(RUSSIAN, encoding="cp1251")
    return folder


def test_odd_files_are_skipped_and_named(mixed, tmp_path):
    """One picture stops a folder of 200 novels; or is left out, and nobody hears of it."""
    with pytest.raises(TextError, match=r"b\.png.*skip=True leaves such files out"):
        encodecorpus(mixed, tmp_path / "data")
    with pytest.warns(
        UserWarning, match=r"(?s)3 left out.*b\.png: a picture.*c\.txt: not utf-8"
    ) as told:
        corpus = encodecorpus(mixed, tmp_path / "data", skip=True)
    assert len(told) == 1
    assert [name.split("/")[-1] for name, _ in corpus.documents] == ["a.txt"]
    (mixed / "a.txt").unlink()
    with pytest.raises(TextError, match="None of the files"):
        encodecorpus(mixed, tmp_path / "data", skip=True)
    every = encodecorpus(mixed, tmp_path / "data", level="byte", skip=True)
    assert len(every.documents) == 3, "bytes are bytes"


def test_each_file_is_read_in_its_own_encoding(mixed, tmp_path):
    """encoding='cp1252' for the one that needs it makes nonsense of the others."""
    pytest.importorskip("charset_normalizer")
    (mixed / "b.png").unlink()
    with pytest.warns(UserWarning, match=r"c\.txt \(cp1252\).*d\.txt \(cp1251\)"):
        corpus = encodecorpus(mixed, tmp_path / "data", encoding="guess", trainfrac=1.0)
    assert corpus.vocab.decode(corpus.train.ids) == "naïve café\n" * 30 + FRENCH + RUSSIAN


def test_without_the_extra_guessing_says_what_to_install(mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(advice, "DETECTS", False)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[guess\]'"):
        encodecorpus(mixed / "c.txt", tmp_path / "data", encoding="guess")
    assert len(encodecorpus(mixed / "a.txt", tmp_path / "data", encoding="guess").train)
