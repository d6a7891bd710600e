"""A model goes elsewhere: a program, a page, ONNX, PyTorch; and its parameters come back.

What one learns here:

- ``export`` writes the format that the ending of a name says;
- the ``.py`` file needs NumPy alone, the ``.html`` file a browser: both have the weights inside;
- ``rngru.export.weights`` reads ``.safetensors`` and ``.pt`` back under rngru's names.

Formats whose package is not installed are left out: ``pip install 'rngru[export,onnx]' torch``.

    python examples/10_elsewhere.py [folder]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import rngru.export
from rngru import ModelState, corpora
from rngru.errors import MissingExtra


def main(workdir: Path, seconds: float = 40) -> None:
    """Train a small model, write it in every format, and let each of them work."""
    ms = ModelState.initfromsrcfile(corpora.named("pydoc"), workdir / "work", state_size=96, rng=1)
    print(
        ms.trainmodel(batchsize=32, train_len=200, valid_len=5, print_every=0, max_seconds=seconds)
    )
    for ending in (".py", ".html", ".safetensors", ".onnx", ".pt"):
        try:
            path = ms.export(workdir / f"pydoc{ending}")
        except MissingExtra as missing:
            print(f"--- {ending}: {missing}")
            continue
        print(f"--- {path.name}, {path.stat().st_size / 1e6:.2f} MB")
        show(ms, path)


def show(ms: ModelState, path: Path) -> None:
    """Use what was exported, each in its own way."""
    if path.suffix == ".py":
        command = [
            sys.executable,
            path,
            "--seed",
            "The ",
            "--temp",
            "0.6",
            "-n",
            "150",
            "--rng",
            "1",
        ]
        print(
            subprocess.run(
                command, capture_output=True, text=True, encoding="utf-8", check=True
            ).stdout
        )
        print(f"rngru itself: {ms.generatestring(40, 0.6, 'The ', rng=1)!r} …")
    elif path.suffix == ".html":
        print(f"open it in a browser: {path.as_uri()}?seed=The%20&temp=0.6")
    elif path.suffix == ".onnx":
        runonnx(path)
    else:
        found = rngru.export.weights(path, symbols=ms.chars.chars, vocab=ms.chars)
        own = ms.parameters()
        same = all(np.array_equal(found[name], own[name]) for name in own)
        print(f"read back: {found}; {'the same' if same else 'NOT the same'} parameters")


def runonnx(path: Path) -> None:
    """Take the likeliest symbol again and again, with ONNX Runtime and nothing of rngru."""
    try:
        import onnxruntime
    except ImportError:
        print("pip install onnxruntime runs it")
        return
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["rngru"])
    symbols = about["vocabulary"]["symbols"]
    layers, _, height = session.get_inputs()[1].shape
    state, text = np.zeros((layers, 1, height), np.float32), "The "
    for char in text:
        ids = np.array([symbols.index(char)])
        logits, state = session.run(["logits", "new_state"], {"ids": ids, "state": state})
    for _ in range(60):
        ids = logits.argmax(1)
        text += symbols[ids[0]]
        logits, state = session.run(["logits", "new_state"], {"ids": ids, "state": state})
    print(repr(text))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
