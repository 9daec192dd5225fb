"""Every row of every group, by name."""

from __future__ import annotations

from typing import Any

from .cases import CONV, LINEAR, POINTWISE, POOL
from .models import MODELS

ROWS: dict[str, dict[str, Any]] = {
    group: {row.name: row for row in rows}
    for group, rows in {
        "conv": CONV, "linear": LINEAR, "pool": POOL, "elementwise": POINTWISE, "model": MODELS,
    }.items()
}  # fmt: skip
