"""One library in a process of its own: times what it is told to, one JSON line in, one out. Started by `compare`."""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

from .kinds import MOST_ERROR
from .targets import NATIVE, TARGETS

MOST_SECONDS = 2.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--provider", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--target", default=NATIVE, choices=list(TARGETS))
    parser.add_argument("--tf32", action="store_true")
    return parser.parse_args()


class Worker:
    """Keeps the calls of the row at hand, so that later rounds only time them."""

    def __init__(self, provider: Any, target: str = NATIVE, tf32: bool = False) -> None:
        self.provider, self.target, self.tf32 = provider, target, tf32
        if tf32:
            provider.allow_tf32()
        self.require_target()
        self.calls: dict[Any, tuple[Callable[[], Any], float | None]] = {}
        self.row: Any = None

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """{"ms": median, "error": ...} or {"skipped": reason}."""
        from .providers import Unavailable

        row = job["group"], job["row"]
        if row != self.row:
            self.calls.clear()
            self.row = row
        key = job["kind"], job["layout"], job["dtype"]
        try:
            if job.get("is_reference"):
                call, check = prepare(self.provider, job)
                return {"values": check(call())}
            if key not in self.calls:
                call, check = prepare(self.provider, job)
                error = check(call())
                self.require_target()
                self.calls[key] = call, error
            call, error = self.calls[key]
            if error is not None and not error < MOST_ERROR["tf32" if self.tf32 else job["dtype"]]:
                return {"skipped": f"wrong: its relative error is {error:.0e}"}
            times = self.provider.timing(call, job["seconds"]) or timing(call, job["seconds"])
            return {**times, "error": error}
        except Unavailable as reason:
            return {"skipped": str(reason)}
        except Exception as failure:  # a peer's failure is a fact to report, not the end of the comparison
            return {"skipped": f"{type(failure).__name__}: {failure}"}

    def require_target(self) -> None:
        """Nothing that has run so far used more of the CPU than was asked for."""
        from .providers import Unavailable

        reason = "" if self.target == NATIVE else self.provider.limited_to(self.target)
        if reason:
            raise Unavailable(f"not limited to {self.target}: {reason}")


def timing(call: Callable[[], Any], seconds: float) -> dict[str, Any]:
    """Median and 10th and 90th percentile, in milliseconds, of calls for `seconds`; at least 3, after a warm-up.

    A call that takes longer than MOST_SECONDS is its own warm-up, and is not repeated: no rival of ours takes that.
    """
    end = time.perf_counter() + 0.3 * seconds
    while True:
        start = time.perf_counter()
        call()
        last = time.perf_counter()
        if last >= end:
            break
    times = [1e3 * (last - start)] if last - start > MOST_SECONDS else []
    end = time.perf_counter() + seconds
    while not times or (times[0] < 1e3 * MOST_SECONDS and (len(times) < 3 or time.perf_counter() < end)):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    return {
        "ms": statistics.median(times), "p10": times[len(times) // 10], "p90": times[len(times) * 9 // 10],
        "calls": len(times),
    }  # fmt: skip


def prepare(provider: Any, job: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[Any], float | None]]:
    """The call to time and what gives its result's error."""
    import numpy as np

    from .rows import ROWS

    rng = np.random.default_rng(zlib.crc32(job["row"].encode()))
    normal = functools.partial(rng.standard_normal, dtype=job["dtype"])
    parts = {"conv": _conv, "linear": _linear, "pool": _elementwise, "elementwise": _elementwise, "model": _model}
    return parts[job["group"]](provider, job, ROWS[job["group"]][job["row"]], normal)


def _conv(provider: Any, job: dict[str, Any], row: Any, normal: Any) -> Any:
    from . import reference

    shapes = row.input_shape, row.weight_shape, (row.out_channels,), row.output_shape
    x, weight, bias, grad_output = (normal(shape) for shape in shapes)
    own_x = provider.array(x, job["layout"])
    own_weight, own_bias = (provider.array(a, "channels_first") for a in (weight, bias))
    if job["kind"] == "backward":
        own_grad = provider.array(grad_output, job["layout"])

        def check(gradients: Any) -> float:
            return reference.backward_error(row, [provider.to_numpy(g) for g in gradients], grad_output, x, weight)

        return lambda: provider.conv2d_backward(row, own_grad, own_x, own_weight, (True, True, True)), check
    if job["kind"] == "prepared":
        call = provider.prepared_conv2d(row, own_x, own_weight, own_bias)
    else:
        call = functools.partial(provider.conv2d, row, own_x, own_weight, own_bias)
    return call, lambda y: reference.forward_error(row, provider.to_numpy(y), x, weight, bias)


def _linear(provider: Any, job: dict[str, Any], row: Any, normal: Any) -> Any:
    from . import reference

    m, i, o = row.rows, row.in_features, row.out_features
    x, weight, bias, grad_output = (normal(shape) for shape in ((m, i), (o, i), (o,), (m, o)))
    own = [provider.array(a, "channels_first") for a in (x, weight, bias, grad_output)]
    if job["kind"] == "backward":
        return lambda: provider.linear_backward(
            own[3], own[0], own[1]
        ), lambda gradients: reference.linear_backward_error(
            [provider.to_numpy(g) for g in gradients], grad_output, x, weight
        )
    return lambda: provider.linear(*own[:3]), lambda y: reference.product_error(
        provider.to_numpy(y), x, weight, bias
    )  # fmt: skip


def _elementwise(provider: Any, job: dict[str, Any], row: Any, normal: Any) -> Any:
    import numpy as np

    from . import elementwise

    x = normal(row.shape)
    others = elementwise.operands(row, normal)
    own_x = provider.array(x, job["layout"])
    arguments = {**row.arguments, **{name: provider.array(a, job["layout"]) for name, a in others.items()}}
    if job["kind"] == "forward":
        return lambda: provider.forward(row.op, own_x, arguments), lambda result: elementwise.forward_error(
            row, provider.to_numpy(result[0]), x, others
        )
    output, context = provider.forward(row.op, own_x, arguments)
    # (A shape of () gives a Python float, whatever the dtype.)
    grad_output = np.asarray(normal(provider.to_numpy(output).shape), job["dtype"])
    own_grad = provider.array(grad_output, job["layout"])
    return (
        lambda: provider.backward(row.op, own_grad, own_x, context, arguments),
        lambda result: elementwise.backward_error(row, provider.to_numpy(result), grad_output, x, others),
    )


def _model(provider: Any, job: dict[str, Any], row: Any, normal: Any) -> Any:
    import numpy as np

    batch = 1 if job["kind"] == "predict_one" else row.input_shape[0]
    # Drawn in float32 whatever the dtype, so that the reference sees the same numbers.
    x = normal((batch, *row.input_shape[1:]), dtype="float32").astype(job["dtype"])
    x = provider.array(x, "channels_first")
    if job["kind"] == "predict_one":
        call = provider.prediction(row, x)
    else:
        call = provider.training_step(row, x, np.arange(batch) % 10)

    def check(first: Any) -> Any:
        """Error of the prediction, or of the losses of three steps: the later ones depend on every gradient."""
        if job["kind"] == "predict_one":
            values = np.ravel(provider.to_numpy(first)).astype(float)
        else:
            values = np.array([provider.number(loss) for loss in (first, call(), call())])
        if "expected" not in job:
            return values.tolist() if job.get("is_reference") else None
        return float(np.linalg.norm(values - job["expected"]) / np.linalg.norm(job["expected"]))

    return call, check


def main() -> None:
    """Answers jobs until its input ends."""
    arguments = _arguments()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    from .providers import Unavailable, load

    try:
        provider = load(arguments.provider, arguments.device, arguments.threads)
        worker = Worker(provider, arguments.target, arguments.tf32)
        print(json.dumps({"version": worker.provider.version()}), file=answers, flush=True)
    except Unavailable as reason:
        print(json.dumps({"skipped": str(reason)}), file=answers, flush=True)
        return
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
