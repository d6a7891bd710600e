"""Long sessions leak nothing, and what happens in one process at a time stays apart.

The reference for everything that runs side by side is the same, run alone.
"""

import gc
import os
import statistics
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rngru import ModelState, models
from rngru.backends import backend
from rngru.errors import WorkdirBusy
from rngru.sampling import Sampling
from rngru.workdir import Workdir
from tests import robust
from tests.robust import digest, taken, together

QUIET = robust.QUIET | {"batchsize": 4}


@pytest.fixture
def impatient(monkeypatch):
    """Threads take turns as often as can be, those of the kernels as well."""
    monkeypatch.setenv("RNGRU_THREADS", "2")
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# ---- Long runs ----


def resident():
    """Bytes of memory that this process really has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def held(folder):
    """What must not become more: open files, threads, and files mapped into memory."""
    gc.collect()
    mapped = Path("/proc/self/maps").read_text().count(str(folder))
    return len(os.listdir("/proc/self/fd")), threading.active_count(), mapped


def settle():
    """Have CPython make its table of names anew now: it does after so many, and takes 4 MB once."""
    for number in range(300_000):
        sys.intern(f"name {number % 1000}")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_a_session_of_an_hour(newmodel, verse, tmp_path, long):
    """Catches whatever grows: caches without end, files and threads left open, models kept alive."""
    models = [
        newmodel(verse, state_size=64),
        newmodel(verse[:100], backend="scan", layers=1, state_size=4, seq_len=5),
    ]
    sizes = []

    def work():
        for number, ms in enumerate(models):
            batches = 2 if ms.backend == "scan" else 500 if long else 5
            ms.trainmodel(train_len=batches, keep=3, **QUIET)
            ms.evaluate(verse[:20])
            ms.generatestring(20, rng=len(sizes))
            ms.newcheckpoint()
            again = ModelState.load(ms.workdir)
            assert digest(again) == digest(ms)
            if ms.backend == "cpu":  # where it takes milliseconds to compile
                models[number] = again
        sizes.append(resident())

    for _ in range(3):
        work()
    settle()
    sizes.clear()
    before, begin = held(tmp_path), time.monotonic()
    while time.monotonic() < begin + 3600 if long else len(sizes) < 20:
        work()
    after, tenth = held(tmp_path), len(sizes) // 10
    early, late = statistics.median(sizes[tenth : 2 * tenth]), statistics.median(sizes[-tenth:])
    sys.stdout.write(
        f"{time.monotonic() - begin:.0f} s, {len(sizes):,} rounds, {models[0].position:,} characters: "
        f"{early / 1e6:.1f} MB, then {late / 1e6:.1f} MB; {before} and {after}\n"
    )
    assert after == before
    # In seconds the memory of the interpreter itself has not settled; one model kept a round is 50 MB.
    assert late - early < (0.01 * early if long else 8e6)


# ---- Several at a time ----


def test_two_models_are_each_as_if_alone(newmodel, verse, impatient):
    """Catches whatever two models share: by turns, and in two threads, on either backend."""
    models = [
        newmodel(verse, state_size=32, dropout=0.2),
        newmodel(verse[::-1], state_size=16, modeltype="LSTMEncode", optimizer="adam"),
        newmodel(verse, backend="scan", layers=1, state_size=4),
    ]

    def rounds(ms, count=3):
        ms.trainmodel(count, train_len=2, **QUIET)
        return digest(ms), str(ms.generatestring(30, rng=5))

    alone = [rounds(ms) for ms in models]
    for ms in models:
        ms.restore(0)
    for _ in range(3):
        found = [rounds(ms, 1) for ms in models]
    assert found == alone
    for ms in models:
        ms.restore(0)
    assert together(*[partial(rounds, ms) for ms in models]) == alone


@pytest.mark.parametrize("kind", ["cpu", pytest.param("scan", marks=pytest.mark.long)])
def test_a_model_in_use_while_it_trains(newmodel, verse, kind, impatient, long):
    """Catches parameters of two batches in one sample, and functions that only one thread may call."""
    batches = 6 if kind == "scan" else 400 if long else 60
    ms = newmodel(verse, backend=kind, learnrate=0.05, state_size=16, seq_len=10)

    def look():
        """What other threads do, as bits; long enough for several pieces."""
        yield "text", str(ms.generatestring(150, temp=0, seed="The ", rng=1))
        yield "loss", ms.evaluate(verse[:60]).nats
        yield "states", ms.trackneurons("The ship").tobytes()
        yield "arrays", b"".join(array.tobytes() for array in ms.parameters().values())

    known = {name: {seen} for name, seen in look()}
    for _ in range(batches):
        ms.trainmodel(train_len=1, keep=2, **QUIET)
        for name, seen in look():
            known[name].add(seen)
    assert len(known["text"]) > batches / 3 and len(known["loss"]) > batches / 3
    wanted, counts = digest(ms), dict.fromkeys(known, 0)
    ms = newmodel(verse, backend=kind, learnrate=0.05, state_size=16, seq_len=10)
    done = threading.Event()

    def train():
        try:
            ms.trainmodel(train_len=batches, **QUIET | {"print_every": 1})
        finally:
            done.set()

    def watch():
        while not done.is_set():
            for name, seen in look():
                assert seen in known[name], f"{name} of no batch"
                counts[name] += 1

    def measure():
        while not done.is_set():
            ms.traintime(batchsize=3, batches=1)

    together(train, watch, watch, measure)
    assert digest(ms) == wanted and min(counts.values()) > 0


def test_a_sampler_belongs_to_its_parameters(newmodel, verse):
    """Catches one that another thread has replaced by that of its own parameters meanwhile."""
    ms = newmodel(verse)
    cpu, one = backend("cpu", models.named(ms.modeltype), ms.hyper), ms.parameters()
    two = {name: -array for name, array in one.items()}

    def generate(arrays, ids):
        start, uniforms = cpu.freshstate(1), np.zeros((4, 1))
        return cpu.generate(arrays, ids, start, uniforms, Sampling(1.0)).ending

    class Turn(np.ndarray):
        """Where it is converted, the other thread takes its turn."""

        def astype(self, kind):
            generate(two, np.array(self))
            return np.array(self, kind)

    ids = np.array([3], np.int32)
    wanted = generate(one, ids)
    assert (generate(two, ids) != wanted).any()
    assert (generate(one, ids.view(Turn)) == wanted).all()


def test_two_threads_that_train_one_model(newmodel, verse, impatient):
    """Catches batches of one that the other undoes, and a rate set for a call that was refused."""
    ms, rounds = newmodel(verse), 10
    straight = [digest(ms)]
    for _ in range(2 * rounds):
        ms.trainmodel(train_len=1, **QUIET)
        straight.append(digest(ms))
    ms = newmodel(verse)
    rate = ms.hyper.learnrate

    def train():
        left = rounds
        while left:
            try:
                ms.trainmodel(train_len=1, **QUIET)
                left -= 1
            except WorkdirBusy:
                pass

    together(train, train)
    assert taken(ms) == 2 * rounds
    assert digest(ms) == digest(ModelState.load(ms.workdir)) == straight[-1]
    with Workdir(ms.workdir).locked():

        def refused():
            with pytest.raises(WorkdirBusy):
                ms.trainmodel(learnrate=0.5, **QUIET)

        together(refused)
    assert ms.hyper.learnrate == rate
