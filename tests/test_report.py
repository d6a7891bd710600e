"""What a person sees of a training run: at any width, on any stream, whatever the model writes."""

import io
import math
import os
import re
import sys
from contextlib import suppress

import numpy as np
import pytest
from rich.console import Console

from rngru.errors import InputError
from rngru.events import Batch, Begin, Drawn, End, Notice, Reading, Round
from rngru.report import (
    History,
    PlainReporter,
    Recorder,
    RichReporter,
    SilentReporter,
    reporter,
)
from rngru.report.bar import RichConsole
from rngru.report.live import Meter
from rngru.tables import Table, printable

NASTY = (
    "[bold red]x[/] :smile: [link=file:///] \x1b[2J\x1b]0;title\x07\r\x9b1m \u202eevil ünï 中文\n"
)


def begin(**changes):
    plan = {"rounds": 2, "batches": 10, "batchsize": 4, "seq_len": 25, "trainlen": 1000}
    return Begin(**(plan | {"max_seconds": None} | changes))


def batch(number, *, seconds, loss=2.0, characters=None):
    seen = 100 * number if characters is None else characters
    return Batch(1, number, 10, seen, seen / 1000, loss, 1.0, seen, seconds)


def round_(number, *, valid=2.5, characters=1000, seconds=1.0, rate=1e-3):
    bits = None if valid is None else valid / math.log(2)
    return Round(
        number, 1000 * number, 1.0 * number, 2.25, valid, bits, rate, 1.0, characters, seconds, "7"
    )


def run():
    yield begin()
    for number in range(1, 11):
        yield batch(number, seconds=0.5 * number)
        if number == 5:
            yield Drawn(500, 0.5, NASTY)
    yield Notice("a notice [with] brackets")
    yield round_(1, seconds=5.5)
    yield End("done")


def shown(report, events=None) -> None:
    with report:
        for event in run() if events is None else events:
            report(event)


def terminal(width, encoding="utf-8"):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return raw, Console(file=stream, force_terminal=True, width=width, legacy_windows=False)


def reading():
    for tenth in range(1, 11):
        yield Reading(tenth * 20_000_000, 200_000_000, 2.0 * tenth)
    yield Notice("that was the text")


@pytest.mark.parametrize("width", [40, 80])
def test_encoding_a_long_text_shows_how_far_it_is(width):
    """Minutes of silence look like a hang; a bar that stays would be drawn over what comes next."""
    raw, console = terminal(width)
    shown(RichReporter(console), reading())
    written = raw.getvalue().decode()
    assert "10%  10.0 MB/s  0:18 left" in written
    assert written.rstrip().endswith("that was the text\x1b[0m")
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1, "the cursor is back"
    assert written.index("\x1b[?25h") < written.index("that was the text")


def test_encoding_a_short_text_shows_nothing():
    """A bar that flashes up for a blink is noise."""
    raw, console = terminal(80)
    shown(RichReporter(console), [Reading(5, 10, 0.1), Reading(10, 10, 0.2)])
    assert not raw.getvalue()


def test_lines_say_how_far_encoding_is():
    """The log of a job that encodes for an hour is empty otherwise."""
    stream = io.StringIO()
    shown(PlainReporter(stream), reading())
    assert stream.getvalue().splitlines() == [
        "encoding the text  30%  10.0 MB/s  0:14 left",
        "encoding the text  60%  10.0 MB/s  0:08 left",
        "encoding the text  90%  10.0 MB/s  0:02 left",
        "that was the text",
    ]


def test_progress_is_exact_when_nothing_varies():
    """A mean that starts at zero, or a speed that counts compiling, shows wrong early figures."""
    progress = Meter()
    progress.follow(begin())
    progress.follow(batch(1, seconds=30.0, loss=3.0))
    assert "loss 3.000" in progress.words()
    for number in range(2, 6):
        progress.follow(batch(number, seconds=30.0 + number - 1, loss=3.0))
    assert progress.words() == "epoch 0.50  loss 3.000 nats/char  100 char/s  1:42 left"
    assert progress.share == 5 / 20


def test_validation_does_not_count_as_slow_training():
    """Ten seconds without a batch are no drop in speed when they were spent on validating."""
    progress = Meter()
    for event in (begin(), batch(1, seconds=1.0), batch(2, seconds=2.0)):
        progress.follow(event)
    progress.follow(round_(1, characters=200, seconds=12.0))
    progress.follow(batch(3, seconds=13.0))
    assert "100 char/s" in progress.words()


def test_a_time_budget_decides_what_is_left():
    """With a budget the number of rounds says nothing about the end."""
    progress = Meter()
    progress.follow(begin(rounds=None, batches=1, max_seconds=60))
    for number in range(1, 4):
        progress.follow(batch(number, seconds=15.0 * number))
    assert progress.share == 0.75
    assert progress.words().endswith("0:15 left")
    progress.follow(batch(4, seconds=61.0))
    assert progress.share == 1.0
    assert progress.words().endswith("0:00 left")


def test_a_loss_that_is_no_number_is_shown_as_such():
    progress = Meter()
    progress.follow(begin())
    progress.follow(batch(1, seconds=1.0, loss=math.nan))
    assert "loss nan" in progress.words()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_the_bar_fits_the_terminal_and_goes_away(width, encoding):
    """A line longer than the screen is drawn again and again below itself."""
    raw, console = terminal(width, encoding)
    shown(RichReporter(console))
    told = raw.getvalue().decode(encoding)
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l"), "the cursor stays hidden"
    lines = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", told).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= width
    assert "loss 2.000" in told or width < 40


@pytest.mark.parametrize("make", [lambda c: RichReporter(c), lambda c: PlainReporter(c.file)])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_sample_is_shown_as_text(make, encoding):
    """A model that writes '[red]', ':smile:' or an escape sequence must not steer the screen."""
    raw, console = terminal(300, encoding)
    shown(make(console), [begin(), Drawn(1, 0.5, NASTY)])
    told = raw.getvalue().decode(encoding)
    assert "[bold red]x[/] :smile: [link=file:///]" in told
    for evil in ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\u202e"):
        assert evil not in told
    assert ("中文" if encoding == "utf-8" else r"\u4e2d\u6587") in told


def test_an_error_leaves_a_clean_terminal():
    """An interrupt inside the loop must not leave a bar that draws over the prompt."""
    raw, console = terminal(80)
    report = RichReporter(console)
    with pytest.raises(KeyboardInterrupt), report:
        report(begin())
        report(batch(1, seconds=1.0))
        raise KeyboardInterrupt
    before = raw.getvalue()
    assert before.endswith(b"\x1b[2K"), "the bar is not erased"
    console.print("x")
    assert raw.getvalue() == before + b"x\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_the_prompt_works_after_an_interrupt():
    """What a person types after Ctrl-C must be echoed and answered."""
    pexpect = pytest.importorskip("pexpect")
    code = """
from rngru.report import reporter
from rngru.events import *
import time
def train():
    with reporter() as report:
        report(Begin(1, 10**6, 1, 1, 1, None))
        for n in range(10**6):
            report(Batch(1, n + 1, 10**6, n, 0.0, 2.0, 1.0, n, n / 100))
            time.sleep(0.01)
"""
    child = pexpect.spawn(
        sys.executable, ["-i", "-c", code], encoding="utf-8", timeout=20, dimensions=(24, 80)
    )
    child.expect(">>> ")
    child.sendline("train()")
    child.expect(r"loss 2\.000")
    child.sendintr()
    child.expect("KeyboardInterrupt")
    assert "\x1b[?25h" in child.before, "the cursor stays hidden"
    child.expect(">>> ")
    child.sendline("6 * 7")
    child.expect("42")
    assert "loss" not in child.before
    child.sendline("exit()")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_plain_lines_come_every_few_seconds_without_escape_codes():
    """A log of a night's training should be read, not scrolled through."""
    stream = io.StringIO()
    shown(PlainReporter(stream, every=2.0))
    lines = stream.getvalue().split("\n")
    assert [line for line in lines if "left" in line] == [
        "epoch 0.40  loss 2.000 nats/char  200 char/s  0:08 left",
        "epoch 0.80  loss 2.000 nats/char  200 char/s  0:06 left",
    ]
    assert "\x1b" not in stream.getvalue()
    assert "a notice [with] brackets" in lines
    assert "round 1  epoch 1.00  train 2.2500  valid 2.5000 nats/char  checkpoint 7" in lines


def test_a_closed_pipe_does_not_end_training():
    """``python train.py | head`` closes the stream after ten lines; the model trains on."""
    stream = io.StringIO()
    stream.close()
    shown(PlainReporter(stream))


@pytest.mark.parametrize("late", [False, True])
def test_a_terminal_that_goes_away_does_not_end_training(late):
    """The window is closed and the run was told to go on: what it draws on is no more."""
    leader, follower = os.openpty()
    stream = os.fdopen(follower, "w")
    report = RichReporter(Console(file=stream, force_terminal=True))
    events = [*run()]
    with report:
        if late:
            report(events[0])
        os.close(leader)
        for event in events[late:]:
            report(event)
    with suppress(OSError):
        stream.close()


def test_a_pipe_that_nobody_reads_does_not_end_the_process():
    """What rich would do: ``python train.py 2>&1 | head`` with a bar."""
    reading, writing = os.pipe()
    os.close(reading)
    before, after = (sys.stdout, sys.stderr), None
    with suppress(BrokenPipeError), open(writing, "w", buffering=1) as stream:
        shown(RichReporter(RichConsole(file=stream, force_terminal=True)))
        after = sys.stdout, sys.stderr
    assert after == before


@pytest.mark.parametrize("seconds", [math.inf, 1e308])
def test_a_run_without_an_end_says_so(seconds):
    """``max_seconds=inf`` is how one says: until I press Ctrl-C."""
    progress = Meter()
    progress.follow(begin(rounds=None, max_seconds=seconds))
    progress.follow(batch(1, seconds=1.0))
    assert progress.words().endswith("char/s  until Ctrl-C")
    assert progress.words(narrow=True).endswith("k/s")
    assert progress.share < 1e-300


def test_the_silent_twin_says_nothing(capsys):
    report = reporter("silent")
    assert type(report) is SilentReporter
    shown(report)
    assert capsys.readouterr() == ("", "")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("err", "out", "term", "kind"),
    [
        (Tty(), Tty(), "xterm", RichReporter),
        (Tty(), io.StringIO(), "xterm", RichReporter),
        (io.StringIO(), Tty(), "xterm", RichReporter),
        (io.StringIO(), io.StringIO(), "xterm", PlainReporter),
        (Tty(), Tty(), "dumb", PlainReporter),
        (None, io.StringIO(), "xterm", PlainReporter),
        (None, None, "xterm", PlainReporter),
    ],
)
def test_the_screen_decides_which_reporter(monkeypatch, err, out, term, kind):
    """FORCE_COLOR is set on many build servers, whose logs have no line to draw over."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdout", out)
    report = reporter()
    assert type(report) is kind
    shown(report)


def test_another_kind_of_reporter_is_refused():
    with pytest.raises(InputError, match=r"report='ritch' is not known. Did you mean 'rich'"):
        reporter("ritch")


def test_printable_leaves_no_control_character():
    """Only newline and tab may act on a screen; the rest of Unicode passes unchanged."""
    every = "".join(map(chr, range(0x20000)))
    told = printable(every)
    assert {c for c in told if ord(c) < 32 or 127 <= ord(c) < 160} == {"\n", "\t"}
    assert not set(told) & {*map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))}
    assert printable("Ünï 中文 🙂 \n\t") == "Ünï 中文 🙂 \n\t"
    assert printable("\ud800") == "\\ud800"


def test_history_holds_what_was_recorded():
    """Arrays shifted by a round, or with the last one missing, draw a plausible wrong curve."""
    record = Recorder()
    for event in run():
        record(event)
    history = record.history()
    assert len(history) == 1
    assert history[0] == history[-1] == round_(1, seconds=5.5)
    assert history.losses.tolist() == [2.0] * 10
    assert history.positions.tolist() == list(range(100, 1001, 100))
    assert (history.reason, history.interrupted) == ("done", False)


def test_history_as_arrays():
    history = History([round_(1), round_(2, valid=None), round_(3, valid=2.0)])
    assert history.position.tolist() == [1000, 2000, 3000]
    assert history.trainloss.tolist() == [2.25] * 3
    np.testing.assert_array_equal(history.validloss, [2.5, np.nan, 2.0])
    assert history.losses.shape == (0,)
    with pytest.raises(ValueError, match="read-only"):
        history.trainloss[0] = 0
    with pytest.raises(TypeError):
        history[0] = history[1]


def test_a_run_that_never_ended_was_interrupted():
    record = Recorder()
    record(begin())
    record(batch(1, seconds=1.0))
    assert record.history().interrupted
    assert repr(record.history()).startswith("0 rounds, 1 batch: interrupted")


def test_losses_and_positions_go_together():
    with pytest.raises(InputError, match="as many as each other"):
        History(losses=[1.0, 2.0], positions=[1])
    with pytest.raises(InputError, match="reason='bored'"):
        History(reason="bored")


def test_speed_is_that_of_each_round():
    """Characters and seconds count from the start of a run, and start again in the next one."""
    rounds = [
        round_(1, characters=1000, seconds=1.0),
        round_(2, characters=2000, seconds=5.0),
        round_(3, characters=500, seconds=0.25),
    ]
    rows = History(rounds).table().rows
    assert [row[-2:] for row in rows] == [("1,000", "1.0"), ("250", "4.0"), ("2,000", "0.2")]


def test_the_table_is_aligned_and_its_middle_cut():
    """A thousand rounds would scroll the prompt away."""
    told = repr(History([round_(n) for n in range(1, 1001)], reason="time"))
    *lines, note = told.split("\n")
    assert len(lines) == 1 + 8 + 1 + 12
    assert len({len(line) for line in lines}) == 1
    assert lines[1].split()[0] == "1"
    assert set(lines[9].split()) == {"…"}
    assert lines[-1].split()[0] == "1000"
    assert note == "1,000 rounds: stopped because the time was up."
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize(("columns", "names"), [(80, 3), (20, 3), (19, 2), (11, 1), (1, 1)])
def test_a_narrow_terminal_gets_the_columns_that_fit(columns, names, monkeypatch):
    """A wrapped table cannot be read; one without columns says nothing."""
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = repr(Table(["first", "second", "third"], [["1", "2", "3"]], note="x")).splitlines()
    assert [len(line.split()) for line in lines] == [names, names, 1]
    assert len({len(line) for line in lines[:2]}) == 1


def test_the_table_in_a_notebook_is_escaped():
    told = Table(["a<b"], [["<script>"]], note="x & y")._repr_html_()
    assert told == (
        "<table><tr><th>a&lt;b</th></tr><tr><td>&lt;script&gt;</td></tr></table><p>x &amp; y</p>"
    )
