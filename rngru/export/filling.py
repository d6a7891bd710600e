"""The programs that are exported: files of their own, in which a model is filled in.

They stand in the folder ``files``, so that they can be read, checked and formatted as what they are. Where
a model goes there is a word such as ``@ABOUT@``.

>>> filled("page.html", {"@TITLE@": "The ship"}).count("The ship")
2
"""

import re
from collections.abc import Mapping
from importlib.resources import files

from rngru.export.about import ascii_json


def filled(name: str, parts: Mapping[str, str]) -> str:
    """Return the file called ``name``, with each of ``parts`` in place of its key."""
    text = files("rngru.export").joinpath("files", name).read_text(encoding="utf-8")
    # All at once: what is filled in is not looked at.
    return re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]], text)


def literal(data: object) -> str:
    """Return JSON as a literal of Python.

    >>> literal(["a'b"])
    '\\'["a\\\\\\'b"]\\''
    """
    return repr(ascii_json(data))
