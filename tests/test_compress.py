"""Compressing: the text comes back exactly, its size is its loss, and what cannot be read is refused."""

import math
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rngru import HyperParams, ModelState, Texts, corpora, models
from rngru.backends import backend
from rngru.cli import main
from rngru.compression import compress, decompress
from rngru.compression.coding import END, LEAST, Decoder, Encoder, Spelling, longest
from rngru.compression.files import File
from rngru.errors import CheckpointTooNew, InputError, MissingExtra, TextError, WorkdirError
from rngru.reader import Reader, adapting
from rngru.text import LEVELS

pytest.importorskip("constriction")

ANY = settings(max_examples=25, suppress_health_check=list(HealthCheck))
TEXT = "the ship drove fast, loud roared the blast,\nand southward aye we fled; " * 3


def newreader(level="char", name="cpu", modeltype="GRUEncode", **options):
    vocab, model = LEVELS[level](TEXT), models.named(modeltype)
    hyper = HyperParams(vocab.vocab_size, state_size=6, **options)
    weights = model.initial(hyper, np.random.default_rng(7))
    return Reader(model, hyper, vocab, weights, backend(name, model, hyper))


@cache
def reading(level="char"):
    """The reader of a level, which is made once."""
    return newreader(level)


def again(reader, source, folder, **options):
    """Compress and decompress; return what came back, and the file."""
    found = compress(reader, source, folder / "it.rngz", overwrite=True, **options)
    return decompress(reader, found.path, **options), found.path.read_bytes()


# ---- The coder ----


@ANY
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**32 - 1)), max_size=200))
def test_numbers_come_back_and_take_the_bits_that_theory_says(pairs):
    """A model that changes at each step, and probabilities of zero and of one."""
    rows = [np.random.default_rng(seed).gamma(0.05, size=7).astype(np.float32) for _, seed in pairs]
    rows = [row / row.sum() if row.sum() else np.eye(7, dtype=np.float32)[0] for row in rows]
    encoder = Encoder(number for number, _ in pairs)
    bits = 0.0
    for (number, _), row in zip(pairs, rows, strict=True):
        assert encoder(row) == number
        bits -= math.log2(float(row[number]) + 2**-14 / 7)
    assert 8 * len(encoder.data) <= 1.001 * bits + 64
    decoder = Decoder(encoder.data)
    assert [decoder(row) for row in rows] == [number for number, _ in pairs]


def test_every_symbol_takes_some_bits():
    """A file of ten bytes that says it holds a terabyte."""
    sure = np.eye(300, dtype=np.float32)[0]
    encoder = Encoder([0] * 200_000)
    for _ in range(200_000):
        encoder(sure)
    assert LEAST * 200_000 - 64 < 8 * len(encoder.data) < 200
    assert 200_000 < longest(len(encoder.data)) < 10_000_000


def test_behind_the_end_there_are_no_symbols():
    """A letter of "unknown" that is spelt for ever."""
    even = np.full(256, 1 / 256, np.float32)
    encoder = Encoder(range(200))
    for _ in range(200):
        encoder(even)
    decoder, found = Decoder(encoder.data), []
    with pytest.raises(TextError, match="more bits"):
        while len(found) < 300:
            found.append(decoder(even))
    assert found[:200] == list(range(200)) and len(found) < 220
    with pytest.raises(TextError, match="more bits"):
        Spelling().read(Decoder(b"\0" * 400))


def test_what_is_spelt_often_gets_cheap():
    """21 bits for every Chinese character of a Chinese text."""
    word = "未".encode()
    encoder = Encoder([*word, END] * 200)
    spelling = Spelling()
    sizes = []
    for _ in range(200):
        assert spelling.read(encoder) == word
        sizes.append(8 * len(encoder.data))
    assert sizes[0] <= 64 and sizes[-1] - sizes[99] < 3 * 100


# ---- There and back ----


@ANY
@given(text=st.text(st.characters() | st.sampled_from(TEXT), max_size=120))
@pytest.mark.parametrize("level", ["char", "word"])
def test_any_text_comes_back(level, text, tmp_path_factory):
    """Characters never seen, U+FFFD itself, half a surrogate pair, both kinds of newline."""
    assume(not os.path.isfile(text))  # its name would stand for what is in it
    folder = tmp_path_factory.getbasetemp()
    assert again(reading(level), text, folder)[0] == text


@ANY
@given(data=st.binary(max_size=200))
def test_any_bytes_come_back(data, tmp_path_factory):
    assert again(reading("byte"), data, tmp_path_factory.getbasetemp())[0] == data


@pytest.mark.parametrize("name", ["cpu", "scan"])
@pytest.mark.parametrize(
    ("modeltype", "options"),
    [("GRUResize", {"reset_after": True}), ("LSTMEncode", {"tied": True}), ("RNNResize", {})],
)
def test_every_model_on_every_backend(modeltype, options, name, tmp_path):
    reader = newreader(name=name, modeltype=modeltype, **options)
    assert again(reader, TEXT, tmp_path)[0] == TEXT


def test_a_file_comes_back_as_it_was(tmp_path):
    """Newlines of Windows, a byte order mark, and no newline at the end."""
    path = tmp_path / "a.b.txt"
    path.write_bytes("\ufeffthe ship\r\nßé drove\r fast\n\n".encode())
    for reader in map(reading, LEVELS):
        found = compress(reader, path, overwrite=True)
        assert found.path == tmp_path / "a.b.txt.rngz"
        assert decompress(reader, found.path, tmp_path / "out", overwrite=True) == tmp_path / "out"
        assert (tmp_path / "out").read_bytes() == path.read_bytes()
        assert found.before == path.stat().st_size and found.after == found.path.stat().st_size


@pytest.fixture(scope="module")
def ms(tmp_path_factory, verse):
    made = ModelState.initfromsrcfile(
        Texts([verse]), tmp_path_factory.mktemp("compress") / "work", state_size=16, seq_len=20,
        rng=1, report="silent",
    )  # fmt: skip
    made.trainmodel(1, batchsize=4, train_len=30)
    return made


@pytest.mark.parametrize("adapt", [True, False, 0.002])
def test_the_size_is_the_loss(ms, verse, tmp_path, adapt):
    """Bits lost to a coarse coder, or a model that learns otherwise than score() says."""
    text = "".join(char for char in corpora.pydoc()[:12_000] if char in verse)
    path = tmp_path / "it.rngz"
    found = ms.compress(text, path, adapt=adapt)
    bits = ms.score("\n" + text, adapt=adapt).bits.sum()
    payload = len(File.unpack(path, path.read_bytes()).data)
    assert 8 * payload == pytest.approx(bits, rel=7e-4)
    assert found.after - payload <= 21
    assert found.bits == pytest.approx(8 * found.after / len(text))
    assert ms.decompress(path) == text


def test_learning_that_goes_back_otherwise_is_refused(ms, verse, tmp_path, monkeypatch):
    """Another version's way back: of all learning, what comes last, after several pieces."""
    path = tmp_path / "it.rngz"
    ms.compress(verse * 8, path, adapt=True)
    monkeypatch.setattr(adapting, "PULL", 1.5 * adapting.PULL)
    with pytest.raises(InputError, match="last digits"):
        ms.decompress(path)


def test_learning_helps(ms, verse, tmp_path):
    sizes = [
        ms.compress(verse * 4, tmp_path / f"{adapt}.rngz", adapt=adapt).after
        for adapt in (True, False)
    ]
    assert sizes[0] < sizes[1] < len(verse * 4)


def test_another_process_reads_it(ms, verse, tmp_path, monkeypatch):
    """Also with one thread: what its arithmetic depends on is in the model alone."""
    monkeypatch.setenv("RNGRU_THREADS", "2")
    path = ms.compress(verse, tmp_path / "it.rngz").path
    code = (
        "import sys; from rngru import ModelState; "
        "sys.stdout.write(ModelState.load(sys.argv[1]).decompress(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ms.workdir), str(path)],
        env=os.environ | {"RNGRU_THREADS": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == verse


def test_those_with_neurons_held_and_those_that_have_learned_compress_too(ms, tmp_path):
    for number, other in enumerate((ms.clamped({(0, 1): 0.0}), ms.adapted(TEXT))):
        path = tmp_path / f"{number}.rngz"
        other.compress(TEXT, path, adapt=number == 1)
        assert other.decompress(path) == TEXT
        with pytest.raises(InputError, match="another model"):
            ms.decompress(path)


# ---- What is refused ----


def test_another_model_or_one_that_was_trained_is_refused(ms, newmodel, verse, tmp_path):
    mine = newmodel(verse)
    path = mine.compress(TEXT, tmp_path / "it.rngz", adapt=False).path
    with pytest.raises(InputError, match="another model"):
        ms.decompress(path)
    mine.trainmodel(1, batchsize=2, train_len=2, print_every=0)
    with pytest.raises(InputError, match="restore"):
        mine.decompress(path)
    mine.restore(0)
    assert mine.decompress(path) == TEXT


def test_another_instruction_set_is_refused(ms, verse, tmp_path):
    """Decoded to its end, it is another text."""
    path = ms.compress(verse, tmp_path / "it.rngz").path
    code = (
        "import sys; from rngru import ModelState; from rngru.errors import InputError\n"
        "try: ModelState.load(sys.argv[1]).decompress(sys.argv[2])\n"
        "except InputError as error: print(error)"
    )
    older = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(ms.workdir), str(path)],
        env=os.environ | older, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "fused there, separate here" in done.stdout


def predictotherwise(monkeypatch, reader, changed):
    """Let its backend give ``changed(probabilities, number of the call)``; return the list of its calls."""
    calls, advance = [], type(reader.backend).advance

    def other(*given):
        calls.append(given)
        found = advance(*given)
        return found._replace(probabilities=changed(found.probabilities, len(calls)))

    monkeypatch.setattr(type(reader.backend), "advance", other)
    return calls


def test_other_arithmetic_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    """Another NumPy whose last digits are others, say: here a backend."""
    reader = reading()
    path = compress(reader, TEXT, tmp_path / "it.rngz").path
    calls = predictotherwise(monkeypatch, reader, lambda p, _: np.nextafter(p, np.float32(0)))
    with pytest.raises(InputError, match="last digits"):
        decompress(reader, path)
    assert len(calls) == 200
    monkeypatch.undo()
    with pytest.raises(InputError, match="any here"):
        decompress(newreader(name="scan"), path)


def test_arithmetic_that_differs_later_gives_no_wrong_text(tmp_path, monkeypatch):
    reader = reading()
    path = compress(reader, TEXT, tmp_path / "it.rngz").path
    predictotherwise(monkeypatch, reader, lambda p, n: p if n < 230 else p[:, ::-1].copy())
    with pytest.raises(TextError, match=r"another text|damaged"):
        decompress(reader, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_refused(tmp_path):
    """Each byte changed, each length; and what others wrote."""
    reader = reading()
    path = compress(reader, TEXT[:60], tmp_path / "it.rngz").path
    whole = path.read_bytes()
    begun = time.monotonic()
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 0x55
        path.write_bytes(changed)
        with pytest.raises((TextError, InputError, CheckpointTooNew)):
            decompress(reader, path)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(TextError):
            decompress(reader, path)
    assert time.monotonic() - begun < 60
    with pytest.raises(TextError, match="cannot be read"):
        decompress(reader, tmp_path / "nothing.rngz")


@ANY
@given(data=st.binary(max_size=300), count=st.integers(0, 2**60))
def test_hostile_files_end(data, count, tmp_path_factory):
    """All digests right, and bits that nobody wrote: not a hang, not gigabytes."""
    reader = reading()
    path = tmp_path_factory.getbasetemp() / "hostile.rngz"
    whole = compress(reader, TEXT, path, overwrite=True).path.read_bytes()
    good = File.unpack(path, whole)
    for each in (count, 300):
        bad = File(good.rounding, False, good.model, good.arithmetic, good.text, each, data)
        if each > longest(len(data)) or each == 300:
            path.write_bytes(bad.pack())
            with pytest.raises(TextError, match=r"damaged|another text"):
                decompress(reader, path)


@ANY
@given(
    st.sampled_from(["", "fused", "separate"]),
    st.booleans() | st.just(1.0) | st.floats(2**-30, 2**10, width=32),
    st.integers(0, 2**62),
    st.binary(max_size=20),
)
def test_files_say_what_they_were_told(rounding, rate, count, data):
    file = File(rounding, rate, b"ab", b"cd", b"efgh", count, data * 4)
    again = File.unpack("it", file.pack())
    assert again == file and type(again.rate) is type(rate)


def test_later_formats_are_too_new():
    packed = bytearray(File("", False, b"ab", b"cd", b"efgh", 1, b"").pack())
    packed[3] += 1 << 4
    with pytest.raises(CheckpointTooNew, match="newer rngru"):
        File.unpack("it", bytes(packed))


def test_files_that_are_there_stay(ms, tmp_path):
    there = tmp_path / "there.txt"
    there.write_text("mine")
    path = ms.compress(TEXT, tmp_path / "it.rngz", adapt=False).path
    for call in (
        lambda: ms.compress(TEXT, there),
        lambda: ms.decompress(path, there),
        lambda: ms.decompress(path, tmp_path),
        lambda: ms.compress(TEXT),
        lambda: ms.compress(7),
        lambda: ms.compress(TEXT, tmp_path / "new", adapt="much"),
        lambda: ms.compress(TEXT, tmp_path / "new", adapt=-1),
    ):
        with pytest.raises(InputError):
            call()
    with pytest.raises(WorkdirError, match="no directory"):
        ms.compress(TEXT, tmp_path / "no" / "where")
    assert there.read_text() == "mine"
    assert ms.decompress(path, there, overwrite=True).read_text() == TEXT
    assert {each.name for each in tmp_path.iterdir()} == {"there.txt", "it.rngz"}


def test_what_is_no_text_and_what_reads_both_ways(tmp_path):
    path = tmp_path / "it.bin"
    path.write_bytes(b"the ship \xff drove")
    with pytest.raises(TextError, match=r"offset 9.*level='byte'"):
        compress(reading(), path)
    both = newreader(modeltype="BiGRU")
    with pytest.raises(InputError, match="both sides"):
        compress(both, TEXT, tmp_path / "it.rngz")


def test_what_cannot_learn_says_how_to_compress_all_the_same(ms, newmodel, verse, tmp_path):
    plain = newmodel(verse, optimizer="sgd")
    friend = ModelState.load(plain.pack(tmp_path / "model.rngru", training=False))
    for other in (friend, ms.clamped({(0, 1): 0.0})):
        with pytest.raises((InputError, WorkdirError), match="adapt=False"):
            other.compress(TEXT, tmp_path / "it.rngz")
    friend.compress(TEXT, tmp_path / "it.rngz", adapt=False)
    assert plain.decompress(tmp_path / "it.rngz") == TEXT, "the same model, elsewhere"
    with pytest.raises(InputError, match=r"no file 'letter.txt'"):
        ms.compress("letter.txt")


def test_without_the_coder_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "constriction", None)
    with pytest.raises(MissingExtra, match=r"rngru\[compress\]"):
        compress(reading(), TEXT, tmp_path / "it.rngz")


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_whoever_stops_in_the_middle_leaves_nothing(ms, verse, tmp_path, number):
    code = (
        "import sys; from rngru import ModelState; ms = ModelState.load(sys.argv[1])\n"
        "text = open(sys.argv[2]).read() * 1000; ms.compress(text[:100], sys.argv[3], overwrite=True)\n"
        "print('begun', flush=True); ms.compress(text, sys.argv[4])"
    )
    source, folder = tmp_path / "verse.txt", tmp_path / "out"
    folder.mkdir()
    source.write_text(verse)
    process = subprocess.Popen(
        [sys.executable, "-c", code, ms.workdir, source, tmp_path / "it.rngz", folder / "it.rngz"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "begun\n"
    time.sleep(1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode and not list(folder.iterdir())
    assert number == signal.SIGKILL or "KeyboardInterrupt" in errors


# ---- At a shell, and at the prompt ----


def test_the_commands_agree_with_the_verbs(ms, verse, tmp_path, capsys):
    path = tmp_path / "verse.txt"
    path.write_text(verse)
    assert main(["compress", str(ms.workdir), str(path)]) == 0
    assert "bits per character" in capsys.readouterr().out
    assert main(["decompress", str(ms.workdir), f"{path}.rngz"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    path.unlink()
    assert main(["decompress", str(ms.workdir), f"{path}.rngz"]) == 0
    assert capsys.readouterr().out == f"{path}\n" and path.read_text() == verse
    plain = tmp_path / "plain"
    assert main(["compress", str(ms.workdir), str(path), "-o", str(plain), "--no-adapt"]) == 0
    assert File.unpack(plain, plain.read_bytes()).rate is False
    assert main(["decompress", str(ms.workdir), str(plain)]) == 2
    assert "-o PATH" in capsys.readouterr().err


def test_a_record_tells_the_sizes(tmp_path):
    shown = repr(compress(reading("byte"), b"\xff" * 50, tmp_path / "it.rngz"))
    assert shown.startswith("50 bytes to ") and "bits per byte" in shown
    empty = compress(reading(), "", tmp_path / "empty.rngz")
    assert empty.after < 25 and decompress(reading(), empty.path) == ""
    assert Path(empty.path).name in repr(empty)


@pytest.mark.parametrize("name", ["cpu", "scan"])
def test_reading_one_symbol_is_reading(name):
    """Probabilities after one symbol against those of a trace of the whole text."""
    reader = newreader(name=name, modeltype="LSTMResize")
    ids, state = reader.encode(TEXT[:30]), reader.freshstate(2)
    trace = reader.backend.trace(reader.weights, np.stack([ids, ids[::-1]], axis=1), state)
    for at in range(30):
        given = np.array([ids[at], ids[-1 - at]], np.int32)
        found, state = reader.backend.advance(reader.weights, given, state)
        logits = trace.logits[at].astype(np.float64)
        wanted = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        assert found.dtype == np.float32 and np.abs(found - wanted).max() < 1e-6
    assert np.abs(state - trace.ending).max() < 1e-6
