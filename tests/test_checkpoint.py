"""No crash, full disk, damage or malice loses a checkpoint or has a wrong one loaded.

The references are independent of the package: the arrays themselves, numpy.load, files put
together by hand, a process that is really killed, the kernel's own refusals, and a model of a disk
that forgets what was not synced.
"""

import copy
import errno
import hashlib
import io
import itertools
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rngru
from rngru import checkpoint, disk
from rngru.checkpoint import encoding
from rngru.errors import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointTooNew,
    InputError,
    NoModelError,
    WorkdirError,
)

HERE = Path(__file__).parent
SAVER = HERE / "crash" / "saver.py"
GOLDEN = HERE / "golden"
ARRAYS, META, MANIFEST = "arrays.npz", "meta.json", "MANIFEST.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def example(serial: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(serial)
    return {
        "E": rng.standard_normal((40, 16)).astype("float32"),
        "layers.0.W": np.asfortranarray(rng.standard_normal((16, 48)).astype("float32")),
        "ids": rng.integers(0, 200, 99).astype("uint8"),
        "serial": np.array(serial),
    }


def saveserial(folder: Path, step: int, serial: int, **more: object) -> checkpoint.Checkpoint:
    meta = {
        "serial": serial,
        "chars": "\ufffd\n abcß€😀",
        "rng": {"state": 2**127 + 1, "inc": [1, 2]},
    }
    return checkpoint.save(folder, step, example(serial), meta, **more)  # type: ignore[arg-type]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(
        (x.dtype.str, x.shape, x.tobytes(), x.flags.f_contiguous)
        == (y.dtype.str, y.shape, y.tobytes(), y.flags.f_contiguous)
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def serialof(folder: Path) -> int:
    """The serial number of the newest checkpoint, wholly verified."""
    _, arrays, meta = checkpoint.newest(folder)
    assert same(arrays, example(meta["serial"]))
    return meta["serial"]


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


# ---- What is loaded is what was saved ----

SHAPES: list[np.ndarray] = [
    np.array(1.5, "float32"),
    np.zeros((0, 3), "float32"),
    np.zeros((2, 0), order="F"),
    np.arange(24).reshape(2, 3, 4)[:, ::2, ::-1],
    np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    np.arange(6, dtype=">i4"),
    np.array([1.5, -0.0, np.nan, np.inf, 1e-45], ">f4"),
    np.array([0x7FC00001, 0xFF800000], "uint32").view("float32"),
    np.arange(10)[::-3],
    np.broadcast_to(np.float32(7), (3, 2)),
    np.array([[True, False]]),
    np.full(9000, 0x02014B50, "<i4"),  # looks like the directory of a zip file
    np.array([1 + 2j, complex(0, np.inf)], "complex64"),
    np.arange(3, dtype="float16"),
    np.array([np.iinfo("int64").min, np.iinfo("int64").max]),
    np.array([255], "uint8"),
    np.zeros((1,) * 8),
]


def test_roundtrip_keeps_every_bit_shape_dtype_and_order(folder: Path) -> None:
    """Catches lost NaN payloads, scrambled strided arrays, byte orders and orders of memory."""
    arrays = {f"a.{index}": array for index, array in enumerate(SHAPES)}
    loaded, _ = checkpoint.load(checkpoint.save(folder, 1, arrays, {}))
    for name, array in arrays.items():
        got = loaded[name]
        assert (got.dtype.str, got.shape) == (array.dtype.str, array.shape), name
        assert got.tobytes() == array.tobytes(), name
        assert got.flags.f_contiguous or not array.flags.f_contiguous, name
        assert got.flags.writeable and got.flags.aligned and got.flags.owndata, name
    with np.load(folder / "1" / ARRAYS, allow_pickle=False) as reference:
        assert all(reference[name].tobytes() == array.tobytes() for name, array in arrays.items())


def test_loaded_arrays_are_their_own(folder: Path) -> None:
    """Catches arrays that are views of the file's bytes, or of the caller's arrays."""
    arrays = {"b": np.zeros(3)}
    one = checkpoint.save(folder, 1, arrays, {})
    arrays["b"] += 1
    first, second = checkpoint.load(one)[0]["b"], checkpoint.load(one)[0]["b"]
    first += 2
    assert second.tolist() == [0, 0, 0]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(), part, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50)
@given(st.dictionaries(st.text(), PLAIN, max_size=4))
def test_metadata_comes_back_equal(meta: dict) -> None:
    """Catches text that JSON escapes wrongly, floats that lose digits, integers beyond 64 bits."""
    back = encoding.decodejson(encoding.encodejson(meta))
    assert back == meta and repr(back) == repr(meta)


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        ({"loss": float("nan")}, "meta['loss'] is nan"),
        ({"a": [{"b": float("inf")}]}, "meta['a'][0]['b'] is inf"),
        ({"a": (1, 2)}, "meta['a'] is a tuple"),
        ({"a": np.float32(1)}, "meta['a'] is a float32"),
        ({"a": {1: 2}}, "has the key 1"),
        ({"a": b"x"}, "is a bytes"),
        ({"a": "\ud800"}, "surrogates"),
        ({"a": "x" * 5_000_000}, "too large"),
        ({"summary": [1]}, "flat dict"),
        ({"summary": {"validloss": "low"}}, "must be a number"),
        ({"summary": {"epoch": 10**400}}, "too large"),
    ],
)
def test_metadata_that_would_not_come_back_is_refused(folder: Path, meta: dict, told: str) -> None:
    """Catches tuples that return as lists, NaN that makes invalid JSON, and saving unloadables."""
    with pytest.raises(InputError, match=re.escape(told)):
        checkpoint.save(folder, 1, {}, meta)
    assert not folder.exists()


@pytest.mark.parametrize(
    "arrays",
    [
        {"a": np.array([None, {}])},
        {"a": np.array(["text"])},
        {"a": np.zeros(2, "datetime64[s]")},
        {"a": np.zeros(2, [("x", "f4")])},
        {"../a": np.zeros(2)},
        {"/etc/a": np.zeros(2)},
        {"": np.zeros(2)},
        {"a\0": np.zeros(2)},
        {"a" * 300: np.zeros(2)},
        {f"a{index}": np.zeros(0) for index in range(5000)},
    ],
)
def test_arrays_that_cannot_be_kept_are_refused(folder: Path, arrays: dict) -> None:
    """Catches object arrays on their way to a pickle, and names that leave the folder."""
    with pytest.raises(InputError):
        checkpoint.save(folder, 1, arrays, {})
    assert not folder.exists()


@pytest.mark.parametrize("step", [-1, 1.5, "7", "../7", True, None, 10**18])
def test_steps_are_whole_numbers(folder: Path, step: object) -> None:
    """Catches a step that becomes a path."""
    with pytest.raises(InputError, match="whole number"):
        checkpoint.save(folder, step, {}, {})  # type: ignore[arg-type]
    assert not folder.parent.joinpath("7").exists() and not folder.exists()


# ---- The folder ----


def test_newest_is_by_number_and_a_step_can_be_saved_again(folder: Path) -> None:
    """Catches '999' sorting behind '1000', and a replacement that keeps the old contents."""
    for serial, step in enumerate([999, 1000, 9, np.int64(1000)]):
        saveserial(folder, step, serial)
    found, _, meta = checkpoint.newest(folder)
    assert (found.step, found.path, meta["serial"]) == (1000, folder / "1000", 3)
    assert [one.step for one in checkpoint.listing(folder)] == [9, 999, 1000]
    assert leftovers(folder) == []


def test_records_and_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a mark on the wrong row, a naive date, and a repr of several lines."""
    losses = [None, 2.5, 2.25, 2.75]
    for step, loss in enumerate(losses):
        summary = {"epoch": step / 4, "position": 100 * step, "validloss": loss, "note": "x"}
        one = checkpoint.save(folder, step, {}, {"summary": summary})
    assert one == checkpoint.listing(folder)[3] == checkpoint.newest(folder)[0]
    assert (one.epoch, one.position, one.trainloss, one.validloss) == (0.75, 300, None, 2.75)
    assert one.summary["note"] == "x" and os.fspath(one) == str(folder / "3")
    assert isinstance(one.saved, datetime) and one.saved.tzinfo is not None
    assert abs(one.saved.timestamp() - time.time()) < 60
    assert re.fullmatch(
        r"<checkpoint 3: epoch 0\.75, valid loss 2\.750, saved [-0-9: ]+>", repr(one)
    )
    (folder / "1" / META).write_bytes(b"{}")
    known = checkpoint.listing(folder)
    assert known.best == known[2] and [one.step for one in known.intact] == [0, 2, 3]
    assert "meta.json has 2 bytes" in repr(known)  # what is wrong is shown, however narrow
    monkeypatch.setenv("COLUMNS", "120")
    lines = repr(known).splitlines()
    assert lines[0] == "step  epoch  train loss  valid loss             saved"
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3"]
    assert re.search(r"  is damaged: meta\.json has 2 bytes instead of \d+\.$", lines[2])
    assert lines[3].endswith("best") and not lines[4].endswith("best")
    assert repr(checkpoint.listing(folder / "none")) == "no checkpoints"


def test_prune_never_removes_the_newest_the_best_or_the_one_just_saved(folder: Path) -> None:
    """Catches pruning by the order of names, and losing the best model of a run."""
    for step in (8, 9, 10, 11, 12):
        loss = 1.0 if step == 9 else 2.0
        checkpoint.save(folder, step, {}, {"summary": {"validloss": loss}})
    assert checkpoint.prune(folder, 1) == [8, 10, 11]
    assert [one.step for one in checkpoint.listing(folder)] == [9, 12]
    checkpoint.save(folder, 3, {}, {}, keep=1)
    assert [one.step for one in checkpoint.listing(folder)] == [3, 9, 12]
    (folder / "12" / META).write_bytes(b"")
    assert checkpoint.prune(folder, 1) == [3]
    assert leftovers(folder) == []
    with pytest.raises(InputError, match="keep=0"):
        checkpoint.save(folder, 13, {}, {}, keep=0)
    assert not (folder / "13").exists()


def test_damaged_newest_gives_the_one_before_with_a_warning(folder: Path) -> None:
    """Catches a run lost to one bad sector, and a silent step back."""
    with pytest.raises(NoModelError, match="holds no checkpoint"):
        checkpoint.newest(folder)
    for step in (1, 2, 3):
        saveserial(folder, step, step)
    (folder / "3" / MANIFEST).unlink()
    with open(folder / "2" / ARRAYS, "r+b") as file:
        file.seek(700)
        file.write(b"\xff\x00\xff")
    with pytest.warns(UserWarning) as said:
        assert checkpoint.newest(folder)[0].step == 1
    assert [str(warning.message) for warning in said] == [
        f"The checkpoint {folder}/3 is damaged: MANIFEST.json is missing. "
        "Checkpoint 1 is used instead.",
        f"The checkpoint {folder}/2 is damaged: arrays.npz is not what was saved (its SHA-256 "
        "differs). Checkpoint 1 is used instead.",
    ]
    shutil.rmtree(folder / "1")
    with pytest.raises(CheckpointDamaged, match="No checkpoint can be used"):
        checkpoint.newest(folder)
    with pytest.raises(CheckpointError, match="is not there"):
        checkpoint.load(folder / "1")


def test_a_checkpoint_under_another_number_is_not_believed(folder: Path) -> None:
    """Catches an old checkpoint, renamed or copied, that passes for the newest."""
    saveserial(folder, 5, 5)
    shutil.copytree(folder / "5", folder / "900")
    (folder / "901").symlink_to("5")
    with pytest.warns(UserWarning, match="belongs to step 5|symbolic link"):
        assert checkpoint.newest(folder)[0].step == 5
    assert [one.problem != "" for one in checkpoint.listing(folder)] == [False, True, True]
    assert checkpoint.load(folder / "900")[1]["serial"] == 5


def test_newer_format_is_refused_with_the_version_needed(folder: Path) -> None:
    """Catches a downgrade that goes on from an older checkpoint, or removes the newer ones."""
    saveserial(folder, 1, 1)
    saveserial(folder, 2, 2)
    reseal(folder / "2", format=2, needs="0.7")
    for read in (lambda: checkpoint.newest(folder), lambda: checkpoint.load(folder / "2")):
        with pytest.raises(CheckpointTooNew, match=r"format 2.*'0\.7' or later"):
            read()
    assert checkpoint.listing(folder)[1].problem.startswith("has format 2, but this rngru knows")
    assert checkpoint.prune(folder, 1) == []


def test_golden_checkpoints_of_every_format_load() -> None:
    """Catches a change of the format that forgets the files people have."""
    found = sorted(GOLDEN.glob("checkpoint-format*"))
    assert len(found) == checkpoint.FORMAT
    for path in found:
        arrays, meta = checkpoint.load(path)
        assert same(arrays, goldenarrays())
        assert meta == {"chars": "\ufffd\nß😀", "rng": 2**127 + 1, "summary": {"validloss": 1.75}}


def goldenarrays() -> dict[str, np.ndarray]:
    return {
        "E": (np.arange(12, dtype="float32") / 8).reshape(4, 3),
        "layers.0.W": np.asfortranarray((np.arange(6) - 3.5).reshape(2, 3)),
        "done": np.array(True),
        "empty": np.zeros((0, 2), ">i2"),
    }


def test_old_checkpoints_that_stay_do_not_undo_the_save(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a save that is reported as failed though it is on the disk."""
    saveserial(folder, 1, 1)

    def refuse(*_: object) -> None:
        raise CheckpointError("Old checkpoints could not be removed.")

    monkeypatch.setattr(checkpoint, "discard", refuse)
    with pytest.warns(UserWarning, match="Checkpoint 2 is saved, but: Old checkpoints could not"):
        assert saveserial(folder, 2, 2, keep=1).step == 2
    assert serialof(folder) == 2


# ---- Where nothing can be written ----


def test_refusals_name_place_size_and_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a bare OSError, and a folder that stays broken after the disk was full."""
    saveserial(folder, 1, 1)
    good, full = os.fsync, iter([0, errno.ENOSPC])

    def fsync(descriptor: int) -> None:
        if code := next(full, 0):
            raise OSError(code, os.strerror(code))
        good(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError) as said:
        saveserial(folder, 2, 2)
    assert re.fullmatch(
        rf"Checkpoint 2 could not be saved in {folder}: No space left on device\. It needs "
        r"0\.\d+ MB; [\d,.]+ MB are free\. Free some space and save again; .* is intact\.",
        str(said.value),
    )
    assert isinstance(said.value.__cause__, OSError) and leftovers(folder) == []
    assert serialof(folder) == 1
    saveserial(folder, 2, 2)
    assert serialof(folder) == 2


def test_removed_replaced_and_unwritable_folders(folder: Path, tmp_path: Path) -> None:
    """Catches writing through a link to elsewhere, and recreating a tree the user removed."""
    saveserial(folder, 1, 1)
    shutil.rmtree(folder)
    saveserial(folder, 2, 2)
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    for use in (checkpoint.listing, checkpoint.newest, lambda f: saveserial(f, 3, 3)):
        with pytest.raises(CheckpointError, match="symbolic link"):
            use(folder)
    assert os.listdir(elsewhere) == ["2"]
    folder.unlink()
    folder.write_text("a file")
    for use in (checkpoint.listing, lambda f: saveserial(f, 3, 3)):
        with pytest.raises(CheckpointError, match=re.escape(str(folder))):
            use(folder)
    with pytest.raises(CheckpointError, match="removed or renamed"):
        saveserial(tmp_path / "gone" / "checkpoints", 3, 3)
    assert not (tmp_path / "gone").exists()
    with pytest.raises(CheckpointError, match="name too long"):
        saveserial(tmp_path / ("x" * 300), 3, 3)
    with pytest.raises(InputError, match="NUL"):
        saveserial(Path("a\0b"), 3, 3)
    odd = tmp_path / os.fsdecode(b"not utf-8 \xff")
    saveserial(odd, 3, 3)
    assert serialof(odd) == 3


def test_read_only_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a traceback from the system where the user has to choose another directory."""
    saveserial(folder, 1, 1)

    def mkdir(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", mkdir)
    with pytest.raises(CheckpointError, match="file system is read-only: use another"):
        saveserial(folder, 2, 2)
    assert serialof(folder) == 1


def test_links_in_the_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """Catches a cleaning that empties somebody's directory through a link."""
    precious = tmp_path / "precious"
    saveserial(precious, 4, 4)
    saveserial(folder, 1, 1)
    for name in (".tmp-2", ".old-1", "2"):
        (folder / name).symlink_to(precious)
    saveserial(folder, 2, 2)
    assert serialof(precious) == 4 and serialof(folder) == 2
    assert sorted(os.listdir(folder)) == ["1", "2"]


def test_writeatomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches half a file after a refusal, leftovers, and a link that is followed."""
    path = tmp_path / "history.jsonl"
    disk.writeatomic(path, b"old")
    with monkeypatch.context() as patch:

        def refuse(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        patch.setattr(os, "fsync", refuse)
        with pytest.raises(
            WorkdirError, match=r"history\.jsonl could not be written in .*0\.000 MB"
        ):
            disk.writeatomic(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["history.jsonl"]
    disk.writeatomic(path, b"new")
    assert path.read_bytes() == b"new"
    (tmp_path / "link").symlink_to(path)
    disk.writeatomic(tmp_path / "link", b"other")
    assert path.read_bytes() == b"new" and not (tmp_path / "link").is_symlink()


# ---- Damage and malice ----


def reseal(path: Path, **changes: object) -> None:
    """Write a manifest that vouches for whatever the files hold, as an enemy would."""
    entries = {
        name: {
            "size": (path / name).stat().st_size,
            "sha256": hashlib.sha256((path / name).read_bytes()).hexdigest(),
        }
        for name in (ARRAYS, META)
    }
    manifest: dict = {"format": 1, "needs": "0.1", "files": entries, **changes}
    check = hashlib.sha256(json.dumps(manifest, indent=1).encode()).hexdigest()
    (path / MANIFEST).write_text(json.dumps({**manifest, "check": check}, indent=1))


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, lengthen, zero, swap or repeat blocks."""
    spoilt = bytearray(data)
    size = rng.choice([1, 16, 512])
    at, to = rng.randrange(len(data)), rng.randrange(len(data))
    kind = rng.randrange(7)
    if kind <= 1:
        for _ in range(rng.choice([1, 1, 8])):
            spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del spoilt[at:]
    elif kind == 3:
        spoilt += rng.randbytes(size)
    elif kind == 4:
        spoilt[at : at + size] = bytes(len(spoilt[at : at + size]))
    elif kind == 5:
        block = spoilt[at : at + size]
        spoilt[at : at + size] = spoilt[to : to + size]
        spoilt[to : to + size] = block
    else:
        spoilt[at:at] = spoilt[to : to + size]
    return bytes(spoilt)


def test_no_damage_is_ever_loaded(folder: Path, long: bool) -> None:
    """Catches wrong numbers that load silently, hangs, and exceptions of other types."""
    one = saveserial(folder, 1, 1)
    good = {name: (one.path / name).read_bytes() for name in (ARRAYS, META, MANIFEST)}
    arrays, meta = checkpoint.load(one)
    rng = random.Random(20)
    cases = 10_000 if long else 300
    harmless = 0
    for case in range(cases):
        name = rng.choice([ARRAYS, ARRAYS, META, MANIFEST])
        resealed = case % 3 == 0 and name != MANIFEST
        spoilt = mutate(good[name], rng)
        (one.path / name).write_bytes(spoilt)
        if resealed:
            reseal(one.path)
        start = time.perf_counter()
        try:
            got = checkpoint.load(one)
        except CheckpointDamaged as problem:
            assert spoilt != good[name] and str(one.path) in str(problem)
        else:
            # Who can write a manifest can write other numbers, too; nobody else can.
            assert resealed or (same(got[0], arrays) and got[1] == meta)
            harmless += not resealed
        for file in {name, MANIFEST} if resealed else {name}:
            (one.path / file).write_bytes(good[file])
        assert time.perf_counter() - start < 2
    assert harmless < cases / 20


def npy(header: bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + body


def header(shape: str, dtype: str = "'<f4'") -> bytes:
    return f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def doubled() -> bytes:
    """Two members of one name: the second renamed afterwards in both of its headers."""
    return zipped(
        ("a.npy", npy(header("()"), b"1234")), ("b.npy", npy(header("()"), b"5678"))
    ).replace(b"b.npy", b"a.npy")


def overlapping(count: int) -> bytes:
    """A directory that lists one member of a megabyte ``count`` times."""
    data = zipped(("a.npy", npy(header("(250000,)"), bytes(1_000_000))))
    start = data.rindex(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    entries = [data[start:end].replace(b"a.npy", b"%05d" % index) for index in range(count)]
    directory = b"".join(entry.replace(b"%05d" % 0, b"0.npy") for entry in entries)
    tail = struct.pack("<HHHHIIH", 0, 0, count & 65535, count & 65535, len(directory), start, 0)
    return data[:start] + directory + b"PK\x05\x06" + tail


def objects() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, a=np.array([{}, None]))
    return buffer.getvalue()


class Touch:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ.get("RNGRU_TRACE", "/nonexistent/trace"),))


def flagged() -> bytes:
    data = bytearray(zipped(("a.npy", npy(header("()"), b"1234"))))
    data[data.index(b"PK\x01\x02") + 8] |= 1  # says that the member is encrypted
    return bytes(data)


HOSTILE_ARRAYS: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: zipped(
        ("a.npy", npy(header("(30000000,)"), bytes(120_000_000))), method=zipfile.ZIP_DEFLATED
    ),
    "overlapping members": lambda: overlapping(2000),
    "many entries": lambda: overlapping(60_000),
    "two of one name": doubled,
    "object array": objects,
    "pickle": lambda: pickle.dumps(Touch()),
    "pickle as a member": lambda: zipped(("a.npy", pickle.dumps(Touch()))),
    "pickle after a header": lambda: zipped(
        ("a.npy", npy(header("(1,)", "'|O'"), pickle.dumps(Touch())))
    ),
    "huge shape": lambda: zipped(("a.npy", npy(header("(99999999999999,)"), b"1234"))),
    "overflowing shape": lambda: zipped(("a.npy", npy(header("(4294967296, 4294967296)"), b""))),
    "huge empty shape": lambda: zipped(
        ("a.npy", npy(header("(0, 999999999999999999, 999999999999999999)"), b""))
    ),
    "many dimensions": lambda: zipped(("a.npy", npy(header("(" + "1, " * 100 + ")"), b"1234"))),
    "negative shape": lambda: zipped(("a.npy", npy(header("(-1,)"), b"1234"))),
    "long digits": lambda: zipped(("a.npy", npy(header("(" + "9" * 5000 + ",)"), b"1234"))),
    "members beyond the sizes": lambda: zipped(("a.npy", npy(header("(1,)"), b"12345678"))),
    "members below the sizes": lambda: zipped(("a.npy", npy(header("(2,)"), b"1234"))),
    "code for a header": lambda: zipped(("a.npy", npy(b"__import__('os').getpid()\n"))),
    "nested header": lambda: zipped(("a.npy", npy(b"(" * 9000 + b"\n"))),
    "dtype of fields": lambda: zipped(("a.npy", npy(header("(1,)", "[('x', '<f4')]"), b"1234"))),
    "dtype of another size": lambda: zipped(("a.npy", npy(header("(1,)", "'<f3'"), b"123"))),
    "booleans that are not": lambda: zipped(("a.npy", npy(header("(2,)", "'|b1'"), b"\x01\x07"))),
    "wrong version": lambda: zipped(("a.npy", npy(header("(1,)"), b"1234", b"\x09\x00"))),
    "path for a name": lambda: zipped(("../a.npy", npy(header("()"), b"1234"))),
    "no npy": lambda: zipped(("a.txt", b"hello")),
    "encrypted": flagged,
    "no zip": lambda: b"hello",
    "empty": lambda: b"",
    "directory cut": lambda: zipped(("a.npy", npy(header("()"), b"1234")))[:-30],
    "trailing comment": lambda: zipped() + b"PK\x05\x06" + b"\xff" * 18,
}

META_JSON = '{"format": 1, "step": 1, "saved": "2026-01-01T00:00:00+00:00", "meta": %s}'
HOSTILE_META: dict[str, bytes] = {
    "NaN": (META_JSON % '{"a": NaN}').encode(),
    "Infinity": (META_JSON % '{"a": -Infinity}').encode(),
    "overflow": (META_JSON % '{"a": 1e400}').encode(),
    "nested lists": (META_JSON % ('{"a": ' + "[" * 100_000)).encode(),
    "closed nested lists": (META_JSON % ('{"a": ' + "[" * 500 + "]" * 500 + "}")).encode(),
    "nested dicts": (META_JSON % ('{"a":' * 90_000 + "1" + "}" * 90_000)).encode(),
    "many lists": (META_JSON % ('{"a": [' + "[]," * 1_300_000 + "[]]}")).encode(),
    "a key twice": (META_JSON % '{"a": 1, "a": 2}').encode(),
    "a list": b"[1, 2]",
    "a number": b"1",
    "long digits": (META_JSON % ('{"a": ' + "9" * 100_000 + "}")).encode(),
    "long summary number": (META_JSON % ('{"summary": {"epoch": ' + "9" * 4000 + "}}")).encode(),
    "not UTF-8": (META_JSON % '{"a": "x"}').encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + (META_JSON % "{}").encode(),
    "too large": (META_JSON % ('{"a": "' + "x" * 5_000_000 + '"}')).encode(),
    "meta is a list": (META_JSON % "[]").encode(),
    "summary is a list": (META_JSON % '{"summary": [1]}').encode(),
    "summary nested": (META_JSON % '{"summary": {"a": {}}}').encode(),
    "loss is text": (META_JSON % '{"summary": {"validloss": "x"}}').encode(),
    "no date": b'{"format": 1, "step": 1, "meta": {}}',
    "impossible date": (META_JSON % "{}").replace("2026", "9999-99").encode(),
    "last date": (META_JSON % "{}")
    .replace("2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:00")
    .encode(),
    "negative step": (META_JSON % "{}").replace('"step": 1', '"step": -1').encode(),
    "step is text": (META_JSON % "{}").replace('"step": 1', '"step": "1"').encode(),
    "empty": b"",
    "zeros": bytes(500),
}


def assertrefused(folder: Path, size: int) -> None:
    """One exception type, in time, in memory; and the checkpoint before it is used instead."""
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(CheckpointDamaged):
        checkpoint.load(folder / "1")
    assert time.perf_counter() - start < 2
    assert tracemalloc.get_traced_memory()[1] < 2 * size + 100e6
    tracemalloc.stop()
    checkpoint.listing(folder).__repr__()
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.newest(folder)[0].step == 0


@pytest.mark.parametrize("case", HOSTILE_ARRAYS)
def test_hostile_arrays(
    folder: Path, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches code that a file can run, and memory or time that a small file can take."""
    monkeypatch.setenv("RNGRU_TRACE", str(tmp_path / "trace"))
    saveserial(folder, 0, 0)
    path = saveserial(folder, 1, 1).path
    (path / ARRAYS).write_bytes(HOSTILE_ARRAYS[case]())
    reseal(path)
    assertrefused(folder, (path / ARRAYS).stat().st_size)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("case", HOSTILE_META)
def test_hostile_metadata(folder: Path, case: str) -> None:
    """Catches numbers that are none, keys that hide others, and texts that exhaust the parser."""
    saveserial(folder, 0, 0)
    path = saveserial(folder, 1, 1).path
    (path / META).write_bytes(HOSTILE_META[case])
    reseal(path)
    assertrefused(folder, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {}},
        {"files": []},
        {"files": {ARRAYS: {"size": 1e3}, META: 3}},
        {"files": {ARRAYS: {"size": -1, "sha256": ""}, META: {"size": -1, "sha256": ""}}},
        {"files": {"../x": {"size": 1, "sha256": ""}}},
        {"format": "1"},
        {"format": 0},
        {"format": True},
        {"format": 1.5},
        {"format": None},
    ],
    ids=str,
)
def test_hostile_manifest(folder: Path, changes: dict) -> None:
    """Catches a manifest that is trusted because its own sum is right."""
    saveserial(folder, 0, 0)
    reseal(saveserial(folder, 1, 1).path, **changes)
    assertrefused(folder, 0)


@pytest.mark.parametrize("name", [ARRAYS, META, MANIFEST])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "missing"])
def test_files_that_are_none(folder: Path, name: str, kind: str, tmp_path: Path) -> None:
    """Catches reading outside the folder, and waiting for ever at a pipe."""
    saveserial(folder, 0, 0)
    path = saveserial(folder, 1, 1).path / name
    path.rename(tmp_path / "good")
    if kind == "link":
        path.symlink_to(tmp_path / "good")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    assertrefused(folder, 0)


def test_package_has_no_code_from_files() -> None:
    """Catches anything that could turn bytes into code."""
    for path in Path(rngru.__path__[0]).glob("checkpoint/*.py"):
        found = re.findall(r"import pickle|\b(?:eval|exec)\(|allow_pickle=True", path.read_text())
        assert found == [], path


def test_loading_takes_twice_the_file_at_most(folder: Path) -> None:
    """Catches a third copy, which is what makes a large model unloadable."""
    one = checkpoint.save(folder, 1, {"W": np.zeros((25, 1_000_000), "float32")}, {})
    tracemalloc.start()
    checkpoint.load(one)
    assert tracemalloc.get_traced_memory()[1] < 2.1 * 100e6
    tracemalloc.stop()


# ---- Kills, refusals of the kernel, loss of power ----


def saver(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(SAVER), *map(str, arguments)]


def environment() -> dict[str, str]:
    root = str(Path(rngru.__path__[0]).parent)
    return {
        **os.environ,
        "PYTHONPATH": root,
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def childserial(folder: Path) -> int:
    """The serial number of the newest checkpoint that crash/saver.py saved."""
    _, arrays, meta = checkpoint.newest(folder)
    assert (arrays["w"] == meta["serial"]).all() and arrays["n"] == meta["serial"]
    return meta["serial"]


def acknowledged(output: str) -> int:
    """The last serial number in complete lines; 0 if there is none."""
    return max(map(int, re.findall(r"^saved (\d+)\n", output, re.MULTILINE)), default=0)


def test_killed_while_saving(folder: Path, long: bool) -> None:
    """Catches an acknowledged save that a kill undoes, and a folder that it leaves unloadable."""
    rng = random.Random(30)
    for _ in range(200 if long else 5):
        shutil.rmtree(folder, ignore_errors=True)
        with subprocess.Popen(
            saver("loop", folder), stdout=subprocess.PIPE, text=True, env=environment()
        ) as child:
            assert child.stdout is not None
            first = child.stdout.readline()
            time.sleep(rng.uniform(0, 0.2))
            child.send_signal(signal.SIGKILL)
            output = first + child.stdout.read()
        last = acknowledged(output)
        assert last >= 1 and childserial(folder) in (last, last + 1)
        saveserial(folder, 10**6, 7)
        assert leftovers(folder) == []


def test_reading_while_another_process_writes(folder: Path, long: bool) -> None:
    """Catches a reader that takes a replacement or a removal for damage, or falls behind."""
    with subprocess.Popen(
        saver("loop", folder), stdout=subprocess.PIPE, text=True, env=environment()
    ) as child:
        assert child.stdout is not None
        known = acknowledged(child.stdout.readline())
        end = time.monotonic() + (20 if long else 0.5)
        while time.monotonic() < end:
            serial = childserial(folder)
            assert serial >= known >= 1
            known = serial
        child.kill()


def start(folder: Path) -> None:
    """Two checkpoints, as crash/saver.py would have saved them."""
    shutil.rmtree(folder, ignore_errors=True)
    for serial in (1, 2):
        arrays = {"w": np.full(3000, serial, "float32"), "n": np.array(serial)}
        checkpoint.save(folder, serial, arrays, {"serial": serial})


CALLS = ("write", "fsync", "rename", "mkdir", "unlink", "unlinkat", "rmdir")


def traced(folder: Path, step: int, *inject: str) -> tuple[str, str]:
    """Run crash/saver.py once under strace; return its output and the log."""
    log = folder.parent / "strace.log"
    names = [f"?{name}" for name in (*CALLS, "renameat", "renameat2", "mkdirat")]
    watch = ["-y", "-o", str(log), "-e", "trace=" + ",".join(names), *inject]
    done = subprocess.run(
        ["strace", *watch, *saver("once", folder, str(step))],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )
    assert done.returncode == 0 or "SIGKILL" in log.read_text(), done.stderr
    return done.stdout, log.read_text()


def instants(folder: Path, step: int) -> list[tuple[str, int]]:
    """Every system call of one save that changes the folder: its name, and its count so far."""
    start(folder)
    counts: dict[str, int] = {}
    found = []
    for line in traced(folder, step)[1].splitlines():
        name = line.partition("(")[0]
        counts[name] = counts.get(name, 0) + 1
        if str(folder) in line:
            found.append((name, counts[name]))
    assert {name for name, _ in found} >= {"write", "fsync"}
    return found


def canstrace() -> bool:
    if shutil.which("strace") is None:
        return False
    probe = ["strace", "-o", os.devnull, "-e", "inject=fsync:error=EIO:when=1", "true"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not canstrace(), reason="strace is missing, or may not trace here")
@pytest.mark.parametrize("step", [3, 2], ids=["new step", "same step"])
def test_killed_or_refused_at_every_system_call(folder: Path, step: int, long: bool) -> None:
    """Catches the one instant at which neither the old nor the new checkpoint is there."""
    faults = ["signal=SIGKILL", "error=ENOSPC", "error=EIO", "error=EFBIG"]
    cases = list(itertools.product(instants(folder, step), faults))
    for (call, count), fault in cases if long else random.Random(step).sample(cases, 3):
        start(folder)
        output, _ = traced(folder, step, "-e", f"inject={call}:{fault}:when={count}")
        where = f"{fault} at {call} {count}: {output}"
        if "SIGKILL" in fault:
            assert childserial(folder) in (2, 3), where
            assert childserial(folder) >= acknowledged(output), where
        else:
            assert childserial(folder) == acknowledged(output) >= 3, where
            if refused := re.search(r"^refused (.*)", output):
                assert str(folder) in refused[1] and "MB are free" in refused[1], where
        saveserial(folder, 9, 9)
        assert leftovers(folder) == [] and serialof(folder) == 9, where


@pytest.mark.skipif(os.name != "posix", reason="limits on file sizes are POSIX's")
def test_limit_on_file_sizes(folder: Path) -> None:
    """Catches a death by SIGXFSZ, with a limit that the kernel itself imposes."""
    start(folder)
    run = subprocess.run(
        saver("once", folder, "3"),
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
    )
    assert "File too large" in run.stdout and "ulimit -f" in run.stdout
    assert childserial(folder) == 2 and leftovers(folder) == []


Operation = tuple[str, str, object]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Operation]]:
    """What the package asks of the disk, in order: (operation, path, argument)."""
    done: list[Operation] = []
    names: dict[int, str] = {}

    def watch(name: str) -> None:
        real = getattr(os, name)

        def call(path: Path, *arguments: object) -> object:
            result = real(path, *arguments)
            done.append((name, str(path), str(arguments[0]) if arguments else None))
            return result

        monkeypatch.setattr(os, name, call)

    for name in ("mkdir", "rename", "replace", "unlink", "rmdir"):
        watch(name)
    realopen, realfsync = os.open, os.fsync

    def openfd(path: Path, flags: int) -> int:
        descriptor = realopen(path, flags)
        names[descriptor] = str(path)
        return descriptor

    def fsync(descriptor: int) -> None:
        realfsync(descriptor)
        done.append(("fsync", names[descriptor], None))

    class Recorded(io.FileIO):
        def write(self, data: object) -> int:
            done.append(("write", str(self.name), bytes(data)))  # type: ignore[call-overload]
            return super().write(data)  # type: ignore[arg-type]

    def openfile(path: Path, mode: str) -> io.BufferedWriter:
        assert mode == "xb"
        raw = Recorded(path, "x")
        names[raw.fileno()] = str(path)
        done.append(("create", str(path), None))
        return io.BufferedWriter(raw)

    def rmtree(path: str, ignore_errors: bool) -> None:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)

    monkeypatch.setattr(os, "open", openfd)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(disk, "open", openfile, raising=False)
    monkeypatch.setattr(disk.shutil, "rmtree", rmtree)
    yield done


class File:
    """Contents as the programs see them, and as they are on the disk."""

    def __init__(self, data: bytes = b"") -> None:
        self.seen = self.durable = data


class Directory:
    """Names as they are on the disk, and what has been done to them since."""

    def __init__(self) -> None:
        self.durable: dict[str, File | Directory] = {}
        self.pending: list[dict[str, File | Directory | None]] = []

    def change(self, **names: "File | Directory | None") -> None:
        self.pending.append(names)

    def seen(self, chosen: "list[dict] | None" = None) -> "dict[str, File | Directory]":
        names: dict = dict(self.durable)
        for change in self.pending if chosen is None else chosen:
            names.update(change)
        return {name: node for name, node in names.items() if node is not None}


class Disk:
    """A disk that promises only what was synced: of all else, any part may be there or not."""

    def __init__(self, folder: Path) -> None:
        self.top = str(folder.parent)
        self.root = self.copy(folder.parent)

    def copy(self, path: Path) -> Directory:
        node = Directory()
        for entry in path.iterdir():
            node.durable[entry.name] = (
                self.copy(entry) if entry.is_dir() else File(entry.read_bytes())
            )
        return node

    def find(self, path: str) -> "File | Directory":
        node: File | Directory = self.root
        for part in Path(path).relative_to(self.top).parts:
            assert isinstance(node, Directory)
            node = node.seen()[part]
        return node

    def apply(self, operation: Operation) -> None:
        name, path, argument = operation
        parent, last = self.find(os.path.dirname(path)), os.path.basename(path)
        assert isinstance(parent, Directory)
        if name in ("mkdir", "create"):
            parent.change(**{last: Directory() if name == "mkdir" else File()})
        elif name in ("unlink", "rmdir"):
            parent.change(**{last: None})
        elif name in ("rename", "replace"):
            assert os.path.dirname(str(argument)) == os.path.dirname(path)
            parent.change(**{last: None, os.path.basename(str(argument)): self.find(path)})
        else:
            node = self.find(path)
            if isinstance(node, Directory):
                node.durable, node.pending = node.seen(), []
            elif name == "fsync":
                node.durable = node.seen
            else:
                assert isinstance(argument, bytes)
                node.seen += argument

    def lose(self, to: Path, rng: random.Random, node: Directory | None = None) -> None:
        """Write to ``to`` what may be left after the power went."""
        node = node or self.root
        to.mkdir()
        share = rng.choice([0, 0.5, 1])
        chosen = [change for change in node.pending if rng.random() < share]
        for name, child in node.seen(chosen).items():
            if isinstance(child, Directory):
                self.lose(to / name, rng, child)
            else:
                torn = [child.durable, child.seen, child.seen[:100], bytes(len(child.seen))]
                kept = child.durable if child.durable == child.seen else rng.choice(torn)
                (to / name).write_bytes(kept)


def saves(folder: Path, done: list[Operation], patch: pytest.MonkeyPatch) -> tuple[Disk, list[int]]:
    """Two serials on the disk, then four more recorded: how many operations each had taken."""
    folder.parent.mkdir()
    saveserial(folder, 1, 1)
    saveserial(folder, 2, 2)
    done.clear()
    before = Disk(folder)
    ends = []
    for serial, step in enumerate([3, 3, 4, 4], 3):
        saveserial(folder, step, serial, keep=2)
        ends.append(len(done))
    patch.undo()
    return before, ends


def losses(
    before: Disk,
    done: list[Operation],
    ends: list[int],
    work: Path,
    cases: int,
    omitted: str = "^$",
) -> Iterator[bool]:
    """Lose power ``cases`` times after every operation, the last first: was it bad?

    The paths that ``omitted``, a pattern, matches, are treated as if they had not been synced.
    """
    rng = random.Random(40)
    for count in range(len(done), -1, -1):
        model = copy.deepcopy(before)
        for operation in done[:count]:
            if operation[0] != "fsync" or not re.search(omitted, operation[1]):
                model.apply(operation)
        acknowledged = 2 + sum(end <= count for end in ends)
        for _ in range(cases):
            model.lose(work, rng)
            try:
                yield serialof(work / "checkpoints") not in (acknowledged, acknowledged + 1)
            except Exception:
                yield True
            shutil.rmtree(work)


def test_loss_of_power(
    tmp_path: Path, recorded: list[Operation], monkeypatch: pytest.MonkeyPatch, long: bool
) -> None:
    """Catches a file, a directory or a renaming that is not synced before it is relied upon."""
    before, ends = saves(tmp_path / "work" / "checkpoints", recorded, monkeypatch)
    lost = tmp_path / "lost"
    bad = list(losses(before, recorded, ends, lost, 14 if long else 1))
    assert sum(bad) == 0 and len(bad) >= (1000 if long else 50)
    # A model that could not fail would prove nothing: it must miss every sync that is left out.
    for index, omitted in enumerate(
        ["npz$", "meta.json$", "MANIFEST.json$", "tmp-.$", "checkpoints$"]
    ):
        assert any(losses(before, recorded, ends, tmp_path / f"lost{index}", 1, omitted)), omitted
