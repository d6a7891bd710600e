"""Which files a name stands for; never those of a model, and a mistyped name is told what was meant."""

import os
import shutil
import warnings
from pathlib import Path

import pytest

from rngru import ModelState, Texts
from rngru.corpus import encodecorpus
from rngru.errors import InputError, TextError
from rngru.text import opentexts, readtext
from rngru.workdir import Workdir

SMALL = {"state_size": 4, "seq_len": 5, "rng": 1, "report": "silent"}


def model(folder, **options):
    """A model in a folder."""
    return ModelState.initfromsrcfile(Texts("so it goes\n" * 20), folder, **SMALL | options)


def names(source):
    """The files of a source, relative to where we are."""
    return [Path(os.path.relpath(each.path)).as_posix() for each in opentexts(source)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A directory with two texts and two models, of which one is below a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("book.txt", "texts/more.txt"):
        (tmp_path / name).write_text("the ship sails\n" * 20)
    model("work")
    model("texts/other", init_checkpoint=False)
    return tmp_path


def test_the_files_of_models_are_no_text(home):
    """Catches a lock, a history and weights among the text, because a model lives beside its source."""
    for source in (".", home, "**/*", str(home / "**" / "*"), f"../{home.name}"):
        with pytest.warns(
            UserWarning, match=r"the model in .*/(work|other) and 1 more, which rngru"
        ):
            assert names(source) == ["book.txt", "texts/more.txt"]
    with pytest.warns(UserWarning, match=r"Left out .* model in .*texts/other, which"):
        assert names("texts") == ["texts/more.txt"]
    assert names("*.txt") == ["book.txt"]
    for source in ("work", "work/data", "work/checkpoints/*/*", "w*/*.json", "work/c*"):
        with pytest.raises(TextError, match="no file"):
            opentexts(source)
    assert names("work/lock") == ["work/lock"]  # named itself


@pytest.mark.parametrize(
    "leave",
    [
        lambda work: None,
        lambda work: (work / "lock").unlink(),
        lambda work: shutil.rmtree(work / "checkpoints"),
        lambda work: [shutil.rmtree(work / "data"), (work / "lock").unlink()],
        lambda work: (work / "checkpoints").rename(work / ".tmp-checkpoints"),
        lambda work: [shutil.copytree(work / "checkpoints/0", work.parent / "saved"), shutil.rmtree(work)],
        lambda work: [(work / "data").rename(work.parent / "ids"), shutil.rmtree(work)],
    ],
)  # fmt: skip
def test_what_is_left_of_a_model_is_no_text_either(tmp_path, leave):
    """Catches a model known by one file only: a copy without the lock, a checkpoint moved elsewhere."""
    model(tmp_path / "work")
    (tmp_path / "book.txt").write_text("the ship sails")
    leave(tmp_path / "work")
    with pytest.warns(UserWarning, match="Left out of the text"):
        assert readtext(tmp_path) == "the ship sails"


def test_links_do_not_lead_into_a_model(home):
    """Catches a model reached by another name."""
    (home / "texts" / "link.txt").symlink_to(home / "work" / "lock")
    (home / "alias").symlink_to(home / "work")
    with pytest.warns(UserWarning, match="Left out"):
        assert names("texts/*") == ["texts/more.txt"]
    for source in ("alias", "alias/*", "alias/data"):
        with pytest.raises(TextError, match="no file"):
            opentexts(source)


def test_texts_beside_a_model_are_read(home):
    """Catches a text left out because it lies in the working directory that was named."""
    (home / "work" / "notes.txt").write_text("notes")
    (home / "work" / "data.txt").write_text("data")
    with pytest.warns(UserWarning, match="Left out"):
        assert names("work") == ["work/data.txt", "work/notes.txt"]
    assert names("work/*.txt") == ["work/data.txt", "work/notes.txt"]
    with pytest.warns(UserWarning, match="Left out"):
        assert "work/notes.txt" not in names(".")


def test_folders_with_such_names_are_not_models(tmp_path):
    """Catches a user's own folder called data or checkpoints that is skipped."""
    for name in ("data/corpus.txt", "checkpoints/1/text.txt", "lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert len(opentexts(tmp_path)) == 3


def test_a_model_is_made_again_of_the_directory_that_holds_it(tmp_path, monkeypatch):
    """Catches the second call refused, or trained on the model that the first one made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("the ship sails\n" * 20)
    for where in ("work", ".", "."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ms = ModelState.initfromsrcfile(".", where, overwrite=True, **SMALL)
        assert [name for name, _ in ms._corpus.documents] == ["book.txt"]
    for pattern in ("*", "**/*"):
        with pytest.warns(UserWarning, match="Left out"):
            corpus = encodecorpus(pattern, tmp_path / "encoded")
        assert [name for name, _ in corpus.documents] == ["book.txt"]


# ----------------------------------------------------------------------------- what was meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("data\notes.txt", r"r'data\notes.txt'"),
        ("data\todo.txt", r"r'data\todo.txt'"),
        ("data\book.txt", r"r'data\book.txt'"),
        ("data\found.txt", r"r'data\found.txt'"),
        ("data\readme", r"r'data\readme'"),
        ("data\1.txt", r"r'data\1.txt'"),
        ("C:\new folder\\my notes.txt", r"r'C:\new folder\my notes.txt'"),
        ("bob's\text.txt", r'''r"bob's\text.txt"'''),
    ],
)
def test_a_backslash_taken_for_an_escape(typed, meant):
    """Catches a path called a text, or a directory made with a line end in its name."""
    with pytest.raises(TextError) as caught:
        opentexts(typed)
    assert f"type {meant}," in str(caught.value) and "Texts([" in str(caught.value)
    with pytest.raises(InputError) as caught:
        Workdir(typed)
    assert f"was {meant} meant?" in str(caught.value)


def test_a_name_with_a_line_end_that_is_there_is_read(tmp_path):
    """Catches a file that can no longer be named."""
    for name in ("odd\name.txt", "odd\tname.txt"):
        (tmp_path / name).write_text("odd")
        assert readtext(tmp_path / name) == "odd"


def test_a_mistyped_name_is_told_what_was_meant(tmp_path, monkeypatch):
    """Catches quotes, spaces and addresses that are only said not to be there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "my notes.txt").write_text("x")
    (tmp_path / "Hamlet.TXT").write_text("x")
    meant = "Did you mean 'deep/my notes.txt'"
    for typed, message in [
        ("'deep/my notes.txt'", meant),
        ("deep/my notes.txt ", meant),
        ("deep/my notes.txt\n", meant),
        ("deep\\my notes.txt", meant),
        ("deep/my%20notes.txt", meant),
        ("deep/my notes", meant),
        (f"file://{tmp_path}/deep/my%20notes.txt", "Did you mean '/.*my notes.txt'"),
        ("hamlet.txt", "Did you mean 'Hamlet.TXT'"),
        ("Hamlet.TXT/act 1", "Hamlet.TXT is a file, not a directory"),
        ("nowhere/deep/a.txt", "There is no directory 'nowhere'"),
        ("https://example.org/a.txt", "Download it first: curl -LO https://example.org/a.txt"),
        ("~nobody at all/a.txt", "no such user"),
        ("a\0b", r"'a\\x00b': no such file"),
        ("", "'.' is the directory you are in"),
        (" ", "'.' is the directory you are in"),
    ]:
        with pytest.raises(TextError, match=message):
            opentexts(typed)
