"""A backend that Ctrl-C cannot break, around any other.

Where Python raises KeyboardInterrupt in the middle of an import, a compilation or a lock, the rest of
the session suffers: the module cannot be imported again, a thread waits for ever. So each call is
computed to its end, in another thread where that may take long, and the main thread stops waiting.
"""

import math
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, TypeVar, final

import numpy as np

from rngru import forks
from rngru.backends.base import Ahead, Arrays, Backend, Caches, Losses, Noise, Step, Trace, Written
from rngru.backends.team import TEAM
from rngru.hyper import HyperParams
from rngru.interrupts import Interrupts
from rngru.models import Model
from rngru.sampling import Sampling

T = TypeVar("T")

LONG = 0.5
"""Seconds that a second Ctrl-C may have to wait for a computation to end."""


class Aside(threading.Thread):
    """A thread that computes ``call()``."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="rngru-aside")
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        # Such as what NumPy does about errors.
        self._context = copy_context()
        self.start()

    def run(self) -> None:
        """Compute."""
        try:
            self._result = self._context.run(self._call)
        except BaseException as error:  # raised by the thread that waits
            self._error = error

    def result(self, stop: Callable[[], bool]) -> Any:
        """Return what the call does; or raise KeyboardInterrupt when told to stop waiting."""
        while self.is_alive():
            if stop():
                raise KeyboardInterrupt
            self.join(0.05)
        if self._error is not None:
            raise self._error
        return self._result


@final
class Shielded(Backend):
    """A backend that Ctrl-C cannot break: each call is computed to its end, or not at all.

    What computes is imported and compiled when it is first needed. As that may take long, one Ctrl-C
    raises KeyboardInterrupt at once; where it is known how long a computation takes, and that it is
    long, a second one does. It goes on to its end in its own thread. A call that begins after Ctrl-C
    is needed for the save, so it is waited for.

    Parameters
    ----------
    name: of the backend.
    model, hyper: what to compute.
    make: makes the backend from the three.
    """

    def __init__(
        self,
        name: str,
        model: Model,
        hyper: HyperParams,
        make: Callable[[str, Model, HyperParams], Backend],
    ) -> None:
        super().__init__(model, hyper)
        self._name, self._make = name, make
        self._backend: Backend | None = None
        self._seconds: dict[tuple[Any, ...], float] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy computes by itself."""
        return type(self), (self._name, self.model, self.hyper, self._make)

    @property
    def name(self) -> str:  # type: ignore[override]
        """The name of the backend inside."""
        return self._name

    def place(self, arrays: Arrays) -> Arrays:
        """Put arrays where they are computed on."""
        return self._shield(("place",), lambda inside: inside.place(arrays))

    def fetch(self, arrays: Arrays) -> Arrays:
        """Return placed arrays as NumPy's."""
        return self._shield(("fetch",), lambda inside: inside.fetch(arrays))

    def share(self, lanes: int) -> slice:
        """Say which lanes this process feeds."""
        return self._shield(("share",), lambda inside: inside.share(lanes))

    def dealt(self, lanes: int) -> slice:
        """Say which lanes of a text this process reads."""
        return self._shield(("dealt",), lambda inside: inside.dealt(lanes))

    def hosted(self, lanes: int) -> int:
        """Return how many lanes of a batch lie in the memory of this process."""
        return self._shield(("hosted",), lambda inside: inside.hosted(lanes))

    def firstlane(self, state: np.ndarray) -> np.ndarray:
        """Return the first lane of a state."""
        return self._shield(("firstlane",), lambda inside: inside.firstlane(state))

    def remark(self, lanes: int) -> str:
        """Return what a person should know of how batches are computed."""
        return self._shield(("remark",), lambda inside: inside.remark(lanes))

    def finite(self, arrays: Arrays) -> bool:
        """Whether every number of placed arrays is finite."""
        return self._shield(("finite",), lambda inside: inside.finite(arrays))

    def step(
        self,
        arrays: Arrays,
        caches: Caches,
        x: np.ndarray,
        y: np.ndarray,
        state: np.ndarray,
        rate: float,
        *,
        number: int = 1,
        noise: Noise | None = None,
    ) -> Step:
        """Train on one batch."""
        return self._shield(
            ("step", x.shape),
            lambda inside: inside.step(
                arrays, caches, x, y, state, rate, number=number, noise=noise
            ),
        )

    def predictstep(
        self,
        arrays: Arrays,
        caches: Caches,
        x: np.ndarray,
        y: np.ndarray,
        state: np.ndarray,
        rate: float,
    ) -> tuple[Step, np.ndarray]:
        """Predict a batch, and train on it."""
        return self._shield(
            ("predictstep", x.shape),
            lambda inside: inside.predictstep(arrays, caches, x, y, state, rate),
        )

    def trace(self, arrays: Arrays, ids: np.ndarray, state: np.ndarray) -> Trace:
        """Run text."""
        return self._shield(("trace", ids.shape), lambda inside: inside.trace(arrays, ids, state))

    def advance(self, arrays: Arrays, ids: np.ndarray, state: np.ndarray) -> Ahead:
        """Read one symbol of each text."""
        return self._shield(
            ("advance", ids.shape), lambda inside: inside.advance(arrays, ids, state)
        )

    def losses(self, arrays: Arrays, x: np.ndarray, y: np.ndarray, state: np.ndarray) -> Losses:
        """Return the cross-entropy of each symbol."""
        return self._shield(("losses", x.shape), lambda inside: inside.losses(arrays, x, y, state))

    def generate(
        self,
        arrays: Arrays,
        ids: np.ndarray,
        state: np.ndarray,
        uniforms: np.ndarray,
        sampling: Sampling,
        mask: np.ndarray | None = None,
        recent: np.ndarray | None = None,
    ) -> Written:
        """Draw symbols."""
        return self._shield(
            ("generate", uniforms.shape),
            lambda inside: inside.generate(arrays, ids, state, uniforms, sampling, mask, recent),
        )

    def _aside(self, call: Callable[[], T], stop: Callable[[], bool]) -> T:
        try:
            aside = Aside(call)
        except RuntimeError:  # no more threads can be started: then Ctrl-C has to wait
            return call()
        return aside.result(stop)

    def _inside(self) -> Backend:
        forks.check()
        with self._lock.held():
            if self._backend is None:
                self._backend = self._make(self._name, self.model, self.hyper)
            return self._backend

    def _shield(self, kind: tuple[Any, ...], compute: Callable[[Backend], T]) -> T:
        """Return ``compute(backend)``; ``kind`` tells computations that take equally long."""

        def call() -> T:
            return compute(self._inside())

        if threading.current_thread() is not threading.main_thread():
            return call()
        with Interrupts(raises=True) as interrupts:
            began, usual = time.perf_counter(), self._seconds.get(kind, math.inf)
            if usual < LONG:
                result = call()
            else:
                known = usual < math.inf and not interrupts.raises
                patience: float = max(interrupts.level, 1 if known else 0)
                if TEAM.count > 1:  # the others wait for this batch
                    patience = math.inf
                result = self._aside(call, lambda: interrupts.level > patience)
            self._seconds[kind] = time.perf_counter() - began
        return result
