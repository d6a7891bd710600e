"""What is installed, what it computes with, where things are kept, and what is wrong.

>>> findings = examined()
>>> findings[0].name, any(each.name == "threads" for each in findings)
('rngru', True)
"""

import os
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from rngru.kernels import compiling, target, threads
from rngru.version import __version__
from rngru.workdir import examine

VARIABLES: Final = {
    "RNGRU_THREADS": "how many threads compute",
    "NUMBA_NUM_THREADS": "how many at most",
    "OMP_NUM_THREADS": "how many at most",
    "RNGRU_HEARTBEAT": "seconds until a process that is silent counts as dead",
    "SLURM_NTASKS": "how many processes SLURM has started",
    "NUMBA_CACHE_DIR": "where compiled kernels are kept",
    "XDG_CACHE_HOME": "where caches of programs are",
    "LOCALAPPDATA": "the same on Windows",
    "NUMBA_CPU_NAME": "the processor to compile for",
    "NUMBA_CPU_FEATURES": "what it can do",
    "NUMBA_DISABLE_JIT": "must not be set",
    "PYTENSOR_FLAGS": "settings of PyTensor",
    "COLUMNS": "the width of tables",
    "NO_COLOR": "no colours in a terminal",
    "FORCE_COLOR": "colours where there is no terminal",
    "TERM": "which terminal it is",
}
"""The environment variables that are read, and what they decide."""

_OTHERS: Final = {"test", "dev", "bench"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what to do about it if it is wrong."""

    section: str
    name: str
    found: str
    advice: str = ""


class Findings(tuple[Finding, ...]):
    """All findings; they show themselves in sections."""

    __slots__ = ()

    def __repr__(self) -> str:
        width, lines, section = min(shutil.get_terminal_size().columns, 100), [], ""
        for each in self:
            if each.section != section:
                section = each.section
                lines += ["", section]
            mark = "!" if each.advice else " "
            head, rest = f"{mark} {each.name:19} ", " " * 22
            fold = textwrap.TextWrapper(
                width, initial_indent=head, subsequent_indent=rest, break_on_hyphens=False
            )
            lines += fold.wrap(each.found) or [head.rstrip()]
            fold.initial_indent = rest
            lines += fold.wrap(each.advice)
        wrong = sum(bool(each.advice) for each in self)
        end = {0: "All is well.", 1: "One thing is wrong."}.get(wrong, f"{wrong} things are wrong.")
        return "\n".join([*lines[1:], "", end])


def examined(workdir: str | Path | None = None) -> Findings:
    """Return what there is to say of this installation, and of a working directory."""
    found = [*_versions(), *_computing(), *_environment()]
    if workdir is not None:
        found += [Finding(f"directory {workdir}", *each) for each in examine(workdir)]
    return Findings(found)


def _versions() -> Iterator[Finding]:
    section = "versions"
    yield Finding(section, "rngru", f"{__version__}, in {Path(__file__).parents[1]}")
    python = f"{platform.python_version()}, {sys.executable}"
    yield Finding(section, "Python", python)
    yield Finding(section, "system", f"{platform.platform()}, {platform.machine()}")
    for package, extra in _packages():
        try:
            yield Finding(section, package, metadata.version(package))
        except metadata.PackageNotFoundError:
            if extra:
                yield Finding(section, package, f"not here; pip install 'rngru[{extra}]'")
            else:
                yield Finding(section, package, "missing", "pip install rngru installs it.")


def _packages() -> list[tuple[str, str]]:
    """Return the packages that rngru uses, and the extra that each belongs to, if any."""
    try:
        lines = metadata.requires("rngru") or []
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        lines = ["numpy", "pytensor", "numba", "llvmlite", "rich"]
    found = []
    for line in lines:
        package = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if package != "rngru" and not (extra and extra[1] in _OTHERS):
            found.append((package, extra[1] if extra else ""))
    return found


def _computing() -> Iterator[Finding]:
    section = "computing"
    yield Finding(section, "instructions", f"{target.TARGET}")
    told = os.environ.get("RNGRU_THREADS", "")
    wrong = bool(told) and not (told.split(",")[0].strip().isdecimal() and int(told.split(",")[0]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(
        section, "threads", f"{threads.available()}, on {cores} cores",
        f"RNGRU_THREADS={told!r} is no number above 0, so it is not heeded." if wrong else "",
    )  # fmt: skip
    places = compiling.places()
    for place, kept, writable in places:
        able = "" if writable else "; cannot be written"
        yield Finding(section, "compiled kernels", f"{place}: {kept} files{able}")
    if not any(writable for *_, writable in places):
        yield Finding(
            section, "compiled kernels", "can be kept nowhere",
            "Each start takes seconds longer. Set NUMBA_CACHE_DIR to a folder that you can write to.",
        )  # fmt: skip


def _environment() -> Iterator[Finding]:
    for name, meaning in VARIABLES.items():
        if name in os.environ:
            advice = (
                "Unset it: the kernels run compiled only." if name == "NUMBA_DISABLE_JIT" else ""
            )
            told = os.environ[name]
            yield Finding("environment", name, f"{told!r}: {meaning}", advice)
    unset = [
        name
        for name in VARIABLES
        if name not in os.environ and (name != "LOCALAPPDATA" or os.name == "nt")
    ]
    yield Finding("environment", "not set", ", ".join(unset))
