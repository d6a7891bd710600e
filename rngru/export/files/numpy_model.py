#!/usr/bin/env python3
"""A recurrent language model in one file, written by rngru; it needs Python and NumPy alone.

At a shell, if this file is called model.py:

    python model.py --seed "The " --temp 0.7 -n 200

In Python:

    from model import generate
    print(generate("The ", 200, temp=0.7, rng=1))

The same seed and rng= give the text that rngru itself would write. What the model is stands in ABOUT, at
the end of the file, and its weights, by name, in WEIGHTS.
"""

import argparse
import base64
import codecs
import io
import json
import math
import re
import sys
import unicodedata
from collections.abc import Iterator

import numpy as np


def generate(
    seed: str | bytes | None = None,
    count: int = 100,
    temp: float = 0.5,
    *,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    rng: int | np.random.Generator | None = None,
) -> str:
    """Return a text of ``count`` symbols that continues ``seed``.

    seed: by default a newline; '' begins with a symbol that starts a line.
    temp: 0 takes the likeliest symbol, 1 is the model's own distribution, more is wild.
    top_k, top_p, min_p: draw only from so many of the likeliest symbols; from the likeliest that have
        this share of the probability; from those at least this likely, as a share of the likeliest.
    rng: seed or Generator, to have the same text again.
    """
    return "".join(write(seed, count, temp, top_k=top_k, top_p=top_p, min_p=min_p, rng=rng))


def write(
    seed: str | bytes | None = None,
    count: int = 100,
    temp: float = 0.5,
    *,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    rng: int | np.random.Generator | None = None,
) -> Iterator[str]:
    """Do what generate() does, and give each piece of the text as soon as it is there."""
    rng, first = np.random.default_rng(rng), []
    if seed is None:  # then the text does not begin with white space
        first = ABOUT["blank"]
        seed = "\n" if SYMBOLS is None or "\n" in SYMBOLS else ""
    ids, text = encode(seed), decoder()
    if not ids and count:  # nothing to continue: begin as a line begins
        starts = np.array(ABOUT["firsts"])
        starts[first] = 0
        starts = np.cumsum(starts)
        ids = [int(np.searchsorted(starts, rng.integers(starts[-1]), side="right"))]
        yield text(ids[0])
        count, first = count - 1, []
    state = np.zeros(ABOUT["state"], np.float32)
    for symbol in ids[:-1]:
        _, state = step(symbol, state)
    symbol = ids[-1] if ids else 0
    for _ in range(count):
        logits, state = step(symbol, state)
        logits[ABOUT["barred"] + first] = -np.inf
        first = []
        symbol = draw(logits.astype(np.float64), temp, top_k, top_p, min_p, rng.random())
        yield text(symbol)
    yield text(None)


def encode(text: str | bytes) -> list[int]:
    """Return the ids of a text; a symbol that the model has never seen is 0."""
    if SYMBOLS is None:
        return list(text.encode() if isinstance(text, str) else text)
    if not isinstance(text, str):
        raise TypeError(f"Expected a text as a string, got {type(text).__name__}.")
    # Accents can be written in two ways: the one that the model knows is taken.
    forms = [text, *(unicodedata.normalize(form, text) for form in ("NFC", "NFD"))]
    known = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    read = [
        [known.get(symbol, 0) for symbol in (re.findall(SPLIT, form) if SPLIT else form)]
        for form in forms
    ]
    return min(read, key=lambda ids: ids.count(0))


def decoder():
    """Return a function that turns one id after the other into text; None ends it."""
    if SYMBOLS is None:
        bytewise = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda n: bytewise.decode(b"" if n is None else bytes([n]), final=n is None)
    return lambda n: "" if n is None else SYMBOLS[n]


def step(symbol: int, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read one symbol: return the logits (V,) of the next one and the new state (layers, numbers)."""
    new = []
    for layer, old in enumerate(state):
        into = ARRAYS[f"layers.{layer}.U"]
        if layer:
            into = new[-1][: ABOUT["size"]] @ into
        elif ABOUT["encode"]:
            into = np.tanh(ARRAYS["E"][symbol] + ARRAYS["a"]) @ into
        else:
            into = into[symbol]
        second = ARRAYS.get(f"layers.{layer}.d")
        new.append(
            CELL(into + ARRAYS[f"layers.{layer}.b"], old, ARRAYS.get(f"layers.{layer}.W"), second)
        )
    readout = ARRAYS["E"].T if ABOUT["tied"] else ARRAYS["V"]
    return new[-1][: ABOUT["size"]] @ readout + ARRAYS["c"], np.stack(new)


def gate(x):
    """The logistic sigmoid, or its piecewise linear form."""
    return np.clip(0.2 * x + 0.5, 0, 1) if ABOUT["hard"] else 0.5 + 0.5 * np.tanh(0.5 * x)


def rnn(into, old, weights, _):
    """Elman's recurrent network."""
    return np.tanh(into + old @ weights)


def gru(into, old, weights, _):
    """The GRU with its reset gate before the product; z keeps the old state."""
    n = len(old)
    z, r = np.split(gate(into[: 2 * n] + old @ weights[:, : 2 * n]), 2)
    return (1 - z) * np.tanh(into[2 * n :] + (r * old) @ weights[:, 2 * n :]) + z * old


def gru_after(into, old, weights, second):
    """The GRU with its reset gate after the product, as in cuDNN."""
    n, product = len(old), old @ weights
    z, r = np.split(gate(into[: 2 * n] + product[: 2 * n]), 2)
    return (1 - z) * np.tanh(into[2 * n :] + r * (product[2 * n :] + second)) + z * old


def lstm(into, old, weights, _):
    """Long short-term memory; a state is the output and the memory side by side."""
    output, memory = np.split(old, 2)
    i, f, o, c = np.split(into + output @ weights, 4)
    memory = gate(f) * memory + gate(i) * np.tanh(c)
    return np.concatenate([gate(o) * np.tanh(memory), memory])


def min_gru(into, old, weights, _):
    """The minimal GRU, without recurrent weights; z keeps the old state."""
    z, c = np.split(into, 2)
    return (1 - gate(z)) * c + gate(z) * old


def min_lstm(into, old, weights, _):
    """The minimal LSTM: the gates are shares of their sum, and none where both are 0."""
    i, f, c = np.split(into, 3)
    return (gate(f) * old + gate(i) * c) / (gate(f) + gate(i) + 1e-12)


def draw(logits, temp, top_k, top_p, min_p, uniform) -> int:
    """Return the first symbol whose cumulated weight exceeds the uniform number."""
    if temp == 0:
        return int(logits.argmax())
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp((logits - logits.max()) / temp)
    weights /= weights.sum()
    order = np.argsort(-logits, kind="stable")
    if top_k is not None:
        weights[order[top_k:]] = 0
    if min_p > 0:
        weights[logits < logits.max() + temp * math.log(min_p)] = 0
    if top_p < 1:
        ranked = weights[order].astype(np.float32).astype(np.float64)
        weights[order[ranked.cumsum() - ranked >= top_p * ranked.sum()]] = 0
    reached = weights.cumsum()
    return int((reached > uniform * reached[-1]).argmax())


def main() -> None:
    """Write text at a shell."""
    parser = argparse.ArgumentParser(
        description=f"Write text with a {ABOUT['modeltype']} of {ABOUT['units']}."
    )
    parser.add_argument("--seed", help="text to continue (default: a newline)")
    parser.add_argument("-n", type=int, default=200, help=f"how many {ABOUT['units']}")
    parser.add_argument("--temp", type=float, default=0.5, help="temperature (default: 0.5)")
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest only")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw from this share only")
    parser.add_argument("--min-p", type=float, default=0.0, help="leave out what is less likely")
    parser.add_argument("--rng", type=int, help="a number, to have the same text again")
    asked = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    if asked.temp < 0 or asked.n < 0 or (asked.top_k is not None and asked.top_k < 1):
        parser.error("--temp and -n are at least 0, and --top-k at least 1")
    cuts = {"top_k": asked.top_k, "top_p": asked.top_p, "min_p": asked.min_p}
    try:
        for piece in write(asked.seed, asked.n, asked.temp, **cuts, rng=asked.rng):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    print()


ABOUT = json.loads("@ABOUT@")
WEIGHTS = """
@WEIGHTS@
"""
SYMBOLS, SPLIT = ABOUT["symbols"], ABOUT["split"]
CELLS = {
    "RNN": rnn,
    "GRU": gru,
    "GRU_AFTER": gru_after,
    "LSTM": lstm,
    "MinGRU": min_gru,
    "MinLSTM": min_lstm,
}
CELL = CELLS[ABOUT["cell"]]
with np.load(io.BytesIO(base64.b64decode(WEIGHTS)), allow_pickle=False) as _file:
    ARRAYS = dict(_file)

if __name__ == "__main__":
    main()
