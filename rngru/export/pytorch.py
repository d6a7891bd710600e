r"""``.pt``: a state dict for PyTorch, the module that loads it, and the way back from ``nn.GRU`` and others.

PyTorch has the gates in another order: r, z, n in ``nn.GRU``, and i, f, g, o in ``nn.LSTM``. In both
libraries z keeps the old state. A matrix is the transpose of ours, and each layer has two biases, which
are added; only the candidate of ``nn.GRU`` keeps them apart:
:math:`n = \tanh(W_{in} x + b_{in} + r \circ (W_{hn} h + b_{hn}))`. That is ``reset_after=True``. The GRU
with its reset gate before the product, and hard gates, are not in ``torch.nn``: the module written beside the
weights has them.

>>> regated(np.arange(6), "GRU").tolist()    # z, r, c of two neurons
[2, 3, 0, 1, 4, 5]
"""

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rngru.errors import InputError
from rngru.export.about import arraysof, forwards, needs, program
from rngru.export.filling import filled, literal
from rngru.export.parameters import Parameters
from rngru.reader import Reader
from rngru.text import Vocabulary

_ORDER = {"GRU": (1, 0, 2), "GRU_AFTER": (1, 0, 2), "LSTM": (0, 1, 3, 2), "RNN": (0,)}
"""Which of our gates stands where in PyTorch's. Each order is its own inverse."""

_CELLS = {1: "RNN", 3: "GRU_AFTER", 4: "LSTM"}


def regated(array: np.ndarray, cell: str) -> np.ndarray:
    """Return the last axis, gates side by side, in PyTorch's order; or from it, in ours."""
    order = _ORDER[cell]
    gates = array.reshape(*array.shape[:-1], len(order), -1)
    return gates[..., order, :].reshape(array.shape)


def topytorch(reader: Reader, path: Path) -> dict[Path, bytes]:
    """Return the bytes to write: the state dict, and a module beside it that loads it."""
    forwards(reader, ".pt")
    with needs("PyTorch", "torch"):
        import torch
    state = {
        name: torch.from_numpy(np.array(array, np.float32, order="C"))
        for name, array in statedict(reader).items()
    }
    if reader.hyper.tied:  # saved once, as PyTorch does
        state["readout.weight"] = state["embedding.weight"]
    stream = io.BytesIO()
    torch.save(state, stream)
    module = path.with_name(f"{path.stem}_model.py")
    about = literal(program(reader) | {"weights": path.name})
    return {
        path: stream.getvalue(),
        module: filled("torch_model.py", {'"@ABOUT@"': about}).encode(),
    }


def statedict(reader: Reader) -> dict[str, np.ndarray]:
    """Return the parameters of a model under the names and in the layout of the module beside them."""
    own, cell = arraysof(reader), reader.model.spec(reader.hyper).cell
    size = reader.hyper.state_size
    state: dict[str, np.ndarray] = {}
    if reader.model.encode:
        state |= {"embedding.weight": own["E"], "shift": own["a"]}
    for layer in range(reader.hyper.layers):
        u, w, b = (regated(own[f"layers.{layer}.{name}"], cell) for name in "UWb")
        state |= {f"layers.weight_ih_l{layer}": u.T, f"layers.weight_hh_l{layer}": w.T}
        state[f"layers.bias_ih_l{layer}"] = b
        if cell == "GRU":
            continue  # our own form has one bias
        second = np.zeros_like(b)
        if cell == "GRU_AFTER":
            second[2 * size :] = own[f"layers.{layer}.d"]
        state[f"layers.bias_hh_l{layer}"] = second
    readout = own["E"] if reader.hyper.tied else own["V"].T
    return state | {"readout.weight": readout, "readout.bias": own["c"]}


def fromfile(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (the state dict that ``torch.save`` wrote, {}); nothing in the file is run."""
    with needs("PyTorch", "torch"):
        import torch
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ):  # whatever a damaged file makes torch raise; its own advice is to run the file
        raise InputError(
            f"{path} is no state dict that can be read: it is damaged, or holds a whole module, which is "
            "code. Save a state dict by torch.save(module.state_dict(), path)."
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path} holds {type(state).__name__}, expected a state dict.")
    return state, {}


def fromtorch(
    module: Any,
    *,
    symbols: Iterable[str] | None = None,
    vocab: Vocabulary | None = None,
) -> Parameters:
    """Return the parameters of a PyTorch model by rngru's names.

    The model has an ``nn.GRU``, ``nn.LSTM`` or ``nn.RNN`` (with tanh), an ``nn.Linear`` with a bias from
    its states to the logits, and, if it does not read one-hot vectors, an ``nn.Embedding``. It becomes a
    ``…Resize`` model, whose first layer has the product of the embedding and its own weights. What
    ``export('….pt')`` wrote becomes the model that it was; only hard gates are not in the file.

    Parameters
    ----------
    module
        The module, or its state dict: tensors or arrays by name.
    symbols
        What its ids stand for, in their order: a string or a list.
    vocab
        The vocabulary to order the parameters for: ``ms.chars`` of the model that is to have them.

    Returns
    -------
    Parameters
        A dict of float32 arrays by the names in :mod:`rngru.models`; ``.modeltype`` and ``.options``
        say which model they are of.

    Raises
    ------
    InputError
        If the module is of another form.

    Example
    -------
    ::

        found = rngru.export.fromtorch(module, symbols='\\n abcdefghijklmnopqrstuvwxyz')
        ms = ModelState.initfromsrcfile('verse.txt', 'work', modeltype=found.modeltype, **found.options)
        ms.setparameters(rngru.export.fromtorch(module, symbols='…', vocab=ms.chars))
    """
    given = module.state_dict() if hasattr(module, "state_dict") else module
    if not isinstance(given, Mapping):
        raise InputError(f"Expected a module or its state dict, got {type(module).__name__}.")
    state = {str(name): _array(name, each) for name, each in given.items()}
    inner = [name.removesuffix("weight_hh_l0") for name in state if name.endswith("weight_hh_l0")]
    if len(inner) != 1:
        raise InputError(
            f"Expected one nn.GRU, nn.LSTM or nn.RNN, found {len(inner)} among {', '.join(state)}."
        )
    layers = _layers(state, inner[0])
    recurrent = re.compile(rf"{re.escape(inner[0])}(weight|bias)_(ih|hh)_l\d+")
    embedding, readout = _around(
        {name: each for name, each in state.items() if not recurrent.fullmatch(name)},
        len(layers["layers.0.U"]),
        len(layers["layers.0.W"]),
    )
    arrays = {**layers, "V": state[f"{readout}weight"].T, "c": state[f"{readout}bias"]}
    if f"{embedding}weight" in state:
        table = state[f"{embedding}weight"]
        if "shift" in state:  # rngru's own
            arrays = {"E": table, "a": state["shift"]} | arrays
            if np.array_equal(table, state[f"{readout}weight"]):
                del arrays["V"]
        else:
            arrays["layers.0.U"] = table @ layers["layers.0.U"]
    found = Parameters.of(arrays)
    return found if vocab is None else found.forvocab(symbols, vocab)


def _array(name: object, tensor: Any) -> np.ndarray:
    """Return a tensor as a float32 array."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().float()
    try:
        return np.asarray(tensor, np.float32)
    except (TypeError, ValueError):
        raise InputError(
            f"{name}: expected a tensor or an array, got {type(tensor).__name__}."
        ) from None


def _layers(state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the parameters of all layers, by our names."""
    strange = [name for name in state if name.endswith("_reverse") or "weight_hr" in name]
    size = state[f"{prefix}weight_hh_l0"].shape[-1]
    cell = _CELLS.get(len(state[f"{prefix}weight_hh_l0"]) // max(size, 1))
    if strange or cell is None:
        raise InputError(
            f"{strange[0] if strange else prefix + 'weight_hh_l0'}: expected a GRU, LSTM or RNN that reads "
            "in one direction, without a projection."
        )
    found, layer = {}, 0
    while f"{prefix}weight_hh_l{layer}" in state:
        hidden = state[f"{prefix}weight_hh_l{layer}"].T
        none = np.zeros(hidden.shape[1], np.float32)
        bias = state.get(f"{prefix}bias_ih_l{layer}", none)
        second = state.get(f"{prefix}bias_hh_l{layer}")
        before = second is None and f"{prefix}bias_ih_l{layer}" in state  # rngru's own GRU
        second = none if second is None else second
        if cell == "GRU_AFTER" and not before:
            found[f"layers.{layer}.d"] = second[2 * size :]
            second = np.concatenate([second[: 2 * size], none[2 * size :]])
        found[f"layers.{layer}.U"] = regated(state[f"{prefix}weight_ih_l{layer}"].T, cell)
        found[f"layers.{layer}.W"] = regated(hidden, cell)
        found[f"layers.{layer}.b"] = regated(bias + second, cell)
        layer += 1
    return found


def _around(state: Mapping[str, np.ndarray], inputs: int, size: int) -> tuple[str, str]:
    """Return the prefixes of the embedding, '' if there is none, and of the readout."""
    matrices = [
        name.removesuffix("weight")
        for name, each in state.items()
        if name.endswith("weight") and each.ndim == 2
    ]
    readouts = [p for p in matrices if f"{p}bias" in state and state[f"{p}weight"].shape[1] == size]
    others = [p for p in matrices if p not in readouts]
    symbols = len(state[f"{readouts[0]}weight"]) if len(readouts) == 1 else 0
    wanted = (symbols, inputs)
    fits = not others and symbols == inputs
    fits |= len(others) == 1 and state[f"{others[0]}weight"].shape == wanted
    known = {f"{p}{part}" for p in matrices for part in ("weight", "bias")} | {"shift"}
    if not fits or len(readouts) != 1 or set(state) - known:
        told = ", ".join(f"{name} {each.shape}" for name, each in state.items())
        raise InputError(
            f"Beside the recurrent layers, which have {inputs} inputs and {size} neurons, expected an "
            f"nn.Linear with bias to the logits, and an nn.Embedding if the inputs are not one-hot. Got "
            f"{told or 'nothing'}."
        )
    return (others or [""])[0], readouts[0]
