"""Records that check and explain themselves, on small made-up ones; and those of a call to train."""

import copy
import inspect
import json
import math
import pickle
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from rngru.errors import CheckpointTooNew, InputError
from rngru.sampling import Sampling
from rngru.settings import (
    LARGEST,
    Setting,
    Settings,
    checked,
    flag,
    generator,
    one_of,
    or_none,
    real,
    whole,
)
from rngru.state import ModelState
from rngru.training import Plan

HUGE = 10**400
"""A whole number that is no float."""


class Oven(Settings, positional=2, noun="knob"):
    """How to bake.

    {table}
    """

    __slots__ = ()

    degrees = Setting("how hot it is inside, measured at the middle of the tray", "°C", whole(50))
    minutes = Setting("how long", "minutes", real(0, 600, above=True), 30.0)
    fan = Setting("whether air moves", "yes or no", flag(), False, since="0.9")
    rack = Setting("where the tray is", "name", one_of(["top", "middle"]), "middle", since="0.10")
    turn = Setting("turn after so long", "minutes", or_none(real(below=True)), None, since="0.2")


class Bare(Settings):
    """No braces here."""

    __slots__ = ()

    only = Setting("the only one", "things", whole(0, 3), 1)


def words(error: pytest.ExceptionInfo) -> str:
    return str(error.value)


# ------------------------------------------------------------------------------ one setting


WHOLE = [(1, 1), (5, 5), (-1, -1), (np.int64(2), 2), (np.uint8(3), 3), (np.array(4), 4)]
NOT_WHOLE = [0, 6, -2, True, False, np.True_, 1.0, np.float32(1), "1", None, [1], HUGE, -HUGE]
NOT_WHOLE += [math.nan, math.inf, 1j, np.array([1]), np.array([1, 2]), object()]


@pytest.mark.parametrize(("value", "kept"), WHOLE)
def test_whole_numbers_at_their_edges(value, kept):
    """An edge left out, or NumPy's number kept, which JSON cannot write."""
    found = checked("n", value, whole(1, 5, or_else=-1))
    assert found == kept
    assert type(found) is int


@pytest.mark.parametrize("value", NOT_WHOLE, ids=lambda value: repr(value)[:20])
def test_what_is_no_whole_number(value):
    """A float cut to a whole number, True taken for 1, or an exception that is not ours."""
    with pytest.raises(InputError, match=r"^n=.*: expected a whole number from 1 to 5, or -1\.$"):
        checked("n", value, whole(1, 5, or_else=-1))


def test_whole_numbers_without_an_upper_limit_still_fit_64_bits():
    """A number that no array index or JSON reader holds, found only when it is used."""
    assert checked("n", 10**18, whole(0)) == 10**18
    with pytest.raises(InputError, match=r"expected a whole number of at least 0\.$"):
        checked("n", 10**18 + 1, whole(0))


REALS = [
    (real(), 0, 0.0),
    (real(), LARGEST, LARGEST),
    (real(0, 1), 1, 1.0),
    (real(0, 1, above=True), 5e-324, 5e-324),
    (real(0, 1, below=True), math.nextafter(1, 0), math.nextafter(1, 0)),
    (real(0, math.inf), math.inf, math.inf),
    (real(0, math.inf, below=True), 1e308, 1e308),
    (real(0, 2), np.float32(0.5), 0.5),
    (real(0, 2), np.int8(2), 2.0),
    (real(0, 2), Fraction(1, 4), 0.25),
]
NOT_REAL = [
    (real(), math.nextafter(0, -1)),
    (real(), math.nextafter(LARGEST, math.inf)),
    (real(0, 1, above=True), 0),
    (real(0, 1, below=True), 1),
    (real(0, math.inf, below=True), math.inf),
    (real(0, math.inf), HUGE),
    (real(-math.inf, math.inf), math.nan),
    (real(), np.float32("nan")),
    (real(), True),
    (real(), np.True_),
    (real(), "0.5"),
    (real(), None),
    (real(), 1j),
    (real(), np.array(0.5)),
    (real(), HUGE),
]


@pytest.mark.parametrize(("check", "value", "kept"), REALS)
def test_numbers_at_their_edges(check, value, kept):
    """A limit that is in where it should be out, or the other way round."""
    found = checked("x", value, check)
    assert found == kept
    assert type(found) is float


@pytest.mark.parametrize(("check", "value"), NOT_REAL, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_in_range(check, value):
    """A nan that slips through a comparison, or an OverflowError instead of ours."""
    with pytest.raises(InputError, match=r"^x=.*: expected a (finite )?number "):
        checked("x", value, check)


def test_what_is_allowed_is_told_as_it_is():
    """A message that says "at least" where the limit itself is refused."""
    assert real(0, 1, above=True).allowed == "a number above 0 and at most 1"
    assert real(0, 1, below=True).allowed == "a number of at least 0 and below 1"
    assert real(0, math.inf, below=True).allowed == "a finite number of at least 0"
    assert real(0, math.inf, above=True).allowed == "a number above 0"
    assert whole(1, 2_000, or_else=-1).allowed == "a whole number from 1 to 2,000, or -1"
    assert or_none(whole(1)).allowed == "a whole number of at least 1, or None"
    assert one_of(["a", "b"]).allowed == "one of 'a', 'b'"


def test_true_and_false_alone_are_flags():
    """A 0, an empty text or None read as "no"."""
    assert [checked("f", value, flag()) for value in (True, np.False_)] == [True, False]
    assert type(checked("f", np.True_, flag())) is bool
    for value in (0, 1, 0.0, "", "False", None, [], np.array(True)):
        with pytest.raises(InputError, match="expected True or False"):
            checked("f", value, flag())


def test_words_are_kept_as_python_strings():
    """A NumPy string, which prints and pickles as something else."""
    found = checked("w", np.str_("top"), one_of(["top", "middle"]))
    assert (found, type(found)) == ("top", str)


@pytest.mark.parametrize(
    "value", [None, 1, [], "", "TOP", ["top"], {"top": 1}, np.array(["top"]), np.zeros(2)], ids=repr
)
def test_what_is_not_one_of_the_words(value):
    """An array that equals a word, kept as the text of an array; or ValueError from NumPy."""
    with pytest.raises(InputError, match="expected one of 'top', 'middle'"):
        checked("w", value, one_of(["top", "middle"]))


def test_the_nearest_word_is_asked_for():
    """A message that leaves the person to find the typing error."""
    with pytest.raises(InputError) as error:
        checked("w", "midle", one_of(["top", "middle"]))
    assert words(error) == "w='midle': expected one of 'top', 'middle'. Did you mean 'middle'?"


def test_none_only_where_it_is_allowed():
    """None let through for every setting, or converted to a number."""
    assert checked("n", None, or_none(whole(1))) is None
    assert checked("n", 1, or_none(whole(1))) == 1
    with pytest.raises(InputError, match=r"of at least 1, or None\.$"):
        checked("n", 0, or_none(whole(1)))


@pytest.mark.parametrize(
    "value", ["x" * 10_000, 10**5000, list(range(1000))], ids=["text", "number", "list"]
)
def test_a_message_stays_short_whatever_was_given(value):
    """A book given for a number fills the screen; a number too long to print raises another error."""
    for check in (whole(1), real(), flag(), one_of(["a"])):
        with pytest.raises(InputError) as error:
            checked("n", value, check)
        assert len(words(error)) < 200


# ------------------------------------------------------------------------------- the record


def test_the_table_stands_in_the_docstring():
    """A setting missing from help(), or its unit under the heading of its default."""
    lines = [line.rstrip() for line in inspect.getdoc(Oven).splitlines()]
    head = lines.index(next(line for line in lines if line.startswith("name")))
    columns = [lines[head].index(word) for word in ("meaning", "unit", "default")]
    rows = {}
    for line in lines[head + 2 :]:
        cells = [line[a:b].strip() for a, b in zip([0, *columns], [*columns, None], strict=True)]
        if cells[0]:
            rows[cells[0]] = cells[1:]
        else:
            rows[[*rows][-1]][0] += " " + cells[1]
    assert rows == {
        "degrees": ["how hot it is inside, measured at the middle of the tray", "°C", "required"],
        "minutes": ["how long", "minutes", "30.0"],
        "fan": ["whether air moves", "yes or no", "False"],
        "rack": ["where the tray is", "name", "'middle'"],
        "turn": ["turn after so long", "minutes", "None"],
    }
    assert inspect.getdoc(Bare) == "No braces here."


def test_each_setting_explains_itself():
    """help(Oven.fan) that says nothing, or an attribute of the class that is a value."""
    assert Oven.fan.__doc__ == "whether air moves (yes or no; False)"
    assert Oven.degrees.__doc__.endswith("(°C; required)")
    assert Oven.fan.allowed == "True or False"


def test_the_signature_is_spelled_out():
    """Completion that shows ``*values, **named``; a default that is not the setting's."""
    found = inspect.signature(Oven)
    assert str(found) == "(degrees, minutes=30.0, *, fan=False, rack='middle', turn=None)"


def test_each_class_has_its_own_settings():
    """Settings of one class that show up in another, through a dict they share."""
    assert [*Oven.settings()] == ["degrees", "minutes", "fan", "rack", "turn"]
    assert [*Bare.settings()] == ["only"]
    assert Settings.settings() == {}


def test_by_position_and_by_name():
    """Values in another order than the signature's."""
    oven = Oven(200, 45)
    assert (oven.degrees, oven.minutes, oven.fan, oven.rack, oven.turn) == (
        200, 45.0, False, "middle", None,
    )  # fmt: skip
    assert oven == Oven(minutes=45, degrees=200)


def test_too_many_by_position():
    """A third value by position, which would mean another setting in a later version."""
    with pytest.raises(InputError) as error:
        Oven(200, 45, True)
    assert words(error) == (
        "Oven takes degrees, minutes by position, but 3 values were given. "
        "Name the others, as in turn=…."
    )


def test_given_twice():
    """The second value silently wins."""
    with pytest.raises(InputError, match=r"^Oven was given degrees, minutes twice\.$"):
        Oven(200, 45, minutes=45, degrees=1)


def test_unknown_names_with_the_nearest():
    """A misspelt setting is ignored, and the default used."""
    with pytest.raises(InputError) as error:
        Oven(200, minute=3)
    assert words(error) == (
        "knob='minute' is not known. Did you mean 'minutes'? "
        "Choices: 'degrees', 'fan', 'minutes', 'rack', 'turn'."
    )


def test_a_name_that_is_also_an_argument_of_python():
    """``self=`` taken for the record, or ``settings=`` for the class's own table."""
    for name in ("self", "settings", "positional", "values", "named", "replace"):
        with pytest.raises(InputError, match=f"^knob='{name}' is not known"):
            Oven(200, **{name: 1})


def test_all_problems_in_one_message():
    """A person mends one error only to be told of the next."""
    with pytest.raises(InputError) as error:
        Oven(minutes=math.nan, fan=1, rack="botom", turn=True, colour="red")
    lines = words(error).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        lines[0].split(":")[0], "degrees is missing", "minutes=nan", "fan=1", "rack='botom'", "turn=True",
    ]  # fmt: skip
    assert lines[0].startswith("knob='colour' is not known.")
    assert lines[1] == "degrees is missing: expected a whole number of at least 50."


def test_replace_checks_and_leaves_the_old_one():
    """A changed copy that shares its values with the first, or that nobody checked."""
    old = Oven(200, fan=True)
    new = old.replace(minutes=1, degrees=60)
    assert (new.degrees, new.minutes, new.fan) == (60, 1.0, True)
    assert (old.degrees, old.minutes) == (200, 30.0)
    assert old.replace() == old
    with pytest.raises(InputError, match=r"^degrees=20: expected"):
        old.replace(degrees=20)
    with pytest.raises(InputError, match=r"Did you mean 'fan'"):
        old.replace(fans=True)


def test_equal_records_are_one_key():
    """A record compared by identity, or with a record of another class that has the same values."""
    one, other = Oven(200, 45.0), Oven(np.int64(200), np.float64(45), turn=None)
    assert one == other
    assert len({one, other, Oven(200)}) == 2
    assert one != Oven(200, 46)
    assert Bare(1) != 1
    assert Bare() != type("Bare", (Settings,), {"only": Setting("the same", "x", whole(0), 1)})()


def test_the_repr_shows_what_was_changed_and_gives_the_record_back():
    """A repr of eleven defaults, or one that leaves out what was changed."""
    oven = Oven(200, 30, rack="top")
    assert repr(oven) == "Oven(degrees=200, rack='top')"
    assert eval(repr(oven)) == oven
    assert repr(Bare()) == "Bare()"


def test_json_has_only_what_differs():
    """A setting with its default is written, and an older version refuses the file for it."""
    assert Oven(200).to_json() == {"degrees": 200}
    full = Oven(200, np.float32(0.5), fan=np.True_, rack="top", turn=Fraction(1, 2))
    assert json.loads(json.dumps(full.to_json())) == full.to_json()
    assert full.to_json() == {
        "degrees": 200, "minutes": 0.5, "fan": True, "rack": "top", "turn": 0.5,
    }  # fmt: skip
    assert Oven.from_json(full.to_json()) == full


def test_json_is_a_copy():
    """A caller that changes what it was given changes the record."""
    oven = Oven(200)
    oven.to_json()["degrees"] = 1
    assert oven == Oven(200)


def test_what_json_does_not_say_has_its_default():
    """A file of an older version, which lacks a setting, is refused."""
    assert Oven.from_json({"degrees": 99}) == Oven(99)
    with pytest.raises(InputError, match="degrees is missing"):
        Oven.from_json({})


def test_json_of_a_later_version_is_too_new():
    """What a later version added is called damage, and an older checkpoint quietly used."""
    with pytest.raises(CheckpointTooNew) as error:
        Oven.from_json({"degrees": 1, "steam": 3, "rack": "floor", "colour": 0}, where="the file")
    assert words(error) == (
        "the file has what this rngru does not know: steam, colour, rack='floor'. Install a newer rngru."
    )
    with pytest.raises(CheckpointTooNew, match=r"^Oven has what"):
        Oven.from_json({"degrees": 200, "steam": 3})


@pytest.mark.parametrize(
    "wrong", [{"degrees": 1}, {"degrees": 99, "rack": 3}, {"degrees": 99, "rack": None}]
)
def test_a_wrong_value_in_json_is_no_later_version(wrong):
    """A spoilt file blamed on a newer rngru, which nobody can install."""
    with pytest.raises(InputError):
        Oven.from_json(wrong)


@pytest.mark.parametrize("data", [None, 3, "degrees", [["degrees", 200]], {1: 200}], ids=repr)
def test_json_that_is_no_mapping_of_names(data):
    """An AttributeError or TypeError from deep inside for a file that somebody edited."""
    with pytest.raises(InputError, match="expected names with their values"):
        Oven.from_json(data)


def test_needs_is_the_newest_setting_used():
    """Versions compared as text, where "0.9" is above "0.10"; or defaults that count as used."""
    assert Oven(200).needs == "0.1"
    assert Oven(200, 45).needs == "0.1"
    assert Oven(200, turn=1).needs == "0.2"
    assert Oven(200, fan=True).needs == "0.9"
    assert Oven(200, fan=True, rack="top", turn=1).needs == "0.10"
    assert Oven(200, fan=False, rack="middle", turn=None).needs == "0.1"


def test_a_record_never_changes():
    """A setting assigned by mistake, on which somebody relies who holds the same record."""
    oven = Oven(200)
    with pytest.raises(InputError) as error:
        oven.degrees = 100
    assert words(error) == (
        "Oven never changes, so degrees cannot be set. .replace(degrees=100) makes a changed copy."
    )
    with pytest.raises(AttributeError):
        oven.degres = 100
    with pytest.raises(AttributeError):
        del oven.degrees
    assert oven == Oven(200)


def test_a_record_can_be_copied_and_sent():
    """A process of a sweep cannot be given its settings."""
    oven = Oven(200, rack="top")
    assert copy.deepcopy(oven) == oven
    plan = Plan(3, learnrate=0.1)
    assert pickle.loads(pickle.dumps(plan)) == plan  # noqa: S301 - our own bytes


# ------------------------------------------------------------------------------- generators


def test_a_seed_is_numpys():
    """A seed hashed or shifted, so that a documented run cannot be repeated elsewhere."""
    assert generator(7).random() == np.random.default_rng(7).random()
    assert generator(HUGE).random() == np.random.default_rng(HUGE).random()


def test_a_generator_is_taken_as_it_is():
    """A copy of the caller's generator: two calls then draw the same."""
    rng = np.random.default_rng(1)
    assert generator(rng) is rng
    assert generator(None).random() != generator(None).random()


def test_a_generator_of_another_kind_seeds_one_that_can_be_saved():
    """A Mersenne Twister's state, an array, reaches the metadata of a checkpoint."""
    one, other = (generator(np.random.Generator(np.random.MT19937(5))) for _ in range(2))
    assert isinstance(one.bit_generator, np.random.PCG64)
    assert one.random() == other.random()


@pytest.mark.parametrize(
    "rng", ["1", 1.5, -1, object()], ids=["text", "float", "negative", "object"]
)
def test_what_is_no_seed(rng):
    """NumPy's own TypeError, which names an argument that the user never gave."""
    with pytest.raises(InputError, match=r"^rng=.*: expected a whole number or a Generator"):
        generator(rng)


# ------------------------------------------------------------------------- Plan and Sampling


INF, NAN = math.inf, math.nan
COUNT = ([1, 10**18], [0, -1, 1.0, True, None, "1", INF, NAN, 10**18 + 1])
COUNT_OR_ZERO = ([0, 1, 10**18], [-1, 1.0, False, None, "0", INF, NAN])
COUNT_OR_NONE = ([None, 1], [0, -1, 1.0, True, "1", INF, NAN])
PLAN = {
    "num_rounds": COUNT_OR_NONE,
    "batchsize": COUNT,
    "train_len": COUNT_OR_ZERO,
    "valid_len": COUNT_OR_ZERO,
    "print_every": ([None, 0, 1, 10**18], [-1, 1.0, False, "0", INF, NAN]),
    "clear_state": ([True, False], [0, 1, None, "yes", NAN]),
    "max_seconds": ([None, 1, 5e-324, INF], [0, -1, NAN, True, "1", -INF, HUGE]),
    "learnrate": ([None, 0, 0.1, 1e30], [-1e-9, INF, NAN, True, "0.1", 1.1e30]),
    "patience": COUNT_OR_ZERO,
    "keep": COUNT_OR_ZERO,
    "keep_best": ([True, False], [0, 1, None, "yes", NAN]),
    "save_every": ([5e-324, 60, INF], [0, -1, NAN, None, True, "60"]),
}
"""For each setting of a plan, values that it may have, edges first, and values that it may not."""


def test_every_setting_of_a_plan_is_tried():
    """A new setting without a test of its limits."""
    assert [*PLAN] == [*Plan.settings()]


@pytest.mark.parametrize("name", PLAN)
def test_limits_of_a_plan(name):
    """A batch of no lanes, a time of no seconds, found when training has begun."""
    right, wrong = PLAN[name]
    for value in right:
        assert getattr(Plan(**{name: value}), name) == value
    for value in wrong:
        with pytest.raises(InputError, match=f"^{name}="):
            Plan(**{name: value})


def test_limits_of_the_temperature():
    """A temperature of nan or infinity, which draws the last symbol for ever."""
    for value in (0, 5e-324, 1, 1e308):
        assert Sampling(value).temp == value
    for value in (-1e-9, INF, NAN, True, None, "1", HUGE):
        with pytest.raises(InputError, match="^temp="):
            Sampling(value)


def parameters(verb, *left_out) -> list[inspect.Parameter]:
    """What a call takes, without annotations."""
    found = inspect.signature(verb).parameters
    return [
        each.replace(annotation=each.empty) for name, each in found.items() if name not in left_out
    ]


def test_trainmodel_takes_what_a_plan_has():
    """A setting of a plan that nobody can give; or a default that overrides what was remembered."""
    taken = parameters(ModelState.trainmodel, "self", "report", "background", "listen", "schedule")
    assert [(each.name, each.kind) for each in taken] == [
        (each.name, each.kind) for each in parameters(Plan)
    ]
    assert {each.name for each in taken if each.default is not None} == {"clear_state"}


@pytest.mark.parametrize("name", PLAN)
def test_trainmodel_hands_each_argument_on_under_its_own_name(name):
    """Two arguments swapped on the way, which types alone would not show."""
    with pytest.raises(InputError, match=f"^{name}="):
        fresh = SimpleNamespace(_model=SimpleNamespace(plan={}))
        ModelState.trainmodel(fresh, **{name: PLAN[name][1][0]})


@pytest.mark.parametrize("verb", [ModelState.generatestring, ModelState.stream])
def test_the_manual_has_the_default_rules_of_drawing(verb):
    """A default changed in one place."""
    given = inspect.signature(verb).parameters
    rules = inspect.signature(Sampling).parameters
    assert {name: given[name].default for name in rules} == {
        name: rule.default for name, rule in rules.items()
    }


@pytest.mark.parametrize("rule", ["top_k", "top_p", "min_p", "repeat", "repeat_last", "forbid", "allow",
                                  "regex", "stop"])  # fmt: skip
@pytest.mark.parametrize("verb", [ModelState.generatestring, ModelState.stream])
def test_each_rule_of_drawing_is_handed_on_under_its_own_name(verb, rule):
    """Two arguments swapped on the way, which types alone would not show."""
    with pytest.raises(InputError, match=f"^{rule}="):
        verb(None, **{rule: -1})
