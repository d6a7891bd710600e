"""Which files a name stands for: a file, a directory or a pattern; and what was meant if it is none.

The files of a model are no text: whatever a directory or a pattern finds, those of a working directory
are left out, however they are reached. A file that is named itself is read.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder:
...     size = Path(folder, "poem.txt").write_text("Tyger")
...     [path.name for path in files(folder)]
['poem.txt']
"""

import difflib
import glob
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from rngru.disk import unescaped
from rngru.errors import TextError, warn

_OURS = re.compile(r"checkpoints|data|history\.jsonl|restored\.json|lock(\.json)?|\.tmp-.*")
"""What belongs to a model in its working directory."""


def files(name: str | os.PathLike[str]) -> list[Path]:
    """Return the files that one name stands for, sorted.

    Raises
    ------
    TextError
        If there is none; the message says what may have been meant.
    """
    text = os.fsdecode(name)
    if not text.strip():
        raise TextError(f"Expected a file name, got {text!r}. '.' is the directory you are in.")
    meant = unescaped(text)
    if meant and not os.path.lexists(text):
        raise TextError(
            f"Expected a file name, got {text!r}. If it is a path with backslashes, type {meant}, which "
            "Python takes as it is. To read the strings themselves, use Texts([...])."
        )
    if "\n" in text.strip() and not meant:
        raise TextError(
            f"Expected a file name, got a text: {text[:40]!r}… "
            "To read the strings themselves, use Texts([...])."
        )
    try:
        return _found(name, Path(name).expanduser())
    except (OSError, RuntimeError) as error:  # a RuntimeError is of an unknown '~user'
        raise TextError(
            f"{text[:60]!r}: cannot be opened: {getattr(error, 'strerror', 'no such user')}. Expected a file "
            "name; to read the strings themselves, use Texts([...])."
        ) from error


def _found(name: str | os.PathLike[str], path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found, ours = _notours(_walk(path), path)
        if not found:
            raise TextError(f"{name}: the directory holds no files{_but(ours)}.")
        return found
    if path.exists():
        raise TextError(f"{name}: neither a file nor a directory; it cannot be read twice.")
    if glob.has_magic(str(path)):
        matches = sorted(Path(match) for match in glob.iglob(str(path), recursive=True))
        fixed = [part for part in path.parts if not glob.has_magic(part)]
        root = Path(*fixed[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])
        found, ours = _notours((match for match in matches if match.is_file()), root)
        if not found:
            raise TextError(
                f"{name}: no file matches this pattern (from {Path.cwd()}){_but(ours)}."
            )
        return found
    raise TextError(_missing(name, path))


def _walk(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())


# ------------------------------------------------------------------------- the files of a model


def _notours(found: Iterable[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """Return the files below ``root`` that are no model's, and the working directories left out.

    A working directory that was named itself, or holds ``root``, may hold texts beside its own files.
    """
    known, resolved, top = cache(_isworkdir), cache(Path.resolve), root.resolve()
    kept: list[Path] = []
    skipped: dict[Path, None] = {}

    @cache
    def owner(folder: Path, name: str) -> Path | None:
        """The outermost model that a file of this name in a folder belongs to."""
        for parent in reversed((folder / name).parents):
            named = parent == top or parent in top.parents
            first = (folder / name).relative_to(parent).parts[0]
            if known(parent) and (not named or _OURS.fullmatch(first)):
                return parent
        return None

    for path in found:
        real = path.resolve() if path.is_symlink() else None
        folder, name = (real.parent, real.name) if real else (resolved(path.parent), path.name)
        if held := owner(folder, name if _OURS.fullmatch(name) else "a text"):
            skipped[held] = None
        else:
            kept.append(path)
    if kept and skipped:
        warn(
            f"Left out of the text: the files of {_listed(list(skipped))}, which rngru made. To read "
            "such a file nevertheless, name it."
        )
    return kept, list(skipped)


def _isworkdir(folder: Path) -> bool:
    """Whether a folder is a model's: a working directory, a checkpoint or an encoded text."""
    names = set(os.listdir(folder)) if os.access(folder, os.R_OK) else set()
    if {"lock", "lock.json"} <= names or {"MANIFEST.json", "arrays.npz"} <= names:
        return True
    if "corpus.json" in names and any(name.startswith("ids-") for name in names):
        return True
    # A working directory that was copied without its lock.
    return (folder / "data" / "corpus.json").is_file() or any(
        (step / "MANIFEST.json").is_file() for step in folder.glob("checkpoints/[0-9]*")
    )


def _listed(folders: list[Path]) -> str:
    more = f" and {len(folders) - 1:,} more" if folders[1:] else ""
    return f"the model in {folders[0]}{more}"


def _but(ours: list[Path]) -> str:
    return f", but those of {_listed(ours)}, which are no text" if ours else ""


# ----------------------------------------------------------------------------- what was meant


def _missing(name: str | os.PathLike[str], path: Path) -> str:
    """Say that there is no such file, and what may have been meant."""
    text = os.fsdecode(name)
    if re.match(r"\w{2,}://", text) and not text.startswith("file:"):
        return f"{text}: an address of the web, expected a file. Download it first: curl -LO {text}"
    shown = text if text.isprintable() and text == text.strip() else repr(text)
    message = f"{shown}: no such file (from {Path.cwd()})."
    if held := next((parent for parent in path.parents if parent.is_file()), None):
        return f"{message} {held} is a file, not a directory."
    if meant := next((each for each in _variants(text) if os.path.exists(each)), ""):
        return f"{message} Did you mean {meant!r}?"
    if path.parent.is_dir():
        names = {each.casefold(): each for each in os.listdir(path.parent)}
        near = difflib.get_close_matches(path.name.casefold(), names, n=1)
        if near:
            message += f" Did you mean {str(path.parent / names[near[0]])!r}?"
    elif nowhere := next((each for each in path.parents if each.parent.is_dir()), None):
        message += f" There is no directory {str(nowhere)!r}."
    return message


def _variants(text: str) -> list[str]:
    """Return other ways to write a name: without quotes, spaces or 'file://', with slashes."""
    bare = text.strip(" \t\"'“”‘’")
    plain = re.sub(r"^file:(//(localhost)?(?=/))?", "", bare).replace("%20", " ")
    return [bare, plain, bare.replace("\\", "/"), os.path.expanduser(plain), bare + ".txt"]
