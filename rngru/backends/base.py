"""The contract of every backend: pure functions of arrays.

A backend holds no parameters and no learning rate, so an interrupted call changes nothing, and what
it returns replaces the old arrays in one assignment. Any number of threads may call it. Nothing is
compiled before the method that needs it is called.

Shapes: T steps, B lanes, L layers, S units, H state, V vocabulary. ``arrays`` are parameters by name,
``caches`` are what the optimizer remembers, by its name for it and then by parameter. All results are
float32 but symbols, which are int32.
"""

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rngru.forks import Lock
from rngru.hyper import MEAN, HyperParams
from rngru.models import Model
from rngru.sampling import Sampling, probabilities

Arrays = Mapping[str, np.ndarray]
Caches = Mapping[str, Arrays]
Noise = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step gives.

    ``loss`` is the total cross-entropy of the batch (nats) before the update, ``gradnorm`` the
    length of the cost's gradient before clipping. Where either is not finite, ``arrays`` and
    ``caches`` are the old ones. ``state`` is (L, B, H).
    """

    loss: float
    gradnorm: float
    arrays: Arrays
    caches: Caches
    state: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether loss and gradient are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradnorm)


class Trace(NamedTuple):
    """What a text does to a model.

    ``states`` (L, T, B, S), those of both stacks where there are two (2 L); ``logits`` (T, B, V);
    ``ending`` (L, B, H), the last state.
    """

    states: np.ndarray
    logits: np.ndarray
    ending: np.ndarray


class Losses(NamedTuple):
    """Cross-entropy of each symbol, ``nats`` (T, B), and the last state, ``ending`` (L, B, H)."""

    nats: np.ndarray
    ending: np.ndarray


class Ahead(NamedTuple):
    """What comes after one symbol more of each text.

    ``probabilities`` (B, V) of what follows, each row adding up to 1; ``ending`` (L, B, H), the last state.
    """

    probabilities: np.ndarray
    ending: np.ndarray


class Written(NamedTuple):
    """Symbols drawn, ``ids`` (n, B), and the state before the last of them, ``ending`` (L, B, H).

    ``logprobs`` (n, B) are the logarithms of their probabilities as the model has them: at
    temperature 1, with no symbol left out.
    """

    ids: np.ndarray
    ending: np.ndarray
    logprobs: np.ndarray


def freshcaches(arrays: Arrays, hyper: HyperParams) -> Caches:
    """Return what is kept before the first step: zeros, and the parameters as their own average."""
    return {
        cache: {
            name: array.copy() if cache == MEAN else np.zeros_like(array)
            for name, array in arrays.items()
        }
        for cache in hyper.caches
    }


def newest(hyper: HyperParams, number: int) -> float:
    """Return the share of the newest parameters in their average, after update ``number`` of a life.

    Nothing before the first one that counts, so that no mean has to be corrected.

    >>> [newest(HyperParams(66, average=0.75, average_from=2), n) for n in range(1, 9)]
    [1.0, 1.0, 1.0, 0.5, 0.3333333333333333, 0.25, 0.25, 0.25]
    """
    if hyper.average is None:
        return 0.0
    return max(1 - hyper.average, 1 / max(number - hyper.average_from, 1))


def shrinks(hyper: HyperParams, weights: list[bool]) -> list[float]:
    """Return the weight decay of each parameter; ``weights`` says which are weights, not biases."""
    decay = hyper.weightdecay if hyper.optimizer == "adamw" else 0.0
    return [decay * weight for weight in weights]


class Backend(ABC):
    """What every backend can do.

    Parameters
    ----------
    model, hyper: what to compute. The learning rate in ``hyper`` is not used: each step is given one.
    """

    name: ClassVar[str]

    def __init__(self, model: Model, hyper: HyperParams) -> None:
        self._model, self._hyper = model, hyper
        # Steps are computed in memory of the backend's own: two threads in one would spoil it.
        self._lock = Lock(threading.RLock)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, or one in another process, builds what it needs anew."""
        return type(self), (self.model, self.hyper)

    @property
    def model(self) -> Model:
        """The kind of model it computes."""
        return self._model

    @property
    def hyper(self) -> HyperParams:
        """The sizes and rules it was made for."""
        return self._hyper

    def freshstate(self, lanes: int) -> np.ndarray:
        """Return the state before any text: zeros (L, B, H)."""
        return self.model.freshstate(self.hyper, lanes)

    def place(self, arrays: Arrays) -> Arrays:
        """Put arrays where they are computed on; what is there already is returned as it is."""
        return arrays

    def fetch(self, arrays: Arrays) -> Arrays:
        """Return placed arrays as NumPy's."""
        return arrays

    def share(self, lanes: int) -> slice:
        """Say which of the lanes of a batch this process feeds: all, where there is one process."""
        return slice(0, lanes)

    def dealt(self, lanes: int) -> slice:
        """Say which lanes of a text this process reads that all read together: all, if it is alone."""
        return slice(0, lanes)

    def hosted(self, lanes: int) -> int:
        """Return how many lanes of a batch lie in the memory of this process; on a GPU none do."""
        return lanes

    def firstlane(self, state: np.ndarray) -> np.ndarray:
        """Return the first lane of a state (L, B, H), or the first of this process."""
        return state[:, :1]

    def remark(self, lanes: int) -> str:
        """Return what a person should know of how batches of so many lanes are computed; '' mostly."""
        return ""

    def finite(self, arrays: Arrays) -> bool:
        """Whether every number of placed arrays is finite."""
        return all(bool(np.isfinite(array).all()) for array in arrays.values())

    @abstractmethod
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
        """Train on one batch.

        Parameters
        ----------
        x, y: (T, B), int32.
        state: (L, B, H), what the lanes begin with.
        rate: the learning rate.
        number: updates so far plus one; Adam's correction needs it.
        noise: what dropout multiplies by: see :meth:`rngru.models.Model.noise`.
        """

    def predictstep(
        self,
        arrays: Arrays,
        caches: Caches,
        x: np.ndarray,
        y: np.ndarray,
        state: np.ndarray,
        rate: float,
    ) -> tuple[Step, np.ndarray]:
        """Do :meth:`step`, without noise; return also what ``y`` was predicted with before the update.

        These are probabilities (T, B, V), float64.
        """
        chances = probabilities(self.trace(arrays, x, state).logits, 1.0)
        return self.step(arrays, caches, x, y, state, rate), chances

    @abstractmethod
    def trace(self, arrays: Arrays, ids: np.ndarray, state: np.ndarray) -> Trace:
        """Run text ``ids`` (T, B) from ``state`` (L, B, H)."""

    def advance(self, arrays: Arrays, ids: np.ndarray, state: np.ndarray) -> Ahead:
        """Read one symbol of each text, ``ids`` (B,), from ``state`` (L, B, H).

        For whoever learns a symbol only after having asked for its probability: the same call gives the
        same bits, which calls for several symbols at once need not give.
        """
        found = self.trace(arrays, ids[np.newaxis], state)
        logits = found.logits[0]
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return Ahead(weights / weights.sum(axis=-1, keepdims=True), found.ending)

    @abstractmethod
    def losses(self, arrays: Arrays, x: np.ndarray, y: np.ndarray, state: np.ndarray) -> Losses:
        """Return the cross-entropy of each symbol of ``y`` (T, B), each after its ``x``.

        Where ``state`` has more lanes than ``x``, other processes have the rest, and ask for it at the same
        time; the losses are those of all lanes.
        """

    @abstractmethod
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
        """Draw symbols after ``ids`` (B,), one for each of ``uniforms`` (n, B).

        ``mask`` (V,) is added to the logits of every step: minus infinity for what is never drawn.
        ``recent`` (r, B) are the last symbols of each text, oldest first, ``ids`` the last of them: they,
        and from then on the last r, are less likely by the factor ``sampling.repeat``.
        """


def given(state: np.ndarray, noise: Noise | None) -> list[Any]:
    """Return what a training graph takes beside parameters and text, in the order of its inputs."""
    return [state, *(noise or {}).values()]
