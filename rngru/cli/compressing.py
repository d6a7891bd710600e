"""The two commands that compress a file with a model, and give it back.

>>> from rngru.cli import Parser
>>> command = Parser("rngru compress", fill=compressflags)
>>> command.parse_args(["w", "book.txt", "--no-adapt"]).adapt
False
"""

import argparse
from pathlib import Path
from typing import Final

from rngru.cli import Parser
from rngru.cli.flags import addarguments, given
from rngru.compression import ENDING
from rngru.errors import InputError
from rngru.state import ModelState

_OPTIONS: Final = ("adapt", "overwrite")


def compressflags(command: Parser) -> None:
    """Add what compressing is told."""
    command.usage = "rngru compress WORKDIR PATH [-o PATH] [--no-adapt] [--overwrite]"
    _common(command, "the file to compress", f"by default its name with {ENDING}")
    command.add_argument(
        "--adapt", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
        help="learn each piece after it was compressed (default); slower, and smaller",
    )  # fmt: skip
    addarguments(command, ModelState.compress, ["overwrite"])


def compressed(options: argparse.Namespace) -> tuple[int, ModelState | None]:
    """Compress a file, and say how small it got."""
    ms = ModelState.load(options.workdir)
    print(ms.compress(Path(options.path), options.out, **given(options, _OPTIONS)))
    return 0, ms


def decompressflags(command: Parser) -> None:
    """Add what decompressing is told."""
    command.usage = "rngru decompress WORKDIR PATH [-o PATH] [--overwrite]"
    _common(command, "the compressed file", f"by default its name without {ENDING}")
    addarguments(command, ModelState.compress, ["overwrite"])


def decompressed(options: argparse.Namespace) -> tuple[int, ModelState | None]:
    """Write the file that was compressed, and say where."""
    name, ending = Path(options.path), Path(options.path).suffix
    if options.out is None and ending != ENDING:
        raise InputError(f"{name} does not end with {ENDING}: say where to write it, -o PATH.")
    ms = ModelState.load(options.workdir)
    out = options.out or name.with_suffix("")
    print(ms.decompress(name, out, **given(options, _OPTIONS)))
    return 0, ms


def _common(command: Parser, what: str, default: str) -> None:
    command.add_argument("workdir", metavar="WORKDIR", help="the working directory of a model")
    command.add_argument("path", metavar="PATH", help=what)
    command.add_argument("-o", "--out", metavar="PATH", help=f"the file to write; {default}")
