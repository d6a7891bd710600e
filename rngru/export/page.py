r"""``.html``: a page that writes text in a browser, without a server; the weights are inside.

Its controls can be set in its address: ``page.html?seed=The&temp=0.7&top_p=0.9&n=200``.

JavaScript has no ``\w`` and ``\s`` for all of Unicode:

>>> javascript(r"\w+|[^\w-]")
'[\\p{L}\\p{N}_]+|[^\\p{L}\\p{N}_-]'
"""

import base64
import html
import re
from pathlib import Path

import numpy as np

from rngru.export.about import arraysof, ascii_json, forwards, program
from rngru.export.filling import filled
from rngru.reader import Reader

_CLASSES = {
    r"\w": r"\p{L}\p{N}_",
    r"\s": r"\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
}
"""What Python's classes are in JavaScript."""


def topage(reader: Reader, path: Path) -> dict[Path, bytes]:
    """Return the bytes to write."""
    forwards(reader, ".html")
    about, arrays = program(reader), arraysof(reader)
    about["split"] = about["split"] and javascript(about["split"])
    about["arrays"] = [[name, array.shape] for name, array in arrays.items()]
    weights = b"".join(np.asarray(array, "<f4").tobytes() for array in arrays.values())
    parts = {
        "@TITLE@": html.escape(f"A model of {about['source']}" if about["source"] else path.stem),
        "@UNITS@": about["units"],
        "@ABOUT@": ascii_json(about),
        "@WEIGHTS@": base64.b64encode(weights).decode(),
    }
    return {path: filled("page.html", parts).encode()}


def javascript(pattern: str) -> str:
    """Return a regular expression of :mod:`rngru.text.splitting` as JavaScript writes it."""
    found, inside = "", False
    for piece in re.findall(r"\\.|.", pattern, re.S):
        inside = piece == "[" or (inside and piece != "]")
        meant = _CLASSES.get(piece, piece)
        found += f"[{meant}]" if piece in _CLASSES and not inside else meant
    return found
