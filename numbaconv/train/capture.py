"""Forward and backward passes that a device writes down once and then does again by itself.

A GPU takes a dozen microseconds for a small layer, and Python as long to ask for it. A captured pass is asked for in
one call. What is written down are kernels and addresses: so it holds for one pair of input arrays (`feeder` has two in
turn), and for the parameters as they are; all that differs from step to step stays outside (the learning rate), or
stands in the way (`refusal`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..functional.update import assign
from ..io.architecture import CLASSES
from ..nn import BatchNorm2d, CrossEntropyLoss, Dropout, MSELoss
from .readings import Result

_MOST_GRAPHS = 8  # each holds gradients of its own


def refusal(model: Any, loss: Any, optimizer: Any) -> str:
    """Why the passes of a model cannot be captured; "" if they can, as far as the model is concerned."""
    learned = {id(parameter) for parameter in optimizer.parameters}
    if any(parameter.trainable and id(parameter) not in learned for parameter in model.parameters()):
        return "a parameter that is trainable is not the optimizer's: its gradient would not be added up"
    if type(loss) not in (CrossEntropyLoss, MSELoss):
        return f"{type(loss).__name__} may compute on the host"
    for module in model.modules():
        if type(module) not in CLASSES.values():
            return f"{type(module).__name__} may compute on the host"
        if isinstance(module, Dropout) and module.p > 0:
            return "Dropout has another mask in every step"
        if isinstance(module, BatchNorm2d) and module.momentum is None:
            return "BatchNorm2d with momentum None has another momentum in every step"
    return ""


class _Graph(NamedTuple):
    """Passes that were written down, and the arrays that they use: those objects, and no others."""

    recorded: Any
    inputs: tuple[Any, Any]
    result: Result
    gradients: list[Any]
    parameters: list[tuple[Any, bool]]


class Capture:
    """Does the passes of each step: as they come, written down, or once more."""

    def __init__(self, model: Any, optimizer: Any, backend: Any, index: int) -> None:
        self._model, self._optimizer, self._parameters = model, optimizer, optimizer.parameters
        self._norms = [m for m in model.modules() if isinstance(m, BatchNorm2d) and m.running_mean is not None]
        self._backend, self._index = backend, index
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._rehearsed: tuple[Any, Any] | None = None

    def passes(self, x: Any, y: Any, run: Callable[[], Result]) -> Result:
        """The result of ``run()``, or of the same written down; the gradients are in the parameters.

        Raises:
            DeviceError: the device cannot write its work down; nothing was done.
        """
        self._optimizer.zero_grad()  # before anything is written down: their memory is another stream's too
        graph = self._graphs.get((id(x), id(y)))
        if graph is not None and self._holds(graph):
            return self._again(graph)
        if self._rehearsed is not None and self._rehearsed[0] is x and self._rehearsed[1] is y:
            return self._write_down(x, y, run)
        if self._rehearsed is None and len(self._graphs) < _MOST_GRAPHS:
            # Once for real, in the memory that the graph is going to use: writing down must not allocate any.
            with self._backend.record(self._index, True), self._same_buffers():
                result = run()
            self._rehearsed = x, y
            return result
        with self._same_buffers():
            return run()

    def _write_down(self, x: Any, y: Any, run: Callable[[], Result]) -> Result:
        with self._backend.record(self._index, False) as recorded, self._same_buffers():
            result = run()
        gradients = [parameter.grad for parameter in self._parameters]
        self._graphs[id(x), id(y)] = _Graph(recorded, (x, y), result, gradients, self._state())
        self._rehearsed = None
        recorded.replay()
        return result

    def _again(self, graph: _Graph) -> Result:
        graph.recorded.replay()
        for parameter, gradient in zip(self._parameters, graph.gradients, strict=True):
            parameter.grad = gradient
        for norm in self._norms:
            norm.num_batches_tracked = np.asarray(int(norm.num_batches_tracked) + 1, np.int64)  # type: ignore[arg-type]
        return graph.result

    def _state(self) -> list[tuple[Any, bool]]:
        """What a graph depends on besides its inputs: these array objects."""
        arrays = [(parameter.data, parameter.trainable) for parameter in self._model.parameters()]
        return arrays + [(array, True) for norm in self._norms for array in (norm.running_mean, norm.running_var)]

    def _holds(self, graph: _Graph) -> bool:
        """Whether parameters and buffers are those it was written down with; else it is forgotten."""
        now = self._state()
        if all(a is b and s == t for (a, s), (b, t) in zip(now, graph.parameters, strict=True)):
            return True
        self._graphs.clear()
        return False

    @contextlib.contextmanager
    def _same_buffers(self) -> Iterator[None]:
        """New running statistics go into the arrays of the old ones."""
        before = [(norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in self._norms]
        try:
            yield
        except BaseException:
            for norm, state in zip(self._norms, before, strict=True):
                norm.running_mean, norm.running_var, norm.num_batches_tracked = state
            raise
        for norm, (mean, var, _) in zip(self._norms, before, strict=True):
            assign(mean, norm.running_mean)
            assign(var, norm.running_var)
            norm.running_mean, norm.running_var = mean, var
