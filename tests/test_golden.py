"""What was computed once is computed still: trained parameters, drawn text and losses, to the bit.

``golden/bits.json`` holds what the first complete state gave. The bits depend on NumPy's own
functions and its BLAS, so they are filed under a probe of those; where the probe is another, numbers
are compared instead. ``python tests/test_golden.py`` adds an entry for the machine it runs on.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rngru import ModelState, Texts, checkpoint

GOLDEN = Path(__file__).parent / "golden" / "bits.json"
VERSE = (Path(__file__).parent / "verse.txt").read_text(encoding="utf-8")

MODELS = ["GRUEncode", "GRUResize", "LSTMEncode", "LSTMResize", "RNNEncode", "RNNResize"]
BOTHWAYS = ["BiGRU", "BiLSTM", "BiRNN"]
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"modeltype": name} for name in (*MODELS, *BOTHWAYS)},
    "adam, cosine, dropout": {"optimizer": "adam", "schedule": "cosine", "dropout": 0.2},
    "adamw, words, locked": {
        "optimizer": "adamw", "dropout": 0.3, "locked": True, "level": "word", "min_count": 2,
    },
    "sgd, bytes, clipnorm": {"optimizer": "sgd", "level": "byte", "clipnorm": 0.5, "clip": None},
    "adagrad, reset after, hard gate": {
        "optimizer": "adagrad", "reset_after": True, "gate": "hard_sigmoid", "bptt_truncate": 4,
    },
    "tied, plateau": {"tied": True, "schedule": "plateau", "learnrate": 0.05},
}  # fmt: skip


def probe() -> str:
    """Name the functions of NumPy and its BLAS that results depend on, by what they give."""
    numbers = np.linspace(-9, 9, 4096, dtype=np.float32)
    matrix = np.sin(np.arange(4096, dtype=np.float64)).astype(np.float32).reshape(64, 64)
    results = [np.tanh(numbers), np.exp(numbers), np.log(numbers + 10), matrix @ matrix]
    results += [matrix[:4, :8] @ matrix[:8, :24], (matrix[:, :8].T @ matrix[:, :8]), matrix.sum(1)]
    return digest(results)[:16]


def digest(arrays: Any) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()


def computed(name: str, backend: str, folder: Path) -> dict[str, Any]:
    """Make, train, load, train on, and use one small model; return what came of it."""
    small = {"state_size": 8, "seq_len": 10, "rng": 1, "report": "silent", "backend": backend}
    small["layers"] = (
        1 if backend == "scan" else 2
    )  # what PyTensor differentiates, it compiles long
    train = {"batchsize": 4, "train_len": 2, "print_every": 0, "report": "silent", "valid_len": 2}
    ms = ModelState.initfromsrcfile(Texts([VERSE]), folder, **small | OPTIONS[name])
    ms.trainmodel(2, **train)
    ms = ModelState.load(folder)
    history = ms.trainmodel(1, **train)
    step = ms.checkpoints()[-1]
    arrays, meta = checkpoint.load(step)
    states, outputs = ms.trackneurons("The ship", temp=1.0, ret_output=True)
    if name in BOTHWAYS:
        texts = [str(ms.fillin("The sh_p and the s_a"))]
    else:
        sample = ms.generatestring(40, temp=1.0, seed="The ", rng=ms.rng)
        more = ms.generatestring(20, temp=0.5, seed="", init_state=sample.state, rng=ms.rng)
        greedy = ms.generatestring(20, temp=0, seed="The ", rng=ms.rng)
        texts = [str(each) for each in (sample, more, greedy)]
    return {
        "arrays": digest(arrays[each] for each in sorted(arrays)),
        "names": sorted(arrays),
        "rng": digest([np.frombuffer(json.dumps(ms.rng.bit_generator.state).encode(), np.uint8)]),
        "saved rng": meta["rng"]["state"]["state"],
        "position": [meta["position"], meta["batches"], meta["history"], step.step],
        "states": digest([states, outputs]),
        "texts": texts,
        "losses": [*map(float, history.losses), float(history.validloss[-1])],
        "evaluation": [ms.evaluate("The ship was on the sea").nats, ms.evaluate().nats],
    }


NUMBERS = ("losses", "evaluation")
ANYWHERE = ("names", "saved rng", "position")


CASES = [(name, backend) for name in OPTIONS for backend in ("cpu", "scan")]


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(*case, marks=pytest.mark.long if case[1] == "scan" and "," in case[0] else ())
        for case in CASES
    ],
)
def test_no_bit_has_changed(name, backend, tmp_path):
    """A rebuilding that changes the order of two draws or additions makes yesterday's run another."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    found, here = computed(name, backend, tmp_path / "model"), probe()
    expected = golden.get(here, next(iter(golden.values())))[f"{name}, {backend}"]
    if here in golden:
        assert found == expected
    for key in NUMBERS:
        np.testing.assert_allclose(found[key], expected[key], rtol=1e-4)
    assert {key: found[key] for key in ANYWHERE} == {key: expected[key] for key in ANYWHERE}


def write() -> None:
    """Add what this machine computes to the golden file."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}
    entry = golden.setdefault(probe(), {})
    for name, backend in CASES:
        with tempfile.TemporaryDirectory() as folder:
            entry[f"{name}, {backend}"] = computed(name, backend, Path(folder, "model"))
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
