"""A model of rngru, driven as the prompt drives it but without text and files."""

import numpy as np

from rngru.backends import freshcaches
from rngru.backends.cpu import CPU
from rngru.sampling import Sampling
from tests.benchmarks.cases import Case


class Rngru:
    """A model of rngru on the backend ``'cpu'``."""

    def __init__(self, case: Case) -> None:
        self.hyper = case.hyper
        self.backend = CPU(case.model, self.hyper)
        self.arrays = case.model.initial(self.hyper, np.random.default_rng(2))
        self.caches = freshcaches(self.arrays, self.hyper)
        self.batch = case.batch()
        self.state = self.backend.freshstate(case.lanes)

    def step(self) -> float:
        """Train on the batch: forward, backward, norm, clipping, RMSProp; total loss."""
        done = self.backend.step(
            self.arrays, self.caches, *self.batch, self.state, self.hyper.learnrate
        )
        self.arrays, self.caches, self.state = done.arrays, done.caches, done.state
        return done.loss

    def generate(self, count: int) -> np.ndarray:
        """Draw ``count`` characters of one stream."""
        ids, state = np.zeros(1, np.int32), self.backend.freshstate(1)
        uniforms = np.random.default_rng(3).random((count, 1))
        return self.backend.generate(self.arrays, ids, state, uniforms, Sampling(0.5)).ids
