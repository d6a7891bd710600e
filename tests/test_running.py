"""Training in the background: the prompt is free, and nothing is lost however it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from rngru import ModelState
from rngru.errors import InputError, WorkdirBusy
from rngru.events import Begin
from rngru.interrupts import ENDS
from rngru.report import History, Running

CALL = {"batchsize": 2, "train_len": 5, "background": True}


def bits(ms):
    return {name: array.tobytes() for name, array in ms.parameters().items()}


def until(condition, seconds=20):
    """Wait for something that another thread or process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_it_trains_what_the_foreground_trains(newmodel, verse):
    """Another model, because it was in a thread."""
    ms, straight = newmodel(verse), newmodel(verse)
    before = [signal.getsignal(number) for number in ENDS]
    run = ms.trainmodel(3, **CALL)
    history = run.wait()
    assert not run.running and isinstance(history, History) and len(history) == 3
    assert repr(run) == repr(history)
    assert [signal.getsignal(number) for number in ENDS] == before
    straight.trainmodel(3, batchsize=2, train_len=5)
    assert bits(ms) == bits(straight) == bits(ModelState.load(ms.workdir))


def test_the_model_is_used_meanwhile_and_stopped(newmodel, verse, capsys):
    """A prompt that waits; or a bar drawn over what is typed."""
    ms = newmodel(verse)
    run = ms.trainmodel(max_seconds=60, **CALL)
    until(lambda: ms.position > 400)
    assert len(ms.generatestring(20, rng=1)) == 20
    assert ms.score("The ship").nats.size == 7
    assert repr(run).startswith("training, ") and "run.stop() ends it" in repr(run)
    with pytest.raises(WorkdirBusy):
        ms.trainmodel(1)
    history = run.stop()
    assert history.interrupted and len(run.history) == len(history)
    assert ModelState.load(ms.workdir).position == ms.position
    assert capsys.readouterr().out == ""
    assert "interrupted" in repr(run)


def test_ctrl_c_before_the_first_batch_leaves_nothing_behind(newmodel, verse):
    """A thread that trains on, and nobody who could stop it."""
    ms = newmodel(verse)

    def press(event):
        if isinstance(event, Begin):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # no batch before it has come

    with pytest.raises(KeyboardInterrupt):
        ms.trainmodel(max_seconds=60, listen=press, **CALL)
    assert not [t for t in threading.enumerate() if t.name == "rngru-background"]
    assert len(ms.trainmodel(1, 2, 5)) == 1


def test_waiting_has_an_end(newmodel, verse):
    ms = newmodel(verse)
    run = ms.trainmodel(max_seconds=60, **CALL)
    assert run.wait(0.1).interrupted and run.running
    run.stop()


def test_what_is_wrong_is_said_at_once_or_by_whoever_waits(newmodel, verse):
    """An error that nobody sees; or a run that has ended an hour ago and shows 3 %."""
    ms = newmodel(verse)
    with pytest.raises(InputError, match="memory"):
        ms.trainmodel(1, batchsize=10**8, background=True)

    def work(hear, asked):
        until(lambda: go)
        raise OSError("the disk is gone")

    go = []
    threading.Timer(0.05, lambda: go.append(1)).start()
    with pytest.raises(OSError, match="the disk is gone"):
        Running(work)


SCRIPT = """
    import sys, time
    from rngru import ModelState
    ms = ModelState.load(sys.argv[1])
    run = ms.trainmodel(max_seconds=600, batchsize=2, train_len=100000, print_every=0, background=True)
    while ms.position < 400:
        time.sleep(0.01)
    print("training", flush=True)
    {end}
"""


def script(folder, end):
    code = textwrap.dedent(SCRIPT).format(end=end)
    return subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("how", ["end", "exit", "SIGTERM", "SIGHUP"])
def test_leaving_python_saves_first(newmodel, verse, how):
    """An hour of training gone, because the terminal was closed."""
    ms = newmodel(verse)
    ends = {"end": "pass", "exit": "raise SystemExit(3)"}
    with script(ms.workdir, ends.get(how, "time.sleep(60)")) as child:
        assert child.stdout.readline() == "training\n"
        if how not in ends:
            child.send_signal(getattr(signal, how))
        _, said = child.communicate(timeout=30)
    number = getattr(signal, how, 0)
    assert child.returncode == {"end": 0, "exit": 3}.get(how, -number), said
    assert "Error" not in said
    assert ModelState.load(ms.workdir).position >= 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a terminal of its own")
def test_ctrl_c_does_not_reach_it(newmodel, verse):
    """Ctrl-C for a generatestring that takes too long ends the training as well."""
    ms = newmodel(verse)
    end = """
try:
        time.sleep(60)
    except KeyboardInterrupt:
        before = ms.position
        while ms.position == before:
            time.sleep(0.01)
        print("still training", run.running, flush=True)
    """
    code = end.replace("\n    except", "\nexcept").replace("\n        ", "\n    ").strip()
    code = textwrap.dedent(SCRIPT).format(end="").rstrip() + "\n" + code
    with subprocess.Popen(
        [sys.executable, "-c", code, ms.workdir], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "training\n"
        time.sleep(0.5)  # it is in its try block by then
        child.send_signal(signal.SIGINT)
        assert child.stdout.readline() == "still training True\n"
        child.communicate(timeout=30)
    assert child.returncode == 0
