"""Texts that every machine has, and a model of one of them: no download, no licence question.

``pydoc``
    The prose of Python's own ``help()`` topics: about 465,000 characters of English, one string.
``stdlib``
    The sources of the standard library: about 12 million characters in some 700 files, tests left
    out.

Both depend on the Python version, and are the same on every machine with that version.

>>> "pass" in pydoc() and named("stdlib") == stdlib()
True
"""

import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

from rngru.errors import TextError, choose
from rngru.state import ModelState
from rngru.text import Source, Texts

NOT_LIBRARY = {"__pycache__", "dist-packages", "site-packages", "test", "tests", "idle_test"}


def pydoc() -> str:
    """Return the help topics of this Python, in alphabetical order, as one text.

    Example
    -------
    >>> len(pydoc()) > 400_000
    True
    """
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def stdlib() -> list[Path]:
    """Return the source files of the standard library, sorted.

    Raises
    ------
    TextError
        If this Python came without sources.

    Example
    -------
    >>> "textwrap.py" in [path.name for path in stdlib()]
    True
    """
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_LIBRARY]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    if not found:
        raise TextError(f"This Python has no library sources in {root}. Try the corpus 'pydoc'.")
    return sorted(found)


def model() -> ModelState:
    """Return the model that comes with rngru: it has read ``pydoc``, and writes before you train one.

    ``examples/11_model_in_the_box.py`` made it. It is packed, so it has no text and no directory:
    ``initfromsrcfile(text, workdir, model=corpora.model())`` trains it on.

    Example
    -------
    >>> len(model().generatestring(20))
    20
    """
    return ModelState.load(Path(__file__).with_name("pydoc.rngru"))


CORPORA: dict[str, Callable[[], Source]] = {
    "pydoc": lambda: Texts([pydoc()], names=["pydoc"]),
    "stdlib": stdlib,
}


def named(name: str) -> Source:
    """Return a corpus by its name, as a source to read or encode.

    Raises
    ------
    InputError
        If there is none; the message lists all names.

    Example
    -------
    >>> named("pydocs")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    rngru.errors.InputError: corpus='pydocs' is not known. Did you mean 'pydoc'? Choices: ...
    """
    return CORPORA[choose("corpus", name, CORPORA)]()
