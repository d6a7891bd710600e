"""Sums over many rows of numbers: products with a few columns of weights, and histograms.

No BLAS: where another program keeps a core busy, its threads wait for each other a hundred times as
long as they compute.
"""

import numpy as np

from rngru.kernels import threads
from rngru.kernels.calls import shared
from rngru.kernels.jobs import Sums
from rngru.kernels.phases import side_by_side
from rngru.kernels.plans import Plan
from rngru.kernels.tiles import provide

BINS = 256
"""Bins of equal width, from -1 to 1."""


def products(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return ``values.T @ weights``, (K, M), for (N, K) and (N, M), float32.

    M must be :func:`~rngru.kernels.tiles.padded`.

    >>> from rngru.kernels.tiles import padded
    >>> products(np.ones((3, 2), np.float32), np.ones((3, padded(1)), np.float32))[0, 0]
    np.float32(3.0)
    """
    provide(values.dtype)
    columns = weights.shape[1]
    result = np.empty((values.shape[1], columns), np.float32)
    plan = Plan(threads.available())
    sums = Sums(plan)
    sums.product([(np.ascontiguousarray(values), weights)], 0, result, 0, columns)
    plan.do(sums.phase())
    plan.run()
    return result


@shared()
def _count(values, groups, counts, first, last):
    """Count the values of columns ``first`` … ``last - 1``."""
    rows, columns = values.shape
    room = counts.size // columns
    one, half = np.float32(1), np.float32(BINS // 2)
    for i in range(rows):
        group = np.int64(groups[i]) * BINS
        for j in range(first, last):
            place = np.int32((values[i, j] + one) * half)
            place = min(max(place, np.int32(0)), np.int32(BINS - 1))
            counts[np.uint64(j * room + group + place)] += 1


def count(values: np.ndarray, groups: np.ndarray, counts: np.ndarray) -> None:
    """Add to ``counts`` (K, G, BINS), int64, where the ``values`` (N, K), float32, of each group lie.

    ``groups`` (N,), uint8, says which of the G groups each row belongs to. What is beyond -1 or 1 is
    counted in the nearest bin.

    >>> counts = np.zeros((1, 2, BINS), np.int64)
    >>> count(np.array([[-1.0], [0.999]], np.float32), np.array([0, 1], np.uint8), counts)
    >>> np.argwhere(counts).tolist()
    [[0, 0, 0], [0, 1, 255]]
    """
    flat, number = counts.reshape(-1), threads.worth(values.size, threads.available())
    calls = [_count.bind(values, groups, flat)]
    threads.do(side_by_side(calls, values.shape[1], number))
