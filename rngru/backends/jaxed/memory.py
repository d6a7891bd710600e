"""How many lanes fit into the memory of a device, once so many did not.

>>> fitting(lambda lanes: 100 + 5 * lanes, free=200, tried=64)
16
>>> fitting(lambda lanes: 100 + 5 * lanes, free=100, tried=64)
0
"""

from collections.abc import Callable
from typing import Any

import jax

SPARE = 0.9
"""Share of the free memory that is planned with: there are gaps in it, and cuBLAS takes some as well."""


def fitting(needed: Callable[[int], int], free: int, tried: int) -> int:
    """Return how many lanes fit into ``free`` bytes; 0 if not even one does.

    ``needed`` says how many bytes a step takes with so many lanes, and may take seconds to say so: it is
    asked twice, as memory grows evenly with the lanes, and then whether that is right. More than
    ``tried`` lanes, which did not fit, never do.
    """
    few, room = max(tried // 4, 1), int(SPARE * free)
    base, more = needed(few), needed(2 * few)
    lanes = few + (room - base) * few // max(more - base, 1)
    lanes = min(lanes, int(SPARE * tried))
    while lanes > 0 and needed(lanes) > room:
        lanes = int(SPARE * lanes)
    return max(lanes, 0)


def taken(function: Any, arguments: Any) -> int:
    """Return the bytes that a jitted function takes for arguments of these shapes, and they themselves."""
    found = function.lower(*arguments).compile().memory_analysis()
    return sum(getattr(found, f"{kind}_size_in_bytes") for kind in ("argument", "output", "temp"))


def free() -> int | None:
    """Return the bytes that are free on the fullest device of this process; None where nobody says."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if not all(stats):
        return None
    return min(each["bytes_limit"] - each["bytes_in_use"] for each in stats)
