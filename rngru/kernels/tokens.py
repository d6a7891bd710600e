r"""Which tokens of a text are the same: one pass over its code points, with a hash table of its own.

What a token is, :mod:`rngru.text.wordset` says: a run of word characters, with joiners (an apostrophe,
a hyphen) between two of them; a run of white space; or any other character alone.

The hash is that of Fowler, Noll and Vo (FNV-1a, 64 bits) over code points. It only says where to
look: tokens are compared character by character.
"""

import numba
import numpy as np

MARK, WORD, SPACE, JOINER = range(4)
"""What a code point is to a token."""


@numba.njit(nogil=True, cache=True)
def _same(codes, one, other, length):
    i = 0
    while i < length and codes[one + i] == codes[other + i]:
        i += 1
    return i == length


@numba.njit(nogil=True, cache=True)
def _slot(value, table):
    """Return where to look first for a hash; its low bits alone are mostly of the last characters."""
    return (value ^ (value >> np.uint64(32))) & np.uint64(table.size - 1)


@numba.njit(nogil=True, cache=True)
def distinct(codes, kinds):
    """Number the tokens of ``codes`` (n,), uint32; ``kinds`` (code points,), uint8, says what each is.

    Returns
    -------
    which (tokens,), int32: the number of each token, equal ones having the same, in the order in which
    they first occur. starts, ends (different tokens,), int64: where each first occurs.
    """
    n = codes.size
    which, starts, ends = np.empty(n, np.int32), np.empty(n, np.int64), np.empty(n, np.int64)
    hashes, table = np.empty(n, np.uint64), np.full(1 << 12, -1, np.int32)
    prime, one = np.uint64(0x100000001B3), np.uint64(1)
    tokens = found = i = 0
    while i < n:
        start, kind = i, kinds[codes[i]]
        value = np.uint64(0xCBF29CE484222325)
        while True:
            value = (value ^ np.uint64(codes[i])) * prime
            i += 1
            if i == n or kind in (MARK, JOINER):
                break
            here = kinds[codes[i]]
            if here != kind:
                joins = kind == WORD and here == JOINER and i + 1 < n
                if not joins or kinds[codes[i + 1]] != WORD:
                    break
        slot = _slot(value, table)
        while table[slot] >= 0:
            token = table[slot]
            alike = hashes[token] == value and ends[token] - starts[token] == i - start
            if alike and _same(codes, starts[token], start, i - start):
                break
            slot = (slot + one) & np.uint64(table.size - 1)
        if table[slot] < 0:
            table[slot] = found
            starts[found], ends[found], hashes[found] = start, i, value
            found += 1
            which[tokens] = found - 1
            if 2 * found > table.size:
                table = np.full(4 * table.size, -1, np.int32)
                for each in range(found):
                    slot = _slot(hashes[each], table)
                    while table[slot] >= 0:
                        slot = (slot + one) & np.uint64(table.size - 1)
                    table[slot] = each
        else:
            which[tokens] = table[slot]
        tokens += 1
    return which[:tokens].copy(), starts[:found].copy(), ends[:found].copy()
