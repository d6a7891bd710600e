"""A text is said to have changed if its contents have, and at no other time."""

import json
import os
import warnings

import pytest

from rngru import ModelState
from rngru import corpus as corpora
from rngru.corpus import Corpus, encodecorpus
from rngru.errors import CheckpointDamaged
from rngru.text import sources

TEXT = "the ship sails\n" * 200


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A model of two files."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(TEXT)
    ModelState.initfromsrcfile(
        ["a.txt", "b.txt"], "work", state_size=4, seq_len=5, rng=1, report="silent"
    )
    return tmp_path


def told():
    """What is said on loading."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ModelState.load("work")
    return [str(each.message) for each in caught]


def forget(folder):
    """Make a description one of before digests were kept."""
    path = folder / "work" / "data" / "corpus.json"
    about = json.loads(path.read_text())["corpus"]
    del about["digests"]
    path.write_text(json.dumps({"digest": corpora._jsondigest(about), "corpus": about}))


def test_a_file_that_was_touched_has_not_changed(home):
    """Catches a warning after git checkout, or a copy, at every load."""
    os.utime(home / "a.txt")
    assert told() == []
    (home / "a.txt").unlink()
    (home / "a.txt").write_text(TEXT)
    assert told() == []
    (home / "a.txt").unlink()
    assert told() == []


def test_a_file_of_the_same_size_and_other_contents_has_changed(home):
    """Catches a correction of one letter that nobody is told of."""
    (home / "b.txt").write_text(TEXT.replace("ship", "shop"))
    (message,) = told()
    assert message.startswith(f"{home / 'b.txt'} changed after")
    (home / "a.txt").write_text(TEXT + ".")
    (message,) = told()
    assert message.startswith(f"{home / 'a.txt'} and 1 more changed after")


def test_what_is_not_known_is_not_claimed(home, monkeypatch):
    """Catches 'changed' said of a text of which only the time is known, or which is too large to read."""
    os.utime(home / "a.txt")
    with monkeypatch.context() as patch:
        patch.setattr("rngru.text.changes.AT_MOST", len(TEXT) - 1)
        (message,) = told()
    assert message.startswith(f"{home / 'a.txt'} may have changed after")
    assert told() == []
    forget(home)
    (message,) = told()
    assert message.startswith(f"{home / 'a.txt'} may have changed after")
    (home / "b.txt").write_text("other")
    (message,) = told()
    assert message.startswith(f"{home / 'b.txt'} changed after")


@pytest.mark.parametrize("level", ["char", "word", "byte"])
def test_the_digest_is_of_the_bytes_of_the_file(tmp_path, monkeypatch, level):
    """Catches the digest of a piece, of what was decoded, or of the file before."""
    monkeypatch.setattr(sources, "BLOCK", 64)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + f"{name}\r\n".encode() * 50)
    made = encodecorpus([tmp_path / "b.txt", tmp_path / "a.txt"], tmp_path / "data", level=level)
    for name in ("a.txt", "b.txt"):
        os.utime(tmp_path / name)
    assert Corpus.open(tmp_path / "data").changedsources() == ([], [])
    assert len(set(made.digests)) == 2


def test_a_description_whose_digests_do_not_fit_is_damaged(home):
    """Catches files compared with the digests of others."""
    path = home / "work" / "data" / "corpus.json"
    about = json.loads(path.read_text())["corpus"]
    for wrong in ([], about["digests"][:1], 5):
        about["digests"] = wrong
        path.write_text(json.dumps({"digest": corpora._jsondigest(about), "corpus": about}))
        with pytest.raises(CheckpointDamaged):
            Corpus.open(home / "work" / "data")
