"""Compiling all kernels at once, the first time after installing: on two cores, and not in silence.

One process would compile for twelve seconds in the middle of a first training run. Here a second one
compiles what learns, while this one compiles what reads and writes, which takes as long; both keep what
they compiled (:mod:`rngru.kernels.compiling`), and the next process only reads it.

The kernels are called on small arrays of the types that models have, so that they are compiled for
just those.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from rngru.kernels import compiling, layers, output, threads, update
from rngru.kernels.sampler import Sampler
from rngru.kernels.spec import LayerSpec, Weights
from rngru.kernels.tiles import PANEL, provide

_DONE = "prepared"
_PATIENCE = 120  # seconds to wait for the other process, should something stop it


def prepare() -> None:
    """Compile every kernel of training and generating, unless that has been done."""
    if compiling.read(_DONE) is not None or not compiling.write("begun", b""):
        return
    with _told(), _beside():
        threads.looks()
        _read()
    compiling.write(_DONE, b"")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what takes so long, if there is a person to read it."""
    person = sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    if person:
        sys.stderr.write("Preparing the kernels, once per installation … ")
        sys.stderr.flush()
    try:
        yield
    finally:
        if person:
            sys.stderr.write("done.\n")


@contextlib.contextmanager
def _beside() -> Iterator[None]:
    """Let another process compile the other half meanwhile, if there is a core for it."""
    python = os.path.basename(sys.executable or "")
    if threads.available() < 2 or not python.startswith("python"):
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import _learn; _learn()"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE)
    finally:
        process.kill()
        process.wait()


_SPEC, _SIZE, _SYMBOLS = LayerSpec("GRU"), 3, 2
_IDS = np.zeros((1, 1), np.int32)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _stack() -> list[Weights]:
    columns = _SPEC.gates * _SIZE
    first = Weights((_zeros(_SYMBOLS, columns),), _zeros(_SIZE, columns))
    return [first, Weights((_zeros(_SIZE, columns), _zeros(columns)), _zeros(_SIZE, columns))]


def _read() -> None:
    """Call what runs forward, and the sampler."""
    layers.forward(_SPEC, _IDS, _stack(), _zeros(2, 1, _SIZE), count=1)
    output.affine(_zeros(1, _SIZE), _zeros(_SIZE, _SYMBOLS), _zeros(_SYMBOLS), count=1)
    first, second = _stack()
    sampler = Sampler(
        _SPEC, first.into[0], [second.into], [first.recurrent, second.recurrent], None,
        (_zeros(_SIZE, _SYMBOLS), _zeros(_SYMBOLS)),
    )  # fmt: skip
    sampler.generate(
        np.zeros(1, np.int32), _zeros(2, 1, _SIZE), np.zeros((1, 1)), (1.0, 1, 1.0, 0.0), count=1
    )


def _learn() -> None:
    """Call what runs backward, the loss and the update."""
    provide(np.dtype(np.float32))
    output.softmax(_zeros(1, PANEL))
    target = np.zeros(1, np.int32)
    output.score(_zeros(1, _SIZE), _zeros(_SIZE, _SYMBOLS), _zeros(_SYMBOLS), target, count=1)
    flat = [_zeros(1)]
    update.norm(flat, flat, [0.0], count=1)
    update.apply(
        "rmsprop", flat, [flat, flat], [[_zeros(1)], [_zeros(1)]], rate=0.0, number=1, scale=1.0,
        clip=1.0, decay=0.9, momentum=0.9, beta2=0.9, shrinks=[0.0], count=1,
    )  # fmt: skip
    wide = layers.widened(_zeros(1, 1, _SPEC.gates * _SIZE), _SPEC.gates)
    passes = [
        layers.Pass(
            _zeros(1, 1, _SIZE),
            None,
            _zeros(1, 1, _SIZE),
            wide.copy(),
            layers.widened(_zeros(1, 1, _SIZE), 1),
        )
        for _ in range(2)
    ]
    start, none = _zeros(2, 1, _SIZE), [None, None]
    layers.backward(_SPEC, _IDS, _stack(), start, passes, none, none, count=1)
    deltas = layers.widened(_zeros(1, _SYMBOLS), 1)
    output.score_back(_zeros(1, _SIZE), _zeros(_SIZE, _SYMBOLS), deltas, 1.0, count=1)
