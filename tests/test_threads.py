"""Threads: how many there are, that they share all of the work, and what happens where there are too few."""

import contextlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from rngru.kernels import sampler, threads
from rngru.kernels.spec import LayerSpec


@pytest.mark.parametrize("count", [0, 1, 5, 64])
@pytest.mark.parametrize("wanted", [1, 2, 3, 8])
def test_shares_cover_the_work_once(count, wanted):
    """A share forgotten is a lane that is never computed; one done twice is a gradient doubled."""
    done = []
    threads.run(lambda first, last: done.extend(range(first, last)), count, wanted)
    assert sorted(done) == list(range(count))


def test_an_error_on_any_thread_reaches_the_caller():
    """Otherwise a batch with half of its lanes missing would count as done."""
    for failing in range(3):

        def share(first, last, failing=failing):
            if first <= failing < last:
                raise ZeroDivisionError(failing)

        with pytest.raises(ZeroDivisionError, match=str(failing)):
            threads.run(share, 3, 3)
    done = []
    threads.run(lambda first, last: done.append(last - first), 3, 3)
    assert done == [1, 1, 1], "the threads still work after an error"


def test_threads_really_share_the_work():
    """All shares on one thread would be right, and slow."""
    meeting = threading.Barrier(3, timeout=10)
    threads.run(lambda first, last: meeting.wait(), 3, 3)


@pytest.mark.skipif(threads._locate() is None, reason="threads cannot choose a processor here")
def test_a_thread_leaves_the_processor_of_the_caller():
    """Some systems leave both on one processor for seconds, with another idle."""
    locate, allowed, seen = threads._locate(), os.sched_getaffinity(0), []
    if len(allowed) < 2:
        pytest.skip("this process may use one processor only")
    places = [min(allowed), None]
    os.sched_setaffinity(0, {min(allowed)})

    def worker():
        assert locate() == min(allowed), "it begins where the caller is"
        os.sched_setaffinity(0, allowed)
        places[0] = locate()
        threads._part(places, 1)
        seen.extend([locate(), os.sched_getaffinity(0)])

    try:
        other = threading.Thread(target=worker)
        other.start()
        other.join()
    finally:
        os.sched_setaffinity(0, allowed)
    assert places[1] != places[0] and seen == [places[1], allowed]


def test_a_thread_waits_for_a_number():
    """One that goes on too early reads what is not there yet; one that never goes on hangs."""
    count = threads.Count()
    waiter = threading.Thread(target=count.wait, args=(3,), daemon=True)
    waiter.start()
    count.up(2)
    waiter.join(0.05)
    assert waiter.is_alive(), "it waits for the number, not for any change"
    count.up()
    waiter.join(10)
    assert not waiter.is_alive()


# ------------------------------------------------------------------------------ how many

VARIABLES = ("RNGRU_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")


@pytest.fixture
def cores(monkeypatch):
    """A process that may use eight cores, and nothing that says otherwise."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_quota", lambda: None)
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 8),
        ({"RNGRU_THREADS": "3"}, 3),
        ({"RNGRU_THREADS": "12"}, 12),
        ({"RNGRU_THREADS": "0"}, 8),
        ({"RNGRU_THREADS": "many"}, 8),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "64"}, 8),
        ({"NUMBA_NUM_THREADS": "5", "OMP_NUM_THREADS": "6"}, 5),
        ({"RNGRU_THREADS": "7", "OMP_NUM_THREADS": "2"}, 7),
    ],
)
def test_the_number_of_threads_can_be_chosen(cores, given, expected):
    """A value that makes no sense means all cores, rather than none."""
    for name, value in given.items():
        cores.setenv(name, value)
    assert threads.available() == expected


def test_no_more_threads_than_the_time_of_the_container(cores):
    """A container of two cores on a machine of 64 ran 64 threads that waited for each other."""
    cores.setattr(threads, "_quota", lambda: 2)
    assert threads.available() == 2
    cores.setenv("RNGRU_THREADS", "3")
    assert threads.available() == 3


GROUPS = [
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
    ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
    ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "300000 100000"}, 1),
    ("0::/a\n", {}, None),
    ("0::/\n", {"cpu.max": "rubbish"}, None),
    ("rubbish\n", {"cpu.max": "100000 100000"}, None),
    (
        "4:memory:/x\n3:cpu,cpuacct:/x\n0::/x\n",
        {"cpu/x/cpu.cfs_quota_us": "250000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    (
        "3:cpu,cpuacct:/x\n",
        {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
        None,
    ),
]
"""What the kernel says in its files, and how many cores that is."""


@pytest.mark.parametrize(("own", "files", "expected"), GROUPS)
def test_the_limits_of_containers_are_read(tmp_path, monkeypatch, own, files, expected):
    """Of version 2 and 1, with the group's own limit and those above it."""
    (tmp_path / "own").write_text(own, encoding="utf-8")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(threads, "_PROC", tmp_path / "own")
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path / "groups")
    assert threads._quota.__wrapped__() == expected


# ------------------------------------------------------------------------------ too few

FEW = """
import sys, threading, warnings
from rngru import ModelState, Texts
def texts(seed, folder):
    ms = ModelState.initfromsrcfile(Texts(["the ship sails " * 99]), folder, state_size=256, rng=1,
        report="silent", seq_len=5)
    ms.trainmodel(train_len=2, report="silent")
    return ms.generatestring(30, rng=seed).text
if sys.argv[2] == "none":
    def refuse(thread):
        raise RuntimeError("can't start new thread")
    threading.Thread.start = refuse
if sys.argv[2] == "few":
    start = threading.Thread.start
    def refuse(thread):
        threading.stack_size(1 << 46 if thread.name == "rngru-kernel" else 0)  # more than there is
        start(thread)
    threading.Thread.start = refuse
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(repr(texts(1, sys.argv[1])))
print(sum("No more threads can be started" in str(each.message) for each in told))
"""


def test_a_thread_that_cannot_be_started_is_done_without(tmp_path):
    """At the limit of a container: it went down, or waited for ever for the half that nobody computed."""
    found = []
    for which in ("all", "few", "none"):
        done = subprocess.run(
            [sys.executable, "-c", FEW, str(tmp_path / which), which], capture_output=True, text=True,
            timeout=120, env=os.environ | {"RNGRU_THREADS": "2"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.splitlines())
    (text, never), *fewer = found
    assert never == "0" and fewer == [[text, "1"], [text, "1"]]


@pytest.mark.parametrize(("normed", "residual"), [(True, False), (False, True), (True, True)])
def test_threads_that_share_a_layer_agree_on_what_goes_up(monkeypatch, normed, residual):
    """One that goes on before all have written their part reads half of an older state."""
    monkeypatch.setattr(sampler, "CACHE_BYTES", 0)
    rng = np.random.default_rng(1)
    size, lanes, depth = 100, 3, 3
    (table, readout), bias = rng.normal(size=(2, 7, 3 * size)), rng.normal(size=7)
    inputs = [(rng.normal(size=(size, 3 * size)), rng.normal(size=3 * size)) for _ in "12"]
    weights, norms = rng.normal(size=(depth, size, 3 * size)), rng.normal(size=(2, depth, size))
    made = sampler.Sampler(
        LayerSpec("GRU"), table, inputs, list(weights), None,
        (np.ascontiguousarray(readout[:, :size].T), bias), [*map(list, norms)] if normed else None,
        residual,
    )  # fmt: skip
    uniforms, found = rng.random((200, lanes)), []
    for count in (1, 3, 3, 3):
        ids, state = np.zeros(lanes, np.int32), np.zeros((depth, lanes, size))
        rule = 1.0, None, 1.0, 0.0
        drawn, likely = made.generate(ids, state, uniforms, rule, count=count)
        found.append([drawn, likely, state])
    assert made.pace.keys() == {1, 3}
    for other in found[1:]:
        assert all(map(np.array_equal, found[0], other))


@pytest.mark.parametrize("why", ["fewer before", "more before", "busy", "none to be had"])
def test_a_number_of_threads_never_tried_is_no_obstacle(monkeypatch, why):
    """The fifth call compared its pace with another's, and there was none: KeyError."""
    monkeypatch.setattr(sampler, "CACHE_BYTES", 0)
    rng = np.random.default_rng(1)
    table, weights, readout, bias = (
        rng.normal(size=shape).astype(np.float32) for shape in ((3, 70), (70, 70), (70, 3), 3)
    )

    def texts(counts):
        given = (LayerSpec("RNN"), table, [], [weights], None, (readout, bias))
        made, draws = sampler.Sampler(*given), np.random.default_rng(2)
        rule = 1.0, None, 1.0, 0.0
        ids, state = np.zeros(1, np.int32), np.zeros((1, 1, 70), np.float32)
        return [
            made.generate(ids, state, draws.random((3, 1)), rule, count=count)[0].tolist()
            for count in counts
        ]

    expected = texts([1] * 6)
    if why == "none to be had":
        monkeypatch.setattr(threads, "ready", lambda count: 1)
    with threads.together.held() if why == "busy" else contextlib.nullcontext():
        first = {"fewer before": 1, "more before": 3}.get(why, 2)
        assert texts([first] * 4 + [2] * 2) == expected
