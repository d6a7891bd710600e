"""``.safetensors``: every parameter under rngru's names, and a description of the model beside them.

The metadata have one entry, ``rngru``, which is JSON: ``modeltype``, ``level``, ``hyper``, ``vocabulary``
and ``versions``. (Of several entries safetensors would write another one first each time.)
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from rngru.errors import InputError
from rngru.export.about import arraysof, described, needs
from rngru.reader import Reader

_INSTALL = "'rngru[export]'"


def totensors(reader: Reader, path: Path) -> dict[Path, bytes]:
    """Return the bytes to write."""
    with needs("safetensors", _INSTALL):
        from safetensors.numpy import save
    arrays = {name: np.ascontiguousarray(array) for name, array in arraysof(reader).items()}
    return {path: save(arrays, {"rngru": described(reader)})}


def fromtensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (arrays by name, what the file says of its model: {} if rngru has not written it)."""
    with needs("safetensors", _INSTALL):
        from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about = json.loads((file.metadata() or {}).get("rngru", "{}"))
    except (SafetensorError, ValueError, TypeError) as problem:
        raise InputError(f"{path} is no .safetensors file that can be read: {problem}.") from None
    if not isinstance(about, dict):
        raise InputError(f"{path}: the metadata 'rngru' do not describe a model.")
    return arrays, about
