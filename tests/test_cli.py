"""The command line as a shell uses it: what goes where, exit statuses, flags, and the doctor."""

import gc
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rngru import HyperParams, ModelState, Texts
from rngru.cli import COMMANDS, STATUS, main, parser
from rngru.cli.commands import FLAGS, RUN
from rngru.cli.flags import value
from rngru.sampling import Sampling
from rngru.training import Plan
from rngru.workdir import Workdir

COMMAND = [sys.executable, "-m", "rngru"]
SMALL = [
    "--state-size",
    "8",
    "--seq-len",
    "20",
    "--rng",
    "1",
    "--batchsize",
    "2",
    "--print-every",
    "0",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, verse):
    """A directory with a model; nobody changes it."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    options = {"state_size": 8, "seq_len": 20, "rng": 1, "report": "silent"}
    ms = ModelState.initfromsrcfile(Texts([verse], names=["verse"]), folder, **options)
    ms.trainmodel(1, 2, 3, report="silent")
    return folder


@pytest.fixture
def book(tmp_path, verse):
    path = tmp_path / "book.txt"
    path.write_text(verse, encoding="utf-8")
    return path


@pytest.fixture
def typed(monkeypatch):
    """Give standard input."""

    def give(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))

    return give


def shell(*arguments, **options):
    """Run the command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        **{"capture_output": True, "text": True, "timeout": 60, "check": False} | options,
    )


# ---- Help and usage ----


def test_help_shows_at_once():
    """It needs neither NumPy nor a model, and fits the terminal."""
    code = "import sys; from rngru.cli import main; main(['--help']); print(*sys.modules)"
    shown = subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ)
    *lines, modules = shown.splitlines()
    assert not {"numpy", "pytensor", "numba", "rich"} & set(modules.split())
    assert max(map(len, lines)) <= 80
    for word in (*COMMANDS, "exit status"):
        assert any(word in line for line in lines)


def test_a_command_is_what_it_is_in_both_tables():
    assert COMMANDS.keys() == FLAGS.keys() == RUN.keys()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_has_help(command, capsys):
    """A percent sign in a manual breaks argparse only when the help is shown."""
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: rngru {command}")
    assert max(map(len, lines)) <= 80


def test_every_setting_is_a_flag_of_its_own_meaning(capsys):
    """A setting that is added later must not be forgotten here."""
    told = {}
    for command in ("train", "sample"):
        main([command, "--help"])
        told[command] = " ".join(capsys.readouterr().out.split())
    for command, kind, left in [
        ("train", HyperParams, {"vocab_size"}),
        ("train", Plan, set()),
        ("sample", Sampling, set()),
    ]:
        for name, setting in kind.settings().items():
            assert (f"--{name.replace('_', '-')}" in told[command]) == (name not in left)
            if name not in left | {"learnrate"}:
                assert setting.meaning in told[command]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["usage: rngru COMMAND"]),
        ("sampel w", ["invalid choice: 'sampel'"]),
        ("info", ["WORKDIR", "rngru info --help"]),
        ("sample w --temperature 1", ["--temperature is not known here. Did you mean '--temp'?"]),
        ("sample w --temp hot", ["--temp: expected a finite number of at least 0, got 'hot'"]),
        ("sample w --temp=-1", ["--temp: expected a finite number of at least 0, got '-1'"]),
        ("train b --workdir w --lr 3", ["--lr is not known here. Did you mean '--learnrate'?"]),
        (
            "train b --workdir w --gate soft",
            ["expected one of 'sigmoid', 'hard_sigmoid', got 'soft'"],
        ),
        ("train b --workdir w --layers 2.5", ["expected a whole number", "got '2.5'"]),
        ("train b - --workdir w", ["standard input"]),
        ("train --workdir w", ["holds no model", "TEXT"]),
        ("train b --workdir w --modeltype GPT", ["'GPT' is not known"]),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(line, words, capsys, tmp_path, monkeypatch):
    """Exit status 2, nothing on standard output, no traceback, no page of flags."""
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    for word in words:
        assert word in shown.err
    assert len(shown.err.splitlines()) <= 2 or not line


@pytest.mark.parametrize(
    ("kind", "name", "text", "meant"),
    [
        (HyperParams, "layers", "3", 3),
        (HyperParams, "bptt_truncate", "-1", -1),
        (HyperParams, "learnrate", "1e-3", 0.001),
        (HyperParams, "clip", "none", None),
        (HyperParams, "gate", "hard_sigmoid", "hard_sigmoid"),
        (Plan, "max_seconds", "inf", float("inf")),
        (Sampling, "stop", "5", ("5",)),
    ],
)
def test_words_become_values(kind, name, text, meant):
    assert value(kind.settings()[name], text) == meant


# ---- Commands ----


def test_train_then_sample_then_go_on(book, tmp_path, capsys):
    """The table on standard output, all else beside it; another call goes on where the first stopped."""
    work = tmp_path / "w"
    line = ["train", book, "--workdir", work, "--rounds", "2", "--train-len", "3", *SMALL]
    assert main([str(each) for each in line]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1] == "2 rounds, 6 batches: all done."
    for word in ("different characters", "round 2  epoch", f"rngru: saved in {work}"):
        assert word in shown.err
    assert ModelState.load(work).position == 240
    assert main(["sample", str(work), "--numchars", "30", "--rng", "5", "--temp", "0.9"]) == 0
    drawn = capsys.readouterr().out
    assert drawn == ModelState.load(work).generatestring(30, 0.9, rng=5).text + "\n"
    assert main([str(each) for each in line]) == 0
    capsys.readouterr()
    assert ModelState.load(work).position == 480
    assert main(["train", "--workdir", str(work), "--rounds", "1", "--json"]) == 0
    (done,) = json.loads(capsys.readouterr().out)
    assert done["position"] == ModelState.load(work).position == 600


def test_train_on_a_directory_of_another_model_is_refused(book, tmp_path, capsys):
    """Going on with another text, or other sizes, would not be what was asked for."""
    work, other = str(tmp_path / "w"), tmp_path / "other.txt"
    other.write_text("something else " * 40)
    assert main(["train", str(book), "--workdir", work, "--rounds", "1", *SMALL]) == 0
    position = ModelState.load(work).position
    assert main(["train", str(other), "--workdir", work]) == 1
    assert f"holds a model of {book}. Leave the TEXT out" in capsys.readouterr().err
    assert main(["train", str(book), "--workdir", work, "--layers", "3"]) == 2
    assert "layers=2, not 3" in capsys.readouterr().err
    assert ModelState.load(work).position == position
    copy = tmp_path / "copy.txt"
    shutil.copy(book, copy)
    flags = ["--rounds", "1", "--train-len", "2", "--learnrate", "0.005"]
    assert main(["train", str(copy), "--workdir", work, *flags]) == 0
    assert ModelState.load(work).hyper.learnrate == 0.005
    assert (
        main(["train", str(other), "--workdir", work, "--overwrite", "--rounds", "1", *SMALL]) == 0
    )
    assert ModelState.load(work).chars.srcinfo == str(other)


def test_train_reads_standard_input(tmp_path, typed, verse, capsys):
    """And knows the same text again."""
    line = [
        "train",
        "-",
        "--workdir",
        str(tmp_path / "w"),
        "--rounds",
        "1",
        "--train-len",
        "2",
        *SMALL,
    ]
    for text, status in [(verse, 0), (verse, 0), (verse[:-1], 1)]:
        typed(text.encode())
        assert main(line) == status
    assert ModelState.load(tmp_path / "w").chars.srcinfo == "standard input"
    typed(b"\xff\xfe\xff")
    assert main(line) == 1
    assert "Standard input is not utf-8" in capsys.readouterr().err


def test_several_samples(model, capsys, typed):
    ms = ModelState.load(model)
    assert (
        main(["sample", str(model), "-n", "3", "--numchars", "9", "--rng", "1", "--seed", "The "])
        == 0
    )
    expected = ["The " + each.text for each in ms.generatestring(9, seed="The ", rng=1, streams=3)]
    assert capsys.readouterr().out == "\n---\n".join(expected) + "\n"
    typed(b"The ")
    line = [
        "sample",
        str(model),
        "-n",
        "2",
        "--numchars",
        "9",
        "--rng",
        "1",
        "--seed",
        "-",
        "--json",
    ]
    assert main(line) == 0
    rows = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    expected = [each.text for each in ms.generatestring(9, seed="The ", rng=1, streams=2)]
    assert [row["text"] for row in rows] == expected
    assert {row["seed"] for row in rows} == {"The "}


def test_sampling_flags_reach_the_draw(model, capsys):
    line = ["sample", str(model), "--rng", "1", "--top-k", "3", "--stop", "e", "--stop", "t"]
    assert main(line) == 0
    expected = ModelState.load(model).generatestring(rng=1, top_k=3, stop=["e", "t"]).text
    assert capsys.readouterr().out == expected + "\n"


def test_score(model, capsys, typed, verse, tmp_path):
    """From a pipe, from files, by line; as a table and as JSON."""
    ms, text = ModelState.load(model), verse[:300]
    nats = ms.score(text).evaluation.nats
    typed(text.encode())
    assert main(["score", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["nats"], found["count"], found["text"]) == (nats, 299, "standard input")
    typed(text.encode())
    assert main(["score", str(model)]) == 0
    assert f"{nats:.4f} nats per character" in capsys.readouterr().out
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    paths[0].write_text(text)
    paths[1].write_text(verse[300:500])
    assert main(["score", str(model), *map(str, paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == f"{nats:.4f}"
    assert lines[2].endswith(str(paths[1]))
    assert main(["score", str(model), str(paths[0]), "--by", "line", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(row["line"] for row in rows) == text[1:]
    assert sum(row["nats"] for row in rows) == pytest.approx(nats * 299, rel=1e-5)


def test_info(model, capsys):
    ms = ModelState.load(model)
    assert main(["info", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == sum(array.size for array in ms.parameters().values())
    assert found["hyper"]["state_size"] == 8
    assert [each["step"] for each in found["checkpoints"]] == [0, 3]
    assert found["history"][0]["trainloss"] == ms.history()[0].trainloss
    assert main(["info", str(model)]) == 0
    shown = capsys.readouterr().out
    for record in (ms, ms.hyper, ms.checkpoints(), ms.history()):
        assert repr(record) in shown


def test_what_would_be_another_model_is_refused(model, verse, tmp_path, capsys):
    """--trainfrac 0.5 was not heeded, and nobody said so."""
    line = ["train", "--workdir", str(model), "--rounds", "1"]
    assert main([*line, "--trainfrac", "0.5"]) == 2
    assert "--trainfrac 0.9, not 0.5" in capsys.readouterr().err
    assert main([*line, "--state-size", "9"]) == 2


def test_info_of_a_packed_model(model, tmp_path, capsys):
    """It has neither history nor checkpoints, and everything else."""
    path = ModelState.load(model).pack(tmp_path / "model.rngru")
    assert main(["info", str(path)]) == 0
    assert "<ModelState GRUEncode" in capsys.readouterr().out
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["position"] == ModelState.load(path).position
    assert (found["best"], found["checkpoints"], found["history"]) == (None, [], [])


def test_export(model, tmp_path, capsys):
    """The ending says which format; the program that comes out runs."""
    path = tmp_path / "model.py"
    assert main(["export", str(model), str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    line = [sys.executable, str(path), "-n", "20", "--rng", "1"]
    assert len(subprocess.run(line, capture_output=True, text=True, check=True).stdout) >= 20
    assert main(["export", str(model), str(tmp_path / "model.xyz")]) == 2
    assert ".safetensors" in capsys.readouterr().err


def test_bytes_come_out_as_they_are(tmp_path):
    """A model of bytes writes no question marks into a pipe."""
    path = tmp_path / "data.bin"
    path.write_bytes(bytes(range(128, 256)) * 20)
    flags = ["--level", "byte", "--rounds", "1", "--train-len", "1", *SMALL]
    assert main(["train", str(path), "--workdir", str(tmp_path / "w"), *flags]) == 0
    done = shell("sample", tmp_path / "w", "--numchars", 50, "--rng", 3, text=False)
    drawn = ModelState.load(tmp_path / "w").generatestring(50, rng=3)
    assert done.stdout == drawn.bytes + b"\n"
    assert max(done.stdout) > 127


# ---- Exit statuses, pipes and signals ----


def test_the_status_says_what_kind_of_error(model, tmp_path, capsys):
    """What a script asks for: is there no model, or is it in use?"""
    assert main(["info", str(tmp_path / "nothing")]) == 3
    assert main(["train", str(tmp_path / "no.txt"), "--workdir", str(tmp_path / "w")]) == 1
    copy = tmp_path / "busy"
    shutil.copytree(model, copy)
    with Workdir(copy).locked():
        assert main(["train", "--workdir", str(copy), "--rounds", "1"]) == 4
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert all(line.startswith("rngru: ") for line in told)
    help_ = " ".join(parser().format_help().split())
    assert all(f"{status} " in help_ for status in {0, 130, *STATUS.values()})


@pytest.mark.parametrize("words", ["a device is full", ""])
def test_too_little_memory_is_said_in_a_line(model, words, capsys, monkeypatch):
    """Python's own error often has no words at all."""

    def full(*where):
        raise MemoryError(words)

    monkeypatch.setattr(ModelState, "load", full)
    assert main(["info", str(model)]) == 1
    assert capsys.readouterr().err == f"rngru: {words or 'There is too little memory.'}\n"


def test_warnings_come_without_file_and_line(model, tmp_path):
    """They are for whoever trains, not for whoever programs."""
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    (newest,) = (copy / "checkpoints").glob("3/arrays.npz")
    newest.write_bytes(b"spoilt")
    done = shell("info", copy)
    assert done.returncode == 0
    assert "Checkpoint 0 is used instead." in done.stderr
    assert done.stderr.startswith("rngru: The checkpoint ")
    for word in ("Warning", ".py", "line"):
        assert word not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes of a POSIX shell")
def test_a_closed_pipe_is_no_error(model):
    """``| head`` ends a program quietly."""
    line = f"'{sys.executable}' -m rngru sample '{model}' --numchars 300000 | head -c 10"
    whole = ["bash", "-c", f"set -o pipefail; {line}"]
    done = subprocess.run(whole, capture_output=True, timeout=60, check=False)
    assert done.returncode == 141
    assert len(done.stdout) == 10
    assert done.stderr == b""


@pytest.mark.skipif(os.name == "nt", reason="redirections of a POSIX shell")
@pytest.mark.parametrize(("how", "status"), [(">&-", 0), ("2>&-", 0), ("</dev/null >/dev/full", 1)])
def test_closed_and_full_streams(model, how, status):
    line = f"'{sys.executable}' -m rngru info '{model}' {how}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, timeout=60, check=False)
    assert done.returncode == status
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_ctrl_c_saves_and_says_so(model, tmp_path):
    """Exit status 130, the table of what was trained, and the model is there."""
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    line = [*COMMAND, "train", "--workdir", str(copy), "--seconds", "60", "--train-len", "5"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        seen = [process.stderr.readline(), process.stderr.readline()]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert seen[1].startswith("round 2")
    assert "interrupted" in out
    assert f"saved in {copy}" in err
    assert ModelState.load(copy).position > ModelState.load(model).position


def test_the_same_command_as_a_script():
    """What pip installs calls what the module calls."""
    import tomllib

    project = Path(__file__).parents[1] / "pyproject.toml"
    scripts = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"rngru": "rngru.cli:main"}


def test_completion(capsys):
    pytest.importorskip("shtab")
    assert main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "--state-size" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert main(["--print-completion", "fishy"]) == 2


# ---- The doctor ----


def advised(capsys, *arguments):
    """Run the doctor; return its status, what it says by name, and its advice."""
    status = main(["doctor", *map(str, arguments), "--json"])
    found = json.loads(capsys.readouterr().out)
    return (
        status,
        {each["name"]: each["found"] for each in found},
        [e for e in found if e["advice"]],
    )


def test_the_doctor_finds_a_sound_directory_sound(model, capsys, monkeypatch):
    monkeypatch.setenv("RNGRU_THREADS", "2")
    status, found, advice = advised(capsys, model)
    assert (status, advice) == (0, [])
    assert found["checkpoints"] == "2 intact, from 0 to 3"
    assert found["RNGRU_THREADS"].startswith("'2'")
    assert found["threads"].startswith("2, on")
    assert "1,609 characters from verse" in found["text"]
    assert found["lock"] == "free"
    main(["doctor", str(model)])
    shown = capsys.readouterr().out
    assert shown.rstrip().endswith("All is well.")
    assert max(map(len, shown.splitlines())) <= 80 + len(str(model))


def test_the_doctor_finds_what_is_wrong(model, capsys, monkeypatch, tmp_path):
    """Damage, missing text, a lock, a bookmark, links, things of others, nonsense in the environment."""
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    ModelState.load(copy).restore(0)
    assert advised(capsys, copy)[1]["restored"].startswith("checkpoint 0")
    (copy / "checkpoints" / "3" / "arrays.npz").write_bytes(b"spoilt")
    (copy / "data" / "corpus.json").write_text('{"digest": ""}')
    (copy / "checkpoints" / "notes.txt").write_text("mine")
    monkeypatch.setenv("RNGRU_THREADS", "many")
    with Workdir(copy).locked():
        status, found, advice = advised(capsys, copy)
    assert status == 1
    assert found["checkpoints"] == "1 intact, from 0 to 0"
    assert f"process {os.getpid()}" in found["lock"]
    named = {each["name"]: each["advice"] for each in advice}
    assert named.keys() == {"checkpoint 3", "text", "not of rngru's", "threads"}
    before = sorted(copy.rglob("*"))
    main(["doctor", str(copy)])
    assert "4 things are wrong." in capsys.readouterr().out
    assert sorted(copy.rglob("*")) == before, "looking changes nothing"


def test_the_doctor_sees_no_directory(tmp_path, capsys):
    assert main(["doctor", str(tmp_path / "nothing")]) == 3
    status, found, _ = advised(capsys, tmp_path)
    assert (status, found["model"]) == (1, "none")


def test_the_doctor_sees_where_kernels_cannot_be_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    status, found, _ = advised(capsys)
    assert found["compiled kernels"]
    assert status == 0
    monkeypatch.setattr("rngru.kernels.compiling._places", lambda: iter([Path("/proc")]))
    status, found, advice = advised(capsys)
    assert status == 1
    assert "NUMBA_CACHE_DIR" in advice[0]["advice"]


def test_startup_is_quick():
    """Half a second is felt in every shell loop."""
    times = []
    for _time in range(3):
        began = time.perf_counter()
        shell("--version")
        times.append(time.perf_counter() - began)
    assert min(times) < 0.5


def test_a_sample_imports_only_what_it_needs(model):
    """Each module that comes along by chance is waited for at every prompt of the shell."""
    code = f"""if True:
        import sys
        from rngru.cli import main
        main(["sample", {str(model)!r}, "--numchars", "5", "--seed", "The "])
        print("", *sys.modules)
    """
    for _time in ("kernels are compiled", "kernels are there"):
        shown = subprocess.check_output([sys.executable, "-c", code], text=True, env=os.environ)
    modules = set(shown.splitlines()[-1].split())
    assert "numba" in modules
    thirds = {"pytensor", "jax", "rich", "matplotlib", "IPython", "optuna", "tensorboardX", "regex"}
    assert not modules & (thirds | {"constriction", "onnx", "safetensors", "torch"})
    assert not modules & {"scipy.linalg", "numpy.ma", "numba.np.arraymath", "numba.np.arrayobj"}
    assert not modules & {f"rngru.{room}" for room in ("plots", "export", "sweeps", "cli.doctor")}


def test_a_command_leaves_the_search_for_garbage_as_it_was(capsys):
    """At a prompt, main() is one call among others."""
    for line in (["--version"], ["sample", "--wrong"]):
        before = gc.get_threshold(), gc.get_freeze_count()
        main(line)
        assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_a_sample_needs_no_model_of_ones_own(capsys):
    """The first thing that anybody types after installing."""
    assert main(["sample", "--numchars", "30", "--rng", "1", "--seed", "The "]) == 0
    text = capsys.readouterr().out
    assert text.startswith("The ") and len(text) == 35


def test_a_model_is_packed_by_its_ending(model, tmp_path, capsys):
    path = tmp_path / "friend.rngru"
    assert main(["export", str(model), str(path)]) == 0
    assert ModelState.load(path).position == ModelState.load(model).position


def test_standard_input_in_an_encoding_that_nobody_named(tmp_path, typed):
    """A file of that kind is read; what comes through a pipe has no name to look up."""
    pytest.importorskip("charset_normalizer", reason="charset-normalizer is not installed")
    text = "Déjà vu, crème brûlée, où êtes-vous ? " * 30
    typed(text.encode("cp1252"))
    line = ["train", "-", "--workdir", str(tmp_path / "w"), "--encoding", "guess", *SMALL]
    assert main([*line, "--rounds", "1", "--train-len", "2"]) == 0
    assert set(text) <= set(ModelState.load(tmp_path / "w").chars.chars)


def test_an_old_model_learns_a_new_text(model, tmp_path, typed, capsys):
    """With its vocabulary grown, in a directory of its own."""
    packed = tmp_path / "old.rngru"
    assert main(["export", str(model), str(packed)]) == 0
    line = ["train", "-", "--workdir", str(tmp_path / "new"), "--model", str(packed)]
    line += ["--rounds", "1", "--train-len", "2"]
    typed("Ωμέγα, the last ship of all. ".encode() * 40)
    assert main(line) == 0
    old, new = ModelState.load(model), ModelState.load(tmp_path / "new")
    assert set(old.chars.chars) < set(new.chars.chars) and new.position > old.position
    typed(b"")
    assert main(line) == 2
    assert "holds a model already" in capsys.readouterr().err
