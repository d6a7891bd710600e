"""Whether what is compiled can be kept on disk for the next process.

Numba keeps it beside the source, or in the home directory, or in ``NUMBA_CACHE_DIR``. In a container
that runs as somebody else none of them may be writable; Numba then refuses to compile at all what is
to be kept. Here it is compiled anew by each process instead.
"""

from typing import Final

import numba

from rngru.errors import warn


def _keeps() -> bool:
    try:
        numba.njit(cache=True)(_keeps)  # compiles nothing yet, but finds the place
    except RuntimeError:
        warn(
            "Each start takes seconds longer than it need: there is no place to keep what was compiled. "
            "Set NUMBA_CACHE_DIR to a folder that you can write to."
        )
        return False
    return True


KEEP: Final = _keeps()
"""For the ``cache=`` of whatever is compiled in this folder."""
