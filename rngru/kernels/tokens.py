r"""Numbering the tokens of a text: one pass over its code points, with a hash table.

A token, as :mod:`rngru.text.splitting` defines it, is a run of word characters, with joiners (an
apostrophe, a hyphen) between two of them; a run of white space; or any other character alone. Two
halves of a flag are one character. Words and other characters take along the extenders after them;
the last of these may be a link, which takes along the next character that is neither.

The hash is that of Fowler, Noll and Vo (FNV-1a, 64 bits) over code points. It only says where to
look: tokens are compared character by character.
"""

import numpy as np

from rngru.kernels.compiling import kernel

MARK, WORD, SPACE, JOINER, EXTENDER, LINK, FLAG = range(7)
"""The kinds of code points."""


@kernel()
def _same(codes, one, pool, other, length):
    i = 0
    while i < length and codes[one + i] == pool[other + i]:
        i += 1
    return i == length


@kernel()
def _slot(value, table):
    """Return where to look first for a hash; its low bits alone depend mostly on the last characters."""
    return (value ^ (value >> np.uint64(32))) & np.uint64(table.size - 1)


@kernel()
def number(codes, kinds, at, which, done, pool, bounds, hashes, table, alone, found):
    """Number the tokens of ``codes`` from ``at`` on, equal ones alike, until there is no room left.

    Parameters
    ----------
    codes: code points (n,), uint32; ``kinds`` (code points,), uint8, has the kind of each.
    which: (n,), int32, for the numbers; ``done`` of them are there.
    pool: code points of the ``found`` different tokens; number k has those from ``bounds[k]`` to
        ``bounds[k + 1]``, and the hash ``hashes[k]``.
    table: (a power of two,), int32: the numbers by their hashes, -1 where there is none.
    alone: (any,), int32: the numbers of the first code points as tokens of their own, -1 where not
        known yet. It saves a search in the table for every space, which is half of all tokens.

    Returns
    -------
    at, done, found: as they are now.
    """
    n, prime, one = codes.size, np.uint64(0x100000001B3), np.uint64(1)
    i = at
    while i < n:
        start, kind = i, kinds[codes[i]]
        value = np.uint64(0xCBF29CE484222325)
        while True:
            value = (value ^ np.uint64(codes[i])) * prime
            i += 1
            if i == n:
                break
            here = kinds[codes[i]]
            if here == kind and kind in (WORD, SPACE):
                continue
            if kind == SPACE:
                break
            more = here in (EXTENDER, LINK)
            if kind == WORD:
                joins = here == JOINER and i + 1 < n and kinds[codes[i + 1]] == WORD
                if not more and not joins:
                    break
            elif kind == FLAG and here == FLAG and i == start + 1:
                kind = MARK
            elif not more and (kinds[codes[i - 1]] != LINK or here in (WORD, SPACE)):
                break
        length, slot = i - start, _slot(value, table)
        short = length == 1 and codes[start] < alone.size
        if short and alone[codes[start]] >= 0:
            which[done] = alone[codes[start]]
            done += 1
            continue
        while table[slot] >= 0:
            token = table[slot]
            first = bounds[token]
            alike = hashes[token] == value and bounds[token + 1] - first == length
            if alike and _same(codes, start, pool, first, length):
                break
            slot = (slot + one) & np.uint64(table.size - 1)
        if table[slot] < 0:
            end = bounds[found] + length
            if end > pool.size or found == hashes.size:
                return start, done, found
            for k in range(length):
                pool[bounds[found] + k] = codes[start + k]
            bounds[found + 1], hashes[found], table[slot] = end, value, found
            found += 1
        which[done] = table[slot]
        done += 1
        if short:
            alone[codes[start]] = table[slot]
    return n, done, found


@kernel()
def place(hashes, table):
    """Fill the table, empty and larger than ``hashes`` (tokens,), uint64."""
    for token in range(hashes.size):
        slot = _slot(hashes[token], table)
        while table[slot] >= 0:
            slot = (slot + np.uint64(1)) & np.uint64(table.size - 1)
        table[slot] = token
