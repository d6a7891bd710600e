"""The tree of exceptions, as it is drawn and as it is."""

import re

import pytest

from rngru import errors


def drawn() -> dict[str, list[str]]:
    """The bases of each exception, according to the drawing in the module's docstring."""
    bases, path = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.match(
            r"    ((?:[│ ]   |[├└]── )*)(\w+Error|\w+)(?: \((\w+)\))?(?:  |$)", line
        ):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            bases[found[2]] = path[:depth][-1:] + [found[3]] * bool(found[3])
    return bases


def test_the_drawing_shows_every_exception_with_its_bases():
    """A drawing kept by hand forgets a class, or shows it under a base it has left."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    found = {c.__name__: [base.__name__ for base in c.__bases__] for c in classes}
    assert found.pop("RngruError") == ["Exception"]
    expected = drawn()
    assert expected.pop("RngruError") == []
    assert expected == found


def test_one_base_class_catches_all():
    for name in drawn().keys() - {"RngruWarning"}:
        assert issubclass(getattr(errors, name), errors.RngruError)


def test_a_word_is_looked_up_or_the_choices_are_told():
    """An error that does not list the choices sends a person to the source code."""
    assert errors.choose("model type", "GRUEncode", ["GRUResize", "GRUEncode"]) == "GRUEncode"
    with pytest.raises(errors.InputError) as caught:
        errors.choose("model type", "GRUencode", ["GRUResize", "GRUEncode"])
    told = str(caught.value)
    assert "model type='GRUencode'" in told
    assert "Did you mean 'GRUEncode'?" in told
    assert "'GRUEncode', 'GRUResize'" in told


@pytest.mark.parametrize("name", [None, 3, "", "zzz", []])
def test_what_is_like_no_choice_gets_no_suggestion(name):
    """A far-fetched suggestion misleads, and a name that is no text must not crash the lookup."""
    with pytest.raises(errors.InputError) as caught:
        errors.choose("gate", name, ["sigmoid"])
    assert "Did you mean" not in str(caught.value)
