"""What `compare` measured, as ratios: a line while it runs, a Markdown table, a chart."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from .kinds import KINDS, OURS
from .reference import geometric_mean
from .rows import ROWS
from .targets import NATIVE


def milliseconds(row: dict[str, Any], provider: str) -> list[float]:
    """Median of every round."""
    return [answer["ms"] for answer in row["answers"].get(provider, []) if "ms" in answer]


def ratio(row: dict[str, Any], provider: str) -> float | None:
    """Median over the rounds of its time over ours; None where one of them has none."""
    pairs = list(zip(milliseconds(row, OURS), milliseconds(row, provider), strict=False))
    return statistics.median(theirs / ours for ours, theirs in pairs) if pairs else None


def headline(row: dict[str, Any]) -> tuple[float, str] | None:
    """The least ratio over the rivals of the row's kind, and whose it is."""
    found = [(r, name) for name in KINDS[row["kind"]].rivals if (r := ratio(row, name)) is not None]
    return min(found) if found else None


def error(row: dict[str, Any], provider: str) -> float | None:
    """Relative L2 error against float64."""
    return next((a["error"] for a in row["answers"].get(provider, []) if a.get("error") is not None), None)


def line(row: dict[str, Any]) -> str:
    """One row, for the terminal."""
    ours = milliseconds(row, OURS)
    cells = []
    for name in row["answers"]:
        r, e = ratio(row, name), error(row, name)
        if name != OURS and r is not None:
            cells.append(f"{name} {r:.2f}" + (f" ({e:.0e})" if e is not None else ""))
    own = error(row, OURS)
    time = f"{statistics.median(ours):8.3f} ms" if ours else f"{row['answers'].get(OURS, ['-'])[:1]}"
    return f"{row['kind']:<30}{row['name']:<28}{time}" + (f" ({own:.0e})  " if own else "  ") + "  ".join(cells)


def bound_share(result: dict[str, Any], row: dict[str, Any]) -> float | None:
    """Our share of what the machine can do: the longer of flops at its peak and bytes at its copy bandwidth."""
    kind, ours = KINDS[row["kind"]], milliseconds(row, OURS)
    case = ROWS[kind.rows][row["name"]]
    if kind.rows == "model" or not ours:
        return None
    size = 4 if result["dtype"] == "float32" else 8
    backward = kind.work == "backward"
    if hasattr(case, "streams"):
        flops, elements = 0, case.streams[backward] * math.prod(case.shape)
    else:
        flops, elements = (2 if backward else 1) * case.flops, (2 if backward else 1) * case.elements
    seconds = max(flops / result["gflops"], elements * size / result["gigabytes_per_second"]) / 1e9
    return 1e3 * seconds / statistics.median(ours)


def markdown(result: dict[str, Any]) -> str:
    """Tables of every kind, with geometric means and worst rows."""
    lines = [
        f"# {_heading(result)}, {result['started']}",
        "",
        f"Measured peak {result['gflops']:.0f} GFLOP/s (multiply-adds), copy "
        f"{result['gigabytes_per_second']:.0f} GB/s. "
        f"{result['rounds']} interleaved rounds. A ratio is another library's median time over ours: above 1 we are "
        "faster. In parentheses the relative L2 error against float64.",
        "",
        "; ".join(f"{name} {version}" for name, version in result.get("versions", {}).items()),
    ]
    for kind in KINDS:
        rows = [row for row in result["rows"] if row["kind"] == kind]
        if rows:
            lines += ["", f"## {KINDS[kind].title}", "", *_table(result, rows)]
    return "\n".join([*lines, ""])


def _heading(result: dict[str, Any]) -> str:
    target = result.get("target", NATIVE)
    limit = "" if target == NATIVE else f" limited to {target}"
    return f"{result['processor']}{limit}, {result['threads']} thread(s), {result['dtype']}"


def _table(result: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    peers = [name for name in rows[0]["answers"] if name != OURS]
    lines = [
        "| row | ours, ms | p10 to p90 | share of bound | headline | " + " | ".join(peers) + " |",
        "|---|---|---|---|---|" + "---|" * len(peers),
    ]
    for row in rows:
        ours = [a for a in row["answers"][OURS] if "ms" in a]
        if not ours:
            reasons = ", ".join(a["skipped"] for a in row["answers"][OURS][:1])
            lines.append(f"| {row['name']} | skipped: {reasons} |" + " |" * (len(peers) + 3))
            continue
        share, best, own = bound_share(result, row), headline(row), error(row, OURS)
        cells = [_cell(row, name) for name in peers]
        lines.append(
            f"| {row['name']} | {statistics.median(a['ms'] for a in ours):.3f}{_error(own)} | "
            f"{min(a['p10'] for a in ours):.3f} to {max(a['p90'] for a in ours):.3f} | "
            f"{'-' if share is None else f'{100 * share:.0f} %'} | {'-' if best is None else f'**{best[0]:.2f}**'} | "
            + " | ".join(cells) + " |"
        )  # fmt: skip
    found = [h for row in rows if (h := headline(row)) is not None]
    if found:
        worst = min(rows, key=lambda row: (headline(row) or (float("inf"), ""))[0])
        lines += [
            "",
            f"Geometric mean **{geometric_mean([h[0] for h in found]):.2f}**, worst **{min(found)[0]:.2f}** "
            f"({worst['name']}, {min(found)[1]}), {sum(h[0] < 1 for h in found)} of {len(found)} rows below 1.",
        ]
    return lines


def _error(value: float | None) -> str:
    return "" if value is None else f" ({value:.0e})"


def _cell(row: dict[str, Any], name: str) -> str:
    value = ratio(row, name)
    return "-" if value is None else f"{value:.2f}{_error(error(row, name))}"


def chart(result: dict[str, Any], path: Path) -> None:
    """Headline ratios as bars, one panel per kind; nothing without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return
    kinds = [k for k in ("functional", "prepared", "backward") if any(r["kind"] == k for r in result["rows"])]
    if not kinds:
        return
    most = max(sum(row["kind"] == kind for row in result["rows"]) for kind in kinds)
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(5.2 * len(kinds), 1.4 + 0.24 * most), squeeze=False, constrained_layout=True
    )
    for panel, kind in zip(panels[0], kinds, strict=True):
        found = [(row["name"], h[0]) for row in result["rows"] if row["kind"] == kind and (h := headline(row))]
        names, values = [name for name, _ in found][::-1], [value for _, value in found][::-1]
        panel.barh(names, values, color=["#2a7f9e" if value >= 1 else "#c8553d" for value in values], height=0.7)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xscale("log", base=2)
        panel.set_xticks([0.25, 0.5, 1, 2, 4, 8], ["1/4", "1/2", "1", "2", "4", "8"])
        panel.set_xlim(min(0.4, min(values, default=1) * 0.8), max(4, max(values, default=1) * 1.3))
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
        mean = geometric_mean(values)
        panel.set_title(
            f"{KINDS[kind].title.split(',')[0]}, {kind.replace('_', ' ')}: geometric mean {mean:.2f}", fontsize=10
        )
        panel.set_xlabel("time of the rival / ours (right of 1: numbaconv is faster)", fontsize=8)
    figure.suptitle(_heading(result), fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
