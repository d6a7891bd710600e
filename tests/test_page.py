"""The page that is exported, in a real browser: it writes what the model does, and nothing breaks out."""

import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from urllib.parse import urlencode

import numpy as np
import pytest

from rngru.backends import backend
from rngru.export import export
from rngru.text import WordSet
from tests.exported import KINDS, reader, written

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needsbrowser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


def shown(path, folder, **asked) -> dict[str, str]:
    """The text of each element with an id, once the page has run."""
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
            "--virtual-time-budget=5000", "--dump-dom", f"{path.as_uri()}?{urlencode(asked)}",
        ],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    page = done.stdout.decode()
    found = re.findall(r'<(span|p|footer|button)[^>]* id="(\w+)"[^>]*>(.*?)</\1>', page, re.S)
    return {name: unescape(text) for _, name, text in found} | {"": page}


def uniforms(rng: int, count: int) -> str:
    return ",".join(map(repr, np.random.default_rng(rng).random(count).tolist()))


@needsbrowser
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gru", {"temp": 0.7}),
        ("gru-after", {"top_p": 0.8}),
        ("lstm-hard-tied", {"temp": 0.0}),
        ("lstm-resize", {"temp": 1.5}),
        ("lstm-embedded", {}),
        ("rnn-resize", {"top_p": 0.5, "temp": 0.55}),
        ("gru-after-hard", {}),
    ],
)
def test_the_page_writes_the_same(kind, options, verse, tmp_path):
    """For the same uniform numbers; a gate, an index or a rule of sampling that is off shows at once."""
    modeltype, level, sizes = KINDS[kind]
    model = reader(verse, modeltype, level, **sizes)
    options, seed = {"temp": 1.0, "top_p": 1.0} | options, "The ship\nwas "
    asked = options | {"seed": seed, "uniforms": uniforms(7, 120)}
    found = shown(export(model, tmp_path / "verse.html"), tmp_path / "profile", **asked)
    expected = written(model, 120, seed, rng=7, **options)
    # The page shows a character once all of its bytes are there.
    assert found["text"].rstrip("\ufffd") == expected.rstrip("\ufffd")
    assert found["begin"] == seed and not found["note"]
    assert f"{modeltype}, {model.hyper.layers} layer" in found["footer"]


TRICKY = (
    "It's a so-called “test”.\n\u00a0\u3000x_1 ²½ 𝒳𝒴 हिन्दी भाषा e\u0301t\u0301 👍🏽 👩\u200d🚀 🇫🇮🇸🇪 "
    "na\u00efve-\u2019 \x1c\x85\n"
)


@needsbrowser
def test_the_page_cuts_words_as_the_model_does(tmp_path):
    """JavaScript's own \\w knows ASCII alone, and half an emoji is no symbol."""
    model = reader(TRICKY * 2, "GRUEncode", "word")
    asked = {"seed": TRICKY, "uniforms": uniforms(1, 60), "temp": 1}
    found = shown(export(model, tmp_path / "w.html"), tmp_path / "profile", **asked)
    assert not found["note"], "a symbol that is read in another way was never seen"
    assert found["text"] == written(model, 60, TRICKY, rng=1)


@needsbrowser
def test_nothing_breaks_out_of_the_page(tmp_path):
    """A word of the text that ends a script would let any text run code in the reader's browser."""
    evil = [
        "</script><script>document.title='owned'</script>",
        "<!--<script>",
        "]]>",
        "&lt;b&gt;",
        "@WEIGHTS@",
    ]
    vocab = WordSet.fromcounts(dict.fromkeys(evil, 5))
    model = reader("a b", "GRUResize", "word")
    hyper = model.hyper.replace(vocab_size=vocab.vocab_size)
    arrays = model.model.initial(hyper, np.random.default_rng(1))
    vocab.srcinfo = "<img src=x onerror=alert(1)>"
    model = replace(
        model, vocab=vocab, hyper=hyper, weights=arrays, backend=backend("cpu", model.model, hyper)
    )
    path = export(model, tmp_path / "evil.html")
    asked = {"seed": "<b>", "uniforms": uniforms(3, 12), "temp": 1}
    with pytest.warns(UserWarning, match="never seen"):
        expected = written(model, 12, "<b>", rng=3)
    found = shown(path, tmp_path / "profile", **asked)
    assert found["text"] == expected and evil[0] in expected
    assert "never seen" in found["note"] and found["begin"] == "<b>"
    assert "<title>A model of &lt;img src=x onerror=alert(1)&gt;</title>" in found[""]
    assert path.read_text().count("<script") == 3


@needsbrowser
def test_the_page_writes_when_it_is_asked_to(verse, tmp_path):
    """Without numbers of ours it draws its own, a few milliseconds at a time, to the length asked for."""
    path = export(reader(verse, "GRUEncode"), tmp_path / "verse.html")
    for count, asked in (500, {"seed": "The ", "temp": "0.8"}), (10, {"seed": ""}):
        for attempt in range(5):  # on a busy machine the page is dumped before it has begun
            profile = tmp_path / f"profile {count} {attempt}"
            found = shown(path, profile, n=str(count), **asked)
            if len(found["text"]) == count:
                break
        assert len(found["text"]) == count and found["go"] == "Write"


def test_the_page_loads_nothing(verse, tmp_path):
    """It must work in a train, and tell nobody what was written."""
    text = export(reader(verse, "GRUEncode"), tmp_path / "verse.html").read_text()
    assert "default-src 'none'" in text and not re.search(r"https?:|src=|@import|fetch\(", text)
