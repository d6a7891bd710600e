"""How kernels are compiled, and where the result is kept for the next process.

:func:`kernel` is what every kernel is decorated with. Numba has a cache of its own, but it looks only at
the file of one function, where a kernel also depends on the others; it refuses to compile at all
where it finds no place to write; and a file that was cut short ends a training run. So files are kept
here: one for each function, named after all that it depends on (the source of all kernels, the
versions, the types and the processor), written all at once, and read only if they are whole. Whatever
goes wrong, it is compiled again.

The places, of which the first that can be written is used: ``NUMBA_CACHE_DIR`` if it is set, else
``__pycache__`` beside the source or the user's cache; and a private folder among the temporary files.
These files are code: no place is read that somebody else could have written.
"""

import contextlib
import functools
import hashlib
import importlib.util
import os
import pickle
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import llvmlite
import numba
import numpy as np
from numba.core.caching import _Cache
from numba.core.ccallback import CFunc
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.core.types import Array, BaseTuple
from numba.np.numpy_support import from_dtype, map_layout

from rngru.errors import InputError, warn

if numba.config.DISABLE_JIT:
    raise InputError(
        "NUMBA_DISABLE_JIT is set, but the kernels run compiled only. Unset it, and start Python anew."
    )


@functools.cache
def _load_numba() -> None:
    """Load Numba's array functions without SciPy, before anything is compiled.

    They import all of ``scipy.linalg``, 0.2 s, only to note whether ``np.dot`` will find a BLAS. No
    kernel needs one. So for these few milliseconds Numba's check says yes if SciPy is installed at
    all; it has been put back when user code compiles an ``np.dot``, and imports SciPy then.
    """
    from numba.np import linalg

    check = getattr(linalg, "ensure_blas", None)
    if check is not None and importlib.util.find_spec("scipy") is not None:
        linalg.ensure_blas = lambda: None
    try:
        import numba.np.arraymath  # noqa: F401
    finally:
        if check is not None:
            linalg.ensure_blas = check


_HERE: Final = Path(__file__).parent
_TAG: Final = f"rngru-{sys.implementation.cache_tag}-"


@functools.cache
def _digest() -> str:
    """Return what names the kernels of this source and these versions."""
    found = hashlib.blake2b(f"{numba.__version__} {llvmlite.__version__}".encode(), digest_size=16)
    for path in sorted(_HERE.glob("*.py")):
        found.update(path.read_bytes())
    if not _HERE.is_dir():  # in an archive: what is kept could be another version's
        found.update(os.urandom(16))
    return found.hexdigest()


def _places() -> Iterator[Path]:
    """Yield the folders to look in, and to write to, the best first."""
    if wanted := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(wanted)
    else:
        yield _HERE / "__pycache__"
        with contextlib.suppress(RuntimeError):  # nobody knows where home is
            caches = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
            yield (Path(caches) if caches else Path.home() / ".cache") / "rngru"
    with contextlib.suppress(OSError):
        private, owner = _private(), os.getuid() if hasattr(os, "getuid") else None
        private.mkdir(mode=0o700, exist_ok=True)
        found = private.lstat()
        mine = owner is None or (found.st_uid == owner and not found.st_mode & 0o077)
        if mine and stat.S_ISDIR(found.st_mode):
            yield private


def places() -> list[tuple[Path, int, bool]]:
    """Return the folders that are looked in, the best first: path, files kept, whether it can be written."""
    found = []
    for place in _places():
        folder = _folder(place)
        above = next(each for each in (folder, *folder.parents) if each.is_dir())
        writable = True
        try:
            tempfile.TemporaryFile(dir=above).close()
        except OSError:
            writable = False
        found.append((place, len(list(folder.glob("[!.]*"))), writable))
    return found


def _private() -> Path:
    return Path(
        tempfile.gettempdir(), f"rngru-{os.getuid() if hasattr(os, 'getuid') else 'kernels'}"
    )


def _folder(place: Path) -> Path:
    return place / (_TAG + _digest())


def read(name: str) -> bytes | None:
    """Return what was kept under a name, or None if that is nothing, or not whole."""
    for place in _places():
        with contextlib.suppress(OSError):
            found = (_folder(place) / name).read_bytes()
            size = hashlib.blake2b().digest_size
            if hashlib.blake2b(found[size:]).digest() == found[:size]:
                return found[size:]
    return None


def write(name: str, data: bytes) -> bool:
    """Keep ``data`` under a name; return False, and say so once, if that is possible nowhere."""
    problem = None
    for place in _places():
        folder = _folder(place)
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, exist_ok=True)
                if place == _HERE / "__pycache__":
                    _forget(place)
            handle, path = tempfile.mkstemp(prefix=".", dir=folder)
            try:
                with open(handle, "wb") as file:
                    file.write(hashlib.blake2b(data).digest() + data)
                os.replace(path, folder / name)
            except BaseException:
                os.unlink(path)
                raise
        except OSError as error:
            problem = problem or error
        else:
            if place == _private():
                _tell(f"Compiled kernels are kept in {place}, which may be cleared at any time")
            return True
    _tell(
        "Each start takes seconds longer than it need: compiled kernels can be kept nowhere",
        problem,
    )
    return False


_said: set[str] = set()


def _tell(what: str, problem: object = None) -> None:
    """Warn of something once in this process."""
    if what not in _said:
        _said.add(what)
        reason = f" ({problem})" if problem else ""
        warn(f"{what}{reason}. Set NUMBA_CACHE_DIR to a folder that you can write to.")


def _forget(place: Path) -> None:
    """Remove what an older version left beside the source: nothing will read it again."""
    for path in place.glob(f"{_TAG}*"):
        if path != _folder(place):
            shutil.rmtree(path, ignore_errors=True)


class _Kept(_Cache):
    """Numba's idea of a cache, for one function."""

    def __init__(self, function: Callable) -> None:
        self._function = function
        self._enabled = function.__module__.startswith(__package__)  # the digest knows of no others

    @property
    def cache_path(self) -> str:
        return str(_folder(next(_places())))

    def enable(self) -> None:
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def flush(self) -> None:
        pass

    def load_overload(self, sig, target_context):
        # Numba would first load all that it can compile, 0.1 s. What was compiled needs none of it.
        data = read(self._name(sig, target_context.codegen())) if self._enabled else None
        if data is not None:
            with contextlib.suppress(Exception):  # whole, but not what this Numba wrote
                return CompileResult._rebuild(target_context, *pickle.loads(data))  # noqa: S301 (it is code)
        _load_numba()
        return None

    def save_overload(self, sig, data) -> None:
        if self._enabled:
            write(self._name(sig, data.codegen), dumps(data._reduce()))

    def _name(self, sig, codegen) -> str:
        key = hashlib.blake2b(f"{sig} {codegen.magic_tuple()}".encode(), digest_size=12)
        return f"{self._function.__module__}.{self._function.__qualname__}-{key.hexdigest()}"


def kernel(*, keep: bool = True, outside: bool | None = None, **options: Any) -> Callable:
    """Return a decorator that compiles a function for any thread, without the GIL.

    A kernel gets all its memory from the caller, so Numba need not count references: for the rows
    that a loop goes through, counting took three times as long as the arithmetic. With ``keep=False`` it is
    compiled as a part of whatever calls it. What no Python calls, which is all of those and others with
    ``outside=False``, takes a third less time to compile.

    >>> @kernel()
    ... def double(x):
    ...     return 2 * x
    >>> double(21)
    42
    """
    usual, inside = {"nogil": True, "_nrt": False}, not (keep if outside is None else outside)
    if inside:
        usual |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

    def decorate(function: Callable) -> Any:
        dispatcher = numba.njit(**usual | options)(function)
        if inside:  # there is nothing that Python could call: it would end there
            dispatcher._insert, dispatcher._compile_for_args = _nothing, _refused
        if keep:
            dispatcher._cache = _Kept(function)
            _lighten(dispatcher)
        return dispatcher

    return decorate


def _nothing(*args: Any, **options: Any) -> None:
    """Take the place of what tells a dispatcher of compiled code."""


def _refused(*args: Any, **options: Any) -> None:
    raise TypeError("only kernels call this one: see outside= in rngru.kernels.compiling.kernel")


def _lighten(dispatcher: Any) -> None:
    """Spare the first call of a kernel what Numba does for others.

    It would look through all packages for extensions of Numba, 10 ms; and import ``numpy.ma``, 15 ms, to
    find that no array is a masked one.
    """
    usual = dispatcher.typeof_pyval

    def typeof(value: object) -> Any:
        if type(value) is tuple:  # the rest of a variable number of arguments
            found: Any = BaseTuple.from_types(tuple(map(typeof, value)))
        elif type(value) is np.ndarray:
            kind, readonly = from_dtype(value.dtype), not value.flags.writeable
            found = Array(kind, value.ndim, map_layout(value), readonly=readonly)
        else:
            return usual(value)
        dispatcher._types_active_call.add(found)
        return found

    dispatcher.typeof_pyval, dispatcher._compilation_chain_init_hook = typeof, lambda: None


def pointer(signature, function: Callable) -> Any:
    """Compile a function to be called by its address, as in C."""
    types = signature.args, signature.return_type
    compiled = CFunc(function, types, locals={}, options={"nopython": True, "_nrt": False})
    compiled._cache = _Kept(function)
    compiled.compile()
    return compiled
