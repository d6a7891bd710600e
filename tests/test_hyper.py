"""The record of hyperparameters: what it accepts, says and gives back."""

import copy
import inspect
import json
import pydoc
import reprlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rngru.errors import CheckpointTooNew, InputError
from rngru.hyper import (
    BEGINNINGS,
    GATES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SETTINGS,
    HyperParams,
)

JUNK = (
    st.text(max_size=5)
    | st.binary(max_size=3)
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=1)
    | st.complex_numbers()
    | st.sampled_from([object(), np.zeros(2), len])
)
"""What is no value of anything, but for the names of things."""


def whole(low, high, *others):
    def wrong(value):
        return not (low <= value <= high or value in others)

    right = st.integers(low, high) | st.sampled_from([low, high, *others])
    numbers = st.integers().filter(wrong) | st.floats() | st.booleans() | JUNK
    return right, numbers if None in others else numbers | st.none()


def real(low, high, *, above=False, below=False, none=False):
    def wrong(value):
        return not (
            (low < value if above else low <= value) and (value < high if below else value <= high)
        )

    right = st.floats(low, high, exclude_min=above, exclude_max=below)
    numbers = st.floats().filter(wrong) | st.integers().filter(wrong) | st.booleans()
    return (right | st.none(), numbers | JUNK) if none else (right, numbers | st.none() | JUNK)


def flag():
    return st.booleans(), st.integers() | st.floats() | st.none() | JUNK


def name(choices):
    others = JUNK.filter(lambda value: not (isinstance(value, str) and value in choices))
    return st.sampled_from(choices), st.integers() | st.booleans() | st.none() | others


VALUES = {
    "vocab_size": whole(1, 10_000_000),
    "state_size": whole(1, 1_000_000),
    "layers": whole(1, 1_000),
    "bptt_truncate": whole(1, 10**9, -1),
    "learnrate": real(0, 1e30),
    "decay": real(0, 1, below=True),
    "regcost": real(0, 1e30),
    "gate": name(GATES),
    "reset_after": flag(),
    "gate_init": name(BEGINNINGS),
    "optimizer": name(OPTIMIZERS),
    "momentum": real(0, 1, below=True),
    "beta2": real(0, 1, below=True),
    "cautious": flag(),
    "weightdecay": real(0, 1e30),
    "schedule": name(SCHEDULES),
    "warmup": real(0, 1, none=True),
    "floor": real(0, 1),
    "cycles": whole(1, 10**18),
    "lifetime": whole(1, 10**18, None),
    "dropout": real(0, 1, below=True),
    "dropout_in": real(0, 1, below=True),
    "dropout_out": real(0, 1, below=True, none=True),
    "embed_dropout": real(0, 1, below=True),
    "dropconnect": real(0, 1, below=True),
    "locked": flag(),
    "tied": flag(),
    "embed_size": (
        st.integers(1, 10**6) | st.none(),
        st.integers(max_value=0) | st.floats() | JUNK,
    ),
    "layernorm": flag(),
    "residual": flag(),
    "ar": real(0, 1e30),
    "tar": real(0, 1e30),
    "smoothing": real(0, 1, below=True),
    "random_len": real(0, 1),
    "clipnorm": real(0, 1e30, above=True, none=True),
    "clip": real(0, 1e30, above=True, none=True),
    "average": real(0, 1, none=True),
    "average_from": whole(0, 10**18),
    "precision": name(PRECISIONS),
}
"""Strategies for values that each hyperparameter may have, and for values that it may not."""

optional = {key: right for key, (right, _) in VALUES.items() if key != "vocab_size"}
valid = st.fixed_dictionaries({"vocab_size": VALUES["vocab_size"][0]}, optional=optional)
changes = st.fixed_dictionaries({}, optional={key: right for key, (right, _) in VALUES.items()})
invalid = st.fixed_dictionaries(
    {}, optional={key: wrong for key, (_, wrong) in VALUES.items()}
).filter(bool)


def test_defaults_are_those_of_the_2016_interface():
    """A default that drifts would silently change every experiment."""
    hyper = HyperParams(66)
    expected = {
        "vocab_size": 66,
        "state_size": 128,
        "layers": 2,
        "bptt_truncate": -1,
        "learnrate": 1e-3,
        "decay": 0.95,
        "regcost": 0.1,
        "gate": "sigmoid",
        "clip": 5.0,
    }
    assert {name: getattr(hyper, name) for name in expected} == expected


def test_what_2016_did_not_have_is_off():
    """An addition that is on by default would change every experiment, too."""
    hyper = HyperParams(66)
    assert (hyper.optimizer, hyper.schedule) == ("rmsprop", "constant")
    assert not (hyper.dropout or hyper.locked or hyper.tied or hyper.reset_after or hyper.clipnorm)
    assert not (hyper.dropconnect or hyper.embed_dropout or hyper.dropout_in or hyper.dropout_out)
    assert not (hyper.layernorm or hyper.residual or hyper.embed_size or hyper.random_len)
    assert not (hyper.ar or hyper.tar or hyper.smoothing)
    assert hyper.average is None and hyper.gate_init == "constant" and not hyper.cautious


def test_only_the_first_three_go_by_position():
    """A fourth positional value would mean something else as soon as a field is inserted."""
    assert HyperParams(66, 256, 3) == HyperParams(layers=3, state_size=256, vocab_size=66)
    with pytest.raises(InputError, match="by position, but 4 values"):
        HyperParams(66, 256, 3, -1)
    with pytest.raises(InputError, match="vocab_size twice"):
        HyperParams(66, vocab_size=66)


@given(valid)
def test_json_and_repr_give_the_record_back(values):
    """A value lost, rounded or retyped on the way to disk would resume another model."""
    hyper = HyperParams(**values)
    assert HyperParams.from_json(json.loads(json.dumps(hyper.to_json()))) == hyper
    assert eval(repr(hyper), {"HyperParams": HyperParams}) == hyper
    assert all(getattr(hyper, name) == value for name, value in values.items())


@given(valid)
def test_json_holds_what_differs_from_the_defaults_and_no_more(values):
    """A default written down would keep an older rngru from a file that uses nothing new."""
    written = HyperParams(**values).to_json()
    assert written == {
        name: value for name, value in values.items() if value != SETTINGS[name].default
    }


def test_every_hyperparameter_is_tried():
    """One that was added since would be checked by nobody."""
    assert list(VALUES) == list(SETTINGS)


@given(valid, changes)
def test_a_replacement_is_a_new_record_with_the_changes(values, changes):
    """A change that leaks into the old record, is lost, or resets what was not named."""
    old = HyperParams(**values)
    new = old.replace(**changes)
    assert new == HyperParams(**(values | changes))
    assert hash(new) == hash(HyperParams(**(values | changes)))
    assert old == HyperParams(**values)
    assert (new == old) == (new.to_json() == old.to_json())


@given(valid, invalid)
def test_what_makes_no_sense_is_refused_by_name_whatever_it_is(values, nonsense):
    """Catches one bad value that gets through, hides another, or ends in an error of Python's own,
    whichever way it comes: from a person, in a change, from a file. A word in a file that nobody
    knows is no nonsense, but a later version's.
    """
    named = [name for name in SETTINGS if name in nonsense]
    ways = [
        lambda: HyperParams(**(values | nonsense)),
        lambda: HyperParams(**values).replace(**nonsense),
    ]
    newer = [n for n in named if SETTINGS[n].words and isinstance(nonsense[n], str)]
    if newer:
        with pytest.raises(CheckpointTooNew) as refused:
            HyperParams.from_json(values | nonsense)
        assert all(f"{name}={reprlib.repr(nonsense[name])}" in str(refused.value) for name in newer)
    else:
        ways.append(lambda: HyperParams.from_json(values | nonsense))
    for make in ways:
        with pytest.raises(InputError) as caught:
            make()
        lines = str(caught.value).splitlines()
        assert [line.partition("=")[0] for line in lines] == named
        assert all(": expected " in line for line in lines)
        assert max(map(len, lines)) < 250


def test_repr_shows_only_what_was_changed():
    assert repr(HyperParams(66)) == "HyperParams(vocab_size=66)"
    assert repr(HyperParams(66, 256)) == "HyperParams(vocab_size=66, state_size=256)"
    assert repr(HyperParams(66, 128, clip=None)) == "HyperParams(vocab_size=66, clip=None)"


def test_numpy_numbers_become_pythons():
    """A float64 scalar inside would promote a float32 graph, and json could not write it."""
    hyper = HyperParams(np.int64(66), np.uint8(32), learnrate=np.float32(0.5), clip=np.float64(1))
    kinds = {type(getattr(hyper, name)) for name in SETTINGS}
    assert kinds <= {int, float, str, bool, type(None)}
    assert hyper == HyperParams(66, 32, learnrate=0.5, clip=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in SETTINGS
        for value in (-2, float("nan"), float("inf"), -0.5, 10**400, True, "1", [1], b"x", object())
        if not (value is True and isinstance(SETTINGS[name].default, bool))
    ]
    + [(name, value) for name in ("vocab_size", "state_size", "layers") for value in (0, 2.0, None)]
    + [("bptt_truncate", 0), ("decay", 1), ("clip", 0), ("learnrate", None), ("gate", "relu")],
)
def test_nonsense_is_refused_by_name(name, value):
    """NaN passes every check written as ``value < 0``, and a bool is an int to isinstance."""
    with pytest.raises(InputError, match=rf"^{name}=.*: expected "):
        HyperParams(**{"vocab_size": 66, name: value})


def test_every_problem_is_in_one_message():
    """Mending a file one error at a time takes as many loads as it has errors."""
    with pytest.raises(InputError) as caught:
        HyperParams(state_size=0, learnrte=1, layers="two", self=1)
    told = str(caught.value)
    assert "vocab_size is missing" in told
    assert "state_size=0: expected a whole number from 1" in told
    assert "layers='two'" in told
    assert "hyperparameter='learnrte' is not known. Did you mean 'learnrate'?" in told
    assert "hyperparameter='self' is not known." in told
    with pytest.raises(InputError) as caught:
        HyperParams.from_json({"state_size": 0, "layers": "two"})
    assert str(caught.value).count(": expected ") == 3
    assert all(name in str(caught.value) for name in ("vocab_size", "state_size", "layers"))


def test_what_a_later_version_added_is_too_new_and_not_damaged():
    """Damage would have an older checkpoint used instead, and the newest one written off."""
    with pytest.raises(CheckpointTooNew, match="learnrte, self, gate='relu'"):
        HyperParams.from_json({"vocab_size": 3, "learnrte": 1, "self": 1, "gate": "relu"})


@pytest.mark.parametrize("data", [None, 3, "text", [("vocab_size", 3)], {1: 2}])
def test_json_that_is_no_mapping_of_names_is_refused(data):
    with pytest.raises(InputError, match="expected names with their values"):
        HyperParams.from_json(data)


def test_a_field_from_before_its_time_has_its_default():
    """A checkpoint of an older release lacks what was added since."""
    assert HyperParams.from_json({"vocab_size": 9}) == HyperParams(9)


def test_a_record_never_changes():
    """A model that shares its record with another would change with it."""
    hyper = HyperParams(66)
    with pytest.raises(InputError, match=r"\.replace\(layers=3\)"):
        hyper.layers = 3
    with pytest.raises(AttributeError):
        hyper.layer = 3
    hyper.to_json()["layers"] = 3
    assert hyper.layers == 2
    assert hyper.replace(layers=3).layers == 3
    with pytest.raises(InputError, match="Did you mean 'layers'"):
        hyper.replace(layer=3)


def test_equal_records_are_one_key():
    a, b = HyperParams(66, clip=5), HyperParams(66, clip=5.0)
    assert a == b == copy.deepcopy(a)
    assert len({a, b, copy.copy(a), a.replace(layers=1)}) == 2
    assert a != "HyperParams(vocab_size=66)"


def test_help_is_the_table_and_no_noise():
    """A dataclass's help() is a page of generated methods; a table drifts when kept by hand."""
    told = pydoc.plain(pydoc.render_doc(HyperParams))
    lines = [line.strip(" |") for line in told.splitlines()]
    for name, setting in SETTINGS.items():
        row = next(line for line in lines if line.startswith(name + "  "))
        assert row.endswith(setting.default_words)
        assert setting.unit in row
    for noise in ("__dataclass", "__setattr__"):
        assert noise not in told
    assert max(map(len, HyperParams.__doc__.splitlines())) <= 100


def test_help_shows_nothing_of_the_machinery():
    """Two more lines that mean nothing to whoever asks for help."""
    told = pydoc.plain(pydoc.render_doc(HyperParams))
    assert "__annotations__" not in told and "__final__" not in told


def test_the_signature_is_spelled_out():
    """Completion at the prompt reads the signature."""
    told = str(inspect.signature(HyperParams))
    assert told.startswith("(vocab_size, state_size=128, layers=2, *, bptt_truncate=-1, ")
