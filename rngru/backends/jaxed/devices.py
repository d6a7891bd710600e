"""The devices that share a batch: each computes some of its lanes.

Parameters are everywhere the same, and so are the sums over the lanes. Where several processes work
together, :func:`world` are the devices of all of them and :func:`near` those of this process, which are
enough to read and write text.

>>> near().count >= 1
True
"""

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any, final

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rngru.errors import InputError

LANES = "lanes"
"""The name of the axis over which a batch is spread."""

EVERYWHERE = PartitionSpec()
"""The same on every device."""


def along(axis: int) -> PartitionSpec:
    """Say that lanes lie along an axis of an array."""
    return PartitionSpec(*[None] * axis, LANES)


@final
class Devices:
    """Some devices, in order.

    Parameters
    ----------
    devices: of JAX.
    """

    def __init__(self, devices: list[Any]) -> None:
        self._mesh = Mesh(np.array(devices), (LANES,))

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return self._mesh.devices.size

    def shared(self, lanes: int) -> bool:
        """Whether so many lanes are shared by several devices: they are if all get equally many."""
        return self.count > 1 and lanes % self.count == 0

    def share(self, lanes: int) -> slice:
        """Return which of so many lanes the devices of this process have.

        Raises
        ------
        InputError
            If there are several processes, and not all devices get equally many.
        """
        if jax.process_count() == 1:
            return slice(0, lanes)
        if lanes % self.count:
            raise InputError(
                f"batchsize={lanes}: the {self.count} devices of {jax.process_count()} processes cannot "
                f"share so many lanes. Choose a multiple of {self.count}."
            )
        own = [device.process_index == jax.process_index() for device in self._mesh.devices]
        each = lanes // self.count
        return slice(own.index(True) * each, (own.index(True) + sum(own)) * each)

    def said(self, numbers: np.ndarray) -> Any:
        """Return what this process says, (n,), as (devices, n): one of its devices says it."""
        rows = np.zeros((len(self._mesh.local_devices), len(numbers)), np.float32)
        rows[0] = numbers
        return jax.make_array_from_process_local_data(NamedSharding(self._mesh, along(0)), rows)

    def spread(self, function: Callable, inputs: Any, outputs: Any) -> Callable:
        """Return a function that each device computes for its own lanes; the rest says where they lie."""
        # Nobody checks what is the same everywhere: JAX would add up gradients by itself, once more.
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=inputs, out_specs=outputs, check_vma=False
        )

    def everywhere(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arrays that lie on each device; those that do are returned as they are."""
        wanted = NamedSharding(self._mesh, EVERYWHERE)
        if all(isinstance(each, jax.Array) and each.sharding == wanted for each in arrays.values()):
            return arrays
        return {name: self._put(array, EVERYWHERE) for name, array in arrays.items()}

    def part(self, array: Any, axis: int, lanes: int) -> Any:
        """Return an array of all lanes, each on its device; given are all, or those of this process."""
        spec = along(axis) if self.shared(lanes) else EVERYWHERE
        sharding = NamedSharding(self._mesh, spec)
        if isinstance(array, jax.Array) and array.sharding == sharding:
            return array
        if array.shape[axis] == lanes:
            return self._put(array, spec)
        return jax.make_array_from_process_local_data(sharding, np.array(array))

    def _put(self, array: Any, spec: PartitionSpec) -> Any:
        # A copy: on a CPU, JAX would go on using the memory of NumPy's array.
        own, sharding = np.array(array), NamedSharding(self._mesh, spec)
        return jax.make_array_from_callback(own.shape, sharding, lambda index: own[index])

    def close(self, arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return arrays that lie on more devices as they are on these; nothing is moved."""
        wanted = NamedSharding(self._mesh, EVERYWHERE)

        def here(array: Any) -> Any:
            if not isinstance(array, jax.Array) or array.sharding == wanted:
                return array
            pieces = [each.data for each in array.addressable_shards]
            return jax.make_array_from_single_device_arrays(array.shape, wanted, pieces)

        return {name: here(array) for name, array in arrays.items()}


def whole(array: Any) -> np.ndarray:
    """Return an array as NumPy's; if others have parts of it, all processes must ask for it."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.array(array)
    return np.array(process_allgather(array, tiled=True))


def first(array: Any) -> np.ndarray:
    """Return as much of an array as lies on the first device of this process."""
    return np.array(array.addressable_data(0) if isinstance(array, jax.Array) else array)


def apart() -> int:
    """Return how many processes can have a device of their own here; 0 on a CPU, which all share."""
    return {"cpu": 0, "gpu": jax.local_device_count()}.get(jax.default_backend(), 1)


def take(number: int) -> None:
    """Let this process see one GPU alone; before JAX has looked for any, and taken their memory."""
    for maker in ("cuda", "rocm"):
        jax.config.update(f"jax_{maker}_visible_devices", str(number))


@lru_cache(1)
def world() -> Devices:
    """The devices of all processes."""
    return Devices(jax.devices())


@lru_cache(1)
def near() -> Devices:
    """The devices of this process; the same object where there is no other."""
    return world() if jax.process_count() == 1 else Devices(jax.local_devices())
