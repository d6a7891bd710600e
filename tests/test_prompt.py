"""The prompt as a person opens it: real interpreters, with a terminal and without one."""

import os
import re
import subprocess
import sys
import time

import pytest

import rngru
from rngru import ModelState
from rngru.reader.scoring import evaluate

PROMPT = [sys.executable, "-i", "-m", "rngru"]


def closed(*arguments, **options):
    """Run the prompt with standard input closed."""
    return subprocess.run(
        [*PROMPT, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def terminal(*arguments, columns=80, lines=24):
    """Run Python in a pseudo-terminal."""
    pexpect = pytest.importorskip("pexpect")
    # The plain line editor, so that what is read back is what was written. The readline module
    # puts the size of our own terminal into the environment.
    ours = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    return pexpect.spawn(
        sys.executable,
        [str(each) for each in arguments],
        encoding="utf-8",
        dimensions=(lines, columns),
        timeout=60,
        env=ours | {"PYTHON_BASIC_REPL": "1", "TERM": "xterm"},
    )


class Shell:
    """The prompt in a terminal of 80 columns, ready to type into."""

    def __init__(self, *arguments):
        self.child = terminal(*PROMPT[1:], *arguments)
        self.greeting = self.until()

    def until(self):
        """Wait for the prompt and return what was shown before it."""
        self.child.expect(r"\r\n(\x1b\[\?2004h)?>>> |^(\x1b\[\?2004h)?>>> ")
        return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", self.child.before).replace("\r", "")

    def type(self, line):
        """Type a line and return what it shows, without the line itself."""
        self.child.sendline(line)
        return self.until().partition("\n")[2]

    def close(self):
        """Leave, and return the exit status."""
        self.child.sendline("exit()")
        self.child.read()
        self.child.close()
        return self.child.exitstatus


# A child of this process runs another program at once, whatever threads there are here.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


# ---- Opening it ----


def test_importing_takes_no_time():
    """Under 0.2 s; nothing heavy is loaded before it is used."""
    code = "import time; t = time.perf_counter(); import rngru; print(time.perf_counter() - t)"
    times = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(times) < 0.2


def test_importing_everything_is_light_too():
    """``from rngru import *`` is what the prompt does before it opens."""
    code = "from rngru import *; import sys; print(ModelState, HyperParams, generatestring)"
    code += "; print(sorted({'pytensor', 'numba', 'matplotlib'} & set(sys.modules)))"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert shown.splitlines()[1] == "[]"


def test_all_names_exist():
    """A name that the package promises and does not have."""
    for name in rngru.__all__:
        assert getattr(rngru, name).__doc__


@pytest.mark.parametrize("room", ["corpora", "export", "plots", "recipes", "report"])
def test_modules_of_the_front_page_are_there(room):
    """A module that is there only after another one was used is not there in the next session."""
    assert room in rngru.__doc__
    code = f"import rngru; assert '{room}' in dir(rngru); print(rngru.{room}.__name__)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == f"rngru.{room}\n"


def test_the_banner_is_short():
    """Version, what is ready, where the manual is; with no input it ends, and well."""
    done = closed()
    assert done.returncode == 0
    lines = done.stdout.strip().splitlines()
    assert len(lines) <= 3
    for word in (rngru.__version__, "ModelState", "HyperParams", "generatestring", "help("):
        assert word in done.stdout
    assert max(map(len, lines)) <= 80
    assert "Error" not in done.stderr


@forks
def test_a_terminal_opens_with_everything_ready():
    """Names, help, and a clean end."""
    shell = Shell()
    assert f"rngru {rngru.__version__}" in shell.greeting
    assert "ModelState" in shell.type("ModelState")
    assert shell.type("HyperParams(66)") == "HyperParams(vocab_size=66)"
    assert "function generatestring" in shell.type("generatestring")
    assert "There is no folder" in shell.type("ModelState.load('nothing')")
    assert shell.close() == 0


@pytest.mark.parametrize(
    "wrong", [["demmo"], ["demo", "--seconds", "soon"], ["demo", "--seconds", "0"]], ids=" ".join
)
def test_words_it_does_not_know_are_explained_without_a_traceback(wrong):
    """Someone who mistypes an option has made no mistake in Python."""
    done = closed(*wrong)
    assert wrong[-1] in done.stderr
    assert "Traceback" not in done.stderr


# ---- The demo ----


def test_the_demo_without_a_terminal(tmp_path):
    """Trains, shows losses and samples, saves, says where and what to try, and ends well."""
    work = tmp_path / "my work"
    done = closed("demo", "--seconds", 2, "--workdir", work)
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    assert "Before training:" in done.stdout
    losses = re.findall(r"valid (\d\.\d+) nats/char", done.stdout)
    assert losses
    assert float(losses[-1]) < 3.5
    assert str(work) in done.stdout
    tries = [line for line in done.stdout.split("try:")[1].splitlines() if line.startswith("  ")]
    assert len(tries) == 3
    ms = ModelState.load(work)
    assert ms.position > 0
    ids, split = ms._validation
    told = re.search(r"Validation reads the first ([\d,]+) of", done.stdout)
    stop = split + int(told[1].replace(",", "")) if told else len(ids)
    found = evaluate(ms._reader, ids, split, stop)
    assert found.nats == pytest.approx(float(losses[-1]), abs=1e-3)


def test_the_demo_keeps_a_model_that_is_there(tmp_path, newmodel, verse):
    """Giving it the folder of one's own model by mistake must not cost that model."""
    ms = newmodel(verse)
    ms.trainmodel(train_len=1, report="silent")
    before = ms.parameters()
    closed("demo", "--seconds", 1, "--workdir", ms.workdir)
    after = ModelState.load(ms.workdir).parameters()
    assert all((after[name] == before[name]).all() for name in before)


@forks
def test_the_demo_in_a_terminal(tmp_path):
    """A bar while it trains; then ``ms``, and every line it suggests does what it says."""
    shell = Shell("demo", "--seconds", 2, "--workdir", tmp_path / "work")
    assert "char/s" in shell.greeting
    assert "epoch" in shell.greeting
    assert shell.type("len(ms.checkpoints()) > 1") == "True"
    tries = [line.strip() for line in shell.greeting.split("try:")[1].splitlines() if line]
    draw, train, load = (line.strip() for line in tries)
    assert len(shell.type(draw)) >= 300
    began = time.monotonic()
    shell.child.sendline(train)
    time.sleep(1.5)
    shell.child.sendintr()
    shown = shell.until()
    assert time.monotonic() - began < 15
    assert "interrupted" in shown
    assert "Traceback" not in shown
    assert "fresh" not in shown, "what is suggested goes on where the demo stopped"
    position = shell.type("ms.position")
    shell.type(load)
    assert shell.type("ms.position") == position
    shown = shell.type("ms.checkpoints()")
    assert "best" in shown
    assert shell.close() == 0


@forks
def test_a_narrow_terminal_wraps_no_bar(tmp_path):
    """A bar that is longer than the line fills the screen with its own remains."""
    work = tmp_path / "work"
    child = terminal(*PROMPT[2:], "demo", "--seconds", 2, "--workdir", work, columns=40, lines=15)
    bars = re.findall(r"epoch [0-9.]+  loss [^\r\n\x1b]*", child.read())
    assert bars
    assert max(map(len, bars)) <= 40
