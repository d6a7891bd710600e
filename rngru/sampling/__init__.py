"""How text is drawn, and what was drawn: ``drawing`` has the definition of a draw, ``samples`` the records.

>>> Sampling(0.8, top_k=9)
Sampling(temp=0.8, top_k=9)
"""

from rngru.sampling.drawing import Sampling, draw, kept, lowered, probabilities
from rngru.sampling.samples import Filled, Sample, Samples, resumed

__all__ = [
    "Filled",
    "Sample",
    "Samples",
    "Sampling",
    "draw",
    "kept",
    "lowered",
    "probabilities",
    "resumed",
]
