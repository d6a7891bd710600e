"""The two encodings of a checkpoint: plain JSON, and arrays in an uncompressed ``.npz``.

The contract: decoding gives back exactly what was encoded; what cannot be kept exactly is refused
with a ValueError beforehand. Bytes that somebody made to do harm raise an exception; they run no
code, and take no more memory and time than good ones of the same size.

>>> unpackarrays(packarrays({"b": np.zeros(3, "float32")}))
{'b': array([0., 0., 0.], dtype=float32)}
>>> decodejson(b'{"loss": 1e400}')
Traceback (most recent call last):
ValueError: holds what is not allowed: ['loss'] is inf, but only finite numbers can be kept
"""

import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

FORMAT = 1
MAX_ARRAYS = 4096
MAX_DIRECTORY = 512 * MAX_ARRAYS  # bytes; the longest name takes less than 512
MAX_JSON = 4 << 20  # bytes
MAX_DEPTH = 32
MAX_CONTAINERS = 100_000  # lists and dicts, which take many times the memory of their text
DTYPES = frozenset(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)) | frozenset(
    ("b1", "f2", "f4", "f8", "c8", "c16")
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(?P<length>..)"
    rb"\{'descr': '(?P<dtype>[<>|][biufc][0-9]{1,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n",
    re.DOTALL,
)


def encodejson(value: dict[str, Any]) -> bytes:
    """Encode a dict for which :func:`checkplain` holds."""
    data = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False).encode()
    if _toolarge(data):
        raise ValueError(
            f"The metadata is too large: at most {MAX_JSON:,} bytes of JSON "
            f"and {MAX_CONTAINERS:,} lists and dicts can be kept"
        )
    return data


def decodejson(data: bytes) -> dict[str, Any]:
    """Decode the dict that :func:`encodejson` encoded."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("holds a key twice")
        return found

    if _toolarge(data):
        raise ValueError("is larger than metadata may be")
    value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    try:
        checkplain(value)
    except ValueError as problem:
        raise ValueError(f"holds what is not allowed: {problem}") from None
    return value


def _toolarge(data: bytes) -> bool:
    return len(data) > MAX_JSON or data.count(b"[") + data.count(b"{") > MAX_CONTAINERS


def checkplain(value: object, where: tuple[str | int, ...] = ()) -> None:
    """Raise ValueError, naming the place, unless JSON keeps ``value`` exactly as it is.

    >>> checkplain({"sizes": [1, (2, 3)]})
    Traceback (most recent call last):
    ValueError: ['sizes'][1] is a tuple, but only text, numbers, True, False, None, lists and ...
    """

    def refuse(reason: str) -> ValueError:
        return ValueError("".join(f"[{key!r:.40}]" for key in where) + reason)

    if len(where) > MAX_DEPTH:
        raise refuse(f" is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, part in value.items():
            if not isinstance(key, str):
                raise refuse(f" has the key {key!r}, but keys must be text")
            checkplain(part, (*where, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            checkplain(part, (*where, index))
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(f" is {value}, but only finite numbers can be kept")
    elif value is not None and not isinstance(value, str | int):
        allowed = "text, numbers, True, False, None, lists and dicts"
        raise refuse(f" is a {type(value).__name__}, but only {allowed} can be kept")


def packarrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack named arrays of numbers or booleans; the same arrays always give the same bytes."""
    if len(arrays) > MAX_ARRAYS:
        raise ValueError(f"{len(arrays)} arrays are too many; {MAX_ARRAYS} are allowed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = b"rngru checkpoint, format %d" % FORMAT
        for name, array in arrays.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name for an array; use letters, digits, '_.-'")
            array = np.asarray(array)
            if array.dtype.str[1:] not in DTYPES:
                raise ValueError(f"arrays[{name!r}] has dtype {array.dtype}, not a plain number")
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


def packfiles(files: Mapping[str, bytes]) -> bytes:
    """Pack files by name; the same files always give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = b"rngru model, format %d" % FORMAT
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def unpackarrays(data: bytes) -> dict[str, np.ndarray]:
    """Unpack what :func:`packarrays` packed: the same order, dtypes, shapes and memory orders.

    The zip file's directory is read with the standard library, the arrays' headers with a pattern
    that knows nothing but numbers: neither evaluates anything.
    """
    arrays: dict[str, np.ndarray] = {}
    for filename, body in members(data).items():
        name = filename.removesuffix(".npy")
        if name + ".npy" != filename:
            raise ValueError(f"has a member of a wrong name, {filename!r}")
        try:
            arrays[name] = _unpackarray(body)
        except ValueError as problem:
            raise ValueError(f"has a member {name!r} that {problem}") from None
    return arrays


class _Archive(io.BytesIO):
    """The bytes of a zip file; its directory, which is read at once, is not a large one."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY:
            raise ValueError("has too many members")
        return super().read(size)


def members(data: bytes) -> dict[str, memoryview]:
    """Return the members of a zip file by name, in its order; all are stored plainly."""
    with zipfile.ZipFile(_Archive(data)) as archive:
        listed = archive.infolist()
    if len(listed) > MAX_ARRAYS:
        raise ValueError("has too many members")
    if sum(member.file_size for member in listed) > len(data):
        raise ValueError("declares more than it holds")
    view, found = memoryview(data), {}
    for member in listed:
        name = member.filename
        if not _NAME.fullmatch(name) or name in found:
            raise ValueError(f"has a member of a wrong name, {name!r}")
        if member.compress_type or member.flag_bits or member.compress_size != member.file_size:
            raise ValueError(f"has a member that is not stored plainly, {name!r}")
        namelength, extralength = struct.unpack_from("<HH", data, member.header_offset + 26)
        start = member.header_offset + 30 + namelength + extralength
        found[name] = view[start : start + member.file_size]
    return found


def _unpackarray(body: memoryview) -> np.ndarray:
    match = _NPY.match(body)
    if not match or match.end() != 10 + int.from_bytes(match["length"], "little"):
        raise ValueError("is no array of numbers")
    dtype = np.dtype(match["dtype"].decode())
    shape = tuple(int(size) for size in match["shape"].decode().split(",") if size.strip())
    contents = body[match.end() :]
    if dtype.str[1:] not in DTYPES or math.prod(shape) * dtype.itemsize != len(contents):
        raise ValueError(f"has {len(contents)} bytes, but shape {shape} and dtype {dtype}")
    if dtype.kind == "b" and np.frombuffer(contents, np.uint8).max(initial=0) > 1:
        raise ValueError("has booleans that are neither 0 nor 1")
    order: Literal["F", "C"] = "F" if match["fortran"] == b"True" else "C"
    array: np.ndarray = np.ndarray(shape, dtype, contents, order=order)
    return array.copy(order="K")  # aligned and writable, unlike the bytes
