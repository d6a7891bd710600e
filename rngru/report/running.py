"""Training that goes on while the prompt is free.

>>> run = Running(lambda hear, asked: History(reason="done"))
>>> run.wait()
0 rounds: all done.
>>> run.running
False
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, final

from rngru.events import Batch, Event, Notice
from rngru.interrupts import ENDS
from rngru.report.history import History, Recorder
from rngru.report.live import Meter

Hear = Callable[[Event], object]

PATIENCE = 10.0
"""Seconds that the prompt waits for the first batch, at most: what is wrong is mostly seen by then."""


@final
class Running:
    """A call to train that goes on in a thread of its own; at the prompt it says where it stands.

    Ctrl-C at the prompt does not reach it. When Python ends, on SIGTERM and
    when the terminal is closed, it stops after its batch and saves first.

    Parameters
    ----------
    work : callable
        Trains: called with a function to pass each event to, and one that says
        whether to stop.

    Raises
    ------
    RngruError
        What ``work`` raises before its first batch.
    """

    def __init__(self, work: Callable[[Hear, Callable[[], bool]], History]) -> None:
        self._work, self._meter, self._recorder = work, Meter(), Recorder()
        self._asked, self._begun = threading.Event(), threading.Event()
        self._history: History | None = None
        self._error: BaseException | None = None  # set by the thread
        self._notices: list[str] = []
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in ENDS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._terminate)
        self._thread = threading.Thread(target=self._run, name="rngru-background")
        try:
            self._thread.start()
            self._begun.wait(PATIENCE)
        except BaseException:  # Ctrl-C: nobody gets this object, so nobody could stop it later
            self._asked.set()
            if self._thread.is_alive():
                self._thread.join()
            raise
        self._check()

    @property
    def running(self) -> bool:
        """Whether it is still training."""
        return self._thread.is_alive()

    @property
    def history(self) -> History:
        """What has been trained so far."""
        return self._recorder.history() if self._history is None else self._history

    def stop(self) -> History:
        """Stop after the current batch, as Ctrl-C would, and return the history when it is saved."""
        self._asked.set()
        return self.wait()

    def wait(self, seconds: float | None = None) -> History:
        """Wait until it is over, or for so many seconds; return the history so far.

        Ctrl-C ends the waiting, and not the training.

        Raises
        ------
        RngruError
            What ended the training, if anything went wrong.
        """
        self._thread.join(seconds)
        self._giveback()
        self._check()
        return self.history

    def _giveback(self) -> None:
        """Let signals do what they did before, once it is over; only the main thread may say so."""
        if self.running or threading.current_thread() is not threading.main_thread():
            return
        for number, before in self._before.items():
            if signal.getsignal(number) == self._terminate:
                signal.signal(number, signal.SIG_DFL if before is None else before)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        if self._error is not None:
            return f"Training ended: {type(self._error).__name__}: {self._error}"
        if not self.running:
            return repr(self.history)
        words = self._meter.words()
        told = "".join(f"{text}\n" for text in self._notices[-3:])
        return f"{told}training, {self._meter.share:.0%}: {words}\nrun.stop() ends it, run.wait() waits."

    def _run(self) -> None:
        try:
            self._history = self._work(self._hear, self._stopping)
        except BaseException as error:  # raised by whoever waits
            self._error = error
        finally:
            self._begun.set()

    def _hear(self, event: Event) -> None:
        self._meter.follow(event)
        self._recorder(event)
        if isinstance(event, Notice):
            self._notices.append(event.text)
        if isinstance(event, Batch):
            self._begun.set()

    def _stopping(self) -> bool:
        """Whether to stop: somebody said so, or Python is at its end and waits for its threads."""
        return self._asked.is_set() or not threading.main_thread().is_alive()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Save, then do what the signal does otherwise."""
        self._asked.set()
        self._thread.join()
        before = self._before[number]
        signal.signal(number, signal.SIG_DFL if before is None else before)
        signal.raise_signal(number)
