"""A run that another process takes up is the run that was never interrupted, to the bit.

The first part of a run ends, is interrupted or is killed; a process of its own loads the working
directory and trains the rest; a model trained straight through is the reference. Run as a script,
this file is that process: it reads jobs, one a line, and answers each with what became of it.

Where the two can be compared follows from the schedules. ``constant`` and ``exponential`` know only
the position, so a run may be cut anywhere. ``plateau`` acts where a round ends: the straight run ends
its rounds at the same batches. ``cosine`` runs over the length of one call, so that two calls are two
curves: there the straight run is the same two calls in one process.
"""

import dataclasses
import json
import os
import shutil
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from typing import Any

import numpy as np
import pytest

from rngru import ModelState, checkpoint, models
from rngru.errors import WorkdirError
from rngru.hyper import OPTIMIZERS, SCHEDULES
from rngru.kernels import target
from rngru.models import MODELS
from tests.models import INSTALLED
from tests.robust import QUIET, program, until

LANES, LENGTH = 3, 7

DESIGNED = SCHEDULES[:4]
"""The others run over a call as cosine does; they are tried over a life."""

Facts = dict[str, dict[str, Any]]


# ---- What is compared, and the process that goes on ----


def hashed(arrays):
    return {name: sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}


def facts(ms: ModelState, *histories: Any, last: int = 0) -> Facts:
    """All there is to know of a run, with the losses of its ``last`` batches, or of all.

    Its ``run`` is what the numbers to come follow from, its ``record`` what is kept of the way.
    """
    losses = [loss for history in histories for loss in history.losses.tolist()]
    table = ms.checkpoints()
    arrays, meta = checkpoint.load(table[-1])
    lines = (ms.workdir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    # They count from the beginning of a call.
    own = {"round", "characters", "seconds", "trained"}
    record = {
        "line": meta.pop("history"),
        "plan": meta.pop("plan"),
        "summary": {k: v for k, v in meta.pop("summary").items() if k != "model"},
        "history": [{k: v for k, v in json.loads(e).items() if k not in own} for e in lines],
        "checkpoints": [[e.step, e.epoch, e.position, e.trainloss, e.validloss] for e in table],
        "best": table.best and table.best.step,
        "reason": histories[-1].reason,
    }
    known = ms.chars.charatidx(1)
    run = meta | {
        "losses": losses[-last:],
        "parameters": hashed(ms.parameters()),
        "arrays": hashed(arrays),
        "shown": repr(ms).split(", train loss")[0],
        "next": str(
            ms.fillin(f"{known}_{known}")
            if models.named(ms.modeltype).both
            else ms.generatestring(40, temp=1.0, seed=known, rng=ms.rng)
        ),
    }
    return {"run": run, "record": record}


def work(job: dict[str, Any]) -> Facts:
    """Load a model and train it; or be killed once there is a checkpoint beyond a step."""
    ms = ModelState.load(job["workdir"])
    if "restore" in job:
        ms.restore(job["restore"])
    if "kill" in job:
        when(lambda: ms.checkpoints()[-1].step > job["kill"], signal.SIGKILL)
    return facts(ms, ms.trainmodel(**job["call"]))


def when(condition: Callable[[], bool], number: int) -> threading.Thread:
    """Send this process a signal as soon as a condition holds."""

    def watch() -> None:
        until(condition)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def elsewhere():
    """Do jobs in a process that has seen none of the models yet, and return what became of each.

    It has two threads, whatever there are here.
    """
    with program(__file__, environment={"RNGRU_THREADS": "2"}) as other:

        def done(job: dict[str, Any]) -> Facts:
            other.stdin.write(json.dumps(job) + "\n")
            answer = other.stdout.readline()
            assert answer, "the process has failed"
            return json.loads(answer)

        yield lambda *jobs: [done(job) for job in jobs]


def rounds(ms, *lengths):
    """Train a round of so many batches for each of ``lengths``."""
    return [ms.trainmodel(batchsize=LANES, train_len=length, **QUIET) for length in lengths]


def differences(found: Any, expected: Any) -> Iterator[str]:
    """Where two facts differ, by name."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in sorted(found.keys() | expected.keys()):
            for each in differences(found.get(name), expected.get(name)):
                yield f"{name}: {each}"
    elif found != json.loads(json.dumps(expected)):
        yield f"{found!r:.200}, expected {expected!r:.200}"


def compare(found: Any, expected: Any) -> None:
    wrong = list(differences(found, expected))
    assert not wrong, "\n".join(wrong)


# ---- Twenty-six places to stop at, on both backends ----


@dataclass(frozen=True)
class Case:
    """A run of ``rounds`` and then ``more`` rounds of ``length`` batches."""

    options: dict[str, Any]
    rounds: int
    more: int
    length: int
    print_every: int
    keep: int | None

    @property
    def batches(self) -> int:
        """N, after how many batches another process goes on."""
        return self.rounds * self.length

    def call(self, rounds: int) -> dict[str, Any]:
        return {
            "num_rounds": rounds,
            "batchsize": LANES,
            "train_len": self.length,
            "print_every": self.print_every,
            "keep": self.keep,
            "report": "silent",
        }


def design() -> list[Case]:
    """Twenty-six random N on one backend and on the other, each time with other choices.

    4, 5, 7 and 13 have no common divisor, so counting up walks through their pairs.
    """
    rng, cases = np.random.default_rng(2016), []
    stops = rng.choice(np.arange(1, 41), 26, replace=False).tolist()
    for i, (backend, batches) in enumerate(product(("cpu", "scan"), stops)):
        modeltype = list(MODELS)[i % 13]
        options = {
            "backend": backend,
            "modeltype": modeltype,
            "schedule": DESIGNED[i % 4],
            "optimizer": OPTIMIZERS[i % 5],
            "layers": 1 + i % 2,
            "dropout": 0.0 if i % 7 == 6 else 0.3,
            "locked": i % 7 in (1, 3, 5),
            "tied": modeltype.endswith("Encode") and i % 7 > 2,
            "reset_after": modeltype in ("GRUEncode", "GRUResize", "BiGRU") and i % 7 < 4,
            "trainfrac": 1.0 if i % 7 == 5 else 0.9,
            "dropconnect": 0.2 if i % 3 == 0 and "Min" not in modeltype else 0.0,
            "embed_dropout": 0.2 if i % 3 == 1 else 0.0,
            "dropout_in": 0.2 if i % 2 and not modeltype.endswith("Resize") else 0.0,
            "dropout_out": 0.4 if i % 5 == 1 else None,
            "random_len": 0.3 if i % 3 == 2 else 0.0,
            "layernorm": i % 4 == 1,
            "residual": i % 5 == 3,
            "ar": 1.0 if i % 4 == 2 else 0.0,
            "tar": 1.0 if i % 4 == 3 else 0.0,
            "smoothing": 0.1 if i % 5 == 4 else 0.0,
            "average": (None, 0.75, 1)[i % 3],
            "average_from": 5 * (i % 2) if i % 3 else 0,
            "cautious": i % 3 == 1,
        }
        rounds = int(rng.choice([n for n in (1, 2, 3, 4) if batches % n == 0]))
        more = int(rng.integers(1, 3))
        cases.append(
            Case(options, rounds, more, batches // rounds, 5 * (i % 2), 2 if i % 3 else None)
        )
    return cases


def further() -> list[Case]:
    """A few of them on the backend that compiles for seconds, if it is there."""
    there = INSTALLED[2:]
    some = [case for case in design()[:9:3] for _ in there]
    return [dataclasses.replace(case, options=case.options | {"backend": "jax"}) for case in some]


def test_the_design_leaves_nothing_out():
    """Twenty-six places; each model with each schedule and backend, nearly each with each optimizer."""
    cases = design()
    for one, other, pairs in (
        ("modeltype", "backend", 13 * 2),
        ("optimizer", "backend", 5 * 2),
        ("schedule", "backend", 4 * 2),
        ("modeltype", "schedule", 13 * 4),
        ("optimizer", "schedule", 5 * 4),
        ("modeltype", "optimizer", 13 * 5 - 13),
        ("optimizer", "cautious", 5 * 2),
        ("average", "backend", 3 * 2),
        ("average", "average_from", 1 + 2 * 2),
        *((flag, "backend", 2 * 2) for flag in ("locked", "tied", "reset_after", "dropout")),
        *((flag, "locked", 2 * 2) for flag in ("tied", "reset_after")),
    ):
        met = {(case.options[one], case.options[other]) for case in cases}
        assert len(met) == pairs, (one, other)
    for half in cases[:26], cases[26:]:
        assert len({case.batches for case in half}) == 26
        assert len({case.options["backend"] for case in half}) == 1


def test_another_process_goes_on_to_the_bit(newmodel, verse, elsewhere, long):
    """Whatever a run depends on and a checkpoint does not hold shows in what follows it."""
    cases = design()
    if not long:
        cases = cases[:13]  # every model, on the backend that people train on
    cases += further()
    text, rate, jobs, pairs, expected = verse[:80], 0.002, [], [], []
    middle, crossing, moving = False, False, set()
    for case in cases:
        options = {"state_size": 5, "seq_len": LENGTH, "learnrate": rate} | case.options
        pairs.append([newmodel(text, **options) for _ in "12"])
        first = pairs[-1][1]
        first.trainmodel(**case.call(case.rounds))
        jobs.append({"workdir": str(first.workdir), "call": case.call(case.more)})
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(elsewhere, *jobs)
        for case, (straight, first) in zip(cases, pairs, strict=True):
            calls = [case.rounds + case.more]
            if case.options["schedule"] == "cosine":
                calls = [case.rounds, case.more]
            histories = [straight.trainmodel(**case.call(rounds)) for rounds in calls]
            expected.append(facts(straight, *histories, last=case.more * case.length))
            middle |= first.position % int(len(text) * case.options["trainfrac"]) > 0
            crossing |= straight.epoch > first.epoch
            if any(event.learnrate < rate for history in histories for event in history):
                moving.add(case.options["schedule"])
        found = answers.result()
    wrong = {
        f"{i}, {case.batches} batches, {case.options}": list(differences(got, wanted))
        for i, (case, got, wanted) in enumerate(zip(cases, found, expected, strict=True))
    }
    assert not any(wrong.values()), "\n".join(f"{k}:\n  {v}" for k, v in wrong.items() if v)
    assert middle and crossing, "in the middle of an epoch, and across its end"
    assert moving == {*DESIGNED} - {"constant"}


@pytest.mark.parametrize(
    "schedule",
    [
        {"schedule": "cosine", "lifetime": 20, "cycles": 3, "warmup": 0.0},
        {"schedule": "linear", "lifetime": 11, "floor": 0.0},
        {"schedule": "onecycle", "lifetime": 16},
        {"schedule": "constant", "lifetime": 12, "warmup": 1.0},
    ],
    ids=str,
)
def test_another_process_goes_on_down_the_same_curve(newmodel, verse, elsewhere, schedule):
    """Over a life, two calls are one: a share of each call would begin anew in the second."""
    options = {"optimizer": "adam", "learnrate": 0.01, "average": 0.5, **schedule}
    straight, first = (newmodel(verse, **options) for _ in "12")
    call = {"batchsize": LANES, "train_len": 4, **QUIET}
    first.trainmodel(2, **call)
    [found] = elsewhere({"workdir": str(first.workdir), "call": {"num_rounds": 2, **call}})
    history = straight.trainmodel(4, **call)
    compare(found["run"], facts(straight, history, last=8)["run"])
    rates = [each.learnrate for each in history]
    assert len({*rates}) > 2 and straight.hyper.learnrate == 0.01


# ---- In the middle of a round ----

UNEVEN = {"schedule": "plateau", "optimizer": "adam", "dropout": 0.3, "learnrate": 1e-5}
"""Hardly learns, so that each validation lowers the rate: one that is forgotten shows."""


def test_another_process_goes_on_after_ctrl_c(newmodel, verse, elsewhere):
    """A round cut short is not validated: with what was before it, the next one is compared."""
    ms, straight = (newmodel(verse, **UNEVEN) for _ in "12")
    rounds(ms, 4)
    begun = ms.position
    pressed = when(lambda: ms.position > begun, signal.SIGINT)
    history = ms.trainmodel(train_len=10**6, batchsize=LANES, **QUIET)
    pressed.join()
    assert history.interrupted
    call = {"num_rounds": 2, "batchsize": LANES, "train_len": 5, **QUIET}
    [found] = elsewhere({"workdir": str(ms.workdir), "call": call})
    expected = facts(straight, *rounds(straight, 4, history.losses.size + 5, 5), last=10)
    compare(found["run"], expected["run"])
    assert straight.hyper.learnrate < 1e-5


def test_a_killed_run_goes_on_from_its_timed_checkpoint(newmodel, verse):
    """Saved in the middle of a round, it holds what a round's end does: nothing shows later."""
    ms, straight = (newmodel(verse, **UNEVEN) for _ in "12")
    rounds(ms, 4)
    call = {"batchsize": LANES, "train_len": 5000, "save_every": 0.01, **QUIET}
    with program(__file__) as other:
        other.communicate(json.dumps({"workdir": str(ms.workdir), "call": call, "kill": 4}))
    assert other.returncode == -signal.SIGKILL
    timed = ms.checkpoints()[-1]
    assert timed.step > 4
    assert timed.trainloss is None, "no round has ended"
    again = ModelState.load(ms.workdir)
    found = facts(again, *rounds(again, 5, 5))
    expected = facts(straight, *rounds(straight, 4, timed.step - 4 + 5, 5), last=10)
    compare(found["run"], expected["run"])
    assert straight.hyper.learnrate < 1e-5
    steps = [one.step for one in again.checkpoints()]
    assert steps == [0, 4, timed.step + 5, timed.step + 10], "the next one has replaced it"


# ---- The best so far ----


def test_patience_is_not_renewed_by_another_process(newmodel, verse, elsewhere):
    """Who stops every night would otherwise never run out of it, and never hear that it is over."""
    still = {"learnrate": 0, "state_size": 5}  # no round is better than the first
    straight, ms = (newmodel(verse, **still) for _ in "12")
    call = {"batchsize": LANES, "train_len": 1, "patience": 3, **QUIET}
    expected = facts(straight, straight.trainmodel(10, **call))["record"]
    assert expected["reason"] == "patience"
    assert len(straight.checkpoints()) == 1 + 4
    ms.trainmodel(2, **call)
    [found] = elsewhere({"workdir": str(ms.workdir), "call": {"num_rounds": 8, **call}})
    compare(found["record"], expected)


def test_the_best_of_another_process_is_kept_and_restored(newmodel, verse, elsewhere):
    """``keep`` spares it, the table marks it, and it is where ``restore('best')`` goes on."""
    ms, straight = (newmodel(verse, learnrate=0.01, dropout=0.3) for _ in "12")
    call = {"batchsize": LANES, "train_len": 6, **QUIET}
    ms.trainmodel(2, **call)
    best = ms.checkpoints().best.step
    assert best == 12, "it is learning"
    job = {"workdir": str(ms.workdir)}
    worse, back = elsewhere(
        job | {"call": {"num_rounds": 3, "learnrate": 0.2, "keep": 1, **call}},
        job | {"call": {"learnrate": 0.01, **call}, "restore": "best"},
    )
    assert worse["record"]["best"] == best
    assert [step for step, *_ in worse["record"]["checkpoints"]] == [best, 30]
    expected = facts(straight, *rounds(straight, 6, 6, 6), last=6)
    compare(back["run"], expected["run"])


# ---- What has changed in between is said ----


@pytest.fixture
def trained(newmodel, verse):
    """A model of some verse."""
    ms = newmodel(verse[:400])
    ms.trainmodel(batchsize=LANES, train_len=2, **QUIET)
    return ms


def test_another_text_of_the_same_characters_is_noticed(trained, newmodel, verse):
    """All that would show it is a loss that jumps."""
    other = newmodel(verse[:400][::-1])
    assert other.chars == trained.chars
    shutil.rmtree(trained.workdir / "data")
    shutil.copytree(other.workdir / "data", trained.workdir / "data")
    with pytest.warns(UserWarning, match="another text") as caught:
        ModelState.load(trained.workdir)
    assert caught[0].filename == __file__, "the warning points at the call"


def test_a_text_of_other_characters_is_not_trained_on(trained, newmodel, verse):
    """Each of its ids means something else; generating needs no text."""
    other = newmodel(verse.upper())
    shutil.rmtree(trained.workdir / "data")
    shutil.copytree(other.workdir / "data", trained.workdir / "data")
    with pytest.warns(UserWarning, match="generate and score, but not train"):
        ms = ModelState.load(trained.workdir)
    assert len(ms.generatestring(5).text) == 5
    with pytest.raises(WorkdirError, match="text"):
        ms.trainmodel(**QUIET)


def test_a_text_that_was_changed_in_place_is_noticed(trained):
    """As long as before, but not what was written: ids that mean nothing, in the worst case."""
    [path] = (trained.workdir / "data").glob("*.bin")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(UserWarning, match="the encoded text has changed"):
        ms = ModelState.load(trained.workdir)
    with pytest.raises(WorkdirError, match="text"):
        ms.trainmodel(**QUIET)


@pytest.mark.parametrize("how", ["longer", "rewritten"])
def test_a_source_that_has_changed_is_noticed(tmp_path, verse, how):
    """Training goes on with the text as it was; who has edited it expects otherwise."""
    path = tmp_path / "book.txt"
    path.write_text(verse, encoding="utf-8")
    ms, straight = (
        ModelState.initfromsrcfile(path, tmp_path / name, state_size=5, rng=1, report="silent")
        for name in ("work", "straight")
    )
    rounds(ms, 2)
    before = path.stat().st_mtime_ns
    path.write_text(verse * 2 if how == "longer" else verse[::-1], encoding="utf-8")
    os.utime(path, ns=(before + 10**9, before + 10**9))
    with pytest.warns(UserWarning, match=r"book\.txt.*changed") as caught:
        again = ModelState.load(ms.workdir)
    assert caught[0].filename == __file__, "the warning points at the call"
    found = facts(again, *rounds(again, 2))
    compare(found["run"], facts(straight, *rounds(straight, 2, 2), last=2)["run"])


def test_a_source_that_is_gone_or_has_moved_is_nothing_to_say(tmp_path, verse, monkeypatch):
    """The working directory holds the text itself."""
    monkeypatch.chdir(tmp_path)
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "book.txt").write_text(folder + verse, encoding="utf-8")
    monkeypatch.chdir(tmp_path / "here")
    ms = ModelState.initfromsrcfile("book.txt", "work", state_size=5, report="silent")
    monkeypatch.chdir(tmp_path / "there")
    ModelState.load(ms.workdir)
    (tmp_path / "here" / "book.txt").unlink()
    ModelState.load(ms.workdir)


@pytest.mark.parametrize("library", ["rngru", "python", "numpy", "numba", "pytensor"])
def test_another_version_is_noticed(trained, library):
    """The bits that follow may be others, and the reason is not to be found in them."""
    saved = trained.checkpoints()[-1]
    arrays, meta = checkpoint.load(saved)
    here = meta["versions"]
    other = meta | {"versions": here | {library: "0.0.7"}}
    checkpoint.save(trained.workdir / "checkpoints", saved.step, arrays, other)
    with pytest.warns(UserWarning, match=f"{library} 0.0.7 .here {here[library]}") as caught:
        again = ModelState.load(trained.workdir)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the call"
    again.newcheckpoint()
    ModelState.load(trained.workdir)  # computed here from now on


def test_another_backend_is_noticed(trained):
    """The same to five digits, not to the last bit: a run compared with itself would differ."""
    with pytest.warns(UserWarning, match="backend cpu .here scan") as caught:
        again = ModelState.load(trained.workdir, backend="scan")
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the call"
    again.newcheckpoint()
    assert ModelState.load(trained.workdir).backend == "scan"


@pytest.mark.skipif("jax" not in INSTALLED, reason="JAX is an extra")
def test_a_run_moves_to_another_backend_and_back(newmodel, verse):
    """A checkpoint is not of a backend: trained on one, gone on with on another, read on the first."""
    straight, moved = (newmodel(verse, state_size=5, seq_len=LENGTH, learnrate=0.002) for _ in "12")
    losses = rounds(straight, 4, 4, 4)
    found = rounds(moved, 4)
    for name in ("jax", "cpu"):
        with pytest.warns(UserWarning, match="Saved with backend"):
            moved = ModelState.load(moved.workdir, backend=name)
        found += rounds(moved, 4)
    for one, other in zip(found, losses, strict=True):
        np.testing.assert_allclose(one.losses, other.losses, rtol=1e-5)
    for name, array in straight.parameters().items():
        np.testing.assert_allclose(moved.parameters()[name], array, atol=1e-4, err_msg=name)
    assert str(moved.generatestring(40, rng=1)) == str(straight.generatestring(40, rng=1))


def test_a_processor_that_rounds_otherwise_is_told_of(newmodel, verse, monkeypatch):
    """A run that moved to an older machine was thought to be the same to the bit."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=1, report="silent")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ModelState.load(ms.workdir)
    own = target.TARGET
    monkeypatch.setattr(target, "TARGET", dataclasses.replace(own, fused=not own.fused))
    told = f"multiply-adds {own.rounding} .here {target.TARGET.rounding}"
    with pytest.warns(UserWarning, match=told):
        ms = ModelState.load(ms.workdir)
    ms.trainmodel(train_len=1, report="silent")
    with warnings.catch_warnings():  # from here on it is this processor's run
        warnings.simplefilter("error")
        ModelState.load(ms.workdir)


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(work(json.loads(line))) + "\n")
        sys.stdout.flush()
