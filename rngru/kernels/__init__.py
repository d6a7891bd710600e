"""The CPU kernels: what the ``cpu`` backend computes with, compiled by Numba and cached on disk.

From the ground up: ``tiles`` multiplies matrices, ``elementwise`` has tanh and the gates, ``sequence``
runs one layer of any cell through time and back, ``layers`` does so on all ``threads``, ``output``
turns states into losses, ``update`` is the optimizer, ``sampler`` generates text. ``tokens`` numbers
the words of a text. ``keeping`` says whether the disk can be written; ``spec`` describes cells and
layers, and it alone does not import Numba.

None of it knows PyTensor, models or texts.
"""
