"""A trained model elsewhere, and back: one file for each format.

:func:`export` writes a model in the format that the ending of a path names. :func:`weights` reads
parameters back, :func:`fromtorch` takes them from a module of PyTorch, under the names that
:mod:`rngru.models` lists.

================  ==================================================================================
ending            what it is
================  ==================================================================================
``.py``           a program that needs NumPy alone, weights included
``.html``         a page that writes text in any browser, weights included; it loads nothing
``.safetensors``  every parameter under rngru's names, and what the model is
``.onnx``         one step of the model, state in and out, for ONNX Runtime and others
``.pt``           a state dict for PyTorch, and beside it a module that loads it
================  ==================================================================================

>>> import tempfile
>>> import numpy as np
>>> from rngru.backends import backend
>>> from rngru.hyper import HyperParams
>>> from rngru.models import MODELS
>>> from rngru.reader import Reader
>>> from rngru.text import CharSet
>>> vocab, model = CharSet("the ship"), MODELS["GRUEncode"]
>>> hyper = HyperParams(vocab.vocab_size, state_size=8, layers=1)
>>> arrays = model.initial(hyper, np.random.default_rng(1))
>>> reader = Reader(model, hyper, vocab, arrays, backend("cpu", model, hyper))
>>> with tempfile.TemporaryDirectory() as folder:
...     export(reader, folder + "/ship.html").name
'ship.html'
"""

from rngru.export.parameters import Parameters
from rngru.export.pytorch import fromtorch
from rngru.export.reading import weights
from rngru.export.writing import export

__all__ = ["Parameters", "export", "fromtorch", "weights"]
