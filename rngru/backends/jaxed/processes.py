"""Several processes, on one host or on several, as one set of devices."""

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, final

import jax
import numpy as np

from rngru.backends.team import TEAM
from rngru.errors import InputError, RngruError

HEARTBEAT = 30
"""Seconds after which a process that is not heard of is taken for dead, and the others end."""


_PID = os.getpid()

GONE: Final = "The same command goes on from the last checkpoint."


@final
class Witness:
    """A process of its own, which says what became of this one where it ends without a word.

    Where another process is not heard of any more, XLA ends this one at once, with a page of its own; even
    while we say that ourselves.
    """

    _CODE: Final = "import sys; sys.stdin.read() or sys.stderr.write(sys.argv[1])"

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, words: str) -> None:
        """Be there from now on."""
        command = [sys.executable, "-I", "-S", "-c", self._CODE, words]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def dismiss(self) -> None:
        """Say nothing: this process ends as it should, or says itself what to do."""
        if self._process is not None:
            self._process.communicate(b".")
            self._process = None


WITNESS: Final = Witness()


def check() -> None:
    """Raise RngruError in a forked process: the threads of JAX are in the other, and would be waited for."""
    if os.getpid() != _PID:
        raise RngruError(
            "JAX was imported before this process was forked, and cannot compute here. Start processes "
            "anew, as multiprocessing.get_context('spawn') does, or load the model with backend='cpu'."
        )


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join this process to the others; returns when all are there.

    See :func:`rngru.distributed`.
    """
    if TEAM.count > 1:
        raise InputError("This process works together with others already.")
    # It would take SIGTERM for itself, and nothing would be saved.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            # Never to all interfaces: nobody has to show who they are.
            coordinator_bind_address=coordinator,
            heartbeat_timeout_seconds=int(os.environ.get("RNGRU_HEARTBEAT", HEARTBEAT)),
        )
    except (RuntimeError, ValueError) as problem:
        raise InputError(
            f"The processes do not come together: {problem}. Start all of them with the same "
            "coordinator and processes, each with a process of its own from 0 on, before anything "
            "is computed."
        ) from problem
    TEAM.count, TEAM.process = jax.process_count(), jax.process_index()
    TEAM.gather, TEAM.part = _gathered, _part
    TEAM.version = jax.__version__
    WITNESS.begin(
        f"rngru: Process {TEAM.process} of {TEAM.count} has ended before its time. If nothing above says "
        f"why, it was killed, or another process has ended or cannot be reached. {GONE}\n"
    )
    atexit.register(_part)


@contextmanager
def failing(advice: Callable[[], str] = str) -> Iterator[None]:
    """Say in words what JAX says of a device without memory, and of others that are gone.

    ``advice`` says what to do where memory runs out, '' if nothing is known.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as problem:
        # Where a call itself fails, JAX raises ValueError, with the same words: "UNKNOWN: …".
        if isinstance(problem, ValueError) and not str(problem).partition(":")[0].isupper():
            raise
        if TEAM.count > 1:
            atexit.register(_leave)
        if "RESOURCE_EXHAUSTED" in str(problem):
            WITNESS.dismiss()
            told = ""
            with suppress(jax.errors.JaxRuntimeError):  # to compile takes memory, too
                told = advice()
            raise (InputError(told) if told else MemoryError(str(problem))) from problem
        if TEAM.count == 1:
            raise
        raise RngruError(
            f"Another process of this run has ended, or cannot be reached. {GONE} "
            f"({str(problem).splitlines()[0]:.200})"
        ) from problem


@failing()
def _part() -> None:
    """Leave the others, as all of them do at a time."""
    jax.distributed.shutdown()
    WITNESS.dismiss()


def _leave() -> None:
    """End at once: JAX would wait for the others first, and then abort."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(1)


@failing()
def _gathered(own: np.ndarray) -> np.ndarray:
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(own))
