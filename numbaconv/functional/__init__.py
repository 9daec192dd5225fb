"""Every operation as a function, and its vector-Jacobian product beside it as ``<op>_backward``.

Each checks its arguments once, finds the backend that owns the arrays, and calls it.
"""

from __future__ import annotations

from .activation import (
    gelu,
    gelu_backward,
    leaky_relu,
    leaky_relu_backward,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    silu,
    silu_backward,
    tanh,
    tanh_backward,
)
from .conv import (
    conv2d,
    conv2d_backward,
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    conv_transpose2d,
    conv_transpose2d_backward,
    explain,
)
from .linear import linear, linear_backward
from .pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from .shape import (
    add,
    add_backward,
    concat,
    concat_backward,
    flatten,
    flatten_backward,
    pad,
    pad_backward,
)
