"""A working directory: where a model is kept on the disk.

:class:`Workdir` is the directory with its lock, :class:`~rngru.workdir.journal.Journal` the history in
it, and :class:`WorkdirKeeper` saves a training session there. :func:`examine` says what is wrong with one.
"""

from rngru.workdir.directory import Workdir
from rngru.workdir.examining import examine
from rngru.workdir.keeper import WorkdirKeeper
from rngru.workdir.lock import lives, whoami

__all__ = ["Workdir", "WorkdirKeeper", "examine", "lives", "whoami"]
