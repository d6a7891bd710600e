"""How fast, how soon and how large: every figure the README states, measured beside torch.

``python -m tests.benchmarks`` measures all of them, shows tables and writes ``benchmarks.json``.
Nothing here is collected by pytest, and torch (``pip install rngru[bench]``) is needed by nothing
else. Other work on the machine spoils the figures.

=================  ==============================================================================
module             holds
=================  ==============================================================================
``clock``          interleaved timing, threads, other processes, the machine's own limits
``cases``          the sizes measured, and the arithmetic of a training step of each
``ours``           rngru's side of a comparison
``theirs``         torch doing the same work
``training``       the training step: against torch, against the arithmetic limit, 2 threads to 1
``starting``       from the start of the interpreter to a first step, and to a first text
``generating``     characters per second of one stream, and the share of memory bandwidth
``memory``         peak memory while training
``corpus``         cost per character as the text grows from 1 MB to 1 GB
``learning``       the loss that a model has after so many seconds; only with ``--only learning``
=================  ==============================================================================

Each of the last six has ``figures(options)``, which yields :class:`~tests.benchmarks.clock.Figure`
records as they are measured; its docstring says how.
"""
