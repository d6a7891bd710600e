"""What training promises the person who calls ``trainmodel``.

The references are computed from outside: what a lane reads is cut from the text by hand, states and
losses come from ``trackneurons``, which reads one text from its beginning, a character at a time.
A learning rate of 0 keeps the parameters, so that what was computed batches ago can be computed
again.
"""

import itertools
import json
import math
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytensor
import pytest

from rngru import ModelState, checkpoint, state, training
from rngru.errors import InputError, MissingExtra, NumericsError, RngruError
from rngru.training import plateau

QUIET = {"print_every": 0, "report": "silent"}


def saved(ms):
    """Everything in the newest checkpoint: parameters, what the optimizer remembers, the state."""
    return checkpoint.load(ms.checkpoints()[-1])[0]


def same(first, second):
    """Whether two checkpoints hold the same bits under the same names."""
    bits = [{name: array.tobytes() for name, array in each.items()} for each in (first, second)]
    return bits[0] == bits[1]


def circle(text, start, count):
    """``count`` characters of an endless text, from ``start``."""
    return "".join(text[(start + i) % len(text)] for i in range(count))


def surprises(ms, text):
    """Nats of each character of ``text`` but the first, predicted from all those before it."""
    _, outputs = ms.trackneurons(text, temp=1.0, ret_output=True)
    following = ms.chars.encode(text)[1:].astype(int)
    return -np.log(outputs[np.arange(len(following)), following])


# ---- Where training goes on ----


@pytest.mark.parametrize("batches", [1, 9, 25, 60])
def test_a_lane_carries_the_state_of_all_text_before(newmodel, verse, batches):
    """A state dropped at a chunk, rolled to another lane, or cleared where the text wraps."""
    ms = newmodel(verse, trainfrac=0.9, seq_len=30, learnrate=0)
    train = verse[: int(len(verse) * 0.9)]
    ms.trainmodel(batchsize=3, train_len=batches, **QUIET)
    state = saved(ms)["state"]
    for lane in range(3):
        read = circle(train, lane * len(train) // 3, batches * 30)
        expected = ms.trackneurons(read)[:, :, -1]
        np.testing.assert_allclose(state[:, lane], expected, atol=2e-6)
    assert ms.position == 3 * 30 * batches
    assert ms.epoch == ms.position // len(train)


def test_the_state_is_carried_while_the_model_learns(newmodel, verse):
    """The loss of a batch is that of a model that remembers, not of one that starts afresh."""
    one, other = newmodel(verse, rng=3), newmodel(verse, rng=3)
    kept = one.trainmodel(3, batchsize=2, train_len=2, **QUIET)
    lost = [other.trainmodel(1, batchsize=2, train_len=2, clear_state=True, **QUIET) for _ in "123"]
    assert kept.losses[:2].tolist() == lost[0].losses.tolist()
    assert kept.losses[2] != lost[1].losses[0]


@pytest.mark.parametrize("backend", ["cpu", "scan"])
def test_parts_of_an_epoch_add_up_to_the_bit(newmodel, verse, backend):
    """Twice three batches are six batches; so are five, a new object from the disk, and one."""
    depth = 1 if backend == "scan" else 2  # it compiles for each of them
    whole, halves, reloaded = (newmodel(verse, backend=backend, layers=depth) for _ in "123")
    straight = whole.trainmodel(1, batchsize=3, train_len=6, **QUIET)
    parts = [halves.trainmodel(1, batchsize=3, train_len=3, **QUIET) for _ in range(2)]
    assert straight.losses.tolist() == [*parts[0].losses, *parts[1].losses]
    assert same(saved(whole), saved(halves))
    reloaded.trainmodel(1, batchsize=3, train_len=5, **QUIET)
    reloaded = ModelState.load(reloaded.workdir)
    last = reloaded.trainmodel(1, batchsize=3, train_len=1, **QUIET)
    assert last.losses[0] == straight.losses[-1]
    assert same(saved(whole), saved(reloaded))


def test_an_epoch_is_the_text_once(newmodel, verse):
    """``train_len=0``: as many batches as cover the text, none missing, none twice."""
    ms = newmodel(verse, seq_len=20)
    history = ms.trainmodel(2, batchsize=4, **QUIET)
    characters = int(len(verse) * 0.9)
    assert history.losses.size == 2 * math.ceil(characters / 80)
    assert ms.epoch == 2


def test_the_same_rng_gives_the_same_run(newmodel, verse, capsys):
    """Also with samples in between, which draw from the same generator."""
    runs = []
    for rng in (7, 7, np.random.default_rng(7), 8):
        ms = newmodel(verse, rng=rng)
        capsys.readouterr()
        history = ms.trainmodel(2, batchsize=3, train_len=4, print_every=2, report="plain")
        shown = capsys.readouterr().out
        runs.append(
            (history.losses.tolist(), shown, str(ms.generatestring(50, rng=ms.rng)), saved(ms))
        )
    for run in runs[1:3]:
        assert run[:3] == runs[0][:3]
        assert same(run[3], runs[0][3])
    assert runs[3][2] != runs[0][2]
    assert not same(runs[3][3], runs[0][3])


def test_a_run_has_the_same_bits_wherever_its_arrays_lie(newmodel, verse):
    """Code that takes another path when two arrays are neighbours in memory rounds differently."""
    runs = []
    for _ in range(12):
        ms = newmodel(verse, learnrate=0.01)
        ms.trainmodel(batchsize=3, train_len=6, **QUIET)
        runs.append(saved(ms))
    assert all(same(run, runs[0]) for run in runs)


def test_learning_without_a_seed_differs_each_time(newmodel, verse):
    """A seed that someone fixed makes ten runs one run."""
    models = [newmodel(verse, rng=None) for _ in range(2)]
    assert not same(saved(models[0]), saved(models[1]))


# ---- What a call is asked for ----


def test_clear_state_forgets(newmodel, verse):
    """With it, the state after a batch is that of the batch alone."""
    ms = newmodel(verse, learnrate=0)
    ms.trainmodel(batchsize=1, train_len=5, **QUIET)
    ms.trainmodel(batchsize=1, train_len=2, clear_state=True, **QUIET)
    expected = ms.trackneurons(verse[100:140])[:, :, -1]
    np.testing.assert_allclose(saved(ms)["state"][:, 0], expected, atol=2e-6)


def test_another_batchsize_keeps_the_place_and_says_that_the_state_is_fresh(
    newmodel, verse, capsys
):
    """A state of other lanes, reused in silence, belongs to other text."""
    ms = newmodel(verse, learnrate=0)
    train = verse[: int(len(verse) * 0.9)]
    ms.trainmodel(batchsize=4, train_len=3, **QUIET)
    assert ms.position == 240
    capsys.readouterr()
    ms.trainmodel(batchsize=2, train_len=1, print_every=0, report="plain")
    said = capsys.readouterr().out
    assert "batchsize" in said
    assert "hidden state starts empty" in said
    assert ms.position == 240 + 2 * 20
    state = saved(ms)["state"]
    for lane in range(2):
        read = circle(train, lane * len(train) // 2 + 240 // 2, 20)
        np.testing.assert_allclose(state[:, lane], ms.trackneurons(read)[:, :, -1], atol=2e-6)
    ms.trainmodel(batchsize=2, train_len=1, print_every=0, report="plain")
    assert "fresh" not in capsys.readouterr().out


def test_a_text_shorter_than_a_batch_is_trained_on_and_said(newmodel, capsys):
    """The system of 2016 divided by zero here."""
    ms = newmodel("It was a dark and stormy night;\n", trainfrac=0.7, seq_len=50)
    capsys.readouterr()
    history = ms.trainmodel(2, batchsize=8, report="plain")
    said = capsys.readouterr().out
    assert "22 characters of training text" in said
    assert "several times" in said
    assert np.isfinite(history.losses).all()
    assert np.isfinite(history.validloss).all()


def test_the_shortest_text_trains(newmodel):
    """Two characters to train on and one to validate on are enough."""
    ms = newmodel("abc")
    assert np.isfinite(ms.trainmodel(batchsize=2, train_len=2, **QUIET).losses).all()


def test_a_cosine_needs_an_end(newmodel, verse):
    """Over no end it would stay at its beginning, a hundredth of the rate, for ever."""
    ms = newmodel(verse, schedule="cosine")
    with pytest.raises(InputError, match="max_seconds=inf.*needs an end"):
        ms.trainmodel(max_seconds=math.inf, **QUIET)


def test_max_seconds_ends_whatever_the_rounds(newmodel, verse):
    """Neither does one round end it early, where none is asked for, nor do a million keep it up."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=1, **QUIET)  # compiles
    for rounds in (None, 1_000_000):
        began = time.monotonic()
        history = ms.trainmodel(rounds, train_len=3, max_seconds=0.4, **QUIET)
        assert 0.4 <= time.monotonic() - began < 2
        assert history.reason == "time"
        assert len(history) > 2
    began = time.monotonic()
    history = ms.trainmodel(train_len=1_000_000, max_seconds=0.2, **QUIET)
    assert time.monotonic() - began < 1.5
    assert len(history) == 1
    assert np.isfinite(history.validloss).all(), "a round that the clock ended is validated, too"


def test_learnrate_of_a_call_stays(newmodel, verse):
    """A rate that is silently the old one again on the next call."""
    ms = newmodel(verse)
    assert ms.trainmodel(train_len=1, learnrate=0.25, **QUIET)[0].learnrate == 0.25
    assert ms.hyper.learnrate == 0.25
    assert ModelState.load(ms.workdir).hyper.learnrate == 0.25


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_rounds": 0},
        {"num_rounds": 1.5},
        {"batchsize": 0},
        {"batchsize": "16"},
        {"train_len": -1},
        {"valid_len": -1},
        {"print_every": -1},
        {"max_seconds": 0},
        {"max_seconds": math.nan},
        {"learnrate": -1},
        {"learnrate": "fast"},
        {"report": "loud"},
    ],
    ids=str,
)
def test_sizes_that_make_no_sense_are_refused_by_name(newmodel, verse, wrong):
    """And the model is as it was, so the corrected call goes on."""
    ms = newmodel(verse)
    before = ms.hyper
    [name] = wrong
    with pytest.raises(InputError, match=name):
        ms.trainmodel(**({"print_every": 0, "report": "silent"} | wrong))
    assert ms.position == 0
    assert ms.hyper == before


# ---- Validation ----


def test_validation_reads_the_validation_text(newmodel, verse):
    """All of it with ``valid_len=0``; otherwise so many batches' worth from its beginning."""
    ms = newmodel(verse, trainfrac=0.8)
    split = int(len(verse) * 0.8)
    nats = {}
    for valid_len in (0, 2):
        [event] = ms.trainmodel(batchsize=4, train_len=3, valid_len=valid_len, **QUIET)
        nats[valid_len] = event.validloss
        counted = len(verse) - split if valid_len == 0 else valid_len * 4 * 20
        read = verse[split - 500 : split + counted]
        expected = surprises(ms, read)[-counted:].mean()
        assert event.validloss == pytest.approx(expected, abs=1e-5)
        assert event.bits == pytest.approx(event.validloss / math.log(2))
    assert nats[0] != nats[2]


def test_without_a_validation_text_the_next_section_is_validated(newmodel, verse):
    """With ``trainfrac=1.0``: the characters after those read, with the state of those read."""
    ms = newmodel(verse, trainfrac=1.0, learnrate=0)
    [event] = ms.trainmodel(batchsize=1, train_len=5, valid_len=3, **QUIET)
    expected = surprises(ms, verse[: 8 * 20 + 1])[5 * 20 :].mean()
    assert event.validloss == pytest.approx(expected, abs=1e-5)


def test_the_next_section_is_validated_before_it_is_trained_on(newmodel, verse):
    """A loss on text just trained on flatters: it must be that of the batch that comes next."""
    ms = newmodel(verse, trainfrac=1.0, learnrate=0.01)
    history = ms.trainmodel(8, batchsize=3, train_len=1, valid_len=1, **QUIET)
    np.testing.assert_allclose(history.validloss[:-1], history.losses[1:], rtol=1e-5)


# ---- Learning ----


def test_a_tiny_model_learns_a_kilobyte_by_heart(newmodel, verse):
    """A gradient, update or stream that is subtly wrong never gets this far."""
    text = verse[:1024]
    ms = newmodel(
        text, trainfrac=1.0, state_size=32, layers=1, seq_len=64, regcost=0, learnrate=0.02
    )
    ms.trainmodel(batchsize=8, train_len=600, valid_len=1, **QUIET)
    ms.trainmodel(batchsize=8, train_len=200, valid_len=1, learnrate=0.004, **QUIET)
    assert ms.evaluate(text).nats < 0.1
    assert str(ms.generatestring(60, temp=0, seed=text[:40])) == text[40:100]


def test_a_rate_far_too_high_stops_with_the_last_checkpoint_intact(newmodel, verse):
    """What is no longer a number must not be saved over what was."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=2, **QUIET)
    good = saved(ms)
    with pytest.raises(NumericsError, match="learnrate"):
        ms.trainmodel(train_len=20, learnrate=1e30, **QUIET)
    assert all(np.isfinite(array).all() for array in ms.parameters().values())
    ms.restore()
    assert same(saved(ms), good)
    assert np.isfinite(ms.trainmodel(train_len=2, **QUIET).losses).all()


# ---- Ctrl-C ----


def interrupt(seconds):
    """Press Ctrl-C after so many seconds."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_stops_training_and_it_goes_on_exactly(newmodel, verse):
    """A batch torn apart, or one counted and not taken, shows in the bits later on."""
    ms, straight = newmodel(verse), newmodel(verse)
    ms.trainmodel(train_len=1, batchsize=2, **QUIET)
    handler = signal.getsignal(signal.SIGINT)
    timer = interrupt(0.25)
    history = ms.trainmodel(train_len=100_000, batchsize=2, **QUIET)
    timer.join()
    assert history.interrupted
    assert "interrupted" in repr(history)
    assert signal.getsignal(signal.SIGINT) is handler
    assert ms.position == 40 * (1 + history.losses.size)
    assert ModelState.load(ms.workdir).position == ms.position, "it is saved"
    ms.trainmodel(train_len=3, batchsize=2, **QUIET)
    straight.trainmodel(train_len=1 + history.losses.size + 3, batchsize=2, **QUIET)
    assert same(saved(ms), saved(straight))


def test_ctrl_c_while_a_sample_is_drawn_stops_training(newmodel, verse):
    """Most of the time of this run goes into samples, so an interrupt lost there is seen."""
    ms = newmodel(verse, seq_len=1, state_size=32)
    ms.trainmodel(batchsize=1, train_len=1, print_every=1, report="silent")
    for _ in range(5):
        timer = interrupt(0.1)
        history = ms.trainmodel(
            batchsize=1, train_len=10**6, print_every=1, max_seconds=1, report="silent"
        )
        timer.join()
        assert history.reason == "interrupted"


def test_training_works_outside_the_main_thread(newmodel, verse):
    """Only the main thread may set a signal handler; elsewhere that raises ValueError."""
    ms, results = newmodel(verse), []
    thread = threading.Thread(target=lambda: results.append(ms.trainmodel(train_len=2, **QUIET)))
    thread.start()
    thread.join()
    assert results[0].losses.size == 2


# ---- What is left of a run ----


def test_every_round_leaves_a_checkpoint_and_a_line(newmodel, verse):
    """A round that is in one of the three records and not in the others."""
    ms = newmodel(verse)
    history = ms.trainmodel(3, batchsize=2, train_len=4, **QUIET)
    table = ms.checkpoints()
    assert [each.step for each in table] == [0, 4, 8, 12]
    lines = (ms.workdir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [each["position"] for each in rounds] == history.position.tolist() == [160, 320, 480]
    assert [each["trainloss"] for each in rounds] == history.trainloss.tolist()
    assert [each["validloss"] for each in rounds] == history.validloss.tolist()
    np.testing.assert_allclose(history.trainloss, history.losses.reshape(3, 4).mean(1))
    for each, event in zip(table[1:], history, strict=True):
        assert each.validloss == pytest.approx(event.validloss)
        assert event.checkpoint == str(each.step)


def test_a_history_reads_as_a_small_table(newmodel, verse):
    """What is returned is what the prompt shows."""
    shown = repr(newmodel(verse).trainmodel(2, batchsize=2, train_len=4, **QUIET)).splitlines()
    assert shown[0].split() == [
        "round",
        "epoch",
        "train",
        "valid",
        "bits/char",
        "rate",
        "gradnorm",
        "char/s",
        "seconds",
    ]
    assert [line.split()[0] for line in shown[1:3]] == ["1", "2"]
    assert shown[3] == "2 rounds, 8 batches: all done."
    assert max(map(len, shown)) < 80


def test_lines_say_how_it_goes(newmodel, verse, capsys):
    """Where there is no terminal: a line for each round, and samples as often as asked for."""
    ms = newmodel(verse)
    capsys.readouterr()
    ms.trainmodel(2, batchsize=2, train_len=4, print_every=2, report="plain")
    said = capsys.readouterr().out
    assert said.count("--- epoch") == 4
    assert said.count("nats/char") == 2
    ms.trainmodel(1, batchsize=2, train_len=4, print_every=0)
    assert "---" not in capsys.readouterr().out


def test_a_sample_on_the_way_comes_from_the_current_state(newmodel, capsys):
    """All lines begin alike, so only the state can know which half of the text is being read."""
    ms = newmodel("x111\n" * 60 + "x222\n" * 60, trainfrac=1.0, layers=1, learnrate=0.01)
    ms.trainmodel(batchsize=1, train_len=20 * 30, **QUIET)
    capsys.readouterr()
    for batches, here, there in (5, "1", "2"), (15, "2", "1"):
        ms.trainmodel(batchsize=1, train_len=batches, print_every=batches, report="plain")
        sample = capsys.readouterr().out.split("round 1")[0]
        assert sample.count(here) > 10 * sample.count(there), sample


def test_the_loss_is_drawn(newmodel, verse):
    """A PNG in the working directory, or where one says."""
    pytest.importorskip("matplotlib")
    ms = newmodel(verse)
    with pytest.raises(InputError, match="[Tt]rain"):
        ms.plotloss()
    ms.trainmodel(2, batchsize=2, train_len=4, **QUIET)
    path = ms.plotloss()
    assert path.parent == ms.workdir
    assert path.read_bytes().startswith(b"\x89PNG")
    other = ModelState.load(ms.workdir).plotloss(ms.workdir / "again.svg")
    assert "<svg" in other.read_text(encoding="utf-8")


def test_without_matplotlib_it_says_what_to_install(newmodel, verse, monkeypatch):
    """A missing package is the user's to install, not to guess from a traceback."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=1, **QUIET)
    for name in ("matplotlib", "matplotlib.figure", "plotille"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[plot\]'"):
        ms.plotloss()


def test_history_survives_a_line_cut_short(newmodel, verse):
    """A crash while the line was written must not make the rest unreadable."""
    pytest.importorskip("matplotlib")
    ms = newmodel(verse)
    ms.trainmodel(2, train_len=1, **QUIET)
    with (ms.workdir / "history.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"round": 3, "posi')
    ms = ModelState.load(ms.workdir)
    ms.trainmodel(1, train_len=1, **QUIET)
    assert ms.plotloss().exists()


def test_training_without_its_text_says_what_is_missing(newmodel, verse):
    """The text is a memory-mapped file in the working directory; a person may have removed it."""
    ms = newmodel(verse)
    for path in (ms.workdir / "data").iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match="data"):
        ms = ModelState.load(ms.workdir)
    assert len(ms.generatestring(10).text) == 10
    with pytest.raises(RngruError, match="text"):
        ms.trainmodel(**QUIET)


def test_what_a_batch_costs(newmodel, verse):
    """Measuring must not train."""
    ms = newmodel(verse)
    before = ms.parameters()
    timing = ms.traintime(batchsize=3, batches=2)
    assert 0 < timing.seconds < 1
    assert timing.rate == pytest.approx(3 * 20 / timing.seconds)
    assert "3 x 20" in repr(timing)
    assert ms.position == 0
    assert same(before, ms.parameters())


# ---- Numbers that go wrong ----

RATE = 0.02


class Watched:
    """The training step of a model: what it is given, and wrong results at some of its calls.

    ``wrong(call, rate)`` gives what to change in the result, or None. What is wrong is spoilt
    throughout, as if no backend had looked at it.
    """

    def __init__(self, ms, monkeypatch, wrong=lambda call, rate: None):
        self.step, self.wrong = ms._computes.step, wrong
        self.rates, self.norms, self.masks = [], [], []
        monkeypatch.setattr(ms._computes, "step", self)

    def __call__(self, arrays, caches, x, y, state, rate, *, noise, **more):
        step = self.step(arrays, caches, x, y, state, rate, noise=noise, **more)
        self.rates.append(rate)
        self.masks.append(noise.get("outputs"))
        changes = self.wrong(len(self.rates), rate)
        if changes is None:
            self.norms.append(step.gradnorm)
            return step
        arrays, *caches = ({name: array * np.nan for name, array in each.items()}
                           for each in (step.arrays, *step.caches.values()))  # fmt: skip
        caches = dict(zip(step.caches, caches, strict=True))
        return replace(
            step, **{"arrays": arrays, "caches": caches, "state": step.state * np.nan} | changes
        )


def assertsound(ms):
    """No checkpoint holds a number that is none, or is far from where it began."""
    for each in ms.checkpoints():
        arrays, _ = checkpoint.load(each)
        assert all(np.abs(array).max(initial=0) < 100 for array in arrays.values()), each


WRONG = [(name, value) for name in ("loss", "gradnorm") for value in (math.nan, math.inf)]


@pytest.mark.parametrize(
    ("backend", "bad", "name", "value"),
    [*(("cpu", bad, *WRONG[(bad - 1) % 4]) for bad in range(1, 7)), ("scan", 5, *WRONG[0])],
)
def test_a_batch_that_goes_wrong_is_as_if_it_had_not_been(
    newmodel, verse, monkeypatch, capsys, backend, bad, name, value
):
    """Whatever batch it is: the rest is trained from the last checkpoint, with half the rate, to
    the bits of a run in which the rate was halved there by hand.
    """
    options = {"learnrate": RATE, "backend": backend, "optimizer": "adam", "layers": 1}
    ms, straight = (newmodel(verse, **options) for _ in range(2))
    step = Watched(ms, monkeypatch, lambda call, rate: {name: value} if call == bad else None)
    capsys.readouterr()
    history = ms.trainmodel(2, batchsize=2, train_len=3, print_every=0, report="plain")
    before = (bad - 1) // 3
    told = f"Back to batch {3 * before}, with learnrate {RATE / 2:g} instead of {RATE:g}."
    assert capsys.readouterr().out.count(told) == 1
    assert step.rates == [RATE] * bad + [RATE / 2] * (6 - 3 * before), "in the batch, not after it"
    if before:
        straight.trainmodel(1, batchsize=2, train_len=3, **QUIET)
    straight.trainmodel(2 - before, batchsize=2, train_len=3, learnrate=RATE / 2, **QUIET)
    assert same(saved(ms), saved(straight))
    assert [each.step for each in ms.checkpoints()] == [0, 3, 6]
    assert ModelState.load(ms.workdir).hyper.learnrate == RATE / 2
    assertsound(ms)
    # What was taken back is no part of the record.
    assert history.positions.tolist() == list(range(40, 241, 40))
    lines = (ms.workdir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    points = [point for line in lines for point in json.loads(line)["curve"]]
    assert [position for position, _ in points] == history.positions.tolist()
    np.testing.assert_allclose([loss for _, loss in points], history.losses)


def test_the_fourth_time_it_gives_up(newmodel, verse, monkeypatch, capsys):
    """With the model as it was saved, a word on what to try, and a run that can go on."""
    ms = newmodel(verse, learnrate=RATE)
    ms.trainmodel(batchsize=2, train_len=3, **QUIET)
    good = saved(ms)
    with monkeypatch.context() as patch:
        step = Watched(
            ms, patch, lambda call, _: {"loss": math.nan} if call in (2, 4, 7, 9) else None
        )
        with pytest.raises(NumericsError, match="halved three times") as caught:
            ms.trainmodel(5, batchsize=2, train_len=3, print_every=0, report="plain")
    halves = [1, 1, 2, 2, 4, 4, 4, 8, 8]
    assert step.rates == [RATE / half for half in halves]
    said = capsys.readouterr().out
    assert all(said.count(f"learnrate {RATE / half:g} instead") == 1 for half in (2, 4, 8))
    for word in ("batch 3", f"learnrate below {RATE / 8:g}", "clip", "clipnorm=1"):
        assert word in str(caught.value)
    assert same(saved(ms), good)
    assert all((good[name] == array).all() for name, array in ms.parameters().items())
    assert ms.position == 120
    assert ms.hyper == ModelState.load(ms.workdir).hyper
    assert np.isfinite(ms.trainmodel(batchsize=2, train_len=3, **QUIET).losses).all()


def test_a_loss_far_above_its_start_is_taken_back_too(newmodel, verse, monkeypatch, capsys):
    """Every number in it is one, and the model is lost all the same."""
    ms, straight = (newmodel(verse, learnrate=RATE) for _ in range(2))
    Watched(
        ms,
        monkeypatch,
        lambda call, rate: {"loss": 40 * 250} if call > 4 and rate > RATE / 3 else None,
    )
    capsys.readouterr()
    ms.trainmodel(2, batchsize=2, train_len=3, print_every=0, report="plain")
    said = capsys.readouterr().out
    assert said.count("climbs far above its start, to 250 nats per character") == 2
    assert said.count("Back to batch 3") == 2
    straight.trainmodel(batchsize=2, train_len=3, **QUIET)
    straight.trainmodel(batchsize=2, train_len=3, learnrate=RATE / 4, **QUIET)
    assert same(saved(ms), saved(straight))


SPOILT = {
    "a round": {"train_len": 1},
    "a timed checkpoint": {"train_len": 9, "save_every": 1e-9},
    "the end of the time": {"train_len": 9, "max_seconds": 1e-9},
}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("optimizer", ["rmsprop", "sgd"])
def test_what_an_update_did_is_seen_before_it_is_saved(newmodel, verse, optimizer, how):
    """The loss of a batch is that before its update: a model that the last one has thrown far away,
    or to infinity, looks well until somebody reads with it.
    """
    more = {"clip": None, "regcost": 1e12} if optimizer == "sgd" else {}
    ms = newmodel(verse, optimizer=optimizer, **more)
    good, call = saved(ms), {"batchsize": 2, "learnrate": 1e30} | SPOILT[how] | QUIET
    if "max_seconds" in call:
        history = ms.trainmodel(**call)
        assert len(history) == history.losses.size == 0
        assert ms.hyper.learnrate == 5e29
    else:
        with pytest.raises(NumericsError):
            ms.trainmodel(**call)
    assert [each.step for each in ms.checkpoints()] == [0]
    assert same(saved(ms), good)
    assert all((good[name] == array).all() for name, array in ms.parameters().items())


def test_ctrl_c_saves_nothing_spoilt(newmodel, verse, monkeypatch):
    """Whoever sees the loss explode presses Ctrl-C; that must not make it the newest checkpoint."""
    ms = newmodel(verse)
    good = saved(ms)
    Watched(ms, monkeypatch, lambda call, rate: os.kill(os.getpid(), signal.SIGINT))
    history = ms.trainmodel(batchsize=2, train_len=9, learnrate=1e30, **QUIET)
    assert history.interrupted
    assert same(saved(ms), good)
    assert ms.position == history.losses.size == 0


def test_the_length_of_the_gradient_is_kept(newmodel, verse, monkeypatch):
    """In the record, in the file and in the table; it is what shows first that a rate is too high."""
    ms = newmodel(verse)
    step = Watched(ms, monkeypatch)
    history = ms.trainmodel(2, batchsize=2, train_len=3, **QUIET)
    norms = np.array(step.norms).reshape(2, 3).mean(1)
    np.testing.assert_allclose([each.gradnorm for each in history], norms)
    lines = (ms.workdir / "history.jsonl").read_text(encoding="utf-8").splitlines()
    np.testing.assert_allclose([json.loads(line)["gradnorm"] for line in lines], norms)
    head, *rows, _ = history.table()._repr_html_().split("</tr>")
    place = head.split("<th>").index("gradnorm</th>")
    cells = [row.split("<td>")[place] for row in rows]
    assert cells == [f"{norm:.3g}</td>" for norm in norms]


# ---- Rates and masks ----


def test_the_rate_follows_a_cosine_over_the_length_of_the_call(newmodel, verse, monkeypatch):
    """Up during the warm-up, then half a wave down to a tenth."""
    ms = newmodel(verse, schedule="cosine", warmup=0.25, learnrate=RATE)
    step = Watched(ms, monkeypatch)
    ms.trainmodel(2, batchsize=2, train_len=4, **QUIET)
    up = [0.01, 0.5]
    down = [0.1 + 0.9 * (1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    np.testing.assert_allclose(step.rates, RATE * np.array(up + down))
    counted = itertools.count(0, 0.01).__next__
    # The model gives the session a clock of its own, so a partial's would not be used.
    monkeypatch.setattr(
        state,
        "Session",
        lambda *given, **more: training.Session(*given, **more | {"clock": counted}),
    )
    ms.trainmodel(max_seconds=4, batchsize=2, **QUIET)
    timed = np.array(step.rates[8:]) / RATE
    assert timed[0] < 0.1 and timed[-1] < 0.15 and timed.max() > 0.99
    assert (np.diff(timed) > 0).mean() == pytest.approx(0.25, abs=0.05)


def test_the_rate_falls_after_the_tenth_epoch(newmodel, verse, monkeypatch):
    """By char-rnn's 3 % for each: a batch of this text is an epoch."""
    ms = newmodel(verse[:50], trainfrac=0.8, schedule="exponential", learnrate=RATE)
    step = Watched(ms, monkeypatch)
    ms.trainmodel(batchsize=2, train_len=13, **QUIET)
    np.testing.assert_allclose(step.rates, [RATE] * 10 + [RATE * 0.97**i for i in (1, 2, 3)])


def test_the_rate_falls_where_validation_no_longer_does(newmodel, verse):
    """It compares losses: their logarithms, as in 2016, turn the rule round below 1 nat."""
    history = newmodel(verse, schedule="plateau", learnrate=1e-9).trainmodel(
        3, batchsize=2, train_len=2, **QUIET
    )
    np.testing.assert_allclose([each.learnrate for each in history], [1e-9, 8e-10, 6.4e-10])
    assert [plateau(1.0, loss, 0.95) for loss in (0.90, 0.94, 0.97, 1.0)] == [1, 0.8, 0.8, 0.5]


def test_another_rate_compiles_nothing(newmodel, verse, monkeypatch):
    """A graph with the rate in it is compiled anew in every round of a schedule."""
    graphs, function = [], pytensor.function
    monkeypatch.setattr(pytensor, "function", lambda *a, **k: graphs.append(a) or function(*a, **k))
    ms = newmodel(verse, schedule="cosine")
    ms.trainmodel(2, train_len=2, **QUIET)
    assert len(graphs) == 1
    for rate in (0.1, 1e-5):
        ms.trainmodel(train_len=2, learnrate=rate, **QUIET)
    assert len(graphs) == 1


def test_dropout_is_for_training_alone(newmodel, verse):
    """A model that forgets nine of ten neurons while it writes writes nonsense."""
    plain, forgetful = newmodel(verse), newmodel(verse, dropout=0.9)
    assert forgetful.evaluate().nats == plain.evaluate().nats
    written = [ms.generatestring(30, temp=0, seed="The ").text for ms in (plain, forgetful)]
    assert written[0] == written[1]
    losses = [ms.trainmodel(batchsize=2, train_len=2, **QUIET).losses for ms in (plain, forgetful)]
    assert losses[0][0] != losses[1][0]


def test_masks_are_the_same_on_every_backend(newmodel, verse, monkeypatch):
    """Drawn from the model's own chance, fresh for each batch and step, or one for a sequence."""
    runs = []
    for backend, locked in (("cpu", False), ("scan", False), ("cpu", True)):
        ms = newmodel(verse, backend=backend, dropout=0.4, locked=locked, learnrate=0.01, layers=1)
        step = Watched(ms, monkeypatch)
        history = ms.trainmodel(batchsize=2, train_len=3, **QUIET)
        runs.append((np.stack(step.masks), history.losses))
    (masks, losses), (others, same_losses), (locked, _) = runs
    assert masks.shape == (3, 1, 20, 2, 8)
    assert locked.shape == (3, 1, 1, 2, 8)
    assert np.array_equal(masks, others)
    np.testing.assert_allclose(losses, same_losses, rtol=1e-4)
    for drawn in (masks, locked):
        assert set(np.unique(drawn)) == {0, np.float32(1) / np.float32(0.6)}
        assert abs((drawn == 0).mean() - 0.4) < 6 * (0.24 / drawn.size) ** 0.5
        assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(masks[:, :, 0], masks[:, :, 1])
