"""Poorer file systems, of the network, of other systems, in containers: a model can be made, trained and
saved wherever a file can be written and renamed.

Faults are put in the place of system calls, with the answers that such file systems are known to give;
the references are the same run on a good one, and what was on the disk before. Nothing here may end in
an error of Python's own, and what is weaker is said once.
"""

import errno
import fcntl
import json
import mmap
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from rngru import ModelState, Texts, checkpoint, disk
from rngru.errors import CheckpointError, NoModelError, RngruError, WorkdirBusy, WorkdirError
from rngru.workdir import Workdir
from tests.robust import QUIET, VERSE, digest, program

CALL = QUIET | {"batchsize": 2, "train_len": 2}


def make(folder, **options):
    """A small model, always the same."""
    small = {"state_size": 8, "seq_len": 20, "rng": 1, "report": "silent"} | options
    return ModelState.initfromsrcfile(Texts([VERSE], names=["verse"]), folder, **small)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Forget what was said of other file systems."""
    monkeypatch.setattr(disk, "_told", set())


def answering(number, call, when=lambda *arguments: True):
    """A system call that answers with an error, when a condition of its arguments holds."""

    def answer(*arguments, **options):
        if (
            when(*arguments) and "dir_fd" not in options
        ):  # what removes folders opens them in another way
            raise OSError(number, os.strerror(number))
        return call(*arguments, **options)

    return answer


def isfolder(descriptor):
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


LOCKS = ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EINVAL", "EPERM"]
FAULTS = {
    **{f"no locks, {name}": ("flock", name, fcntl, "flock", None) for name in LOCKS},
    **{
        f"folders cannot be synced, {name}": ("fsync", name, os, "fsync", isfolder)
        for name in ("EINVAL", "ENOTSUP", "EACCES", "EBADF", "EISDIR", "ENOSYS", "EPERM")
    },
    **{
        f"nothing can be synced, {name}": ("fsync", name, os, "fsync", lambda *_: True)
        for name in ("EINVAL", "ENOSYS")
    },
    **{
        f"folders cannot be opened, {name}": ("fsync", name, os, "open", lambda path, *_: os.path.isdir(path))
        for name in ("EACCES", "EISDIR")
    },
    **{
        f"no file can be mapped, {name}": ("mmap", name, mmap, "mmap", None)
        for name in ("ENODEV", "EACCES", "EINVAL", "ENOMEM")
    },
    **{
        f"folders cannot be renamed, {name}": ("", name, os, "replace", lambda old, *_: os.path.isdir(old))
        for name in ("EXDEV", "ENOSYS", "EPERM")
    },
    "no links": ("", "EPERM", os, "link", lambda *_: True),
}  # fmt: skip
SAID = {"flock": "can be locked", "fsync": "on the disk for good", "mmap": "can be mapped"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_lives_on_a_poorer_file_system(tmp_path, monkeypatch, fault):
    """Catches a bare OSError, and a model that cannot be made, trained, saved, pruned or loaded there."""
    good = make(tmp_path / "good")
    good.trainmodel(3, keep=1, save_every=1e-9, **CALL)
    kind, name, module, call, when = FAULTS[fault]
    number = getattr(errno, name)
    monkeypatch.setattr(
        module, call, answering(number, getattr(module, call), *filter(None, [when]))
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ms = make(tmp_path / "work")
        ms.trainmodel(2, keep=1, save_every=1e-9, **CALL)
        ms.newcheckpoint()
        ms = ModelState.load(ms.workdir)
        ms.trainmodel(keep=1, save_every=1e-9, **CALL)
        assert digest(ms) == digest(good) == digest(ModelState.load(ms.workdir))
        with pytest.raises(WorkdirError, match="holds a model already"):
            make(ms.workdir)
    told = [str(each.message) for each in said]
    assert len(told) == (1 if kind else 0), told
    assert all(SAID[kind] in each and str(tmp_path) in each for each in told)
    assert len(ms.checkpoints()) <= 3 and len(ms.history()) == 3
    assert not list(ms.workdir.rglob(".*"))


def test_a_text_that_can_neither_be_mapped_nor_read(tmp_path, monkeypatch):
    """Catches bare words without a place."""
    ms = make(tmp_path / "work")
    monkeypatch.setattr(mmap, "mmap", answering(errno.ENODEV, mmap.mmap))
    monkeypatch.setattr(disk.np, "fromfile", answering(errno.EIO, None))
    with pytest.warns(UserWarning, match=re.escape(str(ms.workdir / "data"))):
        assert len(ModelState.load(ms.workdir).generatestring(5)) == 5


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("what", ["arrays", "text", "again"])
def test_what_cannot_be_renamed_is_not_lost(tmp_path, monkeypatch, number, what):
    """Catches a checkpoint or a text that is gone with a refusal, and litter after it."""
    ms = make(tmp_path / "work")
    before = sorted(ms.workdir.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", answering(number, os.replace))
        patch.setattr(checkpoint, "_FIXED", set())
        calls = {
            "arrays": lambda: ms.trainmodel(**CALL),
            "text": lambda: make(tmp_path / "other"),
            "again": ms.newcheckpoint,
        }
        with pytest.raises((CheckpointError, WorkdirError)) as told:
            calls[what]()
        assert os.strerror(number) in str(told.value) and str(tmp_path) in str(told.value)
    assert ModelState.load(ms.workdir).position == 0
    ms.newcheckpoint()
    ms = ModelState.load(ms.workdir)
    assert len(ms.checkpoints()) in (1, 2)
    if what != "arrays":
        assert sorted(ms.workdir.rglob("*")) == before


def test_a_program_in_the_way_is_waited_for(tmp_path, monkeypatch):
    """Catches a save that a virus scanner, which looks at each new file for a moment, undoes."""
    ms, fails = make(tmp_path / "work"), iter([True, False] * 50)
    monkeypatch.setattr(os, "replace", answering(errno.EACCES, os.replace, lambda *_: next(fails)))
    ms.trainmodel(**CALL)
    assert digest(ModelState.load(ms.workdir)) == digest(ms)


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + b"\0"])
def test_a_disk_that_loses_data_is_found_out_at_once(tmp_path, monkeypatch, damage):
    """Catches a checkpoint that takes the place of a good one, or prunes it, and cannot be read."""
    ms = make(tmp_path / "work")
    ms.trainmodel(**CALL)
    good, write = digest(ms), checkpoint.write
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", lambda path, data: write(path, damage(data)))
        for call in (lambda: ms.trainmodel(keep=1, **CALL), ms.newcheckpoint):
            with pytest.raises(CheckpointError, match="is not what was written a moment ago"):
                call()
            assert digest(ModelState.load(ms.workdir)) == good
            ms.restore()
    ms.newcheckpoint()
    assert digest(ModelState.load(ms.workdir)) == good


# ---- A lock without the system's help ----


def nolocks():
    """Let this process know no locks."""
    fcntl.flock = answering(errno.ENOLCK, fcntl.flock)


def serve(work, kind):
    """Hold a directory until killed."""
    warnings.simplefilter("ignore")
    if kind == "soft":
        nolocks()
    with Workdir(work).locked():
        os.write(1, b"held\n")
        signal.pause()


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds a directory: ``holder(work, 'soft' or 'hard')``."""
    started = []

    def start(work, kind):
        process = program(__file__, work, kind)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            process.wait()


@pytest.mark.filterwarnings("ignore:.*can be locked")
@pytest.mark.parametrize("theirs", ["soft", "hard"])
@pytest.mark.parametrize("ours", ["soft", "hard"])
def test_each_kind_of_lock_is_heeded(tmp_path, monkeypatch, holder, ours, theirs):
    """Catches two that write at once, and a dead one's lock that keeps others out, foreign or not."""
    ms = make(tmp_path / "work")
    process = holder(ms.workdir, theirs)
    if ours == "soft":
        monkeypatch.setattr(fcntl, "flock", answering(errno.ENOSYS, fcntl.flock))
    for call in (ms.newcheckpoint, lambda: make(ms.workdir, overwrite=True)):
        with pytest.raises(WorkdirBusy, match=f"process {process.pid} on {platform.node()}"):
            call()
    with (
        Workdir(tmp_path / "other").locked(),
        pytest.raises(WorkdirBusy, match=f"process {os.getpid()}"),
        Workdir(tmp_path / "other").locked(),
    ):
        pass
    process.kill()
    process.wait()
    ms.newcheckpoint()
    assert not (ms.workdir / "lock.json").exists()
    make(ms.workdir, overwrite=True)


CLAIMS = {
    "of another host": ({"host": "elsewhere", "boot": "1"}, True),
    "of a process that is gone": ({"pid": 2**22 + 1}, False),
    "of another process of that id": ({"started": 1}, False),
    "before the machine was started": ({"boot": "1"}, False),
    "of a container": ({"space": "pid:[1]"}, True),
    "of this process, which forgot it": ({"pid": os.getpid(), "started": None}, False),
    "of an older rngru": ({"word": None, "pid": 1}, False),
    "of noise": ({"pid": "x"}, False),
    "of a process that lives": ({}, True),
}


@pytest.mark.filterwarnings("ignore:.*can be locked")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc")
@pytest.mark.parametrize("system", [False, True])
@pytest.mark.parametrize("claim", CLAIMS)
def test_who_lives_is_known(tmp_path, monkeypatch, claim, system):
    """Catches a lock of the dead that must be removed by hand, and one of the living that is broken."""
    from rngru.workdir import lock

    ms = make(tmp_path / "work")
    changes, lives = CLAIMS[claim]
    parent = os.getppid()
    who = {"pid": parent, "host": platform.node(), "word": "theirs", "system": system}
    who = who | lock._identity(parent) | changes
    (ms.workdir / "lock.json").write_text(
        json.dumps({k: v for k, v in who.items() if v is not None})
    )
    for soft in (True, False):
        with monkeypatch.context() as patch:
            if soft:
                patch.setattr(fcntl, "flock", answering(errno.ENOSYS, fcntl.flock))
            elif system:
                lives = False  # who had the system's lock has let go of it: we have it
            if not lives:
                ms.newcheckpoint()
                continue
            with pytest.raises(WorkdirBusy, match=f"process {parent} on") as told:
                ms.newcheckpoint()
            removal = f"If it has ended, remove {ms.workdir / 'lock.json'}"
            assert (removal in str(told.value)) == (not system and "host" in changes)


@pytest.mark.filterwarnings("ignore:.*can be locked")
def test_an_older_soft_lock_is_understood(tmp_path, monkeypatch):
    """Catches the file of another version's lock, which passes for somebody's own or is not heeded."""
    ms = make(tmp_path / "work")
    for soft in (False, True):
        if soft:
            monkeypatch.setattr(fcntl, "flock", answering(errno.ENOSYS, fcntl.flock))
        (ms.workdir / "lock").write_text(f"{os.getppid()}\n{platform.node()}\n")
        with pytest.raises(WorkdirBusy, match=f"process {os.getppid()} on .* remove .*lock"):
            make(ms.workdir, overwrite=True)
        (ms.workdir / "lock").write_text(f"{2**22 + 1}\n{platform.node()}\n")
        ms = make(ms.workdir, overwrite=True)


# ---- What may not be read ----


def asnobody(code, *arguments):
    """What a program prints that may not do what only root may."""
    command = [sys.executable, "-W", "ignore", "-c", f"import sys; from rngru import *\n{code}"]
    if os.geteuid() == 0:
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    if "setpriv" in done.stderr:
        pytest.skip("may not give up rights here")
    return done.stdout + done.stderr


LOOK = """
for call in (ModelState.load, ):
    try:
        print(call(sys.argv[1]))
    except RngruError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    "name", ["", "checkpoints", "checkpoints/0", "checkpoints/0/meta.json", "data"]
)
def test_what_may_not_be_read_is_said_so(tmp_path, name):
    """Catches a model that is said not to be there, or to be damaged, where it may only not be read."""
    ms = make(tmp_path / "work")
    path = ms.workdir / name
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        said = asnobody("from rngru.errors import RngruError\n" + LOOK, ms.workdir)
    finally:
        path.chmod(mode)
    assert ("ModelState GRUEncode" if name == "data" else "Permission denied") in said
    assert "NoModelError" not in said and "Traceback" not in said and "damaged" not in said.lower()


def test_what_is_in_the_way_is_named(tmp_path):
    """Catches 'no such folder' for a path below a file, or a link that leads nowhere."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "missing")
    for path, told in {
        "file": "file is a file",
        "file/work": "file is a file",
        "link": "link is a link to .*missing, which is not there",
        "link/work": "link is a link to .*missing, which is not there",
    }.items():
        with pytest.raises(NoModelError, match=told):
            ModelState.load(tmp_path / path)
        assert not Workdir(tmp_path / path).holdsmodel
        with pytest.raises(RngruError, match=re.escape(str(tmp_path))):
            make(tmp_path / path)


if __name__ == "__main__":
    serve(*sys.argv[1:])
