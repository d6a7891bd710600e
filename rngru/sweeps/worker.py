"""One process of a sweep: it tries one model after the other, until there are enough.

>>> rounds(seconds=60.0, batch=0.05), rounds(seconds=5.0, batch=2.0)
(150, 1)
"""

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from rngru.backends import ondevice
from rngru.corpus import Corpus
from rngru.errors import InputError, NumericsError
from rngru.events import Batch, Event, Round
from rngru.hyper import HyperParams
from rngru.making import checkoptions, drawn
from rngru.state import ModelState
from rngru.sweeps.ledger import Ledger, Search, begun, counted, quiet
from rngru.sweeps.space import VARIED
from rngru.workdir import Workdir

ROUNDS: Final = 8
"""Validations of each trial; after each it may be pruned."""

SYMBOLS: Final = 2_000
"""Symbols of validation text that are read each time, for each second of training."""

LEAST: Final = 5_000


def rounds(seconds: float, batch: float) -> int:
    """Return how many batches, of so many seconds each, a round has."""
    return max(1, int(seconds / ROUNDS / batch))


def main(folder: str, trials: str, index: str, device: str = "") -> None:
    """Work on a sweep, until ``trials`` are tried or standard input is closed; on one GPU if it is named.

    That happens when the process that began it stops the sweep, and also when it dies.
    """
    over = threading.Event()

    def watch() -> None:
        # Not through sys.stdin, whose lock would be held when the process ends.
        while os.read(0, 1000):
            pass
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    if device:
        ondevice(int(device))
    with quiet():
        work(Ledger(Path(folder)), int(trials), int(index), over.is_set)


def work(ledger: Ledger, trials: int, index: int, over: Callable[[], bool]) -> None:
    """Try one model after the other, until there are so many ``trials``, or it is ``over``."""
    from optuna.trial import TrialState

    search = ledger.read()
    base = Workdir(ledger.text)
    model = base.resume()
    corpus = base.corpus(model.chars, model.corpus)
    if corpus is None:
        raise InputError(f"{base.data} does not hold the text of this sweep.")
    tried = len(ledger.study().get_trials(deepcopy=False))
    seed = np.random.SeedSequence([search.seed, index, tried]).generate_state(1)
    study = ledger.study(int(seed[0]))
    while not over() and counted(study, search.seconds) < trials:
        trial = begun(study)
        if counted(study, search.seconds, before=trial.number) >= trials:
            study.tell(trial, state=TrialState.FAIL)  # another process was faster
            break
        judge = Judge(trial, search.seconds, over)
        try:
            _try(ledger.place(trial.number), corpus, search, trial, judge)
        except (NumericsError, InputError) as problem:  # these values do not work, or not together
            trial.set_user_attr("problem", str(problem).splitlines()[0])
            study.tell(trial, state=TrialState.PRUNED)
            continue
        if over():
            study.tell(trial, state=TrialState.FAIL)
        elif judge.pruned or not judge.losses:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, min(loss for _, loss in judge.losses))


@final
class Judge:
    """A listener that tells Optuna the validation losses of a trial, and ends it if they are too high.

    Parameters
    ----------
    trial: Optuna's.
    seconds: how long it trains.
    over: whether the whole sweep is to stop.
    """

    def __init__(self, trial: Any, seconds: float, over: Callable[[], bool]) -> None:
        self._trial, self._slice, self._over = trial, seconds / ROUNDS, over
        self._step = 0
        self.losses: list[tuple[float, float]] = []
        self.pruned = False

    def __call__(self, event: Event) -> str:
        """Hear an event; return why to stop, if so."""
        if isinstance(event, Batch) and self._over():
            return "the sweep was stopped"
        if not isinstance(event, Round) or event.validloss is None:
            return ""
        self.losses.append((event.seconds, event.validloss))
        self._trial.set_user_attr("losses", self.losses)
        # Trials are compared at the same time, not after as many batches.
        step = round(event.seconds / self._slice)
        if step <= self._step:
            return ""
        self._step = step
        self._trial.report(event.validloss, step)
        self.pruned = step < ROUNDS and self._trial.should_prune()
        return "others were better by then" if self.pruned else ""


def _try(place: Path, corpus: Corpus, search: Search, trial: Any, judge: Judge) -> None:
    """Train one model."""
    values: dict[str, Any] = {name: setting.default for name, setting in VARIED.items()}
    values |= {**search.fixed, **search.space.suggested(trial)}
    lanes, seq_len = values["batchsize"], values["seq_len"]
    ms = _new(place, corpus, search.seed, values)
    batch = ms.traintime(batchsize=lanes, batches=3).seconds
    ms.trainmodel(
        batchsize=lanes,
        train_len=rounds(search.seconds, batch),
        valid_len=-(-max(int(SYMBOLS * search.seconds), LEAST) // (lanes * seq_len)),
        print_every=0,
        max_seconds=search.seconds,
        keep=1,
        keep_best=True,
        save_every=1e9,
        listen=judge,
        report="silent",
    )
    # What suits a trial, such as no save for hours, must not hold when its model is trained on.
    ms._become(replace(ms._model, plan={"batchsize": lanes}))
    ms.newcheckpoint()


def _new(place: Path, corpus: Corpus, seed: int, values: dict[str, Any]) -> ModelState:
    """Make a model of the text, which is encoded already."""
    hyper = {name: values[name] for name in HyperParams.settings() if name in values}
    checkoptions(values["modeltype"], values["seq_len"], values["backend"], hyper, set())
    disk = Workdir(place)
    with disk.locked(new=True):
        _share(corpus.folder, disk.data)
        own = Corpus.open(disk.data, corpus.vocab)
        model = drawn(
            own, modeltype=values["modeltype"], hyperparams=hyper, seq_len=values["seq_len"],
            backend=values["backend"], rng=np.random.default_rng(seed), show=lambda event: None,
        )  # fmt: skip
        own = disk.install(model, own)
    return ModelState(disk, model, own, "silent")


def _share(text: Path, folder: Path) -> None:
    """Let a folder hold the same encoded text: the same files, where the file system can do that."""
    folder.mkdir(parents=True)
    for path in text.iterdir():
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copy2(path, folder / path.name)
