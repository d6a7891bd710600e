"""Reading that learns, against a plain loop with gradients of its own."""

import json
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from rngru import HyperParams, ModelState, Texts, corpora, models
from rngru.backends import backend
from rngru.errors import InputError, WorkdirError
from rngru.kernels.recall import FIRST, KEPT, LENGTHS, RATE, Recall
from rngru.reader import Learner, Reader, gathered, learned, score
from rngru.reader.adapting import DECAY, PIECE, PULL, SOMETIMES
from rngru.sampling import probabilities
from rngru.text import CharSet
from tests import reference

TEXT = "the ship drove fast, loud roared the blast, and southward aye we fled; " * 3
CELLS = [
    ("GRUEncode", {"regcost": 0.5, "dropout": 0.4, "clip": 1e-3}),
    ("GRUResize", {"reset_after": True, "gate": "hard_sigmoid"}),
    ("LSTMEncode", {"tied": True}),
    ("RNNResize", {"optimizer": "sgd"}),
]


def newreader(modeltype, name="cpu", **options):
    vocab, model = CharSet(TEXT), models.named(modeltype)
    hyper = HyperParams(vocab.vocab_size, state_size=6, layers=2, **options)
    weights = model.initial(hyper, np.random.default_rng(7))
    return Reader(model, hyper, vocab, weights, backend(name, model, hyper))


def squaresof(reader):
    rng = np.random.default_rng(3)
    return {
        name: rng.uniform(0.01, 1, array.shape).astype(np.float32)
        for name, array in reader.weights.items()
    }


def recalled(chances, ids, begins=0):
    """Probabilities (n, V) of all of ``ids`` (n + 1,) but the first, with what was read before: float64.

    The equations, with dictionaries and whole rows in place of a table and of the symbols that are in it.
    The symbol where another text ``begins`` is read and not predicted.
    """
    followed, weights, found = defaultdict(list), {}, []
    for at, p in enumerate(chances, start=1):
        runs = [tuple(ids[at - k : at].tolist()) for k in LENGTHS if k <= at]
        gains, exponent = {}, np.zeros(len(p))
        for run in runs:
            if latest := followed[run]:
                same = next((i for i, each in enumerate(latest) if each != latest[0]), len(latest))
                counts = np.zeros(len(p))
                np.add.at(counts, latest, 0.5 ** np.arange(len(latest)))
                kind = len(run), same, same < len(latest)
                gains[kind] = np.log(1 + counts / (2 * p))
                exponent += weights.setdefault(kind, FIRST) * gains[kind]
        found.append(p * np.exp(exponent) / (p * np.exp(exponent)).sum())
        for kind, gain in gains.items() if at != begins else ():
            weights[kind] += RATE * (gain[ids[at]] - found[-1] @ gain)
        for run in runs:
            followed[run] = [ids[at], *followed[run]][:KEPT]
    return np.array(found)


@pytest.mark.parametrize("symbols", [2, 5, 300])
def test_what_followed_before_is_likelier_as_the_equations_say(symbols):
    """A run that was looked up before it was stored, or weights that go down the gradient."""
    rng = np.random.default_rng(symbols)
    piece = rng.integers(0, symbols, 40)
    ids = np.concatenate([piece, rng.integers(0, symbols, 60), piece, piece[5:], piece % 2, piece])
    chances = rng.dirichlet(np.full(symbols, 0.3), len(ids) - 1).clip(1e-9)
    chances /= chances.sum(1, keepdims=True)
    recall, found = Recall(), chances.copy()
    recall.learn(ids[0])
    recall.read(found, ids[1:])
    expected = recalled(chances, ids)
    assert np.abs(found - expected).max() < 1e-12
    assert np.abs(found - chances).max() > 0.1
    again, one = Recall(), chances.copy()
    for row, symbol in zip([None, *one], ids, strict=True):
        if row is not None:
            again.foresee(row)
        again.learn(symbol)
    assert np.array_equal(one, found), "a symbol at a time"


def test_two_texts_are_read_one_after_the_other():
    """The first symbol of the second, of which nothing was foreseen, moved the weights by what lay about."""
    rng, recall = np.random.default_rng(1), Recall()
    ids = np.tile(rng.integers(0, 6, 30), 4)
    chances = rng.dirichlet(np.ones(6), len(ids) - 1)
    found = chances.copy()
    for first, last in ((0, 75), (75, len(ids))):
        recall.learn(ids[first])
        recall.read(found[first : last - 1], ids[first + 1 : last])
    expected = recalled(chances, ids, begins=75)
    where = np.arange(len(found)) != 74
    assert np.abs(found - expected)[where].max() < 1e-12


def test_what_is_no_number_is_not_learned():
    """One row of NaN made NaN of the weights, and of all that was read after it."""
    ids, recall = np.arange(60) % 5, Recall()
    chances = np.full((60, 5), 0.2)
    chances[30] = np.nan
    chances[45] = [0, 1, 0, 0, 0]
    recall.read(chances, ids)
    assert np.isnan(chances[30]).any()
    assert np.allclose(np.delete(chances, 30, 0).sum(1), 1) and chances[50, 0] > 0.5
    assert chances[45, 0] > 0, "a model that is sure may be wrong"


def test_a_full_memory_forgets_what_was_long_ago_and_nothing_else():
    """A run that was found where another one stands: what followed that one would be foreseen."""
    ids = np.random.default_rng(5).integers(0, 4, 3000)
    chances = np.full((len(ids), 4), 0.25)
    small, large = chances.copy(), chances.copy()
    Recall(1 << 6).read(small, ids)
    Recall().read(large, ids)
    assert np.allclose(small.sum(1), 1) and np.isfinite(np.log(small)).all()
    assert np.array_equal(small[:4], large[:4]) and not np.array_equal(small, large)
    noise, text = Recall(1 << 6), np.arange(2000)  # no run comes twice, so nothing can be foreseen
    rows = np.full((len(text), len(text)), 1 / len(text))
    noise.read(rows, text)
    assert np.allclose(rows, 1 / len(text), rtol=1e-9)


def byhand(reader, ids, squares, rate):
    """Nats of all symbols but the first, and the parameters at the end: the equations, in float64."""
    first = {name: array.astype(np.float64) for name, array in reader.weights.items()}
    now, mean, logits = first, {n: m.astype(np.float64) for n, m in squares.items()}, []
    usual = np.mean([np.sqrt(m).mean() for m in mean.values()])
    pull = {n: PULL * np.minimum(1, np.sqrt(m) / usual) for n, m in mean.items()}
    state = reader.freshstate().astype(np.float64)
    plain = reader.hyper.replace(regcost=0.0)
    for number, at in enumerate(range(0, len(ids) - 1, PIECE), start=1):
        piece = ids[at : at + PIECE + 1, np.newaxis]
        found = reference.Result(reader.model.name, plain, now, piece[:-1], piece[1:], state)
        logits += [*found.logits[:, 0]]
        mean = {n: DECAY * m + (1 - DECAY) * found.gradients[n] ** 2 for n, m in mean.items()}
        now = {n: now[n] - rate * found.gradients[n] / np.sqrt(mean[n] + 1e-6) for n in now}
        if number % SOMETIMES == 0:
            now = {n: now[n] + pull[n] * (first[n] - now[n]) for n in now}
        state = found.endings
    chances = recalled(probabilities(np.array(logits), 1.0), ids)
    return -np.log(chances[np.arange(len(chances)), ids[1:]]), now


@pytest.mark.parametrize("name", ["cpu", "scan"])
@pytest.mark.parametrize(("modeltype", "options"), CELLS, ids=[kind for kind, _ in CELLS])
def test_it_is_what_the_equations_say(modeltype, options, name):
    """A step before the prediction, a penalty or dropout in it, a state of the new parameters."""
    reader = newreader(modeltype, name, **options)
    text = TEXT[:230]  # five pieces, with a way back before the last one
    ids, squares = reader.encode(text), squaresof(reader)
    expected, weights = byhand(reader, ids, squares, 0.01)
    learner = Learner(reader, squares, 0.01)
    found = score(reader, text, learner=learner).nats
    assert np.abs(found - expected).max() < 2e-5
    for key, array in learner.reader.weights.items():
        assert np.abs(array - weights[key]).max() < 2e-5, key
    assert np.abs(found - score(reader, text).nats).max() > 1e-3, "it has learned"


def test_no_symbol_is_seen_before_it_is_predicted():
    """A figure that nobody can reach who does not know the text."""
    reader = newreader("GRUEncode")
    one, other = TEXT[:150], TEXT[:130] + TEXT[10:30]
    found = [
        score(reader, text, learner=Learner(reader, squaresof(reader), 0.05)).nats
        for text in (one, other)
    ]
    assert np.array_equal(found[0][:129], found[1][:129])
    assert not np.array_equal(found[0][130:], found[1][130:])


def test_the_mean_square_of_gradients_is_gathered():
    """Steps a thousand times too long for a model whose optimizer remembers nothing."""
    reader = newreader("GRUEncode")
    ids = reader.encode(TEXT)
    found, state, means = gathered(reader, ids), reader.freshstate(), None
    number = 0
    for at in range(0, len(ids) - 1, PIECE):
        piece = ids[at : at + PIECE + 1, np.newaxis]
        here = reference.Result(
            "GRUEncode",
            reader.hyper.replace(regcost=0.0),
            reader.weights,
            piece[:-1],
            piece[1:],
            state,
        )
        squares = {n: g**2 for n, g in here.gradients.items()}
        means = means or {n: np.zeros_like(g) for n, g in squares.items()}
        means = {n: DECAY * m + (1 - DECAY) * squares[n] for n, m in means.items()}
        state, number = here.endings, number + 1
    for name, mean in means.items():
        assert np.allclose(found[name], mean / (1 - DECAY**number), rtol=1e-3, atol=1e-7), name


# ---- At the prompt ----


@pytest.fixture(scope="module")
def ms(tmp_path_factory):
    made = ModelState.initfromsrcfile(
        Texts([TEXT * 20]), tmp_path_factory.mktemp("adapting") / "work", state_size=16, seq_len=20,
        optimizer="adam", rng=1, report="silent",
    )  # fmt: skip
    made.trainmodel(1, batchsize=4, train_len=30)
    return made


LETTER = "dear reader! zzz the xylophone, zzz the quartz, zzz the vexed quiz. " * 12
LETTER = "".join(char for char in LETTER if char in TEXT)


def test_the_verbs_agree_and_the_model_stays_as_it_is(ms):
    before = {name: array.tobytes() for name, array in ms.parameters().items()}
    adapted = ms.adapted(LETTER)
    assert adapted.scores[0].nats.tolist() == ms.score(LETTER, adapt=True).nats.tolist()
    mean = ms.score(LETTER, adapt=True).nats.mean()
    assert ms.evaluate(LETTER, adapt=True).nats == pytest.approx(mean, abs=1e-12)
    assert {name: array.tobytes() for name, array in ms.parameters().items()} == before
    assert adapted.evaluate(LETTER).nats < ms.evaluate(LETTER).nats - 0.01
    assert adapted.adapted(LETTER).evaluate(LETTER).nats < adapted.evaluate(LETTER).nats
    assert len(adapted.generatestring(20)) == 20
    assert repr(adapted).startswith("<Adapted: has learned ") and "ModelState" in repr(adapted)


def test_a_larger_rate_moves_more_and_several_texts_are_apart(ms):
    slow, fast = (ms.adapted(LETTER, rate) for rate in (1e-5, 1e-3))
    own, *others = (
        each.parameters() if each is ms else each._reader.weights for each in (ms, slow, fast)
    )
    moved = [sum(np.abs(other[n] - own[n]).sum() for n in own) for other in others]
    assert moved[1] > 10 * moved[0]
    both = ms.score([LETTER, LETTER], adapt=True)
    assert both[0].nats.tolist() == both[1].nats.tolist(), "each begins with the model as it is"
    assert ms.evaluate([LETTER, LETTER], adapt=True).characters == 2 * (len(LETTER) - 1)


def test_the_validation_text_is_read_whole(ms):
    """From its first character, each once, with the training text before it."""
    found = ms.evaluate(adapt=True)
    assert found.characters == ms.evaluate().characters
    ids, start = ms._corpus.validation
    learner = Learner(ms._reader, ms._squares())
    assert learned(learner, ids, start).nats == found.nats


@pytest.mark.parametrize(("size", "rate"), [(6, 1e-3), (200, 5e-4)])
def test_wide_layers_take_small_steps(newmodel, verse, size, rate):
    """A rate found for one size of layers is twice too high for twice that size."""
    ms = newmodel(verse, state_size=size)
    usual, told = (ms.score(LETTER, adapt=adapt).nats.tolist() for adapt in (True, rate))
    assert usual == told


@pytest.mark.parametrize(
    ("optimizer", "cache"), [("rmsprop", "mean"), ("adagrad", "total"), ("adamw", "second")]
)
def test_what_the_optimizer_remembers_is_used(newmodel, verse, optimizer, cache):
    """The running mean of 30 updates taken for that of a thousand: steps five times too long."""
    ms = newmodel(verse, optimizer=optimizer)
    ms.trainmodel(1, batchsize=2, train_len=30, print_every=0)
    now = ms._model.progress
    share = {"mean": 1, "total": 30, "second": 1 - 0.999**30}[cache]
    for name, each in ms._squares().items():
        assert np.allclose(each, now.caches[cache][name] / share, rtol=1e-5)


def test_without_memory_the_training_text_is_asked(newmodel, verse, tmp_path):
    ms = newmodel(verse, optimizer="sgd")
    assert ms._squares().keys() == ms.parameters().keys()
    friend = ModelState.load(ms.pack(tmp_path / "model.rngru", training=False))
    with pytest.raises(WorkdirError, match="holds neither its text"):
        friend.evaluate("the ship", adapt=True)


def test_what_cannot_learn_says_so(ms, newmodel, verse):
    both = newmodel(verse, modeltype="BiGRU")
    for call in (
        lambda: both.adapted("the ship"),
        lambda: ms.clamped({(0, 1): 0.5}).adapted("the ship"),
        lambda: ms.evaluate("the ship", adapt=-1.0),
        lambda: ms.score("the ship", adapt="much"),
        lambda: ms.adapted(""),
    ):
        with pytest.raises(InputError):
            call()


# ---- The model in the box ----


def test_the_model_in_the_box_writes_within_a_second():
    """Something to play with before anything is trained; and not a megabyte in the wheel."""
    code = (
        "import json, os, time, rngru.corpora as c; t = time.perf_counter(); box = c.model();"
        "text = str(box.generatestring(200, temp=0.6, rng=1));"
        "print(json.dumps([time.perf_counter() - t, text, os.path.getsize(box.workdir)]))"
    )
    times = []
    for _ in range(2):  # the first time kernels may be compiled
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        seconds, text, size = json.loads(done.stdout.splitlines()[-1])
        times.append(seconds)
    assert min(times) < 3, "a second where nothing else runs"
    assert len(text) == 200 and size < 1_000_000
    box = corpora.model()
    assert box.evaluate(corpora.pydoc()[-20_000:]).nats < 1.3
