"""Which checkpoint a model was restored to, for whoever loads it next: the file ``restored.json``.

>>> import tempfile
>>> bookmark = Bookmark(Path(tempfile.mkdtemp(), "restored.json"))
>>> bookmark.write(269, newest=497, model="4f2a")
>>> bookmark.step(newest=497, model="4f2a"), bookmark.step(newest=600, model="4f2a")
(269, None)
"""

import json
from pathlib import Path
from typing import final

from rngru.disk import plainly, writeatomic

FORMAT = 1


@final
class Bookmark:
    """A step, good for as long as no newer checkpoint comes.

    Parameters
    ----------
    path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def step(self, newest: int, model: str | None) -> int | None:
        """Return the step, if it was written for this ``model`` and this ``newest`` checkpoint."""
        try:
            with open(self.path, encoding="utf-8", opener=plainly) as stream:
                found = json.loads(stream.read(4096))
            known = found["format"], found["newest"], found["model"]
            step = found["step"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return step if known == (FORMAT, newest, model) and type(step) is int else None

    def write(self, step: int, *, newest: int, model: str | None) -> None:
        """Set it.

        Raises
        ------
        WorkdirError
            If the disk refuses.
        """
        about = {"format": FORMAT, "restored": True, "step": step, "newest": newest, "model": model}
        writeatomic(self.path, json.dumps(about).encode())

    def forget(self) -> None:
        """Remove it, if it is there."""
        self.path.unlink(missing_ok=True)
