"""PyTorch, through its own kernels: backwards are called directly, without the autograd tape's time."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import gpu
from ..cases import ConvRow, pair
from ..models import LAYERS, Layers, ModelRow, initial
from ..targets import TARGETS
from .base import Needs, Provider, Unavailable

aten = torch.ops.aten


class Torch(Provider):
    """PyTorch (oneDNN on x86 CPUs)."""

    name = "torch"
    memory_format = torch.contiguous_format

    def __init__(self, device: str, threads: int) -> None:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise Unavailable("this PyTorch has no CUDA device")
        self.device = torch.device(device)
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        if self.device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.backends.cudnn.benchmark = True  # it tries its algorithms, and keeps the fastest for each shape
            self._set_tf32(False)

    def _set_tf32(self, allowed: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed

    def allow_tf32(self) -> None:
        if self.device.type != "cuda":
            raise Unavailable("TF32 is a GPU's")
        self._set_tf32(True)

    def version(self) -> str:
        return str(torch.__version__)

    def limited_to(self, target: str) -> str:
        capability = torch.backends.cpu.get_cpu_capability()
        asked = TARGETS[target]
        if capability.lower() != asked["ATEN_CPU_CAPABILITY"]:
            return f"its kernels are those for {capability}"
        wrong = [name for name, value in asked.items() if os.environ.get(name) != value]
        return f"{wrong[0]} is not set for {target}" if wrong else ""

    def array(self, x: np.ndarray, layout: str) -> torch.Tensor:
        tensor = torch.from_numpy(x).to(self.device)
        if x.ndim == 4 and layout == "channels_last":
            tensor = tensor.to(memory_format=torch.channels_last)
        return tensor

    def to_numpy(self, x: torch.Tensor) -> np.ndarray:
        return x.cpu().numpy()

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def timing(self, call: Callable[[], Any], seconds: float) -> dict[str, Any] | None:
        return gpu.timing(self._time, call, seconds) if self.device.type == "cuda" else None

    def _time(self, call: Callable[[], Any]) -> float:
        start, stop = self._events
        start.record()
        call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop))

    def conv2d(self, row: ConvRow, x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.conv2d(x, weight, bias, **row.arguments)

    def conv2d_backward(self, row: ConvRow, grad_output: Any, x: Any, weight: Any, needs: Needs) -> tuple[Any, ...]:
        pairs = [list(pair(value)) for value in (row.stride, row.padding, row.dilation)]
        return aten.convolution_backward(  # type: ignore[no-any-return]
            grad_output, x, weight, [row.out_channels], *pairs, False, [0, 0], row.groups, list(needs)
        )

    def _model(self, row: ModelRow, x: Any) -> nn.Sequential:
        model = build(LAYERS[row.name]())
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(initial(name, tuple(parameter.shape))))
        return model.to(device=self.device, dtype=x.dtype, memory_format=self.memory_format)

    def training_step(self, row: ModelRow, x: Any, labels: Any) -> Callable[[], Any]:
        model = self._model(row, x)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        labels = torch.as_tensor(labels, device=self.device)

        def step() -> torch.Tensor:
            with torch.enable_grad():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(x), labels)
                loss.backward()
                optimizer.step()
            return loss

        return step

    def prediction(self, row: ModelRow, x: Any) -> Callable[[], Any]:
        model = self._model(row, x).eval()
        return lambda: model(x)

    def linear(self, x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.linear(x, weight, bias)

    def linear_backward(self, grad_output: Any, x: Any, weight: Any) -> tuple[Any, ...]:
        return grad_output @ weight, grad_output.T @ x, grad_output.sum(0)

    def forward(self, op: str, x: Any, arguments: dict[str, Any]) -> tuple[Any, Any]:
        if op == "max_pool2d":
            return aten.max_pool2d_with_indices(x, *_windows(arguments))  # type: ignore[no-any-return]
        if op == "batch_norm":
            output, mean, inverse_std = aten.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
            return output, (mean, inverse_std)
        if op == "add":
            return torch.add(x, arguments["y"]), None
        if op == "cross_entropy":
            log_softmax = aten._log_softmax(x, 1, False)
            loss, total = aten.nll_loss_forward(log_softmax, arguments["target"], None, 1, -100)
            return loss, (log_softmax, total)
        output = getattr(torch.nn.functional, op)(x, **arguments)
        return output, output

    def backward(self, op: str, grad_output: Any, x: Any, context: Any, arguments: dict[str, Any]) -> Any:
        if op == "relu":
            return aten.threshold_backward(grad_output, x, 0)
        if op == "gelu":
            return aten.gelu_backward(grad_output, x)
        if op in ("sigmoid", "tanh"):  # they want their output
            return getattr(aten, f"{op}_backward")(grad_output, context)
        if op == "max_pool2d":
            return aten.max_pool2d_with_indices_backward(grad_output, x, *_windows(arguments), [1, 1], False, context)
        if op == "avg_pool2d":
            return aten.avg_pool2d_backward(grad_output, x, *_windows(arguments), False, True, None)
        if op == "adaptive_avg_pool2d":
            # What autograd does: for one window PyTorch takes `mean`, whose gradient is this.
            return grad_output.expand(x.shape) / (x.shape[2] * x.shape[3])
        if op == "batch_norm":
            mask = [True, True, True]
            return aten.native_batch_norm_backward(grad_output, x, None, None, None, *context, True, 1e-5, mask)[0]
        if op == "cross_entropy":
            log_softmax, total = context
            grad = aten.nll_loss_backward(grad_output, log_softmax, arguments["target"], None, 1, -100, total)
            return aten._log_softmax_backward_data(grad, log_softmax, 1, x.dtype)
        raise Unavailable(f"torch has no backward of {op} here")


def _windows(arguments: dict[str, Any]) -> list[list[int]]:
    """Kernel size, stride and padding, as aten's pooling takes them."""
    size = arguments["kernel_size"]
    return [[value] * 2 for value in (size, arguments.get("stride", size), arguments.get("padding", 0))]


class TorchChannelsLast(Torch):
    """PyTorch with arrays and weights channels-last, whatever the benchmark asks for."""

    name = "torch_channels_last"
    memory_format = torch.channels_last

    def array(self, x: np.ndarray, layout: str) -> torch.Tensor:
        return super().array(x, "channels_last")


class _Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.shortcut(x)


def build(layers: Layers) -> nn.Sequential:
    """The network as a PyTorch module."""
    make = {
        "conv": lambda i, o, kernel, stride, padding: nn.Conv2d(i, o, kernel, stride, padding),
        "linear": nn.Linear,
        "norm": nn.BatchNorm2d,
        "relu": nn.ReLU,
        "max_pool": nn.MaxPool2d,
        "global_pool": lambda: nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten,
        "residual": lambda body, around: _Residual(build(body), build(around) if around else nn.Identity()),
    }
    return nn.Sequential(*(make[kind](*arguments) for kind, *arguments in layers))
