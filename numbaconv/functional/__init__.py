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
from .dropout import dropout, dropout_backward
from .linear import linear, linear_backward
from .loss import cross_entropy, cross_entropy_backward, mse_loss, mse_loss_backward
from .norm import batch_norm, batch_norm_backward
from .pool import (
    adaptive_avg_pool2d,
    adaptive_avg_pool2d_backward,
    avg_pool2d,
    avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
)
from .prepared import prepare_conv2d, prepare_linear
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
from .softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from .update import (
    accumulate,
    adam_update,
    as_float,
    assign,
    clip_update,
    require_finite,
    scale_update,
    sgd_update,
    sum_of_squares,
    zeros_like,
)
