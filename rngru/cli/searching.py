"""``rngru sweep``: its flags, and what it does."""

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Any

from rngru.cli import INTERRUPTED, Parser, say
from rngru.cli.commands import MAKING, Outcome, addjson, addtext, show, source
from rngru.cli.flags import addarguments, addsettings, given, value
from rngru.errors import InputError, nearest
from rngru.hyper import HyperParams
from rngru.state import ModelState
from rngru.sweeps import VARIED, Kinds, sweep
from rngru.training import Plan


def addflags(command: Parser) -> None:
    """Add the flags of the command."""
    command.usage = "rngru sweep [TEXT ...] --workdir DIR --vary NAME=VALUES ... [flags]"
    command.epilog = (
        "A sweep that was stopped goes on with rngru sweep --workdir DIR; on several machines at once, "
        "too. VALUES are choices, 64,128,256, or a range, 0:0.3 or 1e-4:1e-2:log."
    )
    addtext(command)
    command.add_argument("--workdir", required=True, metavar="DIR", help="where everything is kept")
    command.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="a setting that is varied",
    )
    addarguments(command, sweep, ("trials", "seconds", "processes", "rng", "report"))
    addjson(command)
    texts = [name for name in MAKING if name not in (*VARIED, "rng")]
    addarguments(command.add_argument_group("the text"), ModelState.initfromsrcfile, texts)
    group = command.add_argument_group("what all models have")
    for kind in (HyperParams, Plan, Kinds):
        names = [name for name in kind.settings() if name in VARIED]
        addsettings(
            group, kind, only=[name for name in names if kind is not Plan or name == "batchsize"]
        )


def search(options: argparse.Namespace) -> Outcome:
    """Search, or go on with a search, and show what was found."""
    space = dict(_varied(each) for each in options.vary) or None
    names = ("trials", "seconds", "processes", "rng", "report", *MAKING, *VARIED)
    with redirect_stdout(sys.stderr):
        found = sweep(source(options), options.workdir, space, **given(options, names))
    trials = [{**asdict(each), "path": str(each.path)} for each in found]
    show(options, found, trials)
    if not options.json and any(each.state == "done" for each in found):
        say(f"the best model is in {found.besttrial.path}")
    return (INTERRUPTED if found.interrupted else 0), None


def _varied(words: str) -> tuple[str, Any]:
    """Return the name and the values of what is varied."""
    name, _, values = words.partition("=")
    name = name.replace("-", "_")
    if name not in VARIED:
        raise InputError(f"--vary {words}: {name} cannot be varied.{nearest(name, VARIED)}")
    ends = values.split(":")
    log = ends[2:] == ["log"]
    wanted = ends[:2] if len(ends) == 2 or log else values.split(",")
    try:
        read = [value(VARIED[name], each) for each in wanted]
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--vary {words}: {error}".replace("%%", "%")) from None
    return name, (*read, *(["log"] if log else [])) if len(ends) > 1 else read
