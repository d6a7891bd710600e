"""``.onnx``: one step of a model, its state in and out, for ONNX Runtime and others.

Inputs are ``ids`` (B,), int64, and ``state`` (L, B, H), float32, zeros before a text; outputs ``logits``
(B, V), float32, of the symbol after each, and ``new_state``, which is the state of the next step. The file
says what else it is in its metadata: ``rngru`` is JSON with ``modeltype``, ``level``, ``hyper``,
``vocabulary`` and ``versions``.
"""

from pathlib import Path
from typing import Any

import numpy as np

from rngru.errors import InputError
from rngru.export.about import arraysof, described, forwards, needs
from rngru.kernels.spec import TINY
from rngru.reader import Reader

OPSET = 17
"""The version of ONNX's operators, of 2022, which every runtime since has."""

_LIMIT = (1 << 31) - (1 << 20)


def toonnx(reader: Reader, path: Path) -> dict[Path, bytes]:
    """Return the bytes to write."""
    forwards(reader, ".onnx")
    with needs("onnx", "'rngru[onnx]'"):
        from onnx import TensorProto, helper, numpy_helper
    arrays = {name: np.ascontiguousarray(array) for name, array in arraysof(reader).items()}
    total = sum(array.nbytes for array in arrays.values())
    if total > _LIMIT:
        raise InputError(
            f"The model has {total / 1e9:.1f} GB of weights, and an .onnx file holds 2 GB at most. A "
            ".safetensors file holds more."
        )
    hyper = reader.hyper
    graph = _Graph(arrays, reader.model.spec(hyper).cell, hyper.gate == "hard_sigmoid")
    graph.model(hyper.layers, reader.model.encode, hyper.tied)
    height = reader.freshstate().shape[2]
    describe, state = helper.make_tensor_value_info, [hyper.layers, "B", height]
    made = helper.make_model(
        helper.make_graph(
            [helper.make_node(*each[:3], **each[3]) for each in graph.nodes],
            "step",
            [
                describe("ids", TensorProto.INT64, ["B"]),
                describe("state", TensorProto.FLOAT, state),
            ],
            [
                describe("logits", TensorProto.FLOAT, ["B", hyper.vocab_size]),
                describe("new_state", TensorProto.FLOAT, state),
            ],
            [numpy_helper.from_array(array, name) for name, array in graph.arrays.items()],
        ),
        producer_name="rngru",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    helper.set_model_props(made, {"rngru": described(reader)})
    return {path: made.SerializeToString()}


class _Graph:
    """Collects the nodes of a graph: (operator, names in, names out, attributes)."""

    def __init__(self, arrays: dict[str, np.ndarray], cell: str, hard: bool) -> None:
        self.arrays, self.cell, self.hard = dict(arrays), cell, hard
        self.nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node, and return the name of its result."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with several results, and return their names."""
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append((kind, list(inputs), names, attributes))
        return names

    def const(self, value: Any) -> str:
        """Return the name of a constant."""
        array = np.asarray(value)
        name = f"const_{'x'.join(map(str, array.ravel().tolist()))}_{array.dtype}_{array.ndim}"
        self.arrays[name] = array
        return name

    def gate(self, x: str) -> str:
        return (
            self.op("HardSigmoid", x, alpha=0.2, beta=0.5) if self.hard else self.op("Sigmoid", x)
        )

    def model(self, layers: int, encode: bool, tied: bool) -> None:
        """Add everything, from ``ids`` and ``state`` to ``logits`` and ``new_state``."""
        inputs, new = "", []
        if encode:
            rows = self.op("Gather", "E", "ids", axis=0)
            inputs = self.op("Tanh", self.op("Add", rows, "a"))
        for layer in range(layers):
            u, b = f"layers.{layer}.U", f"layers.{layer}.b"
            if inputs:
                into = self.op("Gemm", inputs, u, b)
            else:
                into = self.op("Add", self.op("Gather", u, "ids", axis=0), b)
            old = self.op("Gather", "state", self.const(np.int64(layer)), axis=0)
            step = {
                "RNN": self.rnn, "GRU": self.gru, "GRU_AFTER": self.after, "LSTM": self.lstm,
                "MinGRU": self.min_gru, "MinLSTM": self.min_lstm,
            }  # fmt: skip
            inputs, state = step[self.cell](layer, into, old)
            new.append(self.op("Unsqueeze", state, self.const(np.array([0]))))
        readout = ("E", "c") if tied else ("V", "c")
        self.nodes.append(("Gemm", [inputs, *readout], ["logits"], {"transB": int(tied)}))
        self.nodes.append(("Concat", new, ["new_state"], {"axis": 0}))

    def rnn(self, layer: int, into: str, old: str) -> tuple[str, str]:
        new = self.op("Tanh", self.op("Gemm", old, f"layers.{layer}.W", into))
        return new, new

    def gru(self, layer: int, into: str, old: str) -> tuple[str, str]:
        wz, wr, wc = self.ops("Split", 3, f"layers.{layer}.W", axis=1)
        iz, ir, ic = self.ops("Split", 3, into, axis=1)
        r = self.gate(self.op("Gemm", old, wr, ir))
        candidate = self.op("Gemm", self.op("Mul", r, old), wc, ic)
        return self.mixed(self.gate(self.op("Gemm", old, wz, iz)), self.op("Tanh", candidate), old)

    def after(self, layer: int, into: str, old: str) -> tuple[str, str]:
        iz, ir, ic = self.ops("Split", 3, into, axis=1)
        product = self.op("MatMul", old, f"layers.{layer}.W")
        hz, hr, hc = self.ops("Split", 3, product, axis=1)
        r = self.gate(self.op("Add", ir, hr))
        kept = self.op("Mul", r, self.op("Add", hc, f"layers.{layer}.d"))
        candidate = self.op("Tanh", self.op("Add", ic, kept))
        return self.mixed(self.gate(self.op("Add", iz, hz)), candidate, old)

    def min_gru(self, layer: int, into: str, old: str) -> tuple[str, str]:
        z, candidate = self.ops("Split", 2, into, axis=1)
        return self.mixed(self.gate(z), candidate, old)

    def min_lstm(self, layer: int, into: str, old: str) -> tuple[str, str]:
        i, f, c = self.ops("Split", 3, into, axis=1)
        i, f = self.gate(i), self.gate(f)
        total = self.op("Add", self.op("Add", i, f), self.const(np.float32(TINY)))
        new = self.op("Add", self.op("Mul", f, old), self.op("Mul", i, c))
        new = self.op("Div", new, total)
        return new, new

    def mixed(self, z: str, candidate: str, old: str) -> tuple[str, str]:
        """Add what all kinds of GRU end with: z keeps the old state."""
        fresh = self.op("Sub", self.const(np.float32(1)), z)
        fresh = self.op("Mul", fresh, candidate)
        new = self.op("Add", fresh, self.op("Mul", z, old))
        return new, new

    def lstm(self, layer: int, into: str, old: str) -> tuple[str, str]:
        output, memory = self.ops("Split", 2, old, axis=1)
        sums = self.op("Gemm", output, f"layers.{layer}.W", into)
        i, f, o, c = self.ops("Split", 4, sums, axis=1)
        fresh = self.op("Mul", self.gate(i), self.op("Tanh", c))
        memory = self.op("Add", self.op("Mul", self.gate(f), memory), fresh)
        output = self.op("Mul", self.gate(o), self.op("Tanh", memory))
        return output, self.op("Concat", output, memory, axis=1)
