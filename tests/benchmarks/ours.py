"""A model of rngru, driven as the prompt drives it but without text and files."""

from typing import Any

import numpy as np

from rngru.backends import backend, freshcaches
from rngru.sampling import Sampling
from tests.benchmarks.cases import Case


class Rngru:
    """A model of rngru on a backend; ``more`` are further hyperparameters."""

    def __init__(self, case: Case, name: str = "cpu", **more: Any) -> None:
        self.hyper = case.hyper.replace(**more)
        self.backend = backend(name, case.model, self.hyper)
        arrays = case.model.initial(self.hyper, np.random.default_rng(2))
        self.arrays, self.caches = arrays, freshcaches(arrays, self.hyper)
        self.batch = case.batch()
        self.state = self.backend.freshstate(case.lanes)

    def step(self) -> float:
        """Train on the batch: forward, backward, norm, clipping, RMSProp; total loss."""
        done = self.backend.step(
            self.arrays, self.caches, *self.batch, self.state, self.hyper.learnrate
        )
        self.arrays, self.caches, self.state = done.arrays, done.caches, done.state
        return done.loss

    def generate(self, count: int, streams: int = 1) -> np.ndarray:
        """Draw ``count`` characters of each stream."""
        ids, state = np.zeros(streams, np.int32), self.backend.freshstate(streams)
        uniforms = np.random.default_rng(3).random((count, streams))
        return self.backend.generate(self.arrays, ids, state, uniforms, Sampling(0.5)).ids
