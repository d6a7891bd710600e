"""Where compiled kernels are kept: whatever lies there, or cannot be written, a model computes."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import rngru
from rngru.kernels import compiling
from rngru.kernels.target import TARGET

ADD = """
from rngru.kernels.update import NUMBERS, norm
import numpy as np
one = [np.full(3, 2, np.float32)]
print(round(float(norm(one, one, np.zeros((1, NUMBERS), "f"), count=1)), 3))
"""


QUICKLY = {"NUMBA_OPT": "0"}
"""Compiled in half the time: where it is kept has nothing to do with how fast it will run."""


def child(code: str, cache: Path | str, **environment: str):
    """Run code with a cache of its own; (what it printed, what it wrote to stderr)."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | QUICKLY | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A list of folders to keep things in, instead of those of this machine."""
    folders = [tmp_path / "first", tmp_path / "second"]
    monkeypatch.setattr(compiling, "_places", lambda: iter(folders))
    monkeypatch.setattr(compiling, "_said", set())
    return folders


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(3, np.float32),
        np.zeros((2, 3, 4), np.int32, order="F"),
        np.zeros((4, 4))[::2, ::2],
        np.broadcast_to(np.float32(1), (2, 3)),
        np.zeros((0, 0), bool),
        np.zeros(2).view(np.recarray),
        np.float32(1),
        True,
        7,
    ],
    ids=repr,
)
def test_kernels_take_values_as_numba_takes_them(value):
    """An array of another type than it is would be read as what it is not."""

    @compiling.kernel()
    def first(x):
        return x

    assert first.typeof_pyval(value) == numba.typeof(value)


def test_files_that_were_damaged_are_compiled_again(tmp_path):
    """Numba's own cache ends a training run with EOFError, or runs what the bits have become."""
    cache = tmp_path / "cache"
    assert child(ADD, cache)[0] == "3.464\n"
    files = kept(cache)
    assert files
    whole = [path.read_bytes() for path in files]
    for spoil in (
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    ):
        for path, data in zip(files, whole, strict=True):
            path.write_bytes(spoil(data))
        assert child(ADD, cache) == ("3.464\n", "")
        spoiled = [spoil(data) for data in whole]
        assert all(path.read_bytes() != data for path, data in zip(files, spoiled, strict=True))


def test_a_file_that_is_whole_but_of_something_else_is_compiled_again(tmp_path):
    """Another Numba of the same version number, patched by a distribution."""
    cache = tmp_path / "cache"
    child(ADD, cache)
    (folder,) = (path for path in cache.iterdir())
    names = [path.name for path in kept(cache)]
    code = "from rngru.kernels import compiling\nfor name in {}: compiling.write(name, b'not of Numba')"
    child(code.format(names), cache)
    assert [path.name for path in kept(cache)] == names
    assert child(ADD, cache) == ("3.464\n", "")
    assert folder.is_dir()


def test_a_change_in_any_kernel_is_noticed_by_all(tmp_path):
    """Numba looks at the file of one function: the others went on with the old tiles."""
    package = tmp_path / "site" / "rngru"
    shutil.copytree(
        Path(rngru.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    cache, path = tmp_path / "cache", {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}
    assert child(ADD, cache, **path)[0] == "3.464\n"
    changed = package / "kernels" / "elementwise.py"  # which update.py imports
    changed.write_text(changed.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    assert child(ADD, cache, **path)[0] == "3.464\n"
    assert len(list(cache.iterdir())) == 2


def test_another_version_under_the_same_path_takes_the_place_of_the_old(tmp_path):
    """What an old version compiled would lie beside the source for ever."""
    package = tmp_path / "site" / "rngru"
    shutil.copytree(
        Path(rngru.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    path = {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"}
    beside = package / "kernels" / "__pycache__"
    digests = []
    for text in ("# one\n", "# two\n"):
        changed = package / "kernels" / "update.py"
        changed.write_text(changed.read_text(encoding="utf-8") + text, encoding="utf-8")
        assert child(ADD, "", **path)[0] == "3.464\n"
        (folder,) = beside.glob("rngru-*")
        digests.append(folder.name)
    assert digests[0] != digests[1]


def test_several_processes_on_an_empty_cache(tmp_path):
    """They write the same files at the same time; nobody may read half of one."""
    cache = tmp_path / "cache"
    several = [
        subprocess.Popen(
            [sys.executable, "-c", ADD],
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | QUICKLY,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    assert [process.communicate()[0] for process in several] == ["3.464\n"] * 4
    assert not [path for path in kept(cache) if path.name.startswith(".")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_place_that_cannot_be_written_is_left_for_the_next(places, monkeypatch, number):
    """A disk that is full, or mounted read-only, in the middle of a first run."""
    real = os.replace

    def replace(source, target):
        if places[0] in Path(target).parents:
            raise OSError(number, os.strerror(number))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert compiling.write("name", b"data") and compiling.read("name") == b"data"
    assert not kept(places[0]) and len(kept(places[1])) == 1


def test_nowhere_at_all_is_told_once(places, monkeypatch):
    """Numba refuses to compile there. One notice, at the caller's line, and everything works."""
    places[:] = [Path(os.devnull) / "one", Path(os.devnull) / "two"]
    with pytest.warns(UserWarning, match="Set NUMBA_CACHE_DIR") as told:
        assert not compiling.write("name", b"data")
        assert not compiling.write("other", b"data")
    assert len(told) == 1 and compiling.read("name") is None

    @compiling.kernel()
    def double(x):
        return 2 * x

    assert double(21) == 42


@pytest.mark.skipif(os.name == "nt", reason="there temporary files are private")
def test_temporary_files_of_somebody_else_are_not_read(tmp_path, monkeypatch):
    """They are code: whoever may write there could run anything here."""
    monkeypatch.setattr(compiling.tempfile, "gettempdir", lambda: str(tmp_path))
    private = compiling._private()
    assert private in compiling._places()
    assert not private.stat().st_mode & 0o077
    private.chmod(0o777)
    assert private not in compiling._places()
    private.rmdir()
    (tmp_path / "elsewhere").mkdir()
    private.symlink_to(tmp_path / "elsewhere")
    assert private not in compiling._places()


@pytest.mark.parametrize("threads", [1, 2])
def test_everything_is_prepared_by_one_process_or_two(tmp_path, threads):
    """A kernel left out would be compiled in the middle of the first run, in silence."""
    code = (
        "from numba.core import event\n"
        "from rngru.kernels.preparing import prepare, prepare_sampler\n"
        "def late(record):\n"
        "    return sorted({{e.data['dispatcher'].py_func.__qualname__ for _, e in record.buffer}})\n"
        "prepare()\n"
        "with event.install_recorder('numba:compile') as record:\n"
        "    from rngru import ModelState, Texts\n"
        "    ms = ModelState.initfromsrcfile(Texts(['the ship sails ' * 99]), {work!r}, state_size=8,\n"
        "        rng=1, report='silent', seq_len=5, optimizer='adamw', cautious=True)\n"
        "    ms.trainmodel(train_len=1, report='silent')\n"
        "print(late(record))\n"
        "prepare_sampler()\n"
        "with event.install_recorder('numba:compile') as record:\n"
        "    ms.generatestring(5)\n"
        "print(late(record))"
    ).format(work=str(tmp_path / "work"))
    assert child(code, tmp_path / "cache", RNGRU_THREADS=str(threads))[0] == "[]\n[]\n"


def test_a_process_that_ends_ends_the_one_that_compiles_for_it(tmp_path):
    code = (
        "from rngru.kernels import preparing\npreparing._begin()\nprint(preparing._others[0].pid)"
    )
    printed = child(code, tmp_path / "cache", RNGRU_THREADS="2")[0]
    with pytest.raises(ProcessLookupError):
        os.kill(int(printed), 0)


# ------------------------------------------------------------------------- other processors

STEP = """
import hashlib, sys
import numpy as np
from rngru.backends.cpu import CPU
from rngru.backends import freshcaches
from rngru.hyper import HyperParams
from rngru.kernels import compiling
from rngru.kernels.target import TARGET
from rngru.models import MODELS
compiling.write("prepared", b"")  # only what a step needs
digest = hashlib.sha256()
for name in ("GRUEncode", "LSTMEncode", "RNNResize"):
    hyper = HyperParams(9, state_size=21, layers=2)
    backend, rng = CPU(MODELS[name], hyper), np.random.default_rng(1)
    arrays = MODELS[name].initial(hyper, rng)
    caches = freshcaches(arrays, hyper)
    for _ in range(3):
        ids = rng.integers(0, 9, (8, 7)).astype(np.int32)
        done = backend.step(arrays, caches, ids[:-1], ids[1:].copy(), backend.freshstate(7), 0.01)
        arrays, caches = done.arrays, done.caches
    for array in arrays.values():
        digest.update(array.tobytes())
print(TARGET, digest.hexdigest())
"""


def started_for(cache: Path, processor: str) -> subprocess.Popen:
    """Train for another processor; prints what was compiled for, and a digest of all parameters."""
    names = {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": "", "RNGRU_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", STEP], env=os.environ | {"NUMBA_CACHE_DIR": str(cache)} | names,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(
    TARGET.name not in ("AVX-512", "AVX"), reason="these are x86 processors with AVX2"
)
def test_bits_depend_on_whether_multiply_adds_are_fused_and_on_nothing_else(tmp_path, long):
    """A run that moves to another machine goes on to the bit, or says so: `Target.rounding`."""
    processors = ["haswell", *(["core2", "sandybridge", "generic"] if long else [])]
    started = [started_for(tmp_path, processor) for processor in processors]
    here = subprocess.run(
        [sys.executable, "-c", STEP], env=os.environ | {"RNGRU_THREADS": "2"},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    own = here.stdout.split()[-1]
    found = dict(process.communicate(timeout=300)[0].rsplit(maxsplit=1) for process in started)
    assert found["AVX with FMA"] == own
    if long:
        assert found["AVX without FMA"] == found["SSE2 without FMA"] != own
