r"""Where the stretches of a short text stand in a long one: one pass over the long one, in parallel.

The short text, the **query**, is indexed; the long one is only read. Two things are made of the query:

- a bit table of the hashes of its **windows**, all runs of ``least`` symbols. The hash of each window
  of the long text is rolled on from the one before (Karp and Rabin, Efficient randomized
  pattern-matching algorithms, 1987), and most of it is passed over at once: no window of the query
  has such a hash;
- a **suffix automaton** (Blumer et al., The smallest automaton recognizing the subwords of a text,
  1985). Fed one symbol after another, it knows the longest stretch that ends there and stands in the
  query. That takes linear time whatever the texts are, ten thousand spaces among a million of them
  included. It decides; the bit table only says where it is worth asking.

A **state** of the automaton stands for stretches that end at the same places of the query: the longest
has ``lengths[state]`` symbols, the others are its endings that are longer than those of the state
``links[state]``. State 0 is the empty stretch. An **edge** leads from a state to another by one symbol.

A symbol below 0 in the query matches nothing.
"""

import numpy as np

from rngru.kernels.compiling import kernel

OWNER, SYMBOL, TARGET, NEXT = range(4)
"""The columns of an edge; NEXT is the next edge of the same state, -1 after the last."""

ENTRIES = 3
"""Edges at most, for each symbol of the query; twice as many states as symbols."""

_ROLL = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xD6E8FEB86659FD93)


@kernel(keep=False)
def _slot(state, symbol, table):
    """Return where to look first for the edge of a state by a symbol."""
    key = (np.uint64(state) << np.uint64(32)) ^ np.uint64(symbol)
    key *= _MIX
    return (key ^ (key >> np.uint64(32))) & np.uint64(table.size - 1)


@kernel(keep=False)
def _edge(state, symbol, edges, table):
    """Return the number of the edge of a state by a symbol, -1 if there is none."""
    slot = _slot(state, symbol, table)
    while table[slot] >= 0:
        edge = table[slot]
        if edges[edge, OWNER] == state and edges[edge, SYMBOL] == symbol:
            return edge
        slot = (slot + np.uint64(1)) & np.uint64(table.size - 1)
    return -1


@kernel(keep=False)
def _join(state, symbol, target, edges, table, heads, number):
    """Add the edge ``number``."""
    slot = _slot(state, symbol, table)
    while table[slot] >= 0:
        slot = (slot + np.uint64(1)) & np.uint64(table.size - 1)
    table[slot] = number
    edges[number, OWNER], edges[number, SYMBOL] = state, symbol
    edges[number, TARGET], edges[number, NEXT] = target, heads[state]
    heads[state] = number


@kernel()
def build(query, lengths, links, heads, edges, table, ends):
    """Make the suffix automaton of a query.

    Parameters
    ----------
    query: symbols (n,), int64.
    lengths, links, heads: for the states, (2 n + 1,), int32; ``heads`` are their first edges.
    edges: (3 n + 1, 4), int32.
    table: (a power of two above 6 n,), int32, all -1: the edges by their hashes.
    ends: for the state of the query up to each symbol, itself included, (n,), int32.

    Returns
    -------
    How many states there are.
    """
    lengths[0], links[0], heads[0] = 0, -1, -1
    states, count, last = 1, 0, 0
    for i in range(query.size):
        symbol, new = query[i], states
        states += 1
        lengths[new], heads[new] = lengths[last] + 1, -1
        state, edge = last, np.int64(-1)
        while state >= 0:
            edge = _edge(state, symbol, edges, table)
            if edge >= 0:
                break
            _join(state, symbol, new, edges, table, heads, count)
            count += 1
            state = links[state]
        if state < 0:
            links[new] = 0
        else:
            target = edges[edge, TARGET]
            if lengths[target] == lengths[state] + 1:
                links[new] = target
            else:  # only the shorter stretches of the target end here, too: they get a state
                clone = states
                states += 1
                lengths[clone], links[clone] = lengths[state] + 1, links[target]
                heads[clone], each = -1, heads[target]
                while each >= 0:
                    _join(
                        clone, edges[each, SYMBOL], edges[each, TARGET], edges, table, heads, count
                    )
                    count += 1
                    each = edges[each, NEXT]
                while state >= 0:
                    edge = _edge(state, symbol, edges, table)
                    if edge < 0 or edges[edge, TARGET] != target:
                        break
                    edges[edge, TARGET] = clone
                    state = links[state]
                links[target] = links[new] = clone
        ends[i] = last = new
    return states


@kernel(keep=False)
def _bits(value, shift):
    """Return the two places of a hash in the bit table, of 2 ** (64 - shift) bits."""
    mixed = value * _MIX  # whose high bits depend on all of the value, the low ones on few
    return mixed >> shift, mixed << (np.uint64(64) - shift) >> shift


@kernel(keep=False)
def _power(least):
    """Return what the symbol that leaves a window is multiplied by."""
    power = np.uint64(1)
    for _ in range(least):
        power *= _ROLL
    return power


@kernel()
def mark(query, least, bits, shift):
    """Set two bits of ``bits`` (words,), uint64, all 0, for each window of the query."""
    one, low, six = np.uint64(1), np.uint64(63), np.uint64(6)
    shift, power = np.uint64(shift), _power(least)
    value = np.uint64(0)
    for i in range(query.size):
        value = value * _ROLL + np.uint64(query[i])
        if i >= least:
            value -= power * np.uint64(query[i - least])
        if i >= least - 1:
            first, second = _bits(value, shift)
            bits[first >> six] |= one << (first & low)
            bits[second >> six] |= one << (second & low)


@kernel()
def find(
    text, first, last, least, bits, shift, lengths, links, edges, table, longest, where, earliest
):
    """Look for all stretches of ``text`` that begin in ``first`` to ``last`` and stand in the query.

    Parameters
    ----------
    text: symbols (N,), an unsigned type.
    first, last: a part of it. A stretch that begins there is followed beyond its end.
    least: only stretches of so many symbols or more.
    bits, shift: the windows of the query, as :func:`mark` leaves them.
    lengths, links, edges, table: its automaton, as :func:`build` leaves it.
    longest: for each state, the length of the longest stretch of it that was found, 0 if none was,
        (states,), int32; ``where`` it ends first, and where any stretch of the state ends first,
        ``earliest``, both int64. They are kept up from call to call: parts come in their order.
    """
    one, low, six = np.uint64(1), np.uint64(63), np.uint64(6)
    shift, power, size = np.uint64(shift), _power(least), text.size
    i = first  # where the next window ends, or the next symbol that the automaton takes
    i += least - 1
    while i < size and i - least + 1 < last:
        # Pass over what cannot be there. The window that ends at i has no hash yet.
        value = np.uint64(0)
        for k in range(i - least + 1, i):
            value = value * _ROLL + np.uint64(text[k])
        stop, leaving = min(size, last + least - 1), np.uint64(0)
        hit = False
        while i < stop:
            value = value * _ROLL + np.uint64(text[i]) - power * leaving
            a, b = _bits(value, shift)
            if bits[a >> six] >> (a & low) & one and bits[b >> six] >> (b & low) & one:
                hit = True
                break
            leaving = np.uint64(text[i - least + 1])
            i += 1
        if not hit:
            return
        # It may be there: ask the automaton, for as long as another window is likely to be there soon.
        end, i = i, i - least + 1
        state, length = 0, 0
        while i < size and (i <= end or (2 * length >= least and i - length < last)):
            symbol = np.int64(text[i])
            edge = _edge(state, symbol, edges, table)
            while edge < 0 and state > 0:
                state = links[state]
                length = lengths[state]
                edge = _edge(state, symbol, edges, table)
            if edge >= 0:
                state, length = edges[edge, TARGET], length + 1
            if length >= least:
                if earliest[state] < 0:
                    earliest[state] = i
                if length > longest[state]:
                    longest[state], where[state] = length, i
            i += 1
        # The stretch that ends before i can have grown into a window only so many symbols later.
        i += max(least - length, 1) - 1


@kernel()
def settle(order, links, lengths, longest, where, earliest, ends, found, places):
    """Say what was found of the query: the longest stretch that ends at each of its symbols.

    Parameters
    ----------
    order: all states, the longest first, (states,).
    links, lengths, ends: the automaton, as :func:`build` leaves it.
    longest, where, earliest: as :func:`find` leaves them, of all parts together. They are changed: a
        stretch that was found has all its endings with it.
    found: for the lengths, (n,), int32; ``places``, for where each of them ends first, int64.
    """
    for k in range(order.size):
        state = order[k]
        link = links[state]
        if link < 0 or longest[state] == 0:
            continue
        if longest[link] < lengths[link]:
            longest[link], where[link] = lengths[link], earliest[state]
        else:
            where[link] = min(where[link], earliest[state])
        if earliest[link] < 0 or earliest[state] < earliest[link]:
            earliest[link] = earliest[state]
    for k in range(order.size - 1, -1, -1):  # of what was not found itself, the longest ending
        state = order[k]
        if longest[state] == 0 and links[state] >= 0:
            longest[state], where[state] = longest[links[state]], where[links[state]]
    for i in range(ends.size):
        found[i], places[i] = longest[ends[i]], where[ends[i]]
