"""The CUDA backend: every operation of `contract`, in numba.cuda kernels.

Importing it needs numba-cuda, and no driver: that is asked for when something is moved or launched.
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
from .ahead import feeder, read, require_finite
from .array import DeviceArray
from .avg_pool import adaptive_avg_pool2d, adaptive_avg_pool2d_backward, avg_pool2d, avg_pool2d_backward
from .conv2d import (
    conv2d,
    conv2d_backward,
    conv2d_backward_bias,
    conv2d_backward_input,
    conv2d_backward_weight,
    explain,
    prepare_conv2d,
)
from .dropout import dropout
from .errorword import synchronize
from .graphs import record
from .interop import as_device_array
from .layout import channels_last, contiguous, layout_of
from .linear import linear, linear_backward, prepare_linear
from .loss import cross_entropy, cross_entropy_backward, mse_loss, mse_loss_backward
from .max_pool import max_pool2d, max_pool2d_backward
from .memory import empty_cache, memory_stats, reuse_buffers
from .norm import batch_norm, batch_norm_backward
from .precision import allow_tf32
from .shape import add, concat, concat_backward, flatten, pad, pad_backward
from .softmax import log_softmax, log_softmax_backward, softmax, softmax_backward
from .streams import stream
from .transfer import to_device, to_host
from .update import (
    accumulate,
    adam_update,
    assign,
    clip_update,
    scale_update,
    sgd_update,
    sum_of_squares,
    zeros_like,
)
