"""Forked children of a process whose other threads compute: they work, or say that they cannot.

The children are real ones, forked by ``multiprocessing`` or ``os.fork`` at instants that the tests
choose; the references are results of the parent when nothing else ran. A child that hangs is killed.
"""

import copy
import os
import pickle
import signal
import threading
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from rngru import ModelState, forks
from rngru.backends import backend
from rngru.errors import RngruError, WorkdirBusy
from rngru.forks import Lock
from rngru.interrupts import Interrupts
from rngru.kernels import threads
from tests.robust import LANES, PATIENCE, QUIET, VERSE, digest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def several(monkeypatch):
    """Kernels have threads, which a child has not."""
    monkeypatch.setenv("RNGRU_THREADS", "2")


def inchild(call, seconds=60):
    """Return what a call returns in a forked child, as text; 'hangs' if it does not."""
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            said = str(call())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(into, said.encode())
        os._exit(0)
    os.close(into)
    watchdog = threading.Timer(seconds, os.kill, (child, signal.SIGKILL))
    watchdog.start()
    with os.fdopen(out) as told:
        said = told.read()
    watchdog.cancel()
    os.waitpid(child, 0)
    return said or "hangs"


@contextmanager
def elsewhere(lock):
    """Let another thread hold a lock."""
    begun, over = threading.Event(), threading.Event()

    def hold():
        with lock:
            begun.set()
            over.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_lock_is_free_in_a_child(make):
    """Catches a child that waits for a thread it does not have, and a lock that it breaks for others."""
    lock = Lock(make)

    def use():
        with lock.held(), lock.held(blocking=False) as again:
            return again

    with elsewhere(lock.held()):
        assert lock.locked()
        assert inchild(use) == str(make is threading.RLock)
        assert lock.locked()
    with lock.held():  # forked while holding it: both give back their own
        assert inchild(use) == str(make is threading.RLock)
    assert not lock.locked()


@pytest.mark.parametrize("kind", ["cpu", "scan"])
def test_a_child_computes_what_the_parent_does(newmodel, kind):
    """Catches locks of the backend, of its shield or of the kernels that were held while forking, and
    results that another thread's half done batch spoils.
    """
    ms = newmodel(VERSE, state_size=160 if kind == "cpu" else 8, backend=kind, seq_len=5)
    ms.trainmodel(train_len=1, batchsize=LANES, **QUIET)
    start = ModelState.load(ms.workdir)

    def step(model):
        run = start._model.run(model._computes, model._corpus.train)
        done = run.propose(LANES, 5, 0.001)
        values = [array.sum(dtype=np.float64) for array in done.arrays.values()]
        text = start._model.reader(model._computes)
        return f"{done.loss} {values} {text.backend.freshstate(1).sum()}"

    wanted = step(start)
    stop = threading.Event()

    def train():
        while not stop.is_set():
            ms.trainmodel(train_len=3, batchsize=LANES, **QUIET)

    trains = threading.Thread(target=train)
    trains.start()
    try:
        for _ in range(3 if kind == "scan" else 8):
            time.sleep(0.013)
            assert inchild(lambda: step(ms)) == wanted
            assert len(inchild(lambda: ms.generatestring(5, rng=1))) == 5
            assert "per batch" in inchild(lambda: ms.traintime(2, 1))
    finally:
        stop.set()
        trains.join()
    with elsewhere(threads.together.held()), elsewhere(threads._grow.held()):
        assert inchild(lambda: not threads.together.locked()) == "True"
        assert inchild(lambda: step(ms)) == wanted
    with elsewhere(ms._disk.alone()):
        assert inchild(lambda: digest(ms.restore())) == digest(ModelState.load(ms.workdir))


def test_a_child_that_cannot_compute_says_so(newmodel):
    """Catches one that waits for ever for Numba's lock, or for a module that nobody imports any more."""
    from llvmlite.binding import ffi
    from numba.core.compiler_lock import global_compiler_lock

    ms = newmodel(VERSE)
    text = str(ms.generatestring(5, rng=1))
    for lock in (global_compiler_lock, ffi.lib._lock):
        with elsewhere(lock):
            said = inchild(lambda: ms.generatestring(5, rng=1))
            assert said.startswith(f"{RngruError.__name__}: Process ") and "'spawn'" in said
            assert "compiled with Numba" in inchild(lambda: inchild(lambda: ms.evaluate("The")))
            assert inchild(lambda: len(ModelState.load(ms.workdir).checkpoints())) == "1"
        with lock:  # one's own is no obstacle
            assert inchild(lambda: ms.generatestring(5, rng=1)) == text
    spec = np.__spec__
    spec._initializing = True
    try:
        assert "another thread imported numpy" in inchild(lambda: ms.evaluate("The"))
    finally:
        spec._initializing = False
    assert inchild(lambda: ms.generatestring(5, rng=1)) == text
    forks.check()


def asleep():
    """Fork a child that does nothing; return its process id."""
    child = os.fork()
    if not child:
        try:
            time.sleep(PATIENCE)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(1)
    time.sleep(0.2)
    return child


def test_a_child_can_be_ended():
    """Catches a child that was forked while the parent trains, and which no signal ends any more."""
    with Interrupts(terminate=True) as interrupts:
        inside = signal.getsignal(signal.SIGINT)
        ends = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM, signal.SIGHUP: -signal.SIGHUP}
        for number, status in ends.items():
            child = asleep()
            os.kill(child, number)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == status
        assert not interrupts.raised and signal.getsignal(signal.SIGINT) == inside


def test_a_child_leaves_the_lock_of_its_parent(newmodel):
    """Catches a directory that a child opens for others when it leaves the block it was forked in, and
    one that is held for as long as a child lives.
    """
    ms = newmodel(VERSE)

    with ExitStack() as stack:
        stack.enter_context(ms._disk.locked())
        child = os.fork()
        if not child:
            stack.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(WorkdirBusy, match=f"process {os.getpid()} on"):
            ModelState.load(ms.workdir).newcheckpoint()
        child = asleep()
    ms.newcheckpoint()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize("kind", ["cpu", "scan"])
def test_what_is_handed_on_computes_the_same(newmodel, kind):
    """Catches locks that cannot be pickled, in a reader that is sent to another process."""
    ms = newmodel(VERSE, backend=kind)
    reader = ms._reader
    ids = reader.encode("The ship")
    wanted = [each.logits for each in reader.read(ids)]
    for other in (pickle.loads(pickle.dumps(reader)), copy.deepcopy(reader)):  # noqa: S301
        found = [each.logits for each in other.read(ids)]
        assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    plain = backend(kind, reader.model, reader.hyper)
    assert pickle.loads(pickle.dumps(plain)).hyper == reader.hyper  # noqa: S301
    for each in (ms._model, ms.history(), ms.hyper, ms.checkpoints(), ms.chars, ms.evaluate("The")):
        assert repr(pickle.loads(pickle.dumps(each)))  # noqa: S301
