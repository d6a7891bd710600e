#!/usr/bin/env python3
"""A recurrent language model for PyTorch, written by rngru. Its weights are in the .pt file beside it.

At a shell, if this file is called verse_model.py:

    python verse_model.py --seed "The " --temp 0.7 -n 200

In Python:

    import torch
    from verse_model import Model
    model = Model()
    model.load_state_dict(torch.load("verse.pt", weights_only=True))
    logits, state = model(ids)      # ids (T, B), int64; logits (T, B, V); state (L, B, H)
    print(model.generate("The ", 200, temp=0.7))

It trains like any other module. What the model is stands in ABOUT, at the end of the file.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import torch
from torch import nn


class Model(nn.Module):
    """Symbols in, logits of the next symbol out.

    T steps, B texts side by side, V symbols, L layers, H numbers in the state of a layer: its neurons, or
    in an LSTM (output, memory) side by side.
    """

    def __init__(self) -> None:
        super().__init__()
        symbols, size, layers = len(ABOUT["firsts"]), ABOUT["size"], ABOUT["state"][0]
        inputs = ABOUT["inputs"] if ABOUT["encode"] else symbols
        if ABOUT["encode"]:
            self.embedding = nn.Embedding(symbols, inputs)
            self.shift = nn.Parameter(torch.zeros(inputs))
        cell, hard = ABOUT["cell"], ABOUT["hard"]
        kinds = {"RNN": nn.RNN} if hard else {"RNN": nn.RNN, "GRU_AFTER": nn.GRU, "LSTM": nn.LSTM}
        if cell in kinds:
            self.layers = kinds[cell](inputs, size, layers)
        else:
            self.layers = Layers(cell, hard, inputs, size, layers)
        self.readout = nn.Linear(size, symbols)
        if ABOUT["tied"]:
            self.readout.weight = self.embedding.weight

    def forward(self, ids, state=None):
        """Read ids (T, B), int64, from a state (L, B, H), by default zeros: return (logits, state)."""
        if ABOUT["encode"]:
            inputs = torch.tanh(self.embedding(ids) + self.shift)
        else:  # the first layer takes the symbol itself
            inputs = nn.functional.one_hot(ids, self.readout.out_features).to(self.readout.bias)
        if state is None:
            layers, height = ABOUT["state"]
            state = inputs.new_zeros(layers, ids.shape[1], height)
        if isinstance(self.layers, nn.LSTM):
            outputs, pair = self.layers(
                inputs, tuple(half.contiguous() for half in state.chunk(2, -1))
            )
            state = torch.cat(pair, -1)
        else:
            outputs, state = self.layers(inputs, state)
        return self.readout(outputs), state

    @torch.no_grad()
    def generate(self, seed="\n", count=100, temp=0.5, generator=None) -> str:
        """Return a text of ``count`` symbols that continues ``seed``; ``generator`` is a torch.Generator."""
        ids, drawn = encode(seed), []
        if not ids:
            raise ValueError("Give a text to continue.")
        logits, state = self(torch.tensor(ids)[:, None].to(self.readout.bias.device))
        for _ in range(count):
            last = logits[-1, 0].double()
            last[ABOUT["barred"]] = -torch.inf
            if temp == 0:
                symbol = last.argmax().view(1)
            else:
                symbol = torch.multinomial(torch.softmax(last / temp, 0), 1, generator=generator)
            drawn.append(int(symbol))
            logits, state = self(symbol[:, None], state)
        return decode(drawn)


class Layers(nn.Module):
    """What torch.nn lacks: the GRU whose reset gate acts before the product, and hard gates.

    Parameters have the names and the layout of nn.GRU and nn.LSTM; that GRU has one bias instead of two.
    """

    def __init__(self, cell, hard, inputs, size, layers) -> None:
        super().__init__()
        self.cell, self.hard, self.count = cell, hard, layers
        gates = 4 if cell == "LSTM" else 3
        for layer in range(layers):
            shapes = {
                "weight_ih": (gates * size, size if layer else inputs),
                "weight_hh": (gates * size, size),
                "bias_ih": (gates * size,),
            }
            if cell != "GRU":
                shapes["bias_hh"] = (gates * size,)
            for name, shape in shapes.items():
                start = torch.empty(shape).uniform_(-(size**-0.5), size**-0.5)
                self.register_parameter(f"{name}_l{layer}", nn.Parameter(start))

    def forward(self, inputs, state):
        """Read inputs (T, B, I) from a state (L, B, H): return (outputs (T, B, S), state)."""
        step = {"GRU": self.gru, "GRU_AFTER": self.gru_after, "LSTM": self.lstm}[self.cell]
        new = []
        for layer in range(self.count):
            into = inputs @ getattr(self, f"weight_ih_l{layer}").T + getattr(
                self, f"bias_ih_l{layer}"
            )
            hidden = getattr(self, f"weight_hh_l{layer}").T
            bias = getattr(self, f"bias_hh_l{layer}", None)
            now, outputs = state[layer], []
            for each in into:
                now = step(each, now, hidden, bias)
                outputs.append(now[:, : len(hidden)])
            inputs = torch.stack(outputs)
            new.append(now)
        return inputs, torch.stack(new)

    def gate(self, x):
        """The logistic sigmoid, or its piecewise linear form."""
        return (0.2 * x + 0.5).clamp(0, 1) if self.hard else torch.sigmoid(x)

    def gru(self, into, old, hidden, _):
        """Cho et al., arXiv 1406.1078: the reset gate acts on the state; z keeps it."""
        size = old.shape[1]
        gates = self.gate(into[:, : 2 * size] + old @ hidden[:, : 2 * size])
        r, z = gates.chunk(2, 1)
        n = torch.tanh(into[:, 2 * size :] + (r * old) @ hidden[:, 2 * size :])
        return (1 - z) * n + z * old

    def gru_after(self, into, old, hidden, bias):
        """As nn.GRU, with hard gates."""
        (ri, zi, ni), (rh, zh, nh) = into.chunk(3, 1), (old @ hidden + bias).chunk(3, 1)
        r, z = self.gate(ri + rh), self.gate(zi + zh)
        return (1 - z) * torch.tanh(ni + r * nh) + z * old

    def lstm(self, into, old, hidden, bias):
        """As nn.LSTM, with hard gates; a state is (output, memory) side by side."""
        output, memory = old.chunk(2, 1)
        i, f, g, o = (into + output @ hidden + bias).chunk(4, 1)
        memory = self.gate(f) * memory + self.gate(i) * torch.tanh(g)
        return torch.cat([self.gate(o) * torch.tanh(memory), memory], 1)


def encode(text: str) -> list[int]:
    """Return the ids of a text; a symbol that the model has never seen is 0."""
    if ABOUT["symbols"] is None:
        return list(text.encode())
    known = {symbol: number for number, symbol in enumerate(ABOUT["symbols"])}
    symbols = re.findall(ABOUT["split"], text) if ABOUT["split"] else text
    return [known.get(symbol, 0) for symbol in symbols]


def decode(ids: list[int]) -> str:
    """Return the text of ids."""
    if ABOUT["symbols"] is None:
        return bytes(ids).decode("utf-8", "replace")
    return "".join(ABOUT["symbols"][number] for number in ids)


def main() -> None:
    """Write text at a shell."""
    parser = argparse.ArgumentParser(
        description=f"Write text with a {ABOUT['modeltype']} of {ABOUT['units']}."
    )
    parser.add_argument("--seed", default="\n", help="text to continue (default: a newline)")
    parser.add_argument("-n", type=int, default=200, help=f"how many {ABOUT['units']}")
    parser.add_argument("--temp", type=float, default=0.5, help="temperature (default: 0.5)")
    parser.add_argument("--rng", type=int, help="a number, to have the same text again")
    asked = parser.parse_args()
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    model = Model()
    weights = torch.load(Path(__file__).with_name(ABOUT["weights"]), weights_only=True)
    model.load_state_dict(weights)
    generator = None if asked.rng is None else torch.Generator().manual_seed(asked.rng)
    print(model.generate(asked.seed, asked.n, asked.temp, generator))


ABOUT = json.loads("@ABOUT@")

if __name__ == "__main__":
    main()
