"""Pictures: what is drawn is what was measured, and nothing outside the figure changes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rngru.errors import InputError, MissingExtra, WorkdirError
from rngru.events import Round
from rngru.plots import _COLOURS, lossfigure, neuronfigure, savepicture

PNG = b"\x89PNG\r\n\x1a\n"


def rounds(count, *, valid=True):
    return [
        Round(
            n, 1000 * n, n / 2, 2 + 1 / n, 2.1 + 0.01 * (n - 3) ** 2 if valid else None,
            None, 1e-3, 1.0, 1000 * n, n, None,
        )
        for n in range(1, count + 1)
    ]  # fmt: skip


def curve(figure, label):
    """The x and y of the line with this label."""
    [line] = [line for line in figure.axes[0].lines if line.get_label() == label]
    return line.get_xdata().tolist(), line.get_ydata().tolist()


def drawn(figure, path) -> bytes:
    return savepicture(figure, path / "picture.png").read_bytes()


@pytest.mark.parametrize("count", [1, 2, 10_000])
def test_losses_are_drawn_where_they_were_measured(tmp_path, count):
    """A curve against the round instead of the characters seen hides that rounds differ."""
    history = rounds(count)
    figure = lossfigure(history)
    seen = [float(r.position) for r in history]
    assert curve(figure, "training, per round") == (seen, [r.trainloss for r in history])
    assert curve(figure, "validation") == (seen, [r.validloss for r in history])
    assert drawn(figure, tmp_path).startswith(PNG)


def test_the_best_validation_loss_is_named(tmp_path):
    """The last is not the best once a model overfits."""
    figure = lossfigure(rounds(9))
    assert "2.1000 nats per character after 3 k" in figure.axes[0].get_title(loc="left")


def test_a_round_without_validation_is_a_gap():
    """None as zero would draw a perfect model."""
    history = rounds(3)
    history[1] = rounds(3, valid=False)[1]
    assert np.isnan(curve(lossfigure(history), "validation")[1]).tolist() == [False, True, False]
    labels = [line.get_label() for line in lossfigure(rounds(3, valid=False)).axes[0].lines]
    assert labels == ["training, per round"]


@pytest.mark.parametrize("count", [1, 300, 10_000])
def test_batches_are_drawn_behind(tmp_path, count):
    """Ten thousand points are a blot; their band must still span the whole run."""
    seen = np.arange(count) * 100.0
    figure = lossfigure([], batches=(seen, 1 + np.exp(-seen / 1e5)))
    assert drawn(figure, tmp_path).startswith(PNG)
    line = figure.axes[0].lines[0]
    assert line.get_xdata()[0] <= 0.01 * seen[-1] + 1
    assert line.get_xdata()[-1] >= 0.99 * seen[-1]


def test_the_right_axis_is_in_bits(tmp_path):
    """A factor of log 2 the wrong way round makes 1 nat 0.69 bits."""
    figure = lossfigure(rounds(3))
    drawn(figure, tmp_path)
    [bits] = figure.axes[0].child_axes
    np.testing.assert_allclose(
        bits.get_ylim(), np.array(figure.axes[0].get_ylim()) * 1.4426950408889634
    )


def test_losses_that_are_no_numbers_do_not_break_the_picture(tmp_path):
    history = rounds(3)
    figure = lossfigure(history, batches=([1, 2, 3], [2.0, np.nan, np.inf]))
    assert drawn(figure, tmp_path).startswith(PNG)


def test_nothing_to_draw_is_said():
    with pytest.raises(InputError, match=r"^There is nothing to draw yet: train first\."):
        lossfigure([])
    with pytest.raises(InputError, match="2 positions, but 1 losses"):
        lossfigure([], batches=([1, 2], [3]))


@pytest.fixture
def states():
    """(layer, neuron, step) of 2 layers, 40 neurons and 30 steps."""
    return np.tanh(np.random.default_rng(7).normal(size=(2, 40, 30)))


TEXT = "a$x^2$ b\tc\n\nünï 中文 \x1b\x00%d\\frac"[:30].ljust(30, "~")


def test_the_heat_map_shows_these_neurons_at_these_characters(tmp_path, states):
    """Layer and neuron exchanged, or steps shifted by one, still look like a heat map."""
    figure = neuronfigure(TEXT, states, layer=1, neurons=[31, 4])
    axes = figure.axes[0]
    np.testing.assert_array_equal(axes.images[0].get_array(), states[1, [31, 4]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["31", "4"]
    letters = "".join(label.get_text() for label in axes.get_xticklabels())
    assert letters == "a$x^2$·b→c↵↵ünï·□□·□□%d\\frac~~"
    assert drawn(figure, tmp_path).startswith(PNG)


def test_the_neurons_that_change_most_are_picked(states):
    """A neuron stuck at -1 or 1 is large, and shows nothing."""
    states[0, :10] = 1.0
    figure = neuronfigure(TEXT, states)
    names = {int(label.get_text()) for label in figure.axes[0].get_yticklabels()}
    assert len(names) == 24
    assert names.isdisjoint(range(10))


def test_a_long_text_is_drawn_in_bands(tmp_path):
    """Every step is drawn once, also in a last band that is not full."""
    states = np.tanh(np.random.default_rng(1).normal(size=(1, 3, 250)))
    figure = neuronfigure("x" * 250, states)
    bands = [axes.images[0].get_array().filled(np.nan) for axes in figure.axes if axes.images][:3]
    joined = np.concatenate(bands, axis=1)
    assert joined.shape == (3, 300)
    np.testing.assert_array_equal(joined[:, :250], states[0])
    assert np.isnan(joined[:, 250:]).all()


def test_the_text_is_coloured_by_one_neuron(tmp_path, states):
    """A colour under the wrong character sends the reader after the wrong neuron."""
    figure = neuronfigure(TEXT, states, layer=1, neurons=5)
    axes = figure.axes[0]
    cells = axes.images[0].get_array()
    # Row and column as a person reads them: a newline ends its line and still belongs to it.
    row = column = 0
    written = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    for char, value in zip(TEXT, states[1, 5], strict=True):
        assert cells[row, column] == value
        assert written[column, row] == {"\n": "↵", " ": "·", "\t": "→"}.get(
            char, char if char.isprintable() and char not in "中文" else "□"
        )
        row, column = (row + 1, 0) if char == "\n" else (row, column + 1)
    assert len(axes.texts) == len(TEXT)
    assert axes.images[0].get_cmap().name == _COLOURS
    assert drawn(figure, tmp_path).startswith(PNG)


@pytest.mark.parametrize(
    ("text", "changes", "told"),
    [
        ("short", {}, "^The text has 5 characters, but states has 30 steps"),
        (TEXT, {"layer": 2}, "there are layers 0 to 1"),
        (TEXT, {"layer": -1}, "there are layers 0 to 1"),
        (TEXT, {"neurons": 40}, "neurons 0 to 39"),
        (TEXT, {"neurons": [0, -1]}, "neurons 0 to 39"),
        (TEXT, {"neurons": []}, "one whole number or more"),
        (TEXT, {"neurons": 1.5}, "whole number"),
    ],
)
def test_what_does_not_fit_is_said(states, text, changes, told):
    """A negative index would quietly draw another neuron."""
    with pytest.raises(InputError, match=told):
        neuronfigure(text, states, **changes)


def test_sizes_that_cannot_be_drawn_are_said():
    with pytest.raises(InputError, match=r"shape \(layer, neuron, step\)"):
        neuronfigure("ab", np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"Draw a part of at most 2,000"):
        neuronfigure("x" * 2001, np.zeros((1, 1, 2001)))


def test_a_picture_that_cannot_be_written_is_said(tmp_path):
    figure = lossfigure(rounds(1))
    with pytest.raises(InputError, match=r"\.png"):
        savepicture(figure, tmp_path / "loss.doc")
    with pytest.raises(WorkdirError, match="cannot be written"):
        savepicture(figure, tmp_path / "missing" / "loss.png")


@pytest.mark.parametrize("path", [5, True, b"loss.png", None, "lo\0ss.png"])
def test_a_picture_needs_a_path(path):
    """A bare TypeError or ValueError, which ``except RngruError`` lets through."""
    with pytest.raises(InputError, match="path"):
        savepicture(lossfigure(rounds(1)), path)


def test_a_picture_is_drawn_at_home(tmp_path, monkeypatch):
    """``~`` was the home directory in the name of a model, but not in that of its picture."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert savepicture(lossfigure(rounds(1)), "~/loss.png") == tmp_path / "loss.png"
    assert (tmp_path / "loss.png").read_bytes().startswith(PNG)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rngru\[plot\]'"):
        lossfigure(rounds(1))


def test_drawing_leaves_pyplot_alone():
    """pyplot opens windows, keeps every figure and chooses a backend for the whole process."""
    code = (
        "import sys; from rngru.plots import neuronfigure; neuronfigure('ab', [[[1, 0]]]);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
