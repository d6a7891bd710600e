"""How a model is computed: one class per backend, all with the same methods.

=========  =====================================================================================
``cpu``    the kernels: training through fused ``Op``s and PyTensor's gradient, everything else
           without importing PyTensor
``scan``   ``pytensor.scan`` and PyTensor's own differentiation; the reference, and slow
``jax``    the same graphs in JAX, for GPUs and for several devices
=========  =====================================================================================

:class:`Backend` is the contract. What computes is imported when it is first needed: to look a name
up here costs nothing.

>>> import numpy as np
>>> from rngru import models
>>> from rngru.hyper import HyperParams
>>> hyper = HyperParams(5, state_size=8, layers=1)
>>> computes, rng = backend("cpu", models.named("GRUEncode"), hyper), np.random.default_rng(1)
>>> arrays = computes.model.initial(hyper, rng)
>>> ids = rng.integers(0, 5, (7, 2), np.int32)
>>> losses = computes.losses(arrays, ids, ids, computes.freshstate(lanes=2))
>>> losses.nats.shape, losses.ending.shape
((7, 2), (1, 2, 8))
"""

from rngru.backends.base import (
    Arrays,
    Backend,
    Caches,
    Losses,
    Noise,
    Step,
    Trace,
    Written,
    freshcaches,
)
from rngru.errors import MissingExtra, choose
from rngru.hyper import HyperParams
from rngru.models import Model

__all__ = [
    "BACKENDS",
    "Arrays",
    "Backend",
    "Caches",
    "Losses",
    "Noise",
    "Step",
    "Trace",
    "Written",
    "backend",
    "freshcaches",
    "named",
    "rounding",
    "shielded",
]


def _cpu() -> type[Backend]:
    from rngru.backends.cpu import CPU

    return CPU


def _scan() -> type[Backend]:
    from rngru.backends.scan import Scan

    return Scan


def _jax() -> type[Backend]:
    try:
        import jax  # noqa: F401
    except ImportError as missing:
        raise MissingExtra(
            "backend='jax' needs JAX: pip install 'rngru[jax]', or for a GPU pip install 'jax[cuda13]'; "
            "see docs.jax.dev for others."
        ) from missing
    from rngru.backends.jaxed import JAX

    return JAX


BACKENDS = {"cpu": _cpu, "scan": _scan, "jax": _jax}
"""What imports each backend, by name."""


def named(name: str) -> str:
    """Return the name of a backend.

    Raises
    ------
    InputError
        With the choices and the nearest of them.
    """
    return choose("backend", name, BACKENDS)


def backend(name: str, model: Model, hyper: HyperParams) -> Backend:
    """Import the backend called ``name``, and return it for a model; nothing is compiled yet."""
    return BACKENDS[named(name)]()(model, hyper)


def rounding(name: str) -> str:
    """Return how this processor rounds what a backend computes, in a word; '' where nobody promises bits.

    It is compiled for the processor by :mod:`rngru.kernels`; :mod:`rngru.kernels.target` has the words.
    """
    if name != "cpu":
        return ""
    from rngru.kernels.target import TARGET

    return TARGET.rounding


def shielded(name: str, model: Model, hyper: HyperParams) -> Backend:
    """Return the same as a backend that Ctrl-C cannot break; nothing is imported yet."""
    from rngru.backends.shield import Shielded

    return Shielded(named(name), model, hyper, backend)
