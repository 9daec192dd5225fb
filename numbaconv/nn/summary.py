"""The table of a model: output shapes, parameters and multiply-adds of every layer, computed without running it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..arguments import hashable, integer

if TYPE_CHECKING:
    from .module import Module

Shape = tuple[int, ...]


class Traced(NamedTuple):
    """One layer as `Module.shape_trace` meets it; containers come after what they contain."""

    name: str
    module: Module
    output_shape: Shape
    multiply_adds: int


class Row(NamedTuple):
    """One layer. Shapes are one sample's, without the batch axis."""

    name: str
    type: str
    output_shape: Shape
    parameters: int
    multiply_adds: int


class Summary(NamedTuple):
    """What `Module.summary` returns; ``str(summary)`` is the table."""

    input_shape: Shape
    rows: tuple[Row, ...]
    trainable_parameters: int

    @property
    def output_shape(self) -> Shape:
        """Shape of the model's output for one sample."""
        return self.rows[-1].output_shape if self.rows else self.input_shape

    @property
    def parameters(self) -> int:
        """Elements of all parameters; a layer used twice counts once."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one sample's forward pass."""
        return sum(row.multiply_adds for row in self.rows)

    def __str__(self) -> str:
        table = [("layer", "type", "output shape", "parameters", "multiply-adds")]
        table += [("", "(input)", _times(self.input_shape), "", "")]
        table += [
            (r.name, r.type, _times(r.output_shape), f"{r.parameters:,}", f"{r.multiply_adds:,}") for r in self.rows
        ]
        total = ("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}")
        widths = [max(len(line[i]) for line in [*table, total]) for i in range(5)]
        rule = "-" * (sum(widths) + 2 * 4)
        lines = [_line(table[0], widths), rule, *(_line(line, widths) for line in table[1:]), rule]
        lines += [_line(total, widths)]
        if self.trainable_parameters != self.parameters:
            lines += [f"of these trainable: {self.trainable_parameters:,}"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(cells[:3], widths[:3], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(cells[3:], widths[3:], strict=True)]
    return "  ".join(left + right).rstrip()


def summarize(model: Module, input_shape: Shape) -> Summary:
    """See `Module.summary`."""
    shape = hashable(input_shape)
    if not isinstance(shape, tuple):
        shape = (shape,)
    shape = tuple(integer("summary", "input_shape", size, 1) for size in shape)
    counted: set[int] = set()
    rows = tuple(
        Row(
            traced.name or type(traced.module).__name__,
            type(traced.module).__name__,
            traced.output_shape,
            _count_new(traced.module, counted),
            traced.multiply_adds,
        )
        for traced in model.shape_trace(shape)
    )
    trainable = sum(parameter.size for parameter in model.parameters() if parameter.trainable)
    return Summary(shape, rows, trainable)


def _count_new(module: Module, counted: set[int]) -> int:
    """Elements of the parameters that no earlier row has counted; adds them to `counted`."""
    new = [parameter for parameter in module.parameters() if id(parameter) not in counted]
    counted.update(id(parameter) for parameter in new)
    return sum(parameter.size for parameter in new)
