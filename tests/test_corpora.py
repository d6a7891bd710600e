"""The texts every machine has are there, the same each time, and readable."""

import pytest

from rngru import corpora
from rngru.errors import InputError
from rngru.text import opentexts, readtext


def test_pydoc_is_english_prose_of_the_size_promised():
    text = corpora.pydoc()
    assert 400_000 < len(text) < 600_000
    assert text.count(" the ") > 3_000
    assert readtext(corpora.named("pydoc")) == text


def test_stdlib_is_many_readable_files():
    """Catches test data in broken encodings, and an order that varies."""
    found = corpora.stdlib()
    assert 300 < len(found) < 3_000
    assert found == sorted(found)
    assert corpora.named("stdlib") == found
    assert not [path for path in found if "site-packages" in path.parts]
    assert 8e6 < sum(document.nbytes for document in opentexts(found)) < 30e6
    assert "def wrap(" in readtext([path for path in found if path.name == "textwrap.py"])
    assert len(readtext(found[::10])) > 5e5


def test_no_such_corpus():
    with pytest.raises(InputError, match="Did you mean 'stdlib'"):
        corpora.named("stdlibs")
