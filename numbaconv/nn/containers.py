"""Modules made of modules: Sequential, Residual, Concat.

Between the layers of a container 4-D arrays lie channels-last (NHWC in memory, still (N, C, H, W) in shape), the
order the kernels are fastest in. A container converts once where data enters, and gives C-contiguous arrays back;
inside another container it does neither, which is what the `_inner` methods are for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self, overload

from .. import functional as F
from ..arguments import require_same_shape
from ..backend import enter, in_channels_last
from ..errors import ArgumentError, ShapeError, StateError, message
from . import fused
from .dropout import number_dropout
from .module import Module
from .state import join
from .summary import Traced

Array = Any
Shape = tuple[int, ...]


def _contiguous(op: str, x: Array) -> Array:
    """A 4-D array in C order (itself if it is so), anything else as it is."""
    if len(getattr(x, "shape", ())) != 4:
        return x
    backend, x = enter(op, x=x)
    return backend.contiguous(x)


class Container(Module):
    """Base of the containers: converts at the borders, and leaves the rest to the `_inner` methods."""

    def _inner_predict(self, x: Array) -> Array:
        raise NotImplementedError

    def _inner_forward(self, x: Array) -> tuple[Array, Any]:
        raise NotImplementedError

    def _inner_backward(self, grad_output: Array, ctx: Any, needs_input: bool) -> Array | None:
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Predicts: no layer's context outlives that layer."""
        op = type(self).__name__
        return _contiguous(op, self._inner_predict(in_channels_last(op, x)))

    def forward_ctx(self, x: Array) -> tuple[Array, Any]:
        """The output, C-contiguous, and the layers' contexts."""
        op = type(self).__name__
        y, ctx = self._inner_forward(in_channels_last(op, x))
        return _contiguous(op, y), ctx

    def backward_ctx(self, grad_output: Array, ctx: Any, needs_input: bool = True) -> Array | None:
        """See `Module.backward_ctx`. What lies below the lowest trainable layer is not computed unless needed."""
        op = type(self).__name__
        grad_input = self._inner_backward(in_channels_last(op, grad_output), ctx, needs_input)
        return None if grad_input is None else _contiguous(op, grad_input)

    def multiply_adds(self, input_shape: Shape) -> int:
        """Those of all layers."""
        return sum(traced.multiply_adds for traced in self.shape_trace(input_shape))

    def shape_trace(self, input_shape: Shape, name: str = "") -> list[Traced]:
        """The rows of the modules that all see the input, then one for what joins their outputs."""
        rows: list[Traced] = []
        for child, module in self.named_children():
            rows += module.shape_trace(input_shape, join(name, child))
        return [*rows, Traced(name, self, self.output_shape(input_shape), 0)]


# What a container does to a module in it. A subclass of a container that brings its own forward_ctx is a layer
# like any other. Results are made channels-last: a layer may give back what it likes.


def _predict(module: Module, x: Array) -> Array:
    plain = isinstance(module, Container) and type(module).__call__ is Container.__call__
    y = module._inner_predict(x) if plain else module(x)  # type: ignore[attr-defined]
    return in_channels_last(type(module).__name__, y)


def _forward(module: Module, x: Array) -> tuple[Array, Any]:
    plain = isinstance(module, Container) and type(module).forward_ctx is Container.forward_ctx
    y, ctx = module._inner_forward(x) if plain else module.forward_ctx(x)  # type: ignore[attr-defined]
    return in_channels_last(type(module).__name__, y), ctx


def _backward(module: Module, grad_output: Array, ctx: Any, needs_input: bool) -> Array | None:
    if not needs_input and not module.has_trainable():
        return None
    plain = isinstance(module, Container) and type(module).backward_ctx is Container.backward_ctx
    backward = module._inner_backward if plain else module.backward_ctx  # type: ignore[attr-defined]
    grad_input = backward(grad_output, ctx, needs_input)
    return None if grad_input is None else in_channels_last(type(module).__name__, grad_input)


def _require_module(op: str, name: str, value: Any) -> Module:
    if isinstance(value, Module):
        return value
    fix = f"Write nn.{value.__name__}(), with parentheses." if isinstance(value, type) else ""
    raise ArgumentError(message(op, f"{name} must be an nn.Module", fix, **{name: value}))


class SequentialContext(NamedTuple):
    """The contexts of a Sequential's layers, first to last."""

    contexts: tuple[Any, ...]


class Sequential(Container):
    """Layers one after the other. ``model[2]``, ``model[:3]`` (a Sequential of the same layers), ``len(model)``.

    Args:
        layers: modules; one may stand in several places.
    """

    def __init__(self, *layers: Module) -> None:
        self.layers = [_require_module("Sequential", f"layers[{i}]", layer) for i, layer in enumerate(layers)]
        number_dropout(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """("0", first layer), ("1", second layer), ..."""
        return ((str(index), layer) for index, layer in enumerate(self.layers))

    def append(self, layer: Module) -> Self:
        """Adds a layer at the end."""
        self.layers.append(_require_module("Sequential", "layer", layer))
        number_dropout(self)
        return self

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __setitem__(self, index: int, layer: Module) -> None:
        self.layers[index] = _require_module("Sequential", "layer", layer)
        number_dropout(self)

    def __bool__(self) -> bool:
        return True  # an empty one is still a model

    def _inner_predict(self, x: Array) -> Array:
        for layer, then in fused.in_pairs(self.layers):
            x = _predict(layer, x) if then is None else in_channels_last("Sequential", fused.predict(layer, then, x))
        return x

    def _inner_forward(self, x: Array) -> tuple[Array, SequentialContext]:
        contexts: list[Any] = []
        for layer, then in fused.in_pairs(self.layers):
            if then is None:
                x, ctx = _forward(layer, x)
                contexts.append(ctx)
            else:
                x, both = fused.forward(layer, then, x)
                x = in_channels_last("Sequential", x)
                contexts += both
        return x, SequentialContext(tuple(contexts))

    def _inner_backward(self, grad_output: Array, ctx: SequentialContext, needs_input: bool) -> Array | None:
        if len(ctx.contexts) != len(self.layers):
            rule = "the context must come from a forward pass through the same layers"
            raise StateError(message("Sequential", rule, contexts=len(ctx.contexts), layers=len(self.layers)))
        lowest = 0 if needs_input else self._lowest_trainable()
        grad: Array | None = grad_output
        for index in reversed(range(lowest, len(self.layers))):
            grad = _backward(self.layers[index], grad, ctx.contexts[index], needs_input or index > lowest)
        return grad if needs_input else None

    def _lowest_trainable(self) -> int:
        """Index of the first layer that has something to learn: no gradient is needed below it."""
        return next((i for i, layer in enumerate(self.layers) if layer.has_trainable()), len(self.layers))

    def output_shape(self, input_shape: Shape) -> Shape:
        """The last layer's."""
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def shape_trace(self, input_shape: Shape, name: str = "") -> list[Traced]:
        """The layers' rows."""
        rows: list[Traced] = []
        for index, layer in enumerate(self.layers):
            rows += layer.shape_trace(input_shape, join(name, str(index)))
            input_shape = layer.output_shape(input_shape)
        return rows

    def config(self) -> dict[str, Any]:
        """The layers."""
        return {"layers": list(self.layers)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Built of the layers."""
        return cls(*config["layers"])

    def __repr__(self) -> str:
        return super().__repr__() if self.layers else f"{type(self).__name__}()"


class ResidualContext(NamedTuple):
    """The contexts of a Residual's two ways; the shortcut's is None where x itself is the shortcut."""

    body: Any
    shortcut: Any


def add_branches(y: Array, shortcut: Array) -> Array:
    """The sum of a Residual's two ways."""
    require_same_shape("Residual", "body(x)", tuple(y.shape), "shortcut(x)", tuple(shortcut.shape))
    return F.add(y, shortcut)


class Residual(Container):
    """body(x) + shortcut(x), or body(x) + x.

    Args:
        body: a module.
        shortcut: a module whose output has the shape of the body's, such as a 1x1 convolution; None: x itself.
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        self.body = _require_module("Residual", "body", body)
        self.shortcut = None if shortcut is None else _require_module("Residual", "shortcut", shortcut)
        number_dropout(self)

    def _inner_predict(self, x: Array) -> Array:
        y = _predict(self.body, x)
        return add_branches(y, x if self.shortcut is None else _predict(self.shortcut, x))

    def _inner_forward(self, x: Array) -> tuple[Array, ResidualContext]:
        y, body_ctx = _forward(self.body, x)
        shortcut, shortcut_ctx = (x, None) if self.shortcut is None else _forward(self.shortcut, x)
        return add_branches(y, shortcut), ResidualContext(body_ctx, shortcut_ctx)

    def _inner_backward(self, grad_output: Array, ctx: ResidualContext, needs_input: bool) -> Array | None:
        grad = _backward(self.body, grad_output, ctx.body, needs_input)
        around: Array | None = grad_output
        if self.shortcut is not None:
            around = _backward(self.shortcut, grad_output, ctx.shortcut, needs_input)
        return F.add(grad, around) if needs_input else None

    def output_shape(self, input_shape: Shape) -> Shape:
        """The body's, which must be the shortcut's."""
        body = self.body.output_shape(input_shape)
        around = input_shape if self.shortcut is None else self.shortcut.output_shape(input_shape)
        require_same_shape("Residual", "body(x)", body, "shortcut(x)", around)
        return body

    def config(self) -> dict[str, Any]:
        """Body and shortcut."""
        return {"body": self.body, "shortcut": self.shortcut}


class ConcatContext(NamedTuple):
    """The contexts of a Concat's branches, and how many channels each gave."""

    contexts: tuple[Any, ...]
    sizes: tuple[int, ...]


class Concat(Container):
    """Branches that all see x; their outputs are joined along the channels (axis 1).

    Args:
        branches: one module or more.
    """

    def __init__(self, *branches: Module) -> None:
        if not branches:
            raise ArgumentError(message("Concat", "there must be at least one branch"))
        self.branches = [_require_module("Concat", f"branches[{i}]", branch) for i, branch in enumerate(branches)]
        number_dropout(self)

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """("0", first branch), ("1", second branch), ..."""
        return ((str(index), branch) for index, branch in enumerate(self.branches))

    def _inner_predict(self, x: Array) -> Array:
        return F.concat([_predict(branch, x) for branch in self.branches])

    def _inner_forward(self, x: Array) -> tuple[Array, ConcatContext]:
        outputs, contexts = zip(*(_forward(branch, x) for branch in self.branches), strict=True)
        return F.concat(list(outputs)), ConcatContext(contexts, tuple(y.shape[1] for y in outputs))

    def _inner_backward(self, grad_output: Array, ctx: ConcatContext, needs_input: bool) -> Array | None:
        # Cuts through the channels are not dense: copied here once, rather than by each kernel that reads them.
        pieces = [in_channels_last("Concat", piece) for piece in F.concat_backward(grad_output, ctx.sizes)]
        grads = [
            _backward(branch, piece, context, needs_input)
            for branch, piece, context in zip(self.branches, pieces, ctx.contexts, strict=True)
        ]
        if not needs_input:
            return None
        total = grads[0]
        for grad in grads[1:]:
            total = F.add(total, grad)
        return total

    def output_shape(self, input_shape: Shape) -> Shape:
        """The branches' with their channels added."""
        shapes = [branch.output_shape(input_shape) for branch in self.branches]
        if len({shape[1:] for shape in shapes}) > 1:
            raise ShapeError(message("Concat", "the branches' outputs must differ in channels only", shapes=shapes))
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def config(self) -> dict[str, Any]:
        """The branches."""
        return {"branches": list(self.branches)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Built of the branches."""
        return cls(*config["branches"])
