"""conv2d, conv_transpose2d and linear give what PyTorch gives, forward and backward; and PyTorch tensors are taken."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from cases import CONV, TRANSPOSE, each
from compare import assert_close, random_array

from numbaconv import functional
from numbaconv.errors import DTypeError

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F = torch.nn.functional
pytestmark = pytest.mark.usefixtures("serial_float64")
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's own threads are not what is tested, and these problems are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def torch_results(op, arrays, grad_output_of):
    """PyTorch's output and gradients in float64, and the output's gradient that was used."""
    tensors = [torch.from_numpy(a.astype("float64")).requires_grad_() for a in arrays]
    output = op(*tensors)
    grad_output = grad_output_of(tuple(output.shape))
    output.backward(torch.from_numpy(grad_output.astype("float64")))
    return output.detach().numpy(), [t.grad.numpy() for t in tensors], grad_output


@DTYPES
@each(CONV)
def test_conv2d(case, dtype, rng, run):
    size = reference.Geometry(case.x, case.weight, **case.arguments)

    def convolve(x, weight, bias):
        # PyTorch pads sides unequally only through `pad`, and has no "same" with a stride.
        x = F.pad(x, (size.left, size.right, size.top, size.bottom))
        return F.conv2d(x, weight, bias, case.stride, 0, case.dilation, case.groups)

    arrays = [random_array(rng, shape, dtype) for shape in (case.x, case.weight, case.weight[:1])]
    output, gradients, grad_output = torch_results(convolve, arrays, lambda s: random_array(rng, s, dtype))
    assert_close(run(functional.conv2d, *arrays, **case.arguments), output, dtype, "output")
    actual = run(functional.conv2d_backward, grad_output, *arrays[:2], **case.arguments)
    for name, a, e in zip(("grad_input", "grad_weight", "grad_bias"), actual, gradients, strict=True):
        assert_close(a, e, dtype, name)


@DTYPES
@each(TRANSPOSE)
def test_conv_transpose2d(case, dtype, rng, run):
    arrays = [random_array(rng, shape, dtype) for shape in (case.x, case.weight, (case.weight[1] * case.groups,))]
    output, gradients, grad_output = torch_results(
        lambda x, weight, bias: F.conv_transpose2d(x, weight, bias, **case.arguments),
        arrays,
        lambda s: random_array(rng, s, dtype),
    )
    assert_close(run(functional.conv_transpose2d, *arrays, **case.arguments), output, dtype, "output")
    actual = run(functional.conv_transpose2d_backward, grad_output, *arrays[:2], **case.arguments)
    for name, a, e in zip(("grad_input", "grad_weight", "grad_bias"), actual, gradients, strict=True):
        assert_close(a, e, dtype, name)


@DTYPES
@pytest.mark.parametrize("leading", [(5,), (), (2, 3)], ids=str)
def test_linear(leading, dtype, rng, run):
    arrays = [random_array(rng, shape, dtype) for shape in ((*leading, 37), (20, 37), (20,))]
    output, gradients, grad_output = torch_results(F.linear, arrays, lambda s: random_array(rng, s, dtype))
    assert_close(run(functional.linear, *arrays), output, dtype, "output")
    actual = run(functional.linear_backward, grad_output, *arrays[:2])
    for name, a, e in zip(("grad_input", "grad_weight", "grad_bias"), actual, gradients, strict=True):
        assert_close(a, e, dtype, name)


def test_tensors_are_taken_as_they_are(rng):
    x, weight = torch.from_numpy(random_array(rng, (2, 3, 7, 6), "float32")), torch.ones(4, 3, 3, 3)
    expected = F.conv2d(x, weight).numpy().astype("float64")
    output = functional.conv2d(x, weight)
    assert type(output) is np.ndarray
    assert_close(output, expected, "float32")
    last = x.to(memory_format=torch.channels_last)
    output = functional.conv2d(last, weight)
    assert_close(output, expected, "float32")
    assert output.transpose(0, 2, 3, 1).flags.c_contiguous
    assert_close(functional.conv2d(x[:, :, ::2], weight), F.conv2d(x[:, :, ::2], weight).double().numpy(), "float32")


def test_a_tensor_that_requires_grad_is_an_error(rng):
    x, weight = torch.ones(1, 3, 5, 5), torch.ones(4, 3, 3, 3, requires_grad=True)
    with pytest.raises(DTypeError, match=r"^conv2d: weight .*; got .* x\.detach\(\)"):
        functional.conv2d(x, weight)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("channels", [(3, 5), (20, 18)], ids=str)
def test_nan_and_inf_of_the_input_propagate(bad, padding, channels, rng, run):
    in_channels, out_channels = channels
    x = random_array(rng, (2, in_channels, 7, 8), "float32")
    weight = random_array(rng, (out_channels, in_channels, 3, 3), "float32")
    x[1, 1, 3, 4], x[0, 0, 0, 0] = bad, bad
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight), padding=padding).numpy()
    with np.errstate(invalid="ignore"):
        assert_same_kinds(run(functional.conv2d, x, weight, padding=padding), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_of_a_weight_propagate(bad, rng, run):
    x, weight = random_array(rng, (2, 3, 7, 8), "float32"), random_array(rng, (5, 3, 3, 3), "float32")
    weight[2, 1, 0, 1] = bad
    expected = F.conv2d(torch.from_numpy(x), torch.from_numpy(weight)).numpy()
    assert_same_kinds(run(functional.conv2d, x, weight), expected)
    rows, matrix = random_array(rng, (6, 20), "float32"), random_array(rng, (9, 20), "float32")
    matrix[4, 7] = rows[2, 3] = bad
    expected = F.linear(torch.from_numpy(rows), torch.from_numpy(matrix)).numpy()
    assert_same_kinds(run(functional.linear, rows, matrix), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_of_a_gradient_propagate(bad, rng, run):
    x, weight = random_array(rng, (2, 3, 7, 8), "float32"), random_array(rng, (5, 3, 3, 3), "float32")
    grad_output = random_array(rng, (2, 5, 5, 6), "float32")
    grad_output[1, 2, 2, 3] = bad
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, weight, np.zeros(5, "float32"))]
    F.conv2d(*tensors).backward(torch.from_numpy(grad_output))
    actual = run(functional.conv2d_backward, grad_output, x, weight)
    for a, t in zip(actual, tensors, strict=True):
        assert_same_kinds(a, t.grad.numpy())


def assert_same_kinds(actual, expected):
    """NaN, +Inf, -Inf and finite numbers in the same places."""
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.isposinf(actual), np.isposinf(expected))
    np.testing.assert_array_equal(np.isneginf(actual), np.isneginf(expected))
    finite = np.isfinite(expected)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=1e-4, atol=1e-4)
