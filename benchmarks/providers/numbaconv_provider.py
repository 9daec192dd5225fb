"""numbaconv, through its functional calls: weights are packed in every call, as a user's would be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import numbaconv
from numbaconv import backend, jit, nn, optim
from numbaconv import functional as F

from .. import gpu
from ..cases import ConvRow, pair
from ..models import LAYERS, Layers, ModelRow, initial
from ..targets import FORBIDDEN
from .base import Needs, Provider, Unavailable


class Numbaconv(Provider):
    """This library."""

    name = "numbaconv"

    def __init__(self, device: str, threads: int) -> None:
        self.device = device
        try:
            numbaconv.to_device(np.zeros(1, np.float32), device)
            self.backend, index = backend.backend_at(device)
        except numbaconv.errors.DeviceError as error:
            raise Unavailable(str(error)) from None
        self.clock = None if device == "cpu" else gpu.Clock(index)
        numbaconv.set_num_threads(threads)
        self.inspected: dict[Any, str] = {}  # (kernel, signature) to the registers in it

    def version(self) -> str:
        return f"{numbaconv.__version__}"

    def limited_to(self, target: str) -> str:
        for kernel in jit._kernels:
            for signature in kernel.signatures:
                key = kernel, signature
                if signature in kernel.stats.cache_hits:
                    return "kernels from a cache cannot be inspected: NUMBA_CACHE_DIR must be an empty directory"
                if key not in self.inspected:
                    code = kernel.inspect_asm(signature)
                    self.inspected[key] = " ".join(register for register in ("ymm", "zmm") if register in code)
                for register in FORBIDDEN[target]:
                    if register in self.inspected[key]:
                        return f"{kernel.py_func.__name__} uses {register} registers"
        return ""

    def array(self, x: np.ndarray, layout: str) -> Any:
        there = numbaconv.to_device(x, self.device)
        return numbaconv.channels_last(there) if x.ndim == 4 and layout == "channels_last" else there

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x) if isinstance(x, float) else numbaconv.to_host(x)

    def number(self, x: Any) -> float:
        return F.as_float(x)

    def finish(self) -> None:
        if self.clock is not None:
            self.backend.synchronize(self.clock.number)

    def timing(self, call: Callable[[], Any], seconds: float) -> dict[str, Any] | None:
        return None if self.clock is None else gpu.timing(self.clock.time, call, seconds)

    def allow_tf32(self) -> None:
        if self.clock is None:
            raise Unavailable("TF32 is a GPU's")
        self.backend.allow_tf32(True)

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Any:
        return F.conv2d(x, weight, bias, **row.arguments)

    def conv2d_backward(self, row: ConvRow, grad_output: Any, x: Any, weight: Any, needs: Needs) -> tuple[Any, ...]:
        return F.conv2d_backward(grad_output, x, weight, needs=needs, **row.arguments)

    def prepared_conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Callable[[], Any]:
        layer = nn.Conv2d(
            row.in_channels, row.out_channels, pair(row.kernel), stride=row.stride, padding=pair(row.padding),
            dilation=pair(row.dilation), groups=row.groups,
        )  # fmt: skip
        layer.weight.data, layer.bias.data = weight, bias
        predict = nn.Sequential(layer).prepare()
        return lambda: predict(x)

    def _model(self, row: ModelRow, x: Any) -> nn.Sequential:
        model = build(LAYERS[row.name]())
        for name, parameter in model.named_parameters():
            parameter.data = initial(name, parameter.shape)
        return model.astype(x.dtype).to(self.device)

    def training_step(self, row: ModelRow, x: Any, labels: Any) -> Callable[[], Any]:
        model = self._model(row, x)
        loss = nn.CrossEntropyLoss()
        optimizer = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        # As `train.fit` does: one step's activations and gradients lie where the last one's did.
        self.pool = self.backend.reuse_buffers()
        self.pool.__enter__()

        labels = numbaconv.to_device(labels, self.device)

        def step() -> Any:
            optimizer.zero_grad()
            value, ctx = loss.forward_ahead_ctx(model.forward(x), labels)
            model.backward(loss.backward_ctx(ctx))
            optimizer.step()
            return value

        return step

    def prediction(self, row: ModelRow, x: Any) -> Callable[[], Any]:
        predict = self._model(row, x).prepare()
        return lambda: predict(x)

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return F.linear(x, weight, bias)

    def linear_backward(self, grad_output: Any, x: Any, weight: Any) -> tuple[Any, ...]:
        return F.linear_backward(grad_output, x, weight)

    def forward(self, op: str, x: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
        if op == "max_pool2d":
            return F.max_pool2d(x, return_indices=True, **arguments)
        if op == "batch_norm":
            result = F.batch_norm(x, training=True)
            return result.output, result
        output = getattr(F, op)(x, **arguments)
        return output, output

    def backward(self, op: str, grad_output: Any, x: Any, context: Any, arguments: dict[str, Any]) -> Any:
        if op == "add":
            raise Unavailable("the gradient of a sum is passed on as it is")
        if op == "max_pool2d":
            return F.max_pool2d_backward(grad_output, context, x.shape, **arguments)
        if op == "avg_pool2d":
            return F.avg_pool2d_backward(grad_output, x.shape, **arguments)
        if op == "adaptive_avg_pool2d":
            return F.adaptive_avg_pool2d_backward(grad_output, x.shape)
        if op == "cross_entropy":
            return F.cross_entropy_backward(x, **arguments, grad_output=float(grad_output))
        if op in ("sigmoid", "tanh"):  # they want their output
            return getattr(F, f"{op}_backward")(grad_output, context)
        if op == "batch_norm":
            return F.batch_norm_backward(grad_output, x, None, context.mean, context.inverse_std, training=True)[0]
        return getattr(F, f"{op}_backward")(grad_output, x, **arguments)


def build(layers: Layers) -> nn.Sequential:
    """The network as a model of this library."""
    make = {
        "conv": lambda i, o, kernel, stride, padding: nn.Conv2d(i, o, kernel, stride=stride, padding=padding),
        "linear": nn.Linear,
        "norm": nn.BatchNorm2d,
        "relu": nn.ReLU,
        "max_pool": nn.MaxPool2d,
        "global_pool": lambda: nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten,
        "residual": lambda body, around: nn.Residual(build(body), build(around) if around else None),
    }
    return nn.Sequential(*(make[kind](*arguments) for kind, *arguments in layers))
