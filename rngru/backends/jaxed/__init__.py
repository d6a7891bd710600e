"""The ``jax`` backend: imported when it is asked for, and JAX with it."""

from rngru.backends.jaxed import ops  # noqa: F401  registers what PyTensor looks up
from rngru.backends.jaxed.backend import JAX

__all__ = ["JAX"]
