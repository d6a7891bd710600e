"""Threads: how many there are, that they share all of the work, and what happens where there are too few."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from queue import SimpleQueue

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rngru.kernels import phases, processors, sampler, threads
from rngru.kernels.atomic import add, pause, read
from rngru.kernels.calls import shared
from rngru.kernels.compiling import kernel
from rngru.kernels.spec import LayerSpec


@pytest.mark.parametrize("count", [0, 1, 5, 64])
@pytest.mark.parametrize("wanted", [1, 2, 3, 8])
def test_shares_cover_the_work_once(count, wanted):
    """A share forgotten is a lane that is never computed; one done twice is a gradient doubled."""
    done = []
    threads.run(lambda first, last: done.extend(range(first, last)), count, wanted)
    assert sorted(done) == list(range(count))


@shared()
def mark(done, first, last):
    """Count how often each unit was done."""
    for i in range(first, last):
        done[i] += 1


@kernel()
def share(phase, i, count):
    phases._share(phase.ctypes.data, i, count)


JOBS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50)), min_size=1, max_size=6)
"""How many units each job has, and the cost of one."""


@given(work=JOBS, count=st.integers(1, 4), dealt=st.booleans())
def test_work_is_cut_evenly(work, count, dealt):
    """Catches a thread that waits while another has most of the work, and panels done twice."""
    done = [np.zeros(units if dealt else 9, np.int64) for units, _ in work]
    calls = [mark.bind(each) for each in done]
    if dealt:
        jobs = [(call, *each) for call, each in zip(calls, work, strict=True)]
        phase = phases.deal(jobs, count)
    else:
        phase = phases.side_by_side(calls, 9, count)
    numbers, shares = phases.numbers([phase])[1:], []
    for i in range(count):
        before = [each.copy() for each in done]
        share(numbers, i, count)
        shares.append([np.flatnonzero(now - was) for now, was in zip(done, before, strict=True)])
    assert all((each == 1).all() for each in done)
    if not dealt:
        assert all(np.array_equal(part, each[0]) for each in shares for part in each)
        assert all(abs(len(each[0]) - 9 / count) < 1 for each in shares)
        return
    even = sum(units * cost for units, cost in work) / count
    for each in shares:
        took = sum(len(part) * cost for part, (_, cost) in zip(each, work, strict=True))
        assert abs(took - even) <= max(cost for _, cost in work) + 1


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_phases_are_done_once_each_and_in_order(count):
    """A phase that begins too early reads what is not there yet; a share claimed twice is done twice."""
    for i in range(200):
        numbers, one, two = np.full(1000, float(i)), np.zeros(1000), np.zeros(1000)
        plan = [
            phases.side_by_side([fill.bind(one, numbers)], 1000, count),
            phases.deal([(fill.bind(two, one), 1000, 3)], count),
            phases.side_by_side([fill.bind(numbers, two)], 1000, min(count, 2)),
        ]
        threads.do(*plan)
        assert (one == i + 1).all() and (two == i + 2).all() and (numbers == 2 * i + 3).all()


@shared()
def fill(into, source, first, last):
    """Add the numbers of the other end, plus one."""
    for i in range(first, last):
        into[i] += source[source.size - 1 - i] + 1


@shared()
def gather(here, met, first, last):
    """Note whether another thread is here at the same time."""
    for i in range(first, last):
        add(here, 0, 1)
        looks = 0
        while read(here, 0) < 2 and looks < 1_000_000:
            pause()
            looks += 1
        met[i] = read(here, 0) == 2


def other_threads_take_part(tries, *before):
    """Fail if the caller alone does the phase that follows those ``before``, each time."""
    for _ in range(tries):
        here, met = np.zeros(1, np.int64), np.zeros(2, np.bool_)
        threads.do(*before, phases.side_by_side([gather.bind(here, met)], 2, 2))
        if met[0]:
            return
    raise AssertionError("the caller was always alone")


def test_other_threads_take_part():
    """Without them, all would be right, and slow."""
    other_threads_take_part(50)


@shared()
def linger(first, last):
    for _ in range(5_000_000):
        pause()


def test_a_thread_stays_awake_while_a_plan_is_done():
    """One that had waited a few milliseconds slept for the rest of a step, which took twice as long."""
    other_threads_take_part(50)
    other_threads_take_part(5, phases.deal([(linger.bind(), 1, 1)], 1))


def test_a_call_that_is_interrupted_leaves_its_thread_as_it_was():
    """A tally of calls that was one too low ended each watch at once, for the rest of the process."""
    threads.ready(2)
    (worker, *_), done = threads._workers, SimpleQueue()
    worker._calls.put(
        (lambda first, last: None, 0, 0, done)
    )  # and Ctrl-C came before it was counted
    assert done.get(timeout=10) is None
    test_other_threads_take_part()


def test_no_wakeup_is_left_over():
    """A thread that was busy for a second then woke up three thousand times for nothing."""
    threads.ready(2)
    worker, go, both = threads._workers[0], threading.Event(), threading.Barrier(3, timeout=10)

    def share(first, last):
        both.wait()
        go.wait(10)

    busy = threading.Thread(target=threads.run, args=(share, 2, 2))
    busy.start()
    both.wait()
    for _ in range(100):
        threads.do(phases.side_by_side([mark.bind(np.zeros(9, np.int64))], 9, 2))
    left = worker._calls.qsize()
    go.set()
    busy.join()
    assert left <= 1


def test_threads_may_go_where_they_could_before():
    """Two that moved the same threads at once kept them off a processor for good."""
    if processors.locate() is None:
        pytest.skip("threads cannot choose a processor here")
    threads.ready(3)
    allowed, many = os.sched_getaffinity(0), [each.identity() for each in threads._workers]

    def move():
        for _ in range(300):
            with processors.elsewhere(many):
                pass

    movers = [threading.Thread(target=move) for _ in range(3)]
    for each in movers:
        each.start()
    for each in movers:
        each.join()
    assert all(os.sched_getaffinity(each) == allowed for each in many)


def test_a_thread_that_sleeps_delays_nobody(monkeypatch):
    """One that nobody wakes never begins; its share is done all the same."""
    threads.ready(3)
    monkeypatch.setattr(threads._Worker, "wake", lambda worker: None)
    done = np.zeros(50, np.int64)
    time.sleep(0.1)
    threads.do(phases.side_by_side([mark.bind(done)], 50, 3))
    assert (done == 1).all()


def test_plans_of_several_callers_do_not_mix():
    """Two callers that post to the same threads would each lose some of their shares."""
    results = [np.zeros(100, np.int64) for _ in range(4)]

    def call(done):
        phase = phases.side_by_side([mark.bind(done)], 100, 3)
        for _ in range(500):
            threads.do(phase)

    callers = [threading.Thread(target=call, args=(done,)) for done in results]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert all((done == 500).all() for done in results)


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


def test_an_interrupt_while_others_work_waits_for_them(monkeypatch):
    """The caller may give the memory to somebody else: a share that still runs would read or spoil it."""
    threads.ready(3)
    over, waits, all_begun = [], [], threading.Barrier(3, timeout=10)

    class Interrupted(SimpleQueue):
        def get(self):
            if not waits:
                waits.append(True)
                raise KeyboardInterrupt
            return super().get()

    def share(first, last):
        all_begun.wait()
        time.sleep(0.1 * first)
        over.append(first)

    monkeypatch.setattr(threads, "SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(share, 3, 3)
    assert sorted(over) == [0, 1, 2]
    threads.run(share, 3, 3)
    assert len(over) == 6, "the threads still work after it"


def test_threads_really_share_the_work():
    """All shares on one thread would be right, and slow."""
    meeting = threading.Barrier(3, timeout=10)
    threads.run(lambda first, last: meeting.wait(), 3, 3)


@pytest.mark.skipif(processors.locate() is None, reason="threads cannot choose a processor here")
def test_a_thread_leaves_the_processor_of_the_caller(monkeypatch):
    """Some systems leave both on one processor for seconds, with another idle."""
    locate, allowed, seen = processors.locate(), os.sched_getaffinity(0), []
    if len(allowed) < 2:
        pytest.skip("this process may use one processor only")
    monkeypatch.setattr(processors, "locate", lambda: lambda: min(allowed))
    asked, told = threading.Event(), threading.Event()

    def worker():
        asked.wait(10)
        seen.append(locate())
        told.set()

    other = threading.Thread(target=worker)
    other.start()
    with processors.elsewhere([other.native_id]):
        asked.set()
        told.wait(10)
    other.join()
    assert seen[0] in allowed - {min(allowed)}


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
