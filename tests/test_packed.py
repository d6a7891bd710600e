"""One file for a friend: what it holds, what is refused, and an old model that learns a new text."""

import contextlib
import io
import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import CheckpointDamaged, CheckpointError, InputError, NoModelError, WorkdirError
from rngru.growing import grown

CALL = {"batchsize": 2, "train_len": 3}


@pytest.fixture
def ms(newmodel, verse):
    made = newmodel(verse, optimizer="adam")
    made.trainmodel(2, **CALL)
    return made


def same(one: ModelState, other: ModelState) -> bool:
    mine, theirs = one.parameters(), other.parameters()
    return mine.keys() == theirs.keys() and all((mine[n] == theirs[n]).all() for n in mine)


def test_a_packed_model_writes_and_scores_as_before(ms, tmp_path):
    """A friend whose model says something else; or a folder that gives the whole text away."""
    path = ms.pack(tmp_path / "model.rngru")
    friend = ModelState.load(path)
    assert same(ms, friend) and friend.workdir == path
    one, other = (each.generatestring(80, temp=1.0, rng=3) for each in (ms, friend))
    assert one.text == other.text
    assert ms.score("The ship").nats.tolist() == friend.score("The ship").nats.tolist()
    assert repr(friend).startswith("<ModelState GRUEncode") and "epoch 0.1" in repr(friend)


def test_it_is_read_by_numpy_and_json_alone(ms, tmp_path):
    """A format of our own, which nobody can open when rngru is gone."""
    path = ms.pack(tmp_path / "model.rngru")
    with zipfile.ZipFile(path) as archive:
        arrays = np.load(io.BytesIO(archive.read("arrays.npz")), allow_pickle=False)
        meta = json.loads(archive.read("meta.json"))["meta"]
    assert np.array_equal(arrays["E"], ms.parameters()["E"])
    assert meta["vocabulary"]["symbols"] == ms.chars.chars
    assert str(ms.workdir) not in json.dumps(meta)


def test_smaller_forms_hold_less(ms, tmp_path):
    """Three times the size in the mail, for what only training needs."""
    whole = ms.pack(tmp_path / "whole.rngru")
    light = ms.pack(tmp_path / "light.rngru", training=False)
    half = ms.pack(tmp_path / "half.rngru", training=False, half=True)
    sizes = [path.stat().st_size for path in (whole, light, half)]
    assert sizes[0] > 2 * sizes[1] and sizes[1] > 1.2 * sizes[2]
    assert same(ms, ModelState.load(light))
    rounded = ModelState.load(half).parameters()
    for name, array in ms.parameters().items():
        assert np.array_equal(rounded[name], array.astype(np.float16).astype(np.float32))


def test_what_needs_a_directory_says_how_to_get_one(ms, tmp_path):
    """An AttributeError at the prompt of a friend."""
    friend = ModelState.load(ms.pack(tmp_path / "model.rngru"))
    for verb in ("trainmodel", "restore", "checkpoints", "newcheckpoint", "history", "evaluate"):
        with pytest.raises(WorkdirError, match=r"holds neither its text.*model='.*model\.rngru'"):
            getattr(friend, verb)()
    assert friend.evaluate("The ship").characters == 7
    assert same(ModelState.load(friend.pack(tmp_path / "again.rngru")), friend)


def test_damage_is_seen(ms, tmp_path):
    """Weights that arrived with one wrong bit; or code that runs when a file of a stranger is opened."""
    path = ms.pack(tmp_path / "model.rngru")
    good, rng = path.read_bytes(), random.Random(1)
    for _ in range(60):
        at = rng.randrange(len(good))
        path.write_bytes(good[:at] + bytes([good[at] ^ (1 << rng.randrange(8))]) + good[at + 1 :])
        with contextlib.suppress(CheckpointError):
            assert same(ModelState.load(path), ms), "harmless: a date, or the like"
    for wrong in (good[:-30], good[: len(good) // 2], good[:60]):
        path.write_bytes(wrong)
        with pytest.raises(CheckpointDamaged):
            ModelState.load(path)
    for wrong in (b"", b"PK\x03\x04", b"\0" * 500, b"a book"):
        path.write_bytes(wrong)
        with pytest.raises((CheckpointError, NoModelError)):
            ModelState.load(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arrays.npz", b"\0" * 10_000_000)
    with pytest.raises(CheckpointDamaged, match="declares more than it holds"):
        ModelState.load(path)


def test_nothing_else_is_written_over(ms, tmp_path):
    """ms.pack('book.txt'), and the book is gone."""
    book = tmp_path / "book.txt"
    book.write_text("a book")
    for path in (book, tmp_path, ms.workdir):
        with pytest.raises(InputError, match="is no packed model"):
            ms.pack(path)
    assert book.read_text() == "a book"
    with pytest.raises(WorkdirError):
        ms.pack(tmp_path / "nowhere" / "model.rngru")
    ms.pack(tmp_path / "model.rngru")
    ms.pack(tmp_path / "model.rngru")


def test_a_path_is_read_as_every_path_is(ms, tmp_path, monkeypatch):
    """A model that is packed into a folder called ~; a TypeError of pathlib's."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert ms.pack("~/model.rngru") == tmp_path / "model.rngru"
    assert same(ms, ModelState.load("~/model.rngru"))
    for save in (ms.pack, ms.generatestring(3, rng=1).save):
        with pytest.raises(InputError, match="Expected a path, got 3"):
            save(3)


def test_an_unzipped_model_is_a_checkpoint(ms, tmp_path):
    """The same plain parts, so that nobody depends on one door."""
    folder = tmp_path / "work" / "checkpoints" / "6"
    shutil.unpack_archive(ms.pack(tmp_path / "model.zip"), folder, "zip")
    with pytest.warns(UserWarning, match="can generate and score"):
        assert same(ModelState.load(tmp_path / "work"), ms)


# ---- A new text ----


def test_a_model_goes_on_with_the_text_it_knows(ms, verse, tmp_path):
    """A friend who trains it on from nothing."""
    path = ms.pack(tmp_path / "model.rngru")
    more = ModelState.initfromsrcfile(
        Texts([verse]), tmp_path / "more", model=path, seq_len=20, report="silent"
    )
    assert same(ms, more)
    assert more.evaluate().nats == pytest.approx(ms.evaluate().nats, abs=1e-6)
    before, after = (each._model.progress for each in (ms, more))
    for cache, values in before.caches.items():
        assert all(np.array_equal(after.caches[cache][n], values[n]) for n in values)
    assert (after.position, after.state, after.batches) == (0, None, before.batches)
    assert more.trainmodel(1, **CALL)[0].trainloss < 3.2


@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize", "BiRNN"])
@pytest.mark.parametrize("level", ["char", "word"])
def test_new_symbols_are_added_and_old_ones_keep_their_weights(
    newmodel, verse, tmp_path, modeltype, level
):
    """Every 'b' is read as an 'a' from the day on which a new character came."""
    ms = newmodel(verse, modeltype=modeltype, level=level, optimizer="adam")
    ms.trainmodel(1, **CALL)
    text = "ZÄ§ " + verse[:600].replace("e", "ë") + "\nquite new words\n" * 9
    more = ModelState.initfromsrcfile(
        Texts([text]), tmp_path / "more", model=ms, seq_len=20, report="silent"
    )
    assert more.chars.vocab_size > ms.chars.vocab_size
    old = [ms.chars.charatidx(i) for i in range(ms.chars.vocab_size)]
    ids = np.array([more.chars.idxofchar(each) for each in old])
    assert len(set(ids)) == len(ids) and [more.chars.charatidx(int(i)) for i in ids] == old
    mine, theirs = ms.parameters(), more.parameters()
    for name, array in mine.items():
        new = theirs[name]
        if new.shape != array.shape:
            axis = next(i for i in range(array.ndim) if new.shape[i] != array.shape[i])
            new = new.take(ids, axis)
        assert np.array_equal(new, array), name
    assert np.isfinite(more.trainmodel(1, **CALL)[0].trainloss)


def test_a_model_says_what_is_new_to_it(ms, verse, tmp_path, capsys):
    ModelState.initfromsrcfile(Texts([verse + "Ωß"]), tmp_path / "a", model=ms, report="plain")
    said = capsys.readouterr().out
    assert "2 characters are new to the model: 'ß' 'Ω'" in said
    assert "That is a model of a text" in said


def test_what_an_old_model_cannot_become_is_refused(ms, verse, tmp_path):
    """A model of 9 neurons asked for, and one of 8 given in silence."""
    for wrong in (
        {"state_size": 9}, {"layers": 3}, {"modeltype": "LSTMEncode"}, {"level": "word"},
        {"gate": "hard_sigmoid"},
    ):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(wrong))):
            ModelState.initfromsrcfile(Texts([verse]), tmp_path / "b", model=ms, **wrong)
    assert not os.path.exists(tmp_path / "b")
    more = ModelState.initfromsrcfile(
        Texts([verse]), tmp_path / "b", model=ms, dropout=0.2, learnrate=0.5, optimizer="sgd",
        report="silent",
    )  # fmt: skip
    assert (more.hyper.dropout, more.hyper.learnrate, more.hyper.optimizer) == (0.2, 0.5, "sgd")
    assert more._model.progress.batches == 0


def test_growing_keeps_what_has_no_symbols():
    old = np.ones((2, 3), np.float32)
    assert grown(old, np.zeros((2, 3), np.float32), np.arange(2)) is old
    assert (
        grown(old, np.zeros((2, 5), np.float32), np.array([0, 2, 4])).tolist()
        == [[1, 0, 1, 0, 1]] * 2
    )
