"""No kill, full disk, meddling or second process costs a model, and nothing is written elsewhere.

What is killed is a child of the subject, this file run as a program. Warm, it forks one for each line
that it reads; the child trains, or makes a model, until some milliseconds later or until a chosen
change to the disk. What is left must be, bit for bit, what a run that nobody disturbed had after one of
its batches.
"""

import errno
import itertools
import json
import os
import platform
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from rngru import ModelState, Texts, checkpoint
from rngru.errors import CheckpointError, NoModelError, RngruError, WorkdirBusy, WorkdirError
from rngru.training import Run
from rngru.workdir import Workdir
from tests import robust
from tests.robust import (
    FOREVER,
    LANES,
    PATIENCE,
    VERSE,
    Straight,
    digest,
    program,
    taken,
    together,
    until,
)

LENGTH = 20
QUIET = robust.QUIET | {"batchsize": LANES}
# The same characters in both, so that no vocabulary tells one model from the other.
MODELS = {"old": (VERSE, 1), "new": (VERSE[::-1], 2)}


def make(folder, which="old", **options):
    """A small model, always the same."""
    text, seed = MODELS[which]
    small = {"state_size": 8, "seq_len": LENGTH, "rng": seed, "report": "silent"}
    return ModelState.initfromsrcfile(Texts([text], names=[which]), folder, **small | options)


def assertsound(work, straight):
    """Load the model, train it on, and return it; nothing unfinished may be left then."""
    ms = ModelState.load(work)
    assert straight.holds(ms)
    if ms.checkpoints()[-1].trainloss is not None:
        assert ends(ms)[-1] == ms.position, "saved, but not in the history"
    before = taken(ms)
    ms.trainmodel(train_len=2, **QUIET)
    assert straight.holds(ms) and taken(ms) == before + 2
    assertsaved(ms)
    return ms


def assertsaved(ms):
    """The model is on the disk as it is now, and nothing unfinished beside it."""
    assert digest(ModelState.load(ms.workdir)) == digest(ms)
    known = {"checkpoints", "data", "history.jsonl", "lock", "lock.json"}
    assert set(os.listdir(ms.workdir)) <= known
    assert all(name.isdecimal() for name in os.listdir(ms.workdir / "checkpoints"))
    assert re.fullmatch(
        r"corpus\.json ids-\w+\.bin", " ".join(sorted(os.listdir(ms.workdir / "data")))
    )


def ends(ms):
    """Where the rounds of training ended that led to where the model is."""
    return ms.history().position.tolist()


def holder(work):
    """The process that says it holds the directory."""
    try:
        return json.loads((work / "lock.json").read_text())["pid"]
    except (OSError, ValueError):
        return None


def snapshot(folder):
    """Every name below a folder, and what it holds."""
    return {
        path.relative_to(folder): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }  # fmt: skip


# ---- The subject: what runs in a process of its own ----


def train(folder, say):
    """Rounds without end, a checkpoint every few milliseconds; say where each of them ended."""
    ms = ModelState.load(folder)
    for number in itertools.count():
        ms.trainmodel(train_len=1 + number % 3, keep=2, save_every=0.005, **QUIET)
        say(ms.position)


def trainonce(folder, say):
    """One round of three batches, with a timed checkpoint after each."""
    ms = ModelState.load(folder)
    ms.trainmodel(train_len=3, keep=1, save_every=1e-9, **QUIET)
    say(ms.position)


def begin(folder, say):
    """A new model, in place of another if there is one."""
    say(make(folder, "new", overwrite=True).position)


def hold(folder, say):
    """One long round."""
    ms = ModelState.load(folder)
    ms.trainmodel(train_len=FOREVER, **QUIET)


def multiply(folder, say):
    """Fork in the middle of training, twice; say what each child meets when it wants to save."""
    ms, step, started = ModelState.load(folder), Run.propose, os.getpid()

    def forking(*arguments):
        for model in (ms, ModelState.load(folder)):
            child = os.fork()
            if not child:
                try:
                    model.newcheckpoint()
                    say("saved")
                except WorkdirBusy as busy:
                    say(f"process {started} on" in str(busy))
                os._exit(0)
            os.waitpid(child, 0)
        return step(*arguments)

    Run.propose = forking
    ms.trainmodel(train_len=2, **QUIET)


TASKS = {each.__name__: each for each in (train, trainonce, begin, hold, multiply)}
CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}


def obey(task, folder, change, into):
    """Do a task, until just before a certain change to the disk; say in the end how many there were."""
    changes = 0

    def watch(event, arguments):
        nonlocal changes
        reads = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES and not reads:
            changes += 1
            if changes == change:
                os.kill(os.getpid(), signal.SIGKILL)

    def say(told):
        os.write(into, f"{json.dumps(told)}\n".encode())

    try:
        sys.addaudithook(watch)
        TASKS[task](Path(folder), say)
        say(changes)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def serve():
    """Fork a child for each line that comes in, kill it when that is due, say what it said."""
    with tempfile.TemporaryDirectory() as warm:
        make(Path(warm, "work")).trainmodel(train_len=1, **QUIET)
    for line in sys.stdin:
        task, folder, change, seconds = json.loads(line)
        out, into = os.pipe()
        child = os.fork()
        if not child:
            obey(task, folder, change, into)
        os.close(into)
        print(child, flush=True)  # noqa: T201
        with os.fdopen(out) as told:
            said = [told.readline()]
            if seconds is not None:
                time.sleep(seconds)
                os.kill(child, signal.SIGKILL)
            said += told.readlines()
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        print(json.dumps([ended, [json.loads(each) for each in said if each]]), flush=True)  # noqa: T201


class Subject:
    """The subject, and what may be asked of it."""

    def __init__(self):
        one = dict.fromkeys(("RNGRU_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = program(__file__, environment=one)
        self.child = None

    def start(self, task, folder, change=0, seconds=None):
        """Have a child do a task; return its process id."""
        self.process.stdin.write(json.dumps([task, str(folder), change, seconds]) + "\n")
        self.child = int(self.process.stdout.readline())
        return self.child

    def end(self):
        """Wait until the child has ended; return whether it was killed, and what it said."""
        ended, said = json.loads(self.process.stdout.readline())
        self.child = None
        assert ended in (0, -signal.SIGKILL)
        return ended != 0, said

    def run(self, *arguments, **options):
        """Both."""
        self.start(*arguments, **options)
        return self.end()

    def instants(self, task, folder, long):
        """Changes to the disk before which to kill a task: all of them, or a few."""
        killed, said = self.run(task, folder)
        assert not killed
        every = range(1, said[-1] + 1)
        assert len(every) > 10
        return every if long else sorted(random.Random(len(every)).sample(every, 5))


@pytest.fixture(scope="module")
def warm():
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    subject = Subject()
    yield subject
    subject.process.stdin.close()
    subject.process.wait()
    subject.process.stdout.close()


@pytest.fixture
def subject(warm):
    yield warm
    if warm.child:  # the test has failed before its end
        os.kill(warm.child, signal.SIGKILL)
        warm.end()


# ---- Kills ----


def test_killed_while_training(subject, tmp_path, long):
    """Catches an acknowledged round that a kill undoes, a torn state, and a gap in the history."""
    work, rng = tmp_path / "work", random.Random(5)
    straight, acknowledged = Straight(make(work).workdir), []
    for _ in range(200 if long else 4):
        killed, said = subject.run("train", work, seconds=rng.uniform(0, 0.03))
        assert killed and said
        acknowledged += said
        ms = ModelState.load(work)
        assert straight.holds(ms) and ms.position >= acknowledged[-1]
        history = ms.history()
        assert ends(ms) == sorted(set(ends(ms))) and ends(ms)[-1] <= ms.position
        assert set(acknowledged) <= set(ends(ms))
        for position, loss in zip(history.positions, history.losses, strict=True):
            assert loss == straight.losses[position // (LANES * LENGTH)]
    ms = assertsound(work, straight)
    ms.trainmodel(train_len=1, keep=2, **QUIET)
    assert len(ms.checkpoints()) <= 3, "two, and the best"


def test_killed_before_any_change_to_the_disk(subject, tmp_path, long):
    """Catches the one instant of a round that random kills miss."""
    start, work = tmp_path / "start", tmp_path / "work"
    ms = make(start)
    straight = Straight(ms.workdir)
    ms.trainmodel(2, train_len=2, **QUIET)
    shutil.copytree(start, work)
    reached = ms.position
    for change in subject.instants("trainonce", work, long):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        assert subject.run("trainonce", work, change=change)[0]
        now = ModelState.load(work).position
        assert now >= reached, f"killed before change {change}, it is older than a change before"
        reached, again = now, assertsound(work, straight)
        assert ends(again)[:2] == [80, 160], change


def test_killed_while_a_new_model_replaces_an_old_one(subject, tmp_path, long):
    """Catches an instant at which neither is there, or one with the text or history of the other."""
    start, work = tmp_path / "start", tmp_path / "work"
    new, ms = Straight(make(tmp_path / "reference", "new").workdir), make(start)
    old = Straight(ms.workdir)
    ms.trainmodel(2, train_len=2, **QUIET)
    shutil.copytree(start, work)
    seen = set()
    for change in subject.instants("begin", work, long):
        shutil.rmtree(work)
        shutil.copytree(start, work)
        assert subject.run("begin", work, change=change)[0]
        ms = ModelState.load(work)
        replaced = digest(ms) == new.at(0)
        again = assertsound(work, new if replaced else old)
        assert len(ends(again)) == (1 if replaced else 3), change
        assert len(again.checkpoints()) == (2 if replaced else 4), change
        seen.add(replaced)
        if not replaced:
            assert digest(make(work, "new", overwrite=True)) == new.at(0)
            assertsound(work, new)
    assert seen == {False, True} or not long


def test_killed_while_the_first_model_is_made(subject, tmp_path, long):
    """Catches a directory that can neither be loaded nor begun again."""
    new = Straight(make(tmp_path / "reference", "new").workdir)
    for change in subject.instants("begin", tmp_path / "work", long):
        work = tmp_path / f"work {change}"
        assert subject.run("begin", work, change=change)[0]
        try:
            ModelState.load(work)
        except NoModelError:
            make(work, "new")
        assertsound(work, new)


# ---- Full disks, and those that cannot be written ----


@pytest.fixture
def disk(tmp_path):
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "rngru", place]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


class Full:
    """A place where nothing more can be written: the disk is full, or files may be no longer."""

    def __init__(self, place, kind):
        self.place, self.kind = place, kind

    def __enter__(self):
        if self.kind == "disk":
            with (self.place / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
                while True:
                    filler.write(bytes(4096))
        else:
            import resource

            self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, self.before[1]))

    def __exit__(self, *error):
        if self.kind == "disk":
            (self.place / "filler").unlink()
        else:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture(params=["disk", "limit"])
def full(request, tmp_path):
    """``with full:`` there is no room in ``full.place``."""
    if request.param == "disk":
        return Full(request.getfixturevalue("disk"), "disk")
    pytest.importorskip("resource")
    return Full(tmp_path, "limit")


def refused(call, where):
    """What the error says of a call for which there is no room."""
    with pytest.raises((CheckpointError, WorkdirError)) as caught:
        call()
    told = str(caught.value)
    assert str(where) in told
    assert re.search(r"(No space left on device|File too large)\. It needs \d+\.\d{3} MB;", told)
    assert re.search(r"; [\d,]+\.\d{3} MB are free\.", told)
    return type(caught.value)


def test_no_room_for_a_checkpoint_or_the_history(full):
    """Catches a run lost with the disk, and one that a line cut short makes unreadable."""
    work = full.place / "work"
    ms = make(work)
    straight = Straight(ms.workdir)
    ms.trainmodel(train_len=1, **QUIET)
    kinds, written = set(), ends(ms)
    with full:
        for trained in range(3, 33, 2):
            kind = refused(lambda: ms.trainmodel(train_len=2, **QUIET), work)
            kinds.add(kind)
            assert taken(ms) == trained and straight.holds(ms)
            assert digest(ModelState.load(work)) == straight.at(1)
            if kind is CheckpointError:  # there was room for its line
                written.append(ms.position)
            assert ends(ms) == written
        refused(ms.newcheckpoint, work)
    assert kinds == {CheckpointError, WorkdirError}, "of the checkpoint and of the history"
    assert ms.newcheckpoint().position == ms.position
    assertsaved(ms)
    ms = assertsound(work, straight)
    assert ends(ms) == [*written, ms.position] and written[0] == 40


def test_no_room_for_the_text(full):
    """Catches a text cut short, and an old model gone before the new one is there."""
    work = full.place / "work"
    ms = make(work)
    straight = Straight(ms.workdir)
    ms.trainmodel(train_len=1, **QUIET)
    with full:
        refused(lambda: longer(full.place / "other"), full.place / "other")
        refused(lambda: longer(work, overwrite=True), work)
        assert digest(ModelState.load(work)) == straight.at(1)
    assertsound(work, straight)
    for place in (full.place / "other", work):
        ms = longer(place, overwrite=True)
        assert f"on {10 * len(VERSE):,} characters" in repr(ms)
        assertsaved(ms)


def longer(folder, **options):
    """A model on ten times the text."""
    text = Texts([10 * VERSE])
    return ModelState.initfromsrcfile(text, folder, state_size=8, report="silent", **options)


@pytest.fixture(params=["mount", "mode"])
def readonly(request, tmp_path):
    """A directory, and what makes it and all below it read-only, or writable again."""
    if request.param == "mount":
        place = request.getfixturevalue("disk")

        def seal(yes):
            subprocess.run(["mount", "-o", f"remount,{'ro' if yes else 'rw'}", place], check=True)

    else:
        place = tmp_path

        def seal(yes):
            for path in (place, *place.rglob("*")):
                mode = 0o700 if path.is_dir() else 0o600
                path.chmod(mode & 0o500 if yes else mode)

        seal(True)
        anywhere = os.access(place, os.W_OK)
        seal(False)
        if anywhere:
            pytest.skip("root may write anywhere")
    yield place, seal
    seal(False)


def test_a_read_only_directory(readonly):
    """Catches a bare OSError, and a model that cannot be used because it cannot be changed."""
    place, seal = readonly
    work = place / "work"
    ms = make(work)
    straight, before = Straight(ms.workdir), snapshot(place)
    seal(True)
    for call in (
        lambda: ms.trainmodel(train_len=1, **QUIET),
        ms.newcheckpoint,
        lambda: make(work, "new", overwrite=True),
        lambda: make(place / "other"),
    ):
        with pytest.raises(WorkdirError, match=re.escape(str(place))):
            call()
    again = ModelState.load(work)
    assert digest(again) == straight.at(0) and len(again.checkpoints()) == 1
    assert len(again.generatestring(10)) == 10 and again.evaluate().nats > 0
    assert snapshot(place) == before
    seal(False)
    assertsound(work, straight)


# ---- Directories and names that are not what they seem ----


@pytest.mark.parametrize("kind", ["nothing", "file", "empty", "model", "link", "dangling"])
def test_the_directory_is_replaced_during_the_run(kind, tmp_path, monkeypatch):
    """Catches a checkpoint of one model among those of another, and a run lost with its directory."""
    work, aside, propose = tmp_path / "work", tmp_path / "aside", Run.propose
    make(tmp_path / "other", "new").trainmodel(train_len=1, **QUIET)
    ms = make(work)
    straight, before = Straight(ms.workdir), snapshot(tmp_path / "other")

    def replace(run, *arguments):
        if run.progress.batches == 1:
            work.rename(aside)
            if kind == "file":
                work.write_text("mine")
            elif kind == "empty":
                work.mkdir()
            elif kind == "model":
                (tmp_path / "other").rename(work)
            elif kind != "nothing":
                work.symlink_to(tmp_path / ("other" if kind == "link" else "missing"))
        return propose(run, *arguments)

    kept = work if kind == "model" else tmp_path / "other"
    with monkeypatch.context() as patch:
        patch.setattr(Run, "propose", replace)
        with pytest.raises((WorkdirError, CheckpointError), match=re.escape(str(work))):
            ms.trainmodel(train_len=3, **QUIET)
    assert taken(ms) == 3 and straight.holds(ms)
    assert snapshot(kept) == before
    if kind == "nothing":
        ms.newcheckpoint()
        with pytest.warns(UserWarning, match="holds no encoded text"):
            assert digest(ModelState.load(work)) == digest(ms)
        shutil.rmtree(work)
    else:
        for call in (ms.newcheckpoint, lambda: ms.trainmodel(train_len=1, **QUIET)):
            with pytest.raises(WorkdirError, match=re.escape(str(work))):
                call()
        assert snapshot(kept) == before and not (tmp_path / "missing").exists()
        work.rename(tmp_path / "theirs")
    aside.rename(work)
    assert straight.holds(ms)
    ms = ModelState.load(work) if kind == "nothing" else ms
    ms.newcheckpoint()
    assertsaved(ms)
    assertsound(work, straight)


OURS = ["checkpoints", "data", ".tmp-data", "history.jsonl", "lock", "lock.json"]


@pytest.mark.parametrize("kind", ["folder", "file", "missing"])
@pytest.mark.parametrize("name", OURS)
def test_links_in_the_directory(name, kind, tmp_path):
    """Catches what is written, or removed, through a link to somebody else's files."""
    outside, work = tmp_path / "outside", tmp_path / "work"
    (outside / "folder").mkdir(parents=True)
    (outside / "folder" / "note").write_text("mine")
    (outside / "file").write_text("mine")
    before = snapshot(outside)
    for trained in (False, True):
        ms = make(work) if trained else None
        path = work / name
        if trained and path.exists():
            path.rename(tmp_path / "theirs")
        work.mkdir(exist_ok=True)
        path.symlink_to(outside / kind)
        calls = [lambda: make(work), lambda: make(work, "new", overwrite=True)]
        if ms:
            calls += [ms.newcheckpoint, lambda ms=ms: ms.trainmodel(train_len=1, **QUIET)]
        for call in calls:
            with pytest.raises(RngruError, match=re.escape(f"{path} is a symbolic link")):
                call()
        assert snapshot(outside) == before
        path.unlink()
        if (tmp_path / "theirs").exists():
            (tmp_path / "theirs").rename(path)
        if ms:
            ms.trainmodel(train_len=1, **QUIET)
            assertsaved(ms)


def test_links_on_the_way_to_the_directory(tmp_path):
    """Catches a refusal of what every second home directory is."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    ms = make(tmp_path / "link" / "work")
    (tmp_path / "work").symlink_to(ms.workdir)
    again = ModelState.load(tmp_path / "work")
    again.trainmodel(train_len=1, **QUIET)
    assert digest(ModelState.load(tmp_path / "real" / "work")) == digest(again)
    with pytest.raises(WorkdirError, match="holds a model already"):
        make(tmp_path / "real" / "work")


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "below/" + "x" * 300, "\ud800", "~nobody-of-that-name/work"]
)
def test_names_that_none_can_have(name, tmp_path, monkeypatch):
    """Catches errors that only a programmer of Python understands."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RngruError) as caught:
        make(name)
    assert name[:20] in str(caught.value) or repr(name)[1:-1] in str(caught.value)
    with pytest.raises(RngruError):
        ModelState.load(name)
    assert set(os.listdir(tmp_path)) <= {"below"}
    with pytest.raises(RngruError, match="There is no checkpoint"):
        make(tmp_path / "work").restore(name)


@pytest.mark.parametrize(
    "name", ["here/../work", "missing/../work", os.fsdecode(b"work \xff"), "tw\no lines", " ", "ä" * 99]
)  # fmt: skip
def test_names_that_are_unusual(name, tmp_path, monkeypatch):
    """Catches a directory too many, and names that are not UTF-8."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = tmp_path / os.fsdecode(b"text \xff")
    source.write_text(VERSE)
    ms = ModelState.initfromsrcfile(source, name, state_size=8, seq_len=LENGTH, report="silent")
    straight = Straight(ms.workdir)
    work = tmp_path / "here" / ("work" if "/" in name else name)
    assert os.listdir(tmp_path / "here") == [work.name] or name == "here/../work"
    monkeypatch.chdir(tmp_path)
    assertsound(work, straight)
    assert f"on 1,609 characters of {tmp_path}{os.sep}text \ufffd" in repr(ms)


# ---- Two at a time ----


def test_another_process_holds_the_directory(subject, tmp_path):
    """Catches two that write at once, a message without a name, and a lock that outlives its owner."""
    work = tmp_path / "work"
    ms = make(work)
    straight = Straight(ms.workdir)
    pid = subject.start("hold", work)
    until(lambda: holder(work) == pid)
    calls = [
        ms.newcheckpoint,
        lambda: ms.trainmodel(train_len=1, **QUIET),
        lambda: make(work, "new", overwrite=True),
        lambda: make(work, "new"),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(WorkdirBusy, match=f"process {pid} on {re.escape(platform.node())}"):
            call()
        assert time.monotonic() - began < 30, "it waits for the other, which never ends"
    again = ModelState.load(work)
    assert straight.holds(again) and len(again.checkpoints()) == 1
    assert len(again.generatestring(10)) == 10 and again.evaluate().nats > 0
    os.kill(pid, signal.SIGKILL)
    assert subject.end()[0]
    assertsound(work, straight)


def test_a_forked_child_is_another_process(subject, tmp_path):
    """Catches a lock that is inherited, and one that a child takes with it when it ends."""
    work = tmp_path / "work"
    straight = Straight(make(work).workdir)
    killed, said = subject.run("multiply", work)
    assert not killed and said[:-1] == [True] * 4
    assert taken(ModelState.load(work)) == 2
    assertsound(work, straight)


def test_two_runs_in_turn_on_one_directory(tmp_path):
    """Catches a checkpoint that is written over because it has the number of another batch."""
    one = make(tmp_path / "work")
    two = ModelState.load(one.workdir)
    for ms in (one, two, two, one):
        ms.restore(ms._disk._own[0])  # it knows of the other, and goes another way
        ms.trainmodel(train_len=1, **QUIET)
    assert [each.position for each in one.checkpoints()] == [0, 40, 40, 80, 80]
    for ms, step in ((two, 5), (one, 6)):
        ms.restore(ms._disk._own[0])
        assert ms.newcheckpoint().step == step
    assert one.newcheckpoint().step == 6


STALE = {
    "trainmodel": lambda ms: ms.trainmodel(train_len=1, **QUIET),
    "keep": lambda ms: ms.trainmodel(train_len=1, keep=1, **QUIET),
    "newcheckpoint": lambda ms: ms.newcheckpoint(),
}


@pytest.mark.parametrize("call", STALE)
@pytest.mark.parametrize(
    "way", ["further", "saved in the middle", "pruned", "another way", "no word"]
)
def test_a_prompt_that_knows_less_is_told(tmp_path, monkeypatch, way, call):
    """Catches a prompt left open that goes on from where it was, and is the newest by that alone."""
    stale = make(tmp_path / "work")
    stale.trainmodel(2, train_len=1, **QUIET)
    if way == "no word":  # as an older rngru saved it
        stale._model, stale._disk._token = replace(stale._model, token=None), None
        monkeypatch.setattr(secrets, "token_hex", lambda size: None)
        shutil.rmtree(stale.workdir / "checkpoints")
        stale.newcheckpoint()
        monkeypatch.undo()
    other = ModelState.load(stale.workdir)
    if way == "another way":
        other.restore(1)
        other.trainmodel(train_len=1, learnrate=0.1, **QUIET)
    elif way == "saved in the middle":
        other.trainmodel(train_len=3, save_every=1e-9, **QUIET)
    else:
        other.trainmodel(3, train_len=1, keep=1 if way == "pruned" else None, **QUIET)
    before, known, own = digest(stale), snapshot(stale.workdir / "checkpoints"), digest(other)
    position = (
        f"to position {other.position} .checkpoint {other.checkpoints()[-1].step}. in .*restore"
    )
    for _ in range(2):
        with pytest.raises(WorkdirError, match=position):
            STALE[call](stale)
    assert digest(stale) == before and snapshot(stale.workdir / "checkpoints") == known
    assert digest(ModelState.load(stale.workdir)) == own
    assert len(str(stale.generatestring(5, rng=1))) == 5
    STALE[call](other)
    assert digest(stale.restore()) == digest(other)
    STALE[call](stale)
    assertsaved(stale)


def test_a_prompt_knows_what_it_failed_to_clean_up(tmp_path, monkeypatch):
    """Catches a model that is told of another prompt which is itself: its save went wrong at the end."""
    ms = make(tmp_path / "work")
    ms.trainmodel(train_len=1, **QUIET)
    sync = checkpoint.sync

    def refuse(folder):
        sync(folder)
        if folder.name == "checkpoints":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync", refuse)
        with pytest.raises(CheckpointError, match="Input/output error"):
            ms.trainmodel(train_len=1, **QUIET)
    ms.trainmodel(train_len=1, **QUIET)
    assertsaved(ms)


@pytest.mark.parametrize("what", ["renamed", "removed", "only the text"])
def test_what_is_gone_is_not_trained_on(tmp_path, what):
    """Catches the old name made anew without the text, so that nobody can go on tomorrow."""
    work, aside = tmp_path / "work", tmp_path / "elsewhere"
    ms = make(work)
    ms.trainmodel(train_len=1, **QUIET)
    before = digest(ms)
    (work / "data" if what == "only the text" else work).rename(aside)
    if what == "removed":
        shutil.rmtree(aside)
    for _ in range(2):
        with pytest.raises(WorkdirError, match=r"is gone.*Nothing was trained.*Put it back"):
            ms.trainmodel(train_len=1, **QUIET)
        assert digest(ms) == before and work.exists() == (what == "only the text")
    assert ms.evaluate().nats > 0
    if what == "renamed":
        moved = ModelState.load(aside)
        moved.trainmodel(train_len=1, **QUIET)
        aside.rename(work)
        with pytest.raises(WorkdirError, match="to position 80"):
            ms.trainmodel(train_len=1, **QUIET)
    elif what == "removed":
        ms.newcheckpoint()  # of what is left in memory
        with pytest.warns(UserWarning, match="holds no encoded text"):
            assert digest(ModelState.load(work)) == before
    else:
        aside.rename(work / "data")
        ms.trainmodel(train_len=1, **QUIET)
        assertsaved(ms)


def test_a_copy_in_the_place_of_the_directory_is_as_good(tmp_path):
    """Catches a backup put back, or a network file system that numbers anew, which passes for another."""
    work = tmp_path / "work"
    ms = make(work)
    ms.trainmodel(train_len=1, **QUIET)
    work.rename(tmp_path / "broken")
    shutil.copytree(tmp_path / "broken", work)
    ms.trainmodel(train_len=1, **QUIET)
    assertsaved(ms)
    assert len(ModelState.load(tmp_path / "broken").checkpoints()) == 2


def test_nothing_is_saved_that_cannot_be_loaded(tmp_path):
    """Catches a checkpoint that takes the place of the only good one, and that no load accepts."""
    work = tmp_path / "work"
    ms = make(work)
    known, good = snapshot(work / "checkpoints"), ms._model
    for wrong in (
        {"seq_len": 0},
        {"made": good.made.replace(layers=1)},
        {"chars": type(good.chars)("abc")},
        {"progress": replace(good.progress, arrays={})},
        {"progress": replace(good.progress, position=-1)},
    ):
        ms._model = replace(good, **wrong)
        with pytest.raises(CheckpointError, match="Nothing was saved, for it could not be loaded"):
            ms.newcheckpoint()
        assert snapshot(work / "checkpoints") == known
    ms._model = good
    ms.newcheckpoint()
    assertsaved(ms)


def test_a_model_that_another_has_replaced_is_not_saved_over_it(tmp_path):
    """A prompt left open since yesterday, while another one began anew in the same directory."""
    work = tmp_path / "work"
    yesterday = make(work)
    yesterday.trainmodel(train_len=1, **QUIET)
    today = make(work, "new", overwrite=True)
    straight = Straight(today.workdir)
    for call in (yesterday.newcheckpoint, lambda: yesterday.trainmodel(train_len=1, **QUIET)):
        with pytest.raises(WorkdirError, match=r"holds another model by now.*Nothing was written"):
            call()
    assert len(today.checkpoints()) == 1
    assertsound(work, straight)
    today.restore().newcheckpoint()
    assert len(str(yesterday.generatestring(10))) == 10
    before = digest(yesterday)
    with pytest.raises(WorkdirError, match="holds another model by now"):
        yesterday.restore()
    assert digest(yesterday) == before
    shutil.rmtree(work)
    yesterday.newcheckpoint()  # in a directory made anew, without the text
    with pytest.warns(UserWarning, match="can generate and score, but not train.*data back"):
        assert digest(ModelState.load(work)) == before
    elsewhere = make(tmp_path / "elsewhere")
    shutil.copytree(elsewhere.workdir / "data", work / "data")
    ModelState.load(work).trainmodel(train_len=1, **QUIET)


def test_a_checkpoint_of_a_copy_replaces_none_of_ours(tmp_path):
    """Two copies have the same numbers; those of the other one are no reason to write over ours."""
    ours = make(tmp_path / "ours")
    shutil.copytree(ours.workdir, tmp_path / "copy")
    copy = ModelState.load(tmp_path / "copy")
    ours.trainmodel(train_len=3, **QUIET)
    copy.trainmodel(train_len=3, learnrate=0.1, **QUIET)
    known = {each.step: digest(ours.restore(each)) for each in ours.checkpoints()}
    ours.restore(copy.checkpoints()[-1])
    assert digest(ours) == digest(copy) and not ours.history()
    copied = digest(ours)
    assert ours.newcheckpoint().step == 4
    assert {each.step: digest(ours.restore(each)) for each in ours.checkpoints()} == {
        **known,
        4: copied,
    }


def test_a_model_is_restored_or_trained_but_not_both(tmp_path, monkeypatch):
    """Catches a restore that the next batch undoes, and a model that is half the one, half the other."""
    ms = make(tmp_path / "work")
    straight = Straight(ms.workdir)
    ms.trainmodel(train_len=1, **QUIET)
    begun, go, load, propose = threading.Event(), threading.Event(), Workdir.load, Run.propose

    def slowly(disk, which, **options):
        begun.set()
        assert go.wait(PATIENCE)
        return load(disk, which, **options)

    monkeypatch.setattr(Workdir, "load", slowly)
    restoring = threading.Thread(target=ms.restore, args=(0,))
    restoring.start()
    assert begun.wait(PATIENCE)
    for call in (
        lambda: ms.trainmodel(train_len=1, **QUIET),
        ms.newcheckpoint,
        lambda: ms.restore(1),
    ):
        with pytest.raises(WorkdirBusy, match="Another thread"):
            call()
    go.set()
    restoring.join()
    assert digest(ms) == straight.at(0)

    def interfered(run, *arguments):
        with pytest.raises(WorkdirBusy, match="Another thread"):
            ms.restore(1)
        return propose(run, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "propose", interfered)
        ms.trainmodel(train_len=2, **QUIET)
    assert digest(ms) == straight.at(2)


def test_two_threads_on_one_directory(tmp_path):
    """Catches a lock that holds off other processes only, and rounds that overwrite each other."""
    work, wanted = tmp_path / "work", 8
    straight = Straight(make(work).workdir)
    models = [ModelState.load(work) for _ in range(2)]
    meeting = threading.Barrier(2)

    def trains(ms):
        meeting.wait()
        while len(ends(ms)) < wanted:
            try:
                ms.trainmodel(train_len=1, **QUIET)
            except WorkdirBusy as busy:
                assert f"process {os.getpid()} on" in str(busy)
            except WorkdirError as told:  # the other was faster: go on from there, or the own way
                assert "Another prompt" in str(told)
                ms.restore(ms._disk._own[0])

    together(*[partial(trains, ms) for ms in models])
    for ms in models:
        assert taken(ms) == wanted and straight.holds(ms)
        assert ends(ms) == [40 * n for n in range(1, wanted + 1)]
    assert len((work / "history.jsonl").read_text().splitlines()) == 2 * wanted
    known = models[0].checkpoints()
    assert known == known.intact and len(known) == 1 + 2 * wanted
    assertsound(work, straight)


if __name__ == "__main__":
    warnings.simplefilter("error")
    serve()
