"""``python -m numbaconv warmup``: compiles kernels ahead, so that no later process waits for them."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from .. import functional, jit, nn, optim
from ..errors import ArgumentError, message
from ..io import load
from ..models.lenet import lenet5
from . import cache

Shape = tuple[int, ...]


def shape(text: str) -> Shape:
    """The shape that "1,1,28,28" names.

    Raises:
        argparse.ArgumentTypeError: it names none.
    """
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"a shape is positive integers with commas, such as 1,1,28,28; got {text!r}")
    return sizes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this command."""
    parser.add_argument("--model", metavar="FILE", help="a model that numbaconv.save wrote; without it: common kernels")
    parser.add_argument(
        "--input-shape",
        metavar="N,C,H,W",
        type=shape,
        nargs="+",
        default=[],
        help="shapes of inputs, batch included: kernels are chosen by them",
    )
    parser.add_argument("--train", action="store_true", help="one training step as well (SGD and Adam)")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="default: the model's, else float32")


def run(arguments: argparse.Namespace) -> int:
    """Compiles, and prints what was compiled and where it lies.

    Raises:
        ArgumentError: a model without an input shape, or the reverse.
        FileFormatError: the file holds no model of this library.
        OSError: it cannot be read.
        ShapeError: the model takes no such input.
    """
    if bool(arguments.model) != bool(arguments.input_shape):
        rule = "--model and --input-shape go together"
        fix = "Give both, or neither for the common kernels."
        raise ArgumentError(message("warmup", rule, fix, model=arguments.model, input_shape=arguments.input_shape))
    start = time.perf_counter()
    if arguments.model:
        model = load(arguments.model)
        if arguments.dtype:
            model.astype(arguments.dtype)
        dtype = next((p.dtype for p in model.parameters()), np.dtype(arguments.dtype or "float32"))
        warm_model(model, [np.zeros(size, dtype) for size in arguments.input_shape], train=arguments.train)
    else:
        warm_common(np.dtype(arguments.dtype or "float32"), train=arguments.train)
    compiled, loaded = jit.compile_counts()
    print(f"{compiled} kernels compiled, {loaded} found in the cache, {time.perf_counter() - start:.1f} s")
    for line in cache.described(cache.folders()):
        print(line)
    return 0


def warm_model(model: nn.Module, inputs: Iterable[np.ndarray], *, train: bool = False) -> None:
    """Compiles what a model's prediction needs, prepared and not, and with `train` a step of training it.

    Args:
        model: the model; a training step changes its weights.
        inputs: arrays of the shapes and dtypes it will be given.
        train: a step with SGD and with Adam, of cross-entropy where outputs are (N, classes), else mean squared error.
    """
    for x in inputs:
        model.eval()(x)
        model.prepare()(x)
        if train:
            _train(model.train(), x)


def _train(model: nn.Module, x: np.ndarray) -> None:
    parameters = list(model.parameters())
    optimizers: list[Any] = []
    if parameters:
        optimizers = [optim.SGD(parameters, lr=0.0, momentum=0.9), optim.Adam(parameters, lr=0.0)]
    output, context = model.forward_ctx(x)
    loss: Any = nn.CrossEntropyLoss() if output.ndim == 2 else nn.MSELoss()
    target = np.zeros(len(output), np.int64) if output.ndim == 2 else np.zeros_like(output)
    _, loss_context = loss.forward_ctx(output, target)
    model.backward_ctx(loss.backward_ctx(loss_context), context, needs_input=False)
    for optimizer in optimizers:
        optimizer.step()
    for optimizer in optimizers:  # after all of them: without gradients they do nothing
        optimizer.zero_grad()


def warm_common(dtype: np.dtype, *, train: bool = False) -> None:
    """Compiles what usual networks of one dtype need: LeNet-5, and one with each algorithm, norm and pooling."""
    for model, size in ((lenet5(rng=0), (64, 1, 28, 28)), (_network(), (4, 3, 32, 32))):
        warm_model(model.astype(dtype), [np.zeros(size, dtype), np.zeros((1, *size[1:]), dtype)], train=train)
    functional.softmax(np.zeros((2, 10), dtype))


def _network() -> nn.Sequential:
    """3x3 layers with few and many channels, of stride 1 and 2, pointwise and depthwise ones, a residual."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.Residual(nn.Sequential(nn.Conv2d(64, 64, 1), nn.ReLU())),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 96, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Dropout(0.1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    ).initialize(0)
