"""Every operation as a function, and its vector-Jacobian product beside it as ``<op>_backward``.

Each checks its arguments once, finds the backend that owns the arrays, and calls it.
"""

from __future__ import annotations

from .activation import relu, relu_backward
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
