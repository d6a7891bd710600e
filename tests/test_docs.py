"""What the documentation shows is what happens: every example in it is run."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import rngru

ROOT = Path(__file__).parents[1]
MODULES = ["rngru", *(m.name for m in pkgutil.walk_packages(rngru.__path__, "rngru."))]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name, tmp_path, monkeypatch, capsys, verse, registered):
    """An example that no longer runs is worse than none."""
    monkeypatch.chdir(tmp_path)
    expected = set()
    if name == "rngru.state":  # its example is the story of a file and a working directory
        (tmp_path / "verse.txt").write_text(verse, encoding="utf-8")
        expected = {"verse.txt", "work", "model.rngru", "model.py"}
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert not failed, capsys.readouterr().out
    left = {path.name for path in tmp_path.iterdir()}
    assert left == expected, "an example leaves files where the reader stands"


@pytest.mark.parametrize("name", MODULES)
def test_every_module_opens_with_what_it_holds(name):
    """A file without a word on what it is for has to be read to be found."""
    assert (importlib.import_module(name).__doc__ or "").strip()


@pytest.mark.parametrize("row", sorted({name.split(".")[1] for name in MODULES[1:]}))
def test_every_part_shows_how_it_is_used(row):
    """A part without an example has to be read to be used."""
    parts = [name for name in MODULES if name.split(".")[1:2] == [row]]
    tests = [doctest.DocTestFinder().find(importlib.import_module(name)) for name in parts]
    assert row == "__main__" or any(test.examples for test in sum(tests, []))


def test_the_readme_runs(tmp_path, monkeypatch):
    """The README's Python blocks, in order, are one session at the prompt."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S))
    assert blocks, "README.md has no ```python block"
    for block in blocks:
        line = text[: block.start()].count("\n") + 1
        if ">>> " in block[1]:
            example = doctest.DocTestParser().get_doctest(block[1], names, "README", None, line)
            result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(
                example, clear_globs=False
            )
            assert not result.failed, f"README.md, line {line}"
            names |= example.globs
        else:
            code = compile("\n" * line + block[1], str(ROOT / "README.md"), "exec")
            exec(code, names)
