"""The ``jax`` backend on several devices and in several processes: the numbers of one device.

Run as a script, this file is one process of a run: it trains, and prints the losses and a digest of the
parameters.
"""

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytensor.tensor as pt
import pytest

import rngru
from rngru import ModelState, cells, checkpoint, models
from rngru.backends import backend, freshcaches
from rngru.backends.team import Team
from rngru.errors import InputError, RngruError
from rngru.hyper import HyperParams
from rngru.reader import Reader
from rngru.sampling import Sampling
from rngru.text import CharSet
from tests.robust import until

ROOT = Path(__file__).parents[1]

LANES, STEPS, BATCHES = 8, 6, 15
NOISY = {"dropout": 0.2, "dropconnect": 0.2, "embed_dropout": 0.1, "ar": 1.0, "average": 0.9}
HYPER = {"state_size": 12, "optimizer": "adam", "learnrate": 0.01, **NOISY}


def trained(lanes=LANES):
    """Train a small model: (losses and gradient lengths, digest of what was learnt, validation loss,
    what is to be said of its lanes, and of one more).
    """
    model, hyper = models.GRUEncode, HyperParams(7, **HYPER)
    rng = np.random.default_rng(1)
    computes, arrays = backend("jax", model, hyper), model.initial(hyper, rng)
    caches, state = freshcaches(arrays, hyper), computes.freshstate(lanes)
    own, losses = computes.share(lanes), []
    text = rng.integers(0, 7, 40).astype(np.int32)
    for number in range(1, BATCHES + 1):
        at = (number * STEPS + 5 * np.arange(lanes) + np.arange(STEPS + 1)[:, np.newaxis]) % 40
        x, y = text[at[:-1]][:, own], text[at[1:]][:, own]
        noise = model.noise(hyper, STEPS, lanes, rng)
        step = computes.step(arrays, caches, x, y, state, 0.01, number=number, noise=noise)
        arrays, caches, state = step.arrays, step.caches, step.state
        losses.append([step.loss, step.gradnorm])
    vocab = CharSet("abcdef")
    reader = Reader(model, hyper, vocab, arrays, computes, together=True)
    nats = np.concatenate(list(reader.losses(np.resize(text, 12_000), 0, 12_000)))
    assert nats.shape == (11_999,), "every symbol once"
    valid = [round(float(nats.mean()), 5)]
    found = {**computes.fetch(arrays), **computes.fetch({"state": state})}
    digest = hashlib.sha256(b"".join(each.tobytes() for each in found.values())).hexdigest()
    return losses, digest, valid, [computes.remark(count) for count in (lanes, lanes + 1)]


def processes(count, devices=1, more=()):
    """Run this file in so many processes at a time, each with so many devices, and return what they print."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    running = [
        subprocess.Popen(
            [sys.executable, __file__, *(each.format(i=i) for each in more)],
            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(count)
    ]
    answers = [process.communicate(timeout=200)[0] for process in running]
    assert not any(process.returncode for process in running)
    return [json.loads(answer.splitlines()[-1]) for answer in answers]  # gloo talks, too


def close(found, wanted):
    """Losses agree to 1e-6; where the gradient is nearly nothing, its length to a little less."""
    np.testing.assert_allclose(np.array(found)[:, 0], np.array(wanted)[:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.array(found)[:, 1], np.array(wanted)[:, 1], rtol=1e-5)


def coordinator():
    """An address that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def four():
    """What two processes print that know nothing of each other, and have four devices each."""
    pytest.importorskip("jax")
    return processes(2, devices=4)


def test_four_devices_compute_what_one_does(four):
    """A gradient that is summed twice or not at all, or a lane with another's noise, shows in a few steps."""
    one, again = four
    assert one == again, "two equal runs, to the bit"
    close(one[0], trained()[0])


def test_two_processes_compute_what_two_devices_do():
    """To the bit: a process feeds and draws noise for its own lanes only, and all have the same sum."""
    pytest.importorskip("jax")
    one, other = processes(2, more=(coordinator(), "2", "{i}"))
    (alone,) = processes(1, devices=2)
    assert one == other == alone


@pytest.mark.long
def test_four_processes_compute_what_one_does():
    """Two lanes each: what comes from a process that is neither first nor last has its place, too."""
    pytest.importorskip("jax")
    runs = [processes(4, more=(coordinator(), "4", "{i}")) for _ in range(2)]
    first = runs[0][0]
    assert all(each == first for run in runs for each in run), "two equal runs, to the bit"
    close(first[0], trained()[0])


@pytest.mark.parametrize("truncate", [-1, 2])
def test_a_cell_of_ones_own_has_its_gradient_from_jax(registered, truncate):
    """There is no step backwards for it, and its state is wider than what it puts out."""
    pytest.importorskip("jax")

    def two(pre, state, gate, recurrent):
        size = state.shape[1] // 2
        slow = gate(pre[:, :size]) * state[:, size:] + pre[:, size:]
        return pt.concatenate([pt.tanh(slow + state[:, :size] @ recurrent[:, size:]), slow], axis=1)

    cells.register("Two", two, gates=["z", "c"], state=2)
    model, rng = models.MODELS["TwoEncode"], np.random.default_rng(1)
    hyper = HyperParams(7, state_size=5, bptt_truncate=truncate)
    arrays, ids = model.initial(hyper, rng), rng.integers(0, 7, (4, 3)).astype(np.int32)
    steps = []
    for name in ("scan", "jax"):
        computes = backend(name, model, hyper)
        state, caches = computes.freshstate(3) + np.float32(0.1), freshcaches(arrays, hyper)
        steps.append(computes.step(arrays, caches, ids, ids[::-1].copy(), state, 0.01))
    for key, mean in steps[0].caches["mean"].items():  # squares of the gradients
        np.testing.assert_allclose(steps[1].caches["mean"][key], mean, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(steps[1].state, steps[0].state, atol=1e-6)


def test_products_are_as_precise_as_was_asked(monkeypatch):
    """JAX's default on a GPU is less than float32; on a CPU one sees only what it is asked for."""
    jax = pytest.importorskip("jax")
    asked, default = [], jax.default_matmul_precision
    monkeypatch.setattr(
        jax, "default_matmul_precision", lambda how: asked.append(how) or default(how)
    )
    ids = np.zeros((1, 1), np.int32)
    for precision in ("float32", "bf16"):
        computes = backend("jax", models.RNNEncode, HyperParams(7, 4, precision=precision))
        arrays = computes.model.initial(computes.hyper, np.random.default_rng(1))
        computes.losses(arrays, ids, ids, computes.freshstate(1))
    assert asked == ["float32", "BF16_BF16_F32"]


@pytest.mark.parametrize("modeltype", ["GRUEncode", "BiLSTM"])
def test_everything_at_once_is_what_it_is_on_cpu(modeltype):
    """What is written in PyTensor is in JAX without being written again; nothing may be left out."""
    pytest.importorskip("jax")
    more = {"layernorm": True, "residual": True, "dropout_in": 0.2, "tar": 1.0, "smoothing": 0.1}
    model, rng = models.MODELS[modeltype], np.random.default_rng(1)
    hyper = HyperParams(7, 6, **NOISY, **more)
    arrays, ids = model.initial(hyper, rng), rng.integers(0, 7, (7, 3)).astype(np.int32)
    noise, steps = model.noise(hyper, 7, 3, rng), []
    for name in ("cpu", "jax"):
        computes = backend(name, model, hyper)
        state, caches = computes.freshstate(3), freshcaches(arrays, hyper)
        steps.append(computes.step(arrays, caches, ids, ids, state, 0.01, number=2, noise=noise))
    one, other = steps
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.gradnorm == pytest.approx(other.gradnorm, rel=1e-5)
    for cache, values in one.caches.items():
        for name, array in values.items():
            np.testing.assert_allclose(other.caches[cache][name], array, atol=1e-5, err_msg=name)


def test_steps_side_by_side_are_the_same_steps(monkeypatch):
    """As they are compiled for a GPU; of seven steps, some are left over."""
    pytest.importorskip("jax")
    from rngru.backends.jaxed import layers

    model, hyper, rng = models.LSTMEncode, HyperParams(7, 4), np.random.default_rng(1)
    arrays, ids = model.initial(hyper, rng), rng.integers(0, 7, (7, 3)).astype(np.int32)
    steps, caches = [], freshcaches(arrays, hyper)
    for many in (1, 3):
        monkeypatch.setattr(layers, "UNROLL", {"cpu": many})
        computes = backend("jax", model, hyper)
        steps.append(computes.step(arrays, caches, ids, ids, computes.freshstate(3), 0.01))
    for name, array in steps[0].arrays.items():
        np.testing.assert_allclose(steps[1].arrays[name], array, atol=1e-6)


def test_text_drawn_in_rounds_is_the_same_text(monkeypatch):
    """As it is compiled for a GPU: of 23 symbols three are left over."""
    pytest.importorskip("jax")
    from rngru.backends.jaxed import drawing

    model, hyper, rng = models.GRUEncode, HyperParams(7, 4, layers=2), np.random.default_rng(1)
    arrays, ids, uniforms = model.initial(hyper, rng), np.array([1, 5]), rng.random((23, 2))
    texts = []
    for several in (1, 4):
        monkeypatch.setattr(drawing, "ROUND", {"cpu": several})
        computes = backend("jax", model, hyper)
        sampling = Sampling(0.8, repeat=1.1, repeat_last=3)
        texts.append(
            computes.generate(
                arrays, ids, computes.freshstate(2), uniforms, sampling, recent=ids[None]
            )
        )
    assert np.array_equal(texts[1].ids, texts[0].ids)
    np.testing.assert_allclose(texts[1].ending, texts[0].ending, atol=1e-6)
    np.testing.assert_allclose(texts[1].logprobs, texts[0].logprobs, atol=1e-5)


def test_a_loop_computes_only_what_changes_in_it():
    """On a GPU the halves of a matrix were cut apart again for each symbol."""
    pytest.importorskip("jax")
    from rngru.backends.jaxed.computing import parted

    weights, x = pt.fmatrix("weights"), pt.fvector("x")
    before, after = parted([weights, x], [x * pt.exp(weights[:, :2]).sum(), weights], 1)
    given, vector = np.arange(6, dtype=np.float32).reshape(2, 3) / 5, np.ones(4, np.float32)
    kept = before(given)
    assert sorted(np.shape(each) for each in kept) == [(1,), (2, 3)]
    product, same = after(*kept, vector)
    np.testing.assert_allclose(product, np.full(4, np.exp(given[:, :2]).sum()), rtol=1e-6)
    assert np.array_equal(same, given)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_says_that_jax_cannot_compute_there():
    """It waited for ever for threads that only its parent has."""
    pytest.importorskip("jax")
    computes = backend("jax", models.RNNEncode, HyperParams(7, 4))
    arrays, ids = (
        computes.model.initial(computes.hyper, np.random.default_rng(1)),
        np.zeros((1, 1), int),
    )
    state = computes.freshstate(1)
    child = os.fork()
    if not child:
        try:
            computes.losses(arrays, ids, ids, state)
        except RngruError:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


FULL = "RESOURCE_EXHAUSTED: out of memory while trying to allocate"


def test_a_device_without_memory_is_told_of_as_such():
    """It is an error of JAX's own, of one type or another; and it may be that nobody knows what fits."""
    jax = pytest.importorskip("jax")
    from rngru.backends.jaxed.processes import failing

    def unknown():
        raise jax.errors.JaxRuntimeError(FULL)

    for kind in (jax.errors.JaxRuntimeError, ValueError):
        with pytest.raises(MemoryError, match=FULL), failing():
            raise kind(FULL)
        with pytest.raises(MemoryError), failing(unknown):
            raise kind(FULL)
        with pytest.raises(kind, match="INTERNAL"), failing():
            raise kind("INTERNAL: something else")
    with pytest.raises(InputError, match="one of ours"), failing():
        raise InputError("one of ours")


def test_a_batch_that_does_not_fit_is_answered_with_one_that_does(newmodel, monkeypatch):
    """By what XLA counts for the steps that are really called; noise lies on the device as well."""
    pytest.importorskip("jax")
    from rngru.backends.jaxed import memory
    from rngru.backends.jaxed.backend import JAX

    sizes = {"modeltype": "RNNEncode", "layers": 1, "state_size": 4, "seq_len": 6, "dropout": 0.2}
    ms = newmodel("what does not fit is to be cut. " * 90, backend="jax", **sizes)
    counts, function = {}, JAX._function

    def full(self, name, devices, shared):
        compiled = function(self, name, devices, shared)

        def call(values, kept, x, *others):
            found = compiled.lower(values, kept, x, *others).compile().memory_analysis()
            given = sum(each.nbytes for each in [*values, *kept])
            counts[x.shape[1]] = (
                found.argument_size_in_bytes - given
                + found.output_size_in_bytes + found.temp_size_in_bytes
            )  # fmt: skip
            raise ValueError(FULL)

        call.lower = compiled.lower
        return call

    def answer(lanes):
        with pytest.raises(InputError, match=f"A batch of {lanes} x 6 does not fit") as told:
            ms.trainmodel(batchsize=lanes, train_len=1, print_every=0)
        return str(told.value)

    monkeypatch.setattr(JAX, "_function", full)
    assert "Choose a smaller batchsize" in answer(64), "nobody knows what is free"
    room = int(0.7 * counts[64])
    monkeypatch.setattr(memory, "free", lambda: room)
    fits = int(re.search(r"batchsize=(\d+) should fit", answer(64))[1])
    monkeypatch.setattr(memory, "free", lambda: 0)
    assert "Not even one lane does" in answer(fits)
    answer(fits * 5 // 4)
    assert counts[fits] <= 0.9 * room < counts[fits * 5 // 4]


def test_what_the_host_has_free_says_nothing_of_a_gpu(newmodel, monkeypatch):
    """Small hosts have large cards: a batch was refused that the card had room for."""
    jax = pytest.importorskip("jax")
    monkeypatch.setattr("rngru.training.memory.SMALL", 0)
    monkeypatch.setattr("rngru.training.memory.available", lambda: 0)
    ms = newmodel("it fits there and not here " * 9, backend="jax", layers=1, seq_len=4)
    with pytest.raises(InputError, match="0.0 GB are free"):
        ms.trainmodel(batchsize=2, train_len=1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ms.trainmodel(batchsize=2, train_len=1)


GONE = "The same command goes on from the last checkpoint."


@pytest.fixture
def together(tmp_path, monkeypatch):
    """Start two processes that train one model until they are told to stop; they end with the test."""
    pytest.importorskip("jax")
    monkeypatch.setenv("RNGRU_HEARTBEAT", "10")
    line = [
        sys.executable, "-m", "rngru", "train", str(ROOT / "tests" / "verse.txt"),
        "--workdir", str(tmp_path / "model"), "--processes", "2", "--seconds", "100",
        "--train-len", "200", "--save-every", "0.5", "--batchsize", "4", "--state-size", "8",
        "--seq-len", "10", "--rng", "1", "--report", "plain", "--print-every", "0",
    ]  # fmt: skip
    started = []

    def start(beyond=4):
        """Start both, and return them when they have saved more than so many batches."""
        where = coordinator()
        for i in range(2):
            command = [*line, "--coordinator", where, "--process", str(i)]
            with open(tmp_path / f"{i}.txt", "w") as told:
                started.append(subprocess.Popen(command, cwd=ROOT, stdout=told, stderr=told))
        saved = tmp_path / "model" / "checkpoints"
        until(lambda: max(checkpoint.steps(saved), default=0) > beyond)
        return started[-2:]

    yield tmp_path, start
    for process in started:
        process.kill()
        process.wait()


def test_a_signal_at_one_process_ends_all_after_the_same_batch(together):
    """One that stops alone leaves the others waiting for ever, and what it has learnt is not saved."""
    folder, start = together
    running = start()
    running[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in running] == [130, 128 + signal.SIGTERM]
    with pytest.warns(UserWarning, match="Saved with backend jax"):
        ms = ModelState.load(folder / "model", backend="cpu")
    newest = ms.checkpoints()[-1].step
    assert newest > 4 and "interrupted" in (folder / "0.txt").read_text()
    straight = ModelState.initfromsrcfile(
        ROOT / "tests" / "verse.txt",
        folder / "one",
        state_size=8,
        seq_len=10,
        rng=1,
        report="silent",
    )
    straight.trainmodel(batchsize=4, train_len=newest, print_every=0)
    assert straight.position == ms.position
    for name, array in straight.parameters().items():
        np.testing.assert_allclose(ms.parameters()[name], array, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_dies_the_other_ends_and_one_goes_on(together, victim):
    """It waited for ever for its sum; and what was saved last must be whole, for any number of processes."""
    folder, start = together
    running = start()
    running[victim].kill()
    assert running[1 - victim].wait(60) != 0
    until(lambda: GONE in (folder / f"{1 - victim}.txt").read_text().splitlines()[-1])
    ms = ModelState.load(folder / "model")
    before = ms.position
    assert before == 40 * ms.checkpoints()[-1].step > 0
    ms.trainmodel(1, train_len=2, print_every=0, report="silent")
    assert ms.position == before + 80 and ms.backend == "jax"


FAULTS = [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 0), (signal.SIGSTOP, 1),
          (signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGTERM, 1), (signal.SIGSTOP, 0)]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("number", range(20))
def test_whatever_happens_to_one_the_same_command_goes_on(together, number):
    """In the middle of a batch, a validation or a save, of the process that coordinates or of another."""
    folder, start = together
    how, victim = FAULTS[number % len(FAULTS)]
    running = start()
    time.sleep(2 * random.Random(number).random())
    running[victim].send_signal(how)
    ends = [running[1 - victim].wait(60)]
    if how == signal.SIGTERM:
        ends.append(running[victim].wait(60))
        assert ends == [130, 128 + how]
        assert all(GONE not in (folder / f"{i}.txt").read_text() for i in range(2))
    else:
        assert ends != [0]
        until(lambda: GONE in (folder / f"{1 - victim}.txt").read_text().splitlines()[-1])
    running[victim].kill()
    running[victim].wait()
    saved = ModelState.load(folder / "model")
    before = saved.checkpoints()[-1].step
    assert saved.position == 40 * before > 0
    running = start(beyond=before)
    running[1].send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in running] == [130, 128 + signal.SIGTERM]
    ms = ModelState.load(folder / "model")
    assert ms.position == 40 * ms.checkpoints()[-1].step > saved.position


def test_processes_that_differ_are_named():
    """Else the sum of two models' gradients trains neither, and nothing shows it."""
    team, facts, rows = Team(), {"the text": "a", "settings": 1}, []
    team.count = 2
    team.gather = lambda own: rows.append(own) or np.array([rows[0], own])
    team.compare(facts)
    with pytest.raises(InputError, match=r"process 1: settings\. "):
        team.compare(facts | {"settings": 2})


def test_lanes_that_cannot_be_shared_are_told_of(four):
    """All devices would have computed the whole batch, and nobody would have known."""
    assert four[0][-1] == [
        "4 devices share each batch, 2 lanes each.",
        "4 devices could share a batch, but not one of 9 lanes: each computes all of it. "
        "batchsize=12 would use them.",
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        rngru.distributed(sys.argv[1], *map(int, sys.argv[2:]))
    sys.stdout.write(json.dumps(trained()))
