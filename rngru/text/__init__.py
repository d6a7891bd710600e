"""Text ↔ ids, at three levels, and reading files as text.

:class:`CharSet`, :class:`WordSet` and :class:`ByteSet` share one protocol, :class:`Vocabulary`;
:data:`LEVELS` is the table of their names. :func:`opentexts` and :func:`readtext` read any source:
a file, a directory, a pattern, a list of files, or strings in :class:`Texts`.

>>> vocab = LEVELS["char"]("It was a dark and stormy night")
>>> vocab.decode(vocab.encode("a stormy knight"))
'a stormy knight'
"""

from typing import Any

from rngru.errors import CheckpointDamaged
from rngru.text.byteset import ByteSet
from rngru.text.changes import changedfiles
from rngru.text.charset import CharSet
from rngru.text.sources import GUESS, Document, Source, Texts, opentexts, readtext, warnofpages
from rngru.text.splitting import expression, tokens
from rngru.text.vocabulary import Rare, Tally, Vocabulary
from rngru.text.wordset import Tokens, WordSet

__all__ = [
    "GUESS",
    "LEVELS",
    "ByteSet",
    "CharSet",
    "Document",
    "Rare",
    "Source",
    "Tally",
    "Texts",
    "Tokens",
    "Vocabulary",
    "WordSet",
    "changedfiles",
    "expression",
    "opentexts",
    "readtext",
    "tokens",
    "vocabularyfromjson",
    "warnofpages",
]

LEVELS: dict[str, type[Vocabulary]] = {"char": CharSet, "word": WordSet, "byte": ByteSet}


def vocabularyfromjson(data: Any) -> Vocabulary:
    """Return the vocabulary, of any level, whose ``to_json`` gave ``data``.

    Raises
    ------
    CheckpointDamaged
        If ``data`` is anything else.

    Example
    -------
    >>> vocabularyfromjson(CharSet("abc").to_json())
    CharSet(4 ids: unknown and 'abc')
    """
    level = data.get("level") if isinstance(data, dict) else None
    if not isinstance(level, str) or level not in LEVELS:
        raise CheckpointDamaged(
            f"The saved vocabulary has level {level!r}; expected one of {', '.join(LEVELS)}."
        )
    return LEVELS[level].from_json(data)
