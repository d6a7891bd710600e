"""Lanes read the circular text exactly; encoded corpora are what the text says, or refused."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rngru import corpus as corpora
from rngru import dataset
from rngru.corpus import Corpus, encodecorpus
from rngru.dataset import DataSet, evallanes
from rngru.errors import (
    CheckpointDamaged,
    CheckpointTooNew,
    InputError,
    RngruError,
    TextError,
    WorkdirError,
)
from rngru.text import LEVELS, ByteSet, CharSet, Texts, WordSet, sources

STORY = (
    "“It was a dark and stormy night,” she said —\r\nthe rain fell in torrents…\n日本語 😀\n" * 3
)


def numbered(size):
    """A text in which every symbol tells its own place."""
    return DataSet(np.arange(size, dtype=np.uint16), ByteSet())


# Streams


@given(
    size=st.integers(1, 60),
    batchsize=st.integers(1, 9),
    seq_len=st.integers(1, 13),
    epochs=st.floats(0.1, 2.7),
)
def test_lanes_read_the_circular_text(size, batchsize, seq_len, epochs):
    """Catches characters dropped, repeated or misplaced where lanes meet and where text wraps."""
    data = numbered(size)
    batches = max(1, round(epochs * data.batchepoch(batchsize, seq_len)))
    read = [
        data.batch(n * batchsize * seq_len, batchsize=batchsize, seq_len=seq_len)
        for n in range(batches)
    ]
    x, y = (np.concatenate(side) for side in zip(*read, strict=True))
    for lane in range(batchsize):
        begin = lane * size // batchsize
        assert x[:, lane].tolist() == [(begin + t) % size for t in range(len(x))]
        assert y[:, lane].tolist() == [(begin + t + 1) % size for t in range(len(x))]


@given(size=st.integers(1, 200), batchsize=st.integers(1, 9), seq_len=st.integers(1, 20))
def test_an_epoch_reads_every_character(size, batchsize, seq_len):
    """Catches an epoch that leaves out the last characters of each lane."""
    data = numbered(size)
    batches = data.batchepoch(batchsize, seq_len)
    assert (batches - 1) * batchsize * seq_len < size <= batches * batchsize * seq_len
    seen = np.concatenate(
        [
            data.batch(n * batchsize * seq_len, batchsize, seq_len)[0].ravel()
            for n in range(batches + 1)
        ]
    )
    assert set(seen.tolist()) == set(range(size))


def test_batches_are_what_the_kernels_take():
    data = DataSet(np.arange(100, dtype=np.uint8), ByteSet())
    x, y = data.batch(0, batchsize=7, seq_len=5)
    assert x.shape == y.shape == (5, 7)
    assert x.dtype == y.dtype == np.int32
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous


def test_positions_never_run_out():
    """Catches positions that overflow after long training."""
    data = numbered(10)
    far = 10**30
    assert data.batch(far * 4, 4, 3)[0].tolist() == data.batch(0, 4, 3)[0].tolist()


def test_sizes_that_make_no_sense():
    data = DataSet.fromtext("abcdef")
    for arguments in [{"batchsize": 0}, {"seq_len": 0}, {"position": -1}]:
        with pytest.raises(InputError, match=next(iter(arguments))):
            data.batch(**{"position": 0, **arguments})
    with pytest.raises(InputError, match="batchsize"):
        data.batchepoch(batchsize=-1)
    with pytest.raises(InputError, match="empty"):
        DataSet(np.zeros(0, np.uint8), data.vocab).batch(0)
    for wrong in (np.zeros((2, 2), np.uint8), np.zeros(3), "abc"):
        with pytest.raises(InputError, match="one dimension"):
            DataSet(wrong, data.vocab)


def test_dataset_of_a_string():
    data = DataSet.fromtext("hello")
    assert (len(data), data.vocab, repr(data)) == (5, CharSet("hello"), "DataSet(5 characters)")
    other = CharSet("abcdefgh")
    assert DataSet.fromtext("hello", other).ids.tolist() == other.encode("hello").tolist()
    for short in ("", "a"):
        with pytest.raises(TextError):
            DataSet.fromtext(short)
    with pytest.raises(TextError, match="got 1"):
        DataSet.fromtext("a", other)


@given(size=st.integers(0, 300), sample=st.integers(64, 300))
def test_symbols_are_counted(size, sample):
    """All of a short text; of a long one pieces from all over it, none of them twice."""
    ids = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    counts = DataSet(ids, ByteSet()).counts(sample)
    whole = np.array([np.count_nonzero(ids == symbol) for symbol in range(counts.size)])
    if size <= sample:
        assert counts.tolist() == whole.tolist()
    else:
        assert (counts <= whole).all() and 0.5 * sample < counts.sum() < sample + 64


def test_a_sample_is_of_the_whole_text():
    """The beginning alone would be a preface in another tongue."""
    ids = np.repeat(np.arange(4, dtype=np.uint8), 64_000)
    assert np.array_equal(DataSet(ids, ByteSet()).counts(6_400)[:4], [1_600] * 4)


# Evaluation


@given(
    size=st.integers(1, 150),
    ends=st.tuples(st.integers(0, 150), st.integers(0, 150)),
    seq_len=st.integers(1, 20),
    lanes=st.integers(1, 7),
    warmup=st.integers(1, 30),
    one_lane_below=st.integers(0, 100),
)
def test_every_symbol_is_predicted_once(size, ends, seq_len, lanes, warmup, one_lane_below):
    """Catches symbols counted twice or never, and predictions that lack their warm-up."""
    start, stop = sorted(min(end, size) for end in ends)
    counted = []
    history = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "ONE_LANE_BELOW", one_lane_below)
        chunks = list(
            evallanes(np.arange(size), start, stop, seq_len=seq_len, lanes=lanes, warmup=warmup)
        )
    for x, y, mask in chunks:
        assert x.shape == y.shape == mask.shape
        assert (x.dtype, y.dtype, mask.dtype) == (np.int32, np.int32, bool)
        assert x.shape[0] == seq_len
        assert x.shape[1] <= lanes
        history = x if history is None else np.concatenate([history, x])
        for t, lane in np.argwhere(mask):
            read = history[: len(history) - seq_len + t + 1, lane].tolist()
            target = int(y[t, lane])
            counted.append(target)
            # All that the lane has read is one stretch of the text that ends before the target.
            assert read == list(range(target - len(read), target))
            assert len(read) >= min(warmup, target)
    assert sorted(counted) == list(range(max(start, 1), stop))


def test_one_unbroken_lane_for_short_texts():
    """Catches short validation texts cut up, for which the figure would not be exact."""
    ids = np.zeros(30_000, np.uint8)
    for stop, lanes in [(10_999, 1), (11_000, 20), (30_000, 32)]:
        found = {x.shape for x, _, _ in evallanes(ids, 1_000, stop)}
        assert found == {(100, lanes)}
    assert {x.shape[1] for x, _, _ in evallanes(ids, 1_000, 30_000, lanes=3)} == {3}


def test_ranges_that_make_no_sense():
    ids = np.zeros(10, np.uint8)
    for start, stop in [(-1, 5), (6, 5), (0, 11)]:
        with pytest.raises(InputError, match="not a range"):
            evallanes(ids, start, stop)
    for sizes in [{"seq_len": 0}, {"lanes": 0}, {"warmup": 0}]:
        with pytest.raises(InputError, match=next(iter(sizes))):
            evallanes(ids, **sizes)
    assert list(evallanes(ids, 5, 5)) == list(evallanes(ids, 0, 1)) == []


# The encoded corpus


@pytest.mark.parametrize("block", [1, 3, 10, 1 << 20])
@pytest.mark.parametrize("level", LEVELS)
def test_streamed_encoding_equals_encoding_in_memory(tmp_path, monkeypatch, level, block):
    """Catches blocks that end inside a UTF-8 sequence, a CRLF or a word."""
    monkeypatch.setattr(sources, "BLOCK", block)
    path = tmp_path / "story.txt"
    path.write_bytes(STORY.encode())
    corpus = encodecorpus(path, tmp_path / "data", level=level)
    reference = ByteSet(STORY) if level == "byte" else LEVELS[level](STORY)
    assert corpus.vocab == reference
    assert np.array_equal(corpus.vocab.linestarts, reference.linestarts)
    assert corpus.ids.tolist() == reference.encode(STORY).tolist()
    assert corpus.ids.dtype == reference.dtype
    assert corpus.train.vocab.decode(corpus.ids) == STORY


@pytest.mark.parametrize(
    ("size", "trainfrac", "split"),
    [(100, 0.9, 90), (101, 0.9, 90), (100, 0.29, 29), (7, 0.5, 3), (10, 1.0, 10), (10, 0.99, 9)],
)
def test_the_split_is_exact(tmp_path, size, trainfrac, split):
    """Catches 0.29 · 100 = 28.999… and the last character lost between the two parts."""
    text = "".join(chr(97 + n % 26) for n in range(size))
    corpus = encodecorpus(Texts(text), tmp_path, trainfrac=trainfrac)
    assert (corpus.split, len(corpus.train), len(corpus.valid)) == (split, split, size - split)
    parts = corpus.vocab.decode(corpus.train.ids) + corpus.vocab.decode(corpus.valid.ids)
    assert parts == text


def test_many_files_are_one_corpus_with_known_borders(tmp_path):
    names = ["b.txt", "a.txt", "empty.txt", "c.txt"]
    for name in names:
        (tmp_path / name).write_text(f"{name}\n" * (name != "empty.txt"))
    corpus = encodecorpus([tmp_path / name for name in names], tmp_path / "data")
    assert corpus.vocab.decode(corpus.ids) == "b.txt\na.txt\nc.txt\n"
    assert [start for _, start in corpus.documents] == [0, 6, 12, 12]
    assert [os.path.basename(name) for name, _ in corpus.documents] == names
    assert corpus.vocab.linestarts.sum() == 2


def test_whole_files_are_held_out(tmp_path):
    """Catches held-out files that are trained on as well."""
    for name in "abcd":
        (tmp_path / f"{name}.txt").write_text(f"text {name}\n")
    files = sorted(tmp_path.glob("*.txt"))
    for validfiles in ([files[1], files[3]], f"{tmp_path}/[bd].txt"):
        corpus = encodecorpus(tmp_path / "*.txt", tmp_path / "data", validfiles=validfiles)
        assert corpus.vocab.decode(corpus.train.ids) == "text a\ntext c\n"
        assert corpus.vocab.decode(corpus.valid.ids) == "text b\ntext d\n"
        corpus = encodecorpus(files[:1], tmp_path / "data", validfiles=validfiles)
        assert corpus.vocab.decode(corpus.train.ids) == "text a\n"
    with pytest.raises(TextError, match="validfiles: .*no file matches"):
        encodecorpus(files, tmp_path / "data", validfiles=str(tmp_path / "*.md"))
    with pytest.raises(TextError, match="nothing is left to train on"):
        encodecorpus(files, tmp_path / "data", validfiles=tmp_path / "*.txt")


def test_rare_symbols(tmp_path):
    corpus = encodecorpus(Texts("aaabbbcz" * 2), tmp_path, min_count=3)
    assert corpus.vocab.rare.symbols == ("c", "z")
    assert corpus.ids.tolist() == [1, 1, 1, 2, 2, 2, 0, 0] * 2
    corpus = encodecorpus(Texts("a b a c a"), tmp_path, level="word", max_vocab=3)
    assert isinstance(corpus.vocab, WordSet)
    assert corpus.ids.tolist() == [2, 1, 0, 1, 2, 1, 0, 1, 2]


def test_encoding_reaches_the_files(tmp_path):
    path = tmp_path / "old.txt"
    path.write_bytes("déjà vu".encode("cp1252"))
    with pytest.raises(TextError, match="byte 0xe9 at offset 1, line 1 "):
        encodecorpus(path, tmp_path / "data")
    corpus = encodecorpus(path, tmp_path / "data", encoding="cp1252")
    assert corpus.vocab.decode(corpus.ids) == "déjà vu"


def test_texts_too_short_to_learn_from(tmp_path):
    path = tmp_path / "short.txt"
    for content, message in [
        (b"", r"short\.txt: empty"),
        (b"\xef\xbb\xbf", r"short\.txt: empty"),
        ("é".encode(), r"short\.txt: only one symbol"),
        (b"ab", r"short\.txt: 1 of 2 characters would be for training"),
    ]:
        path.write_bytes(content)
        with pytest.raises(TextError, match=message):
            encodecorpus(path, tmp_path / "data")
    assert len(encodecorpus(path, tmp_path / "data", trainfrac=1.0).train) == 2


def test_arguments_that_make_no_sense(tmp_path):
    for arguments, message in [
        ({"level": "words"}, "Did you mean 'word'"),
        ({"trainfrac": 0}, "trainfrac=0"),
        ({"trainfrac": 1.5}, "trainfrac=1.5"),
        ({"trainfrac": float("nan")}, "trainfrac=nan"),
        ({"encoding": "utf9"}, "utf9"),
        ({"min_count": 0}, "min_count=0"),
        ({"max_vocab": 1}, "max_vocab=1"),
        ({"level": "byte", "max_vocab": 9}, "level='byte'"),
    ]:
        with pytest.raises(InputError, match=message):
            encodecorpus(Texts("some text"), tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_progress_counts_both_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK", 64)
    seen = []
    encodecorpus(Texts(STORY), tmp_path, progress=lambda done, total: seen.append((done, total)))
    size = 2 * len(STORY.encode())
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert len(seen) > 8


# Opening what was written


def test_reopening_gives_the_same(tmp_path):
    made = encodecorpus(Texts(["one\n", "two\n"]), tmp_path, trainfrac=0.5)
    again = Corpus.open(str(tmp_path), made.vocab)
    assert again.ids.tolist() == made.ids.tolist()
    assert again.vocab == made.vocab
    assert (again.split, again.documents, again.digest) == (made.split, made.documents, made.digest)
    assert repr(again) == repr(made)
    assert not again.ids.flags.writeable
    again.verify()


def test_reading_a_batch_does_not_read_the_file(tmp_path):
    """Catches a corpus loaded into memory instead of mapped."""
    corpus = encodecorpus(Texts(STORY), tmp_path)
    assert isinstance(corpus.ids, np.memmap)
    assert np.shares_memory(corpus.train.ids, corpus.ids)
    assert np.shares_memory(corpus.valid.ids, corpus.ids)


def test_another_vocabulary_is_refused(tmp_path):
    """Catches a model trained on ids that mean other characters."""
    encodecorpus(Texts("abcabc"), tmp_path)
    with pytest.raises(InputError, match="expected CharSet"):
        Corpus.open(tmp_path, CharSet("abd"))


def test_folders_without_a_corpus(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(WorkdirError, match="holds no encoded text"):
            Corpus.open(folder)
    with pytest.raises(WorkdirError, match="cannot be written"):
        encodecorpus(Texts("abc"), tmp_path / "file")


def test_every_damaged_byte_is_noticed(tmp_path):
    """Catches a description that is half written, or changed by hand, and believed."""
    corpus = encodecorpus(Texts("abcabc"), tmp_path)
    path = tmp_path / "corpus.json"
    intact = path.read_bytes()
    for at in range(len(intact)):
        path.write_bytes(intact[:at] + bytes([intact[at] ^ 1]) + intact[at + 1 :])
        with pytest.raises(RngruError):
            Corpus.open(tmp_path)
        path.write_bytes(intact[:at])
        with pytest.raises(CheckpointDamaged):
            Corpus.open(tmp_path)
    path.write_bytes(intact)

    (ids,) = tmp_path.glob("ids-*.bin")
    content = ids.read_bytes()
    ids.write_bytes(b"\0" + content[1:])
    with pytest.raises(CheckpointDamaged, match="SHA-256"):
        Corpus.open(tmp_path, corpus.vocab).verify()
    ids.write_bytes(content[1:])
    with pytest.raises(CheckpointDamaged, match="expected 6 bytes, got 5 bytes"):
        Corpus.open(tmp_path)
    ids.unlink()
    with pytest.raises(CheckpointDamaged, match="no such file"):
        Corpus.open(tmp_path)


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "FORMAT", 2)
    encodecorpus(Texts("abcabc"), tmp_path)
    monkeypatch.setattr(corpora, "FORMAT", 1)
    with pytest.raises(CheckpointTooNew, match="format 2"):
        Corpus.open(tmp_path)


def test_an_interrupted_encoding_leaves_the_old_corpus(tmp_path):
    """Catches a corpus lost, or files left behind, when encoding stops half way."""
    before = encodecorpus(Texts("the old text"), tmp_path)
    files = sorted(os.listdir(tmp_path))
    for stop_after in range(1, 4):
        calls = []

        def stop(done, total, calls=calls, stop_after=stop_after):
            calls.append(done)
            if len(calls) == stop_after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            encodecorpus(Texts(["the new", "text!"]), tmp_path, progress=stop)
        assert sorted(os.listdir(tmp_path)) == files
        assert Corpus.open(tmp_path).ids.tolist() == before.ids.tolist()
    after = encodecorpus(Texts("the new text!"), tmp_path)
    assert after.digest != before.digest
    assert len(os.listdir(tmp_path)) == 2
    assert Corpus.open(tmp_path).vocab.decode(after.ids) == "the new text!"


def test_a_killed_encoding_is_started_again_cleanly(tmp_path):
    """Catches leftovers of a killed process that stop the next one."""
    before = encodecorpus(Texts("the old text"), tmp_path)
    script = (
        "import os, sys\n"
        "from rngru.corpus import encodecorpus\n"
        "from rngru.text import Texts\n"
        "stop = lambda done, total: done > total / 2 and os._exit(9)\n"
        "encodecorpus(Texts(['the new', 'text!']), sys.argv[1], progress=stop)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode == 9
    assert (tmp_path / "ids.tmp").exists()
    assert Corpus.open(tmp_path).digest == before.digest
    encodecorpus(Texts("the new text!"), tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_text_that_changes_while_it_is_read(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("abc" * 10)

    def shrink(done, total):
        path.write_text("abc")

    with pytest.raises(TextError, match="changed while it was read"):
        encodecorpus(path, tmp_path / "data", progress=shrink)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("there", [True, False])
def test_an_encoding_that_fails_leaves_no_folder(tmp_path, there):
    """Catches folders made for a text that is too short, or stopped half way; or old ones removed."""
    folder = tmp_path / "deep" / "er" / "data"
    if there:
        folder.mkdir(parents=True)
        os.utime(folder, ns=(10**18, 10**18))

    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encodecorpus(Texts(["one text", "another text"]), folder, progress=stop)
    with pytest.raises(TextError, match="for training"):
        encodecorpus(Texts("ab"), folder)
    if there:
        assert os.listdir(folder) == [] and os.stat(folder).st_mtime_ns == 10**18
    else:
        assert os.listdir(tmp_path) == []


def test_a_full_disk(tmp_path, monkeypatch):
    """Catches half a corpus that passes for a whole one."""

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WorkdirError, match="cannot be written in .*: No space left"):
        encodecorpus(Texts("abc"), tmp_path)
    assert not os.listdir(tmp_path)


def test_the_description_is_plain_json(tmp_path):
    encodecorpus(Texts("abcabc"), tmp_path)
    about = json.loads((tmp_path / "corpus.json").read_text())["corpus"]
    assert (about["total"], about["split"], about["dtype"]) == (6, 5, "|u1")
    assert re.fullmatch("[0-9a-f]{64}", about["sha256"])
