"""Who hears the events of a run: what they are told, how they end it, and that they cannot harm it."""

import csv
import json
import logging
import math
import struct
import warnings
from dataclasses import fields

import numpy as np
import pytest

import rngru
from rngru.errors import InputError, MissingExtra, RngruWarning, WorkdirError, warn
from rngru.events import Batch, Begin, Drawn, End, Notice, Round
from rngru.report import History, Lines, Listeners, Log, TensorBoard

PLAN = {"num_rounds": 2, "batchsize": 2, "train_len": 3, "print_every": 2, "report": "silent"}
BATCH = Batch(1, 1, 3, 40, 0.1, loss=2.5, gradnorm=1.5, characters=40, seconds=0.5)
DONE = Round(1, 120, 0.3, 2.5, 2.25, 3.25, 1e-3, 1.5, 120, 2.0, "3", trained=1.5)


def numbers(path):
    """Read (tag, step, value) from a TensorBoard file: records of protocol buffers, by hand."""
    from tensorboardX.proto.event_pb2 import Event

    data, at = path.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size
        for value in event.summary.value:
            yield value.tag, event.step, value.simple_value


# ---- What they hear, and how they end a run ----


def test_they_hear_what_the_history_says(newmodel, verse):
    """One that misses batches draws another curve than the table has."""
    ms, heard, alone = newmodel(verse), [], []
    history = ms.trainmodel(**PLAN, listen=[heard.append, alone.append])
    assert heard == alone
    assert isinstance(heard[0], Begin)
    assert heard[-1] == End("done")
    losses = [event.loss for event in heard if isinstance(event, Batch)]
    assert losses == history.losses.tolist()
    assert [event for event in heard if isinstance(event, Round)] == list(history)
    assert sum(isinstance(event, Drawn) for event in heard) == 3


def test_a_single_one_needs_no_list(newmodel, verse):
    heard = []
    newmodel(verse).trainmodel(**PLAN, listen=heard.append)
    assert heard


@pytest.mark.parametrize("said", ["it is good enough.", True, np.True_])
def test_one_that_says_so_ends_the_run_after_that_batch(newmodel, verse, said):
    """The model is validated and saved, as after Ctrl-C, and goes on later."""
    ms = newmodel(verse)

    def second(event):
        return said if isinstance(event, Batch) and event.batch == 2 else None

    history = ms.trainmodel(**PLAN, listen=[second])
    assert (len(history.losses), len(history), history.reason) == (2, 1, "listener")
    assert not history.interrupted
    assert math.isfinite(history.validloss[0])
    assert ms.checkpoints()[-1].step == 2
    shown = " ".join(repr(history).split()) + " "
    assert "stopped by a listener: " in shown
    assert "it is good enough." in shown if said == "it is good enough." else "second returned True"
    assert len(ms.trainmodel(**PLAN).losses) == 6


def test_a_run_that_was_ended_goes_on_to_the_same_bits(newmodel, verse):
    """A validation in the middle of a round counts for nothing, or patience would differ later."""
    options = {"rng": 3, "schedule": "plateau"}
    whole, halves = newmodel(verse, **options), newmodel(verse, **options)
    whole.trainmodel(1, 2, 4, report="silent")
    halves.trainmodel(1, 2, 4, report="silent", listen=lambda event: isinstance(event, Batch))
    halves.trainmodel(1, 2, 3, report="silent")
    for name, array in whole.parameters().items():
        assert (array == halves.parameters()[name]).all()


def test_other_true_answers_end_nothing(newmodel, verse, tmp_path):
    """``file.write`` returns a number, and arrays are neither true nor false."""
    with open(tmp_path / "log", "w") as log:
        listen = [lambda event: log.write(f"{event}\n"), lambda event: np.ones(3), lambda event: ""]
        history = newmodel(verse).trainmodel(**PLAN, listen=listen)
    assert (len(history), history.reason) == (2, "done")


def test_one_can_end_a_run_before_its_first_batch(newmodel, verse):
    ms = newmodel(verse)
    history = ms.trainmodel(**PLAN, listen=lambda event: "not today")
    assert (len(history.losses), history.reason, ms.position) == (0, "listener", 0)
    assert repr(history) == "0 rounds: stopped by a listener: not today."


def test_one_may_use_the_model_while_it_trains(newmodel, verse):
    """A lock held over the run would make it wait for itself."""
    ms, drawn = newmodel(verse), []
    ms.trainmodel(
        **PLAN,
        listen=lambda event: isinstance(event, Round) and drawn.append(ms.generatestring(5)),
    )
    assert list(map(len, drawn)) == [5, 5]


# ---- What they cannot do ----


def test_one_that_fails_is_left_out_and_said_once(newmodel, verse):
    """A bug in a callback after a night of training must not cost the night."""
    alone, ms = newmodel(verse), newmodel(verse)
    alone.trainmodel(**PLAN)
    calls, others = [], []

    def spoilt(event):
        calls.append(event)
        raise ZeroDivisionError("by nothing")

    with pytest.warns(RngruWarning) as caught:
        history = ms.trainmodel(**PLAN, listen=[spoilt, others.append])
    (warning,) = caught
    for word in ("spoilt", "test_listeners.py, line ", "ZeroDivisionError: by nothing"):
        assert word in str(warning.message)
    assert warning.filename == __file__
    assert len(calls) == 1
    assert others[-1] == End("done")
    assert len(history) == 2
    for name, array in alone.parameters().items():
        assert (array == ms.parameters()[name]).all()


def test_one_that_cannot_be_closed_is_said(newmodel, verse):
    class Stuck:
        def __call__(self, event): ...

        def close(self):
            raise OSError("the disk is full")

    with pytest.warns(RngruWarning, match=r"Stuck failed.*OSError: the disk is full"):
        assert len(newmodel(verse).trainmodel(**PLAN, listen=Stuck())) == 2


@pytest.mark.parametrize("wrong", [5, "tensorboard", [print, 5], {"a": print}], ids=repr)
def test_what_cannot_be_called_is_refused_before_training(newmodel, verse, wrong):
    ms = newmodel(verse)
    with pytest.raises(InputError, match="listen="):
        ms.trainmodel(**PLAN, listen=wrong)
    assert ms.position == 0
    ms.trainmodel(1, 2, 1, report="silent")  # the directory is free


# ---- Those that come with rngru ----


def test_lines_of_json_hold_every_event(newmodel, verse, tmp_path):
    """What is read back is what was heard, over several calls, to the last digit."""
    path, heard = tmp_path / "run.jsonl", []
    ms, lines = newmodel(verse), Lines(tmp_path / "run.jsonl")
    for _call in range(2):
        ms.trainmodel(**PLAN, listen=[lines, heard.append])
    written = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [each["event"] for each in written] == [type(event).__name__ for event in heard]
    for each, event in zip(written, heard, strict=True):
        assert all(each[field.name] == getattr(event, field.name) for field in fields(event))


def test_lines_of_json_are_json(tmp_path):
    """Infinity is a word of Python's that other readers refuse; a quote or newline must not break a line."""
    lines = Lines(tmp_path / "run.jsonl")
    lines(Begin(None, 1, 1, 1, 1, math.inf))
    lines(Drawn(1, 0.5, 'a "quoted"\nline\x1b\u2028'))
    lines.close()
    first, second = (tmp_path / "run.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    assert json.loads(first, parse_constant=pytest.fail)["max_seconds"] is None
    assert json.loads(second)["text"] == 'a "quoted"\nline\x1b\u2028'


def test_lines_of_csv_are_one_table(tmp_path):
    """The heading comes once, however often the file is opened."""
    path = tmp_path / "run.csv"
    for _time in range(2):
        with Listeners(Lines(path)) as heard:
            for event in (Begin(1, 3, 2, 20, 1000, None), BATCH, DONE, End("done")):
                heard(event)
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["event"] for row in rows] == ["Batch", "Round"] * 2
    assert float(rows[0]["loss"]) == 2.5
    assert rows[0]["validloss"] == ""
    assert float(rows[3]["validloss"]) == 2.25
    assert rows[3]["checkpoint"] == "3"


def test_lines_can_be_followed_while_they_are_written(tmp_path):
    lines = Lines(tmp_path / "run.jsonl")
    lines(BATCH)
    assert json.loads((tmp_path / "run.jsonl").read_text())["loss"] == 2.5
    lines.close()


def test_lines_that_cannot_be_written_are_refused_at_once(tmp_path):
    """Not after an hour, by a warning in the middle of the run."""
    with pytest.raises(WorkdirError, match="Nothing can be written"):
        Lines(tmp_path / "missing" / "run.jsonl")
    for name in "book.txt", "book.csv":
        (path := tmp_path / name).write_text("To be, or not to be")
        with pytest.raises(InputError, match="holds no events of a run"):
            Lines(path)
        assert path.read_text() == "To be, or not to be"
        path.write_text("")
        Lines(path)
        Lines(path)


def test_a_log_has_what_a_person_should_see(newmodel, verse, caplog):
    caplog.set_level(logging.DEBUG, "rngru")
    newmodel(verse).trainmodel(**PLAN, learnrate=0.06, listen=Log())
    counted = {logging.DEBUG: 6, logging.WARNING: 1, logging.INFO: 1 + 3 + 2 + 1}
    for level, count in counted.items():
        assert sum(record.levelno == level for record in caplog.records) == count
    assert {record.name for record in caplog.records} == {"rngru"}
    text = caplog.text
    for word in (
        "batches of 2 x 20",
        "round 2: epoch",
        "learnrate=0.06 is far above",
        "ended: done",
    ):
        assert word in text


@pytest.mark.filterwarnings("default:::tensorboardX")
def test_tensorboard_gets_the_numbers_of_the_history(newmodel, verse, tmp_path):
    """Read back without TensorBoard: tag, step and value of each."""
    pytest.importorskip("tensorboardX")
    ms, board = newmodel(verse), TensorBoard(tmp_path / "logs")
    first = ms.trainmodel(**PLAN, listen=board)
    second = ms.trainmodel(**PLAN, listen=board)
    files = sorted((tmp_path / "logs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert len(files) == 2, "each call has a file of its own"
    drawn = [each for path in files for each in numbers(path)]
    for tag, steps, values in [
        ("loss/batch", [*first.positions, *second.positions], [*first.losses, *second.losses]),
        ("loss/train", [*first.position, *second.position], [*first.trainloss, *second.trainloss]),
        ("loss/valid", [*first.position, *second.position], [*first.validloss, *second.validloss]),
        ("learnrate", [*first.position, *second.position], [1e-3] * 4),
    ]:
        found = [(step, value) for name, step, value in drawn if name == tag]
        assert [step for step, _ in found] == steps
        np.testing.assert_allclose([value for _, value in found], values, rtol=1e-6)
    assert {"gradnorm", "bits", "speed"} <= {name for name, _, _ in drawn}
    assert sum(name.startswith("sample") for name, _, _ in drawn) == 6


def test_tensorboard_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[tensorboard\]'"):
        TensorBoard(tmp_path)


# ---- The words of a history, and warnings ----


def test_a_history_without_words_says_who_stopped_it():
    assert repr(History(reason="listener")) == "0 rounds: stopped by a listener."


def test_warnings_are_of_our_own_kind():
    """So that one line silences them, and nothing else."""
    assert rngru.RngruWarning is RngruWarning
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RngruWarning)
        warn("nobody hears this")
        with pytest.raises(UserWarning, match="others"):
            warnings.warn("others do", UserWarning, stacklevel=1)


def test_notices_reach_listeners(newmodel, verse):
    heard = []
    newmodel(verse).trainmodel(**PLAN, learnrate=0.06, listen=heard.append)
    assert isinstance(heard[0], Notice)


def test_a_run_in_the_background_is_heard_and_ended_as_well(newmodel, verse):
    heard = []

    def second(event):
        heard.append(event)
        return isinstance(event, Batch) and event.batch == 2 and "enough"

    run = newmodel(verse).trainmodel(**PLAN, listen=second, background=True)
    history = run.wait()
    assert (history.reason, history.said, len(history.losses)) == ("listener", "enough", 2)
    assert heard[-1] == End("listener", said="enough")
