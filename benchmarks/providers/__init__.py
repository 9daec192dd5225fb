"""The libraries that are compared. Each is one file with one class; `load` imports only the one asked for."""

from __future__ import annotations

import importlib

from .base import Provider, Unavailable

# name: (module, class)
PROVIDERS = {
    "numbaconv": ("numbaconv_provider", "Numbaconv"),
    "torch": ("torch_provider", "Torch"),
    "torch_channels_last": ("torch_provider", "TorchChannelsLast"),
    "onnxruntime": ("onnx_providers", "OnnxRuntime"),
    "openvino": ("onnx_providers", "OpenVino"),
    "jax": ("jax_provider", "Jax"),
    "scipy": ("scipy_provider", "Scipy"),
    "numpy_im2col": ("numpy_im2col", "NumpyIm2col"),
}

__all__ = ["PROVIDERS", "Provider", "Unavailable", "load"]


def load(name: str, device: str, threads: int) -> Provider:
    """The provider of that name, ready to run on `device` with `threads` threads.

    Raises:
        Unavailable: with the reason, where it is not installed or has no such device.
    """
    module, attribute = PROVIDERS[name]
    try:
        loaded = importlib.import_module(f"{__name__}.{module}")
    except ImportError as error:
        raise Unavailable(f"{name} is not installed: {error}") from None
    return getattr(loaded, attribute)(device, threads)  # type: ignore[no-any-return]
