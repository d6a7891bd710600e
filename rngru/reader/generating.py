"""Writing text with a model: going on from a seed, and filling gaps."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import numpy as np

from rngru.dataset import DataSet
from rngru.errors import InputError
from rngru.interrupts import never
from rngru.reader.reader import Reader, Text
from rngru.sampling import Filled, Sample, Samples, Sampling, probabilities
from rngru.text import Vocabulary

AT_ONCE = 64
"""Symbols drawn between two looks at Ctrl-C."""

SEED = "\n"
"""What a text begins after when no seed is given: a newline, where the model knows it."""


def generate(
    reader: Reader,
    count: int,
    sampling: Sampling,
    *,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    rng: np.random.Generator,
    asked: Callable[[], bool] = never,
) -> Sample:
    """Write ``count`` symbols.

    Parameters
    ----------
    seed: what the text continues; ``''`` draws a first symbol that starts a line in the source.
        None: the end of the sample to start from, or a newline.
    start: a state, (L, 1, H), or a sample to go on from; by default a fresh state.
    rng: for all random numbers, one for each symbol that is drawn.
    asked: whether to stop early.
    """
    ids, state = _begun(reader, seed, start, asked)
    drawn: list[np.ndarray] = []
    left = count
    if not ids.size and count:  # nothing to continue
        ids = np.array([reader.vocab.semirandomidx(rng)], np.int32)
        drawn, left = [ids], count - 1
    last, interrupted = ids[-1:], False
    ending = Ending(reader.vocab, sampling.stop or ())
    if drawn and ending.after(drawn[0]) is not None:
        left = 0
    with suppress(KeyboardInterrupt):  # told to stop at once
        while left > 0 and not interrupted:
            before = rng.bit_generator.state
            uniforms = rng.random((min(AT_ONCE, left), 1))
            more, later = reader.write(last, state, sampling, uniforms)
            wanted = ending.after(more[:, 0])
            if wanted is not None and wanted < len(more):  # the numbers after it were not used
                rng.bit_generator.state = before
                uniforms = rng.random((wanted, 1))
                more, later = reader.write(last, state, sampling, uniforms)
            drawn.append(more[:, 0])
            last, state, left = more[-1], later, left - len(more)
            if wanted is not None:
                break
            interrupted = asked()
    found = np.concatenate(drawn) if drawn else np.empty(0, np.int32)
    end = int(last[0]) if last.size else None
    return _sample(reader, found, state, end, _words(reader, seed, start), asked())


def _sample(
    reader: Reader,
    ids: np.ndarray,
    state: np.ndarray,
    last: int | None,
    seed: str,
    interrupted: bool,
) -> Sample:
    return Sample(
        reader.vocab.decode(ids),
        state,
        seed=seed,
        interrupted=interrupted,
        ids=ids,
        last=last,
        vocabulary=reader.vocab.digest,
        level=reader.vocab.level,
    )


def _begun(
    reader: Reader,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    asked: Callable[[], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids of the seed, none for '', and the state before its last), all others read."""
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} predicts each symbol from the text on both sides of it, so it cannot "
            "write on. ms.fillin('the qu_ck br_wn fox') fills gaps."
        )
    state, ids = startstate(reader, start), _seeded(reader, seed, start)
    for trace in reader.read(ids[:-1], state):
        if asked():
            raise KeyboardInterrupt
        state = trace.ending
    return ids, state


def generatemany(
    reader: Reader,
    count: int,
    sampling: Sampling,
    streams: int,
    *,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    rng: np.random.Generator,
    asked: Callable[[], bool] = never,
) -> Samples:
    """Write ``streams`` texts of ``count`` symbols side by side, in one batch.

    The arguments are those of :func:`generate`. Each symbol of each text takes one random number, also
    after a text has come to its end.
    """
    ids, origin = _begun(reader, seed, start, asked)
    first = np.repeat(ids[-1:], streams)
    drawn = [np.empty((0, streams), np.int32)]
    if not ids.size and count:  # nothing to continue
        first = np.array([reader.vocab.semirandomidx(rng) for _ in range(streams)], np.int32)
        drawn = [first[np.newaxis]]
    endings = [Ending(reader.vocab, sampling.stop or ()) for _ in range(streams)]
    ends = [ending.after(drawn[0][:, b]) for b, ending in enumerate(endings)]
    last, state, done = first, np.repeat(origin, streams, axis=1), len(drawn[0])
    with suppress(KeyboardInterrupt):  # told to stop at once
        while done < count and None in ends and not asked():
            uniforms = rng.random((min(AT_ONCE, count - done), streams))
            more, state = reader.write(last, state, sampling, uniforms)
            for b in range(streams):
                if ends[b] is None and (wanted := endings[b].after(more[:, b])) is not None:
                    ends[b] = done + wanted
            drawn.append(more)
            last, done = more[-1], done + len(more)
    found, words, cut = np.concatenate(drawn), _words(reader, seed, start), asked()
    samples = []
    for b, end in enumerate(ends):
        own, there = found[:end, b], state[:, b : b + 1]
        if end is not None and end < len(found):  # it has read on: read its text once more
            there = origin
            for trace in reader.read(np.concatenate([ids[-1:], own[:-1]]), origin):
                there = trace.ending
        final = int(own[-1]) if own.size else (int(ids[-1]) if ids.size else None)
        samples.append(_sample(reader, own, there, final, words, cut and end is None))
    return Samples(tuple(samples))


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


def _seeded(reader: Reader, seed: Text | None, start: object) -> np.ndarray:
    """Return the ids to read before the first symbol is drawn; none for a seed of ''."""
    if seed is None and isinstance(start, Sample):
        return np.array([] if start.last is None else [start.last], np.int32)
    if (isinstance(seed, str | bytes) and not seed) or (
        seed is None and reader.vocab.unknown_in(SEED)
    ):
        return np.empty(0, np.int32)
    return reader.encode(SEED if seed is None else seed)


def _words(reader: Reader, seed: Text | None, start: object) -> str:
    """Return the text that a sample continues, for its record."""
    if isinstance(seed, bytes):
        return seed.decode("utf-8", "replace")
    if seed is not None:
        return str(seed)
    if isinstance(start, Sample):
        return start.seed + start.text
    return "" if reader.vocab.unknown_in(SEED) else SEED


def startstate(reader: Reader, start: "np.ndarray | Sample | None") -> np.ndarray:
    """Return the state to write from, (L, 1, H)."""
    fresh = reader.freshstate()
    if start is None:
        return fresh
    if isinstance(start, Sample):
        if start.vocabulary not in ("", reader.vocab.digest):
            raise InputError(
                "init_state is a sample of another model, whose symbols are others. Continue it with "
                "the model that wrote it, or give its text as seed=."
            )
        start = start.state
    state = np.asarray(start)
    if state.shape != fresh.shape or not np.isfinite(state).all():
        raise InputError(
            f"init_state has shape {state.shape}, expected finite numbers in {fresh.shape}: layers, "
            "1, state size. A sample, or its .state, has it."
        )
    # The user's may be a transpose.
    return reader.begun(state.astype(np.float32, order="C"))


def fillgaps(
    reader: Reader, text: str, blank: str, choices: int, *, check: Callable[[], object]
) -> Filled:
    """Fill every ``blank`` of a text, for a model that reads in both directions.

    ``choices`` says how many alternatives to list for each gap; ``check`` raises KeyboardInterrupt to
    stop.
    """
    if not reader.model.both:
        raise InputError(
            f"{reader.model.name} reads forwards only, so it cannot fill gaps. Train a model with "
            "modeltype='BiGRU', 'BiLSTM' or 'BiRNN'."
        )
    if not isinstance(text, str):
        raise InputError(f"Expected a text as one string, got {type(text).__name__}.")
    vocab, text = reader.vocab, reader.respelt(text)
    symbols = vocab.split(text)
    gaps = np.array([i for i, symbol in enumerate(symbols) if symbol == blank], np.int64)
    if not len(gaps):
        raise InputError(
            f"There is no {blank!r} in the text, so nothing to fill. Put blank={blank!r} where "
            "something is missing, or name another blank."
        )
    ids = vocab.encode(text).astype(np.int32)
    if vocab.unknown_idx is not None:
        unknown = {symbols[i] for i in np.flatnonzero(ids == vocab.unknown_idx)}
        reader.warn(" ".join(sorted(unknown - {blank, vocab.unknown_char})))
    return fill(reader, ids, gaps, choices, check=check)


def fill(
    reader: Reader,
    ids: np.ndarray,
    gaps: np.ndarray,
    choices: int = 1,
    *,
    check: Callable[[], object] = lambda: None,
) -> Filled:
    """Fill the ``gaps`` (m,) of encoded text ``ids`` (n,), which may hold anything there."""

    def logits(ids: np.ndarray) -> np.ndarray:
        check()
        (trace,) = reader.read(ids)
        return trace.logits[:, 0]

    vocab = reader.vocab
    ids, found = climb(ids, gaps, logits, vocab.unknown_idx)
    alternatives = [
        tuple((vocab.charatidx(int(i)), float(p[i])) for i in (-p).argsort()[:choices])
        for p in found
    ]
    return Filled(vocab.decode(ids), tuple(zip(gaps.tolist(), alternatives, strict=True)))


def climb(
    ids: np.ndarray,
    gaps: np.ndarray,
    logits: Callable[[np.ndarray], np.ndarray],
    forbidden: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Fill gaps together: the surest first, then each again, given all the others, until none changes.

    This climbs to a maximum of the product of the conditional probabilities (iterated conditional
    modes: Besag, J. R. Statist. Soc. B 48, 1986).

    Parameters
    ----------
    ids: (n,), int32, anything at the gaps.
    gaps: (m,), where they are.
    logits: gives the logits (n, V) of each symbol, from all the others.
    forbidden: the id that nothing is filled with.

    Returns
    -------
    (ids (n,) filled, probabilities (m, V) of each gap given the others).
    """

    def distribution(ids: np.ndarray) -> np.ndarray:
        scores = np.array(logits(ids)[gaps], np.float64)
        if forbidden is not None:
            scores[:, forbidden] = -np.inf
        return probabilities(scores, 1.0)

    ids, empty = ids.copy(), np.ones(len(gaps), bool)
    while empty.any():
        found = distribution(ids)
        surest = int(np.argmax(np.where(empty, found.max(-1), -1.0)))
        ids[gaps[surest]], empty[surest] = found[surest].argmax(), False
    for _ in range(10):
        before = ids.copy()
        for i in range(len(gaps)):
            ids[gaps[i]] = distribution(ids)[i].argmax()
        if np.array_equal(ids, before):
            break
    return ids, distribution(ids)


def glimpse(
    reader: Reader,
    state: np.ndarray | None,
    data: DataSet,
    position: int,
    rng: np.random.Generator,
) -> str:
    """Return what training shows: text from the ``state`` (L, B, H) of the first lane, or gaps filled.

    The gaps are in what the first lane reads at a ``position`` of the training text.
    """
    if reader.model.both:
        start = position % len(data)
        ids = data.ids[start : start + 80].astype(np.int32)
        return str(fill(reader, ids, np.arange(4, len(ids), 8)))
    first = None if state is None else state[:, :1]
    # The first symbol, which starts a line, is what a person would give as a seed.
    sample = generate(reader, 101, Sampling(), seed="", start=first, rng=rng)
    return reader.vocab.decode(sample.ids[1:])
