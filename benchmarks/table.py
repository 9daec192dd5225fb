"""Medians of saved runs side by side, as a Markdown table of ratios.

    for round in 1 2 3; do
      for p in numbaconv torch numpy_im2col; do
        pytest benchmarks/test_conv2d.py --provider $p --layout channels_last --benchmark-json runs/$p-$round.json
      done
    done
    python -m benchmarks.table runs/*.json

A ratio is another library's median time over ours, within one round; the table gives the median of the rounds. Above 1
we are faster.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

OURS = "numbaconv"


def read(paths: list[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds by benchmark and provider, one of each round, in the order of the files."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(paths):
        for row in json.loads(Path(path).read_text())["benchmarks"]:
            seconds[row["name"]][row["extra_info"]["provider"]].append(row["stats"]["median"])
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over rounds of theirs / ours."""
    return statistics.median(b / a for a, b in zip(ours, theirs, strict=False))


def table(seconds: dict[str, dict[str, list[float]]], prefix: str) -> list[str]:
    """The rows whose name starts with `prefix`, then the geometric means."""
    peers = sorted({provider for row in seconds.values() for provider in row} - {OURS})
    ratios: dict[str, list[float]] = {peer: [] for peer in peers}
    lines = [
        f"| {prefix.removeprefix('test_')} | ms | " + " | ".join(f"{peer} / ours" for peer in peers) + " |",
        "|---|---|" + "---|" * len(peers),
    ]
    for name, row in seconds.items():
        if not name.startswith(prefix + "["):
            continue
        cells = []
        for peer in peers:
            if row[peer] and row[OURS]:
                ratios[peer].append(ratio(row[OURS], row[peer]))
                cells.append(f"{ratios[peer][-1]:.2f}")
            else:
                cells.append("-")
        label = name[len(prefix) + 1 : -1]
        lines.append(f"| {label} | {1e3 * statistics.median(row[OURS]):.2f} | " + " | ".join(cells) + " |")
    means = [f"{math.exp(statistics.fmean(map(math.log, r))):.2f}" if r else "-" for r in ratios.values()]
    worst = [f"{min(r):.2f}" if r else "-" for r in ratios.values()]
    return [
        *lines,
        "| **geometric mean** | | " + " | ".join(means) + " |",
        "| **worst** | | " + " | ".join(worst) + " |",
    ]


def main(paths: list[str]) -> None:
    """Prints a table for every kind of benchmark in the files."""
    seconds = read(paths)
    for prefix in dict.fromkeys(name.partition("[")[0] for name in seconds):
        print("\n".join(table(seconds, prefix)), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
