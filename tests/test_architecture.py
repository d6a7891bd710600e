"""The house as it was planned: which file may import what, and what no file may do."""

import ast
import functools
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rngru

ROOT = Path(__file__).parents[1]
PACKAGE = Path(next(iter(rngru.__path__)))

# From the ground up: a room imports only from rooms above it, and of third-party packages only those
# named beside it. NumPy and the standard library are free.
ROWS: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "disk": set(),
    "tables": set(),
    "shading": {"rich"},
    "events": set(),
    "forks": set(),
    "interrupts": set(),
    "settings": set(),
    "kernels": {"numba", "llvmlite"},
    "text": {"charset_normalizer"},
    "checkpoint": set(),
    "dataset": set(),
    "corpus": set(),
    "hyper": set(),
    "sampling": set(),
    "models": set(),
    "network": set(),
    "cells": {"pytensor"},
    "optim": {"pytensor"},
    "backends": {"pytensor", "jax"},
    "plots": {"matplotlib"},
    "reader": {"regex"},
    "training": set(),
    "report": {"rich", "IPython", "tensorboardX"},
    "snapshot": set(),
    "workdir": set(),
    "compression": {"constriction"},
    "export": {"onnx", "safetensors", "torch"},
    "pictures": {"matplotlib", "plotille"},
    "recipes": set(),
    "instrument": set(),
    "growing": set(),
    "making": set(),
    "state": set(),
    "corpora": set(),
    "sweeps": {"optuna", "matplotlib"},
    "cli": {"shtab"},
    "__main__": set(),
}
# Rooms whose parts others may enter; every other package has one door.
OPEN = {"kernels"}
LONGEST = {"state": 950, "instrument": 1060}
FREE = set(sys.stdlib_module_names) | {"numpy"}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def row(path: Path) -> str:
    """The row of the table that ``path`` belongs to: a package is one row."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    """Dotted names of all that ``path`` imports, wherever it does so."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}:{node.lineno} has a relative import"
            # What "from rngru import x" brings may be a module; below it, a name of that module.
            whole = [f"rngru.{alias.name}" for alias in node.names if alias.name in ROWS]
            yield from whole if node.module == "rngru" else [str(node.module)]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_imports_only_from_rows_above_it(path):
    """One import upwards, and soon nothing can be read, tested or replaced alone."""
    assert row(path) in ROWS, f"{name(path)} has no row in the table"
    above = list(ROWS)[: list(ROWS).index(row(path)) + 1]
    for imported in imports(path):
        first, *rest = imported.split(".")
        if first == "rngru":
            assert rest and rest[0] in above, f"{name(path)} imports {imported}"
        else:
            assert first in FREE | ROWS[row(path)], f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_other_rooms_are_entered_by_the_door(path):
    """Whoever reaches inside a package keeps its parts from ever being moved."""
    for imported in imports(path):
        first, *rest = imported.split(".")
        if first == "rngru" and len(rest) > 1 and rest[0] != row(path):
            assert rest[0] in OPEN, f"{name(path)} imports {imported}"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_files_and_functions_stay_short_enough_to_read(path):
    """What does not fit on a few screens is read by nobody, and grows."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST.get(row(path), 500)
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef) and row(path) != "kernels":
            first = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - first[0].lineno + 1 if first else 0
            most = 25 if row(path) in ("state", "instrument") else 60
            assert length <= most, f"{name(path)}: the body of {node.name} has {length} lines"


def test_the_facade_is_mostly_manual():
    """A verb has its manual in the facade and its body in a room below."""
    source = tree(PACKAGE / "state.py")
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [ast.get_docstring(node) for node in ast.walk(source) if isinstance(node, described)]
    assert sum(len(text.splitlines()) for text in texts if text) >= 250


def test_nobody_sets_an_attribute_of_a_backend():
    """A backend that somebody writes to is no set of pure functions any more."""
    from rngru.backends import Backend, shielded
    from rngru.hyper import HyperParams
    from rngru.models import MODELS

    computes = shielded("cpu", MODELS["GRUEncode"], HyperParams(5, state_size=8))
    for attribute in ("model", "hyper", "name"):
        with pytest.raises(AttributeError):
            setattr(computes, attribute, None)
    assert not [each for each in vars(Backend) if each.startswith("set")]


def test_what_is_imported_is_declared():
    """A dependency that comes along by chance is gone with the next release of another."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    declared = {re.match(r"[\w-]+", line)[0].replace("-", "_") for line in wanted}
    used = {imported.split(".")[0] for path in FILES for imported in imports(path)}
    used = {name.lower() if name == "IPython" else name for name in used}
    assert used - set(sys.stdlib_module_names) - {"rngru"} <= declared


def test_importing_the_package_is_light():
    """A prompt that opens a second late is felt every day; heavy packages wait for first use."""
    code = "import json, sys, rngru; print(json.dumps([rngru.__file__, *sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    file, *modules = json.loads(done.stdout)
    assert file is not None, "rngru has no __init__.py"
    loaded = {module.split(".")[0] for module in modules}
    assert not loaded & {"pytensor", "numba", "llvmlite", "scipy", "matplotlib", "rich", "jax"}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_no_file_can_run_code(path):
    """One pickle or eval, and a checkpoint from a stranger owns the machine.

    Compiled kernels are code anyway, and lie only where nobody else may write.
    """
    modules = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
    if name(path) == "kernels/compiling.py":
        modules.remove("pickle")
    assert not modules & {imported.split(".")[0] for imported in imports(path)}
    for node in ast.walk(tree(path)):
        where = f"{name(path)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Name):
            assert node.id not in {"eval", "exec", "compile", "__import__"}, where
        if isinstance(node, ast.Attribute):
            assert node.attr != "import_module" or path == PACKAGE / "__init__.py", where
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant), where
            assert node.value.value is False, where


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_global_is_changed(path):
    """A library that sets a global seed or a PyTensor flag changes the caller's other work."""
    for node in ast.walk(tree(path)):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        for target in targets if isinstance(node, ast.Assign | ast.AugAssign) else []:
            written = ast.unparse(target)
            assert "pytensor.config" not in written, f"{name(path)}:{node.lineno} sets {written}"
            assert "sys.modules" not in written, f"{name(path)}:{node.lineno} sets {written}"
            assert "sys.displayhook" not in written, f"{name(path)}:{node.lineno} sets {written}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_graphs_are_compiled_in_one_place(path):
    """Two callers of pytensor.function choose two modes, and one of them is slow."""
    calls = [ast.unparse(n.func) for n in ast.walk(tree(path)) if isinstance(n, ast.Call)]
    assert row(path) == "backends" or not {"pytensor.function", "function"} & set(calls)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_help_shows_types_unquoted(path):
    """``from __future__ import annotations`` makes help() print every type in quotes."""
    assert "__future__" not in set(imports(path))
