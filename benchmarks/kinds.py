"""What is compared, of which rows, by which libraries, and against whom the headline ratio stands."""

from __future__ import annotations

from typing import NamedTuple

OURS = "numbaconv"
MOST_ERROR = {"float32": 1e-3, "float64": 1e-9, "tf32": 2e-2}  # relative: wrong is far off, not a little

# Those that lack something say so in their answers; these lists only spare the asking.
FUNCTIONAL = (OURS, "torch", "torch_channels_last", "jax", "scipy", "numpy_im2col")
PREPARED = (OURS, "torch", "torch_channels_last", "onnxruntime", "openvino", "jax")
TRAINED = (OURS, "torch", "torch_channels_last")
ALL_FORMATS = ("torch", "torch_channels_last")


class Kind(NamedTuple):
    """One table of the report.

    `rows` and `work` are what the worker is asked for; `layout` is how our arrays lie in memory; the headline ratio of
    a row is that of the fastest of the `rivals`.
    """

    rows: str
    work: str
    layout: str
    providers: tuple[str, ...]
    rivals: tuple[str, ...]
    title: str


_LAST, _FIRST = "channels_last", "channels_first"
_BETTER = "against PyTorch's better format"
_SAME = "channels-first (PyTorch in the same format)"

KINDS = {
    "functional": Kind(
        "conv", "forward", _LAST, FUNCTIONAL, ("torch_channels_last",),
        "forward, functional, channels-last (PyTorch in the same format)",
    ),
    "functional_channels_first": Kind(
        "conv", "forward", _FIRST, (OURS, "torch"), ("torch",), f"forward, functional, {_SAME}"
    ),
    "prepared": Kind(
        "conv", "prepared", _LAST, PREPARED, PREPARED[1:], "forward, prepared, against the fastest of all"
    ),
    "backward": Kind(
        "conv", "backward", _LAST, (*TRAINED, "numpy_im2col"), ALL_FORMATS, f"backward, all three gradients, {_BETTER}"
    ),
    "linear": Kind("linear", "forward", _LAST, (OURS, "torch"), ("torch",), "linear, forward"),
    "linear_backward": Kind("linear", "backward", _LAST, (OURS, "torch"), ("torch",), "linear, backward"),
    "pool": Kind("pool", "forward", _LAST, TRAINED, ALL_FORMATS, f"pooling, forward, {_BETTER}"),
    "pool_backward": Kind("pool", "backward", _LAST, TRAINED, ALL_FORMATS, f"pooling, backward, {_BETTER}"),
    "pool_channels_first": Kind("pool", "forward", _FIRST, TRAINED[:2], ("torch",), f"pooling, forward, {_SAME}"),
    "pool_backward_channels_first": Kind(
        "pool", "backward", _FIRST, TRAINED[:2], ("torch",), f"pooling, backward, {_SAME}"
    ),
    "elementwise": Kind(
        "elementwise", "forward", _LAST, (*TRAINED, "numpy_im2col"), ALL_FORMATS, f"element-wise, forward, {_BETTER}"
    ),
    "elementwise_backward": Kind(
        "elementwise", "backward", _LAST, (*TRAINED, "numpy_im2col"), ALL_FORMATS, f"element-wise, backward, {_BETTER}"
    ),
    "train": Kind("model", "train", _FIRST, TRAINED, ALL_FORMATS, f"training step, {_BETTER}"),
    "predict_one": Kind("model", "predict_one", _FIRST, TRAINED, ALL_FORMATS, "prediction of one image, prepared"),
}  # fmt: skip
