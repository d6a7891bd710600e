"""Where a text is cut into words: what Unicode writes with several code points stays whole."""

import json
import re
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rngru.errors import CheckpointDamaged, CheckpointTooNew
from rngru.text import (
    Texts,
    Tokens,
    WordSet,
    opentexts,
    sources,
    tokens,
    vocabularyfromjson,
    wordset,
)

PIECES = [
    *"ab1_é日😀'’-.,!“ \n\u00a0ि्க்ِשׁ์\u0301\u20e3\u00ad\u200c\u200d\ufe0f🏽🇩🇪\U000e0067\U000e007f"
]
texts = st.lists(
    st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"]), max_size=40
).map("".join)


def extends(char):
    """Whether a code point belongs to the one before it."""
    return (
        unicodedata.category(char)[0] == "M"
        or char in "\u00ad\u200c\u200d"
        or 0x1F3FB <= ord(char) <= 0x1F3FF
        or 0xE0020 <= ord(char) <= 0xE007F
    )


def reference(text):
    """The rule as a plain loop: whether there is a border before each character."""
    found, kind = [], None
    for i, char in enumerate(text):
        here = "word" if char.isalnum() or char == "_" else "space" if char.isspace() else "other"
        here = "more" if extends(char) else here
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        flags = [each for each in (before, char) if each and 0x1F1E6 <= ord(each) <= 0x1F1FF]
        if kind is None:
            joins = False
        elif here == "more":
            joins = kind != "space"
        elif here == "other" and kind == "word":
            joins = char in "’'-" and bool(after) and (after.isalnum() or after == "_")
        elif here == "other" and kind == "other":
            joins = before == "\u200d" or (len(flags) == 2 and len(found[-1]) == 1)
        else:
            joins = here == kind
        if joins:
            found[-1] += char
        else:
            found.append(char)
            kind = "other" if here == "more" else here
    return found


@given(text=texts)
def test_tokens_are_those_of_the_rule(text):
    """Catches an expression that says something else than the rule, and a text that is not given back."""
    assert tokens(text) == reference(text)
    assert "".join(tokens(text)) == text
    assert tokens(text, 1) == re.findall(r"\w+(?:[’'\-]\w+)*|[^\w\s]|\s+", text)


@pytest.mark.parametrize("rule", [1, 2])
@given(pieces=st.lists(texts, max_size=3))
def test_the_fast_split_is_the_documented_one(rule, pieces):
    """Catches a kernel that takes a mark, a joiner or half a flag for something else."""
    seen = Tokens(rule)
    numbered = [seen.number(piece) for piece in pieces]
    words = seen.words()
    for piece, which in zip(pieces, numbered, strict=True):
        assert [words[n] for n in which] == tokens(piece, rule)


@pytest.mark.parametrize(
    "text",
    [
        "हिन्दी भाषा", "தமிழ் மொழி", "ภาษาไทย", "كِتَابٌ جَدِيد", "שָׁלוֹם עוֹלָם", "می‌خواهم", "ကျွန်ုပ်",
        unicodedata.normalize("NFD", "café d’été naïve-né Tiếng Việt"), "Wort\u00adtrennung",
        "👩🏽‍🚀 ❤️ 1️⃣ 👨‍👩‍👧‍👦 🏴\U000e0067\U000e0062\U000e007f 🇩🇪",
    ],
)  # fmt: skip
def test_words_with_marks_stay_whole(text):
    """Catches a script whose words are shredded into letters and marks."""
    words = text.split()
    assert [token for token in tokens(text) if not token.isspace()] == words
    vocab = WordSet(text)
    assert vocab.decode(vocab.encode(text)) == text
    assert len(vocab.encode(text)) == 2 * len(words) - 1


def test_flags_and_emoji_in_a_row_are_tokens_of_their_own():
    """Catches a chat of emoji that becomes one endless token."""
    assert tokens("🇩🇪🇫🇷🇮") == ["🇩🇪", "🇫🇷", "🇮"]
    assert tokens("😀😀❤️👍🏽!") == ["😀", "😀", "❤️", "👍🏽", "!"]


@given(text=texts, block=st.integers(1, 9), size=st.integers(1, 9))
def test_pieces_end_where_a_token_does(text, block, size):
    """Catches a mark, or half a flag, that is cut off where two pieces meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "BLOCK", block)
        patch.setattr(sources.Document, "_refuse_zeros", lambda *_: None)
        patch.setattr(wordset, "PIECE", size + 60)
        (document,) = opentexts(Texts([text * 3]))
        found = [token for piece in WordSet.pieces(document) for token in tokens(piece)]
    assert found == tokens((text * 3).removeprefix("\ufeff"))


def test_an_old_vocabulary_splits_as_it_did():
    """Catches a model of before this rule that reads a seed in other words than it was trained on."""
    text = "हिन्दी भाषा"
    old = sorted(set(tokens(text, 1)))
    saved = WordSet(text).to_json() | {
        "symbols": ["\ufffd", *old],
        "linestarts": [0] * (len(old) + 1),
    }
    del saved["rule"]
    vocab = vocabularyfromjson(json.loads(json.dumps(saved)))
    assert vocab.split(text) == tokens(text, 1)
    assert not vocab.unknown_in(text)
    assert vocab.encode(text).tolist() == [1 + old.index(token) for token in tokens(text, 1)]
    again = vocabularyfromjson(vocab.to_json())
    assert np.array_equal(again.encode(text), vocab.encode(text))


@pytest.mark.parametrize(
    ("rule", "error"), [(3, CheckpointTooNew), (0, CheckpointDamaged), ("2", CheckpointDamaged)]
)
def test_a_rule_that_is_not_known_is_refused(rule, error):
    """Catches a vocabulary of a later version that is split by the wrong rule without a word."""
    with pytest.raises(error, match="rule"):
        vocabularyfromjson(WordSet("a b").to_json() | {"rule": rule})
