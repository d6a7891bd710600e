"""What a person reads at the prompt: tables, and text that a screen does not act on.

>>> Table(["name", "V"], [["small", "66"]])
 name   V
small  66
"""

import html
import math
import shutil
import textwrap
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any, Final, final


@final
class Table:
    """Cells of text in right-aligned columns; the repr is the table, cut to fit the terminal.

    Of a long table the middle is left out, of a wide one the columns on the right. A column without
    a heading holds remarks: it is left-aligned, and stays.

    Parameters
    ----------
    names
        The heading of each column.
    rows
        The cells, as many per row as there are names.
    note
        A line below the table.
    always
        Numbers of rows, from 0, that are shown however long the table is.

    Example
    -------
    >>> Table(["step", "loss", ""], [["100", "2.5", "best"], ["2000", "2.75", ""]], note="Two.")
    step  loss
     100   2.5  best
    2000  2.75
    Two.
    """

    def __init__(
        self,
        names: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        note: str = "",
        always: Collection[int] = (),
    ) -> None:
        self.names = tuple(names)
        self.rows = tuple(map(tuple, rows))
        self.note = note
        self.always = frozenset(always)

    def _shown(self) -> list[tuple[str, ...]]:
        count = len(self.rows)
        if count <= 24:
            return list(self.rows)
        chosen = sorted({*range(8), *self.always, *range(count - 12, count)})
        gap = tuple("…" if name else "" for name in self.names)
        shown = [self.rows[0]]
        for before, row in pairwise(chosen):
            shown += [gap] * (row > before + 1) + [self.rows[row]]
        return shown

    def __repr__(self) -> str:
        lines = [self.names, *self._shown()] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        kept = list(range(len(widths)))
        space = shutil.get_terminal_size().columns
        while sum(widths[i] + 2 for i in kept) - 2 > space:
            headed = [i for i in kept if self.names[i]]
            if len(headed) < 2:
                break
            kept.remove(headed[-1])
        text = [
            "  ".join(
                line[i].rjust(widths[i]) if self.names[i] else line[i].ljust(widths[i])
                for i in kept
            ).rstrip()
            for line in lines
        ]
        notes = [textwrap.fill(line, max(space, 40)) for line in self.note.splitlines()]
        return "\n".join(text + notes)

    def _repr_html_(self) -> str:
        def row(cells: Iterable[str], tag: str) -> str:
            inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row(cells, "td") for cells in self._shown())
        return f"<table>{row(self.names, 'th')}{body}</table><p>{html.escape(self.note)}</p>"


def printable(text: str, encoding: str = "utf-8") -> str:
    """Return ``text`` with everything that a screen would act on made visible.

    Control characters become their pictures (``␛``) or escapes (``\\x9b``), marks that turn the
    direction of writing and characters that ``encoding`` lacks become escapes. Newlines and tabs
    stay.

    Example
    -------
    >>> printable("a\\x1b[2Jb\\n")
    'a␛[2Jb\\n'
    >>> printable("na\\xefve", "ascii")
    'na\\\\xefve'
    """
    visible = text.translate(_VISIBLE)
    return visible.encode(encoding, "backslashreplace").decode(encoding)


def finite(content: Any) -> Any:
    """Return what JSON can hold: None for numbers that are not finite, also inside dicts and lists.

    >>> finite({"losses": (2.5, math.nan)})
    {'losses': [2.5, None]}
    """
    if isinstance(content, dict):
        return {name: finite(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [finite(each) for each in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def oneline(text: str) -> str:
    """Return ``text`` as :func:`printable` does, on one line.

    Example
    -------
    >>> oneline("to\\nbe")
    'to⏎be'
    """
    return printable(text).replace("\n", "⏎").replace("\t", "⇥")


_VISIBLE: Final = (
    {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
    | {0x7F: "␡"}
    | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
    | {code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, 0x2028, 0x2029)}
    | {code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)
