"""What a sweep keeps in its directory: what it searches, and what each trial has found.

``sweep.json`` says what is searched, ``journal.log`` is Optuna's journal of all trials, ``text`` is a small
model with the encoded text, and ``trials`` has a working directory for each trial. Any number of
processes, on any number of machines that see the directory, may work on it at a time.

>>> Search(Space.checked({"layers": [1, 2]}), seconds=5.0, fixed={}, seed=1)
Search(space=Space(layers=[1, 2]), seconds=5.0, fixed={}, seed=1)
"""

import contextlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, final

from rngru.disk import writeatomic
from rngru.errors import CheckpointDamaged, CheckpointTooNew, MissingExtra, NoModelError
from rngru.sweeps.space import Space, checkedvalues
from rngru.workdir import lives, whoami

FORMAT: Final = 2
"""2 if it says what computes the models, which older versions did not ask; else 1."""

NAME: Final = "sweep"


@final
@dataclass(frozen=True)
class Search:
    """What a sweep searches, and how.

    Parameters
    ----------
    space: what is varied.
    seconds: how long each trial trains.
    fixed: settings that all trials have.
    seed: all trials begin with the same random numbers.
    """

    space: Space
    seconds: float
    fixed: Mapping[str, Any]
    seed: int

    @property
    def backends(self) -> set[str]:
        """What computes the models, if that was said."""
        varied: Any = self.space.dimensions.get("backend", [])
        return {*varied, *([self.fixed["backend"]] if "backend" in self.fixed else [])}


@final
@dataclass(frozen=True)
class Trial:
    """One model of a sweep.

    Attributes
    ----------
    number : int
        Which trial it was, from 0.
    state : str
        ``'done'``, ``'pruned'``, ``'failed'`` or ``'running'``.
    loss : float or None
        The lowest validation loss, nats per symbol.
    values : dict
        What it tried.
    losses : tuple of (float, float)
        Seconds and validation loss after each round.
    path : Path
        Its working directory.
    note : str
        What went wrong.
    """

    number: int
    state: str
    loss: float | None
    values: Mapping[str, Any]
    losses: tuple[tuple[float, float], ...]
    path: Path
    note: str = ""


@final
class Ledger:
    """The directory of a sweep.

    Parameters
    ----------
    folder: where it is; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text"

    @property
    def holds(self) -> bool:
        """Whether there is a sweep."""
        return (self.folder / "sweep.json").is_file()

    def write(self, search: Search) -> None:
        """Keep what is searched."""
        about = {
            "format": FORMAT if search.backends else 1,
            "space": search.space.to_json(),
            "seconds": search.seconds,
            "fixed": dict(search.fixed),
            "seed": search.seed,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        writeatomic(self.folder / "sweep.json", json.dumps(about, allow_nan=False).encode())

    def read(self) -> Search:
        """Return what is searched; nothing in the file is trusted.

        Raises
        ------
        NoModelError
            If there is no sweep.
        CheckpointDamaged
            If the file is not what was written.
        """
        path = self.folder / "sweep.json"
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if type(about["format"]) is int and about["format"] > FORMAT:
                raise CheckpointTooNew.told(path, about["format"], FORMAT, None)
            seconds, seed = float(about["seconds"]), int(about["seed"])
            fixed = checkedvalues(about["fixed"])
            return Search(Space.from_json(about["space"]), seconds, fixed, seed)
        except FileNotFoundError:
            raise NoModelError(f"{self.folder} holds no sweep: there is no sweep.json.") from None
        except (ValueError, KeyError, TypeError, IndexError) as problem:
            raise CheckpointDamaged(f"{path} does not describe a sweep: {problem}") from problem

    def place(self, number: int) -> Path:
        """Return the working directory of a trial."""
        return self.folder / "trials" / f"{number:04d}"

    def study(self, seed: int | None = None) -> Any:
        """Return Optuna's study, made if there is none yet; ``seed`` is for what it draws."""
        optuna = loaded()
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        path = str(self.folder / "journal.log")
        lock = JournalFileOpenLock(path) if os.name == "nt" else None
        with quiet():
            return optuna.create_study(
                study_name=NAME,
                storage=JournalStorage(JournalFileBackend(path, lock_obj=lock)),
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=pruner(),
                load_if_exists=True,
            )

    def trials(self, study: Any) -> tuple[Trial, ...]:
        """Return all trials that were, or are being, tried; those that were cut short are left out."""
        found = [self._trial(each) for each in study.get_trials(deepcopy=False)]
        return tuple(each for each in found if each is not None)

    def _trial(self, each: Any) -> Trial | None:
        state = each.state.name
        note = str(each.user_attrs.get("problem", ""))
        if state in ("WAITING", "FAIL"):
            return None
        known = {"COMPLETE": "done", "PRUNED": "failed" if note else "pruned", "RUNNING": "running"}
        losses = tuple(
            (float(seconds), float(loss)) for seconds, loss in each.user_attrs.get("losses", ())
        )
        lowest = min((loss for _, loss in losses), default=None)
        return Trial(each.number, known[state], lowest, dict(each.params), losses,
                     self.place(each.number), note)  # fmt: skip


def pruner() -> Any:
    """Return what ends trials early: those above the median, once four were trained to the end.

    Not in the first quarter of their time, when a low learning rate looks worse than it is.
    """
    return loaded().pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)


def counted(study: Any, seconds: float, before: int | None = None) -> int:
    """Return how many trials are over or going on, of those ``before`` a number; bury the dead.

    A trial whose process has ended without a word is not counted: another takes its place.
    """
    from optuna.trial import TrialState

    number = 0
    for each in study.get_trials(deepcopy=False):
        if before is not None and each.number >= before:
            continue
        if each.state == TrialState.RUNNING and _dead(each, seconds):
            with contextlib.suppress(Exception):  # somebody else has just done it
                study.tell(each.number, state=TrialState.FAIL)
        elif each.state in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED):
            number += 1
    return number


def _dead(trial: Any, seconds: float) -> bool:
    """Whether a trial that seems to go on cannot: on this host that is known, of others after a while."""
    age = datetime.now() - (trial.datetime_start or datetime.now())
    who = trial.user_attrs.get("process")
    if who is None:
        return age > timedelta(seconds=60)
    return not lives(dict(who)) or age > timedelta(seconds=600 + 10 * seconds)


def begun(study: Any) -> Any:
    """Begin a trial that this process tries."""
    trial = study.ask()
    trial.set_user_attr("process", whoami())
    return trial


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna say only what is wrong, and nothing of what is experimental in it."""
    optuna = loaded()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def loaded() -> Any:
    """Return Optuna, or say how to install it."""
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("A sweep needs Optuna: pip install 'rngru[sweep]'.") from error
    return optuna
