"""What all optimizers share: the parameters, the loop over them, and state that can be saved.

A parameter is any object with `data` (array), `grad` (array or None) and `trainable`. Its state is a dict of arrays
on the parameter's device, made at its first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from ..arguments import integer
from ..backend import place_of, to_device, to_host
from ..errors import ArgumentError, StateDictError, message
from .checks import in_range

Array = Any


class Optimizer:
    """Base of the optimizers; a new one implements `update` and names its state in `state_names`.

    Args:
        parameters: what to learn, such as ``model.parameters()``; one that comes twice is updated once.
        lr: learning rate, >= 0; set the attribute `lr` at any time.

    Attributes:
        steps: how often `step` was called.
    """

    state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: Iterable[Any], lr: float) -> None:
        op = type(self).__name__
        self.lr = in_range(op, "lr", lr, 0)
        self.steps = 0
        try:
            self.parameters = list({id(parameter): parameter for parameter in parameters}.values())
        except TypeError:
            raise _not_parameters(op, parameters) from None
        if not self.parameters:
            raise ArgumentError(message(op, "parameters must not be empty", "Does the model have layers to train?"))
        for parameter in self.parameters:
            if not all(hasattr(parameter, name) for name in ("data", "grad", "trainable")):
                raise _not_parameters(op, parameter)
        self._state: list[dict[str, Array]] = [{} for _ in self.parameters]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A subclass with an update of its own must not inherit its parent's shortcut past it.
        if "update" in vars(cls) and "update_all" not in vars(cls):
            cls.update_all = Optimizer.update_all  # type: ignore[method-assign]

    def update(self, parameter: Any, state: dict[str, Array]) -> None:
        """One step of one parameter, in place; `state` is empty before its first."""
        raise NotImplementedError(message(type(self).__name__, "an optimizer must implement update(parameter, state)"))

    def update_all(self, pairs: list[tuple[Any, dict[str, Array]]]) -> None:
        """One step of all these (parameter, state); `update` of each, unless it can be done at once."""
        for parameter, state in pairs:
            self.update(parameter, state)

    def step(self) -> None:
        """Updates every parameter that is trainable and has a gradient.

        Raises:
            ShapeError, DTypeError, DeviceError: a gradient that does not fit its parameter.
        """
        self.steps += 1
        pairs = zip(self.parameters, self._state, strict=True)
        self.update_all([(p, state) for p, state in pairs if p.trainable and p.grad is not None])

    def follow(self) -> None:
        """Moves the state to where the parameters are, after a ``model.to(device)``."""
        for parameter, state in zip(self.parameters, self._state, strict=True):
            for name, array in state.items():
                if name != "step":
                    state[name] = to_device(array, place_of(parameter.data))

    def zero_grad(self) -> None:
        """Forgets all gradients: sets them to None."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that changes between steps.

        Returns:
            "lr", "step" (how often `step` was called), and "arrays": NumPy arrays named
            ``<number of the parameter>.<name>``, such as "0.velocity".
        """
        arrays = {
            f"{index}.{name}": np.array(state[name] if name == "step" else to_host(state[name]))
            for index, state in enumerate(self._state)
            for name in state
        }
        return {"lr": float(self.lr), "step": self.steps, "arrays": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes back to the state of `state_dict`, exactly; a state that does not fit changes nothing.

        Raises:
            StateDictError: keys, shapes or dtypes that are not those of this optimizer's parameters.
        """
        op = f"{type(self).__name__}.load_state_dict"
        if set(state) != {"lr", "step", "arrays"}:
            raise StateDictError(message(op, "state must have the keys lr, step and arrays", keys=sorted(state)))
        lr, steps = in_range(op, "lr", state["lr"], 0), integer(op, "step", state["step"], 0)
        self._state = self._checked(op, state["arrays"])
        self.lr, self.steps = lr, steps

    def _checked(self, op: str, arrays: dict[str, np.ndarray]) -> list[dict[str, Array]]:
        result: list[dict[str, Array]] = [{} for _ in self.parameters]
        for key, given in arrays.items():
            number, _, name = key.partition(".")
            if not number.isdecimal() or int(number) >= len(result) or name not in self.state_names:
                rule = f"arrays must be named <0 to {len(result) - 1}>.<{' or '.join(self.state_names) or 'none'}>"
                raise StateDictError(message(op, rule, "It is the state of another optimizer or model.", key=key))
            data, array = self.parameters[int(number)].data, np.array(given, order="C")
            counts = name == "step"
            shape, dtype = ((), np.dtype(np.int64)) if counts else (tuple(data.shape), np.dtype(data.dtype))
            if array.shape != shape or array.dtype != dtype:
                rule = f"{key} must have shape {shape} and dtype {dtype}"
                raise StateDictError(message(op, rule, shape=array.shape, dtype=str(array.dtype)))
            result[int(number)][name] = array[()] if counts else to_device(array, place_of(data))
        for index, state in enumerate(result):
            if state and set(state) != set(self.state_names):
                missing = sorted(set(self.state_names) - set(state))
                raise StateDictError(message(op, f"the state of parameter {index} must be whole", missing=missing))
        return result


def _not_parameters(op: str, given: Any) -> ArgumentError:
    return ArgumentError(
        message(
            op,
            "parameters must be an iterable of parameters",
            "Pass model.parameters().",
            **{"type(parameters)": type(given).__name__},
        )
    )
