"""Ctrl-C and SIGTERM: nothing torn, nothing lost, nothing left behind, and the prompt is back at once.

A subject, a process of its own, does what it is told with a small model and is interrupted from
outside, by real signals at random instants. After each one it holds itself against a run that nobody
disturbed: parameters, what the optimizer remembers and the hidden state must be, bit for bit, those
after a whole number of batches, in memory and on the disk, and training must go on to the same bits.
"""

import faulthandler
import importlib.util
import io
import itertools
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import pytest
from filelock import FileLock

import rngru
from rngru import ModelState, Texts, checkpoint, state
from rngru.backends.cpu import CPU
from rngru.errors import CheckpointError, InputError, NumericsError
from rngru.events import Batch
from rngru.kernels import sampler, threads
from tests.robust import (
    FOREVER,
    LANES,
    PATIENCE,
    QUIET,
    VERSE,
    Straight,
    digest,
    program,
    taken,
    until,
)

LENGTH = 5
CALL = QUIET | {"batchsize": LANES, "keep": 2}
ENDS = [signal.SIGTERM, signal.SIGHUP]
SIGNALS = (signal.SIGINT, *ENDS)


def say(text):
    """Answer the process that asked, in one piece, whatever comes in between."""
    os.write(1, f"{text}\n".encode())


def press(times=1):
    """Press Ctrl-C, from another thread."""
    for _ in range(times):
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)


def free(folder):
    """Fail if a lock on the folder is held, be it by this process."""
    with FileLock(folder / "lock", blocking=False, is_singleton=False):
        pass


# ---- The subject ----


class Subject:
    """Models in a folder, and all that one may want to interrupt: it does what standard input says."""

    TRAINING = ("batches", "compiling", "samples", "rounds", "saves")

    def __init__(self, backend, folder):
        self.folder, self.work, self.pristine = folder, folder / "work", folder / "pristine"
        self.options = {
            "seq_len": LENGTH, "rng": 1, "backend": backend, "report": "silent", "layers": 1,
        }  # fmt: skip
        self.new("pristine")
        self.straight = Straight(self.pristine)
        self.armed = False
        self.begin()
        signal.signal(signal.SIGINT, self.pressed)

    def new(self, name, **options):
        return ModelState.initfromsrcfile(
            Texts([VERSE], names=["verse"]),
            self.folder / name,
            overwrite=True,
            **{"state_size": 8} | self.options | options,
        )

    @cached_property
    def gapped(self):
        return self.new("gapped", modeltype="BiGRU")

    @cached_property
    def wide(self):
        """Above a megabyte of weights several threads generate together, and wait for each other."""
        return self.new("wide", state_size=400 if self.ms.backend == "cpu" else 8)

    def begin(self):
        """Go back to the first batch."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.pristine, self.work)
        self.ms = ModelState.load(self.work)

    def pressed(self, number, frame):
        """What Ctrl-C does at the prompt, but nothing between two attempts."""
        if self.armed:
            raise KeyboardInterrupt

    def train(self, **options):
        return self.ms.trainmodel(**CALL | {"train_len": FOREVER} | options)

    def attempts(self):
        """All that is interrupted, by name."""
        gapped = VERSE[: 300 if self.ms.backend == "cpu" else 30].replace("e", "_")
        return {
            "batches": self.train,
            "compiling": self.train,
            "samples": lambda: self.train(print_every=1),
            "rounds": lambda: self.train(num_rounds=FOREVER, train_len=1),
            "saves": lambda: self.train(save_every=1e-9),
            "generatestring": lambda: self.wide.generatestring(FOREVER, rng=1),
            "beam": lambda: self.wide.beam("T", FOREVER)[0],
            "stream": lambda: sum(map(len, self.wide.stream())),
            "evaluate": lambda: self.wide.evaluate(VERSE * 1000),
            "traintime": lambda: self.ms.traintime(batchsize=LANES, batches=FOREVER),
            "fillin": lambda: self.gapped.fillin(gapped),
            "trackneurons": lambda: self.ms.trackneurons(VERSE),
            "restore": lambda: self.ms.restore(),
            "newcheckpoint": lambda: self.ms.newcheckpoint(),
            "initfromsrcfile": lambda: self.new("new"),
        }

    def attempt(self, call):
        """Say that it begins; return what the call returns, or KeyboardInterrupt if it raises that."""
        try:
            try:
                self.armed = True
                say("begun")
                return call()
            finally:
                self.armed = False
        except KeyboardInterrupt:
            self.armed = False
            return KeyboardInterrupt

    def check(self, name, result):
        """Raise AssertionError if anything is not as it must be."""
        assert signal.getsignal(signal.SIGINT) == self.pressed, "the handler is not back"
        for number in ENDS:
            assert signal.getsignal(number) is signal.SIG_DFL, f"that of {number!r} is not back"
        free(self.work)
        ms, batches = self.ms, taken(self.ms)
        assert self.straight.holds(ms), f"torn after {batches} batches"
        saved = ModelState.load(self.work)
        assert self.straight.holds(saved), "torn on the disk"
        if name in self.TRAINING and result is not KeyboardInterrupt:
            assert result.interrupted
            assert "interrupted" in repr(result)
            assert result.positions.tolist()[-1:] in ([], [ms.position]), (
                "the record is not of this"
            )
            assert saved.position == ms.position, "not saved"
        elif name in ("generatestring", "beam", "evaluate") and result is not KeyboardInterrupt:
            assert result.interrupted
        ms.trainmodel(train_len=3, **CALL)
        assert digest(ms) == self.straight.at(batches + 3), "does not go on to the same bits"
        assert all(path.name.isdecimal() for path in (self.work / "checkpoints").iterdir())
        if name == "initfromsrcfile":
            assert digest(self.new("new")) == self.straight.at(0), "does not begin anew"
        assert threading.active_count() < 8, "threads are left behind"
        if batches > 3000:
            self.begin()

    def serve(self):
        """Do what each line says and say how it went."""
        attempts = self.attempts()
        say(" ".join(attempts))
        for name in map(str.strip, sys.stdin):
            if name == "compiling":
                self.ms = ModelState.load(self.work)
            try:
                result = self.attempt(attempts[name])
                say(f"ended {getattr(result, '__name__', type(result).__name__)}")
                sys.stdin.readline()  # until no more presses are to come
                self.check(name, result)
            except BaseException:
                say(json.dumps(traceback.format_exc()))
                return
            say("good")


# ---- The hand that presses the keys ----


class Child:
    """A process that runs this file; its answers, and what it says on standard error."""

    def __init__(self, folder, *arguments, **environment):
        self.errors, self.answers = folder / "errors", queue.SimpleQueue()
        with self.errors.open("w") as errors:
            self.process = program(
                __file__,
                *arguments,
                environment={"RNGRU_THREADS": "2"} | environment,
                stderr=errors,
            )
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self):
        for line in self.process.stdout:
            self.answers.put(line.strip())
        self.answers.put(None)

    def tell(self, text):
        self.process.stdin.write(f"{text}\n")

    def answer(self):
        """Return the next line; fail with all that is known if there is none."""
        try:
            line = self.answers.get(timeout=PATIENCE)
        except queue.Empty:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(1)
            line = None
        if line is None:
            self.close()
            pytest.fail(f"It hangs or has died: {self.errors.read_text()}")
        return line

    def press(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def close(self):
        self.process.kill()
        self.listener.join()
        with self.process:
            pass


def interrupt(child, name, spread, rng):
    """Interrupt one attempt within so many seconds; return after how many more it ended."""
    presses = rng.choice((1, 2))
    child.tell(name)
    assert child.answer() == "begun"
    # Some end by themselves in a millisecond.
    time.sleep(spread * rng.random() ** 3)
    child.press()
    began = time.monotonic()
    if presses == 2:
        time.sleep(0.05 * rng.random() ** 3)
        child.press()
    ended = child.answer()
    seconds = time.monotonic() - began
    assert ended.startswith("ended "), f"{name}, {presses} presses: {ended}"
    child.tell("that was all")
    verdict = child.answer()
    assert verdict == "good", f"{name}, {presses} presses, gave {ended[6:]}: {json.loads(verdict)}"
    assert not child.errors.read_text(), f"{name}, {presses} presses: {child.errors.read_text()}"
    return seconds


@pytest.fixture
def child(tmp_path):
    """Start a process that runs this file: ``child(what it does, …, NAME=value)``."""
    started = []

    def start(*arguments, **environment):
        started.append(Child(tmp_path, *arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.close()


# ---- Ctrl-C at random instants ----


@pytest.mark.parametrize("backend", ["cpu", "scan"])
def test_interrupts_at_random_instants(backend, child, tmp_path, long):
    """A batch half taken, a lock or a handler left behind, threads that wait for each other."""
    rng, late = random.Random(1), 0
    subject = child("subject", backend, tmp_path)
    names, spread = subject.answer().split(), 0.1 if backend == "cpu" else 0.5
    count = 1500 if long else 3 * len(names) if backend == "cpu" else 6
    for name in itertools.islice(itertools.cycle(rng.sample(names, len(names))), count):
        late += interrupt(subject, name, spread, rng) > 1
    assert late <= 2 + 0.1 * count, "more often late by a second than a busy machine explains"


def pressing(call, lines=()):
    """Call, and press Ctrl-C before each of these lines of the package; return the file of each.

    They count from 0, as they are run, again and again in a loop.
    """
    package, files = str(Path(rngru.__file__).parent), []

    def trace(frame, event, argument):
        file = frame.f_code.co_filename
        if not file.startswith(package):
            return None
        if event == "line":
            files.append(file)
            if len(files) - 1 in lines:
                signal.raise_signal(signal.SIGINT)
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return files


def test_interrupts_at_every_line(newmodel, long):
    """An exception between two lines that belong together, where random instants hardly ever fall."""
    ms = newmodel(VERSE, seq_len=LENGTH)
    straight, handlers = Straight(ms.workdir), [signal.getsignal(each) for each in SIGNALS]

    def train():
        ms.trainmodel(2, **CALL | {"train_len": 2, "print_every": 1, "save_every": 1e-9})

    train()
    lines, rng = range(len(pressing(train))), random.Random(1)
    for line in rng.sample(lines, 1000 if long else 12):
        with suppress(KeyboardInterrupt):
            pressing(train, range(line, line + rng.choice((1, 2))))
        assert straight.holds(ms), f"torn at line {line}"
        assert straight.holds(ModelState.load(ms.workdir)), f"torn on disk at line {line}"
        assert [signal.getsignal(each) for each in SIGNALS] == handlers, f"not back at line {line}"
        free(ms.workdir)
    ms.trainmodel(train_len=3, **CALL)
    assert straight.holds(ms)


def test_threads_that_generate_together_are_never_left_waiting(newmodel, monkeypatch):
    """In the kernel they wait for each other, so that none may be stopped on the way to it."""
    monkeypatch.setenv("RNGRU_THREADS", "2")
    monkeypatch.setattr(sampler, "CACHE_BYTES", 0)
    monkeypatch.setattr(sampler.Sampler, "_faster", lambda self, most: most)
    ms = newmodel(VERSE, state_size=64)
    text = str(ms.generatestring(2, rng=1))
    watchdog = threading.Timer(PATIENCE, press, args=[2])
    watchdog.start()
    files = pressing(lambda: ms.generatestring(2, rng=1))
    for line in (i for i, file in enumerate(files) if "kernels" in file):
        with suppress(KeyboardInterrupt):
            pressing(lambda: ms.generatestring(2, rng=1), (line, line + 1))
        assert watchdog.is_alive(), f"they wait for each other after line {line}"
        assert not threads.together.locked(), f"only one generates after line {line}"
    watchdog.cancel()
    assert str(ms.generatestring(2, rng=1)) == text


# ---- What takes long ----


@pytest.fixture
def stuck(monkeypatch):
    """Let a method of the backend take for ever, from a call on, and press Ctrl-C while it does.

    ``stuck(name, calls, presses)`` returns what lets it go on. Where the method is never called, Ctrl-C
    comes at last too, so that the test fails instead of training for ever.
    """
    watchdog = threading.Timer(PATIENCE, press)
    watchdog.start()

    def make(name, calls=0, presses=1):
        method, count, go = getattr(CPU, name), itertools.count(), threading.Event()

        def wait(*arguments, **options):
            if next(count) < calls:
                time.sleep(0.6)
            elif not go.is_set():
                threading.Thread(target=press, args=[presses]).start()
                assert go.wait(PATIENCE), "it was waited for"
            return method(*arguments, **options)

        monkeypatch.setattr(CPU, name, wait)
        return go

    yield make
    watchdog.cancel()


@pytest.mark.parametrize(
    "name, calls, batches, options",
    [
        ("_build", 0, 0, {}),
        ("generate", 0, 1, {"print_every": 1}),
        # The first call sees whether the model may be saved, the next one validates.
        ("losses", 1, 2, {"train_len": 2}),
    ],
)
def test_training_does_not_wait_for_what_is_new(newmodel, stuck, name, calls, batches, options):
    """Compiling for the first batch, sample or validation takes seconds; what was trained is saved."""
    folder = newmodel(VERSE, seq_len=LENGTH).workdir
    ms, straight = ModelState.load(folder), Straight(folder)
    go = stuck(name, calls)
    history = ms.trainmodel(**CALL | {"train_len": FOREVER} | options)
    assert "interrupted" in repr(history)
    assert taken(ms) == history.losses.size == batches
    assert digest(ms) == digest(ModelState.load(folder))
    go.set()
    ms.trainmodel(train_len=3, **CALL)
    assert digest(ms) == straight.at(batches + 3)


def test_a_second_press_does_not_wait_for_a_long_batch(newmodel, stuck):
    """The batch is as if it had never been begun."""
    ms = newmodel(VERSE, seq_len=LENGTH)
    straight, go = Straight(ms.workdir), stuck("step", calls=1, presses=2)
    history = ms.trainmodel(train_len=FOREVER, **CALL)
    assert history.interrupted
    assert taken(ms) == history.losses.size == 1
    go.set()
    ms.trainmodel(train_len=1, **CALL)
    assert digest(ms) == straight.at(2)


def test_what_returns_text_or_numbers_does_not_wait_either(newmodel, stuck):
    """What there is so far is returned; where that is nothing, KeyboardInterrupt is raised."""
    folder = newmodel(VERSE).workdir
    for name, call in {
        "losses": lambda ms: ms.evaluate(VERSE),
        "trace": lambda ms: ms.trackneurons(VERSE),
        "step": lambda ms: ms.traintime(3),
        "_build": lambda ms: ms.traintime(3),
    }.items():
        go, ms = stuck(name), ModelState.load(folder)
        with pytest.raises(KeyboardInterrupt):
            call(ms)
        go.set()
        call(ms)
    go, ms = stuck("generate"), ModelState.load(folder)
    sample = ms.generatestring(100, rng=1)
    assert sample.interrupted
    assert sample.text == ""
    go.set()
    assert len(ms.generatestring(100, rng=1)) == 100
    stuck("_build")
    ModelState.load(folder).restore()  # needs nothing compiled


@pytest.mark.long
def test_the_first_batch_of_all_can_be_interrupted(child, tmp_path):
    """With every cache empty, as it is after installing: real compiling, and a real press."""
    cold = child("cold", tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    waited = []
    for _ in range(2):
        assert cold.answer() == "begun"
        time.sleep(0.5)
        pressed = time.monotonic()
        cold.press()
        assert cold.answer() == "True"
        waited.append(time.monotonic() - pressed)
    assert cold.answer() == "good"
    compiling = time.monotonic() - pressed
    assert max(waited) < compiling / 3, "it waits for what is compiled"
    assert not cold.errors.read_text()


def cold(folder):
    """Two calls that must compile first, to be interrupted; then train."""
    ms = ModelState.initfromsrcfile(
        Texts([VERSE]), folder / "cold", state_size=8, seq_len=LENGTH, rng=1, report="silent"
    )
    calls = (lambda: ms.generatestring(100), lambda: ms.trainmodel(train_len=FOREVER, **CALL))
    for call in calls:
        say("begun")
        say(call().interrupted)
    straight, reached = Straight(ms.workdir), taken(ms)
    ms.trainmodel(train_len=2, **CALL)
    same = digest(ms) == straight.at(2)
    say("good" if same else f"{reached} batches, and then not the same bits")


# ---- SIGTERM ----


def worker(work, folder):
    """Train until killed, and say how many batches were reported."""
    ms = ModelState.load(folder)

    class Telling:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def __call__(self, event):
            if isinstance(event, Batch):
                say(taken(ms))

    state.reporter = lambda kind: Telling()
    say("begun")
    ms.trainmodel(**CALL | {"train_len": FOREVER} | WORK[work])


WORK = {
    "batches": {},
    "samples": {"print_every": 1},
    "validating": {"train_len": 1},
    "compiling": {},
}


@pytest.mark.parametrize("number", ENDS, ids=["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize(
    "work",
    [
        pytest.param("batches", marks=pytest.mark.long),
        pytest.param("samples", marks=pytest.mark.long),
        "validating",
        pytest.param("compiling", marks=pytest.mark.long),
    ],
)
def test_what_ends_a_process_saves_first(child, newmodel, work, number, long):
    """What a cluster or a shutdown sends, who kill for good seconds later; a terminal that is closed."""
    rng = random.Random(1)
    for _ in range(20 if long else 1):
        options = {"backend": "scan"} if work == "compiling" else {}
        # Most of it is for validation, which takes a second or more.
        text = VERSE * 2000 if work == "validating" else VERSE
        folder = newmodel(text, seq_len=LENGTH, trainfrac=0.1, **options).workdir
        straight, process = Straight(folder), child("worker", work, folder)
        reported = [process.answer()]
        if work != "compiling":
            reported.append(process.answer())
        time.sleep(0.2 * rng.random())
        began = time.monotonic()
        process.press(number)
        assert process.process.wait(PATIENCE) == 128 + number
        assert time.monotonic() - began < 5
        while (line := process.answers.get(timeout=PATIENCE)) is not None:
            reported.append(line)
        saved = ModelState.load(folder)
        assert ["begun", *map(str, range(1, taken(saved) + 1))] == reported
        assert straight.holds(saved)
        assert not process.errors.read_text()


class Ended(BaseException):
    """The process would have ended, with this status."""


@pytest.fixture
def pressed(newmodel, monkeypatch):
    """Train for five batches with a handler in place, and one signal in the third; return the rest."""

    def end(status):
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)

    def train(number, handler):
        ms, count = newmodel(VERSE, seq_len=LENGTH), itertools.count(1)
        before, step = signal.signal(number, handler), CPU.step

        def interrupted(*arguments, **options):
            if next(count) == 3:
                signal.raise_signal(number)
            return step(*arguments, **options)

        monkeypatch.setattr(CPU, "step", interrupted)
        try:
            return ms, ms.trainmodel(train_len=5, **CALL)
        finally:
            signal.signal(number, before)
            monkeypatch.setattr(CPU, "step", step)
            assert taken(ModelState.load(ms.workdir)) in (0, 3, 5)

    return train


@pytest.mark.parametrize("number", SIGNALS, ids=["SIGINT", "SIGTERM", "SIGHUP"])
def test_what_is_ignored_is_ignored(pressed, number):
    """A script starts a job in the background with SIGINT ignored; nohup does so with SIGHUP."""
    ms, history = pressed(number, signal.SIG_IGN)
    assert history.reason == "done"
    assert taken(ms) == 5


@pytest.mark.parametrize("number", ENDS, ids=["SIGTERM", "SIGHUP"])
def test_a_handler_of_the_users_hears_of_the_end(pressed, number):
    """It may have a file to remove; the model is saved by then."""
    heard = []
    ms, history = pressed(number, lambda number, frame: heard.append(number))
    assert heard == [number]
    assert history.interrupted
    assert taken(ModelState.load(ms.workdir)) == 3


def test_two_that_end_a_process_come_together(pressed, monkeypatch):
    """A terminal that closes and a shutdown: the user's handler hears, then the other one ends it."""
    heard, save = [], checkpoint.save

    def late(*arguments, **options):
        if arguments[1]:  # the first one has come, and is being seen to
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        return save(*arguments, **options)

    monkeypatch.setattr(checkpoint, "save", late)
    with pytest.raises(Ended, match="129"):
        pressed(signal.SIGTERM, lambda number, frame: heard.append(number))
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_there_may_be_no_sighup():
    """Windows has none: catches an import that fails there."""
    code = "import signal; del signal.SIGHUP; from rngru.interrupts import ENDS; print(len(ENDS))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "1\n"


@pytest.mark.parametrize("stream", [None, io.TextIOWrapper(io.BytesIO())], ids=["none", "closed"])
def test_sigterm_ends_a_process_without_output(pressed, monkeypatch, stream):
    """A daemon has none."""
    if stream:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(Ended, match="143"):
        pressed(signal.SIGTERM, signal.SIG_DFL)


def test_sigterm_ends_a_process_that_cannot_save(pressed, monkeypatch, capsys):
    """A full disk is no reason to live on; what is wrong is said."""

    def full(*arguments, **options):
        raise CheckpointError("The disk is full.")

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a, **o: (full if a[1] else save)(*a, **o))
    with pytest.raises(Ended, match="143"):
        pressed(signal.SIGTERM, signal.SIG_DFL)
    assert "CheckpointError: The disk is full." in capsys.readouterr().err


# ---- Handlers ----


@pytest.mark.parametrize(
    "handler",
    [signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL, lambda number, frame: None],
    ids=["python's", "ignored", "the system's", "custom"],
)
def test_the_previous_handlers_are_back(newmodel, handler):
    """After whatever a model does, and after whatever it refuses to do."""
    before = [signal.signal(each, handler) for each in SIGNALS]
    try:
        ms = newmodel(VERSE, seq_len=LENGTH)
        for call in (
            lambda: ms.trainmodel(train_len=2, **CALL | {"print_every": 1}),
            lambda: ms.trainmodel(train_len=20, learnrate=1e30, **CALL),
            lambda: ms.trainmodel(0),
            lambda: ms.generatestring(10),
            lambda: ms.evaluate(),
            lambda: ms.evaluate("T"),
            lambda: ms.trackneurons("The "),
            lambda: ms.traintime(2, 1),
            lambda: ms.restore(),
            lambda: ms.newcheckpoint(),
        ):
            with suppress(InputError, NumericsError):
                call()
            assert [signal.getsignal(each) for each in SIGNALS] == [handler] * len(SIGNALS)
    finally:
        for each, old in zip(SIGNALS, before, strict=True):
            signal.signal(each, old)


def test_outside_the_main_thread_nothing_is_installed(newmodel):
    """Ctrl-C belongs to what the main thread does; the training thread never hears of it."""
    ms, heard, results = newmodel(VERSE), [], []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        handlers = [signal.getsignal(each) for each in SIGNALS]
        thread = threading.Thread(
            target=lambda: results.append(ms.trainmodel(3, train_len=100, **CALL))
        )
        thread.start()
        pressed = 0
        while thread.is_alive():
            assert [signal.getsignal(each) for each in SIGNALS] == handlers
            os.kill(os.getpid(), signal.SIGINT)
            pressed += 1
            time.sleep(0.01)
        assert results[0].reason == "done"
        assert len(heard) == pressed
    finally:
        signal.signal(signal.SIGINT, before)


# ---- At the prompt ----


class Terminal:
    """A real shell in a real terminal."""

    def __init__(self, *arguments):
        pexpect = pytest.importorskip("pexpect")
        ours = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "LINES"}}
        self.child = pexpect.spawn(
            sys.executable,
            [*arguments],
            encoding="utf-8",
            dimensions=(24, 100),
            timeout=PATIENCE,
            env=ours | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        )
        self.child.logfile_read = io.StringIO()
        self.lines = 0

    def send(self, line):
        self.child.sendline(line)

    def begin(self, line):
        """Send a line, and return when it has begun."""
        self.send(f"print('be' + 'gun'); {line}")
        self.child.expect("begun\r")

    def shown(self):
        """Return what is shown until now, by waiting for the answer to another line."""
        self.lines += 1
        self.send(f"print('li' + 'ne {self.lines}')")
        self.child.expect(f"line {self.lines}\r")
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.child.before).replace("\r", "")

    def interrupt(self, presses=1):
        """Press Ctrl-C, and return what is shown after it."""
        for _ in range(presses):
            self.child.sendintr()
        return self.shown()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    "shell",
    [
        ["-i", "-m", "rngru"],
        pytest.param(["-m", "IPython", "--no-banner"], marks=pytest.mark.long),
    ],
    ids=" ".join,
)
def test_ctrl_c_at_the_prompt(shell, tmp_path, monkeypatch):
    """The prompt is back with a table, a usable model, a cursor and an echo, however often one presses."""
    if "IPython" in shell and importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "verse.txt").write_text(VERSE * 300, encoding="utf-8")
    terminal = Terminal(*shell)
    terminal.send("from rngru import *")
    terminal.send(
        f"ms = ModelState.initfromsrcfile({str(tmp_path / 'verse.txt')!r}, {str(tmp_path / 'work')!r}, "
        "state_size=16, rng=1, layers=1)"
    )
    terminal.shown()

    terminal.send("ms.trainmodel(batchsize=4)")
    terminal.child.expect("char/s")
    shown = terminal.interrupt()
    assert re.search(r"round +epoch +train", shown), shown
    assert "interrupted; trainmodel() goes on from here" in shown
    assert "Traceback" not in shown
    terminal.send("ms.trainmodel(batchsize=4, train_len=2)")
    assert "2 batches: all done" in terminal.shown()

    terminal.send("ms.trainmodel(batchsize=4)")
    terminal.child.expect("char/s")
    shown = terminal.interrupt(presses=2)
    assert re.search("interrupted; trainmodel|KeyboardInterrupt", shown), shown
    terminal.send("ms.trainmodel(batchsize=4, train_len=2)")
    assert "2 batches: all done" in terminal.shown()

    # Were these two not interrupted, they would take a minute.
    terminal.begin("ms.evaluate('The quick brown fox' * 10**6)")
    time.sleep(0.7)
    assert re.search(r"\(interrupted\)|KeyboardInterrupt", terminal.interrupt())
    terminal.send("ms.generatestring(100)")
    terminal.begin("sample = ms.generatestring(10**8)")
    time.sleep(1)
    terminal.interrupt()
    terminal.send("sample.interrupted, 0 < len(sample) < 10**8")
    assert "(True, True)" in terminal.shown()

    terminal.send("import termios; termios.tcgetattr(0)[3] & termios.ECHO > 0")
    assert "True" in terminal.shown()
    show, hide, screen = "\x1b[?25h", "\x1b[?25l", terminal.child.logfile_read
    if screen.getvalue().rfind(show) < screen.getvalue().rfind(hide):
        terminal.child.expect_exact(show)  # Python 3.13 hides it while it writes a prompt
    assert screen.getvalue().rfind(show) >= screen.getvalue().rfind(hide), "the cursor is hidden"
    terminal.send("exit()")
    terminal.child.read()
    terminal.child.close()
    assert terminal.child.exitstatus == 0


def test_a_terminal_that_is_closed(tmp_path):
    """Catches what is lost when the connection drops: the signal, and output that goes nowhere."""
    (tmp_path / "verse.txt").write_text(VERSE * 300, encoding="utf-8")
    work = tmp_path / "work"
    terminal = Terminal("-i", "-m", "rngru")
    terminal.send(
        f"ms = ModelState.initfromsrcfile({str(tmp_path / 'verse.txt')!r}, {str(work)!r}, "
        "state_size=16, rng=1, layers=1)"
    )
    terminal.shown()
    terminal.send("ms.trainmodel(batchsize=4, train_len=10**7, save_every=3600)")
    terminal.child.expect("char/s")
    terminal.child.close(force=False)  # of the terminal, which sends SIGHUP
    until(lambda: not terminal.child.isalive())
    assert ModelState.load(work).position > 0


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    warnings.simplefilter("error")
    match sys.argv[1:]:
        case "subject", backend, folder:
            Subject(backend, Path(folder)).serve()
        case "cold", folder:
            cold(Path(folder))
        case "worker", work, folder:
            worker(work, folder)
