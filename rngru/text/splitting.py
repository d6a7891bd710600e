r"""Where a text is cut into words: the rule, written down twice, for reading and for speed.

A token is a word (with inner apostrophes and hyphens), a run of white space, or any other character
alone. What Unicode writes with several code points stays in one token: a mark (an accent, a vowel
sign, a point) belongs to the character before it, and so do a soft hyphen, the joiners U+200C and
U+200D, and what varies an emoji; an emoji after U+200D, and the second half of a flag, belong to what
is before them. Joining the tokens gives back exactly the text:

>>> tokens("It's a so-called\n  “test”.")
["It's", ' ', 'a', ' ', 'so-called', '\n  ', '“', 'test', '”', '.']
>>> [len(token) for token in tokens("हिन्दी भाषा")]
[6, 1, 4]

Rule 1, of vocabularies made before marks had a rule, takes each mark for a token of its own.
"""

import re
import sys
import unicodedata
from functools import cache

import numpy as np

RULE = 2
"""The rule that new vocabularies are made with."""

_JOINER, _LINK = "’'\\-", "\u200d"
_EXTRA = (0xAD, 0x200C, 0x200D, *range(0x1F3FB, 0x1F400), *range(0xE0020, 0xE0080))
_FLAG = "\U0001f1e6-\U0001f1ff"


def tokens(text: str, rule: int = RULE) -> list[str]:
    """Split a text into tokens; joining them gives the text back."""
    return expression(rule).findall(text)


@cache
def expression(rule: int = RULE) -> re.Pattern[str]:
    """Return what matches one token after the other."""
    if rule == 1:
        return re.compile(rf"\w+(?:[{_JOINER}]\w+)*|[^\w\s]|\s+")
    more = _extenders()
    return re.compile(
        rf"\w[\w{more}]*(?:[{_JOINER}]\w[\w{more}]*)*"
        rf"|(?:[{_FLAG}]{{2}}|[^\w\s])(?:[{more}]|(?<={_LINK})[^\w\s])*|\s+"
    )


@cache
def complete() -> re.Pattern[str]:
    """What matches everything up to the last place where a token ends, whatever follows, by any rule."""
    more = _extenders()
    return re.compile(
        rf"(?s:.*)(?:(?<=\s)(?=\S)|(?<=\S)(?=\s)|(?<=[^\w\s{_JOINER}{_FLAG}{more}])(?=[^\s{more}]))"
    )


@cache
def _extenders() -> str:
    """Return what belongs to the character before it, as part of a class of an expression."""
    # The planes that Unicode keeps for scripts of letters, for symbols and for selectors.
    places = [*range(0x300, 0x20000), *range(0xE0000, 0xE1000)]
    codes = {code for code in places if unicodedata.category(chr(code))[0] == "M"}
    ordered = np.array(sorted(codes.union(_EXTRA)))
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)


@cache
def kinds(rule: int = RULE) -> np.ndarray:
    """Return the kind of each code point, for :mod:`rngru.kernels.tokens`: uint8, (code points,)."""
    from rngru.kernels.tokens import EXTENDER, FLAG, JOINER, LINK, MARK, SPACE, WORD

    everything = np.arange(sys.maxunicode + 1, dtype="<u4").tobytes()
    text = everything.decode("utf-32-le", "surrogatepass")
    found = np.full(len(text), MARK, np.uint8)
    classes = [(WORD, r"\w+"), (SPACE, r"\s+"), (JOINER, f"[{_JOINER}]")]
    if rule > 1:
        classes += [(EXTENDER, f"[{_extenders()}]+"), (LINK, _LINK), (FLAG, f"[{_FLAG}]+")]
    for kind, expression in classes:
        for match in re.finditer(expression, text):
            found[match.start() : match.end()] = kind
    return found
