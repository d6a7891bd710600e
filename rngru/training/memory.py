"""What a batch needs in memory, and what there is: known before it is tried.

Where memory runs out, the system ends the process, and no error says why.
"""

from pathlib import Path

from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.models import Model

SMALL = 1 << 28
"""Bytes that are tried without a look at what is free."""


def needed(model: Model, hyper: HyperParams, lanes: int, steps: int) -> int:
    """Return about how many bytes the arrays of one training step take.

    Those that grow with the batch: of each layer its gates, its states, what it keeps beside them and
    their gradient, and what layer norm makes of them; the logits and their gradient.

    >>> from rngru.models import MODELS
    >>> needed(MODELS["GRUEncode"], HyperParams(66, 512), 64, 100) // 2**20
    153
    """
    layer = (model.spec(hyper).gates + (21 if hyper.layernorm else 3)) * hyper.state_size
    numbers = model.depth(hyper) * layer + 2 * hyper.vocab_size
    return 4 * lanes * steps * numbers


def available() -> int | None:
    """Return how many bytes this process may still take; None where nobody says.

    That is what the system has left, or what is left of a container's limit.
    """
    free = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = (group / "memory.current").read_text(encoding="ascii").strip()
        free += [int(limit) - int(used)] if limit != "max" else []
    except (OSError, ValueError, IndexError):
        pass
    return min(free, default=None)


def checkmemory(model: Model, hyper: HyperParams, lanes: int, steps: int) -> None:
    """Refuse a batch that does not fit into memory.

    Raises
    ------
    InputError
        With what it needs and what is free.
    """
    wanted = needed(model, hyper, lanes, steps)
    free = available() if wanted > SMALL else None
    if free is not None and wanted > free:
        raise InputError(
            f"A batch of {lanes} x {steps} does not fit into memory: it needs about "
            f"{wanted / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. {SMALLER}"
        )


SMALLER = "Choose a smaller batchsize, or make the model with a smaller seq_len."
