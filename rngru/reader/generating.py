"""Writing text with a model: going on from a seed, all at once, side by side, or piece by piece.

:class:`Draft` draws the symbols of one text; what is made of them is in the functions.
"""

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from rngru.backends import Written
from rngru.dataset import DataSet
from rngru.errors import InputError
from rngru.interrupts import Interrupts, never
from rngru.reader.filling import fill
from rngru.reader.limits import Ending, Limits, unblank
from rngru.reader.reader import Reader, Text
from rngru.sampling import Sample, Samples, Sampling
from rngru.text import Vocabulary

AT_ONCE = 64
"""Symbols drawn between two looks at Ctrl-C."""

SEED = "\n"
"""What a text begins after when no seed is given: a newline, where the model knows it."""


@dataclass(frozen=True)
class Beginning:
    """What a text goes on from.

    Parameters
    ----------
    ids: int32 (m,), what was read, oldest first; none if there is nothing to continue.
    state: (L, 1, H), before the last of them.
    words: the same as text.
    given: whether somebody has said what to go on from.
    """

    ids: np.ndarray
    state: np.ndarray
    words: str
    given: bool


def begin(
    reader: Reader,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    asked: Callable[[], bool] = never,
) -> Beginning:
    """Read a seed, from a state or a sample; KeyboardInterrupt if somebody ``asked`` to stop.

    Without a seed it is the end of the sample to start from, or a newline; ``''`` is none at all.
    """
    if reader.model.both:
        raise InputError(
            f"{reader.model.name} predicts each symbol from the text on both sides of it, so it cannot "
            "write on. ms.fillin('the qu_ck br_wn fox') fills gaps."
        )
    given = seed is not None or start is not None
    if seed is None and isinstance(start, Sample):
        state = startstate(reader, start)
        return Beginning(_history(start), state, start.whole, given)
    state = behind(reader, start)
    seed = ("" if reader.vocab.unknown_in(SEED) else SEED) if seed is None else seed
    words = seed.decode("utf-8", "replace") if isinstance(seed, bytes) else str(seed)
    if isinstance(seed, str | bytes) and not seed:
        return Beginning(np.empty(0, np.int32), state, words, given)
    ids = reader.encode(seed)
    for trace in reader.read(ids[:-1], state):
        if asked():
            raise KeyboardInterrupt
        state = trace.ending
    return Beginning(ids, state, words, given)


def _history(sample: Sample) -> np.ndarray:
    """Return all that was read up to the end of a sample, (m,), int32."""
    if sample.last is None:
        return np.empty(0, np.int32)
    ids = np.concatenate([sample.before, sample.ids]).astype(np.int32)
    return ids if ids[-1:] == sample.last else np.array([sample.last], np.int32)


def startstate(reader: Reader, start: "np.ndarray | Sample | None") -> np.ndarray:
    """Return the state to write from, (L, 1, H)."""
    fresh = reader.freshstate()
    if start is None:
        return fresh
    if isinstance(start, Sample):
        ids = np.concatenate([start.before, start.ids, [start.last or 0]])
        known = ids.min() >= 0 and ids.max() < reader.vocab.vocab_size
        if start.vocabulary not in ("", reader.vocab.digest) or not known:
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


def behind(reader: Reader, start: "np.ndarray | Sample | None") -> np.ndarray:
    """Return the state to read another text from, (L, 1, H): of a sample, behind its last symbol."""
    state = startstate(reader, start)
    if isinstance(start, Sample) and start.last is not None:
        (trace,) = reader.read(np.array([start.last], np.int32), state)
        return trace.ending
    return state


class Draft:
    """One text in the making: iterate over it to draw its symbols, some at a time.

    Parameters
    ----------
    count: how many symbols at most; None: without end.
    begun: what it goes on from. If there is nothing to continue, the first symbol is one that starts
        a line in the source; if nobody has said what to continue, it is no white space.
    rng: one random number is taken from it for each symbol, and none for what follows the end.
    """

    def __init__(
        self,
        reader: Reader,
        count: int | None,
        sampling: Sampling,
        begun: Beginning,
        rng: np.random.Generator,
    ) -> None:
        self.reader, self.sampling, self.begun, self.rng = reader, sampling, begun, rng
        self._left = math.inf if count is None else count
        self._limits = Limits(reader, sampling, begun.words)
        self._ending = Ending(reader.vocab, sampling.stop or ())

    def __iter__(self) -> Iterator[Written]:
        """Yield symbols as a backend does, (n, 1) each time."""
        ids, state, first = self.begun.ids[:, np.newaxis], self.begun.state, True
        while self._left > 0:
            # Only what the limits may look at is kept: a text without end may be written.
            written = ids[len(self.begun.ids) :, 0] if self._limits.moving else ids[:0, 0]
            barred = self._limits.barred(written)
            if barred is None:
                return
            if first and not self.begun.given:
                barred = unblank(barred, self.reader.vocab)
            if len(ids):
                alone = self._limits.moving or (first and not self.begun.given)
                piece, ended = self._drawn(ids, state, barred, 1 if alone else AT_ONCE)
            else:
                drawn = np.full((1, 1), self.reader.vocab.semirandomidx(self.rng, barred), np.int32)
                piece = Written(drawn, state, np.full((1, 1), np.nan, np.float32))
                ended = self._ending.after(drawn[:, 0]) is not None
            self._left -= len(piece.ids)
            yield piece
            if ended:
                return
            ids, state, first = np.concatenate([ids, piece.ids]), piece.ending, False
            if not self._limits.moving:
                ids = ids[-self.sampling.repeat_last :]

    def _drawn(
        self, ids: np.ndarray, state: np.ndarray, barred: np.ndarray, most: int
    ) -> tuple[Written, bool]:
        """Draw ``most`` symbols, or up to the end; return them, and whether it was the end."""
        generator, last, recent = self.rng.bit_generator, ids[-1], recently(ids, self.sampling)
        size, before = min(most, self._left), generator.state
        uniforms = self.rng.random((int(size), 1))
        piece = self.reader.write(last, state, self.sampling, uniforms, barred, recent)
        wanted = self._ending.after(piece.ids[:, 0])
        if wanted is not None and wanted < size:  # the numbers after it were not used
            generator.state = before
            uniforms = self.rng.random((wanted, 1))
            piece = self.reader.write(last, state, self.sampling, uniforms, barred, recent)
        return piece, wanted is not None


def recently(ids: np.ndarray, sampling: Sampling) -> np.ndarray | None:
    """Return the symbols that are less likely to be repeated, (repeat_last, B), or None, from all (n, B)."""
    if sampling.repeat == 1:
        return None
    last = ids[-sampling.repeat_last :]
    # Which symbols are there counts, not how often: the oldest may stand for what was not yet written.
    return np.concatenate([last[:1].repeat(sampling.repeat_last - len(last), axis=0), last])


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
    return _one(reader, count, sampling, begin(reader, seed, start, asked), rng, asked)


def _one(
    reader: Reader,
    count: int,
    sampling: Sampling,
    begun: Beginning,
    rng: np.random.Generator,
    asked: Callable[[], bool],
) -> Sample:
    none = np.empty((0, 1), np.int32)
    found = [Written(none, begun.state, none.astype(np.float32))]
    with suppress(KeyboardInterrupt):  # told to stop at once
        for piece in Draft(reader, count, sampling, begun, rng):
            found.append(piece)
            if asked():
                break
    ids = np.concatenate([piece.ids for piece in found])[:, 0]
    logprobs = np.concatenate([piece.logprobs for piece in found])[:, 0]
    return made(reader, begun, ids, logprobs, found[-1].ending, sampling, asked())


def made(
    reader: Reader,
    begun: Beginning,
    ids: np.ndarray,
    logprobs: np.ndarray,
    state: np.ndarray,
    sampling: Sampling | None,
    interrupted: bool,
) -> Sample:
    """Return the sample that was written: ``ids`` and ``logprobs`` (n,), ``state`` before the last."""
    last = np.append(begun.ids[-1:], ids)[-1:]
    return Sample(
        reader.vocab.decode(ids),
        state,
        seed=begun.words,
        interrupted=interrupted,
        ids=ids,
        last=int(last[0]) if last.size else None,
        vocabulary=reader.vocab.digest,
        level=reader.vocab.level,
        before=begun.ids,
        logprobs=logprobs,
        sampling=None if sampling is None else sampling.plain,
    )


def generateall(
    reader: Reader,
    count: int,
    sampling: Sampling | Sequence[Sampling],
    streams: int | None,
    *,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    rng: np.random.Generator,
    asked: Callable[[], bool] = never,
) -> Sample | Samples:
    """Write one text, or several: ``streams`` side by side, and for several rules one after the other.

    The other arguments are those of :func:`generate`. Side by side, each symbol of each text takes one
    random number, also after a text has come to its end; where a rule depends on the text, they are
    written one after the other.
    """
    begun = begin(reader, seed, start, asked)
    if isinstance(sampling, Sampling):
        if streams is None:
            return _one(reader, count, sampling, begun, rng, asked)
        return Samples(_many(reader, count, sampling, streams, begun, rng, asked))
    found: tuple[Sample, ...] = ()
    for each in sampling:
        if found and asked():
            break
        found += _many(reader, count, each, streams or 1, begun, rng, asked)
    return Samples(found, shows=("temp",))


def _many(
    reader: Reader,
    count: int,
    sampling: Sampling,
    streams: int,
    begun: Beginning,
    rng: np.random.Generator,
    asked: Callable[[], bool],
) -> tuple[Sample, ...]:
    if Limits(reader, sampling, begun.words).moving or streams == 1:
        found = [_one(reader, count, sampling, begun, rng, asked)]
        while len(found) < streams and not asked():
            found.append(_one(reader, count, sampling, begun, rng, asked))
        return tuple(found)
    ids = begun.ids[:, np.newaxis].repeat(streams, axis=1)
    barred = reader.barred(sampling)
    first = barred if begun.given else unblank(barred, reader.vocab)
    drawn = [np.empty((0, streams), np.int32)]
    if not begun.ids.size and count:  # nothing to continue
        drawn = [np.array([[reader.vocab.semirandomidx(rng, first) for _ in range(streams)]], "i4")]
    logprobs = [np.full(drawn[0].shape, np.nan, np.float32)]
    endings = [Ending(reader.vocab, sampling.stop or ()) for _ in range(streams)]
    ends = [ending.after(drawn[0][:, b]) for b, ending in enumerate(endings)]
    ids, state, done = (
        np.concatenate([ids, *drawn]),
        begun.state.repeat(streams, axis=1),
        len(drawn[0]),
    )
    with suppress(KeyboardInterrupt):  # told to stop at once
        while done < count and None in ends and not asked():
            alone = not (begun.given or done)
            uniforms = rng.random((min(1 if alone else AT_ONCE, count - done), streams))
            here, recent = first if alone else barred, recently(ids, sampling)
            more = reader.write(ids[-1], state, sampling, uniforms, here, recent)
            for b in range(streams):
                if ends[b] is None and (wanted := endings[b].after(more.ids[:, b])) is not None:
                    ends[b] = done + wanted
            drawn.append(more.ids)
            logprobs.append(more.logprobs)
            ids = np.concatenate([ids, more.ids])[-sampling.repeat_last :]
            state, done = more.ending, done + len(more.ids)
    texts, chances, cut = np.concatenate(drawn), np.concatenate(logprobs), asked()
    samples = []
    for b, end in enumerate(ends):
        own, there = texts[:end, b], state[:, b : b + 1]
        if end is not None and end < len(texts):  # it has read on: read its text once more
            there = begun.state
            for trace in reader.read(np.concatenate([begun.ids[-1:], own[:-1]]), begun.state):
                there = trace.ending
        each = chances[:end, b]
        samples.append(made(reader, begun, own, each, there, sampling, cut and end is None))
    return tuple(samples)


def stream(
    reader: Reader,
    count: int | None,
    sampling: Sampling,
    *,
    seed: Text | None,
    start: "np.ndarray | Sample | None",
    rng: np.random.Generator,
    asked: Callable[[], bool] = never,
) -> Iterator[str]:
    """Return an iterator over pieces of the text that :func:`generate` writes; the seed is read at once.

    With a ``count`` of None it has no end.
    """
    draft = Draft(reader, count, sampling, begin(reader, seed, start, asked), rng)
    return _pieces(reader.vocab, iter(draft))


def _pieces(vocab: Vocabulary, pieces: Iterator[Written]) -> Iterator[str]:
    """Yield drawn symbols as text; bytes of a character that is not yet whole are held back."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    isbyte, piece = vocab.level == "byte", None
    while True:
        with Interrupts(raises=True):  # whoever iterates is stopped between two pieces
            piece = next(pieces, None)
            ids = [] if piece is None else piece.ids[:, 0].tolist()
            text = decoder.decode(bytes(ids), piece is None) if isbyte else vocab.decode(ids)
        if text:
            yield text
        if piece is None:
            return


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
    first = None if state is None else reader.backend.firstlane(state)
    # The first symbol, which starts a line, is what a person would give as a seed.
    sample = generate(reader, 101, Sampling(), seed="", start=first, rng=rng)
    return reader.vocab.decode(sample.ids[1:])
