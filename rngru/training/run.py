"""A model being trained, batch by batch: no clock, no disk, nobody called back."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import final

import numpy as np

from rngru.backends import Arrays, Backend, Step
from rngru.dataset import DataSet
from rngru.errors import fits
from rngru.hyper import HyperParams
from rngru.interrupts import never
from rngru.reader import Evaluation, averaging, finished
from rngru.training.memory import SMALLER, checkmemory
from rngru.training.progress import Progress

_LENGTH = 1
"""What tells the draw of a batch's length from that of its noise."""


@final
class Run:
    """A backend, a text and the progress made.

    Parameters
    ----------
    backend: computes the steps.
    data: the training text.
    progress: where to go on from; the attribute of this name moves on with each batch taken.
    hyper: how it learns.
    seed: what noise is drawn from, with the number of the batch: the same batch has the same noise
        on any backend, however often it is tried.
    """

    def __init__(
        self,
        backend: Backend,
        data: DataSet,
        progress: Progress,
        *,
        hyper: HyperParams,
        seed: int = 0,
    ) -> None:
        self.backend, self.data, self.progress = backend, data, progress
        self.hyper, self.seed = hyper, seed
        self._placed: Arrays | None = None

    @property
    def epoch(self) -> float:
        """Passes over the training text so far."""
        return self.progress.position / len(self.data)

    @property
    def lanes(self) -> int:
        """Lanes that the carried state is of; 0 if there is none."""
        return 0 if self.progress.state is None else self.progress.state.shape[1]

    @property
    def finite(self) -> bool:
        """Whether every number of parameters and caches is finite."""
        now = self.progress
        return all(map(self.backend.finite, (now.arrays, *now.caches.values())))

    def length(self, seq_len: int) -> int:
        """Return how many symbols each lane reads in the next batch: ``seq_len``, or about so many.

        With ``random_len`` p it is drawn as in Merity et al. (arXiv 1708.02182), but for the seed of the
        batch: from a normal distribution around ``seq_len``, or with probability p around half of it, with
        standard deviation 5; from 5 to ``seq_len + 10``.
        """
        share = self.hyper.random_len
        if not share:
            return seq_len
        rng = np.random.default_rng((self.seed, self.progress.batches, _LENGTH))
        around = seq_len / 2 if rng.random() < share else seq_len
        return int(np.clip(rng.normal(around, 5), min(5, seq_len), seq_len + 10))

    def propose(self, batchsize: int, seq_len: int, rate: float) -> Step:
        """Compute one training step from here, without taking it."""
        own = self.backend.hosted(batchsize)
        checkmemory(self.backend.model, self.hyper, own, seq_len)
        with fits(f"A batch of {batchsize} x {seq_len}", SMALLER):
            now = self._here()
            x, y = self._batch(now.position, batchsize, seq_len)
            return self.backend.step(
                now.arrays,
                now.caches,
                x,
                y,
                self._state(batchsize),
                rate,
                number=now.batches + 1,
                noise=self._noise(seq_len, batchsize),
            )

    def take(self, step: Step, symbols: int) -> None:
        """Go on to where a proposed step leads, ``symbols`` further in the text."""
        now = self.progress
        self.progress = replace(
            now,
            arrays=step.arrays,
            caches=step.caches,
            state=step.state,
            position=now.position + symbols,
            batches=now.batches + 1,
        )
        self._placed = step.arrays

    def lookahead(
        self,
        batches: int,
        batchsize: int,
        seq_len: int,
        *,
        weights: Arrays | None = None,
        asked: Callable[[], bool] = never,
    ) -> Evaluation:
        """Evaluate on the batches that come next, without training on them.

        With other ``weights`` than those being trained, if they are given.
        """
        size = batchsize * seq_len

        def pieces() -> Iterator[np.ndarray]:
            now, state = self._here(), self._state(batchsize)
            arrays = now.arrays if weights is None else self.backend.place(weights)
            for position in range(now.position, now.position + batches * size, size):
                x, y = self._batch(position, batchsize, seq_len)
                nats, state = self.backend.losses(arrays, x, y, state)
                yield nats

        found = finished(
            averaging(
                pieces(),
                batches * size,
                units=self.data.vocab.units,
                cloze=self.backend.model.both,
                asked=asked,
            )
        )
        assert found is not None, "a batch has symbols"
        return found

    def _here(self) -> Progress:
        """Return the progress, its arrays where they are computed on."""
        now, place = self.progress, self.backend.place
        if now.arrays is not self._placed:
            caches = {name: place(cache) for name, cache in now.caches.items()}
            now = self.progress = replace(now, arrays=place(now.arrays), caches=caches)
            self._placed = now.arrays
        return now

    def _batch(self, position: int, batchsize: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        lanes = self.backend.share(batchsize)
        return self.data.batch(position, batchsize, seq_len, lanes=lanes)

    def _state(self, batchsize: int) -> np.ndarray:
        """Return the state to begin the next batch with."""
        state = self.progress.state
        if state is None or state.shape[1] != batchsize:
            return self.backend.freshstate(batchsize)
        return state

    def _noise(self, seq_len: int, lanes: int) -> dict[str, np.ndarray]:
        model = self.backend.model
        if not model.noiseshapes(self.hyper):
            return {}  # a generator is not free
        rng = np.random.default_rng((self.seed, self.progress.batches))
        return model.noise(self.hyper, seq_len, lanes, rng)
