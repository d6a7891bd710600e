"""Models that compute nothing, for tests of what is done with a model."""

import importlib.util
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rngru.backends import BACKENDS, Arrays, Backend, Losses, Step, Trace, Written
from rngru.hyper import HyperParams
from rngru.models import GRUEncode, Model

INSTALLED = [name for name in BACKENDS if name != "jax" or importlib.util.find_spec("jax")]
"""The backends that can be tried here; JAX is an extra."""


@dataclass(frozen=True)
class Act:
    """What one training step of a :class:`Canned` backend does.

    ``loss`` is in nats per symbol; ``spoils`` names what it leaves not finite, ``"weights"`` or
    ``"caches"``; ``raises`` is an exception; ``then`` is called before the step returns.
    """

    loss: float = 1.0
    gradnorm: float = 1.0
    spoils: str = ""
    raises: type[BaseException] | None = None
    then: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Call:
    """One call of a :class:`Canned` backend, and what it was given."""

    kind: str
    x: np.ndarray
    y: np.ndarray
    state: np.ndarray
    rate: float = 0.0
    number: int = 0
    noise: dict[str, np.ndarray] = field(default_factory=dict)


class There(np.ndarray):
    """An array as it is where it is computed on."""


class Canned(Backend):
    """A backend whose losses were given beforehand, and whose states say what was fed.

    A state holds, for each lane, how many symbols it has read, and the last of them. The one
    parameter, ``w``, counts updates; what the optimizer remembers of it is the sum of their rates.

    Parameters
    ----------
    hyper: its symbols count; one layer of two neurons.
    steps: what one training step after the other does, numbers or :class:`Act`; then loss 1.
    looks: nats of one call of ``losses`` after the other, or a function of its x, y and state; then 1.
    places: keep arrays in another place, and refuse those that are not there; ``placed`` counts
        how often it was asked to.
    tick: called at the beginning of each training step.
    log: a list to which each call is added.
    """

    name = "canned"

    def __init__(
        self,
        hyper: HyperParams,
        steps: Iterable[float | Act] = (),
        looks: Iterable[float] | Callable[..., np.ndarray] = (),
        *,
        model: Model = GRUEncode,
        places: bool = False,
        tick: Callable[[], object] = lambda: None,
        log: list[Any] | None = None,
    ) -> None:
        super().__init__(model, hyper.replace(layers=1, state_size=2))
        self.steps = deque(act if isinstance(act, Act) else Act(act) for act in steps)
        self.looks = looks if callable(looks) else deque(looks)
        self.places, self.tick = places, tick
        self.log = [] if log is None else log
        self.placed = 0

    def weights(self, updates: int = 0) -> Arrays:
        """The parameters after so many updates."""
        return {"w": np.full(1, updates, np.float32)}

    @property
    def calls(self) -> list[Call]:
        """All calls, in order."""
        return [each for each in self.log if isinstance(each, Call)]

    @property
    def stepped(self) -> list[Call]:
        """The calls of ``step``."""
        return [call for call in self.calls if call.kind == "step"]

    def place(self, arrays: Arrays) -> Arrays:
        self.placed += 1
        if not self.places or all(isinstance(array, There) for array in arrays.values()):
            return arrays
        return {name: array.view(There) for name, array in arrays.items()}

    def fetch(self, arrays: Arrays) -> Arrays:
        return {name: np.asarray(array) for name, array in arrays.items()}

    def finite(self, arrays: Arrays) -> bool:
        self._demand(arrays)
        return super().finite(arrays)

    def step(self, arrays, caches, x, y, state, rate, *, number=1, noise=None) -> Step:
        self._demand(arrays, *caches.values())
        self.log.append(Call("step", x, y, state, rate, number, dict(noise or {})))
        self.tick()
        act = self.steps.popleft() if self.steps else Act()
        act.then()
        if act.raises:
            raise act.raises
        step = Step(act.loss * y.size, act.gradnorm, arrays, caches, self._after(x, state))
        if not step.finite:
            return step
        by = np.float32(np.nan if act.spoils == "weights" else 1)
        rate = np.nan if act.spoils == "caches" else rate
        return Step(
            step.loss,
            step.gradnorm,
            {name: array + by for name, array in arrays.items()},
            {
                cache: {name: array + np.float32(rate) for name, array in each.items()}
                for cache, each in caches.items()
            },
            step.state,
        )

    def trace(self, arrays, ids, state) -> Trace:
        self._demand(arrays)
        self.log.append(Call("trace", ids, ids, state))
        read = [self._after(ids[: t + 1], state) for t in range(len(ids))]
        logits = np.zeros((*ids.shape, self.hyper.vocab_size), np.float32)
        return Trace(np.stack(read, axis=1), logits, read[-1])

    def losses(self, arrays, x, y, state) -> Losses:
        self._demand(arrays)
        self.log.append(Call("losses", x, y, state))
        if callable(self.looks):
            nats = self.looks(x, y, state)
        else:
            nats = np.full(y.shape, self.looks.popleft() if self.looks else 1.0)
        return Losses(np.asarray(nats, np.float32), self._after(x, state))

    def generate(self, arrays, ids, state, uniforms, sampling, mask=None, recent=None) -> Written:
        """Write each symbol's successor, in the order of the ids."""
        self._demand(arrays)
        steps = np.arange(1, len(uniforms) + 1, dtype=np.int32)[:, np.newaxis]
        written = (ids + steps) % self.hyper.vocab_size
        after = self._after(np.vstack([ids[np.newaxis], written[:-1]]), state)
        return Written(written, after, np.zeros(written.shape, np.float32))

    def _after(self, x: np.ndarray, state: np.ndarray) -> np.ndarray:
        state = state.copy()
        state[:, :, 0] += len(x)
        state[:, :, 1] = x[-1]
        return state

    def _demand(self, *kinds: Arrays) -> None:
        if self.places:
            for arrays in kinds:
                assert all(isinstance(array, There) for array in arrays.values()), "not placed"
