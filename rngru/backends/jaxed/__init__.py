"""The ``jax`` backend: imported when it is asked for, and JAX with it.

What XLA has compiled is kept on the disk beside the kernels (:mod:`rngru.kernels.compiling`), unless
the user has told JAX of a folder, or of none (``jax_enable_compilation_cache``): a second process is ready
in half the time.
"""

import jax

from rngru.backends.jaxed import ops  # noqa: F401  registers what PyTensor looks up
from rngru.backends.jaxed.backend import JAX
from rngru.backends.jaxed.devices import apart, take
from rngru.backends.jaxed.processes import join
from rngru.kernels.compiling import places

__all__ = ["JAX", "apart", "join", "take"]


def _keep() -> None:
    """Have XLA keep what it compiles, where only we may write."""
    if jax.config.jax_compilation_cache_dir is None:
        folders = [str(path / "xla") for path, _, writable in places() if writable]
        if folders:
            jax.config.update("jax_compilation_cache_dir", folders[0])
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


_keep()
