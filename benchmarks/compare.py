"""Every library on every row, each in its own process, taking turns: ``python -m benchmarks.compare``.

All processes are started first and run on the same cores with the same number of threads; one works at a time. For each
row, `--rounds` rounds go through the libraries in turn; a ratio is another library's median time over ours within one
round, and the table gives the median of the rounds: above 1 we are faster.

``--quick`` takes two minutes: two short rounds, a third of the rows. Results go to ``--output``: one JSON file with
every figure, one Markdown table, one chart. Ctrl-C writes what there is.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import gpu, machine, report
from .kinds import KINDS, OURS
from .providers import PROVIDERS, Unavailable
from .rows import ROWS
from .targets import NATIVE, TARGETS

REFERENCE = "torch"
QUICK_ROWS = (
    "lenet_c1", "alexnet_c1", "alexnet_c2", "vgg_1_1", "vgg_1_2", "vgg_3_2", "vgg_5_2", "resnet_1x1_wide",
    "resnet_3x3_stride2", "mobilenet_depthwise", "resnext_groups32", "small_call", "max_pool_3x3_resnet",
    "avg_pool_densenet", "relu_large", "batch_norm", "cross_entropy_1000", "lenet_fc1", "vgg_fc2",
    "lenet5_batch64",
)  # fmt: skip


_MOST_CRASHES = 8  # of a library, which is left out from then on
_ENDED = "its process ended"


class Process:
    """A worker: asked one job at a time."""

    def __init__(
        self,
        provider: str,
        threads: int,
        target: str = NATIVE,
        cache: str = "",
        device: str = "cpu",
        tf32: bool = False,
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.worker", "--provider", provider, "--device", device]
        command += ["--threads", str(threads), "--target", target, *(["--tf32"] if tf32 else [])]
        environment = {**os.environ, **TARGETS[target]}
        if target != NATIVE:
            environment["NUMBA_CACHE_DIR"] = cache  # what comes from a cache cannot be inspected
        self.name = provider
        self._command, self._environment = command, environment
        self._again = provider != OURS and target == NATIVE
        self.crashes = 0
        self._start()

    def _start(self) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(  # type: ignore[call-overload]
            self._command, env=self._environment, text=True, start_new_session=True, **pipes
        )
        answer = self._read()
        self.version, self.skipped = answer.get("version"), answer.get("skipped")

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"skipped": f"{_ENDED} with {self.process.wait()}"}

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Its answer, or why there is none. A library that crashed is started again, and asked once more.

        Not ours, whose crash must be seen; nor on a target, where what the first process compiled is in the cache.
        """
        answer = self._ask(job)
        if self.skipped or self.process.poll() is None:
            return answer
        crashed = answer.get("skipped", "").startswith(_ENDED)
        self.crashes += crashed
        if not crashed or not self._again or self.crashes == _MOST_CRASHES:
            self.skipped = answer.get("skipped", _ENDED)
            return answer
        self._start()
        return self._ask(job)

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        if self.skipped:
            return {"skipped": self.skipped}
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"skipped": f"{_ENDED} with {self.process.wait()}"}
        return self._read()

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def jobs(arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any], tuple[str, ...]]]:
    """(kind, job, providers) of everything to time."""
    for group, rows in ROWS.items():
        for row in rows:
            if arguments.rows and not any(part in row for part in arguments.rows.split(",")):
                continue
            if arguments.quick and not arguments.rows and row not in QUICK_ROWS:
                continue
            for name in arguments.kinds:
                kind = KINDS[name]
                if kind.rows != group or (name == "predict_one" and row != "lenet5_batch64"):
                    continue
                job = {
                    "group": group, "row": row, "dtype": arguments.dtype, "seconds": arguments.seconds,
                    "kind": kind.work, "layout": kind.layout,
                }  # fmt: skip
                yield name, job, tuple(p for p in kind.providers if p in arguments.providers)


def layout_for(provider: str, job: dict[str, Any]) -> str:
    """PyTorch's two formats are two providers."""
    return "channels_first" if provider in ("torch", "onnxruntime", "openvino", "numpy_im2col") else job["layout"]


def measure(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Everything, for one number of threads."""
    result: dict[str, Any] = {
        "threads": threads, "dtype": arguments.dtype, "device": arguments.device,
        "tf32": arguments.tf32, "rounds": arguments.rounds, "seconds": arguments.seconds,
        "started": time.strftime("%Y-%m-%d %H:%M"),
        "target": arguments.target, **_facts(arguments, threads), "rows": [],
    }  # fmt: skip
    workers: dict[str, Process] = {}
    cache = tempfile.TemporaryDirectory()
    try:
        for name in arguments.providers:
            limits = arguments.target, cache.name
            workers[name] = Process(name, threads, *limits, arguments.device, arguments.tf32)
        result["versions"] = {name: w.version or f"skipped: {w.skipped}" for name, w in workers.items()}
        for kind, job, providers in jobs(arguments):
            row: dict[str, Any] = {"kind": kind, "name": job["row"], "answers": {name: [] for name in providers}}
            result["rows"].append(row)
            if job["group"] == "model" and REFERENCE in workers:
                # Of whole models there is no other reference than a library in float64.
                answer = workers[REFERENCE].ask({**job, "dtype": "float64", "is_reference": True})
                job |= {"expected": answer["values"]} if "values" in answer else {}
            for _ in range(arguments.rounds):
                for name in providers:
                    answers = row["answers"][name]
                    if answers and "skipped" in answers[-1]:
                        continue
                    answers.append(workers[name].ask({**job, "layout": layout_for(name, job)}))
            print(report.line(row), flush=True)
    except KeyboardInterrupt:
        print("stopped: writing what there is", file=sys.stderr)
        arguments.stopped = True
    finally:
        for worker in workers.values():
            worker.stop()
        cache.cleanup()
    result["crashes"] = {name: w.crashes for name, w in workers.items() if w.crashes}
    return result


def _facts(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    """What the processor, or the GPU, can do at best."""
    if arguments.device == "cpu":
        facts = machine.facts(threads, arguments.dtype, TARGETS[arguments.target])
        return {"processor": machine.processor(), **facts}
    return gpu.facts(arguments.device, arguments.dtype)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.splitlines()[0])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument("--threads", type=int, nargs="+", default=[cores], help="default: every core; may be several")
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), choices=list(PROVIDERS), metavar="NAME")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--rows", default="", help="only rows whose name contains this; several with commas")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--device", default="cpu", help='"cpu" (default), "cuda", "cuda:1"')
    parser.add_argument("--tf32", action="store_true", help="on a GPU: products on tensor cores, in every library")
    parser.add_argument("--target", default=NATIVE, choices=list(TARGETS), help="pretend to be another x86-64 CPU")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.15, help="of calls, per row, library and round")
    parser.add_argument("--quick", action="store_true", help="two minutes: fewer rows, two short rounds")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 0.06
    if OURS not in arguments.providers:
        parser.error(f"--providers must include {OURS}, which the others are compared with")
    on_gpu = arguments.device != "cpu"
    if (arguments.tf32 and not on_gpu) or (arguments.target != NATIVE and on_gpu):
        parser.error("--tf32 is for a GPU, --target for a CPU")
    if on_gpu:
        arguments.threads = arguments.threads[:1]
        try:
            gpu.facts(arguments.device, arguments.dtype)
        except Unavailable as reason:
            parser.error(str(reason))
    arguments.stopped = False
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = []
    suffix = "" if arguments.target == NATIVE else f"-{arguments.target}"
    suffix += f"-{arguments.device.replace(':', '')}" * on_gpu + "-tf32" * arguments.tf32
    for threads in arguments.threads:
        results.append(measure(arguments, threads))
        threads_of_name = "" if on_gpu else f"-{threads}-threads"
        path = arguments.output / f"compare-{arguments.dtype}{threads_of_name}{suffix}"
        path.with_suffix(".json").write_text(json.dumps(results[-1], indent=1))
        text = report.markdown(results[-1])
        path.with_suffix(".md").write_text(text)
        report.chart(results[-1], path.with_suffix(".png"))
        print(text)
        print(f"written: {path}.json, .md, .png")
        if arguments.stopped:
            break
    if len(results) > 1:
        path = arguments.output / f"scaling-{arguments.dtype}{suffix}.md"
        path.write_text(report.scaling(results))
        print(report.scaling(results))
        print(f"written: {path}")


if __name__ == "__main__":
    main()
