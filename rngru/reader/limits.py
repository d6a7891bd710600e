"""What may follow a text, and where it ends, as far as that depends on the text.

>>> from rngru.text import CharSet
>>> vocab = CharSet("the ship")
>>> Ending(vocab, ["sh"]).after(vocab.encode("the ship"))
6
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from rngru.errors import InputError, MissingExtra
from rngru.reader.reader import Reader
from rngru.sampling import Sampling
from rngru.text import Vocabulary

PATIENCE = 5.0
"""Seconds that one match may take: some expressions would take years."""


@lru_cache(maxsize=4)
def symbols(vocab: Vocabulary) -> tuple[str, ...]:
    """Return all symbols in the order of their ids; a byte is the character with its number."""
    return tuple(vocab.to_json()["symbols"]) or tuple(map(chr, range(256)))


@lru_cache(maxsize=4)
def blank(vocab: Vocabulary) -> np.ndarray:
    """Return which symbols are white space and nothing else, bool (V,)."""
    return np.array([symbol.isspace() for symbol in symbols(vocab)])


def unblank(barred: np.ndarray, vocab: Vocabulary) -> np.ndarray:
    """Bar white space, too, if something else is left; both bool (V,)."""
    stricter = barred | blank(vocab)
    return barred if stricter.all() else stricter


class Limits:
    """Which symbols must not follow a text.

    Parameters
    ----------
    reader, sampling: the model, and the rules.
    before: what stands before the text.

    Raises
    ------
    InputError
        If no symbol is left, or ``regex`` is no regular expression.
    MissingExtra
        If there is one, and the library for it is not installed.
    """

    def __init__(self, reader: Reader, sampling: Sampling, before: str) -> None:
        self._reader, self._sampling, self._before = reader, sampling, before
        self._fixed = reader.barred(sampling)
        self._match = None if sampling.regex is None else _matcher(reader.vocab, sampling.regex)
        # Whether what is barred depends on the text.
        self.moving = bool(self._match or callable(sampling.allow) or callable(sampling.forbid))

    def barred(self, ids: np.ndarray) -> np.ndarray | None:
        """Return which symbols must not follow the text ``ids`` (n,): bool (V,); None where it ends."""
        if not self.moving:
            return self._fixed
        barred, vocab = self._fixed.copy(), self._reader.vocab
        text = self._before + vocab.decode(ids)
        for name in ("allow", "forbid"):
            rule = getattr(self._sampling, name)
            if callable(rule) and (named := self._named(name, rule, text)) is not None:
                barred |= named
        if self._match is not None:
            written = _asmatched(vocab, ids)
            barred[~barred] = ~_leading(self._match, written, symbols(vocab), ~barred)
            found = self._match(written)
            if barred.all() and found is not None and not found.partial:
                return None
        if barred.all():
            raise InputError(
                f"After {text[-40:]!r} the rules leave no symbol that the model knows: "
                f"{self._sampling}. Forbid less, or allow more."
            )
        return barred

    def _named(self, name: str, rule: Callable[[str], Any], text: str) -> np.ndarray | None:
        """Return what a function bars after a text, bool (V,); None if it returns None."""
        found = rule(text)
        if found is None:
            return None
        named = [found] if isinstance(found, str) else found
        named = list(named) if isinstance(named, Iterable) else [named]
        if not all(isinstance(each, str) for each in named):
            raise InputError(
                f"{name}({text[-20:]!r}) returned {found!r:.60}: expected a string or several, the "
                "symbols; or None for no rule."
            )
        there = np.zeros(len(self._fixed), bool)
        there[self._reader.idsof(named)] = True
        return ~there if name == "allow" else there


def _matcher(vocab: Vocabulary, pattern: str) -> Callable[[str], Any]:
    """Return a function that gives the match of a text that matches, or can come to; else None.

    The standard library's ``re`` cannot say of a beginning whether a match may follow.
    """
    try:
        import regex
    except ImportError:
        raise MissingExtra("regex= needs the package regex: pip install 'rngru[regex]'") from None
    if vocab.level == "byte" and not pattern.isascii():
        raise InputError(
            f"regex={pattern!r}: the model writes bytes, and each is matched as one character. Write "
            r"what is not ASCII as the bytes it has in UTF-8, such as r'\xc3\xa9' for 'é'."
        )
    try:
        made = regex.compile(pattern)
    except regex.error as problem:
        raise InputError(f"regex={pattern!r} is no regular expression: {problem}.") from None

    def match(text: str) -> Any:
        try:
            return made.fullmatch(text, partial=True, timeout=PATIENCE)
        except TimeoutError:  # Ctrl-C does not reach into a match
            raise InputError(
                f"regex={pattern!r} takes longer than {PATIENCE:g} seconds to match {len(text)} "
                "characters. Write it with fewer ways to match the same text, as a+ instead of (a|a)+."
            ) from None

    return match


def _asmatched(vocab: Vocabulary, ids: np.ndarray) -> str:
    if vocab.level == "byte":
        return ids.astype(np.uint8).tobytes().decode("latin-1")
    return vocab.decode(ids)


def _leading(
    match: Callable[[str], Any], text: str, symbols: tuple[str, ...], wanted: np.ndarray
) -> np.ndarray:
    """Return which of the ``wanted`` symbols, bool (V,), may follow a text on its way to a match."""
    chosen = [symbols[i] for i in np.flatnonzero(wanted)]
    # Many words begin with the same letter: after one that cannot follow, no word need be tried.
    first = {letter: bool(match(text + letter)) for letter in {each[0] for each in chosen}}
    return np.array([first[s[0]] and (len(s) == 1 or bool(match(text + s))) for s in chosen], bool)


class Ending:
    """Looks for the end of a text: the first symbol with which one of some texts is complete.

    Parameters
    ----------
    vocab: what the symbols are.
    stop: the texts to look for.

    >>> from rngru.text import CharSet
    >>> vocab = CharSet("the ship")
    >>> ending = Ending(vocab, ["sh"])
    >>> ending.after(vocab.encode("the s")), ending.after(vocab.encode("hip"))
    (None, 1)
    """

    def __init__(self, vocab: Vocabulary, stop: Iterable[str]) -> None:
        self._bytes = vocab.level == "byte"
        self._vocab = vocab
        self._stop = tuple(
            each.encode().decode("latin-1") if self._bytes else each for each in stop
        )
        self._longest = max(map(len, self._stop), default=1)
        self._tail = ""

    def after(self, ids: np.ndarray) -> int | None:
        """Read more symbols (n,); return how many of them belong to the text, if it ends among them."""
        if not self._stop:
            return None
        for count, number in enumerate(ids.tolist(), 1):
            self._tail += chr(number) if self._bytes else self._vocab.charatidx(number)
            if any(each in self._tail for each in self._stop):
                return count
            self._tail = self._tail[1 - self._longest :] if self._longest > 1 else ""
        return None
