"""Recurrent language models from the Python prompt.

At a prompt, ``from rngru import *``::

    ms = ModelState.initfromsrcfile("book.txt", "work", recipe="quick")     # a model for a text
    ms.trainmodel()                                         # watch it learn, for a minute
    ms.generatestring(200, temp=0.7)                        # let it write
    ms = ModelState.load("work")                            # tomorrow

At a shell: ``rngru --help``. ``python -i -m rngru`` opens a prompt with everything ready.

=================  ==================================================================
what               its page
=================  ==================================================================
ModelState         help(ModelState): the manual, every verb in the order one meets it
HyperParams        help(HyperParams): all that a model is made with, a table
History, Sample    what training and writing return
Texts              texts in memory, instead of files
corpora            texts that every machine has, to begin with
recipe             help("rngru.recipes"): settings with a name, for a text and a time
sweep              which settings learn a text best, on Optuna
report             help("rngru.report"): TensorBoard, JSON lines, logging
export             help("rngru.export"): weights to and from other libraries
plots              help("rngru.plots"): pictures of records, by matplotlib
RngruError         base of all errors; RngruWarning of all warnings
=================  ==================================================================

==================  =================================================================
environment         what it does
==================  =================================================================
RNGRU_THREADS       how many threads compute; by default all cores that one really has
NUMBA_CACHE_DIR     where compiled kernels are kept
NUMBA_CPU_NAME      the processor that kernels are compiled for; NUMBA_CPU_FEATURES too
NUMBA_NUM_THREADS   read as RNGRU_THREADS is, where that is not set; OMP_NUM_THREADS too
XDG_CACHE_HOME      where a user's cache is, if the package's own folder is read-only
NO_COLOR            no colours in a terminal
==================  =================================================================

Importing this module is light: PyTensor, Numba and matplotlib are loaded when they are first needed.

>>> import rngru
>>> "ModelState" in dir(rngru)
True
"""

import importlib
from typing import TYPE_CHECKING, Any

from rngru.version import __version__ as __version__

_HOMES = {
    "ModelState": "state",
    "generatestring": "state",
    "distributed": "backends",
    "HyperParams": "hyper",
    "CharSet": "text",
    "WordSet": "text",
    "ByteSet": "text",
    "Texts": "text",
    "DataSet": "dataset",
    "Checkpoint": "checkpoint",
    "GRUEncode": "models",
    "GRUResize": "models",
    "LSTMEncode": "models",
    "LSTMResize": "models",
    "RNNEncode": "models",
    "RNNResize": "models",
    "MinGRUEncode": "models",
    "MinGRUResize": "models",
    "MinLSTMEncode": "models",
    "MinLSTMResize": "models",
    "BiGRU": "models",
    "BiLSTM": "models",
    "BiRNN": "models",
    "Sample": "sampling",
    "History": "report",
    "recipe": "recipes",
    "sweep": "sweeps",
    "Sweep": "sweeps",
    "RngruError": "errors",
    "RngruWarning": "errors",
}
_ROOMS = ("corpora", "export", "plots", "recipes", "report")
"""Modules with a page of their own, there without being imported."""


class _Names(list[str]):
    """Names for ``from rngru import *`` that help() does not look into: each has a page of its own."""

    def __contains__(self, name: object) -> bool:
        return False


if not TYPE_CHECKING:
    __all__ = _Names(_HOMES)

if TYPE_CHECKING:  # what __getattr__ brings, for editors and type checkers
    from rngru.backends import distributed as distributed
    from rngru.checkpoint import Checkpoint as Checkpoint
    from rngru.dataset import DataSet as DataSet
    from rngru.errors import RngruError as RngruError
    from rngru.errors import RngruWarning as RngruWarning
    from rngru.hyper import HyperParams as HyperParams
    from rngru.models import BiGRU as BiGRU
    from rngru.models import BiLSTM as BiLSTM
    from rngru.models import BiRNN as BiRNN
    from rngru.models import GRUEncode as GRUEncode
    from rngru.models import GRUResize as GRUResize
    from rngru.models import LSTMEncode as LSTMEncode
    from rngru.models import LSTMResize as LSTMResize
    from rngru.models import MinGRUEncode as MinGRUEncode
    from rngru.models import MinGRUResize as MinGRUResize
    from rngru.models import MinLSTMEncode as MinLSTMEncode
    from rngru.models import MinLSTMResize as MinLSTMResize
    from rngru.models import RNNEncode as RNNEncode
    from rngru.models import RNNResize as RNNResize
    from rngru.recipes import recipe as recipe
    from rngru.report import History as History
    from rngru.sampling import Sample as Sample
    from rngru.state import ModelState as ModelState
    from rngru.state import generatestring as generatestring
    from rngru.sweeps import Sweep as Sweep
    from rngru.sweeps import sweep as sweep
    from rngru.text import ByteSet as ByteSet
    from rngru.text import CharSet as CharSet
    from rngru.text import Texts as Texts
    from rngru.text import WordSet as WordSet


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for."""
    if name in _ROOMS:
        return importlib.import_module(f"rngru.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'rngru' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rngru.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
