"""What saves a training session in a working directory."""

import hashlib
from dataclasses import replace
from typing import final

import numpy as np

from rngru import backends
from rngru.backends import TEAM, Backend
from rngru.checkpoint import Checkpoint
from rngru.events import Round
from rngru.snapshot import Snapshot, versions
from rngru.training import Plan, Progress
from rngru.workdir.directory import Workdir


@final
class WorkdirKeeper:
    """Saves the progress of a model in its directory; a :class:`~rngru.training.Keeper`.

    Parameters
    ----------
    disk: the directory, locked.
    model: what to save the progress of; the attribute of this name is what was saved last.
    trainlen: symbols of training text, if it is there.
    backend: what computes the model.
    plan: what the call does that saves, if it trains.
    """

    def __init__(
        self,
        disk: Workdir,
        model: Snapshot,
        trainlen: int | None,
        backend: Backend,
        plan: Plan | None = None,
    ) -> None:
        self.model = model
        self._disk, self._trainlen, self._backend = disk, trainlen, backend
        self._lasting = model.plan if plan is None else plan.lasting
        self._limit = plan.keep or None if plan else None

    def shared(self, plan: Plan) -> dict[str, object]:
        """Return what processes that train the model together must have in common, by its name."""
        model, hashed = self.model, hashlib.blake2b()
        now = model.progress
        if TEAM.count > 1:
            for array in now.arrays.values():
                hashed.update(np.asarray(array).tobytes())
        settings = model.modeltype, model.made, model.seq_len, model.seed, model.backend, plan
        return {
            "the text": model.corpus,
            "versions": versions(),
            "settings": settings,
            "the checkpoint": (now.position, now.batches, now.learnrate, hashed.hexdigest()),
        }

    def keep(self, progress: Progress) -> None:
        """Save in the middle of a round; the next save replaces it."""
        self.save(progress, timed=True)

    def close(self, done: Round, curve: list[tuple[int, float]], progress: Progress) -> Round:
        """Save at the end of a round: a line of the history, and a checkpoint."""
        if TEAM.leads:
            done = replace(done, checkpoint=str(self._disk.nextstep(progress.batches)))
            line = self._disk.remember(done, curve, self.model.historyline)
            self.model = replace(self.model, historyline=line)
        self.save(progress, trainloss=done.trainloss, validloss=done.validloss)
        return done

    def save(
        self,
        progress: Progress,
        *,
        trainloss: float | None = None,
        validloss: float | None = None,
        timed: bool = False,
    ) -> Checkpoint:
        """Save a checkpoint, and return it; of several processes the first writes, and all must come here."""
        there = progress.fetched(self._backend)
        rounding = backends.rounding(self._backend.name)
        model = replace(
            self.model, progress=there, versions=versions(), rounding=rounding, plan=self._lasting
        )
        model = model.summarised(self._trainlen, trainloss, validloss)
        if not TEAM.leads:
            self.model = replace(model, progress=progress)
            return Checkpoint(progress.batches, self._disk.path)
        saved = self._disk.save(model, keep=None if timed else self._limit, timed=timed)
        self.model = replace(model, progress=progress)
        return saved
