"""What every test shares: float64 is an error, long tests are asked for, small texts and models."""

import contextlib
import gc
import io
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# PyTensor reads its flags once, when it is first imported: a silent promotion to float64 anywhere
# in a graph then fails the test that builds it. That it notes for each variable who made it is a third
# of the time that a scan takes to compile.
os.environ["PYTENSOR_FLAGS"] = ",".join(
    filter(None, [os.environ.get("PYTENSOR_FLAGS"), "warn_float64=raise", "traceback__limit=0"])
)

# XLA compiles for a second each time that a shape is new, and most tests look at one batch.
os.environ["XLA_FLAGS"] = " ".join(
    filter(None, [os.environ.get("XLA_FLAGS"), "--xla_backend_optimization_level=0"])
)

# Test processes side by side share the cores, and do not wait for each other's threads.
if together := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("RNGRU_THREADS", str(max(1, (os.cpu_count() or 1) // together)))

# Tables fit the terminal; those that tests look at, one of this width.
os.environ["COLUMNS"] = "80"

# A first example may compile a kernel; its time says nothing about the property.
hypothesis.settings.register_profile("rngru", deadline=None)
hypothesis.settings.load_profile("rngru")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--long``."""
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker ``long``; let signals work."""
    config.addinivalue_line("markers", "long: takes minutes; runs only with --long")
    # A shell that starts us in the background has Ctrl-C ignored, and nohup has SIGHUP; children
    # would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is marked ``long`` unless it was asked for."""
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; run with --long"))


def pytest_collection_finish() -> None:
    """Leave thousands of tests out of each search for garbage; tests that make graphs have many."""
    gc.freeze()


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether ``--long`` was given, for tests that do the same thing more often then."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def smalltext() -> str:
    """About 5,000 characters of English prose, the same for one version of Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))[:5000]


@pytest.fixture(scope="session")
def verse() -> str:
    """About 1,600 characters of verse, ASCII, the same everywhere."""
    return (Path(__file__).parent / "verse.txt").read_text(encoding="utf-8")


@pytest.fixture
def newmodel(tmp_path: Path) -> Callable[..., Any]:
    """Make small models, each in a directory of its own: ``newmodel(text, **options)``."""
    from rngru import ModelState, Texts

    numbers = itertools.count(1)

    def make(text: str, **options: Any) -> ModelState:
        small = {"state_size": 8, "seq_len": 20, "rng": 1, "report": "silent"} | options
        folder = tmp_path / f"model {next(numbers)}"
        return ModelState.initfromsrcfile(Texts([text], names=["a text"]), folder, **small)

    return make


@pytest.fixture
def registered():
    """Cells that are registered in a test are forgotten after it."""
    from rngru.cells import STEPS
    from rngru.kernels.spec import CELLS
    from rngru.models import MODELS

    tables: tuple[dict[str, Any], ...] = (CELLS, STEPS, MODELS)
    before = [dict(table) for table in tables]
    yield
    for table, old in zip(tables, before, strict=True):
        table.clear()
        table.update(old)


class Screen(io.StringIO):
    """A terminal, as far as anybody can tell."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch):
    """The repr of something where standard output is a terminal with 24-bit colours, or is ``file``."""
    for name, value in {"TERM": "xterm-256color", "COLORTERM": "truecolor"}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)

    def show(text, file=None):
        with contextlib.redirect_stdout(file or Screen()):
            return repr(text)

    return show
