"""The benchmark of learning: each row trains a model in a process of its own, and none is lost."""

import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the benchmarks compare with torch")
pytest.importorskip("threadpoolctl")

from tests.benchmarks.clock import Options
from tests.benchmarks.learning import TEXTS, figures, rows

VERSE = Path(__file__).parent / "verse.txt"


def test_rows_have_names_of_their_own():
    """Catches a row whose figure another one overwrites, and a text that is in no row."""
    every = list(rows())
    assert len({row.name for row in every}) == len(every)
    assert {row.text for row in every} == set(TEXTS)


def test_a_row_is_trained_and_evaluated(monkeypatch, capsys):
    """Catches a comparison with another row, bits that are not those of the nats, or a row that is lost."""
    monkeypatch.delenv("RNGRU_OTHER", raising=False)
    options = Options(1, 1, "quick [ot]*e[rx]*", 1.0, {"text": str(VERSE)})
    defaults, quick, below = figures(options)
    assert defaults.name == "quick text: defaults" and quick.name == "quick text: recipe"
    assert below.value == defaults.value - quick.value and below.target == 0.15
    assert 0 < quick.value < math.log(70)
    assert quick.detail["bits"] == pytest.approx(quick.value / math.log(2))
    assert "optimizer='adamw'" in quick.detail["hyper"] and "adam" not in defaults.detail["hyper"]
    assert "quick other: recipe: skipped" in capsys.readouterr().out
