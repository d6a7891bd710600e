"""The processes that train one model together, and what they must agree on.

Each computes some lanes of every batch, so all must do the same at the same time. What only one of them
knows (that somebody pressed Ctrl-C there, or what its clock says) rides along in the sum of the
gradients: with the next batch all of them know.

>>> TEAM.count, TEAM.leads
(1, True)
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import numpy as np

from rngru.errors import InputError


@final
class Team:
    """This process among those that train one model together; mostly there is no other.

    Attributes
    ----------
    count, process : int
        How many there are, and which this is. Process 0 writes checkpoints and reports.
    version : str
        That of JAX.
    gather : callable
        Returns the (n,) numbers of all processes as (count, n).
    part : callable
        Ends working together, in all processes at a time.
    """

    WORDS: Final = 4
    """How many numbers ride along: whether to stop, to stop at once, a listener's wish, and seconds."""

    def __init__(self) -> None:
        self.count, self.process = 1, 0
        self.gather: Callable[[np.ndarray], np.ndarray] = lambda own: own[np.newaxis]
        self.version = ""
        self.part: Callable[[], object] = lambda: None
        self._own: Callable[[], list[float]] = list
        self._heard = np.zeros(self.WORDS, np.float32)

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.process == 0

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            self.gather(np.zeros(1, np.float32))

    def finish(self) -> None:
        """Part if one of the processes is about to end, by SIGTERM say: it would be taken for dead."""
        if self._heard[1]:
            self.part()

    def say(self) -> np.ndarray:
        """Return what this process has to say with a batch, (WORDS,), float32."""
        return np.array(self._own() or [0.0] * self.WORDS, np.float32)

    def hear(self, total: np.ndarray) -> None:
        """Take note of what all have said, added up."""
        self._heard = np.asarray(total)

    def agreed(
        self,
        asked: Callable[[], bool],
        again: Callable[[], bool],
        told: Callable[[], str],
        clock: Callable[[], float],
    ) -> dict[str, Any]:
        """Return these as all processes see them: what any has said, and the time of the first.

        They are the arguments of those names of a :class:`~rngru.training.Session`.
        """
        if self.count == 1:
            return {"asked": asked, "again": again, "told": told, "clock": clock}
        began = clock()
        self._heard = np.zeros(self.WORDS, np.float32)

        def own() -> list[float]:
            seconds = clock() - began if self.leads else 0.0
            return [float(asked()), float(again()), float(bool(told())), seconds]

        self._own = own
        return {
            "asked": lambda: bool(self._heard[0]),
            "again": lambda: bool(self._heard[1]),
            "told": lambda: (told() or "another process") if self._heard[2] else "",
            "clock": lambda: float(self._heard[3]),
        }

    def compare(self, facts: Mapping[str, object]) -> None:
        """Refuse to go on if a fact is not the same in all processes.

        Raises
        ------
        InputError
            In all of them, naming the processes and what differs.
        """
        if self.count == 1:
            return
        facts = {**facts, "the version of JAX": self.version}
        digests = [hashlib.blake2b(repr(each).encode(), digest_size=4) for each in facts.values()]
        own = np.array([int.from_bytes(each.digest(), "little") for each in digests], np.uint32)
        found = self.gather(own)
        wrong = [
            f"process {process}: {', '.join(name for name, same in zip(facts, row, strict=True) if not same)}"
            for process, row in enumerate(found == found[0])
            if not row.all()
        ]
        if wrong:
            raise InputError(
                f"The processes do not train the same model. Not as in process 0: {'; '.join(wrong)}. "
                "Give all of them the same text, version, settings and checkpoints."
            )


TEAM: Final = Team()
"""The one that this process is in; :func:`rngru.distributed` joins it to others."""
