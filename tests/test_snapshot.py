"""What a model is, encoded and decoded; and what is too new, or damaged."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from rngru import ModelState, checkpoint
from rngru.checkpoint import Checkpoint
from rngru.errors import CheckpointDamaged, CheckpointTooNew
from rngru.hyper import OPTIMIZERS, HyperParams
from rngru.models import MODELS
from rngru.snapshot import Snapshot
from rngru.text import ByteSet, CharSet, WordSet
from rngru.training import Progress, Scores
from rngru.workdir import Workdir

FOUND = Checkpoint(7, Path("somewhere/7"))
VOCABS = {
    "char": CharSet("so it goes", srcinfo="a book"),
    "word": WordSet("so it goes, and so it went"),
    "byte": ByteSet("so it\ngoes"),
}


def snapshot(modeltype="GRUEncode", level="char", *, state=True, rate=None, **hyper) -> Snapshot:
    """A model with a number of its own at each place."""
    rng = np.random.default_rng(3)
    chars = VOCABS[level]
    made = HyperParams(chars.vocab_size, state_size=3, layers=2, **hyper)
    model = MODELS[modeltype]

    def drawn(shape):
        return rng.normal(size=shape).astype(np.float32)

    shapes = model.shapes(made)
    arrays = {name: drawn(shape) for name, shape in shapes.items()}
    caches = {
        cache: {name: drawn(shape) for name, shape in shapes.items()} for cache in made.caches
    }
    width = model.freshstate(made, 1).shape[2]
    rng.integers(0, 9, dtype=np.uint32)  # so that half a number is left over, which counts too
    return Snapshot(
        modeltype=modeltype,
        made=made,
        chars=chars,
        seq_len=20,
        backend="scan",
        progress=Progress(
            arrays,
            caches,
            made.learnrate if rate is None else rate,
            drawn((2, 5, width)) if state else None,
            12_345,
            678,
            Scores(2.5, 2.25, 3),
        ),
        rng=rng,
        seed=(1 << 62) - 1,
        corpus="ab" * 32,
        historyline=9,
        timed=True,
        summary={"epoch": 1.5, "position": 12_345, "trainloss": 2.5, "validloss": None},
        versions={"rngru": "0.1.0", "numpy": "9"},
        rounding="fused",
        token="f00",
    )


def through(model: Snapshot) -> Snapshot:
    """Encode and decode, by way of JSON as on the disk."""
    arrays, meta = model.encode()
    return Snapshot.decode(FOUND, arrays, json.loads(json.dumps(meta)))


def same(one: Snapshot, other: Snapshot) -> bool:
    """Whether all that they hold is the same, arrays to the bit."""

    def told(model):
        now = model.progress
        values = {each.name: getattr(model, each.name) for each in dataclasses.fields(model)}
        progress = {each.name: getattr(now, each.name) for each in dataclasses.fields(now)}
        del values["progress"], progress["arrays"], progress["caches"], progress["state"]
        values |= progress | {"rng": model.rng.bit_generator.state, "hyper": model.hyper}
        # What it was made with is not kept: the learning rate in force is.
        values["made"] = model.hyper
        values["summary"] = {key: v for key, v in model.summary.items() if key != "model"}
        found = dict(now.arrays)
        for cache, kept in now.caches.items():
            found |= {(cache, name): array for name, array in kept.items()}
        found["", "state"] = now.state
        bits = {
            key: None if array is None else (array.shape, array.dtype, array.tobytes())
            for key, array in found.items()
        }
        return values, list(bits), bits

    return told(one) == told(other)


# ------------------------------------------------------------------------------ the identity


@pytest.mark.parametrize("level", VOCABS)
@pytest.mark.parametrize("modeltype", ["GRUEncode", "LSTMResize", "BiRNN"])
def test_decoding_gives_back_what_was_encoded(modeltype, level):
    """A field lost on the way to the disk: the run that is resumed is another one."""
    model = snapshot(modeltype, level)
    assert same(through(model), model)
    assert through(model).rng.random() == model.rng.random()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_each_optimizer_remembers_comes_back(optimizer):
    """Adam's two caches under one name, or in the other order."""
    model = snapshot(optimizer=optimizer)
    assert same(through(model), model)


def test_a_state_may_be_missing():
    """A model that was never trained, which has no state, cannot be saved."""
    model = snapshot(state=False)
    assert through(model).progress.state is None
    assert same(through(model), model)


def test_a_bare_model_has_its_defaults():
    """A field without a value becomes a word or zero."""
    bare = dataclasses.replace(snapshot(), corpus=None, token=None, timed=False, summary={})
    assert same(through(bare), bare)


def test_arrays_are_owned_by_the_model():
    """The bytes of a file as arrays that cannot be written, or that others hold too."""
    model = snapshot()
    arrays, meta = model.encode()
    back = Snapshot.decode(FOUND, arrays, meta)
    for name, array in back.progress.arrays.items():
        assert array.flags.owndata and array.flags.writeable and array.flags.c_contiguous
        assert not np.shares_memory(array, arrays[name])


def test_the_learning_rate_in_force_is_the_one_that_is_saved():
    """A rate that plateau lowered is back at its beginning after a restart."""
    model = snapshot(rate=0.25)
    assert (model.hyper.learnrate, model.made.learnrate) == (0.25, 1e-3)
    assert model.hyper == model.made.replace(learnrate=0.25)
    assert model.encode()[1]["hyper"]["learnrate"] == 0.25
    assert through(model).progress.learnrate == through(model).hyper.learnrate == 0.25
    plain = snapshot()
    assert plain.hyper is plain.made


def test_only_settings_that_differ_are_written():
    """All are, and the first new setting makes every checkpoint unreadable for an older version."""
    _, meta = snapshot().encode()
    assert meta["hyper"] == {"vocab_size": VOCABS["char"].vocab_size, "state_size": 3}
    _, meta = snapshot(optimizer="adam", clip=None).encode()
    assert meta["hyper"].keys() == {"vocab_size", "state_size", "optimizer", "clip"}


def test_the_summary_says_where_it_stands():
    """Losses of an earlier place in the text told as those of this one, or forgotten by a mere save."""
    model = snapshot().summarised(10_000, 2.0, 2.5)
    assert model.summary == {
        "epoch": 1.2345,
        "position": 12_345,
        "trainloss": 2.0,
        "validloss": 2.5,
    }
    again = model.summarised(10_000, None, None)
    assert again.summary == model.summary
    moved = dataclasses.replace(
        model, progress=dataclasses.replace(model.progress, position=20_000)
    )
    assert moved.summarised(10_000, None, None).summary == {
        "epoch": 2.0, "position": 20_000, "trainloss": None, "validloss": None,
    }  # fmt: skip
    assert moved.passes(None) == 1.2345, "without the text, as it was last saved"
    assert dataclasses.replace(model, summary={}).passes(None) == 0.0


# ------------------------------------------------------------------------------ what is too new


def later(change) -> tuple:
    """The arrays and metadata of a model in which a later version has changed something."""
    arrays, meta = snapshot().encode()
    meta = json.loads(json.dumps(meta))
    change(arrays, meta)
    return arrays, meta


NEWER = {
    "a setting": (lambda a, m: m["hyper"].update(zoneout=0.1), "zoneout"),
    "an optimizer": (lambda a, m: m["hyper"].update(optimizer="lion"), "optimizer='lion'"),
    "a gate": (lambda a, m: m["hyper"].update(gate="softsign"), "gate='softsign'"),
    "a schedule": (lambda a, m: m["hyper"].update(schedule="staircase"), "schedule='staircase'"),
    "a model type": (lambda a, m: m.update(modeltype="QRNNEncode"), "modeltype='QRNNEncode'"),
    "a level": (lambda a, m: m["vocabulary"].update(level="syllable"), "level='syllable'"),
    "an array": (lambda a, m: a.update(average=np.zeros(3, np.float32)), "average"),
}


@pytest.mark.parametrize("what", NEWER)
def test_what_a_later_version_added_is_too_new(what):
    """It is called damage, and the next older checkpoint used instead: hours of training lost."""
    change, name = NEWER[what]
    with pytest.raises(CheckpointTooNew, match=re.escape(name)) as error:
        Snapshot.decode(FOUND, *later(change))
    assert "somewhere/7" in str(error.value) or "checkpoint 7" in str(error.value)


@pytest.mark.parametrize("field", ["a setting", "a model type", "a level"])
def test_what_is_too_new_is_so_whatever_else_does_not_fit(field):
    """A new kind of model has other arrays: they must not make it damaged."""

    def change(arrays, meta):
        NEWER[field][0](arrays, meta)
        del arrays["c"]
        arrays["extra"] = np.zeros(2)

    with pytest.raises(CheckpointTooNew):
        Snapshot.decode(FOUND, *later(change))


# ------------------------------------------------------------------------------ what is damaged


SPOILT_ARRAYS = {
    "missing": (lambda a: a.pop("layers.1.W"), "layers.1.W: expected float32 (3, 9), got nothing"),
    "a cache missing": (lambda a: a.pop("mean.c"), "mean.c: expected float32"),
    "another shape": (lambda a: a.update(c=np.zeros(4, np.float32)), "got float32 (4,)"),
    "another dtype": (lambda a: a.update(c=a["c"].astype(np.float64)), "got float64"),
    "other byte order": (lambda a: a.update(c=a["c"].astype(">f4")), "c: expected float32"),
    "a state too flat": (lambda a: a.update(state=np.zeros((2, 3), np.float32)), "state: expected"),
    "a state too wide": (
        lambda a: a.update(state=np.zeros((2, 5, 4), np.float32)),
        "state: expected",
    ),
    "a state too shallow": (
        lambda a: a.update(state=np.zeros((1, 5, 3), np.float32)),
        "state: exp",
    ),
}


@pytest.mark.parametrize("what", SPOILT_ARRAYS)
def test_arrays_that_do_not_fit_are_damage(what):
    """A kernel reads beyond the end of an array that is too small."""
    change, told = SPOILT_ARRAYS[what]
    with pytest.raises(CheckpointDamaged, match=re.escape(told)) as error:
        Snapshot.decode(FOUND, *later(lambda arrays, meta: change(arrays)))
    assert "checkpoint 7" in str(error.value)


def test_all_that_is_wrong_with_arrays_is_told_at_once():
    """One problem per attempt; or a page of four thousand lines."""

    def change(arrays, meta):
        del arrays["c"]
        arrays["V"] = np.zeros(2, np.float32)
        arrays["x"] = np.zeros(2, np.float32)

    with pytest.raises(CheckpointDamaged) as error:
        Snapshot.decode(FOUND, *later(change))
    for told in ("c: expected", "V: expected", "x: not expected"):
        assert told in str(error.value)
    arrays, meta = snapshot(optimizer="adam").encode()
    assert len(arrays) == 31, "twenty are told of"
    with pytest.raises(CheckpointDamaged, match="and 10 more$") as error:
        Snapshot.decode(FOUND, {}, meta)
    assert len(str(error.value).splitlines()) == 21


NUMBERS = [-1, 1.0, True, "1", None, [], 1 << 62, 10**400]
HOSTILE = {
    "modeltype": [None, 3, [], {}],
    "hyper": [None, 3, "x", [], {}, {"vocab_size": 10**9}, {"vocab_size": "9"}, [["vocab_size", 9]]],
    "vocabulary": [None, 3, "char", [], {}, {"level": "char"}, {"level": []}, VOCABS["byte"].to_json()],
    "seq_len": [*NUMBERS, 0],
    "backend": [None, 3, [], {}],
    "position": NUMBERS,
    "batches": NUMBERS,
    "scores": [None, 3, "x", [], {"latest": "2"}, {"best": -10**400}, {"worse": "x"}, {"worse": []},
               {"worse": None}, {"worse": -1}, {"worse": 1.5}, {"worse": True}, {"latest": True}],
    "rng": [None, 3, "x", [], {}, {"bit_generator": "MT19937"}],
    "seed": NUMBERS,
    "corpus": [3, [], {}],
    "history": NUMBERS,
    "timed": [3, "x", []],
    "rounding": [3, None, []],
    "versions": [None, 3, "x", [1]],
    "plan": [None, 3, "x", [1], {"batchsize": 0}, {"batchsize": "x"}, {"keep": None}],
    "summary": [None, 3, "x", [1]],
}  # fmt: skip
"""For each field of the metadata, values that nobody saved."""


def test_every_field_is_tried():
    """A new field of a checkpoint that nobody checks."""
    assert HOSTILE.keys() == snapshot().encode()[1].keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in HOSTILE.items() for value in values],
    ids=lambda value: repr(value)[:25],
)
def test_hostile_metadata_is_damage(field, value):
    """A TypeError at the prompt, or a value that is believed until something else breaks."""
    with pytest.raises(CheckpointDamaged):
        Snapshot.decode(FOUND, *later(lambda arrays, meta: meta.update({field: value})))


@pytest.mark.parametrize("field", sorted(HOSTILE.keys() - {"timed", "scores", "rounding", "plan"}))
def test_a_missing_field_is_damage(field):
    """A KeyError at the prompt."""
    with pytest.raises(CheckpointDamaged, match=f"{field}.* is missing"):
        Snapshot.decode(FOUND, *later(lambda arrays, meta: meta.pop(field)))


@pytest.mark.parametrize("field", ["timed", "scores", "rounding"])
def test_what_early_checkpoints_did_not_have_may_be_missing(field):
    """A model saved before these were there cannot be loaded any longer."""
    back = Snapshot.decode(FOUND, *later(lambda arrays, meta: meta.pop(field)))
    missing = {"timed": False, "scores": Scores(), "rounding": ""}
    there = {"timed": True, "scores": Scores(2.5, 2.25, 3), "rounding": "fused"}
    found = {"timed": back.timed, "scores": back.progress.scores, "rounding": back.rounding}
    assert found == there | {field: missing[field]}


@pytest.mark.parametrize("part", ["state", "inc"])
@pytest.mark.parametrize("value", [-1, "1", None, [], 1 << 200], ids=repr)
def test_hostile_states_of_chance_are_damage(part, value):
    """An OverflowError from NumPy, or random numbers of another state."""

    def change(arrays, meta):
        meta["rng"]["state"][part] = value

    with pytest.raises(CheckpointDamaged):
        Snapshot.decode(FOUND, *later(change))


def test_a_form_that_the_model_cannot_have_is_damage():
    """An LSTM with the GRU's second bias: a KeyError when it is first used."""

    def change(arrays, meta):
        meta["modeltype"] = "LSTMEncode"
        meta["hyper"]["reset_after"] = True

    with pytest.raises(CheckpointDamaged, match="reset_after"):
        Snapshot.decode(FOUND, *later(change))


# ------------------------------------------------------------------ through a working directory


def rewritten(folder: Path, change, *, needs="0.1") -> None:
    """Save the newest checkpoint again, as the next, with something changed."""
    step = max(checkpoint.steps(folder / "checkpoints"))
    arrays, meta = checkpoint.load(folder / "checkpoints" / str(step))
    change(arrays, meta)
    checkpoint.save(folder / "checkpoints", step + 1, arrays, meta, needs=needs)


@pytest.fixture
def folder(newmodel, verse) -> Path:
    return newmodel(verse).workdir


def test_a_directory_whose_newest_model_is_too_new_is_not_read_from_an_older_one(folder):
    """Training goes on from an hour ago, over what the newer version has made."""
    rewritten(folder, NEWER["a setting"][0])
    with pytest.raises(CheckpointTooNew, match="zoneout"):
        ModelState.load(folder)
    rewritten(folder, lambda arrays, meta: meta["hyper"].pop("zoneout"))
    assert ModelState.load(folder).position == 0


def test_a_directory_whose_newest_model_is_damaged_is_read_from_an_older_one(folder):
    """One bad file and the model is lost; or nobody is told that it is an older one."""
    rewritten(folder, lambda arrays, meta: arrays.pop("c"))
    with pytest.warns(UserWarning, match="Checkpoint 0 is used instead") as caught:
        assert ModelState.load(folder).position == 0
    assert caught[0].filename == __file__


def test_a_manifest_that_needs_a_later_version_is_too_new(folder):
    """What it needs is written and never read."""
    rewritten(folder, lambda arrays, meta: None, needs="0.10.3")
    with pytest.raises(CheckpointTooNew, match=r"needs rngru 0\.10\.3 or later, and this is "):
        ModelState.load(folder)


def test_a_checkpoint_needs_the_version_of_the_newest_setting_in_it(tmp_path, monkeypatch):
    """A setting of 0.7 in a checkpoint that says it can be read since 0.1."""
    monkeypatch.setattr(HyperParams.dropout, "since", "0.7")
    monkeypatch.setattr(HyperParams.clipnorm, "since", "0.10")
    needs = [
        Workdir(tmp_path / str(number)).save(model).needs
        for number, model in enumerate(
            [snapshot(), snapshot(dropout=0.5), snapshot(dropout=0.5, clipnorm=1)]
        )
        if not (tmp_path / str(number)).mkdir()
    ]
    assert needs == ["0.1", "0.7", "0.10"]
    with pytest.raises(CheckpointTooNew, match=r"needs rngru 0\.7 or later"):
        Workdir(tmp_path / "1").load()


def test_what_was_saved_is_what_is_loaded(tmp_path):
    """The disk's own part in the round trip: orders of arrays, names of caches, numbers of 62 bits."""
    model, disk = snapshot("BiLSTM", optimizer="adamw"), Workdir(tmp_path)
    disk.save(model)
    found = disk.load()
    assert same(found, dataclasses.replace(model, timed=False, token=found.token))
    assert found.token
