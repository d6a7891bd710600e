"""A training run in TensorBoard; the one part of reporting that imports tensorboardX.

>>> TensorBoard.__doc__.splitlines()[0]
'A listener that draws a run in TensorBoard: losses, gradient, rate, speed and samples.'
"""

import secrets
from pathlib import Path
from typing import Any, final

from rngru.disk import topath
from rngru.errors import MissingExtra
from rngru.events import Batch, Drawn, Event, Notice, Round
from rngru.tables import printable


@final
class TensorBoard:
    """A listener that draws a run in TensorBoard: losses, gradient, rate, speed and samples.

    The horizontal axis is the position: symbols of training text read in the life of the model, so that
    a run that goes on another day continues its curves.

    ==================  ======================================================
    ``loss/batch``      training loss of each batch, nats per symbol
    ``loss/train``      the same, mean of each round
    ``loss/valid``      validation loss after each round, nats per symbol
    ``bits``            the same in bits per symbol
    ``gradnorm``        length of the gradient of each batch, nats per weight
    ``learnrate``       learning rate of each round
    ``speed``           symbols per second of training, of each round
    ``sample``          each text that was shown
    ==================  ======================================================

    Parameters
    ----------
    folder
        Where TensorBoard looks: ``tensorboard --logdir folder``.

    Raises
    ------
    MissingExtra
        Without tensorboardX: ``pip install 'rngru[tensorboard]'``.

    Example
    -------
    ::

        ms.trainmodel(max_seconds=60, listen=rngru.report.TensorBoard('logs/first'))
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise MissingExtra(
                "TensorBoard needs tensorboardX: pip install 'rngru[tensorboard]'."
            ) from error
        self.folder = topath(folder).expanduser().absolute()
        self._writer: Any = None
        self._position = self._characters = 0

    def __call__(self, event: Event, /) -> None:
        """Write ``event``."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # Its own names tell only seconds apart, and a second writer would overwrite the first.
            suffix = f".{secrets.token_hex(4)}"
            self._writer = SummaryWriter(str(self.folder), filename_suffix=suffix)
            self._characters = 0
        match event:
            case Batch():
                self._position = event.position
                self._add({"loss/batch": event.loss, "gradnorm": event.gradnorm})
            case Round():
                self._position = event.position
                self._round(event)
                self._writer.flush()
            case Drawn():
                self._writer.add_text("sample", _verbatim(event.text), event.position)
            case Notice():
                self._writer.add_text("notice", _verbatim(event.text), self._position)

    def _round(self, event: Round) -> None:
        self._add({"loss/train": event.trainloss, "learnrate": event.learnrate})
        if event.validloss is not None and event.bits is not None:
            self._add({"loss/valid": event.validloss, "bits": event.bits})
        symbols, self._characters = event.characters - self._characters, event.characters
        if event.trained:
            self._add({"speed": symbols / event.trained})

    def _add(self, numbers: dict[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, self._position)

    def close(self) -> None:
        """Write what is still to be written; the next event begins another file beside it."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _verbatim(text: str) -> str:
    """Return a text as a block of code, for TensorBoard reads Markdown."""
    return "".join(f"    {line}\n" for line in printable(text).splitlines())
