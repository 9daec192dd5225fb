"""What each kernel's machine code may take of a GPU, and what must be found in it.

One row for each kernel. `tests/test_cuda_compile.py` compiles them for every element type and for sm_75, sm_80, sm_90,
sm_100 and sm_120, and compares. A row holds for the worst of these. That nothing is spilled, that nothing is in local
memory, and that there is no 64-bit division goes without saying; the test says it. A kernel without a row fails, and
the failure prints the row to paste here.

Registers decide how many threads fit on a multiprocessor at once, and an access that is no longer of 16 bytes, or a
main loop with more beside its multiply-adds, is time lost that no result shows.
"""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """One kernel's.

    Attributes:
        registers: of a thread, at most: (float32, float64), or one number.
        shared: bytes of static shared memory, exactly; likewise.
        wide: instructions of which there must be some of 16 bytes: "LDG STG" (global), "LDS STS" (shared), "LDGSTS"
            (global to shared).
        main_loop: the instruction that the loop is for, without its suffix: "FFMA" (in float64: DFMA), "HMMA".
        share: of the main loop's instructions, at least.
        float64: arithmetic in float64 that is meant, in the kernel for float32.
        since: the first compute capability that has the instructions.
    """

    registers: int | tuple[int, int]
    shared: int | tuple[int, int] = 0
    wide: str = ""
    main_loop: str = ""
    share: float | tuple[float, float] = 0.0
    float64: bool = False
    since: tuple[int, int] = (7, 5)


BUDGETS: dict[str, Budget] = {
    # --- avg_pool
    "avg_pool._plane_means": Budget((40, 56)),
    "avg_pool.mean": Budget(64),
    "avg_pool.mean_backward": Budget(80),
    "avg_pool.mean_backward_vector": Budget(80, wide="LDG STG"),
    "avg_pool.mean_vector": Budget(64, wide="LDG STG"),
    # --- conv2d, linear
    "conv2d.grouped.depthwise": Budget(72, wide="LDG STG"),
    "conv2d.grouped.grouped": Budget((48, 56)),
    "conv2d.pack.pack": Budget(24),
    "conv2d.splits.add_splits": Budget((32, 40)),
    # --- conv2d.tensor_pack
    "conv2d.tensor_correlate.correlate_3xtf32_64": Budget(256, 36864, "LDG STG LDGSTS", "HMMA", 0.21, since=(8, 0)),
    "conv2d.tensor_correlate.correlate_tf32_128": Budget(254, 49152, "LDG STG LDGSTS", "HMMA", 0.28, since=(8, 0)),
    "conv2d.tensor_correlate.correlate_tf32_64": Budget(184, 36864, "LDG STG LDGSTS", "HMMA", 0.17, since=(8, 0)),
    "conv2d.tensor_pack._pack": Budget(24, wide="STG", since=(8, 0)),
    "conv2d.tensor_pack._sum_pixels": Budget(56, wide="LDG STG"),
    "conv2d.tensor_pack._sum_weights": Budget(48, shared=8448),
    "conv2d.tensor_weight_gradient.weight_gradient_3xtf32_64": Budget(
        256, 36864, "STG LDS LDGSTS", "HMMA", 0.19, since=(8, 0)
    ),
    "conv2d.tensor_weight_gradient.weight_gradient_tf32_128": Budget(
        256, 49152, "STG LDS LDGSTS", "HMMA", 0.25, since=(8, 0)
    ),
    "conv2d.tensor_weight_gradient.weight_gradient_tf32_64": Budget(
        200, 36864, "STG LDS LDGSTS", "HMMA", 0.17, since=(8, 0)
    ),
    # --- convert
    "convert._copy": Budget(24),
    "convert._to_int32": Budget(32),
    "convert._transpose": Budget(48, shared=(4224, 8448)),
    # --- dropout
    "dropout._dropout": Budget(32, wide="LDG STG"),
    "dropout._dropout_channels_last": Budget(40),
    # --- elementwise
    "elementwise.add": Budget(24, wide="LDG STG"),
    "elementwise.gelu": Budget(32, wide="LDG STG"),
    "elementwise.gelu_backward": Budget((48, 88), wide="LDG STG"),
    "elementwise.gelu_tanh": Budget(40, wide="LDG STG"),
    "elementwise.gelu_tanh_backward": Budget(40, wide="LDG STG"),
    "elementwise.leaky_relu": Budget((24, 16), wide="LDG STG"),
    "elementwise.leaky_relu_backward": Budget(24, wide="LDG STG"),
    "elementwise.product": Budget((24, 16), wide="LDG STG"),
    "elementwise.relu": Budget((24, 16), wide="LDG STG"),
    "elementwise.relu_backward": Budget(24, wide="LDG STG"),
    "elementwise.scaled_difference": Budget(24, wide="LDG STG"),
    "elementwise.sigmoid": Budget(32, wide="LDG STG"),
    "elementwise.sigmoid_backward": Budget(24, wide="LDG STG"),
    "elementwise.silu": Budget(40, wide="LDG STG"),
    "elementwise.silu_backward": Budget((40, 32), wide="LDG STG"),
    "elementwise.squared_difference": Budget(24, wide="LDG STG"),
    "elementwise.sum": Budget(24, wide="LDG STG"),
    "elementwise.tanh": Budget(24, wide="LDG STG"),
    "elementwise.tanh_backward": Budget(24, wide="LDG STG"),
    "elementwise.weighted": Budget(24, wide="LDG STG"),
    # --- loss
    "loss._add_blocks": Budget(56, shared=256),
    "loss._count_labels": Budget(56, shared=256, float64=True),
    "loss._squared_error": Budget(112, shared=256, float64=True),
    "loss.class_gradient_columns": Budget((48, 56)),
    "loss.class_gradient_rows": Budget((48, 56)),
    "loss.class_loss_columns": Budget((80, 104), shared=256, float64=True),
    "loss.class_loss_rows": Budget(120, shared=256, float64=True),
    "loss.probability_gradient_columns": Budget((48, 56)),
    "loss.probability_gradient_rows": Budget((40, 56)),
    "loss.probability_loss_columns": Budget((64, 88), shared=256, float64=True),
    "loss.probability_loss_rows": Budget((80, 112), shared=256, float64=True),
    # --- max_pool
    "max_pool._scatter": Budget(40),
    "max_pool.maximum": Budget((32, 40)),
    "max_pool.maximum_backward": Budget(64),
    "max_pool.maximum_backward_vector": Budget(64, wide="LDG STG"),
    "max_pool.maximum_vector": Budget(40, wide="LDG STG"),
    # --- moments
    "moments.moments": Budget((40, 64), shared=(3072, 6144)),
    "moments.products": Budget((48, 64), shared=(3072, 6144), float64=True),
    # --- norm
    "norm._gradients": Budget(40, float64=True),
    "norm._statistics": Budget(64, float64=True),
    "norm._widen": Budget(16, float64=True),
    "norm.line_of_channel": Budget(24, wide="LDG STG"),
    "norm.line_of_channels": Budget(32, wide="LDG STG"),
    "norm.line_single": Budget((16, 24)),
    "norm.plane_of_channel": Budget(32, wide="LDG STG"),
    "norm.plane_of_channels": Budget(40, wide="LDG STG"),
    "norm.plane_single": Budget(24),
    # --- shape
    "shape.padded": Budget(24),
    "shape.padded_backward": Budget(56),
    "shape.padded_backward_vector": Budget((48, 64), wide="LDG STG"),
    "shape.padded_vector": Budget(24, wide="LDG STG"),
    # --- softmax
    "softmax.softmax_backward_columns": Budget((40, 56)),
    "softmax.softmax_backward_rows": Budget((56, 72)),
    "softmax.softmax_columns": Budget((40, 56)),
    "softmax.softmax_rows": Budget((40, 48)),
    # --- conv2d.correlate
    "conv2d.correlate.across_large_vectors": Budget(
        128, shared=18968, wide="LDG STG LDS", main_loop="FFMA", share=0.87
    ),
    "conv2d.correlate.across_medium_vectors": Budget(
        (160, 168), shared=(9752, 13848), wide="LDG STG LDS", main_loop="FFMA", share=(0.83, 0.66)
    ),
    "conv2d.correlate.across_small_vectors": Budget(
        (96, 128), shared=(5144, 9240), wide="LDG STG LDS", main_loop="FFMA", share=(0.69, 0.59)
    ),
    "conv2d.correlate.along_large_vectors": Budget(
        128, shared=18968, wide="LDG STG LDS STS", main_loop="FFMA", share=0.87
    ),
    "conv2d.correlate.along_medium_scalars": Budget(
        (168, 192), shared=(9752, 13848), wide="LDG LDS STS", main_loop="FFMA", share=(0.82, 0.65)
    ),
    "conv2d.correlate.along_medium_vectors": Budget(
        (160, 168), shared=(9752, 13848), wide="LDG STG LDS STS", main_loop="FFMA", share=(0.84, 0.67)
    ),
    "conv2d.correlate.along_small_vectors": Budget(
        (96, 128), shared=(5144, 9240), wide="LDG STG LDS STS", main_loop="FFMA", share=(0.7, 0.59)
    ),
    # --- conv2d.grouped_weight_gradient
    "conv2d.grouped_weight_gradient._grouped_weight_gradient": Budget(64, shared=(4096, 8192)),
    # --- conv2d.weight_gradient
    "conv2d.weight_gradient.small_vectors": Budget(
        (88, 120), shared=(4736, 8832), wide="LDG STG LDS STS", main_loop="FFMA", share=(0.65, 0.5)
    ),
    "conv2d.weight_gradient.gather": Budget((32, 40)),
    "conv2d.weight_gradient.large_vectors": Budget(
        128, shared=17408, wide="LDG STG LDS STS", main_loop="FFMA", share=0.85
    ),
    "conv2d.weight_gradient.medium_scalars": Budget(
        168, shared=(8960, 13056), wide="LDG STG LDS STS", main_loop="FFMA", share=(0.71, 0.56)
    ),
    "conv2d.weight_gradient.medium_vectors": Budget(
        (152, 168), shared=(8960, 13056), wide="LDG STG LDS STS", main_loop="FFMA", share=(0.8, 0.6)
    ),
    # --- ahead
    "ahead._require_finite": Budget(16),
    # --- conv2d.column_sums
    "conv2d.column_sums._column_sums": Budget((56, 72), shared=(1024, 2048)),
    # --- update
    "update._adam": Budget(56, wide="LDG STG"),
    "update._clip": Budget(24, float64=True),
    "update._momentum": Budget((40, 48), wide="LDG STG"),
    "update._norm": Budget(56, shared=2048),
    "update._sgd": Budget((32, 40), wide="LDG STG"),
    "update._squares": Budget((40, 56), shared=2048, float64=True),
    "update._total": Budget(56, shared=2048),
}
