"""A trained model at one moment: it reads text, and writes it, with one set of weights.

:class:`Reader` has the few calls that everything else is made of. What people do with it: ``generating``
writes text, within ``limits``, ``beam`` searches the likeliest and ``filling`` fills gaps. ``scoring`` tells
how well a text is predicted, ``predicting`` and ``scores`` how well each symbol is, ``novelty`` what of
it stands in another, ``inspecting`` what neurons do, ``neurons`` which of them follow a property of the
text (``properties``), ``vectors`` which texts are alike. ``adapting`` learns while it reads.

>>> import numpy as np
>>> from rngru import models
>>> from rngru.backends import backend
>>> from rngru.hyper import HyperParams
>>> from rngru.text import CharSet
>>> vocab, model = CharSet("the ship"), models.named("GRUEncode")
>>> hyper = HyperParams(vocab.vocab_size, state_size=8, layers=1)
>>> weights = model.initial(hyper, np.random.default_rng(1))
>>> reader = Reader(model, hyper, vocab, weights, backend("cpu", model, hyper))
>>> [trace.states.shape for trace in reader.read(reader.encode("the ship"))]
[(1, 8, 1, 8)]
"""

from rngru.reader.adapting import PIECE, SOMETIMES, Learner, gathered, teaching
from rngru.reader.beam import beam
from rngru.reader.filling import fillgaps
from rngru.reader.generating import generate, generateall, glimpse, stream
from rngru.reader.inspecting import clamp, track
from rngru.reader.limits import unblank
from rngru.reader.neurons import Neurons, chosen, follow, propertyof
from rngru.reader.novelty import Copies, Copy, copied
from rngru.reader.predicting import Prediction, learned, predict, score, scoretexts, together
from rngru.reader.properties import Wanted
from rngru.reader.reader import Reader
from rngru.reader.scores import Comparison, Scores, Sums
from rngru.reader.scoring import (
    Evaluation,
    averaging,
    evaluate,
    evaluatetexts,
    evaluating,
    finished,
)
from rngru.reader.vectors import Similar, similar, vectors

__all__ = [
    "PIECE",
    "SOMETIMES",
    "Comparison",
    "Copies",
    "Copy",
    "Evaluation",
    "Learner",
    "Neurons",
    "Prediction",
    "Reader",
    "Scores",
    "Similar",
    "Sums",
    "Wanted",
    "averaging",
    "beam",
    "chosen",
    "clamp",
    "copied",
    "evaluate",
    "evaluatetexts",
    "evaluating",
    "fillgaps",
    "finished",
    "follow",
    "gathered",
    "generate",
    "generateall",
    "glimpse",
    "learned",
    "predict",
    "propertyof",
    "score",
    "scoretexts",
    "similar",
    "stream",
    "teaching",
    "together",
    "track",
    "unblank",
    "vectors",
]
