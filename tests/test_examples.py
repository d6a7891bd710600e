"""Every script in ``examples/`` runs, for two seconds of training."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("[0-9][0-9]_*.py"))


def test_examples_are_numbered_in_reading_order():
    """A gap or a number used twice leaves the reader without a next page."""
    assert [int(path.name[:2]) for path in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(path, tmp_path, monkeypatch):
    """An example that trains when it is imported, or writes outside its folder, fails here."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(tmp_path / "work", seconds=2)
    assert not list(here.iterdir()), "it writes where the reader stands"
