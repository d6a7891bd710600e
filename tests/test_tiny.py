"""Proof of life, in seconds: a text, two steps, a sample, save, load."""

import numpy as np

from rngru import ModelState, Texts


def test_alive(tmp_path):
    """If this fails, read no further."""
    text = Texts(["so it goes, and so it went\n" * 30])
    ms = ModelState.initfromsrcfile(text, tmp_path, state_size=8, seq_len=10, rng=1)
    untrained = ms.parameters()
    history = ms.trainmodel(2, batchsize=2, train_len=1, learnrate=0.01)
    assert len(history) == 2
    assert np.isfinite(history.losses).all()
    assert all((ms.parameters()[name] != untrained[name]).any() for name in untrained)
    sample = ms.generatestring(20, seed="so ", rng=1)
    again = ModelState.load(tmp_path)
    assert again.position == ms.position == 40
    assert len(str(sample)) == 20
    assert str(again.generatestring(20, seed="so ", rng=1)) == str(sample)
