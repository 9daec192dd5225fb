"""Module: what a layer is.

A layer is two functions. ``forward_ctx(x)`` returns the output and a *context*, a NamedTuple of exactly what the
backward pass needs; ``backward_ctx(grad_output, ctx)`` adds into the parameters' gradients and returns the gradient
of the input. Nothing else is remembered, so one layer can be used twice in a model, by two passes in flight, or
by a prediction between a forward and its backward. A layer of one's own:

    class Scale(nn.Module):
        def __init__(self):
            self.factor = nn.Parameter(np.ones(1, np.float32))

        def forward_ctx(self, x):
            return x * self.factor.data, x

        def backward_ctx(self, grad_output, ctx, needs_input=True):
            self.factor.accumulate_grad(np.sum(grad_output * ctx, keepdims=True).reshape(1))
            return grad_output * self.factor.data if needs_input else None

Parameters, buffers and child modules are the instance's attributes, or items of its list and tuple attributes, in
the order they were assigned; there is no registry, and a subclass need not call ``super().__init__()``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from ..backend import place_of, to_device, to_host
from ..errors import DTypeError, StateError, message
from . import init, state
from .parameter import Parameter
from .summary import Summary, Traced, summarize

if TYPE_CHECKING:
    from .prepared import Prepared

Array = Any


class _Kept(NamedTuple):
    """What `forward` leaves for `backward`; a context may itself be None."""

    ctx: Any


class Module:
    """Base of every layer and model.

    A subclass implements `forward_ctx` and `backward_ctx`; for `summary` also `output_shape`.
    """

    training: bool = True
    buffer_names: ClassVar[tuple[str, ...]] = ()  # attributes that are saved but not learned
    arguments: ClassVar[tuple[str, ...]] = ()  # constructor arguments kept as attributes of the same name
    _slot: _Kept | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Some layers predict by a shorter way than forward_ctx. A subclass that brings its own forward_ctx must not
        # inherit its parent's shortcut.
        if "forward_ctx" in vars(cls) and "__call__" not in vars(cls):
            cls.__call__ = Module.__call__  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(vars(self).get(name), Parameter) and not (value is None or isinstance(value, Parameter)):
            raise DTypeError(
                message(
                    type(self).__name__,
                    f"{name} is a Parameter and cannot become anything else",
                    f"To change its values, assign {name}.data.",
                    **{f"type({name})": type(value).__name__},
                )
            )
        object.__setattr__(self, name, value)

    # --- the protocol ---------------------------------------------------------------------------------------

    def forward_ctx(self, x: Array) -> tuple[Array, Any]:
        """The output, and the context that `backward_ctx` needs (a NamedTuple)."""
        raise NotImplementedError(
            message(type(self).__name__, "a layer must implement forward_ctx(x) -> (output, context)")
        )

    def backward_ctx(self, grad_output: Array, ctx: Any, needs_input: bool = True) -> Array | None:
        """Adds into the parameters' gradients; returns the gradient of x, or None where it is not needed.

        Args:
            grad_output: gradient of the output, of its shape and dtype.
            ctx: what `forward_ctx` returned with that output; unchanged, so it may be used again.
            needs_input: whether to compute the gradient of the input.
        """
        rule = "a layer must implement backward_ctx(grad_output, ctx, needs_input=True) -> grad_input or None"
        raise NotImplementedError(message(type(self).__name__, rule))

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output for one sample's shape, without the batch axis: (C, H, W) or (features,)."""
        rule = "a layer must implement output_shape(input_shape) for summary"
        raise NotImplementedError(message(type(self).__name__, rule))

    def multiply_adds(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of one sample's forward pass: of convolutions and linear layers; the rest counts 0."""
        return 0

    def shape_trace(self, input_shape: tuple[int, ...], name: str = "") -> list[Traced]:
        """The rows of `summary`: of a container, those of what it contains."""
        return [Traced(name, self, self.output_shape(input_shape), self.multiply_adds(input_shape))]

    # --- using it -------------------------------------------------------------------------------------------

    def __call__(self, x: Array) -> Array:
        """Predicts: the output, and nothing is kept. The mode stays as it is (`train`, `eval`)."""
        return self.forward_ctx(x)[0]

    def forward(self, x: Array) -> Array:
        """The output; in training mode the context is kept for one `backward`, replacing any earlier one."""
        self._slot = None
        y, ctx = self.forward_ctx(x)
        if self.training:
            self._slot = _Kept(ctx)
        return y

    def backward(self, grad_output: Array, needs_input: bool = False) -> Array | None:
        """Adds the gradients of the last `forward` into the parameters', and forgets that forward.

        Args:
            grad_output: gradient of the output, of its shape and dtype.
            needs_input: also compute and return the gradient of the input.

        Raises:
            StateError: without a `forward` in training mode before it; one forward serves one backward.
        """
        kept, self._slot = self._slot, None
        if kept is None:
            if self.training:
                fix = "Call forward(x) before each backward; model(x) only predicts."
            else:
                fix = "In eval mode forward keeps nothing: call train() first, or use forward_ctx and backward_ctx."
            raise StateError(message("backward", "there is no forward pass to go back through", fix))
        return self.backward_ctx(grad_output, kept.ctx, needs_input)

    def prepare(self) -> Prepared:
        """A snapshot for prediction: packed weights, fused layers, no training.

        ``predict = model.prepare(); y = predict(x)`` gives what ``model.eval()(x)`` gives, to rounding, in the layout
        of x. A convolution takes up the batch norm after it and the ReLU after that, a linear layer the ReLU; dropout
        is gone; any other layer is called as it is (alone, it gives what layout it likes). Everything is copied:
        training the model further changes nothing in the snapshot, and this model stays as it is, mode included.

        Raises:
            ArgumentError: if a layer of one's own refuses to be copied.
        """
        from .prepared import Prepared  # which knows the layers, and they this class

        return Prepared(self)

    def train(self, mode: bool = True) -> Self:
        """Training mode for this and every module below: dropout drops, batch norm uses the batch."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Evaluation mode for this and every module below."""
        return self.train(False)

    # --- what it is made of ---------------------------------------------------------------------------------

    def _members(self, kind: type) -> Iterator[tuple[str, Any]]:
        """(name, value) of own attributes of a kind, and of items of list and tuple attributes."""
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield name, value
            elif isinstance(value, (list, tuple)):
                for index, item in enumerate(value):
                    if isinstance(item, kind):
                        yield f"{name}.{index}", item

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules directly below."""
        return self._members(Module)

    def named_modules(self, prefix: str = "") -> list[tuple[str, Module]]:
        """(dotted name, module) of this and every module below; one used twice is listed once."""
        return list(state.walk(self, prefix, seen=set()))

    def modules(self) -> list[Module]:
        """This and every module below, each once."""
        return [module for _, module in self.named_modules()]

    def named_parameters(self) -> list[tuple[str, Parameter]]:
        """(dotted name, parameter), as the keys of `state_dict`; one used twice is listed once."""
        found: dict[int, tuple[str, Parameter]] = {}
        for prefix, module in self.named_modules():
            for name, parameter in module._members(Parameter):
                found.setdefault(id(parameter), (state.join(prefix, name), parameter))
        return list(found.values())

    def parameters(self) -> list[Parameter]:
        """Every parameter, once."""
        return [parameter for _, parameter in self.named_parameters()]

    def has_trainable(self) -> bool:
        """Whether a backward pass has a gradient to compute in here."""
        own = (parameter for _, parameter in self._members(Parameter))
        return any(p.trainable for p in own) or any(p.trainable for p in self.parameters())

    def zero_grad(self) -> None:
        """Forgets every gradient."""
        for parameter in self.parameters():
            parameter.zero_grad()

    # --- changing all of it ---------------------------------------------------------------------------------

    def to(self, device: str) -> Self:
        """Moves parameters, gradients and buffers to a device ("cpu", "cuda", "cuda:1").

        Raises:
            DeviceError: if the device is not there; the model stays where it was.
        """
        state.transform(self, lambda array: to_device(array, device))
        return self

    def astype(self, dtype: Any) -> Self:
        """Converts parameters, gradients and buffers to "float32" or "float64".

        Raises:
            DTypeError: for any other dtype.
        """
        target = state.float_dtype(dtype)

        def convert(array: Array) -> Array:
            return array if array.dtype == target else to_device(to_host(array).astype(target), place_of(array))

        state.transform(self, convert)
        return self

    def initialize(self, rng: init.Rng = None, *, weight: init.WeightInitialiser | None = None) -> Self:
        """Draws the whole model anew, in the order of `modules()`: one seed gives one model everywhere.

        Args:
            rng: Generator, int seed, or None.
            weight: `init.kaiming_uniform` or another of its kind, for the weights of convolutions and linear
                layers; their biases then start at zero. None: PyTorch's default for both.
        """
        source = init.generator(rng)
        for module in self.modules():
            module.reset_parameters(source, weight)
        return self

    def reset_parameters(self, rng: np.random.Generator, weight: init.WeightInitialiser | None = None) -> None:
        """Draws this layer's own parameters anew (not those of modules below), for `initialize`."""
        if any(self._members(Parameter)):
            rule = "a layer with parameters must implement reset_parameters(rng, weight) for initialize"
            raise NotImplementedError(message(type(self).__name__, rule))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of parameters and buffers as NumPy arrays, under PyTorch's names."""
        return state.state_dict(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> state.Mismatch:
        """Takes over the values of a state dict, this library's or PyTorch's; they are copied.

        Args:
            state_dict: name to array (NumPy, or CPU tensors of PyTorch), cast to the model's dtype.
            strict: False lets names be missing or unexpected; shapes must fit in any case.

        Returns:
            (missing, unexpected) names.

        Raises:
            StateDictError: naming every key that is missing, unexpected or misshapen; the model is unchanged.
        """
        return state.load_state_dict(self, state_dict, strict)

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, from which `numbaconv.io.load` rebuilds the module."""
        return {name: getattr(self, name) for name in self.arguments}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The module that `config` describes, newly made."""
        return cls(**config)

    # --- showing it -----------------------------------------------------------------------------------------

    def summary(self, input_shape: tuple[int, ...], *, show: bool = True) -> Summary:
        """Prints a table of output shapes, parameters and multiply-adds; runs no kernel.

        Args:
            input_shape: one sample's, without the batch axis: (3, 32, 32).
            show: False only returns the table.

        Returns:
            The `Summary` with the rows and totals; ``str()`` of it is the table.
        """
        result = summarize(self, input_shape)
        if show:
            print(result)
        return result

    def extra_repr(self) -> str:
        """What stands between the parentheses of `repr`."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config().items())

    def __repr__(self) -> str:
        children = list(self.named_children())
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [f"({name}): {child!r}".replace("\n", "\n  ") for name, child in children]
        return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"
