"""Filling gaps: a model that reads in both directions restores missing characters.

What one learns here:

- ``modeltype='BiGRU'`` predicts each character from the text before it and after it;
- ``fillin`` fills several gaps together and lists the alternatives with their probabilities.

    python examples/07_fill_gaps.py [folder]
"""

import sys
import tempfile
from pathlib import Path

from rngru import ModelState, corpora

GAPPED = (
    "the value of th_ expre__ion is a l_st of _bjects",
    "a func_ion is cal_ed with arg_ments",
    "the na_e of the cl_ss is b_und",
)


def main(workdir: Path, seconds: float = 40) -> None:
    """Train a bidirectional model, then let it restore damaged sentences."""
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"),
        workdir,
        modeltype="BiGRU",
        layers=1,
        state_size=128,
        learnrate=0.003,
        rng=1,
    )
    print(
        ms.trainmodel(batchsize=32, train_len=100, valid_len=5, print_every=0, max_seconds=seconds)
    )
    for text in GAPPED:
        filled = ms.fillin(text)
        print(f"{text}\n{filled}")
        for place, alternatives in filled.gaps:
            told = ", ".join(f"{symbol!r} {share:.0%}" for symbol, share in alternatives[:3])
            print(f"    {place}: {told}")
    print(f"On text it has never seen: {ms.evaluate()}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
