"""Which GPUs there are, and whether they and their driver can run this package's kernels."""

from __future__ import annotations

import functools

from cuda.bindings import driver as api

from ..errors import DeviceError, message

OLDEST = (7, 5)  # compute capability: Turing, the oldest that today's toolkits compile for

_FIX = (
    'It needs an NVIDIA GPU, its driver, and `pip install "numbaconv[cuda13]"` (or "[cuda12]", for drivers before 580).'
)


def unavailable(**reason: object) -> DeviceError:
    """The error where no GPU can be used at all."""
    return DeviceError(message("cuda", "no GPU can be used here", _FIX, **reason))


@functools.cache
def count() -> int:
    """Number of GPUs; starts the driver.

    Raises:
        DeviceError: no driver, no GPU, or a driver older than the toolkit.
    """
    try:
        (status,) = api.cuInit(0)
    except Exception as error:  # each release of cuda.bindings has its own for a missing library
        raise unavailable(reason=str(error)) from None
    if status != api.CUresult.CUDA_SUCCESS:
        raise unavailable(reason=status.name)
    _require_driver(api.cuDriverGetVersion()[1], toolkit_version())
    found = api.cuDeviceGetCount()[1]
    if not found:
        raise unavailable(reason="the driver sees no GPU")
    return found


def toolkit_version() -> tuple[int, int]:
    """Of the compiler libraries that pip installed, such as (13, 0).

    Raises:
        DeviceError: there are none.
    """
    try:
        from cuda.bindings import nvjitlink

        major, minor = nvjitlink.version()
    except Exception as error:  # as above
        raise unavailable(reason=f"nvJitLink: {error}") from None
    return major, minor


def _require_driver(driver: int, toolkit: tuple[int, int]) -> None:
    """`driver` counts as CUDA does: 12040 is 12.4. Machine code of one major version runs on all its drivers."""
    if driver // 1000 < toolkit[0]:
        raise DeviceError(
            message(
                "cuda",
                f"the NVIDIA driver must support CUDA {toolkit[0]}",
                'Update the driver, or `pip install "numbaconv[cuda12]"`: CUDA 12 needs driver 525, CUDA 13 needs 580.',
                driver=f"{driver // 1000}.{driver % 1000 // 10}",
                toolkit=f"{toolkit[0]}.{toolkit[1]}",
            )
        )


def attribute(device: int, name: str) -> int:
    """One of CUDA's device attributes, by its name after CU_DEVICE_ATTRIBUTE_."""
    require_there(device)
    status, value = api.cuDeviceGetAttribute(
        getattr(api.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), api.cuDeviceGet(device)[1]
    )
    if status != api.CUresult.CUDA_SUCCESS:
        raise unavailable(reason=status.name)
    return value


def require_there(device: int) -> None:
    """Raises DeviceError where there is no GPU of that number."""
    if not 0 <= device < count():
        raise DeviceError(message("cuda", "there is no such GPU", device=f"cuda:{device}", gpus=count()))


@functools.cache
def compute_capability(device: int) -> tuple[int, int]:
    """(major, minor)."""
    return attribute(device, "COMPUTE_CAPABILITY_MAJOR"), attribute(device, "COMPUTE_CAPABILITY_MINOR")


def require_usable(device: int) -> None:
    """Raises DeviceError where the GPU is not there, or too old."""
    major, minor = compute_capability(device)
    if (major, minor) < OLDEST:
        raise DeviceError(
            message(
                "cuda",
                f"the GPU must have compute capability {OLDEST[0]}.{OLDEST[1]} (Turing, 2018) or later",
                'It can compute on the CPU: model.to("cpu").',
                device=f"cuda:{device}",
                compute_capability=f"{major}.{minor}",
            )
        )
