"""Encoding a text: 200 MB of it at every level, in a process of its own, on one core.

The text is made of fifty thousand words, the nth of them about 1/n as frequent as the first, with
punctuation and lines. It is read twice, to count its symbols and to write their ids; the figure is
the speed of the slower pass, in bytes of the text for each second of the processor. Resident memory
is the peak as the kernel counted it.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from tests.benchmarks.clock import Figure, Options, child

LEVELS = ("char", "word", "byte")
MEGABYTES = 200
FASTEST, MOST = 60.0, 500.0

CODE = """
import re
import sys
import time
from pathlib import Path
from rngru.corpus import encodecorpus
source, folder, level = sys.argv[1:]
marks = [time.process_time()]
def progress(done, total):
    if 2 * done >= total * len(marks):
        marks.append(time.process_time())
corpus = encodecorpus(source, folder, level=level, progress=progress)
peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
print(max(marks[1] - marks[0], time.process_time() - marks[1]), peak)
"""


def figures(options: Options) -> Iterator[Figure]:
    """Measure every level."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "text.txt"
        _write(source)
        size = source.stat().st_size / 1e6
        for level in LEVELS:
            found = []
            for run in range(min(options.runs, 3)):
                _, told = child(CODE, source, Path(folder) / f"{level}{run}", level)
                found.append(tuple(map(float, told.split())))
            seconds, peak = (median(each) for each in zip(*found, strict=True))
            note = f"{size:.0f} MB, {peak / 1024:.0f} MiB resident"
            yield Figure(
                f"encoding, {level}", size / seconds, "MB/s", FASTEST, detail={"note": note}
            )
            yield Figure(
                f"memory while encoding, {level}", peak / 1024, "MiB", MOST, most=True,
                detail={"note": note},
            )  # fmt: skip


def _write(path: Path) -> None:
    """Write the text, some ten megabytes at a time."""
    rng = np.random.default_rng(5)
    letters = rng.choice(list("etaoinshrdlucmfwypvbgkqjxzé"), (50_000, 10))
    lengths = rng.integers(2, 11, len(letters))
    words = ["".join(row[:n]) for row, n in zip(letters, lengths, strict=True)]
    chances = 1 / np.arange(1, len(words) + 1)
    gaps = [" "] * 16 + [", ", ". ", "; ", "\n"]
    with path.open("w", encoding="utf-8") as stream:
        while stream.tell() < MEGABYTES * 1_000_000:
            chosen = rng.choice(len(words), 1_500_000, p=chances / chances.sum()).tolist()
            between = rng.integers(0, len(gaps), len(chosen)).tolist()
            stream.writelines(words[i] + gaps[j] for i, j in zip(chosen, between, strict=True))
