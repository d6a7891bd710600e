"""What a type checker says of a user's own file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

USED = """
from rngru import ModelState

ms = ModelState.load("work")
sample = ms.generatestring(50, rng=1)
several, hot = ms.generatestring(50, streams=3), ms.generatestring(50, [0.5, 1.0])
other, state = ms.generatestring(50, ret_state=True)
print(sample.text, several[0], hot[1], other.logprob, state.shape)
print(ms.trackneurons("abc").shape, ms.trackneurons(["abc", "d"])[0])
states, outputs = ms.trackneurons("abc", ret_output=True)
print(ms.score("abc").nats, ms.score(["abc", "b"])[0].nats, outputs.shape)
print(ms.trainmodel(2, batchsize=3).validloss.min())
print(ms.trainmodel(2, batchsize=3, background=True).stop().validloss)
"""


def test_the_readme_and_each_form_of_a_verb_are_typed(tmp_path, long):
    """``sample.text``: "tuple" has no attribute "text"."""
    if not long:
        pytest.skip("mypy takes ten seconds; run with --long")
    pytest.importorskip("mypy")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S)
    files = {"readme.py": "\n".join(blocks), "used.py": USED}
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    # Not from here: mypy would check this folder, too, and not only what is installed.
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout + done.stderr
