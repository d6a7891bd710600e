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
    Ahead,
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
from rngru.backends.team import TEAM
from rngru.errors import MissingExtra, choose
from rngru.hyper import HyperParams
from rngru.models import Model

__all__ = [
    "BACKENDS",
    "Ahead",
    "Arrays",
    "Backend",
    "Caches",
    "Losses",
    "Noise",
    "Step",
    "Trace",
    "Written",
    "TEAM",
    "backend",
    "devices",
    "distributed",
    "freshcaches",
    "named",
    "ondevice",
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
    """Import the backend called ``name``, and return it for a model; nothing is compiled yet.

    For a cell of one's own there are no kernels: it is computed as on ``scan``, whatever the name.
    """
    name = "scan" if model.spec(hyper).row.own and name == "cpu" else named(name)
    return BACKENDS[name]()(model, hyper)


def distributed(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> None:
    """Join this process to others that train the same model, with ``backend="jax"``.

    Call it first, in every process; it returns when all are there. Then each does the same calls on
    the same model: its working directory is one that all can read, or a copy of it. Each computes its
    share of the lanes of a batch; process 0 alone writes checkpoints and reports. Ctrl-C or SIGTERM at any
    of them stops all after the same batch; if one dies, the others end, and the same command goes on from
    the last checkpoint, with as many processes as there are then.

    Parameters
    ----------
    coordinator : str
        Address and port at which process 0 listens, ``"10.0.0.1:1234"``. Whoever can reach it can take
        part: there is no password, so it must not be open to others.
    processes, process : int
        How many there are, and which this is, from 0 on.

    With nothing said, they are found where SLURM or a TPU pod has started the processes.

    Raises
    ------
    InputError
        If the others do not come, or this process has computed something already.
    MissingExtra
        If JAX is not installed.
    """
    BACKENDS["jax"]()
    from rngru.backends.jaxed import join

    join(coordinator, processes, process)


def devices() -> int:
    """Return how many processes can have a GPU of their own here; 0 if there is none.

    Whoever asks takes most of their memory, as JAX does when it looks.

    Raises
    ------
    MissingExtra
        If JAX is not installed.
    """
    BACKENDS["jax"]()
    from rngru.backends.jaxed import apart

    return apart()


def ondevice(number: int) -> None:
    """Let this process compute on one GPU alone, with ``backend="jax"``; before it has computed anything."""
    BACKENDS["jax"]()
    from rngru.backends.jaxed import take

    take(number)


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
