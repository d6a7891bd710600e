"""Timing that a noisy machine cannot fool much, and the limits of the machine it runs on.

Whatever is compared is timed in turns (:func:`interleaved`), so that a slow minute falls on all
sides alike; a figure is a median, and a comparison also tells the range of the paired ratios.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from rngru.kernels.target import TARGET

ROOT = Path(__file__).parents[2]

WARMUPS = 2
"""Rounds of each comparison that do not count."""

PAUSE = 0.05
"""Seconds between two sides: OpenMP and OpenBLAS let idle threads spin for some milliseconds, and
those of one side must not slow the next."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for.

    Counted ``runs`` of each comparison, and ``threads``. For ``learning`` which ``rows``, the
    ``seconds`` of each if not its own, and the paths of its ``texts``.
    """

    runs: int
    threads: int
    rows: str = ""
    seconds: float | None = None
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    ``target`` is None where there is none; ``most`` says that the target is an upper limit.
    ``detail`` holds what the number was made of; its texts are shown beside it.
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    most: bool = False
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        if self.target is None:
            return None
        return self.value <= self.target if self.most else self.value >= self.target


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let rngru, torch and NumPy's BLAS use ``count`` threads each."""
    before = os.environ.get("RNGRU_THREADS"), torch.get_num_threads()
    os.environ["RNGRU_THREADS"] = str(count)
    torch.set_num_threads(count)
    with threadpool_limits(count, user_api="blas"):
        yield
    torch.set_num_threads(before[1])
    del os.environ["RNGRU_THREADS"]
    if before[0] is not None:
        os.environ["RNGRU_THREADS"] = before[0]


def interleaved(
    sides: Mapping[str, Callable[[], object]], runs: int, *, warmups: int = WARMUPS
) -> dict[str, list[float]]:
    """Time each side once per round, for ``runs`` rounds after the warm-ups; seconds by side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(warmups + runs):
        for name, call in sides.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            call()
            if i >= warmups:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    """Return ``call``, done ``times`` times over."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def compared(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, str]:
    """Return the ratio of the medians, and in words the range of the paired ratios."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return median(slow) / median(fast), f"pairs {min(ratios):.2f}..{max(ratios):.2f}"


def child(code: str, *arguments: object, **environment: str) -> tuple[float, str]:
    """Run Python code in a process of its own, from the root: wall seconds, what it printed."""
    environment = os.environ | environment
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process would translate all source
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return time.perf_counter() - began, done.stdout.strip()


@dataclass(slots=True)
class Disturbance:
    """Per cent of the machine's processor time that went elsewhere: to other processes, and to
    other machines of the same host.
    """

    others: float = 0.0
    stolen: float = 0.0

    def __str__(self) -> str:
        return f"other processes {self.others:.0f} %, stolen {self.stolen:.0f} % of the machine"


@contextmanager
def undisturbed() -> Iterator[Disturbance]:
    """Measure what else the machine did meanwhile; known on leaving."""

    def ticks() -> tuple[int, int, int]:
        user, nice, system, idle, wait, irq, soft, steal = map(
            int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        )
        work = user + nice + system + irq + soft
        return work, steal, work + idle + wait + steal

    found = Disturbance()
    own, before = sum(os.times()[:4]), ticks()
    yield found
    work, stolen, total = (now - then for now, then in zip(ticks(), before, strict=True))
    own = (sum(os.times()[:4]) - own) * os.sysconf("SC_CLK_TCK")
    found.others = max(0.0, 100 * (work - own) / total)
    found.stolen = 100 * stolen / total


SGEMM = """
import sys
import numpy as np
a = np.random.default_rng(0).random((2048, 2048), np.float32)
out = np.empty_like(a)
for _ in sys.stdin:
    np.matmul(a, a, out=out)
    print(flush=True)
"""
SGEMM_FLOPS = 2 * 2048**3


@contextmanager
def sgemms(count: int) -> Iterator[dict[str, Callable[[], object]]]:
    """Give calls that do one large sgemm each, on ``count`` threads, by whose it is.

    NumPy's, as installed; where AVX-512 is compiled for, also with OpenBLAS's kernels for it,
    which it does not choose on every such processor; and torch's. NumPy's run in processes of
    their own, for OpenBLAS chooses its kernels when it is loaded; asking costs microseconds.
    """
    kinds: dict[str, dict[str, str]] = {"NumPy": {}}
    if TARGET.name == "AVX-512":
        kinds["AVX-512"] = {"OPENBLAS_CORETYPE": "SkylakeX"}
    a = torch.rand(2048, 2048)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for name, environment in kinds.items():
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SGEMM],
                    env=os.environ | environment | {"OPENBLAS_NUM_THREADS": str(count)},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )  # fmt: skip
            )

            def ask(process: subprocess.Popen = process) -> None:
                assert process.stdin is not None and process.stdout is not None
                process.stdin.write("\n")
                if not process.stdout.readline():
                    raise RuntimeError(f"the sgemm process ended with {process.wait()}")

            calls[name] = ask
        yield calls | {"torch": lambda: a @ a}


def machine() -> dict[str, Any]:
    """Say what the figures were measured on and with."""
    import platform
    from importlib.metadata import version

    names = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    packages = ("rngru", "numpy", "numba", "pytensor", "jax", "torch")
    return {
        "processor": names[0].split(":")[1].strip(),
        "instructions": str(TARGET),
        "cores": len(os.sched_getaffinity(0)),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }
