"""Text coloured by numbers: what each kind of screen gets."""

import io
import re

import numpy as np
import pytest

from rngru.shading import Shaded


def backgrounds(text: str) -> list[tuple[int, ...]]:
    return [tuple(map(int, each.split(";"))) for each in re.findall(r"48;2;([\d;]+)m", text)]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_a_terminal_shows_colours_and_the_whole_text(shown):
    words = ["a" * 70, " long", "\n", "line", "\x1b[2J"]
    found = shown(Shaded(words, np.array([0, 1.0, 0.5, 0.2, 0])))
    assert plain(found) == "a" * 70 + " long" + "⏎\n" + "line␛[2J"
    colours = backgrounds(found)
    assert len(set(colours)) == 3
    greens = [green for _, green, _ in colours]
    assert greens[0] == min(greens), "the largest number has the strongest red"


def test_signed_numbers_have_two_colours(shown):
    found = shown(Shaded(["a", "b", "c"], np.array([-1.0, 0.0, 1.0]), signed=True))
    (low, high) = backgrounds(found)
    assert low[2] > low[0] and high[0] > high[2]


def test_equal_neighbours_share_one_colour_change(shown):
    assert len(backgrounds(shown(Shaded(list("aaaa"), np.ones(4))))) == 1


def test_others_get_plain_text(monkeypatch, shown):
    text = Shaded(["to", " be\x1b[2J"], np.ones(2))
    assert shown(text, io.StringIO()) == "to be␛[2J"
    monkeypatch.setenv("NO_COLOR", "1")
    assert "48;2" not in shown(text)


def test_a_notebook_gets_escaped_text_with_notes():
    page = Shaded(["<b>", "&"], np.array([2.0, np.nan]), titles=["x < 1", ""])._repr_html_()
    assert "&lt;b&gt;" in page and "&amp;" in page and 'title="x &lt; 1"' in page
    alphas = re.findall(r"rgba\([\d,]+,([\d.]+)\)", page)
    assert alphas == ["1.00", "0.00"]


def test_there_is_a_number_for_each_piece():
    with pytest.raises(ValueError, match="2 pieces"):
        Shaded(["a", "b"], np.ones(3))
