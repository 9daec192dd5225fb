"""What is timed. Rows are added, never changed or removed: results of years ago stay comparable."""

from __future__ import annotations

from typing import Any, NamedTuple


class ConvRow(NamedTuple):
    """One convolution layer; padding is symmetric, so that every provider takes it as it is."""

    name: str
    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.in_channels, self.height, self.width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        reach = self.dilation * (self.kernel - 1) + 1
        rows, columns = ((size + 2 * self.padding - reach) // self.stride + 1 for size in (self.height, self.width))
        return self.batch, self.out_channels, rows, columns

    @property
    def flops(self) -> int:
        """Multiplies and adds of a direct convolution, in one direction."""
        batch, channels, rows, columns = self.output_shape
        return 2 * batch * channels * rows * columns * self.weight_shape[1] * self.kernel**2

    @property
    def arguments(self) -> dict[str, int]:
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


LINEAR = [
    LinearRow("lecture_3072_10", 64, 3072, 10),
    LinearRow("lenet_fc1", 64, 400, 120),
    LinearRow("lenet_fc3", 64, 84, 10),
    LinearRow("vgg_fc2", 8, 4096, 4096),
    LinearRow("vgg_fc2_one", 1, 4096, 4096),
    LinearRow("square_1024", 1024, 1024, 1024),
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


ELEMENTWISE = [
    ElementwiseRow("relu_small", "relu", (64, 6, 28, 28), (2, 3)),
    ElementwiseRow("relu_large", "relu", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("gelu", "gelu", (8, 64, 112, 112), (2, 3)),
    ElementwiseRow("max_pool_lenet", "max_pool2d", (64, 6, 28, 28), (1.25, 1.5), {"kernel_size": 2}),
    ElementwiseRow("max_pool_resnet", "max_pool2d", (8, 64, 112, 112), (1.25, 1.5), {"kernel_size": 2}),
    ElementwiseRow("batch_norm", "batch_norm", (8, 64, 56, 56), (3, 5)),
]


def each(rows: list[Any]) -> Any:
    """A parametrisation over rows, each under its name."""
    import pytest

    return pytest.mark.parametrize("row", rows, ids=[row.name for row in rows])
