"""What users of such tools have reported in public: kinds of trouble, each tried at the prompt.

Temperatures at their ends, bytes in and out, "unknown" that nobody asked for, settings of the session
that reach inside, time that runs over, notebooks.
"""

import copy
import os
import pickle
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from rngru import ModelState, Texts
from rngru.errors import InputError, RngruError
from rngru.sampling import Sample

QUIET = {"print_every": 0, "report": "silent"}


def child(code, **environment):
    """Status and output of another process."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    return done.returncode, done.stdout + done.stderr


# ------------------------------------------------------------------------------------ sampling


@pytest.mark.parametrize("backend", ["cpu", "scan"])
def test_temperatures_at_their_ends(newmodel, verse, backend):
    """One letter for ever above 1e46, where 1/T is 0 in float32; or an overflow near 0."""
    ms = newmodel(verse, backend=backend, layers=1)
    wild = [ms.generatestring(200, temp=temp, seed="T", rng=1).text for temp in (1e30, 1e46, 1e300)]
    assert wild[0] == wild[1] == wild[2] and len(set(wild[0])) > 20
    tame = [
        ms.generatestring(50, temp=temp, seed="T", rng=1).text
        for temp in (0, 5e-324, 1e-300, 1e-46, 1e-30)
    ]
    assert len(set(tame)) == 1


@pytest.mark.parametrize("backend", ["cpu", "scan"])
@pytest.mark.parametrize("level", ["char", "word"])
def test_unknown_is_never_written(newmodel, smalltext, level, backend):
    """Half of all words were �, where rare ones had been left out of the vocabulary."""
    text = smalltext[:2000]
    ms = newmodel(text, level=level, min_count=3, backend=backend, layers=1, learnrate=0.02)
    ms.trainmodel(batchsize=4, train_len=10, **QUIET)
    for temp in (0, 0.5, 1.0, 5.0):
        sample = ms.generatestring(150, temp=temp, rng=1)
        assert "\ufffd" not in sample.text and 0 not in sample.ids


def test_what_is_not_masked_keeps_its_proportions(newmodel, verse):
    """A mask that moves probability from one symbol to another, and not from unknown to all."""
    ms = newmodel(verse)
    _, outputs = ms.trackneurons("The ship", temp=1.0, ret_output=True)
    expected = outputs[-1].copy()
    expected[0] = 0
    expected = (expected / expected.sum()).cumsum()
    for number in range(100):
        uniform = np.random.default_rng(number).random()
        drawn = ms.generatestring(1, temp=1.0, seed="The ship", rng=number).ids[0]
        assert drawn == np.argmax(expected > uniform)


# --------------------------------------------------------------------------------------- bytes


def test_bytes_go_in_and_come_out(newmodel, tmp_path):
    """A model of MIDI files that cannot be given a header, or whose notes are lost as �."""
    data = bytes(range(256)) * 8
    path = tmp_path / "song.mid"
    path.write_bytes(data)
    ms = ModelState.initfromsrcfile(
        path, tmp_path / "work", level="byte", state_size=8, rng=1, report="silent"
    )
    sample = ms.generatestring(300, temp=3.0, seed=b"MThd\x00\xff\xfe", rng=1)
    assert len(sample.bytes) == 300 and sample.bytes == bytes(sample.ids.tolist())
    assert sample.bytes.decode("utf-8", "replace") == sample.text
    assert set(sample.bytes) - set(range(128)), "some are no ASCII"
    assert ms.evaluate(data[:100]).characters == 99
    assert ms.evaluate(sample).characters == 299
    assert ms.trackneurons(b"\x00\xff").shape[-1] == 2


def test_bytes_are_for_models_of_bytes(newmodel, verse):
    """A model of characters given bytes: mojibake, or a megabyte of them in the message."""
    ms = newmodel(verse)
    for call in (ms.evaluate, ms.trackneurons, lambda data: ms.generatestring(5, seed=data)):
        with pytest.raises(InputError, match="one string, got bytes") as caught:
            call(b"\xff" * 10**6)
        assert len(str(caught.value)) < 200
    assert ms.generatestring(3, seed="T", rng=1).bytes.decode() == str(
        ms.generatestring(3, seed="T", rng=1)
    )


def test_a_sample_is_a_text(newmodel, verse):
    """What a model wrote cannot be scored or continued as text without knowing about ``.text``."""
    ms = newmodel(verse)
    sample = ms.generatestring(30, seed="The", rng=1)
    assert ms.evaluate(sample).nats == ms.evaluate(sample.text).nats
    one, other = (ms.generatestring(9, seed=seed, rng=2) for seed in (sample, sample.text))
    assert (str(one), one.seed) == (str(other), other.seed)
    foreign = Sample("The ship", None, ids=np.array([1, 2]), vocabulary="another")
    assert ms.evaluate(foreign).nats == ms.evaluate("The ship").nats


def test_a_file_name_is_not_scored_in_silence(newmodel, verse, tmp_path, monkeypatch):
    """``evaluate("book.txt")`` scores eight letters, and looks like a result."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "The ship").write_text(verse, encoding="utf-8")
    ms = newmodel(verse)
    with pytest.warns(UserWarning, match=r"a file has this name.*open\('The ship'\)"):
        ms.evaluate("The ship")
    ms.evaluate("The ships")  # no file


# ----------------------------------------------------------------------- the session around it


@pytest.mark.parametrize("backend", ["cpu", "scan"])
def test_the_sessions_own_rules_for_numbers_stay_outside(newmodel, verse, backend):
    """``np.seterr(all="raise")`` in a notebook ends training in FloatingPointError."""
    ms = newmodel(verse, backend=backend, layers=1, dropout=0.1)
    with np.errstate(all="raise"):
        ms.trainmodel(batchsize=2, train_len=2, learnrate=0.5, **QUIET)
        ms.trackneurons("The ship", temp=1e-3, ret_output=True)
        ms.generatestring(20, temp=1e-3)
        ms.evaluate()
        assert np.geterr()["under"] == "raise"


def test_kernels_that_are_not_compiled_are_refused_in_a_line():
    """``NUMBA_DISABLE_JIT=1``, left over from debugging, is a page of somebody else's traceback."""
    code = (
        "from rngru import ModelState, Texts\nimport tempfile\n"
        "ModelState.initfromsrcfile(Texts(['the ship ' * 99]), tempfile.mkdtemp() + '/w', rng=1)"
    )
    status, said = child(code, NUMBA_DISABLE_JIT="1")
    assert status == 1
    assert said.strip().splitlines()[-1].startswith("rngru.errors.InputError: NUMBA_DISABLE_JIT")


def test_a_model_is_not_copied_behind_its_back(newmodel, verse):
    """Two objects that write one directory; or ``cannot pickle '_thread.lock' object``."""
    ms = newmodel(verse)
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(InputError, match=r"ModelState\.load\("):
            copied(ms)
    sample, history = ms.generatestring(5, rng=1), ms.history()
    for record in (ms.hyper, sample, history, ms.evaluate("The ship"), ms.checkpoints()):
        assert repr(pickle.loads(pickle.dumps(record))) == repr(record)
        assert repr(copy.deepcopy(record)) == repr(record)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hyper", None), ("seq_len", 5), ("chars", None), ("backend", "scan"), ("modeltype", "BiGRU"),
     ("rng", 1), ("position", 0), ("epoch", 0), ("workdir", "w")],
)  # fmt: skip
def test_what_a_model_is_cannot_be_assigned(newmodel, verse, name, value):
    """Sizes that do not fit the arrays are believed by kernels, down to a segmentation fault."""
    ms = newmodel(verse)
    before = repr(ms)
    with pytest.raises(InputError, match=rf"^{name} cannot be assigned\. .*(\(|Move)"):
        setattr(ms, name, value)
    for wrong in ("seqlen", "learnrate", "state_size"):
        with pytest.raises(AttributeError, match=wrong):
            setattr(ms, wrong, 1)
    assert repr(ms) == before
    ms.newcheckpoint()
    assert repr(ModelState.load(ms.workdir)) == before


# ----------------------------------------------------------------------------------- sizes, time


def test_sizes_beyond_sense_name_what_to_change(newmodel, verse):
    """``seq_len=10**9`` blamed on a batch size of 1."""
    ms = newmodel(verse, seq_len=10**12)
    for call in (lambda: ms.trainmodel(1, batchsize=1, **QUIET), lambda: ms.traintime(1)):
        with pytest.raises(InputError, match="smaller batchsize, or .*smaller seq_len"):
            call()
    ms = newmodel(verse)
    with pytest.raises(InputError, match=r"1000000000000 x 20"):
        ms.traintime(10**12)


def test_time_is_kept_with_a_long_validation_text(tmp_path):
    """Asked for a second, took as long as validation takes; at 1 GB, minutes."""
    text = "the ship sails on the sea, and the sea is wide\n" * 12_000
    ms = ModelState.initfromsrcfile(
        Texts([text]), tmp_path / "work", state_size=48, trainfrac=0.1, rng=1, report="silent"
    )
    ms.trainmodel(batchsize=8, train_len=1, valid_len=1, **QUIET)
    whole = ms.evaluate().seconds
    began = time.monotonic()
    history = ms.trainmodel(max_seconds=whole / 2, batchsize=8, **QUIET)
    took = time.monotonic() - began
    assert history.validloss.size and np.isfinite(history.validloss).all()
    assert took < whole, "all of it alone takes longer than twice the time"


# ------------------------------------------------------------------------------------ notebooks


def test_a_notebook_shows_progress_and_tables():
    """An empty display that asks for ipywidgets; a table as bare text."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    code = (
        "from rngru import ModelState, Texts\nimport tempfile\n"
        "ms = ModelState.initfromsrcfile(Texts(['the ship sails\\n' * 99]), tempfile.mkdtemp() + '/w',"
        " state_size=8, rng=1)\n"
        "ms.trainmodel(2, batchsize=2, train_len=2, print_every=0, report=REPORT)"
    )
    cells = [code.replace("REPORT", report) for report in ("'rich'", "None")]
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    for cell in notebook.cells:
        assert "ipywidgets" not in str(cell.outputs)
        assert not any("nats/char" in out.get("text", "") for out in cell.outputs), (
            "a line every 5 s"
        )
        *_, bar, table = (out.data["text/html"] for out in cell.outputs if "data" in out)
        assert "<b>round 2 " in bar and "<progress" not in bar, "it is over"
        assert table.startswith("<table>") and "<td>2</td>" in table


def test_every_error_is_one_of_ours(newmodel, verse):
    """``except RngruError`` that lets a bad argument through."""
    ms = newmodel(verse)
    for call in (
        lambda: ms.generatestring("many"),
        lambda: ms.generatestring(temp=None),
        lambda: ms.generatestring(init_state="warm"),
        lambda: ms.evaluate(5),
        lambda: ms.evaluate(""),
        lambda: ms.trackneurons(None),
        lambda: ms.trainmodel(print_every="often"),
        lambda: ms.restore(object()),
        lambda: ms.plotloss("loss.docx"),
    ):
        with pytest.raises(RngruError):
            call()


# ------------------------------------------------------------------------- poorer surroundings


def test_a_place_to_keep_what_is_compiled_is_not_needed(tmp_path):
    """In a container that runs as somebody else Numba could write nowhere: no model could compute."""
    code = (
        "from rngru.kernels import compiling\n"
        "compiling._places = lambda: iter([])\n"
        "from rngru import *\n"
        "texts = Texts(['the ship sails ' * 9])\n"
        f"ms = ModelState.initfromsrcfile(texts, {str(tmp_path / 'work')!r}, state_size=4, layers=1, rng=1,\n"
        "    report='silent', seq_len=5)\n"
        "print(len(ms.generatestring(5).text), len(WordSet('a b')))"
    )
    status, output = child(code, NUMBA_OPT="0")  # it is compiled in half the time
    assert status == 0 and output.startswith("5 4\n"), output
    assert output.count("Set NUMBA_CACHE_DIR to a folder that you can write to.") == 1
    assert "compiling.py" not in output, "told at a line of ours"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
def test_too_many_open_models_are_told_as_such(tmp_path, newmodel, verse):
    """The error gave the space that is free, and not what to do."""
    folder = str(newmodel(verse).workdir)
    code = (
        "import os, resource\nfrom rngru import *\n"
        f"ms = ModelState.load({folder!r})\n"
        "ms.trainmodel(batchsize=2, train_len=1, print_every=0, report='silent')\n"
        "most = len(os.listdir('/proc/self/fd')) - 1\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most, most + 99))\n"
        "try:\n    ms.newcheckpoint()\nexcept RngruError as error:\n    print(error)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (most + 99, most + 99))\n"
        "print(ms.newcheckpoint())"
    )
    status, output = child(code)
    assert status == 0 and "ulimit -n" in output, output
