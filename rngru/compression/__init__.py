"""Text compressed by a model: what it predicts well takes few bits.

An arithmetic coder turns probabilities into bits: a symbol of probability p takes :math:`-\\log_2 p` of
them, so the size of a file is the loss of the model on its text. The decoder reads with the same model,
computes the same probabilities, and so learns which symbol was meant. ``coding`` is the loop that both
run, ``files`` what stands in a file, ``packing`` the two verbs.

>>> import tempfile
>>> import numpy as np
>>> from rngru import models
>>> from rngru.backends import backend
>>> from rngru.hyper import HyperParams
>>> from rngru.reader import Reader
>>> from rngru.text import CharSet
>>> vocab, model = CharSet("the ship"), models.named("GRUEncode")
>>> hyper = HyperParams(vocab.vocab_size, state_size=8, layers=1)
>>> weights = model.initial(hyper, np.random.default_rng(1))
>>> reader = Reader(model, hyper, vocab, weights, backend("cpu", model, hyper))
>>> with tempfile.TemporaryDirectory() as folder:
...     found = compress(reader, "the ship, the sheep", folder + "/ship.rngz")
...     decompress(reader, found.path)
'the ship, the sheep'
"""

from rngru.compression.files import ENDING
from rngru.compression.packing import Compressed, compress, decompress

__all__ = ["ENDING", "Compressed", "compress", "decompress"]
