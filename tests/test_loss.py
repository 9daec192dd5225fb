"""Losses: against SciPy in float64, against PyTorch, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
from compare import LAYOUTS, Unchanged, assert_close, random_array

from numbaconv import functional, layout_of, parallel
from numbaconv.errors import ArgumentError, DTypeError, LabelError, ShapeError

DTYPES = ("float32", "float64")
SHAPES = [(6, 10), (1, 3), (33, 1), (17, 1000), (2, 5, 7, 9), (3, 21, 4), (2, 3, 2, 3, 4), (2, 19, 1, 33)]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_reduction = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
each_smoothing = pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
TOLERANCE = {"float32": {"rtol": 2e-6, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}


def without_classes(shape):
    return shape[:1] + shape[2:]


def labels_for(rng, shape):
    """Class indices, some of them ignored."""
    target = rng.integers(0, shape[1], without_classes(shape))
    target[rng.random(target.shape) < 0.2] = -100
    target.flat[0] = shape[1] - 1
    return target


def probabilities_for(rng, shape, dtype):
    return scipy.special.softmax(2 * rng.standard_normal(shape), axis=1).astype(dtype)


# --- cross-entropy: the reference ---------------------------------------------------------------------------


def reference_cross_entropy(x, target, label_smoothing, reduction, upstream=1.0):
    """(loss, grad_x) in float64, from the definition."""
    x = x.astype(np.float64)
    classes = x.shape[1]
    if target.dtype.kind == "f":
        wanted, used = target.astype(np.float64), np.ones(without_classes(x.shape), bool)
    else:
        used = target != -100
        wanted = np.moveaxis(np.eye(classes)[np.where(used, target, 0)], -1, 1)
    wanted = (1 - label_smoothing) * wanted + label_smoothing / classes
    losses = np.where(used, -(wanted * scipy.special.log_softmax(x, 1)).sum(1), 0)
    weight = np.expand_dims(used * upstream / (used.sum() if reduction == "mean" else 1), 1)
    grad = weight * (scipy.special.softmax(x, 1) * wanted.sum(1, keepdims=True) - wanted)
    loss = {"none": losses, "sum": losses.sum(), "mean": losses.sum() / used.sum()}[reduction]
    return loss, grad


def check_cross_entropy(x, target, label_smoothing, reduction, upstream=1.0):
    dtype = np.dtype(x.dtype.newbyteorder("=")).name
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    with Unchanged(x, target):
        loss = functional.cross_entropy(x, target, **options)
        grad = functional.cross_entropy_backward(x, target, grad_output=upstream, **options)
    wanted_loss, wanted_grad = reference_cross_entropy(x, np.asarray(target), label_smoothing, reduction, upstream)
    if reduction == "none":
        assert loss.dtype == np.dtype(dtype)
        np.testing.assert_allclose(loss, wanted_loss, **TOLERANCE[dtype])
    else:
        assert type(loss) is float
        assert loss == pytest.approx(wanted_loss, rel=1e-6 if dtype == "float32" else 1e-13)
    assert_close(grad, wanted_grad, dtype)
    return grad


@pytest.mark.reduced
@each_dtype
@each_smoothing
@each_reduction
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy(shape, reduction, label_smoothing, dtype, rng):
    x = 3 * random_array(rng, shape, dtype)
    upstream = random_array(rng, without_classes(shape), dtype) if reduction == "none" else -0.75
    for target in (labels_for(rng, shape), probabilities_for(rng, shape, dtype)):
        check_cross_entropy(x, target, label_smoothing, reduction, upstream)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cross_entropy_strides(layout, rng):
    x = LAYOUTS[layout](3 * random_array(rng, (3, 5, 4, 7), "float32"))
    labels, probabilities = labels_for(rng, x.shape), probabilities_for(rng, x.shape, "float32")
    targets = [labels, probabilities]
    if not layout.startswith("broadcast"):  # of targets that are all alike the gradient is 0, but for rounding
        targets += [LAYOUTS[layout](probabilities)]
    if layout in ("fortran", "negative_strides", "transposed", "read_only", "byte_swapped", "unaligned", "odd_strides"):
        targets += [LAYOUTS[layout](labels)]
    for target in targets:
        grad = check_cross_entropy(x, target, 0.1, "mean")
        assert layout_of(grad) == layout_of(np.asarray(x, "float32"))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", ">i4"])
def test_labels_of_every_integer_dtype(dtype, rng):
    x = random_array(rng, (20, 10), "float32")
    target = rng.integers(0, 10, 20)
    loss, grad = reference_cross_entropy(x, target, 0, "mean")
    assert functional.cross_entropy(x, target.astype(dtype)) == pytest.approx(loss, rel=1e-6)
    np.testing.assert_allclose(functional.cross_entropy_backward(x, target.astype(dtype)), grad, atol=1e-7)


@each_dtype
@each_smoothing
@each_reduction
def test_cross_entropy_equals_pytorch(reduction, label_smoothing, dtype, rng):
    torch = pytest.importorskip("torch")
    for shape in ((9, 4), (2, 6, 5, 3)):
        x = 3 * random_array(rng, shape, dtype)
        for target in (labels_for(rng, shape), probabilities_for(rng, shape, dtype)):
            leaf = torch.from_numpy(x.copy()).requires_grad_()
            options = {"label_smoothing": label_smoothing, "reduction": reduction}
            expected = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(target), **options)
            expected.sum().backward()
            np.testing.assert_allclose(
                functional.cross_entropy(x, target, **options), expected.detach().numpy(), **TOLERANCE[dtype]
            )
            grad = functional.cross_entropy_backward(x, target, **options)
            np.testing.assert_allclose(grad, leaf.grad.numpy(), **TOLERANCE[dtype])


@each_smoothing
@each_reduction
def test_cross_entropy_extreme_values_as_pytorch(reduction, label_smoothing):
    torch = pytest.importorskip("torch")
    inf, nan = np.inf, np.nan
    rows = [
        [0, 1, 2], [0, nan, 1], [inf, 0, 1], [-inf, 0, 1], [0, -inf, 1], [-inf, -inf, -inf], [1000, 0, -1000],
        [-1000, 0, 1000], [nan, 0, 0], [1, 2, 3],
    ]  # fmt: skip
    x = np.array(rows, "float32")
    labels = np.array([0, 0, 0, 0, 0, 0, 0, 0, -100, -100])
    probabilities = np.tile(np.array([0.5, 0.25, 0.25], "float32"), (len(rows), 1))
    zeros = np.tile(np.array([1, 0, 0], "float32"), (len(rows), 1))
    # A row at a time: a NaN in a sum would hide all others.
    for target in (labels, probabilities, zeros):
        for i in range(len(rows)):
            leaf = torch.from_numpy(x[i : i + 1]).requires_grad_()
            options = {"label_smoothing": label_smoothing, "reduction": reduction}
            expected = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(target[i : i + 1]), **options)
            expected.sum().backward()
            loss = functional.cross_entropy(x[i : i + 1], target[i : i + 1], **options)
            np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-5, err_msg=str((rows[i], target[i])))
            grad = functional.cross_entropy_backward(x[i : i + 1], target[i : i + 1], **options)
            np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-5, atol=1e-7, err_msg=str((rows[i], target[i])))


def test_one_sample_without_a_batch(rng):
    torch = pytest.importorskip("torch")
    x, g = random_array(rng, 5, "float64"), np.array(0.5)
    for target in (np.array(3), probabilities_for(rng, (1, 5), "float64")[0]):
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        expected = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(target))
        expected.backward()
        assert functional.cross_entropy(x, target) == pytest.approx(float(expected.detach()), rel=1e-13)
        np.testing.assert_allclose(functional.cross_entropy_backward(x, target), leaf.grad.numpy(), rtol=1e-12)
        assert functional.cross_entropy(x, target, reduction="none").shape == ()
        grad = functional.cross_entropy_backward(x, target, reduction="none", grad_output=g)
        np.testing.assert_allclose(grad, 0.5 * leaf.grad.numpy(), rtol=1e-12)


def test_pytorch_tensors_are_taken(rng):
    torch = pytest.importorskip("torch")
    x, target = random_array(rng, (6, 4), "float32"), rng.integers(0, 4, 6)
    loss = functional.cross_entropy(torch.from_numpy(x), torch.from_numpy(target))
    assert loss == functional.cross_entropy(x, target)
    grad = functional.cross_entropy_backward(torch.from_numpy(x), torch.from_numpy(target))
    assert isinstance(grad, np.ndarray)


def test_cross_entropy_by_hand():
    x = np.log(np.array([[1.0, 2.0, 5.0], [4.0, 2.0, 2.0]]))  # softmax: 1/8, 1/4, 5/8 and 1/2, 1/4, 1/4
    assert functional.cross_entropy(x, np.array([0, 1])) == pytest.approx((math.log(8) + math.log(4)) / 2)
    assert functional.cross_entropy(x, np.array([0, 1]), reduction="sum") == pytest.approx(math.log(32))
    assert functional.cross_entropy(x, np.array([0, -100])) == pytest.approx(math.log(8))
    assert functional.cross_entropy(x, np.array([0, 1]), ignore_index=1) == pytest.approx(math.log(8))
    np.testing.assert_allclose(
        functional.cross_entropy_backward(x, np.array([0, 1])), [[-7 / 16, 1 / 8, 5 / 16], [1 / 4, -3 / 8, 1 / 8]]
    )
    np.testing.assert_allclose(
        functional.cross_entropy_backward(x, np.array([0, -100])), [[-7 / 8, 1 / 4, 5 / 8], [0, 0, 0]]
    )
    # Smoothing 0.3 over three classes: 0.8 at the label, 0.1 at the others.
    expected = 0.8 * math.log(8) + 0.1 * math.log(4) + 0.1 * math.log(8 / 5)
    assert functional.cross_entropy(x[:1], np.array([0]), label_smoothing=0.3) == pytest.approx(expected)
    # Ten classes that are all alike: what an untrained network starts with.
    assert functional.cross_entropy(np.zeros((64, 10), "float32"), np.arange(64) % 10) == pytest.approx(math.log(10))


def test_nothing_to_average():
    x = np.ones((3, 4), "float32")
    ignored = np.full(3, -100)
    assert math.isnan(functional.cross_entropy(x, ignored))
    assert functional.cross_entropy(x, ignored, reduction="sum") == 0
    np.testing.assert_array_equal(functional.cross_entropy(x, ignored, reduction="none"), [0, 0, 0])
    np.testing.assert_array_equal(functional.cross_entropy_backward(x, ignored), np.zeros((3, 4)))
    for target in (np.zeros(0, int), np.zeros((0, 4), "float32")):
        assert math.isnan(functional.cross_entropy(x[:0], target))
        assert functional.cross_entropy(x[:0], target, reduction="sum") == 0
        assert functional.cross_entropy(x[:0], target, reduction="none").shape == (0,)
        assert functional.cross_entropy_backward(x[:0], target).shape == (0, 4)


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_sums_are_float64(size):
    """A float32 sum of three million equal losses would be off in the third digit or the sixth."""
    x = np.zeros((size, 2), "float32")
    expected = size * math.log(2)
    assert functional.cross_entropy(x, np.zeros(size, "uint8"), reduction="sum") == pytest.approx(expected, rel=1e-12)
    y = np.full(size, 0.1, "float32")
    assert functional.mse_loss(y, np.zeros_like(y), reduction="sum") == pytest.approx(
        size * float(y[0]) ** 2, rel=1e-12
    )


@pytest.mark.parametrize("shape", [(1000, 37), (2, 21, 50, 60), (2, 4000)], ids=str)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_serial_and_parallel_agree_in_every_bit(shape, layout, rng, monkeypatch):
    x, g = (LAYOUTS[layout](random_array(rng, shape, "float32")) for _ in range(2))
    labels, probabilities = labels_for(rng, shape), probabilities_for(rng, shape, "float32")
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        result = [functional.mse_loss(x, g), functional.mse_loss_backward(x, g)]
        for target in (labels, probabilities):
            result += [
                functional.cross_entropy(x, target, label_smoothing=0.1),
                functional.cross_entropy_backward(x, target, label_smoothing=0.1),
            ]
        results.append([np.asarray(r).tobytes() for r in result])
    assert results[0] == results[1]


# --- cross-entropy: bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [functional.cross_entropy, functional.cross_entropy_backward])
def test_labels_out_of_range(op):
    x = np.ones((2, 3, 2, 2), "float32")
    labels = np.zeros((2, 2, 2), int)
    labels[1, 0, 1], labels[1, 1, 1] = 3, 7
    rule = rf"^{op.__name__}: target must hold class indices from 0 to 2, or ignore_index = -100; "
    with pytest.raises(LabelError, match=rule + r"got target\[1, 0, 1\]=3\. Count classes from 0"):
        op(x, labels)
    labels[0, 0, 0] = -1
    with pytest.raises(LabelError, match=r"target\[0, 0, 0\]=-1"):
        op(x, labels)
    with pytest.raises(LabelError, match=r"target\[0\]=18446744073709551615"):
        op(x[:, :, 0, 0], np.array([2**64 - 1, 0], np.uint64))
    with pytest.raises(LabelError, match=r"or ignore_index = 255; got target\[1\]=-100"):
        op(x[:, :, 0, 0], np.array([255, -100]), ignore_index=255)
    with pytest.raises(LabelError, match=r"target\[0\]=5"):
        op(x[0, :, 0, 0], np.array(5))
    with pytest.raises(IndexError):
        op(x, labels)
    assert functional.cross_entropy(x[:, :, 0, 0], np.array([255, 1], "uint8"), ignore_index=255) > 0


@pytest.mark.parametrize("op", [functional.cross_entropy, functional.cross_entropy_backward])
def test_cross_entropy_bad_input(op):
    name = op.__name__
    x, labels = np.ones((4, 3), "float32"), np.zeros(4, int)
    with pytest.raises(ShapeError, match=rf"^{name}: class indices must have the shape of x without its axis 1"):
        op(x, labels[:3])
    with pytest.raises(ShapeError, match=r"got target.shape=\(4, 1\), x.shape=\(4, 3\)"):
        op(x, labels[:, None])
    with pytest.raises(ShapeError, match=r"target.shape must equal x.shape"):
        op(x, labels.astype("float32"))
    with pytest.raises(ShapeError, match=r"with at least one class; got x.shape=\(4, 0\)"):
        op(x[:, :0], labels)
    with pytest.raises(ShapeError, match=r"with at least one class; got x.shape=\(\)"):
        op(np.array(1, x.dtype), labels)
    with pytest.raises(DTypeError, match=r"x and target must have one dtype"):
        op(x, np.ones((4, 3)))
    for wrong in (np.zeros(4, bool), np.zeros(4, complex), np.array(["0"] * 4), np.zeros(4, object)):
        with pytest.raises(DTypeError, match=r"target must hold integers"):
            op(x, wrong)
    with pytest.raises(DTypeError, match=r"target must not be a masked array"):
        op(x, np.ma.masked_equal(labels, 0))
    with pytest.raises(DTypeError, match=r"target must be an array: .*got type\(target\)='list'"):
        op(x, [0, 1, 2, 0])
    with pytest.raises(DTypeError, match=r"x must be float32 or float64"):
        op(x.astype("uint8"), labels)
    for smoothing in (-0.1, 1.1, float("nan")):
        with pytest.raises(ArgumentError, match=r"label_smoothing must be from 0 to 1"):
            op(x, labels, label_smoothing=smoothing)
    with pytest.raises(ArgumentError, match=r"reduction must be one of mean, sum, none; got reduction='average'"):
        op(x, labels, reduction="average")
    with pytest.raises(ArgumentError, match=r"ignore_index must be an int"):
        op(x, labels, ignore_index=None)


def test_grad_output_bad_input():
    x, labels = np.ones((4, 3), "float32"), np.zeros(4, int)
    for op, target, shape in (
        (functional.cross_entropy_backward, labels, r"\(4,\)"),
        (functional.mse_loss_backward, x, r"\(4, 3\)"),
    ):
        with pytest.raises(ShapeError, match=rf"an array of the loss's shape {shape}; got grad_output.shape=\(3,\)"):
            op(x, target, reduction="none", grad_output=np.ones(3, "float32"))
        with pytest.raises(ArgumentError, match=r"grad_output must be a number"):
            op(x, target, grad_output=np.ones(4, "float32"))
        with pytest.raises(DTypeError, match=r"one dtype"):
            op(x, target, reduction="none", grad_output=np.ones(4))


# --- squared error ------------------------------------------------------------------------------------------


@pytest.mark.reduced
@each_dtype
@each_reduction
@pytest.mark.parametrize("shape", [(7,), (6, 10), (2, 5, 7, 9), (3, 3, 100, 70), ()], ids=str)
def test_mse_loss(shape, reduction, dtype, rng):
    x, target = np.asarray(random_array(rng, shape, dtype)), np.asarray(random_array(rng, shape, dtype))
    upstream = np.asarray(random_array(rng, shape, dtype)) if reduction == "none" else 1.5
    difference = x.astype(np.float64) - target
    wanted = {"none": difference**2, "sum": (difference**2).sum(), "mean": (difference**2).mean()}[reduction]
    with Unchanged(x, target):
        loss = functional.mse_loss(x, target, reduction=reduction)
        grad = functional.mse_loss_backward(x, target, reduction=reduction, grad_output=upstream)
    if reduction == "none":
        assert_close(loss, wanted, dtype)
    else:
        assert type(loss) is float
        assert loss == pytest.approx(wanted, rel=1e-12)
    assert_close(grad, 2 * upstream * difference / (x.size if reduction == "mean" else 1), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_mse_loss_strides(layout, rng):
    x, target = LAYOUTS[layout](random_array(rng, (2, 3, 5, 7), "float32")), random_array(rng, (2, 3, 5, 7), "float32")
    difference = np.asarray(x, np.float64) - target
    with Unchanged(x, target):
        assert functional.mse_loss(x, target) == pytest.approx((difference**2).mean(), rel=1e-12)
        assert functional.mse_loss(target, x) == pytest.approx((difference**2).mean(), rel=1e-12)
        squares = functional.mse_loss(x, target, reduction="none")
        grad = functional.mse_loss_backward(x, target, reduction="sum")
    assert_close(squares, difference**2, "float32")
    assert_close(grad, 2 * difference, "float32")
    assert layout_of(squares) == layout_of(grad) == layout_of(np.asarray(x, "float32"))


@each_reduction
def test_mse_loss_equals_pytorch(reduction, rng):
    torch = pytest.importorskip("torch")
    x, target = random_array(rng, (3, 4, 5), "float32"), random_array(rng, (3, 4, 5), "float32")
    x[0, 0, 0], x[1, 1, 1], target[2, 2, 2] = np.nan, np.inf, -np.inf
    for part in (slice(None), slice(0, 0), (slice(None), slice(3, 4))):
        leaf, wanted = torch.from_numpy(x[part].copy()).requires_grad_(), torch.from_numpy(target[part].copy())
        expected = torch.nn.functional.mse_loss(leaf, wanted, reduction=reduction)
        expected.sum().backward()
        loss = functional.mse_loss(x[part], target[part], reduction=reduction)
        np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-6)
        grad = functional.mse_loss_backward(x[part], target[part], reduction=reduction)
        np.testing.assert_allclose(grad, leaf.grad.numpy(), rtol=1e-6)


def test_mse_loss_by_hand():
    x, target = np.array([1.0, 2.0, 4.0]), np.array([1.0, 4.0, 1.0])
    assert functional.mse_loss(x, target) == pytest.approx(13 / 3)
    assert functional.mse_loss(x, target, reduction="sum") == 13
    np.testing.assert_array_equal(functional.mse_loss(x, target, reduction="none"), [0, 4, 9])
    np.testing.assert_allclose(functional.mse_loss_backward(x, target), [0, -4 / 3, 2])
    np.testing.assert_array_equal(functional.mse_loss_backward(x, target, reduction="sum", grad_output=2), [0, -8, 12])


def test_mse_loss_bad_input():
    x = np.ones((2, 3), "float32")
    for op in (functional.mse_loss, functional.mse_loss_backward):
        with pytest.raises(ShapeError, match=rf"^{op.__name__}: target.shape must equal x.shape"):
            op(x, x[:1])
        with pytest.raises(DTypeError, match=r"must have one dtype"):
            op(x, x.astype("float64"))
        with pytest.raises(ArgumentError, match=r"reduction must be one of"):
            op(x, x, reduction=None)
