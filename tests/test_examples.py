"""Every script in ``examples/`` runs, for half a second of training, and does what it is for."""

import importlib.util
from pathlib import Path

import pytest

import rngru

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9][0-9]_*.py"))

SYSTEMS = ("04_every_cell.py", "05_many_files.py", "06_the_gist.py", "07_fill_gaps.py")
"""Those that do the job of a system before this one, and so can be compared with it."""


def test_examples_are_numbered_in_reading_order():
    """A gap or a number used twice leaves the reader without a next page."""
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, tmp_path, monkeypatch, capsys, registered):
    """An example that trains when it is imported, or writes outside its folder, fails here."""
    if path.name == "13_several_processes.py":
        pytest.importorskip("jax")
        # The processes import what is tested here; and warnings are not errors to readers.
        monkeypatch.setenv("PYTHONPATH", str(Path(rngru.__file__).parents[1]))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path / "work", seconds=0.5)
    assert not list(here.iterdir()), "it writes where the reader stands"
    if path.name in SYSTEMS:
        said = capsys.readouterr().out
        assert said.count("nats per character, ") == (6 if path.name == "04_every_cell.py" else 1)
    assert (
        path.name != "04_every_cell.py" or (tmp_path / "work" / "cells.png").stat().st_size > 1000
    )
