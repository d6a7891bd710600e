"""The working directory as anybody may have left it: nothing in it is trusted, followed or lost.

The references are what was saved, a second directory to which every link leads, and the tree of
rounds as it was grown. Whatever is found, only rngru's own errors come out, and soon.
"""

import json
import os
import re
import shutil
import signal
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rngru import CharSet, ModelState, Texts, checkpoint
from rngru.checkpoint import content
from rngru.corpus import _jsondigest
from rngru.errors import CheckpointDamaged, CheckpointTooNew, InputError, RngruError, WorkdirError
from rngru.events import Round
from rngru.hyper import HyperParams
from rngru.workdir import Workdir
from tests.robust import QUIET

GOLDEN = Path(__file__).parent / "golden"
STEPS = (0, 2, 4)
CASES = [25, pytest.param(2000, marks=pytest.mark.long)]


class Hang(BaseException):
    """It takes too long; no ``except Exception`` may hide it."""


@contextmanager
def watched() -> Iterator[None]:
    """Raise after seconds of work without end, or minutes of waiting for what never comes."""

    def late(*_: object) -> None:
        raise Hang

    timers = [
        (signal.SIGPROF, signal.ITIMER_PROF, 10),
        (signal.SIGALRM, signal.ITIMER_REAL, 200),
    ]
    before = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def bits(model: Any) -> bytes:
    """The parameters of a model, however it comes."""
    arrays = model.parameters() if isinstance(model, ModelState) else model.progress.arrays
    return b"".join(arrays[name].tobytes() for name in sorted(arrays))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, verse: str) -> Path:
    """Two working directories side by side, each with three checkpoints and two rounds."""
    folder = tmp_path_factory.mktemp("good")
    for name, seed in (("work", 1), ("outside", 2)):
        ms = ModelState.initfromsrcfile(
            Texts([verse[:800]]), folder / name, state_size=4, seq_len=5, rng=seed, report="silent"
        )
        ms.trainmodel(2, batchsize=2, train_len=2, **QUIET)
        assert tuple(one.step for one in ms.checkpoints()) == STEPS
    return folder


@contextmanager
def copied(work: Path) -> Iterator[Path]:
    """A copy of a working directory."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(work, Path(folder, "work"))).resolve()


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, or None where it ends in one of rngru's own errors."""
    with suppress(RngruError):
        return call(*arguments)
    return None


# ---- Whatever lies in it ----

THINGS = [
    *("nothing", "an empty file", "a file of noise", "a folder", "a pipe", "an older checkpoint"),
    *("a link to its like outside", "a link to the folder of that"),
    *("a link to nothing", "a link to itself"),
]
FOLDERS = ["", "checkpoints", "checkpoints/4", "data"]
KNOWN = [
    *("checkpoints", "checkpoints/0", "checkpoints/2", "checkpoints/4"),
    *(f"checkpoints/4/{name}" for name in ("arrays.npz", "meta.json", "MANIFEST.json")),
    *("data", "data/corpus.json", "history.jsonl", "lock", "lock.json", "loss.png", "data.new"),
    *("checkpoints.old", ".tmp-data", ".tmp-checkpoints"),
    *(f"checkpoints/{name}" for name in (".tmp-4", ".old-4", ".tmp-6", ".old-9", "5", "04", "-1")),
    *("checkpoints/999999999999999999", "checkpoints/9999999999999999999", "data/ids.tmp"),
]
names = st.binary(min_size=1, max_size=20).map(
    lambda name: os.fsdecode(name.replace(b"/", b"-").replace(b"\0", b"\n").replace(b".", b","))
)
places = st.sampled_from(KNOWN) | st.tuples(st.sampled_from(FOLDERS), names).map(
    lambda parts: os.path.join(*parts)
)


def put(work: Path, good: Path, place: str, thing: str) -> None:
    """Put a thing where another may have been; not through a link that was put there before."""
    path, like = work / place, good / "outside" / place
    if os.path.realpath(path.parent) != str(path.parent) or not path.parent.is_dir():
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    like = like if like.exists() else good / "outside" / "checkpoints" / "4"
    match thing:
        case "an empty file":
            path.touch()
        case "a file of noise":
            path.write_bytes(bytes(range(256)))
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "an older checkpoint":
            shutil.copytree(good / "work" / "checkpoints" / "2", path)
        case "a link to its like outside":
            path.symlink_to(like)
        case "a link to the folder of that":
            path.symlink_to(like.parent)
        case "a link to nothing":
            path.symlink_to(like / "nothing")
        case "a link to itself":
            path.symlink_to(path.name)


@pytest.mark.parametrize("cases", CASES)
def test_whatever_lies_in_it_is_survived(good: Path, cases: int) -> None:
    """Catches an error of Python's own, a wait for ever, a model that is none of those saved, and
    a link that is read or written through.
    """
    outside, model = good / "outside", Workdir(good / "work").load()
    known = {bits(Workdir(good / "work").load(step)) for step in STEPS}
    own = list(Workdir(good / "work").history(2, "characters"))
    assert len(own) == 2
    before = tree(outside)

    def look(disk: Workdir) -> None:
        attempt(lambda: repr(disk.checkpoints()))
        for which in (None, "best", 2):
            loaded = attempt(disk.load, which)
            assert loaded is None or bits(loaded) in known
        for line in (2, 10**9):
            history = disk.history(line, "characters")
            assert all(each.round == 3 or each in own for each in history)
        if ms := attempt(ModelState.load, disk.path):
            assert bits(ms) in known and ms.evaluate("The")

    def save(disk: Workdir) -> None:
        with disk.locked():
            disk.save(model, keep=1)
            disk.remember(Round(3, 60, 0.1, 3.5, 3.4, 5, 0.001, 1, 60, 1, "6"), [(60, 3.5)], 2)

    @settings(max_examples=cases)
    @example([("checkpoints/2", "a link to its like outside")])
    @example([("history.jsonl", "a link to its like outside")])
    @example([("history.jsonl", "a pipe"), ("lock.json", "a pipe"), ("data/corpus.json", "a pipe")])
    @example([("data", "a link to its like outside"), (".tmp-data", "a link to its like outside")])
    @example([(".tmp-data", "a pipe"), (".tmp-checkpoints", "a pipe"), ("data", "a pipe")])
    @example([(".tmp-checkpoints", "an older checkpoint"), ("checkpoints", "a pipe")])
    @given(st.lists(st.tuples(places, st.sampled_from(THINGS)), min_size=1, max_size=4))
    def check(things: list[tuple[str, str]]) -> None:
        with copied(good / "work") as work, watched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for place, thing in things:
                put(work, good, place, thing)
            disk = Workdir(work)
            look(disk)
            attempt(save, disk)
            look(disk)
            assert tree(outside) == before

    check()


def test_what_a_person_puts_beside_it_stays(good: Path) -> None:
    """A copy made before an experiment, say; only names that nobody gives may be in our way."""
    with copied(good / "work") as work:
        for name in ("checkpoints", "data", "history.jsonl"):
            for other in (f"{name}.old", f"{name}.new", f"{name}.bak", f"{name}~", f"old {name}"):
                copy = shutil.copytree if (work / name).is_dir() else shutil.copy
                copy(work / name, work / other)
        before = tree(work)
        ms = ModelState.load(work)
        ms.trainmodel(batchsize=2, train_len=1, **QUIET)
        ModelState.initfromsrcfile(
            Texts(["so it goes\n" * 9]), work, overwrite=True, report="silent"
        )
        after = tree(work)
        kept = [
            path
            for path in before
            if any(end in path for end in (".old", ".new", ".bak", "~", "old "))
        ]
        assert len(kept) > 30 and all(after.get(path) == before[path] for path in kept)


@pytest.mark.parametrize(
    "name",
    [
        "data/thesis.doc",
        "data/ids/holiday.jpg",
        "checkpoints/resnet.pt",
        "checkpoints/2024/holiday.jpg",
        ".tmp-data/notes.txt",
        ".tmp-checkpoints/5/notes.txt",
        "history.jsonl",
        "lock",
        "lock.json",
        "data/corpus.json",
        "checkpoints/1000",
        ".tmp-data",
        "checkpoints",
    ],
)
@pytest.mark.parametrize("before", ["nothing", "a model"])
def test_what_a_person_has_under_our_names_stays(tmp_path: Path, verse, before, name) -> None:
    """Whoever names their project's own directory loses nothing, overwrite=True or not."""
    source = tmp_path / "verse.txt"
    source.write_text(verse, encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".DS_Store").touch()
    if before == "a model":
        ModelState.initfromsrcfile(source, tmp_path, state_size=4, report="silent")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        path.rename(tmp_path / "aside")
    path.write_bytes(b'\n{"mine": "precious"}')
    there = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(WorkdirError, match=f"{re.escape(str(path.name))}|{path.parent.name}"):
            ModelState.initfromsrcfile(
                source, tmp_path, overwrite=overwrite, state_size=4, report="silent"
            )
        assert tree(tmp_path) == there


def test_a_save_does_not_read_all_that_was_saved_before(newmodel, verse, monkeypatch) -> None:
    """Hundreds of checkpoints of 30,000 words would make each round seconds longer."""
    ms = newmodel(verse)
    for _ in range(10):
        ms.newcheckpoint()
        ms.trainmodel(batchsize=2, train_len=1, **QUIET)
    read: list[Path] = []
    inspect = content._inspect

    def counted(path: Path, *arguments: Any) -> Any:
        read.append(path)
        return inspect(path, *arguments)

    monkeypatch.setattr(content, "_inspect", counted)
    ms.trainmodel(batchsize=2, train_len=1, save_every=1e-9, **QUIET)
    assert len(ms.checkpoints()) > 10
    assert len(read) - len(ms.checkpoints()) <= 1


@pytest.mark.parametrize(
    "name, damage",
    [
        ("history.jsonl", lambda data: bytes([data[0] ^ 1]) + data[1:]),
        ("history.jsonl", lambda data: data[:40]),
        ("lock.json", lambda data: bytes(len(data))),
        ("data/corpus.json", lambda data: data[:50]),
        ("checkpoints/0/meta.json", lambda data: b""),
        ("data/._corpus.json", lambda data: b"made by a file manager"),
    ],
)
def test_what_was_ours_and_is_spoilt_makes_room(newmodel, verse, tmp_path, name, damage) -> None:
    """Whoever wants to begin anew in a damaged directory need not clean it up by hand."""
    ms = newmodel(verse)
    ms.trainmodel(batchsize=2, train_len=1, **QUIET)
    path = ms.workdir / name
    path.write_bytes(damage(path.read_bytes() if path.exists() else b""))
    new = ModelState.initfromsrcfile(
        Texts([verse]), ms.workdir, overwrite=True, state_size=4, report="silent"
    )
    assert ModelState.load(ms.workdir).hyper == new.hyper


# ---- The history ----

UNITS = {"characters", "words", "bytes"}
number = st.integers(-3, 9) | st.floats() | st.integers() | st.sampled_from([10**30, 1e300])
value = st.recursive(
    st.none() | st.booleans() | number | st.text(max_size=3),
    lambda part: (
        st.lists(part, max_size=2) | st.dictionaries(st.text(max_size=2), part, max_size=2)
    ),
    max_leaves=4,
)
entry = st.fixed_dictionaries(
    optional={
        "format": st.integers(-1, 2) | value,
        "needs": value,
        "units": st.sampled_from(["words", "\x1b[2J"]) | value,
    },
    mapping={
        "position": number | value,
        "trainloss": number | value,
        "validloss": st.none() | number | value,
        "follows": st.integers(-2, 12) | value,
        "curve": st.lists(st.tuples(number, number).map(list), max_size=2) | value,
    },
)
line = (
    entry.map(json.dumps)
    | value.map(json.dumps)
    | st.text(max_size=20)
    | st.sampled_from(["[" * 100_000, '{"follows": 1, "follows": 9}', "9" * 5000, "\ufeff", "\x85"])
)


@settings(max_examples=60)
@given(lines=st.lists(line, max_size=8), ends=st.lists(st.sampled_from("\n\r\x85\0"), min_size=9))
def test_a_history_of_any_lines_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], ends: list[str]
) -> None:
    """Catches lines that follow each other in a circle, and rounds that cannot be drawn."""
    disk = Workdir(tmp_path_factory.getbasetemp())
    text = "".join(a + b for a, b in zip(lines, ends, strict=False))
    (disk.path / "history.jsonl").write_bytes(text.encode("utf-8", "surrogatepass"))
    with watched():
        for last in (0, 1, len(lines), 10**30):
            try:
                history = disk.history(last, "words")
            except CheckpointTooNew:
                assert "needs" in text
                continue
            assert len(history) <= len(text.splitlines())
            assert "\x1b" not in repr(history) and {each.units for each in history} <= UNITS
            for numbers in (history.losses, history.positions, history.position, history.trainloss):
                assert np.isfinite(numbers).all()
            assert all(each.validloss is None or np.isfinite(each.validloss) for each in history)


@settings(max_examples=40)
@given(parents=st.lists(st.floats(0, 1), min_size=1, max_size=12), torn=st.booleans())
def test_the_rounds_are_those_that_led_here(
    tmp_path_factory: pytest.TempPathFactory, parents: list[float], torn: bool
) -> None:
    """Whoever goes back to an older checkpoint and trains another way has two runs in one file."""
    disk = Workdir(tmp_path_factory.getbasetemp())
    path = disk.path / "history.jsonl"
    path.unlink(missing_ok=True)
    led: list[list[int]] = [[]]
    at = [0]
    for position, share in enumerate(parents, 1):
        parent = int(share * (len(led) - 1))
        event = Round(1, position, 0.0, 3.0, None, None, 1e-3, 1.0, 9, 1.0, None)
        at.append(disk.remember(event, [(position, 3.0)], at[parent]))
        led.append([*led[parent], position])
        if torn:  # by a crash: the next round begins a line of its own
            with path.open("a") as stream:
                stream.write('{"round": 2, "posi')
    for place, expected in zip(at, led, strict=True):
        history = disk.history(place, "characters")
        assert history.position.tolist() == history.positions.tolist() == expected


def test_a_history_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    """What its lines mean is not known; which rngru knows, is said."""
    disk = Workdir(tmp_path)
    event = Round(1, 9, 0.0, 3.0, None, None, 1e-3, 1.0, 9, 1.0, None)
    line = disk.remember(event, [(9, 3.0)], 0)
    assert json.loads((tmp_path / "history.jsonl").read_text())["format"] == 1
    (tmp_path / "history.jsonl").write_text('{"format": 2, "needs": "3.4"}\n')
    with pytest.raises(CheckpointTooNew, match=r"history.jsonl, line 1 has format 2.*rngru '3\.4'"):
        disk.history(line, "characters")


def test_a_history_that_was_removed_begins_anew(newmodel, verse) -> None:
    """Its first line then follows one that is gone, which may be itself."""
    pytest.importorskip("matplotlib")
    ms = newmodel(verse)
    ms.trainmodel(train_len=1, **QUIET)
    (ms.workdir / "history.jsonl").unlink()
    ms.trainmodel(2, train_len=1, **QUIET)
    with watched():
        assert ms.plotloss().exists()
    assert ms.history().position.tolist() == [640, 960]


@pytest.mark.parametrize("level, units", [("char", "characters"), ("word", "words")])
def test_lines_of_the_history_say_their_units(newmodel, verse, level, units) -> None:
    """Catches words that are told as characters; those of a line that is older are the model's."""
    ms = newmodel(verse, level=level)
    ms.trainmodel(2, batchsize=2, train_len=1, **QUIET)
    path = ms.workdir / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [each.pop("units") for each in lines] == [units] * 2
    told = ms.history()
    assert {each.units for each in told} == {units}
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    assert list(ModelState.load(ms.workdir).history()) == list(told)


def test_the_history_of_a_model_is_that_of_all_its_sessions(newmodel, verse) -> None:
    """Catches rounds of one session that another forgets, and those of a run that was left."""
    ms = newmodel(verse)
    assert not ms.history() and ms.history().reason == "past"

    def train(ms: ModelState, rounds: int, **options: Any) -> list[Round]:
        return list(ms.trainmodel(rounds, batchsize=2, train_len=2, **QUIET, **options))

    first = train(ms, 2)
    again = ModelState.load(ms.workdir)
    assert list(again.history()) == first
    left = train(again, 2, learnrate=0.1)
    assert list(again.history()) == first + left and list(ms.history()) == first
    again.restore(int(str(first[0].checkpoint)))
    assert list(again.history()) == first[:1]
    other = train(again, 1)
    last = ModelState.load(ms.workdir)
    assert list(last.history()) == list(again.history()) == first[:1] + other
    last.restore(int(str(left[1].checkpoint)))
    assert list(last.history()) == first + left
    assert last.history().trainloss.tolist() == [each.trainloss for each in first + left]
    elsewhere = newmodel(verse)
    elsewhere.restore(ms.workdir / "checkpoints" / str(first[1].checkpoint))
    assert not elsewhere.history(), "that of another directory is not here"


# ---- Files that are whole, and were written to do harm ----


def leaves(data: dict[str, Any], *before: str) -> Iterator[tuple[str, ...]]:
    """The way to everything in nested dicts."""
    for key, each in data.items():
        yield (*before, key)
        if isinstance(each, dict):
            yield from leaves(each, *before, key)


def changed(data: dict[str, Any], way: tuple[str, ...], value: Any) -> dict[str, Any]:
    """``data`` with one thing in it changed, or taken away by ``...``."""
    data = json.loads(json.dumps(data))
    place = data
    for key in way[:-1]:
        place = place[key]
    if value is ...:
        del place[way[-1]]
    else:
        place[way[-1]] = value
    return data


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    lambda part: st.lists(part, max_size=2) | st.dictionaries(st.text("abc"), part, max_size=2),
    max_leaves=3,
)


WORDS = {"modeltype", "backend", "level", "optimizer", "schedule", "gate"}
"""Names of what a checkpoint says in words."""


@pytest.mark.parametrize("cases", CASES)
def test_a_description_of_a_model_is_not_trusted(good: Path, cases: int) -> None:
    """Catches one that is believed because its sums are right. Who can make the sums can change a
    seed, too; but the model has to be usable, or passed over for the one before it.
    """
    arrays, meta = checkpoint.load(good / "work" / "checkpoints" / "4")
    hyper = ModelState.load(good / "work").hyper
    meta["hyper"] = {name: getattr(hyper, name) for name in HyperParams.settings()}
    known = {bits(Workdir(good / "work").load(step)) for step in (2, 4)}

    @settings(max_examples=cases)
    @given(st.sampled_from(sorted(leaves(meta))), st.just(...) | plain)
    def check(way: tuple[str, ...], value: Any) -> None:
        with copied(good / "work") as work, watched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = changed(meta, way, value)
            if not attempt(checkpoint.save, work / "checkpoints", 4, arrays, saved):
                return
            try:
                ms = ModelState.load(work)
            except (CheckpointTooNew, InputError) as refusal:
                # A word that we do not know is a later version's: that is said, and not passed over.
                assert isinstance(value, str) and way[-1] in WORDS and repr(value) in str(refusal)
                if way != ("backend",):
                    return
                ms = ModelState.load(work, backend="cpu")
            assert bits(ms) in known and ms.chars.vocab_size == ms.hyper.vocab_size
            attempt(ms.generatestring, 3)
            attempt(ms.newcheckpoint)
            assert repr(ms) and repr(ms.checkpoints())

    check()


def more(meta: dict[str, Any]) -> dict[str, Any]:
    """Symbols beyond the end of the arrays."""
    chars = meta["vocabulary"]["symbols"][1:] + "".join(map(chr, range(0x4E00, 0x9000)))
    return meta | {"vocabulary": CharSet(chars).to_json()}


HOSTILE = {
    "symbols without numbers": more,
    "numbers without symbols": lambda meta: meta | {"vocabulary": CharSet("abc").to_json()},
    "sizes beyond memory": lambda meta: (
        meta | {"hyper": meta["hyper"] | {"state_size": 10**6, "layers": 1000}}
    ),
    "a generator out of its range": lambda meta: changed(meta, ("rng", "state", "state"), -1),
    "a position beyond all texts": lambda meta: meta | {"position": 10**400},
    "a length of no batch": lambda meta: meta | {"seq_len": 10**30},
    "tied to an encoder that it lacks": lambda meta: (
        changed(meta, ("hyper", "tied"), True) | {"modeltype": "GRUResize"}
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_model_that_cannot_be_is_passed_over(good: Path, case: str) -> None:
    """Catches memory read beyond the end of an array, or taken by the gigabyte; and a run lost to
    one bad checkpoint.
    """
    with copied(good / "work") as work:
        arrays, meta = checkpoint.load(work / "checkpoints" / "4")
        if "tied" in case:
            symbols, size = arrays["E"].shape
            arrays = {k: v for k, v in arrays.items() if k.split(".")[-1] not in ("E", "a", "V")}
            for key in [key for key in arrays if key.endswith("layers.0.U")]:
                arrays[key] = np.zeros((symbols, 3 * size), np.float32)
        checkpoint.save(work / "checkpoints", 4, arrays, HOSTILE[case](meta))
        tracemalloc.start()
        with pytest.warns(UserWarning, match="(?s)describe a model.*2 is used instead") as said:
            ms = ModelState.load(work)
        assert len(str(said[0].message)) < 5000
        assert tracemalloc.get_traced_memory()[1] < 100e6
        tracemalloc.stop()
        assert ms.position == 20
        with pytest.raises(CheckpointDamaged, match="does not describe a model"):
            ms.restore(4)


@pytest.mark.parametrize("cases", CASES)
def test_a_description_of_a_text_is_not_trusted(good: Path, cases: int) -> None:
    """Catches a text that is cut, mapped as something else, or looked for in another folder."""
    model = Workdir(good / "work").load()
    about = json.loads((good / "work" / "data" / "corpus.json").read_text())["corpus"]

    @settings(max_examples=cases)
    @given(st.sampled_from(sorted(leaves(about))), st.just(...) | plain)
    def check(way: tuple[str, ...], value: Any) -> None:
        with copied(good / "work") as work, watched(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = changed(about, way, value)
            whole = json.dumps({"corpus": told, "digest": _jsondigest(told)})
            (work / "data" / "corpus.json").write_text(whole)
            corpus = Workdir(work).corpus(model.chars, model.corpus)
            if corpus is not None:
                assert (
                    corpus.ids.dtype == np.uint8
                    and Path(corpus.ids.filename).parent == work / "data"
                )
                assert 2 <= corpus.split <= len(corpus) and repr(corpus)
                attempt(corpus.train.batch, 0, 2, 5)

    check()


@pytest.mark.parametrize("where", ["train", "valid"])
def test_a_text_that_was_damaged_ends_no_process(newmodel, verse, where) -> None:
    """An id beyond the symbols is a place beyond the end of a table, which the kernels would read
    and write; they look at no number twice.
    """
    ms = newmodel(verse)
    (path,) = (ms.workdir / "data").glob("ids-*.bin")
    with path.open("r+b") as stream:
        stream.seek(
            0 if where == "train" else -100, os.SEEK_SET if where == "train" else os.SEEK_END
        )
        stream.write(b"\xff" * 100)
    with pytest.raises(CheckpointDamaged, match="holds the id 255, but there are only 50 symbols"):
        ms.trainmodel(train_len=1, **QUIET)
    assert len(ms.generatestring(5).text) == 5


def test_a_text_that_changed_with_its_date_kept_is_noticed(newmodel, verse) -> None:
    """A disk that forgets a bit, or a copy that keeps dates: another id that means something."""
    ms = newmodel(verse)
    (path,) = (ms.workdir / "data").glob("ids-*.bin")
    date, ids = path.stat().st_mtime_ns, bytearray(path.read_bytes())
    ids[7] ^= 1
    path.write_bytes(ids)
    os.utime(path, ns=(date, date))
    with pytest.warns(UserWarning, match="the encoded text has changed: expected SHA-256"):
        ModelState.load(ms.workdir)


# ---- What people have ----


def test_directories_of_every_format_go_on(tmp_path: Path) -> None:
    """Catches a change that forgets the runs people have: a key that has become necessary, a name
    that is another now, arrays in another order.
    """
    found = sorted(GOLDEN.glob("workdir-format*"))
    assert len(found) == checkpoint.FORMAT
    for path in found:
        work = shutil.copytree(path, tmp_path / path.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was made with other libraries
            ms = ModelState.load(work)
        assert (ms.position, ms.seq_len, ms.modeltype, ms.backend) == (5760, 9, "GRUEncode", "cpu")
        assert (ms.hyper.optimizer, ms.hyper.schedule, ms.hyper.dropout) == (
            "adam",
            "plateau",
            0.125,
        )
        assert ms.evaluate().nats == pytest.approx(0.2383069, abs=1e-5)
        assert ms.history().position.tolist() == [2880, 5760]
        assert ms.history().units == "characters", "of lines that do not say it"
        assert ms.restore("best").position == 5760
        history = ms.trainmodel(batchsize=4, train_len=2, **QUIET)
        assert history.losses.mean() < 1 and ms.position == 5832
