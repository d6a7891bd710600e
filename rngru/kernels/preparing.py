"""Compiling all kernels, the first time after installing: on two cores, and not in silence.

One process would compile for ten seconds in the middle of a first training run. Here a second one
compiles what runs backward and the update, while this one compiles what runs forward, which takes as long.
Training begins then, and the second process goes on with what dropout needs and with the sampler. Both
keep what they compiled (:mod:`rngru.kernels.compiling`), and the next process only reads it.

The kernels are called on small arrays of the types that models have, so that they are compiled for
just those.
"""

import atexit
import contextlib
import functools
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

from rngru.forks import inchild
from rngru.kernels import compiling, encoder, jobs, layers, output, threads, update
from rngru.kernels.plans import Plan, Planned
from rngru.kernels.sampler import Sampler
from rngru.kernels.sequence import add, times
from rngru.kernels.spec import LayerSpec, Weights
from rngru.kernels.tiles import PANEL, provide

_STEPS, _BACKWARD, _SAMPLES = "prepared", "backward", "samples"
"""Names that are kept once these are compiled: all that a training step needs, its half, the sampler."""

_PATIENCE = 120  # seconds to wait for the other process, should something stop it
_others: list[subprocess.Popen] = []


def prepare() -> None:
    """Compile every kernel of training, unless that has been done."""
    if compiling.read(_STEPS) is not None or not compiling.write("begun", b""):
        return
    with _told():
        try:
            _begin()
            _forward()
            if not _elsewhere(_BACKWARD):
                _backward()
                _mask()
        except BaseException:
            _end()
            raise
    compiling.write(_STEPS, b"")


@functools.cache
def prepare_sampler() -> None:
    """Compile what generates, unless that has been done, or wait for the process that does."""
    if compiling.read(_SAMPLES) is not None or not compiling.write("begun", b""):
        return
    with _told():
        if not _elsewhere(_SAMPLES):
            _sample()


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


def _begin() -> None:
    """Let another process compile the other half meanwhile, if there is a core for it."""
    python = os.path.basename(sys.executable or "")
    if threads.available() < 2 or not python.startswith("python"):
        return
    code = f"from {__name__} import _backward, _mask, _sample; _backward(); _mask(); _sample()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    _others.append(process)
    atexit.register(_end)


def _elsewhere(name: str) -> bool:
    """Wait for the other process, if there is one; return whether it has compiled this."""
    until = time.monotonic() + _PATIENCE
    while compiling.read(name) is None:
        if not _others or _others[0].poll() is not None or time.monotonic() > until:
            return compiling.read(name) is not None
        time.sleep(0.01)
    return True


def _end() -> None:
    """End the other process, which nobody waits for any more."""
    while _others:
        process = _others.pop()
        process.kill()
        process.wait()


@inchild
def _forget() -> None:
    """A forked child must not end what compiles for its parent."""
    _others.clear()


_SPEC, _SIZE, _SYMBOLS = LayerSpec("GRU"), 3, 2
_IDS = np.zeros((1, 1), np.int32)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def _stack() -> list[Weights]:
    columns = _SPEC.gates * _SIZE
    first = Weights((_zeros(_SYMBOLS, columns),), _zeros(_SIZE, columns))
    return [first, Weights((_zeros(_SIZE, columns), _zeros(columns)), _zeros(_SIZE, columns))]


def _forward() -> None:
    """Call what runs forward, and the loss; before that, what the other process will find ready."""
    provide(np.dtype(np.float32))
    sums, rows = jobs.Sums(Plan(count=1)), _zeros(1, PANEL)
    sums.product([(rows, rows)], 0, _zeros(PANEL, PANEL), 0, PANEL)
    threads.prepare()
    layers.forward(_SPEC, _IDS, _stack(), _zeros(2, 1, _SIZE), count=1)
    readout = _zeros(1, _SIZE), _zeros(_SIZE, _SYMBOLS), _zeros(_SYMBOLS)
    output.affine(*readout, count=1)
    output.score(*readout, np.zeros(1, np.int32), count=1)


def _sample() -> None:
    """Call what generates."""
    output.softmax(_zeros(1, PANEL))
    threads.Count().wait(0)
    first, second = _stack()
    sampler = Sampler(
        _SPEC, first.into[0], [second.into], [first.recurrent, second.recurrent], None,
        (_zeros(_SIZE, _SYMBOLS), _zeros(_SYMBOLS)),
    )  # fmt: skip
    sampler.generate(
        np.zeros(1, np.int32), _zeros(2, 1, _SIZE), np.zeros((1, 1)), (1.0, 1, 1.0, 0.0), count=1
    )
    compiling.write(_SAMPLES, b"")


def _backward() -> None:
    """Call what runs backward, and the update: that first, for it needs no product of the other process."""
    flat = [_zeros(1)]
    rule = update.Rule(
        "sgd", clipnorm=None, clip=1.0, decay=0.9, momentum=0.9, beta2=0.9, cautious=True
    )
    new, numbers = [[_zeros(1)], [_zeros(1)]], _zeros(1, update.NUMBERS)
    Planned(rule.plan)(numbers, flat, [flat, flat], new, count=1)
    wide = jobs.widened(_zeros(1, 1, _SPEC.gates * _SIZE), _SPEC.gates)
    passes = [
        layers.Pass(
            _zeros(1, 1, _SIZE),
            None,
            _zeros(1, 1, _SIZE),
            wide.copy(),
            jobs.widened(_zeros(1, 1, _SIZE), 1),
        )
        for _ in range(2)
    ]
    start, none = _zeros(2, 1, _SIZE), [None, None]
    layers.backward(_SPEC, _IDS, _stack(), start, passes, none, none, count=1)
    encoder.encode_back(_zeros(1, 1), _zeros(1, 1), count=1)
    deltas = jobs.widened(_zeros(1, _SYMBOLS), 1)
    output.score_back(_zeros(1, _SIZE), _zeros(_SIZE, _SYMBOLS), deltas, _zeros(1), count=1)
    compiling.write(_BACKWARD, b"")


def _mask() -> None:
    """Call what only dropout needs, and a layer with two layers above it."""
    some = _zeros(1, 1, _SIZE)
    for call in (times.bind(some, some, _zeros(1, 1, _SIZE)), add.bind(some, _zeros(1, 1, _SIZE))):
        call(0, 1)
