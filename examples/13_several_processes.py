"""One model, trained by several processes: here two on this machine, elsewhere one on each of many.

What one learns here:

- ``rngru.distributed`` comes first, with an address at which the first process listens, how many there
  are, and which this is; under SLURM nothing has to be said;
- then each process does the same: it loads the same model and calls ``trainmodel``. Each computes its
  share of the lanes of a batch, so the batch size is for all of them together;
- the first one alone writes checkpoints and says how it goes; the model is afterwards as any other.

At a shell the same is, with the numbers 0 and 1 for I:

    rngru train mytext.txt --workdir DIR --coordinator localhost:4567 --processes 2 --process I

It needs JAX: pip install 'rngru[jax]'.

    python examples/13_several_processes.py [folder]
"""

import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import rngru
from rngru import ModelState, corpora


def work(workdir: Path, seconds: float, coordinator: str, process: int) -> None:
    """Be one of the two processes."""
    rngru.distributed(coordinator, processes=2, process=process)
    ms = ModelState.load(workdir)
    history = ms.trainmodel(batchsize=32, print_every=0, max_seconds=seconds)
    if process == 0:
        print(history)


def main(workdir: Path, seconds: float = 30) -> None:
    """Make a model, have two processes train it, and see what it has become."""
    ms = ModelState.initfromsrcfile(
        corpora.named("pydoc"), workdir, state_size=64, seq_len=20, backend="jax", rng=1
    )
    with socket.socket() as free:  # a port that nobody uses
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"

    command = [sys.executable, __file__, str(workdir), str(seconds), coordinator]
    both = [subprocess.Popen([*command, str(process)]) for process in (0, 1)]
    ends = [process.wait() for process in both]
    if any(ends):
        raise SystemExit("One of the processes has failed.")

    ms = ModelState.load(workdir)
    print(f"{ms}\n\n{ms.generatestring(200, seed='The ', rng=1)}")


if __name__ == "__main__":
    if len(sys.argv) == 5:
        work(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="rngru-")))
