"""What a file is that is not the text it was taken for, and what to do about it.

Nothing here reads a text; these are the words for one that could not be read. An encoding is advised
only if it reads the file, and what it reads looks like writing.

>>> kindof(b"%PDF-1.7"), kindof(b"Call me Ishmael.")
('a PDF document', '')
>>> likely("a naïve café".encode("cp1252"))
['cp1252']
>>> likely("hello".encode("utf-16-le"))
['utf-16-le']
"""

import codecs
import re
import unicodedata
from collections import Counter
from importlib.util import find_spec

SAMPLE = 1 << 16
"""Bytes that are looked at."""

_OFFICE = "Export the text from it as plain text (UTF-8)"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (rb"%PDF-", "a PDF document", "Get the text out of it (pdftotext, or 'save as text')"),
    (rb"PK\x03\x04.{26}mimetypeapplication/epub", "an e-book (EPUB)", _OFFICE),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "an OpenDocument file", _OFFICE),
    (rb"PK\x03\x04.{26}.*\bword/", "a Word document (DOCX)", _OFFICE),
    (rb"PK\x03\x04.{26}.*\bxl/", "an Excel workbook (XLSX)", _OFFICE),
    (rb"PK\x03\x04.{26}.*\bppt/", "a PowerPoint file (PPTX)", _OFFICE),
    (rb"PK\x03\x04.{26}\[Content_Types\]", "an Office document", _OFFICE),
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive", "Unpack it"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document (DOC, XLS)", _OFFICE),
    (rb"\{\\rtf", "a Rich Text document (RTF)", _OFFICE),
    (rb"\x1f\x8b", "compressed (gzip)", "Unpack it (gunzip)"),
    (rb"BZh\d1AY&SY", "compressed (bzip2)", "Unpack it (bunzip2)"),
    (rb"\xfd7zXZ\0", "compressed (xz)", "Unpack it (unxz)"),
    (rb"\x28\xb5\x2f\xfd", "compressed (zstd)", "Unpack it (unzstd)"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it"),
    (rb"Rar!\x1a\x07", "a RAR archive", "Unpack it"),
    (rb".{257}ustar[\0 ]", "a tar archive", "Unpack it (tar xf)"),
    (rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF.{4}WEBP|II\*\0|MM\0\*", "a picture", ""),
    (rb"ID3[\2-\4]\0|OggS\0|fLaC\0|RIFF.{4}(WAVE|AVI )|.{4}ftyp", "sound or video", ""),
    (rb"SQLite format 3\0", "a database (SQLite)", "Export its text as a plain file"),
    (rb"PAR1.*\0|ARROW1\0", "a table (Parquet, Arrow)", "Export its text column as a plain file"),
    (rb"\x93NUMPY|\x89HDF\r\n", "an array of numbers", ""),
    (rb"\x80[\2-\5](\x95|c|\}|\])", "a Python pickle", ""),
    (rb"\x7fELF|MZ.{0,200}\0|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe", "a program", ""),
)

MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html[\s>])", re.IGNORECASE)
"""What a page of the web begins with."""

_TYPOGRAPHY = "“”„‘’‚«»‹›–—…•·°§©®™€£½¿¡\xa0\xad"
_WIDE = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
_EAST = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO"}


DETECTS = find_spec("charset_normalizer") is not None
"""Whether encodings beyond the common ones can be told: the extra ``guess``."""


def kindof(begins: bytes) -> str:
    """Return what a file is that begins so, '' if that is not known."""
    return _known(begins)[0]


def remedy(begins: bytes) -> str:
    """Return what to do with such a file, as a sentence."""
    todo = _known(begins)[1]
    return f"{todo}{'. ' if todo else ''}level='byte' reads any file as it is."


def _known(begins: bytes) -> tuple[str, str]:
    for pattern, kind, todo in _KINDS:
        if re.match(pattern, begins[:4096], re.DOTALL):
            return kind, todo
    return "", ""


def marked(begins: bytes) -> str:
    """Return the encoding that the byte order mark of UTF-16 or UTF-32 says, '' if there is none."""
    wider = begins.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE))
    encoding = "utf-32" if wider else "utf-16"
    mark = wider or begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = _decoded(begins, encoding) if mark else None
    return encoding if text is not None and (b"\0" in begins or _writing(text) > 0.9) else ""


def wide(sample: bytes) -> str:
    """Return which UTF-16 or UTF-32 a sample with zeros in it is, though no mark says so; '' if none."""
    texts = {encoding: _decoded(sample, encoding) for encoding in _WIDE}
    found = {encoding: _writing(text) for encoding, text in texts.items() if text}
    best = max(found, key=lambda encoding: found[encoding], default="")
    return best if best and found[best] > 0.95 else ""


def likely(sample: bytes, tried: str = "utf-8") -> list[str]:
    """Return encodings, other than the one ``tried``, in which a sample is writing; the likeliest first."""
    if found := marked(sample) or (b"\0" in sample and wide(sample)):
        return [found] if found != tried else []
    if b"\0" in sample:
        return []
    if _decoded(sample, "utf-8") is not None:
        return ["utf-8"] if tried != "utf-8" else []
    candidates = ["cp1252"] if _western(sample) else []
    if len(re.findall(b"[\x80-\xff]", sample)) > 7:  # else there is too little to go by
        candidates += _detected(sample)
    if 5 * len(re.findall(b"[A-Za-z\\s]", sample)) < 3 * len(sample):
        candidates += _eastern(sample)
    return list(dict.fromkeys(each for each in candidates if each != tried))[:2]


def broken(sample: bytes, encoding: str) -> int:
    """Return how many places of a sample are not in an encoding; 0 if it is rather in another one."""
    if encoding == "utf-8":
        text = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode(sample)
        bad = re.findall("[\udc80-\udcff]+", text)
        good = len(re.findall("[\x80-\ud7ff\ue000-\U0010ffff]", text))
        return len(bad) if good >= sum(map(len, bad)) else 0
    if encoding in ("ascii", "cp1252") or narrow(sample):
        return 0
    try:
        text = codecs.getincrementaldecoder(encoding)("replace").decode(sample, True)
    except UnicodeError:  # no byte order mark
        return 0
    places = len(re.findall("\ufffd+", text))
    return places if 50 * (places - 1) < len(text) and _writing(text) > 0.9 else 0


def narrow(sample: bytes) -> bool:
    """Whether a sample is UTF-8 and cannot be UTF-16 or UTF-32: long, no zeros, and all of it valid."""
    return len(sample) >= 32 and b"\0" not in sample and _decoded(sample, "utf-8") is not None


def excerpt(sample: bytes, at: int, encoding: str) -> str:
    """Return the word that an encoding makes of a place in a sample, '' for an encoding of wide units."""
    if encoding.startswith(("utf-16", "utf-32")):
        return ""
    before = _decoded(sample[:at], encoding) or ""
    after = codecs.getincrementaldecoder(encoding)("replace").decode(sample[at : at + 80])
    first = re.search(r"\w{0,15}$", before)
    rest = re.match(r"\W?\w{0,15}", after)
    return (first[0] if first else "") + (rest[0] if rest else "")


def _decoded(sample: bytes, encoding: str) -> str | None:
    """Return a sample as text, its last character perhaps cut off; None if it is in no such encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(sample)
    except (UnicodeError, LookupError):
        return None


def _western(sample: bytes) -> bool:
    """Whether a sample is Latin letters, a few of them accented, in cp1252."""
    text = _decoded(sample, "cp1252")
    if text is None or _writing(text) < 0.9:
        return False
    letters = [char for char in text if char.isalpha()]
    accented = sum(char > "\x7f" for char in letters)
    odd = sum(char > "\x7f" and not char.isalpha() and char not in _TYPOGRAPHY for char in text)
    return 10 * accented <= 4 * len(letters) + 10 and 20 * odd <= len(text) + 20


def _detected(sample: bytes) -> list[str]:
    """Return what charset-normalizer takes a sample for, if that is writing."""
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return []
    best = from_bytes(sample).best()
    if best is None or ("cp1252" in best.could_be_from_charset and _western(sample)):
        return []
    text = _decoded(sample, best.encoding)
    return [codecs.lookup(best.encoding).name] if text and _writing(text) >= 0.9 else []


def _eastern(sample: bytes) -> list[str]:
    """Return which UTF-16 a sample without zeros is: Chinese, say, without a space."""
    found: list[str] = []
    if len(sample) < 16:
        return found
    for encoding in _WIDE[:2]:
        text = _decoded(sample, encoding)
        # The first bytes of a text in one of the encodings of the East repeat, or look like Hangul.
        first = Counter(sample[encoding == "utf-16-le" :: 2]).most_common(1)
        spread = first[0][0] == 0x30 or 10 * first[0][1] < 4 * len(sample) / 2
        if text and spread and _writing(text) > 0.95 and max(text[:64]) < "가":
            found.append(encoding)
    return found


def _writing(text: str) -> float:
    """Return how much of a text is what people write: one script, Latin letters, spaces, punctuation."""
    counts = Counter(text[:20_000])
    scripts: Counter[str] = Counter()
    good = 0
    for char, n in counts.items():
        if char in "\t\n\r\f\ufeff" or " " <= char <= "~":
            good += n
        elif unicodedata.category(char)[0] in "LM":
            script = unicodedata.name(char, "?").split()[0]
            scripts["CJK" if script in _EAST else script] += n
        elif unicodedata.category(char)[0] in "NPS":
            good += n
    latin = scripts.pop("LATIN", 0)
    most = scripts.most_common(1)
    return (good + latin + (most[0][1] if most else 0)) / max(1, counts.total())
