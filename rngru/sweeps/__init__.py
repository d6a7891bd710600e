"""Search over settings: which model learns a text best in the same time.

:func:`sweep` trains many small models, each for some seconds, in several processes; ones that do worse than
others did at the same time are ended early. Values are chosen by what has worked so far, with Optuna (Akiba
et al., Optuna: A Next-generation Hyperparameter Optimization Framework, 2019): the tree-structured Parzen
estimator (Bergstra et al., 2011) and the median rule (Golovin et al., Google Vizier, 2017).

>>> from rngru.sweeps import Space
>>> Space.checked({"state_size": [64, 128], "dropout": (0.0, 0.3)})
Space(state_size=[64, 128], dropout=(0.0, 0.3))
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Self, final

import numpy as np

from rngru.backends import BACKENDS
from rngru.errors import InputError, RngruError, WorkdirError, warn
from rngru.events import Event, Notice
from rngru.interrupts import Interrupts
from rngru.making import differing, sametext
from rngru.plots import savepicture, sweepfigure
from rngru.report import reporter
from rngru.settings import checked, or_none, real, whole
from rngru.state import ModelState
from rngru.sweeps.ledger import Ledger, Search, Trial, counted, loaded
from rngru.sweeps.space import VARIED, Kinds, Range, Space, checkedvalues
from rngru.tables import Table
from rngru.text import Source
from rngru.workdir import Workdir

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["VARIED", "Kinds", "Space", "Sweep", "Trial", "sweep"]

_TEXT: Final = {
    "level", "trainfrac", "encoding", "errors", "min_count", "max_vocab", "validfiles", "skip",
}  # fmt: skip
_ON: Final = "Leave that out to go on with it, or name another directory."
_READING: Final = {"validfiles", "encoding", "errors", "skip"}


@final
class Sweep(Sequence[Trial]):
    """The trials of a sweep, in the order in which they began; at the prompt a table, the best first.

    Parameters
    ----------
    workdir
        The directory of a sweep, of which some may still go on.

    Attributes
    ----------
    workdir : Path
    search : Search
        What is searched: ``space``, ``seconds``, ``fixed`` and ``seed``.
    interrupted : bool
        Whether Ctrl-C cut it short.

    Raises
    ------
    NoModelError
        If there is no sweep.
    MissingExtra
        Without Optuna: ``pip install 'rngru[sweep]'``.
    """

    def __init__(self, workdir: str | Path, *, interrupted: bool = False) -> None:
        ledger = Ledger(Workdir(workdir).path)
        self.workdir, self.search, self.interrupted = ledger.folder, ledger.read(), interrupted
        self._units = ModelState.load(ledger.text).chars.units
        self._trials = ledger.trials(ledger.study())

    @classmethod
    def load(cls, workdir: str | Path) -> Self:
        """Return the sweep that a directory holds, as it is now."""
        return cls(workdir)

    def __getitem__(self, index: Any) -> Any:
        return self._trials[index]

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def besttrial(self) -> Trial:
        """The trial with the lowest validation loss of those that were trained to the end.

        Raises
        ------
        InputError
            If there is none.
        """
        losses = {
            place: each.loss
            for place, each in enumerate(self)
            if each.state == "done" and each.loss is not None
        }
        if not losses:
            raise InputError(
                "No trial was trained to the end yet. The table says what became of them."
            )
        return self._trials[min(losses, key=losses.__getitem__)]

    @cached_property
    def best(self) -> ModelState:
        """The best model, loaded, as it was when its validation loss was lowest; it can be trained on."""
        return ModelState.load(self.besttrial.path)

    def columns(self) -> dict[str, np.ndarray]:
        """Return everything by column, as ``pandas.DataFrame`` takes it."""
        losses = [np.nan if each.loss is None else each.loss for each in self]
        found = {
            "trial": np.array([each.number for each in self], int),
            "state": np.array([each.state for each in self], object),
            "loss": np.array(losses, float),
        }
        for name in self.search.space.dimensions:
            found[name] = np.array([each.values.get(name) for each in self], object)
        return found

    def table(self) -> Table:
        """Return the table that the repr shows."""
        ranked = sorted(self, key=lambda each: (_ORDER[each.state], each.loss or np.inf))
        names = [*self.search.space.dimensions]
        rows = [
            [
                str(each.number),
                "-" if each.loss is None else f"{each.loss:.4f}",
                *(_brief(each.values.get(name)) for name in names),
                self._remark(each, first=each is ranked[0]),
            ]
            for each in ranked
        ]
        counts = [f"{sum(e.state == state for e in self)} {state}" for state in _ORDER]
        told = ", ".join(each for each in counts if not each.startswith("0 "))
        many = f"{len(self):,} trial{'s' * (len(self) != 1)}"
        note = f"{many} of {self.search.seconds:g} s: {told or 'none yet'}"
        note += "; interrupted." if self.interrupted else "."
        if ranked and ranked[0].state == "done":
            note += " sweep.best is the best model."
        return Table(["trial", "valid", *names, ""], rows, note=note)

    def _remark(self, trial: Trial, *, first: bool) -> str:
        if trial.state == "pruned" and trial.losses:
            return f"pruned after {trial.losses[-1][0]:.1f} s"
        if trial.state == "failed":
            return trial.note[:40]
        return "best" if first and trial.state == "done" else "running" * (trial.state == "running")

    @property
    def figure(self) -> "Figure":
        """A matplotlib figure, which a notebook shows: the loss of each trial, and against each setting.

        Raises
        ------
        MissingExtra
            Without matplotlib: ``pip install 'rngru[plot]'``.
        InputError
            If no trial has a loss yet.
        """
        space = self.search.space.dimensions
        log = [name for name, each in space.items() if isinstance(each, Range) and each.log]
        return sweepfigure(self.columns(), units=self._units, log=log)

    def plot(self, path: str | Path | None = None) -> Path:
        """Save :attr:`figure` as a picture, and return its path.

        Parameters
        ----------
        path
            Where to save it; by default ``sweep.png`` in the directory of the sweep. The ending decides
            the format.
        """
        return savepicture(self.figure, self.workdir / "sweep.png" if path is None else path)

    def __repr__(self) -> str:
        return repr(self.table())

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


_ORDER: Final = {"done": 0, "running": 1, "pruned": 2, "failed": 3}


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def sweep(
    srcfile: Source | None,
    workdir: str | Path,
    space: Mapping[str, Sequence[Any]] | None = None,
    *,
    trials: int = 20,
    seconds: float | None = None,
    processes: int | None = None,
    rng: int | None = None,
    report: str | None = None,
    **fixed: Any,
) -> Sweep:
    """Search for the settings with which a text is learned best in the same time.

    It may be stopped with Ctrl-C, and goes on when it is called again. Called from several machines on a
    folder that all of them see, each does its part.

    Parameters
    ----------
    srcfile
        The text, as for ``ModelState.initfromsrcfile``; None: the one that ``workdir`` holds.
    workdir
        Where everything is kept.
    space : dict
        For each setting that is varied a list of choices, ``(low, high)``, or ``(low, high, 'log')``:
        every hyperparameter, ``batchsize``, ``modeltype`` and ``seq_len``. None: as ``workdir`` has it.
    trials : int
        How many models to try, those of earlier calls included.
    seconds : float
        How long each of them trains; 60 at first.
    processes : int
        How many train at a time, each with one thread (or ``RNGRU_THREADS``); by default one for each core.
        With ``backend="jax"`` each has a GPU of its own, if there are any, and by default all are used.
    rng : int
        Seed: all models begin with the same random numbers.
    report : str
        ``'rich'``, ``'plain'`` or ``'silent'``; by default what suits the screen.
    **fixed
        What all models have, such as ``layers=1`` or ``backend="jax"``, and of the text: ``level``,
        ``trainfrac``, ``encoding``, ``min_count``, …

    Returns
    -------
    Sweep
        At the prompt a table; ``.best`` is the best model, ``.plot()`` draws a picture.

    Raises
    ------
    InputError
        For names that do not exist and values that are not allowed, before anything is run; and if
        ``workdir`` holds a sweep of another kind.
    MissingExtra
        Without Optuna: ``pip install 'rngru[sweep]'``; without what computes the models.

    Example
    -------
    ::

        result = rngru.sweep('book.txt', 'search', {'state_size': [64, 128, 256],
                                                     'learnrate': (3e-4, 1e-2, 'log')}, seconds=60)
        result                              # a table
        result.best.generatestring(300)
    """
    from rngru.kernels import threads  # loads Numba

    trials = checked("trials", trials, whole(1))
    processes = checked("processes", processes, or_none(whole(1, 1024)))
    options = {name: fixed.pop(name) for name in _TEXT & fixed.keys()}
    ledger = Ledger(Workdir(workdir).path)
    search = _search(ledger, space, seconds, fixed, rng)
    loaded()  # without Optuna nothing is begun
    for name in search.backends:
        BACKENDS[name]()
    devices = _devices() if "jax" in search.backends else 0
    with reporter(report) as show:
        _begin(ledger, search, srcfile, options, report)
        with Interrupts() as interrupts:
            many = processes or devices or threads.available()
            _run(ledger, search, trials, many, devices, show, interrupts.asked)
            return Sweep(ledger.folder, interrupted=interrupts.raised)


def _search(
    ledger: Ledger,
    space: Mapping[str, Any] | None,
    seconds: float | None,
    fixed: Mapping[str, Any],
    rng: int | None,
) -> Search:
    """Return what is searched: what was asked for, which must be what is there, if anything is."""
    fixed = checkedvalues(fixed)
    seconds = checked("seconds", seconds, or_none(real(0, 1e9, above=True)))
    seed = checked("rng", rng, or_none(whole(0)))
    wanted = None if space is None else Space.checked(space)
    if wanted and (twice := wanted.dimensions.keys() & fixed.keys()):
        raise InputError(f"{', '.join(sorted(twice))}: varied in space, and given a value, too.")
    if not ledger.holds:
        if wanted is None:
            raise InputError(
                f"{ledger.folder} holds no sweep. Say what to vary: space=, or --vary on the command line."
            )
        seed = int(np.random.default_rng().integers(1 << 31)) if seed is None else seed
        return Search(wanted, 60.0 if seconds is None else seconds, fixed, seed)
    there = ledger.read()
    asked = {"space": wanted, "seconds": seconds, "fixed": fixed or None, "seed": seed}
    for name, value in asked.items():
        if value is not None and value != getattr(there, name):
            raise InputError(
                f"{ledger.folder} holds a sweep with {name}={getattr(there, name)!r}, not {value!r}. {_ON}"
            )
    return there


def _begin(
    ledger: Ledger,
    search: Search,
    source: Source | None,
    options: dict[str, Any],
    report: str | None,
) -> None:
    """Encode the text, or see that it is the one that is there; then the sweep has begun."""
    disk = Workdir(ledger.text)
    if not disk.holdsmodel:
        if source is None:
            raise InputError(f"{ledger.folder} holds no text. Give one.")
        small: dict[str, Any] = {"state_size": 1, "layers": 1, "rng": 1, "report": report}
        ModelState.initfromsrcfile(source, disk.path, **small, **options)
    elif source is not None or options:
        model = disk.resume()
        corpus = disk.corpus(model.chars, model.corpus)
        for name, (there, asked) in differing(model, corpus, options).items():
            raise InputError(
                f"{ledger.folder} holds a sweep with {name}={there!r}, not {asked!r}. {_ON}"
            )
        reading = {name: options[name] for name in _READING & options.keys()}
        if source is not None and corpus is not None and not sametext(corpus, source, **reading):
            raise WorkdirError(
                f"{ledger.folder} holds a sweep over {model.chars.srcinfo or 'another text'}. Name "
                "another directory."
            )
    if not ledger.holds:
        ledger.write(search)


def _run(
    ledger: Ledger,
    search: Search,
    trials: int,
    processes: int,
    devices: int,
    show: Callable[[Event], object],
    asked: Callable[[], bool],
) -> None:
    """Let processes work until there are enough trials, each on one of the devices; say what they find."""
    study = ledger.study()
    missing = trials - counted(study, search.seconds)
    told = {each.number for each in ledger.trials(study) if each.state != "running"}
    with tempfile.TemporaryFile() as errors:
        workers = [
            _worker(ledger, trials, index, str(index % devices) if devices else "", errors)
            for index in range(min(processes, missing))
        ]
        try:
            while any(worker.poll() is None for worker in workers):
                time.sleep(0.2)
                _tell(ledger, study, trials, told, show)
                if asked():
                    break
        finally:  # with their standard input closed, they end after their batch
            for worker in workers:
                worker.communicate()
        _tell(ledger, study, trials, told, show)
        errors.seek(0)
        failed = [worker for worker in workers if worker.returncode]
        if failed and not asked():
            last = (
                errors.read().decode(errors="replace").strip() or f"status {failed[0].returncode}"
            )
            problem = f"{len(failed)} of {len(workers)} processes failed: {last.splitlines()[-1]}."
            if not any(each.state == "done" for each in ledger.trials(study)):
                raise RngruError(problem)
            warn(problem)


def _worker(
    ledger: Ledger, trials: int, index: int, device: str, errors: IO[bytes]
) -> "subprocess.Popen[bytes]":
    code = "import sys; from rngru.sweeps.worker import main; main(*sys.argv[1:])"
    # Several processes may share a device, and PJRT_NPROC are the threads of XLA on a CPU.
    alone = {"RNGRU_THREADS": "1", "PJRT_NPROC": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(ledger.folder), str(trials), str(index), device],
        env=alone | _environment(),
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
        start_new_session=True,
    )  # fmt: skip


def _devices() -> int:
    """Return how many GPUs JAX finds; a process of its own looks, for it takes most of their memory."""
    code = "from rngru.backends import devices; print(devices())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise RngruError(
            f"JAX does not start: {(done.stderr.strip() or 'no reason').splitlines()[-1]}"
        )
    return int(done.stdout.split()[-1])


def _environment() -> dict[str, str]:
    """Return that of a process that imports what this one does."""
    path = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _tell(
    ledger: Ledger, study: Any, trials: int, told: set[int], show: Callable[[Event], object]
) -> None:
    """Say what has been found since."""
    found = ledger.trials(study)
    for each in found:
        if each.number in told or each.state == "running":
            continue
        before = [e.loss for e in found if e.number in told and e.state == "done" and e.loss]
        told.add(each.number)
        values = ", ".join(f"{name}={_brief(value)}" for name, value in each.values.items())
        loss = "" if each.loss is None else f"  valid {each.loss:.4f}"
        best = (
            each.state == "done"
            and each.loss is not None
            and each.loss < min(before, default=np.inf)
        )
        remark = (
            "  best so far" if best else f"  {each.note or each.state}" * (each.state != "done")
        )
        show(Notice(f"{len(told)} of {trials}  trial {each.number}{loss}{remark}  {values}"))
