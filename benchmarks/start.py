"""What a first use costs: imports, the first convolution, the first training step: ``python -m benchmarks.start``.

Every figure comes from a new process; the processes of a round take turns, and the table gives the median over the
rounds. "Cold" is with an empty cache of compiled kernels, as after an installation; "warm" is every later process.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# what: (libraries, with "cold" or "warm" where it matters)
USES = {
    "import": ("numpy", "numba", "numbaconv", "torch"),
    "conv2d": ("numbaconv cold", "numbaconv warm", "torch"),
    "train": ("numbaconv cold", "numbaconv warm", "torch"),
}
TITLES = {
    "import": "Import",
    "conv2d": "First convolution (8 images of 64 channels, 27x27, to 192 channels, 5x5)",
    "train": "First training step of LeNet-5, 64 images",
}
CONV_ROW, MODEL_ROW = "alexnet_c2", "lenet5_batch64"


def _since(start: float) -> float:
    return time.perf_counter() - start


def measure(use: str, library: str, threads: int) -> dict[str, float]:
    """Seconds of the import, and of the first and second call; to be run in a new process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    start = time.perf_counter()
    importlib.import_module(library)
    imported = _since(start)
    if use == "import":
        return {"import": imported}
    import numpy as np

    from .providers import load

    provider = load(library, "cpu", threads)
    rng = np.random.default_rng(0)
    seconds = []
    if use == "conv2d":
        from .rows import ROWS

        row = ROWS["conv"][CONV_ROW]
        shapes = row.input_shape, row.weight_shape, (row.out_channels,)
        own = [provider.array(rng.standard_normal(s, dtype="float32"), "channels_first") for s in shapes]

        def call() -> Any:
            return provider.conv2d(row, *own)
    else:
        from .rows import ROWS

        row = ROWS["model"][MODEL_ROW]
        x = provider.array(rng.standard_normal(row.input_shape, dtype="float32"), "channels_first")
        start = time.perf_counter()
        call = provider.training_step(row, x, np.arange(row.input_shape[0]) % 10)
        seconds.append(_since(start))  # building the model is part of the first step
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds.append(_since(start))
    return {"import": imported, "first": sum(seconds[:-1]), "second": seconds[-1]}


def ask(use: str, library: str, threads: int, cache: Path) -> dict[str, Any]:
    """The figures of a new process, and how long it took as a whole; or why there are none."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONDONTWRITEBYTECODE": ""}
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment[name] = str(threads)
    job = json.dumps([use, library.split()[0], threads])
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.start", "--job", job]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole = _since(start)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "process": whole}


def run(uses: list[str], rounds: int, threads: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """All answers: {use: {library: [one a round]}}."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {use: {name: [] for name in USES[use]} for use in uses}
    with tempfile.TemporaryDirectory() as warm:
        for i in range(rounds + 1):  # the first one writes bytecode and fills the cache: not counted
            for use in uses:
                for library in USES[use]:
                    with tempfile.TemporaryDirectory() as cold:
                        cache = cold if library.endswith("cold") else warm
                        answer = ask(use, library, threads, Path(cache))
                    if i or "skipped" in answer:
                        results[use][library].append(answer)
    return results


def markdown(results: dict[str, dict[str, list[dict[str, Any]]]], threads: int) -> str:
    """One table for each use, seconds."""
    lines = [f"Seconds, medians over new processes, {threads} thread(s); in parentheses the least and the most."]
    for use, answers in results.items():
        columns = ["import"] if use == "import" else ["import", "first", "second", "process"]
        lines += ["", f"## {TITLES[use]}", "", f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for library, found in answers.items():
            skipped = next((a["skipped"] for a in found if "skipped" in a), None)
            cells = [f"skipped: {skipped}"] if skipped else [_cell([a[c] for a in found]) for c in columns]
            lines.append(f"| {library} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.4g} ({min(seconds):.4g} to {max(seconds):.4g})"


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__.splitlines()[0])
    parser.add_argument("--uses", nargs="+", default=list(USES), choices=list(USES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.job:
        print(json.dumps(measure(*arguments.job)))
        return
    results = run(arguments.uses, arguments.rounds, arguments.threads)
    text = markdown(results, arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / f"start-{arguments.threads}-threads"
    path.with_suffix(".json").write_text(json.dumps(results, indent=1))
    path.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {path}.json, .md")


if __name__ == "__main__":
    main()
