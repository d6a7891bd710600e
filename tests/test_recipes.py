"""A recipe fits a text and a time, gives way to what is given, and becomes what training does."""

import itertools
import re
import time

import pytest

from rngru import ModelState, Texts, recipe, recipes
from rngru.cli import main
from rngru.corpora import pydoc
from rngru.errors import InputError
from rngru.hyper import HyperParams
from rngru.making import HEART
from rngru.models import MODELS
from rngru.recipes import HIGHEST, RECIPES, TIME, Recipe, misfit, reads
from rngru.training import Plan

SECONDS = (1, 10, 60, 150, 600, 3600, 1e6)
SYMBOLS = (1, 1_000, 30_000, 300_000, 1_000_000, 12_000_000, 10**9)


def weights(found, symbols=60):
    """How many parameters a model made by a recipe has."""
    model, hyper = MODELS[found.modeltype], HyperParams(symbols, **found.hyper)
    shapes = model.shapes(hyper).values()
    return sum(shape[0] * (shape[1] if shape[1:] else 1) for shape in shapes)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("level", ["char", "word", "byte"])
def test_a_recipe_is_sound_for_every_text_and_time(name, level):
    """Catches a line of a table that makes a model nobody can train, or one too large for its text."""
    for symbols, seconds in itertools.product(SYMBOLS, SECONDS):
        found = recipe(name, symbols, seconds, level)
        HyperParams(66, **found.hyper)
        plan = Plan(**found.plan)
        assert plan.max_seconds == seconds
        assert plan.batchsize * found.seq_len <= max(symbols / 10, found.seq_len)
        if symbols >= 1_000:
            assert weights(found) < HEART * 2 * symbols


@pytest.mark.parametrize("name", RECIPES)
def test_more_text_and_more_time_make_larger_models(name):
    """Catches lines of a table that are out of order."""
    sizes = [[recipe(name, n, s).hyper["state_size"] for s in SECONDS] for n in SYMBOLS]
    assert all(row == sorted(row) for row in sizes)
    assert all(list(column) == sorted(column) for column in zip(*sizes, strict=True))
    passes = [recipe(name, 10**6, s).hyper["dropout"] for s in SECONDS]
    assert passes == sorted(passes), "the same text again and again wants more dropout"
    assert sizes[-1][-1] == RECIPES[name].hyper["state_size"] <= TIME[-1][1]


def test_the_settings_of_the_readme_are_a_recipe():
    """Catches a table that is changed without a look at what it stands for."""
    shared = {
        "optimizer": "adamw",
        "weightdecay": 0.2,
        "average": 0.99,
        "regcost": 0.0,
        "locked": True,
        "gate_init": "uniform",
    }
    for name, seconds, modeltype, size, rate, dropout, cautious in (
        ("quick", 60, "GRUEncode", 192, 0.0107, 0.0, True),
        ("best", 150, "GRUEncode", 256, 0.008, 0.1, False),
        ("best", 600, "LSTMEncode", 512, 0.005, 0.2, False),
    ):
        found = recipe(name, 1_003_854, seconds)
        own = {"state_size": size, "learnrate": rate, "dropout": dropout, "cautious": cautious}
        assert (shared | own).items() <= found.completed({}).items()
        assert (found.modeltype, found.plan["batchsize"]) == (modeltype, 32)
    assert 45_000 < reads(256, 1.0) < 60_000, "the README has 53,000"


@pytest.mark.parametrize("modeltype", MODELS)
def test_every_kind_of_model_can_be_made_by_every_recipe(modeltype):
    """Catches a setting in a recipe that only some cells have."""
    for name in RECIPES:
        hyper = HyperParams(66, **recipe(name, 10**6, 3600).completed({}))
        MODELS[modeltype].check(hyper)


def test_the_table_names_all():
    """Catches a recipe that nobody can find."""
    shown = repr(recipes.recipes()).splitlines()
    assert [line.split()[:2] for line in shown[1:]] == [
        [name, f"{each.plan['max_seconds']:g}"] for name, each in RECIPES.items()
    ]
    assert max(map(len, shown)) <= 80


def test_what_is_given_comes_first(newmodel, verse):
    """Catches a recipe that overrules the person who uses it."""
    small = {"seq_len": 20, "state_size": 8}
    ms = newmodel(verse, recipe="quick", dropout=0.5, layers=1, regcost=0.01, **small)
    hyper = ms.hyper
    assert (hyper.state_size, hyper.dropout, hyper.layers, hyper.regcost) == (8, 0.5, 1, 0.01)
    assert (hyper.optimizer, hyper.schedule, ms.seq_len) == ("adamw", "cosine", 20)
    assert hyper.learnrate == HIGHEST, "that of a small layer, not that of the recipe's"
    assert newmodel(verse, recipe="quick", learnrate=0.5).hyper.learnrate == 0.5
    other = newmodel(verse, recipe="quick", optimizer="sgd").hyper
    assert (other.optimizer, other.learnrate) == ("sgd", 1e-3), "Adam's rate is none for sgd"
    plain = newmodel(verse, recipe="quick", optimizer="adam", **small).hyper
    assert plain.learnrate == hyper.learnrate, "without weight decay it is Adam's as well"
    found, sgd = recipe("quick", 10**6, 60), {"optimizer": "sgd"}
    for given, cautious in (({}, True), ({"dropout": 0.5}, False), (sgd, False)):
        assert found.completed(given)["cautious"] == cautious
        assert found.completed(given | {"cautious": not cautious})["cautious"] != cautious


def test_a_recipe_may_have_a_kind_of_model(newmodel, verse, monkeypatch):
    """Catches a default of the signature that overrules a recipe."""
    plain = RECIPES["quick"]
    other = Recipe("quick", "", plain.hyper, plain.plan, modeltype="LSTMEncode", seq_len=30)
    monkeypatch.setitem(RECIPES, "quick", other)
    ms = newmodel(verse, recipe="quick", seq_len=100)
    assert (ms.modeltype, ms.seq_len) == ("LSTMEncode", 30)
    ms = newmodel(verse, recipe="quick", modeltype="RNNResize", seq_len=50)
    assert (ms.modeltype, ms.seq_len) == ("RNNResize", 50)
    assert newmodel(verse).modeltype == "GRUEncode"


def test_the_first_call_to_train_does_what_the_recipe_says(newmodel, verse):
    """Catches seconds that are asked for and forgotten, also over a night; or that hold for ever."""
    ms = newmodel(verse, recipe="quick", seconds=0.1)
    plan = dict(recipe("quick", ms._corpus.split, 0.1).plan)
    assert ms._model.plan == plan
    assert (plan["batchsize"], plan["max_seconds"]) == (1, 0.1)
    ms = ModelState.load(ms.workdir)
    assert ms._model.plan == plan
    ms.newcheckpoint()
    history = ms.trainmodel(print_every=0)
    assert history.reason == "time" and ms._model.progress.state.shape[1] == 1
    assert "max_seconds" not in ModelState.load(ms.workdir)._model.plan
    began = time.monotonic()
    assert ms.trainmodel(train_len=2000).reason == "done"
    assert time.monotonic() - began > 0.1, "the recipe's clock would have ended it"


def test_rounds_that_are_asked_for_are_not_cut_short(newmodel, verse):
    """Catches a call for three rounds that the recipe's clock ends after one."""
    ms = newmodel(verse, recipe="quick", seconds=1e-3)
    assert len(ms.trainmodel(3, train_len=2, print_every=0)) == 3
    ms = newmodel(verse, recipe="quick", seconds=1e-3)
    assert ms.trainmodel(max_seconds=1e6, num_rounds=1, train_len=2).reason == "done"


def test_it_says_what_it_has_chosen(tmp_path, capsys):
    """Catches settings that nobody was told of."""
    ModelState.initfromsrcfile(
        Texts([pydoc()[:50_000]]), tmp_path / "work", recipe="quick", seconds=20, report="plain"
    )
    told = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"Recipe 'quick' for 20 seconds: GRUEncode, 2 layers of 96, adamw at learnrate 0\.012, cosine "
        r"schedule, (no )?dropout.*, weight decay 0\.2; trainmodel\(\) reads batches of 32 x 100\.",
        told,
    )
    assert "45,000 characters to train on are few for recipe='quick': recipe='small'" in told
    ModelState.initfromsrcfile(
        Texts([pydoc()[:50_000]]), tmp_path / "other", recipe="small", report="plain"
    )
    assert "are few for" not in capsys.readouterr().out


def test_a_text_that_is_far_too_long_is_told():
    """Catches an hour of encoding for a text of which a minute reads a hundredth."""
    symbols = 100 * round(reads(256, 60.0))
    found = recipe("quick", symbols, 60)
    told = misfit(found, 256, symbols, "char", "characters")
    assert told.startswith("In 60 seconds a model with layers of 256 reads about 1 % of the")
    assert not misfit(found, 256, symbols // 10, "char", "characters")


def test_it_learns_more_than_the_defaults(newmodel):
    """Catches a recipe whose settings are worse than none, after the same batches of the same size."""
    losses = []
    for options in {}, {"recipe": "quick"}:
        ms = newmodel(pydoc()[:150_000], state_size=48, seq_len=50, **options)
        losses.append(ms.trainmodel(1, 16, 150, 5, 0).validloss[-1])
    assert losses[1] < losses[0] - 0.15


def test_an_old_model_keeps_its_sizes(newmodel, verse, tmp_path):
    """Catches a recipe that refuses to teach a model that is there."""
    old = newmodel(verse, layers=1)
    ms = newmodel(verse[::-1], model=old, recipe="quick", state_size=8)
    assert (ms.hyper.state_size, ms.hyper.layers) == (8, 1)
    assert (ms.hyper.optimizer, ms.hyper.schedule) == ("adamw", "cosine")
    assert newmodel(verse, model=old, recipe="best").modeltype == old.modeltype == "GRUEncode"


def test_a_script_that_runs_twice(newmodel, verse, tmp_path):
    """Catches a warning of settings that nobody gave."""
    source = tmp_path / "verse.txt"
    source.write_text(verse)
    for _ in range(2):
        ModelState.initfromsrcfile(
            source, tmp_path / "work", recipe="small", exist="load", report="silent"
        )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"recipe": "quik"}, "recipe='quik' is not known. Did you mean 'quick'"),
        ({"recipe": 3}, "recipe=3"),
        ({"seconds": 60}, r"seconds=60 is part of a recipe.*max_seconds=60"),
        ({"recipe": "quick", "seconds": 0}, "seconds=0"),
        ({"recipe": "quick", "seconds": float("inf")}, "seconds=inf"),
        ({"recipe": "quick", "state_size": "8"}, "state_size='8'"),
        ({"recipe": "quick", "modeltype": "GRUResize", "tied": True}, "tied=True"),
    ],
    ids=str,
)
def test_what_makes_no_sense(tmp_path, options, told):
    """Catches what is found out only after the text was read."""
    with pytest.raises(InputError, match=told):
        ModelState.initfromsrcfile(tmp_path / "no such file", tmp_path / "work", **options)


def test_from_the_command_line(tmp_path, verse, capsys):
    """Catches seconds that the recipe does not hear of, and a recipe that is dropped in silence."""
    (source := tmp_path / "verse.txt").write_text(verse)
    line = ["train", str(source), "--workdir", str(tmp_path / "w"), "--recipe", "quick"]
    assert main([*line, "--seconds", "0.5", "--report", "plain"]) == 0
    assert "Recipe 'quick' for 0.5 seconds" in capsys.readouterr().err
    assert ModelState.load(tmp_path / "w").hyper.optimizer == "adamw"
    assert main([*line, "--seconds", "0.1", "--report", "silent"]) == 0
    assert "holds a model already, so --recipe changes nothing" in capsys.readouterr().err
    line[3] = str(tmp_path / "v")
    assert main([*line, "--seconds", "inf", "--rounds", "1", "--train-len", "1"]) == 0
