"""A new model that is refused, or stopped, leaves everything as it was."""

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import RngruError

TEXT = "so it goes,\nand so it went\n" * 20
SMALL = {"state_size": 4, "seq_len": 5, "rng": 1, "report": "silent"}

REFUSED = [
    {"srcfile": "missing.txt"},
    {"srcfile": Texts([""])},
    {"srcfile": Texts(["a"])},
    {"srcfile": Texts(["ab\0" * 99])},
    {"trainfrac": 5},
    {"encoding": "x"},
    {"errors": "x"},
    {"max_vocab": 0},
    {"min_count": 10**6},
    {"report": "x"},
    {"level": "letter"},
    {"level": "byte", "max_vocab": 9},
    {"validfiles": "missing.txt"},
    {"backend": "x"},
    {"modeltype": "x"},
    {"state_size": -1},
    {"rng": "x"},
    {"seq_len": 0},
]


def everything(folder):
    """All that is in a folder, with the contents and, for folders, the time of the last change."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else path.stat().st_mtime_ns
        for path in (folder, *sorted(folder.rglob("*")))
    }


@pytest.mark.parametrize("wrong", REFUSED, ids=str)
def test_a_call_that_is_refused_leaves_nothing(tmp_path, wrong):
    """Directories and locks are made for a file that was mistyped; or what was there is removed."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    call = {"srcfile": Texts([TEXT]), **SMALL} | wrong
    for where in ("left", "deep/er/left", "there"):
        with pytest.raises(RngruError):
            ModelState.initfromsrcfile(usedir=tmp_path / where, **call)
        assert everything(tmp_path) == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError, OSError("disk")], ids=str)
@pytest.mark.parametrize("at", ["Reading", "Notice", "checkpoint"])
def test_what_stops_a_new_model_leaves_nothing(tmp_path, monkeypatch, stop, at):
    """Ctrl-C while encoding leaves half a text; or, with overwrite=True, takes the old model along."""

    def fail(*given, **options):
        if at == "checkpoint" or type(given[-1]).__name__ == at:
            raise stop

    old = ModelState.initfromsrcfile(Texts([TEXT]), tmp_path / "old", **SMALL)
    before = everything(tmp_path)
    if at == "checkpoint":
        monkeypatch.setattr("rngru.checkpoint.save", fail)
    else:
        monkeypatch.setattr("rngru.report.live.SilentReporter.__call__", fail)
    for where in ("deep/new", "old"):
        with pytest.raises((KeyboardInterrupt, RngruError, MemoryError, OSError)):
            ModelState.initfromsrcfile(Texts([TEXT * 2]), tmp_path / where, overwrite=True, **SMALL)
        assert not (tmp_path / "deep").exists()
    monkeypatch.undo()
    if at != "checkpoint":
        assert everything(tmp_path) == before
    again = ModelState.load(tmp_path / "old")
    assert np.array_equal(again.parameters()["c"], old.parameters()["c"])
