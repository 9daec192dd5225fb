"""Convolution problems that every algorithm meets: one row each, named for what it is there to catch."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest


class ConvCase(NamedTuple):
    """The arguments of one conv2d; `x` and `weight` are shapes."""

    name: str
    x: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1

    @property
    def arguments(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}


class TransposeCase(NamedTuple):
    """The arguments of one conv_transpose2d; `x` and `weight` are shapes."""

    name: str
    x: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    groups: int = 1
    dilation: Any = 1

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }


SHAPES = [
    # Filters
    ConvCase("1x1", (2, 8, 5, 6), (12, 8, 1, 1)),
    ConvCase("1x1_stride2", (2, 8, 7, 6), (12, 8, 1, 1), stride=2),
    ConvCase("1x1_padded", (2, 8, 5, 6), (12, 8, 1, 1), padding=1),
    ConvCase("3x3", (2, 5, 9, 8), (7, 5, 3, 3)),
    ConvCase("3x3_pad1", (2, 16, 8, 8), (32, 16, 3, 3), padding=1),
    ConvCase("5x5_pad2", (2, 3, 12, 12), (10, 3, 5, 5), padding=2),
    ConvCase("7x7_stride2_pad3", (1, 3, 23, 22), (16, 3, 7, 7), stride=2, padding=3),
    ConvCase("11x11_stride4", (1, 3, 31, 35), (8, 3, 11, 11), stride=4),
    ConvCase("1x7", (2, 4, 6, 11), (9, 4, 1, 7), padding=(0, 3)),
    ConvCase("7x1", (2, 4, 11, 6), (9, 4, 7, 1), padding=(3, 0)),
    ConvCase("2x2_even", (2, 4, 7, 7), (6, 4, 2, 2)),
    ConvCase("4x3_even_odd", (1, 4, 9, 7), (6, 4, 4, 3), padding=(2, 1)),
    # Strides
    ConvCase("stride_2_1", (2, 4, 9, 8), (6, 4, 3, 3), stride=(2, 1), padding=1),
    ConvCase("stride_1_3", (2, 4, 9, 10), (6, 4, 3, 3), stride=(1, 3), padding=1),
    ConvCase("stride2_even_rest", (2, 8, 10, 10), (16, 8, 3, 3), stride=2, padding=1),
    ConvCase("stride3_leaves_a_rest", (1, 4, 12, 13), (5, 4, 3, 3), stride=3),
    ConvCase("stride_larger_than_kernel", (2, 4, 13, 14), (5, 4, 2, 2), stride=5),
    ConvCase("stride_larger_than_kernel_padded", (1, 4, 10, 11), (5, 4, 3, 1), stride=(4, 3), padding=(2, 2)),
    # Dilation
    ConvCase("dilation2", (1, 8, 11, 11), (16, 8, 3, 3), padding=2, dilation=2),
    ConvCase("dilation_3_1", (2, 4, 12, 7), (6, 4, 3, 3), padding=(1, 0), dilation=(3, 1)),
    ConvCase("dilation2_stride2", (1, 4, 13, 12), (6, 4, 3, 3), stride=2, padding=2, dilation=2),
    ConvCase("dilation3_stride2", (1, 4, 15, 14), (6, 4, 3, 2), stride=2, padding=3, dilation=3),
    # Padding
    ConvCase("asymmetric", (2, 4, 7, 8), (6, 4, 3, 3), padding=((0, 2), (3, 1))),
    ConvCase("asymmetric_stride2", (2, 4, 7, 8), (6, 4, 3, 3), stride=2, padding=((1, 0), (0, 2))),
    ConvCase("same", (2, 4, 7, 8), (6, 4, 3, 5), padding="same"),
    ConvCase("same_even_kernel", (2, 4, 7, 8), (6, 4, 2, 4), padding="same"),
    ConvCase("same_stride2", (2, 4, 7, 8), (6, 4, 3, 4), stride=2, padding="same"),
    ConvCase("same_stride3_dilation2", (1, 4, 10, 11), (6, 4, 3, 3), stride=3, padding="same", dilation=2),
    ConvCase("valid", (2, 4, 7, 8), (6, 4, 3, 5), padding="valid"),
    ConvCase("padding_larger_than_kernel", (1, 4, 3, 3), (6, 4, 2, 2), padding=4),
    ConvCase("padding_covers_small_input", (2, 4, 1, 2), (6, 4, 5, 5), padding=2),
    # Groups
    ConvCase("groups2", (2, 8, 6, 7), (12, 4, 3, 3), padding=1, groups=2),
    ConvCase("groups4_tail", (1, 20, 6, 7), (28, 5, 3, 3), padding=1, groups=4),
    ConvCase("groups_wide", (1, 64, 5, 5), (64, 32, 3, 3), padding=1, groups=2),
    ConvCase("resnext", (1, 64, 6, 6), (64, 4, 3, 3), padding=1, groups=16),
    ConvCase("groups_1x1", (2, 12, 5, 5), (18, 4, 1, 1), groups=3),
    ConvCase("groups_stride2_dilation2", (1, 6, 13, 12), (9, 2, 3, 3), stride=2, padding=1, dilation=2, groups=3),
    ConvCase("depthwise", (2, 17, 7, 8), (17, 1, 3, 3), padding=1, groups=17),
    ConvCase("depthwise_stride2", (2, 32, 9, 9), (32, 1, 3, 3), stride=2, padding=1, groups=32),
    ConvCase("depthwise_7x7", (1, 24, 9, 10), (24, 1, 7, 7), padding=3, groups=24),
    ConvCase("channel_multiplier3", (2, 5, 6, 6), (15, 1, 3, 3), padding=1, groups=5),
    ConvCase("groups_many_to_one", (1, 12, 6, 6), (3, 4, 3, 3), groups=3),
    # Depth: sums longer than the 512 terms that a float32 accumulator takes
    ConvCase("one_channel", (3, 1, 10, 10), (6, 1, 5, 5), padding=2),
    ConvCase("in3", (1, 3, 8, 8), (16, 3, 3, 3), padding=1),
    ConvCase("in17", (1, 17, 6, 6), (16, 17, 3, 3), padding=1),
    ConvCase("in64", (1, 64, 7, 7), (64, 64, 3, 3), padding=1),
    ConvCase("winograd", (2, 33, 17, 18), (40, 33, 3, 3), padding=1),  # enough tiles to be chosen
    ConvCase("winograd_edges", (3, 48, 14, 17), (65, 48, 3, 3), padding=((2, 0), (1, 2))),
    ConvCase("winograd_strided", (4, 32, 32, 30), (64, 32, 3, 3), stride=2, padding=1),  # enough tiles, too
    ConvCase("in513", (1, 513, 4, 5), (20, 513, 3, 3), padding=1),
    ConvCase("in513_1x1", (2, 513, 4, 5), (20, 513, 1, 1)),
    ConvCase("in1030_1x1", (1, 1030, 3, 3), (33, 1030, 1, 1)),
    ConvCase("many_pixels", (2, 3, 50, 41), (4, 3, 3, 3), padding=1),  # the weight-gradient's long sum
    # Longer: one float32 accumulator would lose 5e-6 here
    ConvCase("in60000_1x1", (1, 60000, 1, 2), (3, 60000, 1, 1)),
    ConvCase("in7000_3x3", (1, 7000, 3, 3), (2, 7000, 3, 3)),
    ConvCase("out60000_1x1", (1, 3, 1, 2), (60000, 3, 1, 1)),
    ConvCase("60000_pixels", (1, 2, 200, 300), (3, 2, 1, 1)),
    ConvCase("60000_pixels_3x3", (1, 1, 200, 300), (2, 1, 3, 3), padding=1),
    ConvCase("60000_pixels_depthwise", (2, 2, 150, 200), (2, 1, 3, 3), padding=1, groups=2),
    # Corners
    ConvCase("1x1_image", (3, 6, 1, 1), (8, 6, 1, 1)),
    ConvCase("1x1_image_3x3", (3, 6, 1, 1), (8, 6, 3, 3), padding=1),
    ConvCase("kernel_equals_input", (2, 6, 4, 5), (8, 6, 4, 5)),
    ConvCase("kernel_equals_padded_input", (2, 6, 4, 5), (8, 6, 6, 7), padding=1),
    ConvCase("one_row", (2, 6, 1, 17), (8, 6, 1, 3), padding=(0, 1)),
    ConvCase("one_row_stride_2_1", (2, 3, 1, 5), (6, 3, 2, 2), stride=(2, 1), padding=1),
    ConvCase("one_row_no_tap", (2, 3, 1, 4), (6, 3, 1, 2), stride=(2, 1), padding=1),
    ConvCase("one_column", (2, 6, 17, 1), (8, 6, 3, 1), padding=(1, 0)),
    ConvCase("batch1_of_many", (9, 2, 4, 4), (3, 2, 3, 3), padding=1),
    ConvCase("all_ones", (1, 1, 1, 1), (1, 1, 1, 1)),
    ConvCase("lenet_c1", (2, 1, 28, 28), (6, 1, 5, 5), padding=2),
    ConvCase("lenet_c2", (2, 6, 14, 14), (16, 6, 5, 5)),
    ConvCase("empty_batch", (0, 4, 7, 8), (6, 4, 3, 3), padding=1),
    ConvCase("empty_batch_1x1", (0, 4, 7, 8), (6, 4, 1, 1)),
]

# Remainders of the register tile: output channels (vectors of 4, 8 or 16), pixels of a row (tiles of up to 14)
OUT_CHANNELS = [1, 3, 5, 6, 10, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 100]
TILE_CHANNELS = [ConvCase(f"out{k}", (1, 5, 4, 7), (k, 5, 3, 3), padding=1) for k in OUT_CHANNELS]
TILE_CHANNELS_1X1 = [ConvCase(f"out{k}_1x1", (1, 5, 3, 5), (k, 5, 1, 1)) for k in OUT_CHANNELS]
TILE_PIXELS = [ConvCase(f"row{q}", (1, 4, 3, q), (20, 4, 3, 3), padding=1) for q in range(1, 14)]
TILE_PIXELS_1X1 = [ConvCase(f"pixels{q}_1x1", (1, 4, 1, q), (20, 4, 1, 1)) for q in range(1, 14)]
IN_CHANNELS = [ConvCase(f"in{c}_tile", (1, c, 4, 5), (5, c, 3, 3), padding=1) for c in (2, 4, 15, 16, 33)]

CONV = [*SHAPES, *TILE_CHANNELS, *TILE_CHANNELS_1X1, *TILE_PIXELS, *TILE_PIXELS_1X1, *IN_CHANNELS]

# One of each kind, where a test multiplies the cases by something else
FEW_NAMES = (
    "1x1", "3x3_pad1", "7x7_stride2_pad3", "dilation2_stride2", "asymmetric_stride2", "same_stride2", "groups4_tail",
    "depthwise", "winograd", "winograd_strided", "in513", "stride_larger_than_kernel",
)  # fmt: skip
FEW = [case for case in CONV if case.name in FEW_NAMES]

TRANSPOSE = [
    TransposeCase("1x1", (2, 6, 4, 5), (6, 8, 1, 1)),
    TransposeCase("3x3", (2, 6, 4, 5), (6, 8, 3, 3)),
    TransposeCase("3x3_pad1", (2, 6, 4, 5), (6, 8, 3, 3), padding=1),
    TransposeCase("doubling_4x4", (2, 8, 5, 4), (8, 4, 4, 4), stride=2, padding=1),
    TransposeCase("doubling_3x3", (1, 8, 5, 4), (8, 4, 3, 3), stride=2, padding=1, output_padding=1),
    TransposeCase("doubling_2x2", (1, 17, 5, 4), (17, 33, 2, 2), stride=2),
    TransposeCase("stride_3_2", (1, 4, 4, 5), (4, 5, 3, 2), stride=(3, 2), padding=(1, 0), output_padding=(2, 1)),
    TransposeCase("stride_larger_than_kernel", (1, 4, 3, 4), (4, 5, 2, 2), stride=4, output_padding=2),
    TransposeCase("dilation2", (1, 4, 5, 4), (4, 6, 3, 3), padding=2, dilation=2),
    TransposeCase("dilation3_stride2", (1, 4, 5, 4), (4, 6, 3, 3), stride=2, padding=1, output_padding=2, dilation=3),
    TransposeCase("groups2", (2, 8, 4, 5), (8, 3, 3, 3), stride=2, padding=1, groups=2),
    TransposeCase("depthwise", (2, 10, 4, 5), (10, 1, 4, 4), stride=2, padding=1, groups=10),
    # output_padding up to the dilation: rows and columns that no convolution's output would reach
    TransposeCase("1x1_extra", (2, 3, 4, 5), (3, 5, 1, 1), output_padding=(1, 2), dilation=3),
    TransposeCase("3x3_extra", (2, 3, 4, 5), (3, 5, 3, 3), padding=1, output_padding=(1, 2), dilation=3),
    TransposeCase("depthwise_extra", (2, 8, 4, 5), (8, 1, 3, 3), padding=1, output_padding=1, groups=8, dilation=2),
    TransposeCase("depthwise_1x1_extra", (2, 8, 4, 5), (8, 1, 1, 1), output_padding=1, groups=8, dilation=2),
    TransposeCase("one_row_stride_2_1", (1, 3, 1, 4), (3, 5, 3, 3), stride=(2, 1), padding=1),
    TransposeCase("one_pixel", (3, 10, 1, 1), (10, 7, 4, 4)),
    TransposeCase("in513", (1, 513, 3, 3), (513, 4, 2, 2), stride=2),
    TransposeCase("empty_batch", (0, 6, 4, 5), (6, 8, 3, 3), stride=2),
]


def each(cases):
    """A parametrisation over cases, each under its name."""
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])
