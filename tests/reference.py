"""Convolution and linear layers in float64, written to be read; shares no code with the package.

Every function exists twice where speed matters: ``*_loops`` writes the definition down, one loop per index; the
other does one slice of the whole array per filter tap. `test_reference.py` checks each against the other, against
SciPy and against numbers worked by hand.

Indices: ``n c h w`` of the input, ``k r s`` of the filter, ``p q`` of the output, ``g`` the group.
"""

from __future__ import annotations

import math

import numpy as np


def as_pair(value):
    """(vertical, horizontal)."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def as_padding(padding, size, kernel, stride, dilation):
    """(top, bottom, left, right) from any form of `padding`."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        sides = []
        for axis in (0, 1):
            outputs = math.ceil(size[axis] / stride[axis])
            reach = (outputs - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
            missing = max(reach - size[axis], 0)
            sides += [missing // 2, missing - missing // 2]
        return tuple(sides)
    vertical, horizontal = as_pair(padding)
    return (*as_pair(vertical), *as_pair(horizontal))


class Geometry:
    """The sizes of one convolution, and whether it fits."""

    def __init__(self, input_shape, weight_shape, stride=1, padding=0, dilation=1, groups=1):
        self.n, self.c, self.h, self.w = input_shape
        self.k, self.c_per_group, self.r, self.s = weight_shape
        self.groups, self.k_per_group = groups, self.k // groups
        self.stride, self.dilation = as_pair(stride), as_pair(dilation)
        self.top, self.bottom, self.left, self.right = as_padding(
            padding, (self.h, self.w), (self.r, self.s), self.stride, self.dilation
        )
        spare_rows = self.h + self.top + self.bottom - (self.dilation[0] * (self.r - 1) + 1)
        spare_columns = self.w + self.left + self.right - (self.dilation[1] * (self.s - 1) + 1)
        self.fits = spare_rows >= 0 and spare_columns >= 0
        self.p = spare_rows // self.stride[0] + 1
        self.q = spare_columns // self.stride[1] + 1

    @property
    def output_shape(self):
        return (self.n, self.k, self.p, self.q)

    def pad(self, x):
        """x with its border of zeros."""
        border = ((0, 0), (0, 0), (self.top, self.bottom), (self.left, self.right))
        return np.pad(np.asarray(x, np.float64), border)

    def crop(self, padded):
        """What `pad` was given."""
        return padded[:, :, self.top : self.top + self.h, self.left : self.left + self.w]

    def taps(self):
        """(r, s, the part of the padded input that this filter tap meets), for every tap."""
        for r in range(self.r):
            for s in range(self.s):
                top, left = r * self.dilation[0], s * self.dilation[1]
                rows = slice(top, top + (self.p - 1) * self.stride[0] + 1, self.stride[0])
                columns = slice(left, left + (self.q - 1) * self.stride[1] + 1, self.stride[1])
                yield r, s, (rows, columns)

    def channels(self):
        """(input channels, output channels) of every group."""
        for g in range(self.groups):
            yield (
                slice(g * self.c_per_group, (g + 1) * self.c_per_group),
                slice(g * self.k_per_group, (g + 1) * self.k_per_group),
            )


# --- the definition, one loop per index --------------------------------------------------------------------


def conv2d_loops(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """output[n,k,p,q] = bias[k] + sum over c, r, s of x[n, c, h, w] * weight[k, c, r, s]."""
    size = Geometry(x.shape, weight.shape, stride, padding, dilation, groups)
    output = np.zeros(size.output_shape)
    for n in range(size.n):
        for k in range(size.k):
            first_channel = k // size.k_per_group * size.c_per_group
            for p in range(size.p):
                for q in range(size.q):
                    total = 0.0 if bias is None else float(bias[k])
                    for c in range(size.c_per_group):
                        for r in range(size.r):
                            for s in range(size.s):
                                h = p * size.stride[0] + r * size.dilation[0] - size.top
                                w = q * size.stride[1] + s * size.dilation[1] - size.left
                                if 0 <= h < size.h and 0 <= w < size.w:
                                    total += float(x[n, first_channel + c, h, w]) * float(weight[k, c, r, s])
                    output[n, k, p, q] = total
    return output


def conv_transpose2d_loops(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Every element of x stamps the filter, times itself, onto the output: PyTorch's ConvTranspose2d."""
    stride, padding, extra, dilation = map(as_pair, (stride, padding, output_padding, dilation))
    n_images, in_channels, rows, columns = x.shape
    _, per_group, kernel_rows, kernel_columns = weight.shape
    height = (rows - 1) * stride[0] - 2 * padding[0] + dilation[0] * (kernel_rows - 1) + extra[0] + 1
    width = (columns - 1) * stride[1] - 2 * padding[1] + dilation[1] * (kernel_columns - 1) + extra[1] + 1
    output = np.zeros((n_images, per_group * groups, height, width))
    for n in range(n_images):
        for k in range(in_channels):
            first_channel = k // (in_channels // groups) * per_group
            for c in range(per_group):
                for p in range(rows):
                    for q in range(columns):
                        for r in range(kernel_rows):
                            for s in range(kernel_columns):
                                h = p * stride[0] + r * dilation[0] - padding[0]
                                w = q * stride[1] + s * dilation[1] - padding[1]
                                if 0 <= h < height and 0 <= w < width:
                                    output[n, first_channel + c, h, w] += float(x[n, k, p, q]) * float(
                                        weight[k, c, r, s]
                                    )
    if bias is not None:
        output += np.asarray(bias, np.float64)[None, :, None, None]
    return output


# --- one slice per filter tap ------------------------------------------------------------------------------


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """As `conv2d_loops`."""
    size = Geometry(x.shape, weight.shape, stride, padding, dilation, groups)
    padded, weight = size.pad(x), np.asarray(weight, np.float64)
    output = np.zeros(size.output_shape)
    if bias is not None:
        output += np.asarray(bias, np.float64)[None, :, None, None]
    for r, s, (rows, columns) in size.taps():
        for c, k in size.channels():
            output[:, k] += np.einsum("nchw,kc->nkhw", padded[:, c, rows, columns], weight[k, :, r, s], optimize=True)
    return output


def conv2d_backward_input(grad_output, weight, input_shape, stride=1, padding=0, dilation=1, groups=1):
    """Every output's gradient goes back, through each tap's weight, to the inputs that tap read."""
    size = Geometry(input_shape, weight.shape, stride, padding, dilation, groups)
    grad_output, weight = np.asarray(grad_output, np.float64), np.asarray(weight, np.float64)
    grad_padded = size.pad(np.zeros(input_shape))
    for r, s, (rows, columns) in size.taps():
        for c, k in size.channels():
            grad_padded[:, c, rows, columns] += np.einsum(
                "nkpq,kc->ncpq", grad_output[:, k], weight[k, :, r, s], optimize=True
            )
    return size.crop(grad_padded)


def conv2d_backward_weight(grad_output, x, weight_shape, stride=1, padding=0, dilation=1, groups=1):
    """Each tap's weight collects (gradient of an output) * (the input it was multiplied with)."""
    size = Geometry(x.shape, weight_shape, stride, padding, dilation, groups)
    grad_output, padded = np.asarray(grad_output, np.float64), size.pad(x)
    grad_weight = np.zeros(weight_shape)
    for r, s, (rows, columns) in size.taps():
        for c, k in size.channels():
            grad_weight[k, :, r, s] = np.einsum(
                "nkpq,ncpq->kc", grad_output[:, k], padded[:, c, rows, columns], optimize=True
            )
    return grad_weight


def conv2d_backward_bias(grad_output):
    """grad_bias[k]: the sum of that channel's gradients."""
    grad_output = np.asarray(grad_output, np.float64)
    return np.array([grad_output[:, k].sum() for k in range(grad_output.shape[1])])


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """As `conv_transpose2d_loops`: the whole of x stamps one tap at a time onto an uncropped output."""
    stride, padding, extra, dilation = map(as_pair, (stride, padding, output_padding, dilation))
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    _, in_channels, rows, columns = x.shape
    _, per_group, kernel_rows, kernel_columns = weight.shape
    height = (rows - 1) * stride[0] + dilation[0] * (kernel_rows - 1) + 1 + extra[0]
    width = (columns - 1) * stride[1] + dilation[1] * (kernel_columns - 1) + 1 + extra[1]
    output = np.zeros((x.shape[0], per_group * groups, height, width))
    inputs = in_channels // groups
    for r in range(kernel_rows):
        for s in range(kernel_columns):
            top, left = r * dilation[0], s * dilation[1]
            for g in range(groups):
                k, c = slice(g * inputs, (g + 1) * inputs), slice(g * per_group, (g + 1) * per_group)
                output[
                    :,
                    c,
                    top : top + (rows - 1) * stride[0] + 1 : stride[0],
                    left : left + (columns - 1) * stride[1] + 1 : stride[1],
                ] += np.einsum("nkpq,kc->ncpq", x[:, k], weight[k, :, r, s], optimize=True)
    output = output[:, :, padding[0] : height - padding[0], padding[1] : width - padding[1]]
    if bias is not None:
        output = output + np.asarray(bias, np.float64)[None, :, None, None]
    return output


def conv_transpose2d_backward(grad_output, x, weight, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """(grad_input, grad_weight, grad_bias): gather where the forward stamped (output_padding was stamped by nobody)."""
    stride, padding, dilation = map(as_pair, (stride, padding, dilation))
    grad_output, x, weight = (np.asarray(a, np.float64) for a in (grad_output, x, weight))
    _, in_channels, rows, columns = x.shape
    per_group = weight.shape[1]
    padded = np.pad(grad_output, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))
    grad_input, grad_weight = np.zeros(x.shape), np.zeros(weight.shape)
    inputs = in_channels // groups
    for r in range(weight.shape[2]):
        for s in range(weight.shape[3]):
            top, left = r * dilation[0], s * dilation[1]
            read = padded[
                :,
                :,
                top : top + (rows - 1) * stride[0] + 1 : stride[0],
                left : left + (columns - 1) * stride[1] + 1 : stride[1],
            ]
            for g in range(groups):
                k, c = slice(g * inputs, (g + 1) * inputs), slice(g * per_group, (g + 1) * per_group)
                grad_input[:, k] += np.einsum("ncpq,kc->nkpq", read[:, c], weight[k, :, r, s], optimize=True)
                grad_weight[k, :, r, s] = np.einsum("nkpq,ncpq->kc", x[:, k], read[:, c], optimize=True)
    return grad_input, grad_weight, conv2d_backward_bias(grad_output)


# --- linear ------------------------------------------------------------------------------------------------


def linear(x, weight, bias=None):
    """output[m, o] = bias[o] + sum over i of x[m, i] * weight[o, i]."""
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    output = np.zeros((x.shape[0], weight.shape[0]))
    for m in range(x.shape[0]):
        for o in range(weight.shape[0]):
            output[m, o] = math.fsum(x[m] * weight[o]) + (0.0 if bias is None else float(bias[o]))
    return output


def linear_backward(grad_output, x, weight):
    """(grad_input, grad_weight, grad_bias)."""
    grad_output, x, weight = (np.asarray(a, np.float64) for a in (grad_output, x, weight))
    grad_input, grad_weight = np.zeros(x.shape), np.zeros(weight.shape)
    for m in range(x.shape[0]):
        for o in range(weight.shape[0]):
            grad_input[m] += grad_output[m, o] * weight[o]
            grad_weight[o] += grad_output[m, o] * x[m]
    return grad_input, grad_weight, grad_output.sum(axis=0)
