"""The backend ``'jax'``, on whatever device JAX finds first.

On a GPU, against torch on the same one, where ``nn.GRU`` is cuDNN's: with products in float32 and in TF32,
the same on both sides. cuDNN has its reset gate after the product, as ``reset_after`` has it: that is one
product a step, where the default has two. Each step waits for its loss, on both sides.

Without a GPU, against the backend ``'cpu'``.
"""

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import jax
import torch

from tests.benchmarks.cases import Case
from tests.benchmarks.clock import Figure, Options, compared, interleaved, repeated, threads
from tests.benchmarks.ours import Rngru
from tests.benchmarks.theirs import Torch

SMALL, LARGE, WIDE = (
    Case("GRU", 16, 100, 128, 2),
    Case("GRU", 64, 100, 512, 2),
    Case("GRU", 128, 200, 1024, 2),
)
FORMS: list[tuple[Case, dict[str, Any]]] = [
    (LARGE, {}), (LARGE, {"reset_after": True}), (WIDE, {}), (WIDE, {"reset_after": True}),
    (Case("LSTM", 64, 100, 512, 2), {}),
]  # fmt: skip
PRECISIONS = {"float32": False, "tf32": True}

STREAMS, CHARACTERS = 256, 256


def figures(options: Options) -> Iterator[Figure]:
    """Measure steps, the kernels of one, and text of many streams."""
    if jax.default_backend() == "gpu":
        for precision, coarse in PRECISIONS.items():
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = coarse
            for case, more in FORMS:
                yield from _step(case, options, precision=precision, **more)
            yield _text(options, precision)
        return
    for case in (SMALL, LARGE):
        with threads(options.threads):
            ours, other = (repeated(Rngru(case, name).step, 3) for name in ("jax", "cpu"))
            seconds = interleaved({"jax": ours, "cpu": other}, options.runs)
        ratio, pairs = compared(seconds["jax"], seconds["cpu"])
        ms = {side: 1000 * median(each) / 3 for side, each in seconds.items()}
        note = f"{ms['jax']:.1f} ms, 'cpu' {ms['cpu']:.1f} ms; {pairs}"
        name = f"step {case}, time of 'cpu'"
        yield Figure(name, ratio, "x", detail={"note": note, "ms": ms})


def _step(case: Case, options: Options, **more: Any) -> Iterator[Figure]:
    ours, theirs = Rngru(case, "jax", **more), Torch(case, "cuda")
    seconds = interleaved(
        {"rngru": repeated(ours.step, 5), "theirs": repeated(theirs.step, 5)}, options.runs
    )
    ratio, pairs = compared(seconds["theirs"], seconds["rngru"])
    ms = {side: 200 * median(each) for side, each in seconds.items()}
    name = f"step {case}, {', '.join(map(str, more.values())).replace('True', 'reset_after')}"
    note = f"{ms['rngru']:.1f} ms, torch {ms['theirs']:.1f} ms; {pairs}"
    yield Figure(name, ratio, "x", 1.0, detail={"note": note, "ms": ms})
    count = _kernels(ours)
    note = f"{count / (2 * case.layers * case.steps):.1f} for each layer, time step and direction"
    yield Figure(f"kernels, {name}", count, "", detail={"note": note})


def _kernels(ours: Rngru) -> int:
    """Return how many kernels a step starts on the GPU, as JAX's own profiler sees it."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            ours.step()
        (path,) = Path(folder).rglob("perfetto_trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    named = [(each, each["args"].get("name")) for each in events if each.get("ph") == "M"]
    streams = {(each["pid"], each.get("tid")) for each, name in named if "Stream" in str(name)}
    return sum(each.get("ph") == "X" and (each["pid"], each["tid"]) in streams for each in events)


def _text(options: Options, precision: str) -> Figure:
    case = Case("GRU", 1, 1, 256, 2)
    ours, theirs = Rngru(case, "jax", precision=precision), Torch(case, "cuda")
    sides = {
        "rngru": lambda: ours.generate(CHARACTERS, STREAMS),
        "theirs": lambda: theirs.generate(CHARACTERS, STREAMS),
    }
    seconds = interleaved(sides, options.runs)
    ratio, pairs = compared(seconds["theirs"], seconds["rngru"])
    rates = {side: STREAMS * CHARACTERS / median(each) for side, each in seconds.items()}
    note = f"{rates['rngru']:,.0f} characters a second, torch {rates['theirs']:,.0f}; {pairs}"
    return Figure(
        f"text of {STREAMS} streams, 256, 2, {precision}", ratio, "x", 10, detail={"note": note}
    )
