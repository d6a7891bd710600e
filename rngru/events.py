"""What happens while a model trains: frozen events, in the order in which they occur.

Training is a stream of records. Whoever wants to show, store or draw it reads the stream; nobody can
write into it. One call to train gives

``Notice`` for each thing that a person should know first; ``Begin``; then for each round its
``Batch`` events, with a ``Drawn`` now and then, ``Validating`` while the validation text is read, and
one ``Round`` at the end of it; a ``Notice`` wherever there is something to say; at last ``End``, which
says why it stopped.

A symbol is what the model reads: a character, a word or a byte. Losses are pure cross-entropy in
nats per symbol, never with the penalty on the weights; positions and lengths count symbols.
``units`` names the symbols, in the plural.

>>> Round(1, 1000, 0.5, 2.5, 2.4, 3.46, 1e-3, 1.0, 1000, 2.0, None, units="words").validloss
2.4
>>> short("words")
'word'
"""

from dataclasses import dataclass


def short(units: str) -> str:
    """Return the name of one symbol as tables have it: ``'char'``, ``'word'`` or ``'byte'``."""
    return "char" if units == "characters" else units.removesuffix("s")


@dataclass(frozen=True, slots=True)
class Reading:
    """The text of a new model is being encoded: ``done`` of ``total`` bytes, in ``seconds``.

    The text is read twice, and both times count.
    """

    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Begin:
    """Training starts.

    ``rounds`` of ``batches`` batches each are planned, of ``batchsize`` lanes by ``seq_len``
    symbols; the training text has ``trainlen`` symbols. After ``max_seconds`` it stops in any case;
    ``rounds`` is None if nothing else is to stop it.
    """

    rounds: int | None
    batches: int
    batchsize: int
    seq_len: int
    trainlen: int
    max_seconds: float | None
    units: str = "characters"


@dataclass(frozen=True, slots=True)
class Batch:
    """The model was trained on one batch.

    ``batch`` counts from 1 to ``batches`` within the round. ``position`` is how many symbols of
    training text have been read in the life of the model, ``epoch`` the same in passes over the
    text. ``loss`` is that of this batch before its update (nats per symbol), ``gradnorm`` the length
    of its gradient before clipping. ``characters`` (symbols) and ``seconds`` count from Begin.
    """

    round: int
    batch: int
    batches: int
    position: int
    epoch: float
    loss: float
    gradnorm: float
    characters: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A sample was drawn from the model as it is now: ``text``."""

    position: int
    epoch: float
    text: str


@dataclass(frozen=True, slots=True)
class Validating:
    """The validation text is being read: ``done`` of ``total`` symbols, ``seconds`` after Begin.

    ``stopping``: Ctrl-C came, so that training stops after it; another one leaves it out.
    """

    done: int
    total: int
    seconds: float
    stopping: bool = False


@dataclass(frozen=True, slots=True)
class Round:
    """A round is over.

    ``trainloss`` is the mean over its batches, ``validloss`` that of the validation text and
    ``bits`` the same in bits per symbol (both None when nothing was validated). ``learnrate`` is the
    rate the round was trained with, ``gradnorm`` the mean length of the gradient. ``characters``
    (symbols) and ``seconds`` count from Begin; ``checkpoint`` names the one saved, if any. ``trained``
    are the seconds of this round alone, without validation and saving.
    """

    round: int
    position: int
    epoch: float
    trainloss: float
    validloss: float | None
    bits: float | None
    learnrate: float
    gradnorm: float
    characters: int
    seconds: float
    checkpoint: str | None
    units: str = "characters"
    trained: float | None = None


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the person at the prompt should know: ``text``, one or two sentences.

    ``position`` is where the run goes back to, if it does: batches beyond it are taken back.
    """

    text: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Training stopped.

    ``reason`` is ``'done'``, ``'time'``, ``'patience'`` or ``'interrupted'``. ``best`` is the lowest
    validation loss of earlier calls, if there is one. ``back``: the model goes back to the best round.
    """

    reason: str
    best: float | None = None
    back: bool = False


Event = Reading | Begin | Batch | Drawn | Validating | Round | Notice | End
