"""The command line: ``python -m tests.benchmarks --help``."""

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import (
    corpus,
    devices,
    encoding,
    generating,
    learning,
    memory,
    starting,
    training,
)
from tests.benchmarks.clock import Figure, Options, machine, undisturbed

THEMES = {
    "training": training,
    "starting": starting,
    "generating": generating,
    "memory": memory,
    "corpus": corpus,
    "encoding": encoding,
    "learning": learning,
    "devices": devices,
}
LONG = {"learning", "devices"}
"""Themes that take long, or want what few machines have: measured only where they are named."""


def main() -> None:
    """Measure what was asked for; show a table for each theme, and write JSON."""
    parser = argparse.ArgumentParser("python -m tests.benchmarks", description="Measure rngru.")
    parser.add_argument("--only", action="append", choices=THEMES, help="a theme; may be repeated")
    parser.add_argument("--runs", type=int, default=7, help="counted rounds (default 7)")
    parser.add_argument("--threads", type=int, default=2, help="for each side (default 2)")
    parser.add_argument("--json", type=Path, default="benchmarks.json", metavar="PATH")
    group = parser.add_argument_group("learning")
    group.add_argument("--rows", default="", metavar="PATTERN", help="'quick', 'cell *LSTM', ...")
    group.add_argument("--seconds", type=float, help="for each model (default 150 or 60)")
    group.add_argument("--text", default="", metavar="PATH", help="a text: Tiny Shakespeare")
    group.add_argument("--other", default="", metavar="PATH", help="a text in another language")
    given = parser.parse_args()
    texts = {"text": given.text, "other": given.other}
    options = Options(given.runs, given.threads, given.rows, given.seconds, texts)
    report: dict[str, Any] = {"machine": machine(), "options": asdict(options)}
    console = Console()
    console.print(*(f"{key} {value}" for key, value in report["machine"].items()), sep=", ")
    for name in given.only or sorted(THEMES.keys() - LONG, key=list(THEMES).index):
        measured = []
        with console.status(name) as status, undisturbed() as disturbance:
            for figure in THEMES[name].figures(options):
                measured.append(figure)
                status.update(f"{name}: {figure.name} {figure.value:.2f} {figure.unit}")
        console.print(table(f"{name}; meanwhile {disturbance}", measured))
        figures = [asdict(figure) | {"reached": figure.reached} for figure in measured]
        report[name] = {"figures": figures, "meanwhile": asdict(disturbance)}
        given.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def table(title: str, figures: Iterable[Figure]) -> Table:
    """Return what a person wants to see of the figures."""
    shown = Table("figure", title=title, title_justify="left")
    shown.add_column("measured", justify="right", no_wrap=True)
    shown.add_column("target", justify="right", no_wrap=True)
    shown.add_column("how")
    for figure in figures:
        shown.add_row(*_row(figure))
    return shown


def _row(figure: Figure) -> Iterator[str]:
    colour = {True: "green", False: "red", None: "default"}[figure.reached]
    yield figure.name
    digits = 4 if figure.unit == "nats" else 2
    yield f"[{colour}]{figure.value:.{digits}f} {figure.unit}"
    yield "" if figure.target is None else f"{'≤' if figure.most else '≥'} {figure.target:.2f}"
    yield figure.detail["note"]


if __name__ == "__main__":
    main()
