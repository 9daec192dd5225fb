"""What is timed. Rows are added, never changed or removed: results of years ago stay comparable."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """(vertical, horizontal) of an int or a pair."""
    return value if isinstance(value, tuple) else (value, value)


class ConvRow(NamedTuple):
    """One convolution layer; padding is symmetric, so that every provider takes it as it is.

    kernel, padding and dilation are ints or (vertical, horizontal) pairs.
    """

    name: str
    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel: Pair
    stride: int = 1
    padding: Pair = 0
    dilation: Pair = 1
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.in_channels, self.height, self.width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, *pair(self.kernel)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        def along(axis: int) -> int:
            reach = pair(self.dilation)[axis] * (pair(self.kernel)[axis] - 1) + 1
            return (self.input_shape[2 + axis] + 2 * pair(self.padding)[axis] - reach) // self.stride + 1

        return self.batch, self.out_channels, along(0), along(1)

    @property
    def flops(self) -> int:
        """Multiplies and adds of a direct convolution, in one direction."""
        return 2 * math.prod(self.output_shape) * math.prod(self.weight_shape[1:])

    @property
    def elements(self) -> int:
        """Of x, weight and output."""
        return sum(math.prod(shape) for shape in (self.input_shape, self.weight_shape, self.output_shape))

    @property
    def arguments(self) -> dict[str, Pair]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


CONV = [
    ConvRow("seed_5x5", 64, 3, 32, 32, 10, 5, padding=2),
    ConvRow("lenet_c1", 64, 1, 28, 28, 6, 5, padding=2),
    ConvRow("lenet_c2", 64, 6, 14, 14, 16, 5),
    ConvRow("alexnet_c1", 8, 3, 227, 227, 96, 11, stride=4),
    ConvRow("alexnet_c2", 8, 64, 27, 27, 192, 5, padding=2),
    ConvRow("vgg_1_1", 1, 3, 224, 224, 64, 3, padding=1),
    ConvRow("vgg_1_2", 1, 64, 224, 224, 64, 3, padding=1),
    ConvRow("vgg_2_2", 1, 128, 112, 112, 128, 3, padding=1),
    ConvRow("vgg_3_2", 1, 256, 56, 56, 256, 3, padding=1),
    ConvRow("vgg_4_2", 1, 512, 28, 28, 512, 3, padding=1),
    ConvRow("vgg_5_2", 1, 512, 14, 14, 512, 3, padding=1),
    ConvRow("vgg_3_2_batch8", 8, 256, 56, 56, 256, 3, padding=1),
    ConvRow("resnet_stem", 1, 3, 224, 224, 64, 7, stride=2, padding=3),
    ConvRow("resnet_1x1_narrow", 8, 256, 56, 56, 64, 1),
    ConvRow("resnet_1x1_wide", 8, 64, 56, 56, 256, 1),
    ConvRow("resnet_3x3_stride2", 8, 128, 56, 56, 128, 3, stride=2, padding=1),
    ConvRow("resnet_1x1_stride2", 8, 256, 56, 56, 512, 1, stride=2),
    ConvRow("cifar_3x3", 64, 64, 32, 32, 64, 3, padding=1),
    ConvRow("mobilenet_depthwise", 8, 144, 56, 56, 144, 3, padding=1, groups=144),
    ConvRow("mobilenet_depthwise_stride2", 8, 144, 56, 56, 144, 3, stride=2, padding=1, groups=144),
    ConvRow("convnext_depthwise_7x7", 8, 96, 56, 56, 96, 7, padding=3, groups=96),
    ConvRow("deeplab_dilation2", 1, 256, 33, 33, 256, 3, padding=2, dilation=2),
    ConvRow("resnext_groups32", 8, 128, 56, 56, 128, 3, padding=1, groups=32),
    ConvRow("inception_1x7", 8, 192, 17, 17, 192, (1, 7), padding=(0, 3)),
    ConvRow("inception_7x1", 8, 192, 17, 17, 192, (7, 1), padding=(3, 0)),
    ConvRow("alexnet_c3", 8, 192, 13, 13, 384, 3, padding=1),
    ConvRow("alexnet_c4", 8, 384, 13, 13, 256, 3, padding=1),
    ConvRow("alexnet_c5", 8, 256, 13, 13, 256, 3, padding=1),
    ConvRow("depthwise_17x17", 8, 96, 28, 28, 96, 17, padding=8, groups=96),
    ConvRow("alexnet_c2_groups2", 8, 96, 27, 27, 256, 5, padding=2, groups=2),
    ConvRow("dilated_1x3", 8, 64, 1, 4096, 64, (1, 3), padding=(0, 8), dilation=(1, 8)),
    ConvRow("odd_3_to_17", 8, 3, 13, 29, 17, 3, padding=1),
    ConvRow("odd_5_to_33", 8, 5, 13, 29, 33, 3, padding=1),
    ConvRow("odd_17_to_5", 8, 17, 13, 29, 5, 3, padding=1),
    ConvRow("odd_33_to_100", 8, 33, 13, 29, 100, 3, padding=1),
    ConvRow("odd_100_to_33_1x1", 8, 100, 13, 29, 33, 1),
    ConvRow("odd_100_stride2", 8, 100, 13, 29, 100, 3, stride=2, padding=1),
    ConvRow("resnet_3x3_batch1", 1, 128, 28, 28, 128, 3, padding=1),
    ConvRow("resnet_3x3_batch8", 8, 128, 28, 28, 128, 3, padding=1),
    ConvRow("resnet_3x3_batch64", 64, 128, 28, 28, 128, 3, padding=1),
    ConvRow("resnet_1x1_batch1", 1, 256, 14, 14, 1024, 1),
    ConvRow("resnet_1x1_batch8", 8, 256, 14, 14, 1024, 1),
    ConvRow("resnet_1x1_batch64", 64, 256, 14, 14, 1024, 1),
    ConvRow("small_call", 1, 8, 5, 5, 64, 3),
]


class LinearRow(NamedTuple):
    """One fully connected layer."""

    name: str
    rows: int
    in_features: int
    out_features: int

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.in_features * self.out_features

    @property
    def elements(self) -> int:
        """Of x, weight and output."""
        return self.rows * (self.in_features + self.out_features) + self.in_features * self.out_features


LINEAR = [
    LinearRow("lecture_3072_10", 64, 3072, 10),
    LinearRow("lenet_fc1", 64, 400, 120),
    LinearRow("lenet_fc3", 64, 84, 10),
    LinearRow("vgg_fc2", 8, 4096, 4096),
    LinearRow("vgg_fc2_one", 1, 4096, 4096),
    LinearRow("square_1024", 1024, 1024, 1024),
    LinearRow("square_2048", 2048, 2048, 2048),
    LinearRow("vgg_fc2_batch64", 64, 4096, 4096),
    LinearRow("small_call", 1, 128, 10),
]


class ElementwiseRow(NamedTuple):
    """One operation that is bound by memory: its name in `functional`, its input, its arguments.

    `streams` counts the arrays of x's size that pass through memory, forward and backward.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    streams: tuple[float, float]
    arguments: dict[str, Any] = {}  # noqa: RUF012  (never written)


THREE_BY_THREE = {"kernel_size": 3, "stride": 2, "padding": 1}

ELEMENTWISE = [
    ElementwiseRow("relu_small", "relu", (64, 6, 28, 28), (2, 3)),
    ElementwiseRow("relu_large", "relu", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("gelu", "gelu", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("max_pool_lenet", "max_pool2d", (64, 6, 28, 28), (1.25, 1.5), {"kernel_size": 2}),
    ElementwiseRow("max_pool_resnet", "max_pool2d", (8, 64, 112, 112), (1.25, 1.5), {"kernel_size": 2}),
    ElementwiseRow("batch_norm", "batch_norm", (8, 64, 56, 56), (3, 5)),
    ElementwiseRow("relu_cifar", "relu", (64, 64, 32, 32), (2, 3)),
    ElementwiseRow("batch_norm_cifar", "batch_norm", (64, 64, 32, 32), (3, 5)),
    ElementwiseRow("max_pool_cifar", "max_pool2d", (64, 64, 32, 32), (1.25, 1.5), {"kernel_size": 2}),
    ElementwiseRow("sigmoid", "sigmoid", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("tanh", "tanh", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("max_pool_3x3_resnet", "max_pool2d", (8, 64, 112, 112), (1.5, 1.5), THREE_BY_THREE),
    ElementwiseRow("avg_pool_lenet", "avg_pool2d", (64, 6, 28, 28), (1.25, 1.25), {"kernel_size": 2}),
    ElementwiseRow("avg_pool_densenet", "avg_pool2d", (8, 64, 112, 112), (1.25, 1.25), {"kernel_size": 2}),
    ElementwiseRow("global_avg_pool_resnet", "adaptive_avg_pool2d", (8, 2048, 7, 7), (1, 1), {"output_size": 1}),
    ElementwiseRow("global_avg_pool_cifar", "adaptive_avg_pool2d", (64, 512, 4, 4), (1, 1), {"output_size": 1}),
    ElementwiseRow("add_resnet", "add", (8, 64, 56, 56), (3, 0)),
    ElementwiseRow("add_cifar", "add", (64, 64, 32, 32), (3, 0)),
    ElementwiseRow("cross_entropy_10", "cross_entropy", (256, 10), (1, 2)),
    ElementwiseRow("cross_entropy_1000", "cross_entropy", (256, 1000), (1, 2)),
]  # fmt: skip
POOL = [row for row in ELEMENTWISE if "pool" in row.op]
POINTWISE = [row for row in ELEMENTWISE if "pool" not in row.op]


def each(rows: list[Any]) -> Any:
    """A parametrisation over rows, each under its name."""
    import pytest

    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])
