"""The history of a working directory: one line of JSON for each round of training.

Every line names the line it follows, for after an older checkpoint has been restored the rounds of the
run that was left are still there.
"""

import json
import math
from collections import deque
from dataclasses import asdict, fields
from pathlib import Path
from typing import IO, Any

from rngru.disk import plainly, settle, sync
from rngru.errors import CheckpointTooNew
from rngru.events import Round
from rngru.report import History
from rngru.text import LEVELS

FORMAT = 1
VERSION = {"format": FORMAT, "needs": "0.1"}

POINTS = 50
"""Points of the loss curve that are kept of a round, at most."""

_UNITS = [level.units for level in LEVELS.values()]
_WHOLE = {"round", "position", "characters"}
_ABSENT: dict[str, Any] = {
    "round": 0,
    "epoch": 0.0,
    "bits": None,
    "learnrate": 0.0,
    "gradnorm": 0.0,
}
_ABSENT |= {"characters": 0, "seconds": 0.0, "checkpoint": None}


class Journal:
    """The file ``history.jsonl``.

    Parameters
    ----------
    path: the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, line: int, units: str) -> History:
        """Return the rounds of training that led to the one on ``line``.

        ``units`` are those of rounds that do not say theirs.

        Raises
        ------
        CheckpointTooNew
            If a newer rngru wrote one of them in a format of its own.
        """
        try:
            with self._open("r") as stream:
                lines = stream.readlines()
        except OSError:
            return History(reason="past")
        found, number = [], min(line, len(lines))
        while number > 0:
            entry = _entry(lines[number - 1], f"{self.path}, line {number}", units)
            if entry is not None:
                found.append(entry)
            # Never forwards: in a history begun anew a line may follow one that is gone.
            number = number - 1 if entry is None else min(entry[2], number - 1)
        points = [point for _, curve, _ in reversed(found) for point in curve]
        return History(
            [done for done, _, _ in reversed(found)],
            positions=[int(position) for position, _ in points],
            losses=[loss for _, loss in points],
            reason="past",
        )

    def write(self, done: Round, curve: list[tuple[int, float]], follows: int) -> int:
        """Append a round, with some points of its loss curve, and return the line it is on.

        ``curve`` has position and loss of each batch; ``follows`` is the line of the round before.
        """
        width = -(-len(curve) // POINTS) or 1
        chunks = [curve[i : i + width] for i in range(0, len(curve), width)]
        points = [(c[-1][0], math.fsum(loss for _, loss in c) / len(c)) for c in chunks]
        entry = VERSION | asdict(done) | {"curve": points, "follows": follows}
        with self._open("a+") as stream:
            stream.seek(0)
            # Not all at once: after a year there are many.
            count, last = (deque(enumerate(stream, 1), maxlen=1) or [(0, "\n")])[0]
            if not last.endswith("\n"):
                stream.write("\n")
            stream.write(json.dumps(entry, allow_nan=False) + "\n")
            settle(stream, self.path.parent)
        if not count:
            sync(self.path.parent)
        return count + 1

    def _open(self, mode: str) -> IO[str]:
        return open(self.path, mode, encoding="utf-8", errors="replace", opener=plainly)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < 1 << 62  # neither infinite nor NaN


def _sound(values: dict[str, Any]) -> bool:
    """Whether what a line says of a round has the types that it should have."""
    optional = ("validloss", "bits", "trained")
    checkpoint, units, *losses = map(values.get, ("checkpoint", "units", *optional))
    needed = values.keys() - {"checkpoint", "units", *optional}
    return (
        all(_number(values[name]) for name in needed)
        and all(loss is None or _number(loss) for loss in losses)
        and (checkpoint is None or isinstance(checkpoint, str))
        and units in _UNITS
    )


def _entry(
    line: str, where: str, units: str
) -> tuple[Round, list[tuple[float, float]], int] | None:
    """Return (round, curve, line it follows), or None for a line that was cut short or spoilt."""
    try:
        entry = json.loads(line)
        form, needs = entry.get("format", FORMAT), entry.get("needs")
        if type(form) is int and form > FORMAT and isinstance(needs, str):
            raise CheckpointTooNew.told(where, form, FORMAT, needs)
        values: dict[str, Any]
        values = {each.name: entry.get(each.name, _ABSENT.get(each.name)) for each in fields(Round)}
        values["units"] = entry.get("units", units)
        points = [(position, loss) for position, loss in entry["curve"]]
        good = all(_number(each) for point in points for each in point) and _sound(values)
        if not good or type(entry["follows"]) is not int:
            return None
        values |= {name: int(values[name]) for name in _WHOLE}
        return Round(**values), points, entry["follows"]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return None
