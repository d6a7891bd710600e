"""Which ending means which format, and writing the files of it.

>>> sorted(FORMATS)
['.html', '.onnx', '.pt', '.py', '.safetensors']
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rngru.disk import dangling, isforeign, reachable, topath, writeatomic
from rngru.errors import InputError, WorkdirError
from rngru.export.onnxgraph import toonnx
from rngru.export.page import topage
from rngru.export.pytorch import topytorch
from rngru.export.script import toscript
from rngru.export.tensors import totensors
from rngru.reader import Reader


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Parameters
    ----------
    files: returns all bytes to write, by path, for a model and the path that was asked for.
    mark: what the first 4 kB of each of those files contain, a regular expression.
    """

    files: Callable[[Reader, Path], dict[Path, bytes]]
    mark: bytes


FORMATS = {
    ".py": Format(toscript, rb"written by rngru"),
    ".html": Format(topage, rb"written by rngru"),
    ".safetensors": Format(totensors, rb'"rngru"'),
    ".onnx": Format(toonnx, rb"rngru"),
    ".pt": Format(topytorch, rb"written by rngru|layers\.weight_ih_l0"),
}
"""Every format by the ending of its files."""


def export(reader: Reader, path: str | os.PathLike[str]) -> Path:
    """Write a model in the format that the ending of ``path`` names, and return the path.

    A file of the same kind is replaced, any other file is not.

    Raises
    ------
    InputError
        For an ending that means nothing, a model that the format cannot hold, and a file that is there
        and that rngru has not written.
    MissingExtra
        If the format needs a package that is not installed; the message names it.
    WorkdirError
        If the file cannot be written.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"Expected the path of a file to write, got {path!r}.")
    place = Path(os.path.expanduser(topath(path)))  # as working directories are
    form = FORMATS.get(place.suffix.lower())
    if form is None:
        raise InputError(
            f"{place.name!r}: the ending says which format to write. Expected one of "
            f"{', '.join(FORMATS)}."
        )
    if reader.freshstate().any():  # what reads the file begins with zeros
        raise InputError(
            "A model with neurons held at other values than 0 begins with a state of its own, which no "
            "exported file has. Hold them at 0, or export the model itself."
        )
    if not reachable(place.parent):
        raise WorkdirError(
            f"There is no directory {place.parent}.{dangling(place.parent)} Make it first."
        )
    files = form.files(reader, place)
    for each in files:
        if os.path.isdir(each):
            raise InputError(f"{each} is a directory. Name a file.")
        if isforeign(each, form.mark):
            raise InputError(
                f"{each} is there already, and rngru has not written it. Name another file, or move "
                "that one away."
            )
    for each, data in files.items():
        writeatomic(each, data)
    return place
