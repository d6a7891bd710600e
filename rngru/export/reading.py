"""Parameters back from a file: :func:`weights`.

>>> weights("verse.docx")
Traceback (most recent call last):
rngru.errors.InputError: 'verse.docx': expected a file that ends in .safetensors, .pt or .pth.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rngru.disk import topath
from rngru.errors import InputError, WorkdirError
from rngru.export.about import symbolsof
from rngru.export.parameters import Parameters
from rngru.export.pytorch import fromfile, fromtorch
from rngru.export.tensors import fromtensors
from rngru.text import Vocabulary, vocabularyfromjson


def weights(
    path: str | os.PathLike[str],
    *,
    symbols: Iterable[str] | None = None,
    vocab: Vocabulary | None = None,
) -> Parameters:
    """Read parameters from a file that :meth:`ModelState.export` or PyTorch has written.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or a state dict that ``torch.save`` wrote: ``.pt`` or ``.pth``.
        Nothing in it is run.
    symbols
        What the ids of the file's model stand for, in their order: a string or a list. A
        ``.safetensors`` file of rngru's says it by itself.
    vocab
        The vocabulary to order them for: ``ms.chars`` of the model that is to have them.

    Returns
    -------
    Parameters
        A dict of float32 arrays by the names in :mod:`rngru.models`; ``.modeltype`` and ``.options``
        say which model they are of.

    Raises
    ------
    InputError
        If the file cannot be read, or holds no model that rngru knows.
    MissingExtra
        If the package that reads it is not installed.
    WorkdirError
        If there is no such file.
    """
    place = Path(os.path.expanduser(topath(path)))
    read = {".safetensors": fromtensors, ".pt": fromfile, ".pth": fromfile}.get(
        place.suffix.lower()
    )
    if read is None:
        raise InputError(f"{place.name!r}: expected a file that ends in .safetensors, .pt or .pth.")
    if not os.path.isfile(place):
        raise WorkdirError(f"There is no file {place}.")
    arrays, about = read(place)
    if not about:
        return fromtorch(arrays, symbols=symbols, vocab=vocab)
    found = Parameters.of(arrays, **_untold(about))
    if "modeltype" in about and about["modeltype"] != found.modeltype:
        raise InputError(
            f"{place} holds a {about['modeltype']!r:.40}, which has a cell that rngru does not have."
        )
    if vocab is None:
        return found
    own = vocabularyfromjson(about.get("vocabulary"))
    if own.level != vocab.level:
        raise InputError(
            f"The model in {place} reads {own.units}, but vocab is one of {vocab.units}."
        )
    return found.forvocab(symbolsof(own) if symbols is None else symbols, vocab)


def _untold(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that the arrays do not tell."""
    hyper = about.get("hyper")
    known = hyper if isinstance(hyper, dict) else {}
    return {name: known[name] for name in ("gate", "residual") if name in known}
