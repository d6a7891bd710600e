"""The ``jax`` backend on several devices and in several processes: the numbers of one device.

Run as a script, this file is one process of a run: it trains, and prints the losses and a digest of the
parameters.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import rngru
from rngru import models
from rngru.backends import backend, freshcaches
from rngru.hyper import HyperParams

LANES, STEPS, BATCHES = 8, 6, 50
HYPER = {"state_size": 12, "optimizer": "adam", "dropout": 0.2, "learnrate": 0.01}


def trained(lanes=LANES):
    """Train a small model: (losses, gradient lengths, digest of what was learnt)."""
    model, hyper = models.GRUEncode, HyperParams(7, **HYPER)
    rng = np.random.default_rng(1)
    computes, arrays = backend("jax", model, hyper), model.initial(hyper, rng)
    caches, state = freshcaches(arrays, "adam"), computes.freshstate(lanes)
    own, losses = computes.share(lanes), []
    text = rng.integers(0, 7, 40).astype(np.int32)
    for number in range(1, BATCHES + 1):
        at = (number * STEPS + 5 * np.arange(lanes) + np.arange(STEPS + 1)[:, np.newaxis]) % 40
        x, y = text[at[:-1]][:, own], text[at[1:]][:, own]
        noise = model.noise(hyper, STEPS, lanes, rng)
        step = computes.step(arrays, caches, x, y, state, 0.01, number=number, noise=noise)
        arrays, caches, state = step.arrays, step.caches, step.state
        losses.append([step.loss, step.gradnorm])
    found = {**computes.fetch(arrays), **computes.fetch({"state": state})}
    digest = hashlib.sha256(b"".join(each.tobytes() for each in found.values())).hexdigest()
    return losses, digest


def processes(count, devices=1, more=()):
    """Run this file in so many processes at a time, each with so many devices, and return what they print."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    running = [
        subprocess.Popen(
            [sys.executable, __file__, *(each.format(i=i) for each in more)],
            env=os.environ | {"XLA_FLAGS": flags},
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


def test_four_devices_compute_what_one_does():
    """A gradient that is summed twice or not at all, or a lane with another's noise, shows in a few steps."""
    pytest.importorskip("jax")
    one, again = processes(2, devices=4)
    assert one == again, "two equal runs, to the bit"
    close(one[0], trained()[0])


def test_two_processes_compute_what_two_devices_do():
    """To the bit: a process feeds and draws noise for its own lanes only, and all have the same sum."""
    pytest.importorskip("jax")
    one, other = processes(2, more=(coordinator(), "2", "{i}"))
    (alone,) = processes(1, devices=2)
    assert one == other == alone


if __name__ == "__main__":
    if sys.argv[1:]:
        rngru.distributed(sys.argv[1], *map(int, sys.argv[2:]))
    sys.stdout.write(json.dumps(trained()))
