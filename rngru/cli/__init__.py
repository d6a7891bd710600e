"""The command line: ``rngru train book.txt --workdir w --seconds 60 && rngru sample w``.

:func:`main` is what the command ``rngru`` and ``python -m rngru`` call. What a command was asked for goes to
standard output; progress, notices, warnings and errors go to standard error. The exit status says what
kind of error it was (:data:`STATUS`).

Here is only what ``rngru --help`` needs, for that should show at once; what the commands do is in
:mod:`rngru.cli.commands`.

>>> main(["--version"])  # doctest: +ELLIPSIS
rngru 0...
0
"""

import argparse
import atexit
import contextlib
import gc
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

from rngru.errors import (
    InputError,
    MissingExtra,
    NoModelError,
    RngruError,
    RngruWarning,
    WorkdirBusy,
    nearest,
)
from rngru.version import __version__

if TYPE_CHECKING:
    from rngru.state import ModelState

COMMANDS: Final = {
    "train": "make a model of a text and train it, or go on with one",
    "sample": "write text with a model",
    "score": "say how surprising a text is to a model",
    "info": "show a model: its sizes, checkpoints and history",
    "export": "write a model in another format, by the ending of the file",
    "compress": "compress a file with a model",
    "decompress": "give back a file that was compressed with a model",
    "sweep": "search for the settings that learn a text best",
    "demo": "train a small model on Python's own help topics",
    "doctor": "show what is installed and where things are kept, and what is wrong",
}
"""The commands, and what each does."""

STATUS: Final = {
    InputError: 2, NoModelError: 3, WorkdirBusy: 4, RngruError: 1, OSError: 1, MemoryError: 1,
}  # fmt: skip
"""Exit status by kind of error: the first that fits."""

INTERRUPTED, UNREAD = 130, 141

SELDOM: Final = 100_000
"""New objects after which a command looks for garbage; Python does after 700."""

ADVISED: Final = (
    "adapt", "batchsize", "dropout", "encoding", "errors", "keep_best", "learnrate", "level", "max_vocab",
    "min_count", "overwrite", "recipe", "seconds", "seq_len", "skip", "state_size",
    "trainfrac", "valid_len", "validfiles",
)  # fmt: skip
"""Arguments that messages name in their advice."""

EPILOG: Final = """\
examples:
  rngru train book.txt --workdir w --seconds 60
  rngru sample w --temp 0.7 -n 3 | less
  cat new.txt | rngru score w --json

exit status:
  0    all is well             3    there is no model
  1    an error of rngru's     4    another process holds the directory
  2    an argument is wrong    130  interrupted; what was trained is saved

"rngru COMMAND --help" says more. "python -i -m rngru" opens a prompt.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks, by default that of this process; return the exit status."""
    # Nothing of what is imported is garbage. To look through it again and again, and three times when
    # the process ends, takes longer than to write a text.
    usual = gc.get_threshold()
    gc.set_threshold(SELDOM)
    atexit.register(gc.freeze)
    try:
        return run(arguments)[0]
    finally:
        gc.set_threshold(*usual)


def run(arguments: Sequence[str] | None = None) -> "tuple[int, ModelState | None]":
    """Do what a command line asks; return the exit status, and the model that a command leaves."""
    with contextlib.suppress(AttributeError):  # what the terminal lacks is escaped
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr,unused-ignore]
    with _warned():
        try:
            status, model = _obey(arguments)
            if sys.stdout is not None:  # closed by the shell
                sys.stdout.flush()
        except SystemExit as end:  # argparse has said what is wrong
            return (end.code if isinstance(end.code, int) else 1), None
        except KeyboardInterrupt:
            return INTERRUPTED, None
        except BrokenPipeError:  # nobody reads any more: head, or less that was left
            _silence(sys.stdout)
            return UNREAD, None
        except tuple(STATUS) as problem:
            say(str(problem) or "There is too little memory.")
            return next(STATUS[kind] for kind in STATUS if isinstance(problem, kind)), None
    return status, model


def say(text: str) -> None:
    """Tell a person something on standard error, in lines that fit the terminal."""
    stream = sys.stderr
    lines = f"rngru: {asflags(text)}".splitlines()
    try:
        if stream.isatty():
            width = max(shutil.get_terminal_size().columns - 1, 20)
            lines = [part for line in lines for part in textwrap.wrap(line, width) or [""]]
        stream.write("\n".join(lines) + "\n")
        stream.flush()
    except (OSError, AttributeError):  # closed, or none
        _silence(stream)


def asflags(text: str) -> str:
    """Return advice that is given for Python as one types it at a shell.

    >>> asflags("level='byte' reads any file; skip=True leaves it out, skip=False does not.")
    '--level byte reads any file; --skip leaves it out, --no-skip does not.'
    >>> asflags("give encoding=.")
    'give --encoding.'
    """

    def flag(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2] or ""
        if value == "False":
            return f"--no-{name}"
        return f"--{name}" + ("" if value in ("", "True") else " " + value.strip("'"))

    return re.sub(rf"\b({'|'.join(ADVISED)})=('[^']*'|True|False|[\d.]+\b)?", flag, text)


@contextlib.contextmanager
def _warned() -> Iterator[None]:
    """Say our own warnings without the names of files and numbers of lines."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, RngruWarning):
                say(str(message))
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _silence(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere, or Python would complain of it at the end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)


class Parser(argparse.ArgumentParser):
    """A parser that gets its flags when they are needed, and is brief about what is wrong.

    Parameters
    ----------
    fill: adds the flags.
    options: as for ``argparse.ArgumentParser``.
    """

    def __init__(
        self, prog: str, *, fill: Callable[["Parser"], object] = id, **options: Any
    ) -> None:
        super().__init__(prog, allow_abbrev=False, **options)
        self._fill: Callable[[Parser], object] | None = fill

    def filled(self) -> "Parser":
        """Return the parser with its flags."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, as argparse does; unknown flags are refused here, where all flags are known."""
        found, others = super(Parser, self.filled()).parse_known_args(args, namespace)
        if others:
            flag = others[0].split("=")[0]
            near = (
                nearest(flag.lstrip("-").replace("-", "_"), self._names())
                if flag[:1] == "-"
                else ""
            )
            near = re.sub(r"'(\w+)'", lambda found: f"'--{found[1].replace('_', '-')}'", near)
            self.error(f"{flag} is not known here.{near}")
        return found, others

    def _names(self) -> set[str]:
        flags = [flag for action in self._actions for flag in action.option_strings]
        return {flag.lstrip("-").replace("-", "_") for flag in flags}

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        say(message)
        self.exit(2, f"{self.prog} --help shows how it is used.\n")


def parser() -> Parser:
    """Return the parser of the whole command line."""
    usage = "rngru COMMAND [flags]"
    top = Parser(
        "rngru",
        usage=usage,
        description="Recurrent language models of text.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"rngru {__version__}")
    top.add_argument(
        "--print-completion",
        metavar="SHELL",
        help="print what completes commands and flags in bash, zsh or tcsh",
    )
    each = top.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", prog="rngru", parser_class=Parser
    )
    for name, purpose in COMMANDS.items():
        told = f"{purpose[0].upper()}{purpose[1:]}."
        each.add_parser(name, help=purpose, description=told, fill=_filler(name))
    return top


def _filler(name: str) -> Callable[[Parser], object]:
    def fill(command: Parser) -> None:
        from rngru.cli.commands import FLAGS

        FLAGS[name](command)

    return fill


def _obey(arguments: Sequence[str] | None) -> "tuple[int, ModelState | None]":
    whole = parser()
    options = whole.parse_args(arguments)
    if options.print_completion:
        _complete(whole, options.print_completion)
        return 0, None
    if options.command is None:
        whole.print_help(sys.stderr)
        return 2, None
    from rngru.cli.commands import RUN

    return RUN[options.command](options)


def _complete(whole: Parser, shell: str) -> None:
    """Print the completion for a shell."""
    try:
        import shtab
    except ImportError as error:
        raise MissingExtra(
            "--print-completion needs shtab: pip install 'rngru[completion]'."
        ) from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise InputError(
            f"--print-completion {shell}: expected one of {', '.join(shtab.SUPPORTED_SHELLS)}."
        )
    kinds = {"workdir": shtab.DIRECTORY, "text": shtab.FILE, "path": shtab.FILE}
    for action in whole._actions:
        for command in action.choices.values() if isinstance(action.choices, dict) else ():
            for each in command.filled()._actions:
                if each.dest in kinds:
                    each.complete = kinds[each.dest]
    sys.stdout.write(shtab.complete(whole, shell))
