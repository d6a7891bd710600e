"""Searching over settings: what may be searched, who works on it, and what is found."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import rngru
from rngru import ModelState, Texts, sweep, sweeps
from rngru.cli import main
from rngru.errors import InputError, MissingExtra, NoModelError, RngruWarning, WorkdirError
from rngru.events import Batch, Round
from rngru.plots import sweepfigure
from rngru.sweeps import VARIED, Space, Sweep
from rngru.sweeps.ledger import Ledger, Search, counted, pruner
from rngru.sweeps.worker import Judge, work
from rngru.workdir import whoami

optuna = pytest.importorskip("optuna")

SPACE = {"state_size": [4, 8], "learnrate": (1e-4, 1e-2, "log")}
SMALL_JAX = {"layers": 1, "seq_len": 20, "batchsize": 2, "backend": "jax"}
SMALL = {"seconds": 0.3, "layers": 1, "seq_len": 20, "batchsize": 2, "rng": 1, "report": "silent"}


def texts(verse):
    return Texts([verse], names=["verse"])


@pytest.fixture
def ledger(tmp_path, verse):
    """A sweep that has begun, and of which nothing is done."""
    made = Ledger(tmp_path / "sweep")
    options = {"state_size": 1, "layers": 1, "rng": 1, "report": "silent"}
    ModelState.initfromsrcfile(texts(verse), made.text, **options)
    fixed = {name: SMALL[name] for name in ("layers", "seq_len", "batchsize")}
    made.write(Search(Space.checked(SPACE), 0.2, fixed, 1))
    return made


def never():
    return False


# ---- What may be searched ----


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, "expected a dictionary"),
        ([("layers", [1])], "expected a dictionary"),
        ({"hidden_size": [8]}, "hidden_size cannot be varied. Did you mean 'state_size'?"),
        ({"vocab_size": [8]}, "vocab_size cannot be varied"),
        ({"print_every": [8]}, "print_every cannot be varied"),
        ({"layers": []}, "got no choice"),
        ({"layers": [1, 0]}, "layers=0: expected a whole number from 1"),
        ({"layers": (1.5, 3)}, "layers=1.5: expected a whole number"),
        ({"layers": (3, 1)}, "with low < high"),
        ({"layers": (1, 2, "lgo")}, "with low < high"),
        ({"layers": (1, 2, 3, 4)}, "expected a list of choices"),
        ({"layers": "12"}, "expected a list of choices"),
        ({"dropout": (0.0, 0.5, "log")}, "low above 0 for 'log'"),
        ({"dropout": (0.0, 1.0)}, "dropout=1.0: expected a number of at least 0 and below 1"),
        ({"optimizer": ("sgd", "adam")}, "optimizer is no number, so give a list"),
        ({"optimizer": ["sgd", "adma"]}, "Did you mean 'adam'?"),
        ({"tied": (False, True)}, "tied is no number"),
        ({"modeltype": ["GRUEncode", "BiGRU"]}, "models that read both ways"),
    ],
    ids=str,
)
def test_what_cannot_be_searched_is_refused(space, words, tmp_path):
    """Before a text is read or a process begun: nothing is written."""
    with pytest.raises(InputError) as caught:
        sweep("no such file", tmp_path / "sweep", space)
    assert words in str(caught.value)
    assert not (tmp_path / "sweep").exists()


def test_everything_that_makes_a_model_can_be_varied():
    """A hyperparameter that is added later is in the table at once."""
    assert rngru.HyperParams.settings().keys() - {"vocab_size"} < VARIED.keys()
    assert {"batchsize", "seq_len", "modeltype"} < VARIED.keys()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trials": 0}, "trials=0"),
        ({"seconds": -1}, "seconds=-1"),
        ({"processes": 0}, "processes=0"),
        ({"hiden_size": 3}, "hiden_size cannot be set. Did you mean 'state_size'?"),
        ({"layers": 0}, "layers=0"),
        ({"state_size": 8}, "state_size: varied in space, and given a value, too"),
    ],
    ids=str,
)
def test_other_nonsense_is_refused(given, words, tmp_path):
    with pytest.raises(InputError) as caught:
        sweep("no such file", tmp_path / "sweep", SPACE, **given)
    assert words in str(caught.value)
    assert not (tmp_path / "sweep").exists()


def test_without_optuna_it_says_what_to_install(monkeypatch, tmp_path, verse):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[sweep\]'"):
        sweep(texts(verse), tmp_path / "sweep", SPACE)
    assert not (tmp_path / "sweep").exists()


def test_where_there_is_no_sweep(tmp_path):
    with pytest.raises(NoModelError, match="holds no sweep"):
        Sweep.load(tmp_path)
    with pytest.raises(InputError, match="Say what to vary"):
        sweep(None, tmp_path)


# ---- A sweep ----


def test_a_sweep_finds_the_best_and_goes_on(tmp_path, verse, monkeypatch):
    """Two processes, then more trials on another day; the best model is the one with the lowest loss."""
    monkeypatch.delenv("RNGRU_THREADS", raising=False)
    began = {}
    popen = subprocess.Popen

    def watched(*args, **options):
        began.update(options.get("env") or {})
        return popen(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", watched)
    first = sweep(texts(verse), tmp_path, SPACE, trials=3, processes=2, **SMALL)
    assert began["RNGRU_THREADS"] == "1"
    assert len(first) == 3
    found = sweep(texts(verse), tmp_path, trials=5, processes=1, report="silent")
    assert [each.number for each in found][:3] == [each.number for each in first]
    assert len(found) == len(Sweep.load(tmp_path)) == 5
    assert all(each.values["state_size"] in (4, 8) for each in found)
    assert all(1e-4 <= each.values["learnrate"] <= 1e-2 for each in found)
    done = [each for each in found if each.state == "done"]
    assert found.besttrial.loss == min(each.loss for each in done)
    assert min(loss for _, loss in found.besttrial.losses) == found.besttrial.loss
    best = found.best
    assert best is found.best
    assert best.hyper.state_size == found.besttrial.values["state_size"]
    assert (best.hyper.layers, best.seq_len) == (1, 20)
    assert best.evaluate().nats == pytest.approx(found.besttrial.loss, abs=1e-6)
    assert best._model.plan == {"batchsize": 2}, "a trial's save_every=, keep= and valid_len="
    best.trainmodel(1, train_len=1, report="silent")
    text = next((tmp_path / "text" / "data").glob("ids-*"))
    assert all(text.samefile(each.path / "data" / text.name) for each in found)


def test_the_table_shows_the_best_first(ledger):
    with pytest.raises(InputError, match="No trial was trained"):
        _ = Sweep(ledger.folder).besttrial
    work(ledger, 2, 0, never)
    found = Sweep(ledger.folder)
    lines = repr(found).splitlines()
    assert lines[0].split() == ["trial", "valid", "state_size", "learnrate"]
    assert lines[1].split()[:2] == [str(found.besttrial.number), f"{found.besttrial.loss:.4f}"]
    assert lines[1].endswith("best")
    assert lines[-1].startswith("2 trials of 0.2 s: 2 done.")
    assert found._repr_html_().startswith("<table>")
    columns = found.columns()
    assert columns["loss"].tolist() == [each.loss for each in found]
    assert columns["learnrate"].tolist() == [each.values["learnrate"] for each in found]


def test_another_text_or_search_is_refused(ledger, verse):
    """Losses on two texts, or after other times, cannot be compared."""
    for options in {"trainfrac": 0.5}, {"level": "word"}:
        with pytest.raises(InputError, match=f"holds a sweep with {min(options)}="):
            sweep(None, ledger.folder, report="silent", **options)
    with pytest.raises(WorkdirError, match="holds a sweep over verse"):
        sweep(texts(verse + "more"), ledger.folder, report="silent")
    for other in ({"space": {"layers": [1, 2]}}, {"seconds": 9}, {"layers": 2}, {"rng": 5}):
        with pytest.raises(InputError, match="holds a sweep with"):
            sweep(None, ledger.folder, report="silent", **other)
    assert not Sweep(ledger.folder)


def test_what_does_not_work_counts_as_tried(ledger):
    """A model that cannot be, and one that diverges, end the trial and not the sweep."""
    space = Space.checked({"modeltype": ["GRUResize"], "tied": [True]})
    ledger.write(Search(space, 0.2, {}, 1))
    work(ledger, 2, 0, never)
    found = Sweep(ledger.folder)
    assert [each.state for each in found] == ["failed", "failed"]
    assert "tied" in found[0].note
    assert "2 trials of 0.2 s: 2 failed." in repr(found)


def test_a_damaged_description_is_told(ledger):
    (ledger.folder / "sweep.json").write_text(
        '{"format": 1, "space": {"layers": {"choices": [0]}}}'
    )
    with pytest.raises(rngru.RngruError, match="does not describe a sweep"):
        ledger.read()
    (ledger.folder / "sweep.json").write_text('{"format": 9}')
    with pytest.raises(rngru.RngruError, match="has format 9"):
        ledger.read()


# ---- Several processes ----


def test_two_at_once_try_just_as_many_as_were_asked_for(ledger):
    """As if on two machines: none too few, none too many, each with a directory of its own."""
    workers = [threading.Thread(target=work, args=(ledger, 5, index, never)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found = Sweep(ledger.folder)
    assert len(found) == 5
    assert len({each.path for each in found}) == 5


def test_a_trial_whose_process_died_is_tried_anew(ledger):
    """``kill -9`` leaves a trial that seems to run for ever."""
    study = ledger.study()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = study.ask(), study.ask()
    dead.set_user_attr("process", whoami() | {"pid": gone.pid, "started": 1})
    alive.set_user_attr("process", whoami())
    assert counted(study, 0.2) == 1
    assert [each.state for each in Sweep(ledger.folder)] == ["running"]
    work(ledger, 3, 0, never)
    assert [each.number for each in Sweep(ledger.folder) if each.state == "done"] == [2, 3]


def test_a_sweep_that_was_stopped_goes_on(ledger):
    """The trial at hand is left out, and tried anew."""
    calls = iter(range(1000))
    work(ledger, 2, 0, lambda: next(calls) > 3)
    assert len(Sweep(ledger.folder)) == 0
    work(ledger, 1, 0, never)
    assert len(Sweep(ledger.folder)) == 1


def test_a_worker_ends_with_who_began_it(ledger):
    """Else a sweep whose prompt was closed would keep all cores busy through the night."""
    ledger.write(Search(Space.checked(SPACE), 60.0, {"layers": 1}, 1))
    code = "import sys; from rngru.sweeps.worker import main; main(*sys.argv[1:])"
    line = [sys.executable, "-c", code, str(ledger.folder), "1", "0"]
    worker = subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    place = ledger.place(0) / "checkpoints" / "0"
    while not place.exists() and worker.poll() is None:
        threading.Event().wait(0.05)
    _, told = worker.communicate(timeout=30)
    assert (worker.returncode, told) == (0, b"")
    assert len(Sweep(ledger.folder)) == 0


def test_a_process_that_fails_is_told(ledger, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(rngru.RngruError, match="processes failed: status 1"):
        sweep(None, ledger.folder, trials=2, processes=2, report="silent")
    monkeypatch.undo()
    work(ledger, 1, 0, never)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.warns(RngruWarning, match="1 of 1 processes failed"):
        assert len(sweep(None, ledger.folder, trials=2, report="silent")) == 1


# ---- On GPUs ----


def test_each_process_has_a_device_of_its_own(ledger, monkeypatch):
    """All would take the first GPU, and most of the memory of every one."""
    began = []

    class Worker:
        returncode = 0

        def __init__(self, command, env, **options):
            began.append((command[3:], env["XLA_PYTHON_CLIENT_PREALLOCATE"]))

        def poll(self):
            return 0

        def communicate(self):
            pass

    pytest.importorskip(
        "rngru.backends.jaxed"
    )  # PyTensor, too, begins processes when it is imported
    ledger.write(Search(Space.checked(SPACE), 0.2, {"backend": "jax"}, 1))
    monkeypatch.setattr(sweeps, "_devices", lambda: 3)
    monkeypatch.setattr(subprocess, "Popen", Worker)
    for processes, devices in (None, "012"), (5, "01201"):
        began.clear()
        sweep(None, ledger.folder, trials=9, processes=processes, report="silent")
        folder = str(ledger.folder)
        assert began == [
            ([folder, "9", str(index), device], "false") for index, device in enumerate(devices)
        ]


def test_a_process_sees_its_device_alone(ledger):
    """Where JAX itself looks which GPUs it may open."""
    pytest.importorskip("jax")
    code = """if True:
        import sys
        from jax._src import xla_bridge
        from rngru.sweeps.worker import main
        main(*sys.argv[1:])
        print(xla_bridge.CUDA_VISIBLE_DEVICES.value, xla_bridge._backends)"""
    line = [sys.executable, "-c", code, str(ledger.folder), "0", "1", "3"]
    done = subprocess.run(line, input="", capture_output=True, text=True, check=True)
    assert done.stdout == "3 {}\n", "and it has opened none before"


def test_a_sweep_on_jax(ledger, monkeypatch):
    """On CPUs as ever; and an older version, which would go on with cpu, must not."""
    pytest.importorskip("jax")
    about = ledger.folder / "sweep.json"
    assert json.loads(about.read_text())["format"] == 1
    ledger.write(Search(Space.checked({"state_size": [4]}), 0.2, SMALL_JAX, 1))
    assert json.loads(about.read_text())["format"] == 2
    found = sweep(None, ledger.folder, trials=1, report="silent")
    assert found.search == ledger.read()
    assert [each.state for each in found] == ["done"]
    assert found.best.backend == "jax"
    with pytest.raises(InputError, match="holds a sweep with fixed="):
        sweep(None, ledger.folder, backend="cpu", report="silent")


# ---- Pruning, pictures, the command ----


def heard(judge, losses):
    """Tell a judge of rounds, and return how many it lets happen."""
    for number, loss in enumerate(losses, 1):
        done = Round(number, 1, 0.1, loss, loss, loss, 1e-3, 1.0, 1, float(number), None)
        if judge(done):
            return number
    return len(losses)


def test_what_is_worse_than_others_were_is_ended_early():
    """By the median of what others had at the same time; the first few are never ended."""
    study = optuna.create_study(pruner=pruner())
    for level in (1.0, 2.0, 3.0, 4.0):
        trial = study.ask()
        judge = Judge(trial, 8.0, never)
        assert heard(judge, [level] * 8) == 8
        study.tell(trial, level)
    for level, rounds in [(2.4, 8), (2.6, 2)]:
        trial = study.ask()
        judge = Judge(trial, 8.0, never)
        assert heard(judge, [9.0] + [level] * 7) == rounds
        assert judge.pruned == (rounds < 8)
        assert [loss for _, loss in judge.losses] == ([9.0] + [level] * 7)[:rounds]
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)


def test_a_judge_ends_a_trial_when_all_is_over():
    study = optuna.create_study()
    judge = Judge(study.ask(), 8.0, lambda: True)
    assert judge(Batch(1, 1, 3, 40, 0.1, 2.5, 1.5, 40, 0.5)) == "the sweep was stopped"
    assert not judge.pruned


def test_a_picture_has_a_panel_for_each_setting(ledger, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="nothing to draw"):
        Sweep(ledger.folder).plot()
    work(ledger, 2, 0, never)
    assert Sweep(ledger.folder).plot() == ledger.folder / "sweep.png"
    assert (ledger.folder / "sweep.png").stat().st_size > 5000
    columns = {
        "trial": np.arange(4),
        "state": np.array(["done", "pruned", "done", "failed"], object),
        "loss": np.array([2.5, 7.0, 2.0, np.nan]),
        "gate": np.array(["sigmoid", "hard_sigmoid", "sigmoid", None], object),
        "learnrate": np.array([0.01, 0.1, 0.001, 0.1]),
    }
    first, gate, rate = sweepfigure(columns, units="words", log=["learnrate"]).axes
    assert first.get_ylabel() == "loss (nats per word)"
    assert (gate.get_xlabel(), rate.get_xscale()) == ("gate", "log")
    (best,) = [line for line in first.lines if line.get_label() == "best so far"]
    np.testing.assert_array_equal(best.get_ydata(), [2.5, 2.5, 2.0, 2.0])
    (star,) = [line for line in rate.lines if line.get_marker() == "*"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (0.001, 2.0)


def test_the_command(tmp_path, verse, capsys):
    book, work_ = tmp_path / "book.txt", str(tmp_path / "s")
    book.write_text(verse)
    line = ["sweep", str(book), "--workdir", work_, "--vary", "state-size=4,8", "--vary"]
    line += ["learnrate=1e-4:1e-2:log", "--trials", "1", "--seconds", "0.3", "--layers", "1"]
    assert main([*line, "--seq-len", "20"]) == 0
    shown = capsys.readouterr()
    assert "1 trial of 0.3 s: 1 done." in shown.out
    assert "1 of 1  trial 0  valid " in shown.err
    assert f"the best model is in {Path(work_, 'trials', '0000')}" in shown.err
    assert main(["sweep", "--workdir", work_, "--trials", "1", "--json"]) == 0
    (trial,) = json.loads(capsys.readouterr().out)
    assert trial["values"].keys() == {"state_size", "learnrate"}
    assert Sweep.load(work_).search.space == Space.checked(SPACE)
    for wrong in ("hidden_size=3", "layers=3,x", "layers", "dropout=0:2", "learnrate=1:2:3"):
        assert main(["sweep", str(book), "--workdir", work_, "--vary", wrong]) == 2
    assert os.listdir(Path(work_, "trials")) == ["0000"]
