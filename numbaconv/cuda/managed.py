"""Memory that is not simply the driver's: from the manager that numba was told to use (RMM), and pinned memory."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from cuda.bindings import driver as api
from numba.cuda.cudadrv import devices as numba_devices
from numba.cuda.cudadrv import driver as numba_driver


def active() -> bool:
    """Whether numba was told to use another memory manager than its own."""
    numba_driver._ensure_memory_manager()
    return numba_driver._memory_manager is not numba_driver.NumbaCUDAMemoryManager


class ManagedMemory:
    """Memory of numba's manager, given back with this object."""

    def __init__(self, pointer: Any) -> None:
        self._pointer = pointer
        self.address = int(pointer.device_pointer_value)


def allocate(device: int, nbytes: int) -> ManagedMemory:
    """Memory of numba's manager.

    Raises:
        MemoryError: it has not enough.
    """
    with numba_devices.gpus[device]:
        context = numba_devices.gpus[device].get_primary_context()
        try:
            return ManagedMemory(context.memalloc(nbytes))
        except numba_driver.CudaAPIError as error:
            if error.code == api.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise MemoryError(str(error)) from None
            raise


class PinnedBuffer:
    """Pinned host memory, freed when no array on it is left."""

    def __init__(self, address: int, nbytes: int, current: AbstractContextManager[Any]) -> None:
        self.address, self.current = address, current
        self.__array_interface__ = {"shape": (nbytes,), "typestr": "|u1", "data": (address, False), "version": 3}

    def array(self) -> np.ndarray:
        """Its bytes, which keep it alive."""
        return np.asarray(self)

    def __del__(self) -> None:
        if not sys.is_finalizing():  # the process gives everything back
            with self.current:
                api.cuMemFreeHost(self.address)
