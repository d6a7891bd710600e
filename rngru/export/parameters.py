"""Parameters that came from a file or another library: :class:`Parameters`.

>>> found = Parameters.of({"layers.0.U": np.zeros((5, 12)), "layers.0.W": np.zeros((4, 12)),
...     "layers.0.b": np.zeros(12), "layers.0.d": np.zeros(4), "V": np.zeros((4, 5)), "c": np.zeros(5)})
>>> found
<Parameters of GRUResize, 5 symbols, state_size=4, layers=1, reset_after=True>
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Self, final

import numpy as np

from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.models import named
from rngru.text import Vocabulary

_CELLS = {1: "RNN", 3: "GRU", 4: "LSTM"}
_MINIMAL = {2: "MinGRU", 3: "MinLSTM"}
"""The cells without recurrent weights, by how many gates they have."""

RARELY = 20.0
"""How far below the mean logit that of a symbol is which the other model lacks, nats."""


@final
class Parameters(dict[str, np.ndarray]):
    """Arrays by rngru's names, and which model they are of.

    Attributes
    ----------
    modeltype : str
        Which kind of model: ``'GRUResize'``, …
    options : dict
        The sizes, as ``ModelState.initfromsrcfile`` takes them by name.

    Example
    -------
    ::

        found = rngru.export.weights('verse.safetensors')
        ms = ModelState.initfromsrcfile('verse.txt', 'work', modeltype=found.modeltype, **found.options)
        ms.setparameters(found)
    """

    modeltype: str
    options: dict[str, Any]

    @classmethod
    def of(cls, arrays: Mapping[str, Any], **options: Any) -> Self:
        """Find out which model some arrays are of, and check all their names and shapes.

        Raises
        ------
        InputError
            If they are of none; the message lists what does not fit.
        """
        found = cls({name: np.asarray(array, np.float32) for name, array in arrays.items()})
        first, c, cells = found.get("layers.0.W"), found.get("c"), _CELLS
        readout = found.get("V", found.get("E", np.empty(0)).T)
        if "layers.0.b" in found and not any(name.endswith(".W") for name in found):
            first, cells = np.empty((len(readout), found["layers.0.b"].size)), _MINIMAL
        if first is None or first.ndim != 2 or c is None or c.ndim != 1:
            raise InputError(
                "These are no parameters of a recurrent model: expected 'layers.0.W', 'c' and others, "
                f"got {_listed(found)}."
            )
        size, width = first.shape
        cell = cells.get(width // size if size and width % size == 0 else 0)
        if cell is None:
            raise InputError(
                f"layers.0.W has shape {first.shape}: expected 1, 3 or 4 times as many columns as rows."
            )
        both, encode = "back.0.U" in found, "E" in found
        found.modeltype = f"Bi{cell}" if both else f"{cell}{'Encode' if encode else 'Resize'}"
        layers = sum(bool(re.fullmatch(r"layers\.\d+\.U", name)) for name in found)
        found.options = {"state_size": size, "layers": layers} | options
        found.options |= {"tied": True} if "V" not in found else {}
        found.options |= {"reset_after": True} if "layers.0.d" in found else {}
        found.options |= {"layernorm": True} if "layers.0.g" in found else {}
        if encode and found["E"].shape[1:] not in ((), (size,)):
            found.options["embed_size"] = found["E"].shape[1]
        found._check(len(c))
        return found

    def _check(self, symbols: int) -> None:
        hyper, model = HyperParams(symbols, **self.options), named(self.modeltype)
        model.check(hyper)
        wanted, problems = model.shapes(hyper), []
        for name in {**wanted, **self}:
            got = self[name].shape if name in self else "nothing"
            if got != wanted.get(name):
                expected = wanted.get(name, "no such name")
                problems.append(f"{name}: expected {expected}, got {got}")
        if problems:
            raise InputError(
                f"The arrays do not make a {self.modeltype}:\n" + "\n".join(problems[:20])
            )

    def forvocab(self, symbols: Iterable[str] | None, vocab: Vocabulary) -> Self:
        """Return them in the order of another vocabulary.

        A symbol that the other model lacks, such as "unknown", gets no weights in, and on the way out
        the mean of all others and a bias that makes it very unlikely.

        Parameters
        ----------
        symbols
            Its symbols in the order of its ids: a string or a list. Bytes need none.
        vocab
            The vocabulary to order them for.

        Raises
        ------
        InputError
            If there are not as many symbols as rows, one comes twice, or none is in ``vocab``.
        """
        if vocab.level == "byte":
            if len(self["c"]) != 256:
                raise InputError(f"The model has {len(self['c']):,} symbols, expected 256: bytes.")
            return self
        if symbols is None:
            raise InputError(
                "Nothing says which symbols the model's ids are. Give symbols=, all of them in the order "
                "of their ids."
            )
        ids = {symbol: idx for idx, symbol in enumerate(symbols)}
        if len(ids) != len(self["c"]):
            raise InputError(
                f"symbols has {len(ids):,} different ones, but the model has {len(self['c']):,}. Give "
                "each once, in the order of the model's ids."
            )
        rows = np.array([ids.get(vocab.charatidx(i), -1) for i in range(vocab.vocab_size)])
        if not (rows[1:] >= 0).any():
            raise InputError(f"None of the model's symbols is in {vocab!r}.")
        lacking, moved = rows < 0, dict(self)
        table = "E" if "E" in self else "layers.0.U"
        moved[table] = np.where(lacking[:, np.newaxis], np.float32(0), self[table][rows])
        if "V" in self:
            moved["V"] = np.where(lacking, self["V"].mean(1, keepdims=True), self["V"][:, rows])
        moved["c"] = np.where(lacking, self["c"].mean() - RARELY, self["c"][rows])
        return type(self).of(moved, **self.options)

    def __repr__(self) -> str:
        told = "".join(f", {name}={value!r}" for name, value in self.options.items())
        return f"<Parameters of {self.modeltype}, {len(self['c']):,} symbols{told}>"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 8:,} more" if names[8:] else ""
    return (", ".join(map(repr, names[:8])) or "nothing") + more
