"""Learning-rate schedules: against PyTorch and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from numbaconv import optim
from numbaconv.errors import ArgumentError


def pytorch_rates(make, lr, steps):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def check_rates(schedule, rates):
    np.testing.assert_allclose([schedule(step) for step in range(len(rates))], rates, rtol=1e-9, atol=1e-18)
    # A pure function: the order of the calls does not matter.
    assert schedule(len(rates) // 2) == pytest.approx(rates[len(rates) // 2], rel=1e-9)


@pytest.mark.parametrize(("step_size", "gamma"), [(7, 0.1), (1, 0.9), (100, 0.5)])
def test_step_schedule_equals_pytorch(step_size, gamma):
    rates = pytorch_rates(lambda s, o: s.StepLR(o, step_size, gamma), 0.3, 30)
    check_rates(optim.StepSchedule(0.3, step_size, gamma), rates)


@pytest.mark.parametrize(("total", "minimum"), [(30, 0.0), (29, 0.02), (1, 0.1)])
def test_cosine_schedule_equals_pytorch(total, minimum):
    rates = pytorch_rates(lambda s, o: s.CosineAnnealingLR(o, total, minimum), 0.3, total + 1)
    schedule = optim.CosineSchedule(0.3, total, minimum)
    check_rates(schedule, rates)
    assert schedule(total + 5) == pytest.approx(minimum, abs=1e-15)


@pytest.mark.parametrize(
    ("total", "options"),
    [(100, {}), (33, {}), (10, {"warmup_fraction": 0.5}), (40, {"start_divisor": 10.0, "final_divisor": 50.0}),
     (20, {"warmup_fraction": 0.0}), (20, {"warmup_fraction": 0.9}), (1, {}), (2, {})],
    ids=str,
)  # fmt: skip
def test_one_cycle_schedule_equals_pytorch(total, options):
    names = {"warmup_fraction": "pct_start", "start_divisor": "div_factor", "final_divisor": "final_div_factor"}
    theirs = {names[name]: value for name, value in options.items()}
    rates = pytorch_rates(lambda s, o: s.OneCycleLR(o, 0.5, total, **theirs), 0.5, total)
    schedule = optim.OneCycleSchedule(0.5, total, **options)
    check_rates(schedule, rates)
    assert schedule(total + 100) == pytest.approx(rates[-1])


def test_one_cycle_peak_at_the_first_step():
    """warmup_fraction * total_steps = 1: the peak is step 0, where PyTorch divides by zero."""
    schedule = optim.OneCycleSchedule(1.0, 10, warmup_fraction=0.1)
    assert schedule(0) == 1.0
    assert schedule(9) == pytest.approx(1 / 25 / 1e4)


@pytest.mark.parametrize(("warmup", "factor"), [(5, 1 / 3), (1, 0.5), (8, 0.01)])
def test_warmup_schedule_equals_pytorch(warmup, factor):
    def make(s, o):
        parts = [s.LinearLR(o, factor, total_iters=warmup), s.CosineAnnealingLR(o, 20)]
        return s.SequentialLR(o, parts, milestones=[warmup])

    rates = pytorch_rates(make, 0.4, warmup + 20)
    check_rates(optim.WarmupSchedule(warmup, optim.CosineSchedule(0.4, 20), factor), rates)


def test_schedules_by_hand():
    cosine = optim.CosineSchedule(1.0, 4)
    assert [cosine(step) for step in (0, 2, 4, 9)] == pytest.approx([1, 0.5, 0, 0])
    step = optim.StepSchedule(8.0, 2, 0.5)
    assert [step(i) for i in range(6)] == [8, 8, 4, 4, 2, 2]
    warm = optim.WarmupSchedule(2, lambda i: 10.0 - i, start_factor=0.0)
    assert [warm(i) for i in range(5)] == [0, 5, 10, 9, 8]
    assert optim.WarmupSchedule(0, step)(0) == 8
    assert repr(cosine) == "CosineSchedule(lr=1.0, total_steps=4, minimum=0.0)"


def test_bad_schedules():
    for make, rule in (
        (lambda: optim.StepSchedule(-1, 3), r"^StepSchedule: lr must be at least 0"),
        (lambda: optim.StepSchedule(1, 0), r"step_size must be at least 1"),
        (lambda: optim.StepSchedule(1, 3, -0.1), r"gamma must be at least 0"),
        (lambda: optim.CosineSchedule(1, 2.5), r"^CosineSchedule: total_steps must be an int"),
        (lambda: optim.CosineSchedule(1, 2, "x"), r"minimum must be a number"),
        (
            lambda: optim.OneCycleSchedule(1, 10, warmup_fraction=1.5),
            r"warmup_fraction must be at least 0 and at most 1",
        ),
        (lambda: optim.OneCycleSchedule(1, 10, start_divisor=0), r"start_divisor must be greater than 0"),
        (lambda: optim.WarmupSchedule(-1, lambda i: 1.0), r"^WarmupSchedule: warmup_steps must be at least 0"),
        (lambda: optim.WarmupSchedule(1, 0.1), r"schedule must be a function of the step"),
        (lambda: optim.CosineSchedule(1, 2)(-1), r"step must be at least 0"),
        (lambda: optim.StepSchedule(1, 2)(1.0), r"step must be an int"),
    ):
        with pytest.raises(ArgumentError, match=rule):
            make()
