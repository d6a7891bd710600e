"""What the tests of robustness share: a run that nobody disturbs, and test files run as programs.

A model that was interrupted, killed or used by two at a time is held against a :class:`Straight` run:
the :func:`digest` of both is the same after as many batches, or something was torn or lost.
"""

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rngru
from rngru import models
from rngru.backends import backend
from rngru.training import Progress, Run
from rngru.workdir import Workdir

LANES = 2
FOREVER = 10**7
QUIET = {"print_every": 0, "report": "silent"}
"""Options of ``trainmodel`` for a call that says nothing."""

VERSE = (Path(__file__).parent / "verse.txt").read_text(encoding="utf-8")
PATIENCE = 150
"""Seconds without an answer after which something is said to hang."""


def digest(model):
    """SHA-256 of all that training changes, of a model or of its progress."""
    now = model if isinstance(model, Progress) else model._model.progress
    found = hashlib.sha256(repr((now.batches, now.position)).encode())
    for arrays in (now.arrays, *now.caches.values(), {"state": now.state}):
        for name, array in arrays.items():
            found.update(name.encode() + (b"none" if array is None else array.tobytes()))
    return found.hexdigest()


def taken(model):
    """How many batches a model was trained on."""
    return model._model.progress.batches


class Straight:
    """The run that nobody disturbs and that saves nothing, computed as far as it is asked for.

    It begins with the new model that a directory holds, and takes one step after the other: no rounds,
    no validation. ``losses`` has that of each batch; the first is None.
    """

    def __init__(self, folder, lanes=LANES):
        disk = Workdir(folder)
        model = disk.load()
        kind = models.named(model.modeltype)
        self._run = Run(
            backend(model.backend, kind, model.made),
            disk.corpus(model.chars, model.corpus).train,
            model.progress,
            hyper=model.made,
            seed=model.seed,
        )
        assert model.progress.batches == 0, "it begins at the beginning"
        self._lanes, self._length = lanes, model.seq_len
        self._digests, self.losses = [digest(model.progress)], [None]

    def at(self, batches):
        """Digest after so many batches."""
        run, size = self._run, self._lanes * self._length
        while len(self._digests) <= batches:
            step = run.propose(self._lanes, self._length, run.progress.learnrate)
            run.take(step, size)
            assert run.progress.position == size * run.progress.batches, "it has lost count"
            self._digests.append(digest(run.progress))
            self.losses.append(step.loss / size)
        return self._digests[batches]

    def holds(self, model):
        """Whether a model is what this run was after as many batches."""
        return digest(model) == self.at(taken(model))


def together(*calls):
    """Run calls in threads of their own; return what they return, or raise what one of them raises."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def until(condition):
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.001)


def program(file, *arguments, environment=None, **options):
    """Start a test file as a program in which warnings are errors, with pipes to talk to it by lines."""
    # The package that is tested here, then these tests.
    roots = dict.fromkeys(str(Path(each).parents[1]) for each in (rngru.__file__, __file__))
    path = os.pathsep.join(filter(None, [*roots, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(file), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | (environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        **options,
    )
