"""``.py``: a program in one file that writes text with NumPy alone; the weights are inside.

>>> import base64
>>> packed = base64.b64decode(archive({"c": np.zeros(3)}))
>>> np.load(io.BytesIO(packed), allow_pickle=False)["c"].tolist()
[0.0, 0.0, 0.0]
"""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rngru.export.about import arraysof, forwards, program
from rngru.export.filling import filled, literal
from rngru.reader import Reader


def toscript(reader: Reader, path: Path) -> dict[Path, bytes]:
    """Return the bytes to write."""
    forwards(reader, ".py")
    parts = {'"@ABOUT@"': literal(program(reader)), "@WEIGHTS@": archive(arraysof(reader))}
    return {path: filled("numpy_model.py", parts).encode()}


def archive(arrays: Mapping[str, np.ndarray]) -> str:
    """Return arrays as a compressed ``.npz`` file in base64, in lines."""
    stream, named = io.BytesIO(), dict[str, Any](arrays)
    np.savez_compressed(stream, **named)
    return base64.encodebytes(stream.getvalue()).decode().rstrip()
