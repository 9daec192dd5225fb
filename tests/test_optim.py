"""Optimizers: against PyTorch over 50 steps, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compare import LAYOUTS_2D, Unchanged, random_array

from numbaconv import functional, optim, parallel
from numbaconv.errors import ArgumentError, DTypeError, ShapeError, StateDictError

DTYPES = ("float32", "float64")
SHAPES = [(5, 3, 3, 3), (7,), (4, 6)]
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 5e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.3}),
]
each_case = pytest.mark.parametrize(
    ("name", "options"), CASES, ids=["-".join([name, *map(str, options)]) for name, options in CASES]
)


class Weight:
    """All an optimizer may lean on."""

    def __init__(self, data, grad=None, trainable=True):
        self.data, self.grad, self.trainable = data, grad, trainable


def weights(rng, dtype="float32", shapes=SHAPES):
    return [Weight(random_array(rng, shape, dtype)) for shape in shapes]


def gradients(rng, step, dtype, shapes=SHAPES):
    """Gradients whose size varies over orders of magnitude."""
    return [(10.0 ** (step % 3 - 1) * rng.standard_normal(shape)).astype(dtype) for shape in shapes]


# --- optimizers -------------------------------------------------------------------------------------------


@pytest.mark.reduced
@each_case
@each_dtype
def test_equals_pytorch_over_50_steps(name, options, dtype, rng):
    """With learning rates that change, a parameter that is frozen, and one that now and then has no gradient."""
    torch = pytest.importorskip("torch")
    ours = weights(rng, dtype)
    theirs = [torch.nn.Parameter(torch.from_numpy(w.data.copy())) for w in ours]
    optimizer = getattr(optim, name)(ours, **({"lr": 1e-3} | options))
    reference = getattr(torch.optim, name)(theirs, **options)
    for step in range(50):
        optimizer.lr = reference.param_groups[0]["lr"] = optimizer.lr * 0.99
        for i, grad in enumerate(gradients(rng, step, dtype)):
            missing = i == 1 and step % 7 == 0
            ours[i].trainable = not (i == 2 and 20 <= step < 25)
            ours[i].grad = None if missing else grad
            theirs[i].grad = None if missing or not ours[i].trainable else torch.from_numpy(grad.copy())
        optimizer.step()
        reference.step()
    for w, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(w.data, expected.detach().numpy(), **TOLERANCE[dtype])


def test_the_perceptrons_step():
    """w += lr * (target - output) * x is one SGD step on the loss -(target - output) * (w . x)."""
    w, x = Weight(np.array([0.5, -1.0, 2.0])), np.array([1.0, 2.0, -1.0])
    target, output = 1.0, float(np.dot(w.data, x) > 0)  # 0.5 - 2 - 2 < 0: output 0
    w.grad = -(target - output) * x
    optim.SGD([w], lr=0.1).step()
    np.testing.assert_allclose(w.data, [0.6, -0.8, 1.9])
    # Right already: no error, no step.
    w.grad = -(1.0 - 1.0) * x
    optim.SGD([w], lr=0.1).step()
    np.testing.assert_allclose(w.data, [0.6, -0.8, 1.9])


def test_momentum_by_hand():
    w = Weight(np.array([1.0]))
    optimizer = optim.SGD([w], lr=0.5, momentum=0.5)
    for gradient, expected in ((2.0, 0.0), (1.0, -1.0), (0.0, -1.5)):  # velocity 2; 0.5 * 2 + 1 = 2; 0.5 * 2 = 1
        w.grad = np.array([gradient])
        optimizer.step()
        assert w.data[0] == expected
    w = Weight(np.array([1.0]), np.array([2.0]))
    optim.SGD([w], lr=0.5, momentum=0.5, nesterov=True).step()  # 2 + 0.5 * 2 = 3
    assert w.data[0] == -0.5


def test_adam_by_hand():
    """The first step is lr * sign(gradient), whatever its size: mean and square are corrected to g and g^2."""
    w = Weight(np.array([1.0, 1.0, 1.0]), np.array([3.0, -1e-3, 0.0]))
    optim.Adam([w], lr=0.25, eps=0.0).step()
    np.testing.assert_allclose(w.data[:2], [0.75, 1.25], rtol=1e-13)
    assert math.isnan(w.data[2])  # 0 / 0, which eps is there to prevent
    w = Weight(np.array([1.0]), np.array([3.0]))
    optim.AdamW([w], lr=0.25, weight_decay=0.4).step()  # 1 * (1 - 0.25 * 0.4) - 0.25
    assert w.data[0] == pytest.approx(0.65, rel=1e-8)


@each_case
def test_nan_and_inf_as_pytorch(name, options):
    torch = pytest.importorskip("torch")
    data = np.array([1, 1, 1, np.inf, np.nan, -np.inf], "float32")
    grad = np.array([np.nan, np.inf, -np.inf, 1, 1, np.inf], "float32")
    ours, theirs = Weight(data.copy()), torch.nn.Parameter(torch.from_numpy(data.copy()))
    optimizer = getattr(optim, name)([ours], **({"lr": 1e-3} | options))
    reference = getattr(torch.optim, name)([theirs], **options)
    for _ in range(2):
        ours.grad, theirs.grad = grad.copy(), torch.from_numpy(grad.copy())
        optimizer.step()
        reference.step()
        np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-5)


def test_frozen_and_missing_gradients(rng):
    frozen, missing, moving = weights(rng)
    frozen.trainable, frozen.grad = False, np.ones_like(frozen.data)
    moving.grad = np.ones_like(moving.data)
    before = [w.data.copy() for w in (frozen, missing, moving)]
    optimizer = optim.Adam(iter([frozen, missing, moving]))
    optimizer.step()
    np.testing.assert_array_equal(frozen.data, before[0])
    np.testing.assert_array_equal(missing.data, before[1])
    assert (moving.data != before[2]).all()
    optimizer.zero_grad()
    assert [w.grad for w in (frozen, missing, moving)] == [None, None, None]
    assert optimizer.steps == 1


def test_a_parameter_given_twice_moves_once():
    w = Weight(np.array([1.0]), np.array([1.0]))
    optim.SGD([w, w], lr=0.25).step()
    assert w.data[0] == 0.75


@pytest.mark.parametrize("layout", LAYOUTS_2D)
def test_gradients_of_any_strides(layout, rng):
    shape = (2, 3, 4, 5)
    w, v = random_array(rng, shape, "float32"), np.zeros(shape, "float32")
    g = LAYOUTS_2D[layout](random_array(rng, shape, "float32"))
    expected = w - np.float32(0.5) * np.asarray(g)
    with Unchanged(g):
        functional.sgd_update(w, g, v, lr=0.5, momentum=0.9, first=True)
    np.testing.assert_allclose(w, expected, rtol=1e-6)
    np.testing.assert_array_equal(v, g)
    total = np.asarray(g, "float64").copy()
    with Unchanged(g):
        target = np.ones(shape, "float32")
        functional.accumulate(target, g)
        assert functional.sum_of_squares(g) == pytest.approx((total**2).sum(), rel=1e-12)
    np.testing.assert_array_equal(target, np.float32(1) + np.asarray(g))


@pytest.mark.parametrize("case", CASES[:1] + CASES[3:4] + CASES[5:8:2], ids=str)
def test_serial_and_parallel_agree_in_every_bit(case, rng, monkeypatch):
    name, options = case
    data, grad = random_array(rng, (3, 30011), "float32"), random_array(rng, (3, 30011), "float32")
    results = []
    for work in (float("inf"), 0.0):
        monkeypatch.setattr(parallel, "PARALLEL_WORK_NS", work)
        w = Weight(data.copy(), grad)
        optimizer = getattr(optim, name)([w], **({"lr": 1e-3} | options))
        optimizer.step()
        optimizer.step()
        results.append([w.data.tobytes(), functional.sum_of_squares(w.data)])
    assert results[0] == results[1]


def test_lists_are_one_step_of_each(rng):
    """The same bits as one call for each; lists of several dtypes too."""
    shapes = [(5, 3), (7,), (40000,)]
    dtypes = ["float32", "float64", "float32"]
    arrays = [[random_array(rng, s, d) for s, d in zip(shapes, dtypes, strict=True)] for _ in range(3)]
    singly = [[a.copy() for a in some] for some in arrays]
    functional.sgd_update(*arrays, lr=0.1, momentum=0.9, weight_decay=0.1)
    for p, g, v in zip(*singly, strict=True):
        functional.sgd_update(p, g, v, lr=0.1, momentum=0.9, weight_decay=0.1)
    assert [a.tobytes() for some in arrays for a in some] == [a.tobytes() for some in singly for a in some]
    with pytest.raises(
        ArgumentError, match=r"^sgd_update: there must be equally many of each; got parameter=3, grad=2"
    ):
        functional.sgd_update(arrays[0], arrays[1][:2], lr=0.1)
    before = [a.copy() for a in arrays[0]]
    with pytest.raises(ShapeError, match=r"^sgd_update: grad.shape"):
        functional.sgd_update(arrays[0], [*arrays[1][:2], arrays[1][2][1:]], lr=0.1)
    for array, old in zip(arrays[0], before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_an_update_of_ones_own_is_not_passed_by():
    class Sign(optim.SGD):
        def update(self, parameter, state):
            parameter.data -= self.lr * np.sign(parameter.grad)

    class Half(optim.Adam):
        def update(self, parameter, state):
            parameter.grad *= 0
            super().update(parameter, state)

    w = Weight(np.array([1.0, 1.0]), np.array([3.0, -5.0]))
    Sign([w], lr=0.25, momentum=0.9).step()
    np.testing.assert_array_equal(w.data, [0.75, 1.25])
    Half([w], lr=0.25).step()
    np.testing.assert_array_equal(w.data, [0.75, 1.25])
    assert (w.grad == 0).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), ()], ids=str)
def test_empty_and_scalar_parameters(shape):
    for name, options in CASES:
        w = Weight(np.ones(shape, "float32"), np.ones(shape, "float32"))
        getattr(optim, name)([w], **({"lr": 1e-3} | options)).step()
        assert w.data.shape == shape
        assert (w.data < 1).all()
    assert functional.sum_of_squares(np.ones(shape)) == np.ones(shape).size


# --- state ------------------------------------------------------------------------------------------------


@each_case
def test_resume_is_exact(name, options, rng):
    """Five steps, the state through a copy, five more: the same bits as ten steps."""
    kind = getattr(optim, name)
    options = {"lr": 1e-2} | options
    start = [w.data for w in weights(rng)]
    every = [gradients(rng, step, "float32") for step in range(10)]

    def run(optimizer, steps):
        for step in steps:
            for w, grad in zip(optimizer.parameters, every[step], strict=True):
                w.grad = None if step in (0, 4) and w is optimizer.parameters[0] else grad
            optimizer.step()
            optimizer.lr *= 0.9

    whole = kind([Weight(data.copy()) for data in start], **options)
    run(whole, range(10))
    first = kind([Weight(data.copy()) for data in start], **options)
    run(first, range(5))
    state = first.state_dict()
    second = kind([Weight(w.data.copy()) for w in first.parameters], **options)
    run(first, range(5, 10))  # must not reach into the state
    second.load_state_dict(state)
    assert second.steps == 5
    run(second, range(5, 10))
    for a, b, c in zip(whole.parameters, first.parameters, second.parameters, strict=True):
        assert a.data.tobytes() == b.data.tobytes() == c.data.tobytes()
    assert whole.lr == second.lr
    assert whole.steps == second.steps == 10


def test_what_the_state_holds(rng):
    model = weights(rng)
    sgd, adam = optim.SGD(model, 0.1, momentum=0.9), optim.Adam(model)
    assert sgd.state_dict() == {"lr": 0.1, "step": 0, "arrays": {}}
    for w, grad in zip(model, gradients(rng, 0, "float32"), strict=True):
        w.grad = grad
    model[1].grad = None
    sgd.step()
    adam.step()
    state = sgd.state_dict()
    assert state["step"] == 1
    assert list(state["arrays"]) == ["0.velocity", "2.velocity"]
    np.testing.assert_array_equal(state["arrays"]["0.velocity"], model[0].grad)
    arrays = adam.state_dict()["arrays"]
    assert list(arrays) == [f"{i}.{name}" for i in (0, 2) for name in ("mean", "square", "step")]
    np.testing.assert_allclose(arrays["2.mean"], 0.1 * model[2].grad, rtol=1e-5)
    np.testing.assert_allclose(arrays["2.square"], 1e-3 * model[2].grad ** 2, rtol=1e-4)
    assert arrays["0.step"].dtype == np.int64
    assert all(isinstance(array, np.ndarray) and array.flags.c_contiguous for array in arrays.values())
    assert optim.SGD(model, 0.1).state_dict()["arrays"] == {}


def test_state_that_does_not_fit_changes_nothing(rng):
    model = weights(rng)
    for w, grad in zip(model, gradients(rng, 0, "float32"), strict=True):
        w.grad = grad
    optimizer = optim.Adam(model)
    optimizer.step()
    good = optimizer.state_dict()

    def bad(changes, without=()):
        arrays = {name: array for name, array in {**good["arrays"], **changes}.items() if name not in without}
        return {**good, "lr": 0.5, "arrays": arrays}

    for state, rule in (
        ({"lr": 0.1, "arrays": {}}, r"^Adam.load_state_dict: state must have the keys lr, step and arrays"),
        (bad({"3.mean": np.zeros(7, "float32")}), r"named <0 to 2>.<mean or square or step>; got key='3.mean'"),
        (bad({"0.velocity": np.zeros(7, "float32")}), r"got key='0.velocity'"),
        (bad({"mean": np.zeros(7, "float32")}), r"got key='mean'"),
        (bad({"1.mean": np.zeros(8, "float32")}), r"1.mean must have shape \(7,\) and dtype float32; got shape=\(8,\)"),
        (bad({"1.mean": np.zeros(7)}), r"1.mean must have .* got shape=\(7,\), dtype='float64'"),
        (bad({"1.step": np.zeros(1, "int64")}), r"1.step must have shape \(\) and dtype int64"),
        (bad({}, without=("1.square",)), r"the state of parameter 1 must be whole; got missing=\['square'\]"),
    ):
        with pytest.raises(StateDictError, match=rule):
            optimizer.load_state_dict(state)
    with pytest.raises(ArgumentError, match=r"lr must be at least 0"):
        optimizer.load_state_dict({**good, "lr": -1.0})
    after = optimizer.state_dict()
    assert (after["lr"], after["step"]) == (good["lr"], good["step"])
    for name, array in good["arrays"].items():
        np.testing.assert_array_equal(after["arrays"][name], array)


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "rule"),
    [
        ("SGD", {"lr": -0.1}, r"^SGD: lr must be at least 0; got lr=-0.1"),
        ("SGD", {"lr": float("nan")}, r"lr must be at least 0"),
        ("SGD", {"lr": float("inf")}, r"lr must be at least 0"),
        ("SGD", {"lr": "0.1"}, r"lr must be a number"),
        ("SGD", {"lr": 0.1, "momentum": -0.9}, r"momentum must be at least 0"),
        ("SGD", {"lr": 0.1, "dampening": 1.1}, r"dampening must be at least 0 and at most 1"),
        ("SGD", {"lr": 0.1, "weight_decay": -1}, r"weight_decay must be at least 0"),
        ("SGD", {"lr": 0.1, "nesterov": True}, r"nesterov needs momentum greater than 0 and dampening 0"),
        ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "nesterov": True}, r"nesterov needs"),
        ("Adam", {"betas": (0.9, 1.0)}, r"^Adam: betas\[1\] must be at least 0 and less than 1; got betas\[1\]=1.0"),
        ("Adam", {"betas": (-0.1, 0.9)}, r"betas\[0\] must be at least 0 and less than 1"),
        ("Adam", {"betas": 0.9}, r"betas must be a pair of numbers"),
        ("AdamW", {"eps": -1e-8}, r"^AdamW: eps must be at least 0"),
        ("AdamW", {"weight_decay": None}, r"weight_decay must be a number"),
    ],
)
def test_bad_hyperparameters(name, options, rule):
    with pytest.raises(ArgumentError, match=rule):
        getattr(optim, name)([Weight(np.ones(1))], **options)


def test_bad_parameters():
    with pytest.raises(ArgumentError, match=r"^SGD: parameters must not be empty"):
        optim.SGD([], 0.1)
    for wrong in (Weight(np.ones(1)), [np.ones(1)], None, 3):
        with pytest.raises(ArgumentError, match=r"parameters must be an iterable of parameters; .*model.parameters"):
            optim.SGD(wrong, 0.1)


def test_bad_arrays():
    w, g = np.ones((2, 3), "float32"), np.ones((2, 3), "float32")
    with pytest.raises(ShapeError, match=r"^sgd_update: grad.shape must equal parameter.shape"):
        functional.sgd_update(w, g[0], lr=0.1)
    with pytest.raises(ShapeError, match=r"^adam_update: square.shape must equal parameter.shape"):
        functional.adam_update(w, g, g.copy(), g[0].copy(), lr=0.1, step=1)
    with pytest.raises(DTypeError, match=r"must have one dtype"):
        functional.sgd_update(w, g.astype("float64"), lr=0.1)
    read_only = w.copy()
    read_only.flags.writeable = False
    for wrong in (read_only, np.asfortranarray(w), np.ones((2, 6), "float32")[:, ::2], w[::-1]):
        with pytest.raises(ArgumentError, match=r"^sgd_update: parameter must be writable and C-contiguous"):
            functional.sgd_update(wrong, g, lr=0.1)
        with pytest.raises(ArgumentError, match=r"^sgd_update: velocity must be writable and C-contiguous"):
            functional.sgd_update(w.copy(), g, wrong, lr=0.1)
        with pytest.raises(ArgumentError, match=r"^adam_update: mean must be writable and C-contiguous"):
            functional.adam_update(w.copy(), g, wrong, g.copy(), lr=0.1, step=1)
    # These are copied on their way in: a step on the copy would be lost without a word.
    for layout in ("byte_swapped", "unaligned", "odd_strides"):
        wrong = LAYOUTS_2D[layout](w)
        for call in (
            lambda a: functional.sgd_update(a, g, lr=0.1),
            lambda a: functional.accumulate(a, g),
            lambda a: functional.scale_update(a, 2.0),
        ):
            with pytest.raises(ArgumentError, match=r"must be in native byte order and aligned"):
                call(wrong)
        np.testing.assert_array_equal(wrong, w)
    for call in (lambda: functional.accumulate(read_only, g), lambda: functional.scale_update(read_only, 2)):
        with pytest.raises(ArgumentError, match=r"must be writable, for it is changed in place"):
            call()
    with pytest.raises(ShapeError, match=r"^accumulate: source.shape must equal target.shape"):
        functional.accumulate(w, g[:1])
    np.testing.assert_array_equal(w, np.ones((2, 3)))


def test_in_place_ops(rng):
    x = random_array(rng, (4, 5), "float32")
    view = x[:, ::2]
    expected = view * np.float32(0.25)
    functional.scale_update(view, 0.25)
    np.testing.assert_array_equal(x[:, ::2], expected)
    functional.accumulate(view, view)
    np.testing.assert_array_equal(view, 2 * expected)
    zeros = functional.zeros_like(np.asfortranarray(x))
    assert (zeros.shape, zeros.dtype, zeros.flags.c_contiguous) == (x.shape, x.dtype, True)
    assert not zeros.any()
    # float64 sums: 2^24 ones and more would stop a float32 sum in its tracks
    ones = np.broadcast_to(np.ones(1, "float32"), (2**24 + 1000,))
    assert functional.sum_of_squares(ones) == 2**24 + 1000
