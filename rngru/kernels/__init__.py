"""The CPU kernels: what the ``cpu`` backend computes with, compiled by Numba and cached on disk.

From the ground up: ``target`` says which processor is compiled for, ``compiling`` how, and where the
result is kept; ``tiles`` multiplies matrices, ``panels`` copies them there; ``elementwise`` has tanh and
the gates, ``sequence`` runs one layer of any cell through time and back, ``layers`` a stack of them on
all ``threads``, ``output`` turns states into losses, ``update`` is the optimizer, ``sampler`` generates
text. ``calls`` and ``phases`` are how threads work together without Python; they rest on ``atomic`` numbers
and on ``processors``. ``plans`` keep such phases from one step to the next, in ``memory`` of their own;
``jobs`` are parts of them.
``tokens`` numbers the words of a text, ``recall`` remembers what followed what in one. ``preparing`` compiles
everything once; ``spec`` describes cells and layers, and it alone does not import Numba.

None of it knows PyTensor, models or texts.
"""
