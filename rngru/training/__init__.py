"""Training: one call is a :class:`Session`, a stream of the events of :mod:`rngru.events`.

From the ground up: :class:`Progress` is where a run stands, ``schedules`` how the learning rate
changes, :class:`Run` proposes and takes steps, :class:`Guard` sees numbers that go wrong, ``rates``
measures, ``ranging`` looks for a learning rate, and a :class:`Session` does what a :class:`Plan` says.

>>> Plan(2, train_len=100)
Plan(num_rounds=2, train_len=100)
"""

from rngru.training.guard import Guard
from rngru.training.plan import Plan
from rngru.training.progress import Progress, Scores
from rngru.training.ranging import RateTest, ranged
from rngru.training.rates import Timing, timed
from rngru.training.run import Run
from rngru.training.schedules import plateau, scheduled
from rngru.training.session import Keeper, Session, validate, validlen

__all__ = [
    "Guard",
    "Keeper",
    "Plan",
    "Progress",
    "RateTest",
    "Run",
    "Scores",
    "Session",
    "Timing",
    "plateau",
    "ranged",
    "scheduled",
    "timed",
    "validate",
    "validlen",
]
