"""``python -m rngru``: the command line; ``python -i -m rngru``: a prompt with everything ready.

The names stay behind in the interpreter, for ``-i`` hands the prompt to this module's namespace. So
does ``ms``, the model that a command leaves.
"""

import sys

from rngru.cli import main, run

if PROMPT := bool(sys.flags.interactive or hasattr(sys, "ps1")):
    from rngru import HyperParams, ModelState, Texts, __version__, corpora, generatestring

    READY = (ModelState, HyperParams, generatestring, Texts, corpora)


def banner() -> None:
    """Say what the prompt has at hand."""
    print(f"rngru {__version__}, Python {sys.version.split()[0]}: recurrent language models.")
    print(f"Ready: {', '.join(ready.__name__.rpartition('.')[2] for ready in READY)}.")
    print("help(ModelState) is the manual.")


if __name__ == "__main__":
    if not PROMPT:
        sys.exit(main())
    if sys.argv[1:]:
        _, ms = run()
    else:
        banner()
