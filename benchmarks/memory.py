"""Peak memory of convolutions beyond their inputs and results: ``python -m benchmarks.memory``.

Every figure comes from a process of its own, on one thread. It makes the call once, so that all code is compiled and
loaded, gives back what that call left behind, resets the peak (`/proc/self/clear_refs`), calls again, and reads how far
the resident memory went up, less the results. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cases import CONV, ConvRow
from .kinds import OURS

DIRECTIONS = ("forward", "backward")
PROVIDERS = (OURS, "torch", "torch_channels_last")
CHOSEN = ""  # instead of an algorithm's name: none is forced
# glibc returns what is freed at once, so that the first call's memory is not there for the second to use unseen.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
_PR_SET_THP_DISABLE = 41


def status(name: str) -> int:
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise LookupError(name)


def peak_of(call: Any, before: Any) -> tuple[int, Any]:
    """How far resident memory rises during `call`, in bytes, and its result; `before` gives back what is kept."""
    call()
    before()
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    start = status("VmRSS")
    result = call()
    return status("VmHWM") - start, result


def _forget_scratch() -> None:
    from numbaconv.cpu import memory

    memory._state.scratch = None


def _nbytes(value: Any) -> int:
    """Of all arrays in nested tuples."""
    if isinstance(value, tuple):
        return sum(map(_nbytes, value))
    return int(getattr(value, "nbytes", 0))


def _problem(row: ConvRow) -> Any:
    from numbaconv.shapes import conv2d_problem

    arguments = row.stride, row.padding, row.dilation, row.groups
    return conv2d_problem(row.input_shape, row.weight_shape, (row.out_channels,), *arguments)


def algorithms(row: ConvRow) -> list[str]:
    """Ours that can compute the row."""
    from numbaconv.cpu.conv2d.choose import ALGORITHMS

    return [a.name for a in ALGORITHMS if not a.supports(_problem(row))]


def _algorithm_facts(row: ConvRow, job: dict[str, Any], weight: Any, bias: Any) -> dict[str, Any]:
    """Which of ours computes it, and how large its packed weights are."""
    from numbaconv.cpu.conv2d.choose import choose

    problem, forced = _problem(row), job["algorithm"] or None
    if job["direction"] == "backward":
        parts = [choose(problem, part, forced).name for part in ("backward_input", "backward_weight")]
        return {"algorithm": parts[0] if parts[0] == parts[1] else " + ".join(parts)}
    algorithm = choose(problem, "forward", forced)
    return {"algorithm": algorithm.name, "packed": _nbytes(algorithm.pack_weight(problem, weight, bias, True))}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """{"extra": bytes, "arrays": bytes of inputs and results, ...}; to be run in a process of its own."""
    import contextlib

    import numpy as np

    from .providers import load

    provider = load(job["provider"], "cpu", 1)
    row = next(row for row in CONV if row.name == job["row"])
    rng = np.random.default_rng(0)
    shapes = row.input_shape, row.weight_shape, (row.out_channels,), row.output_shape
    x, weight, bias, grad_output = (rng.standard_normal(shape, dtype=job["dtype"]) for shape in shapes)
    weight_bias = weight, bias
    inputs = [x, weight, bias] if job["direction"] == "forward" else [grad_output, x, weight]
    arrays = sum(a.nbytes for a in inputs)
    own = [provider.array(a, "channels_first" if a is weight or a.ndim == 1 else job["layout"]) for a in inputs]
    forced: Any = contextlib.nullcontext()
    if job["algorithm"]:
        import numbaconv

        forced = numbaconv.algorithm(job["algorithm"])

    def call() -> Any:
        if job["direction"] == "forward":
            return provider.conv2d(row, *own)
        return provider.conv2d_backward(row, *own, (True, True, True))

    with forced:
        extra, result = peak_of(call, _forget_scratch if job["provider"] == OURS else lambda: None)
    results = sum(provider.to_numpy(r).nbytes for r in (result if isinstance(result, tuple) else (result,)))
    answer = {"extra": max(0, extra - results), "arrays": arrays + results}
    return {**answer, **(_algorithm_facts(row, job, *weight_bias) if job["provider"] == OURS else {})}


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """The answer of a new process, or why there is none."""
    environment = {**os.environ, **ENVIRONMENT}
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = "1"
    command = [sys.executable, "-m", "benchmarks.memory", "--job", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def jobs(row: ConvRow, direction: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What to measure of a row: ours as it chooses, then by each algorithm; the others."""
    job = {"row": row.name, "direction": direction, "dtype": arguments.dtype, "layout": "channels_last"}
    for provider in arguments.providers:
        if provider != OURS:
            layout = "channels_first" if provider == "torch" else "channels_last"
            yield {**job, "provider": provider, "algorithm": CHOSEN, "layout": layout}
            continue
        for name in [CHOSEN, *(algorithms(row) if arguments.algorithms else [])]:
            yield {**job, "provider": provider, "algorithm": name}


def _megabytes(nbytes: int | None) -> str:
    return "-" if nbytes is None else f"{nbytes / 1e6:.1f}"


def line(answers: list[dict[str, Any]], peers: list[str]) -> str:
    """One direction of one row of the table."""
    job = answers[0]
    ours = next((a for a in answers if a["provider"] == OURS and a["forced"] == CHOSEN and "extra" in a), {})
    by_peer = {a["provider"]: a.get("extra") for a in answers if a["provider"] != OURS}
    others = []
    for a in answers:
        if a["provider"] == OURS and a["forced"] and "extra" in a and a["algorithm"] != ours.get("algorithm"):
            packed = f" (weights {_megabytes(a['packed'])})" if "packed" in a else ""
            others.append(f"{a['algorithm']} {_megabytes(a['extra'])}{packed}")
    arrays = next((a["arrays"] for a in answers if "arrays" in a), None)
    cells = [
        job["row"], job["direction"], _megabytes(arrays), ours.get("algorithm", "-"), _megabytes(ours.get("extra")),
        _megabytes(ours.get("packed")), *(_megabytes(by_peer.get(peer)) for peer in peers), ", ".join(others),
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def header(peers: list[str]) -> str:
    """The table's first two lines."""
    names = ["row", "direction", "arrays", "algorithm", "ours", "of it packed weights", *peers, "by other algorithms"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=[*PROVIDERS, "numpy_im2col"])
    parser.add_argument("--rows", default="", help="only rows whose name contains this; several with commas")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--no-algorithms", dest="algorithms", action="store_false", help="only the chosen algorithm")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.job:
        # Huge pages would round every figure up to 2 MB.
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
        print(json.dumps(measure(arguments.job)))
        return
    if not Path("/proc/self/clear_refs").exists():
        parser.exit(message="benchmarks.memory needs Linux: /proc/self/clear_refs\n")
    peers = [name for name in arguments.providers if name != OURS]
    lines, results = [header(peers)], []
    print(lines[0])
    for row in CONV:
        if arguments.rows and not any(part in row.name for part in arguments.rows.split(",")):
            continue
        for direction in DIRECTIONS:
            answers = []
            for job in jobs(row, direction, arguments):
                answers.append({**job, "forced": job["algorithm"], **ask(job)})
            results += answers
            lines.append(line(answers, peers))
            print(lines[-1], flush=True)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"memory-{arguments.dtype}"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1))
    text = "Peak resident memory in one call beyond its arrays (inputs and results), in MB; one thread.\n\n"
    path.with_suffix(".md").write_text(text + "\n".join(lines) + "\n")
    print(f"written: {path}.json, .md")


if __name__ == "__main__":
    main()
