"""What each command does, and its flags.

>>> sorted(FLAGS) == sorted(RUN)
True
"""

import argparse
import itertools
import json
import math
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rngru import corpora
from rngru.backends import TEAM, distributed
from rngru.checkpoint import Checkpoints
from rngru.cli import INTERRUPTED, Parser, compressing, say
from rngru.cli import demo as first
from rngru.cli.flags import addarguments, addsettings, given, value
from rngru.errors import InputError, TextError, WorkdirError
from rngru.hyper import HyperParams
from rngru.making import differing, sametext
from rngru.reader import Scores
from rngru.report import History
from rngru.sampling import Sampling
from rngru.settings import Setting, real
from rngru.state import ModelState
from rngru.tables import Table, finite, oneline, printable
from rngru.text import GUESS, Document, Source, Texts, readtext
from rngru.training import Plan
from rngru.workdir import Workdir

STDIN: Final = "-"
Outcome = tuple[int, ModelState | None]

MAKING: Final = (
    "modeltype", "seq_len", "level", "trainfrac", "validfiles", "encoding", "errors", "min_count",
    "max_vocab", "skip", "rng",
)  # fmt: skip
_DRAWING: Final = ("numchars", "seed", "streams", "rng")


def show(options: argparse.Namespace, record: object, content: Any) -> None:
    """Print a record as a person reads it, or its content as JSON."""
    print(_json(content) if options.json else record)


def _json(content: Any) -> str:
    return json.dumps(finite(content), ensure_ascii=False, allow_nan=False, default=str)


def addjson(command: Parser) -> None:
    """Add the flag that a table has."""
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def addtext(command: Parser) -> None:
    """Add the text that a command reads."""
    command.add_argument(
        "text", nargs="*", metavar="TEXT", help="files, folders or patterns; - is standard input"
    )


def _addmodel(command: Parser) -> None:
    command.add_argument("workdir", metavar="WORKDIR", help="the working directory of a model")


def _standardinput(encoding: str = "utf-8") -> str:
    """Return the text that comes on standard input."""
    data = _bytes()
    if encoding == GUESS:
        encoding = Document("Standard input", None, data, len(data)).guessed().encoding
    try:
        return readtext(Texts([data.decode(encoding)]))
    except UnicodeDecodeError as error:
        raise TextError(
            f"Standard input is not {encoding}: {error.reason} at byte {error.start:,}. Convert it "
            "first, as iconv does."
        ) from None
    except LookupError:
        raise InputError(f"--encoding {encoding}: expected the name of an encoding.") from None


def _bytes() -> bytes:
    if sys.stdin is None:
        raise TextError("There is no standard input. Name a file instead.")
    if sys.stdin.isatty():
        say("reading what you type; Ctrl-D ends it")
    return sys.stdin.buffer.read()


# ---- train ----


def _trainflags(command: Parser) -> None:
    command.usage = "rngru train [TEXT ...] --workdir DIR [--seconds N] [flags]"
    addtext(command)
    command.add_argument(
        "--workdir", required=True, metavar="DIR",
        help="where the model is kept; if there is one of this text, its training goes on",
    )  # fmt: skip
    command.add_argument(
        "--overwrite", action="store_true", help="throw away a model that is there"
    )
    training = command.add_argument_group("how to train")
    also = {"max_seconds": "--seconds", "num_rounds": "--rounds"}
    addsettings(training, Plan, leave=["learnrate"], also=also)
    addarguments(training, ModelState.trainmodel, ["report"])
    addjson(command)
    addarguments(
        command.add_argument_group("several processes, on one host or several"),
        distributed,
        ["coordinator", "processes", "process"],
    )
    making = "a new model, and the text"
    addarguments(
        command.add_argument_group(making),
        ModelState.initfromsrcfile,
        ["recipe", *MAKING, "model", "backend"],
    )
    addsettings(command.add_argument_group("its sizes, and how it learns"), HyperParams,
                leave=["vocab_size"])  # fmt: skip


def _train(options: argparse.Namespace) -> Outcome:
    plan = given(options, [*Plan.settings(), "report"])
    with redirect_stdout(sys.stderr):  # all that tells how it goes on
        _join(options)
        if not TEAM.leads:
            TEAM.wait()  # until the first has made the model
        ms = _model(options)
        if TEAM.leads:
            TEAM.wait()
        history = ms.trainmodel(**plan)
    if TEAM.leads:
        show(options, history, [asdict(each) for each in history])
        say(f"saved in {ms.workdir}")
    return (INTERRUPTED if history.interrupted else 0), ms


def _join(options: argparse.Namespace) -> None:
    """Join the other processes, if there are any: those that are named, or were started by SLURM."""
    named = given(options, ["coordinator", "processes", "process"])
    backend = given(options, ["backend"]).get("backend", "jax" if named else "")
    if named and backend != "jax":
        raise InputError(f"coordinator: several processes need backend='jax', not {backend!r}.")
    if named or (backend == "jax" and int(os.environ.get("SLURM_NTASKS", 1)) > 1):
        distributed(**named)
        options.backend = backend
        options.overwrite = options.overwrite and TEAM.leads


def _model(options: argparse.Namespace) -> ModelState:
    """Return the model that is to be trained: the one that is there, or a new one."""
    text = source(options)
    asked = given(options, [*MAKING, *HyperParams.settings()])
    disk = Workdir(options.workdir)
    backend = given(options, ["backend"])
    if not disk.holdsmodel or options.overwrite:
        if text is None:
            raise InputError(f"{disk.path} holds no model. Name the TEXT to make one of.")
        new = asked | backend | given(options, ["model", "report"]) | _recipe(options)
        return ModelState.initfromsrcfile(text, disk.path, overwrite=options.overwrite, **new)
    if given(options, ["model"]):
        raise InputError(
            f"--model: {disk.path} holds a model already. Name another --workdir for the one that is to "
            "learn the text, or throw it away with --overwrite."
        )
    if given(options, ["recipe"]):
        say(f"{disk.path} holds a model already, so --recipe changes nothing")
    ms = ModelState.load(disk.path, **backend)
    asked.pop("learnrate", None)  # training changes it
    found = differing(ms._model, ms._corpus, asked)
    others = [f"{name}={there!r}, not {other!r}" for name, (there, other) in found.items()]
    how = "Leave that out to go on with it; --overwrite throws it away; or name another directory."
    if others:
        raise InputError(f"{disk.path} holds a model with {'; '.join(others)}. {how}")
    if text is not None:
        how = how.replace("that", "the TEXT")
        wanted = given(options, ["validfiles", "encoding", "errors", "skip"])
        if ms._corpus is not None and not sametext(ms._corpus, text, **wanted):
            raise WorkdirError(
                f"{disk.path} holds a model of {ms.chars.srcinfo or 'another text'}. {how}"
            )
    return ms


def _recipe(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe of a new model, and the time it is made for: that of this call, if it ends."""
    named = given(options, ["recipe"])
    seconds = given(options, ["max_seconds"]).get("max_seconds") if named else None
    return named if seconds in (None, math.inf) else {**named, "seconds": seconds}


def source(options: argparse.Namespace) -> Source | None:
    """Return the text that was named."""
    if STDIN not in options.text:
        return options.text[0] if len(options.text) == 1 else options.text or None
    if len(options.text) > 1:
        raise InputError("- is standard input, and cannot be one of several texts.")
    text = _standardinput(vars(options).get("encoding", "utf-8"))
    return Texts([text], names=["standard input"])


# ---- sample ----


def _sampleflags(command: Parser) -> None:
    command.usage = "rngru sample [WORKDIR] [--temp X] [--numchars N] [-n N] [flags]"
    command.add_argument(
        "workdir",
        nargs="?",
        metavar="WORKDIR",
        help="the working directory of a model, or a packed one; by default the model of rngru itself",
    )
    addarguments(command, ModelState.generatestring, _DRAWING, also={"streams": "-n"})
    addsettings(command.add_argument_group("how it is drawn"), Sampling)
    addjson(command)


def _sample(options: argparse.Namespace) -> Outcome:
    ms = ModelState.load(options.workdir) if options.workdir else corpora.model()
    seed = _seed(ms, options)
    named = given(options, ["numchars", "streams", "rng", *Sampling.settings()])
    named |= {} if seed is None else {"seed": seed}
    if not options.json and "streams" not in named and ms.chars.level != "byte":
        return _write(ms, named), ms
    found: Any = ms.generatestring(**named)
    samples = list(found) if "streams" in named else [found]
    for number, sample in enumerate(samples):
        if options.json:
            print(_json({"seed": sample.seed, "text": sample.text}))
        elif ms.chars.level == "byte" and not sys.stdout.isatty():
            sys.stdout.flush()
            sys.stdout.buffer.write((seed or b"") + sample.bytes + b"\n")
        else:
            if number:
                print("---")
            print(_fit((seed or "") + sample.text))
    return (INTERRUPTED if any(each.interrupted for each in samples) else 0), ms


def _write(ms: ModelState, named: dict[str, Any]) -> int:
    """Write one text to standard output, as it is drawn."""
    try:
        pieces = ms.stream(**{"numchars": 100} | named)
        for piece in itertools.chain([named.get("seed", "")], pieces):
            print(_fit(piece), end="", flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        print()
    return 0


def _seed(ms: ModelState, options: argparse.Namespace) -> Any:
    """Return what the texts continue, as the model reads it."""
    told = vars(options).get("seed")
    if told is None:
        return None
    if ms.chars.level == "byte":
        return _bytes() if told == STDIN else told.encode("utf-8", "surrogateescape")
    return _standardinput() if told == STDIN else told


def _fit(text: Any) -> str:
    """Return a text as the screen shows it; what is not for a screen stays as it is."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return printable(words, sys.stdout.encoding or "utf-8") if sys.stdout.isatty() else words


# ---- score ----


def _scoreflags(command: Parser) -> None:
    command.usage = "rngru score WORKDIR [TEXT ...] [--by {line,word}] [--json]"
    _addmodel(command)
    command.add_argument(
        "text",
        nargs="*",
        default=[STDIN],
        metavar="TEXT",
        help="files; - is standard input, as without any",
    )
    command.add_argument(
        "--by", choices=["line", "word"], help="one row for each: its nats, and what it says"
    )
    addjson(command)


def _score(options: argparse.Namespace) -> Outcome:
    ms = ModelState.load(options.workdir)
    found: dict[str, Scores] = {}
    for name in options.text:
        scores = ms.score(_given(ms, name))
        assert isinstance(scores, Scores)
        found["standard input" if name == STDIN else name] = scores
        if scores.interrupted:
            break
    if options.by:
        for scores in found.values():
            for text, nats in scores.lines() if options.by == "line" else scores.words():
                row = {"nats": round(nats, 6), options.by: text}
                print(_json(row) if options.json else f"{nats:.4f}\t{oneline(text.rstrip())}")
    elif options.json:
        for name, scores in found.items():
            print(_json({"text": name, **_measured(scores)}))
    elif len(found) == 1:
        print(*found.values())
    else:
        rows = [
            [
                f"{m['nats']:.4f}",
                f"{m['bits']:.3f}",
                f"{m['perplexity']:.2f}",
                f"{m['count']:,}",
                name,
            ]
            for name, m in ((name, _measured(scores)) for name, scores in found.items())
        ]
        print(Table(["nats", "bits", "perplexity", ms.chars.units, ""], rows))
    return (INTERRUPTED if any(each.interrupted for each in found.values()) else 0), ms


def _given(ms: ModelState, name: str) -> Any:
    if name == STDIN:
        return _bytes() if ms.chars.level == "byte" else _standardinput()
    return Path(name)


def _measured(scores: Scores) -> dict[str, Any]:
    mean = scores.evaluation
    return {
        "nats": mean.nats,
        "bits": mean.bits,
        "perplexity": mean.perplexity,
        "count": mean.characters,
        "units": mean.units,
    }


# ---- sweep ----


def _sweepflags(command: Parser) -> None:
    from rngru.cli.searching import addflags  # no other command needs it, and it loads much

    addflags(command)


def _sweep(options: argparse.Namespace) -> Outcome:
    from rngru.cli.searching import search

    return search(options)


# ---- info, export, demo, doctor ----


def _infoflags(command: Parser) -> None:
    _addmodel(command)
    addjson(command)


def _info(options: argparse.Namespace) -> Outcome:
    ms = ModelState.load(options.workdir)
    history, checkpoints = History(reason="past"), Checkpoints()
    if ms.workdir.is_dir():  # else it is a file from ms.pack: a model without its past
        history, checkpoints = ms.history(), ms.checkpoints()
    best = checkpoints.best
    content = {
        "workdir": ms.workdir,
        "modeltype": ms.modeltype,
        "level": ms.chars.level,
        "text": ms.chars.srcinfo,
        "parameters": sum(array.size for array in ms.parameters().values()),
        "hyper": {name: getattr(ms.hyper, name) for name in HyperParams.settings()},
        "seq_len": ms.seq_len,
        "backend": ms.backend,
        "position": ms.position,
        "epoch": ms.epoch,
        "best": best and best.step,
        "checkpoints": [
            {name: getattr(each, name) for name in ("step", "epoch", "position", "trainloss",
             "validloss", "saved", "problem")}
            for each in checkpoints
        ],
        "history": [asdict(each) for each in history],
    }  # fmt: skip
    show(options, "\n\n".join(map(repr, [ms, ms.hyper, checkpoints, history])), content)
    return 0, ms


def _exportflags(command: Parser) -> None:
    _addmodel(command)
    command.add_argument(
        "path",
        metavar="PATH",
        help="the file to write; its ending says which format (.rngru: for rngru itself)",
    )


def _export(options: argparse.Namespace) -> Outcome:
    ms = ModelState.load(options.workdir)
    packed = options.path.endswith(".rngru")
    print(ms.pack(options.path) if packed else ms.export(options.path))
    return 0, ms


def _demoflags(command: Parser) -> None:
    seconds = Setting("", "seconds", real(above=True))  # the rate falls to the end, so there is one
    command.add_argument(
        "--seconds", type=lambda text: value(seconds, text), default=60.0, metavar="SECONDS",
        help="how long to train (60)",
    )  # fmt: skip
    command.add_argument(
        "--workdir", default=first.HOME, metavar="DIR", help=f"where to keep it ({first.HOME})"
    )


def _demo(options: argparse.Namespace) -> Outcome:
    return 0, first.demo(options.seconds, options.workdir)


def _doctorflags(command: Parser) -> None:
    command.description = f"{command.description} The exit status is 1 if something is wrong."
    command.add_argument(
        "workdir", nargs="?", metavar="WORKDIR", help="a working directory to examine"
    )
    addjson(command)


def _doctor(options: argparse.Namespace) -> Outcome:
    from rngru.cli.doctor import examined  # loads Numba

    findings = examined(options.workdir)
    show(options, findings, [asdict(each) for each in findings])
    return (1 if any(each.advice for each in findings) else 0), None


FLAGS: Final[dict[str, Callable[[Parser], None]]] = {
    "train": _trainflags,
    "sample": _sampleflags,
    "score": _scoreflags,
    "info": _infoflags,
    "export": _exportflags,
    "compress": compressing.compressflags,
    "decompress": compressing.decompressflags,
    "sweep": _sweepflags,
    "demo": _demoflags,
    "doctor": _doctorflags,
}
"""What adds the flags of each command."""

RUN: Final[dict[str, Callable[[argparse.Namespace], Outcome]]] = {
    "train": _train,
    "sample": _sample,
    "score": _score,
    "info": _info,
    "export": _export,
    "compress": compressing.compressed,
    "decompress": compressing.decompressed,
    "sweep": _sweep,
    "demo": _demo,
    "doctor": _doctor,
}
"""What each command does: it returns the exit status, and the model that it leaves."""
