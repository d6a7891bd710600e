"""A process that saves checkpoints until it is killed, and acknowledges each on standard output.

``saver.py loop FOLDER`` saves for ever; ``saver.py once FOLDER STEP`` saves one step, and once more
after a refusal. Every checkpoint holds its serial number in its arrays and its metadata.
"""

import itertools
import sys
import warnings

import numpy as np

from rngru import checkpoint
from rngru.errors import CheckpointError


def saveserial(folder: str, step: int, serial: int) -> None:
    arrays = {"w": np.full(3000, serial, "float32"), "n": np.array(serial)}
    checkpoint.save(folder, step, arrays, {"serial": serial, "summary": {"epoch": 0.5}}, keep=2)
    sys.stdout.write(f"saved {serial}\n")
    sys.stdout.flush()


def main(mode: str, folder: str, step: str = "0") -> None:
    if mode == "loop":
        for serial in itertools.count(1):
            saveserial(folder, (serial + 1) // 2, serial)  # every other one replaces the one before
        return
    try:
        saveserial(folder, int(step), 3)
    except CheckpointError as problem:
        sys.stdout.write(f"refused {problem}\n")
        sys.stdout.flush()
        saveserial(folder, int(step), 4)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
