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
    ratios = _ratios(row, provider)
    return statistics.median(ratios) if ratios else None


def _ratios(row: dict[str, Any], provider: str) -> list[float]:
    """One a round."""
    return [theirs / ours for ours, theirs in zip(milliseconds(row, OURS), milliseconds(row, provider), strict=False)]


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


def shares(result: dict[str, Any], row: dict[str, Any]) -> tuple[float, float] | None:
    """Our shares of the machine's measured peaks: of multiply-adds (direct convolution's), and of copy bandwidth.

    Bytes are those of the arrays that go in and come out, once. None for whole models.
    """
    kind, ours = KINDS[row["kind"]], milliseconds(row, OURS)
    case = ROWS[kind.rows][row["name"]]
    if kind.rows == "model" or not ours:
        return None
    backward = kind.work == "backward"
    if hasattr(case, "streams"):
        flops, elements = 0, case.streams[backward] * math.prod(case.shape)
    else:
        flops, elements = (2 if backward else 1) * case.flops, (2 if backward else 1) * case.elements
    seconds = statistics.median(ours) / 1e3
    nbytes = elements * (4 if result["dtype"] == "float32" else 8)
    return flops / result["gflops"] / seconds / 1e9, nbytes / result["gigabytes_per_second"] / seconds / 1e9


def markdown(result: dict[str, Any]) -> str:
    """Tables of every kind, with geometric means and worst rows."""
    lines = [
        f"# {_heading(result)}, {result['started']}",
        "",
        f"{_peak(result)} {result['gflops']:.0f} GFLOP/s (multiply-adds), copy "
        f"{result['gigabytes_per_second']:.0f} GB/s. "
        f"{result['rounds']} interleaved rounds. A ratio is another library's median time over ours: above 1 we are "
        "faster. In parentheses the relative L2 error against float64.",
        "",
        "; ".join(f"{name} {version}" for name, version in result.get("versions", {}).items()),
        *(f"\nCrashes of {name}: {crashes}." for name, crashes in result.get("crashes", {}).items()),
    ]
    lines += _summary(result)
    for kind in KINDS:
        rows = [row for row in result["rows"] if row["kind"] == kind]
        if rows:
            lines += ["", f"## {KINDS[kind].title}", "", *_table(result, rows)]
    return "\n".join([*lines, ""])


def _peak(result: dict[str, Any]) -> str:
    return "Measured peak" if result.get("device", "cpu") == "cpu" else "Peak of its units at the highest clock"


def _heading(result: dict[str, Any]) -> str:
    if result.get("device", "cpu") != "cpu":
        return f"{result['processor']}, {result['dtype']}" + ", products in TF32" * result["tf32"]
    target = result.get("target", NATIVE)
    limit = "" if target == NATIVE else f" limited to {target}"
    return f"{result['processor']}{limit}, {result['threads']} thread(s), {result['dtype']}"


def _table(result: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    peers = [name for name in rows[0]["answers"] if name != OURS]
    lines = [
        "| row | ours, ms | p10 to p90 | of FMA peak | of copy | headline | " + " | ".join(peers) + " |",
        "|---|---|---|---|---|---|" + "---|" * len(peers),
    ]
    for row in rows:
        ours = [a for a in row["answers"][OURS] if "ms" in a]
        if not ours:
            reasons = ", ".join(a["skipped"] for a in row["answers"][OURS][:1])
            lines.append(f"| {row['name']} | skipped: {reasons} |" + " |" * (len(peers) + 4))
            continue
        best, own = headline(row), error(row, OURS)
        cells = [_cell(row, name) for name in peers]
        ratio_cell = "-" if best is None else f"**{best[0]:.2f}**{_range(row, best[1])}"
        lines.append(
            f"| {row['name']} | {statistics.median(a['ms'] for a in ours):.3f}{_error(own)} | "
            f"{min(a['p10'] for a in ours):.3f} to {max(a['p90'] for a in ours):.3f} | "
            f"{' | '.join(_shares(result, row))} | {ratio_cell} | "
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


def _shares(result: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Of FMA peak, of copy bandwidth; what does not count for a row is left out."""
    return ["-" if not share else f"{100 * share:.0f} %" for share in shares(result, row) or (None, None)]


def _range(row: dict[str, Any], provider: str) -> str:
    """Least and greatest ratio of the rounds, where there are several."""
    ratios = _ratios(row, provider)
    return f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""


def _summary(result: dict[str, Any]) -> list[str]:
    """Every convolution's headline ratios side by side."""
    kinds = [kind for kind in KINDS if KINDS[kind].rows == "conv" and any(r["kind"] == kind for r in result["rows"])]
    if not kinds:
        return []
    found = {(row["name"], row["kind"]): headline(row) for row in result["rows"]}
    names = list(dict.fromkeys(row["name"] for row in result["rows"] if row["kind"] in kinds))
    lines = [
        "",
        "## convolutions, headline ratios",
        "",
        f"| row | {' | '.join(kinds)} |",
        "|---|" + "---|" * len(kinds),
    ]
    for name in names:
        cells = []
        for kind in kinds:
            best = found.get((name, kind))
            shown = best and best[1] if len(KINDS[kind].rivals) > 1 else ""
            cells.append("-" if best is None else f"{best[0]:.2f} {shown}".strip())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    means = [geometric_mean([h[0] for n in names if (h := found.get((n, kind)))]) for kind in kinds]
    return [*lines, f"| **geometric mean** | {' | '.join(f'**{mean:.2f}**' for mean in means)} |"]


def scaling(results: list[dict[str, Any]]) -> str:
    """How much faster the run with the most threads was than the one with the fewest, library by library."""
    few, many = (pick(results, key=lambda result: result["threads"]) for pick in (min, max))
    lines = [
        f"# {_heading(many)}: times with {few['threads']} thread(s) over times with {many['threads']}", "",
        "Geometric means over the rows; the two runs follow each other.", "",
    ]  # fmt: skip
    peers = [name for name in few.get("versions", {}) if name != OURS]
    lines += [f"| kind | {OURS} | its worst row | {' | '.join(peers)} |", "|---|---|---|" + "---|" * len(peers)]
    for kind in KINDS:
        gains = {name: _gains(few, many, kind, name) for name in [OURS, *peers]}
        if not gains[OURS]:
            continue
        worst = min(gains[OURS], key=lambda row: gains[OURS][row])
        cells = [f"{geometric_mean(list(gains[name].values())):.2f}" if gains[name] else "-" for name in peers]
        mean = geometric_mean(list(gains[OURS].values()))
        lines.append(f"| {kind} | **{mean:.2f}** | {gains[OURS][worst]:.2f} {worst} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _gains(few: dict[str, Any], many: dict[str, Any], kind: str, provider: str) -> dict[str, float]:
    """Time with few threads over time with many, of the rows both runs have."""
    slow, fast = (
        {row["name"]: statistics.median(ms) for row in result["rows"]
         if row["kind"] == kind and (ms := milliseconds(row, provider))}
        for result in (few, many)
    )  # fmt: skip
    return {name: slow[name] / fast[name] for name in slow if name in fast}


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
    shown: dict[str, list[tuple[str, float]]] = {kind: [] for kind in kinds}
    for row in result["rows"]:
        if row["kind"] in shown and (best := headline(row)) is not None:
            shown[row["kind"]].append((row["name"], best[0]))
    values = [value for rows in shown.values() for _, value in rows]
    limits = min(0.45, min(values, default=1) / 1.2), max(2.2, max(values, default=1) * 1.2)
    ticks = [2.0**i for i in range(math.ceil(math.log2(limits[0])), math.floor(math.log2(limits[1])) + 1)]
    figure, panels = plt.subplots(
        1, len(kinds), figsize=(5.2 * len(kinds), 1.4 + 0.24 * max(map(len, shown.values()))), squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for panel, kind in zip(panels[0], kinds, strict=True):
        rows = shown[kind][::-1]
        panel.set_xscale("log", base=2)
        for name, value in rows:
            panel.barh(name, value - 1, left=1, color="#2a7f9e" if value >= 1 else "#c8553d", height=0.7)
        panel.axvline(1, color="black", linewidth=1)
        panel.set_xticks(ticks, [f"{t:.0f}" if t >= 1 else f"1/{1 / t:.0f}" for t in ticks])
        panel.set_xlim(*limits)
        panel.tick_params(labelsize=8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
        mean = geometric_mean([value for _, value in rows])
        panel.set_title(f"{KINDS[kind].title}\ngeometric mean {mean:.2f}", fontsize=8)
        panel.set_xlabel("time of the rival / ours (right of 1: numbaconv is faster)", fontsize=8)
    figure.suptitle(_heading(result), fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)
