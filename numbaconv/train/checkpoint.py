"""A training run on disk: everything that is needed to go on with it exactly.

One safetensors file, replaced atomically: arrays ``model.*``, ``optimizer.*``, ``best.*`` (early stop) and
``step_losses``; all else is JSON in its metadata. There is no generator state in it: orders, augmentation and
dropout masks are functions of the seed and of how many epochs and steps were done.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..backend import to_host
from ..errors import FileFormatError, NumbaconvError, message
from ..io import read_tensors, write_tensors
from ..io.architecture import CLASSES
from ..nn import Dropout
from .early_stop import EarlyStop
from .history import EpochResult, History

_KEY = "numbaconv_checkpoint"
_FORMAT = 1


class CheckpointError(NumbaconvError, ValueError):
    """A checkpoint of another run: another model, optimizer, seed or batch size."""


class Run(NamedTuple):
    """What changes while a model learns, between two epochs. ``settings`` say which run it is."""

    settings: dict[str, Any]
    model: Any
    optimizer: Any
    history: History
    early_stop: EarlyStop | None


def write_checkpoint(path: Path, run: Run) -> None:
    """Saves the run; the file there is either the old one or the new one, never a part.

    Raises:
        OSError: if it cannot be written.
    """
    optimizer = dict(run.optimizer.state_dict())
    arrays = _prefixed("model.", run.model.state_dict())
    arrays |= _prefixed("optimizer.", optimizer.pop("arrays"))
    arrays["step_losses"] = np.array(run.history.step_losses, np.float64)
    early = None
    if run.early_stop is not None:
        arrays |= _prefixed("best.", run.early_stop.best_weights)
        early = {"best_loss": run.early_stop.best_loss, "best_epoch": run.early_stop.best_epoch}
    facts = {
        "format": _FORMAT,
        "settings": run.settings,
        "epochs": [result._asdict() for result in run.history.epochs],
        "stopped_early": run.history.stopped_early,
        "early_stop": early,
        "modules": _modules(run.model),
        "optimizer": optimizer,
        "dropout": [[module.seed, module.layer, module.step] for module in _dropouts(run.model)],
    }
    write_tensors(path, arrays, {_KEY: json.dumps(facts)})


def read_checkpoint(path: Path, run: Run) -> None:
    """Puts a saved run into the objects of this one.

    Raises:
        CheckpointError: if it is another run; nothing is changed then.
        FileFormatError: if the file is damaged, or no checkpoint.
    """
    arrays, facts = _read(path)
    _require_same_run(path, run, arrays, facts)
    run.model.load_state_dict(_without_prefix("model.", arrays))
    run.optimizer.load_state_dict({**facts["optimizer"], "arrays": _without_prefix("optimizer.", arrays)})
    for module, (seed, layer, step) in zip(_dropouts(run.model), facts["dropout"], strict=True):
        module.seed, module.layer, module.step = seed, layer, step
    run.history.epochs[:] = [EpochResult(**result) for result in facts["epochs"]]
    run.history.step_losses[:] = arrays["step_losses"].tolist()
    run.history.stopped_early = facts["stopped_early"]
    if run.early_stop is not None and facts["early_stop"] is not None:
        run.early_stop.best_loss = facts["early_stop"]["best_loss"]
        run.early_stop.best_epoch = facts["early_stop"]["best_epoch"]
        run.early_stop.best_weights = _without_prefix("best.", arrays)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, metadata = read_tensors(path)
    try:
        facts = json.loads(metadata.get(_KEY, "null"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != _FORMAT:
        rule = f"checkpoint must be a file that fit wrote, of format {_FORMAT}"
        raise FileFormatError(message("fit", rule, "Without resume it is overwritten.", checkpoint=str(path)))
    return arrays, facts


def _require_same_run(path: Path, run: Run, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
    saved = {**facts["settings"], **facts["modules"], **_shapes(_without_prefix("model.", arrays))}
    given = {**run.settings, **_modules(run.model), **_shapes(run.model.state_dict())}
    different = [name for name in {**saved, **given} if saved.get(name) != given.get(name)]
    if different:
        raise CheckpointError(
            message(
                "fit",
                "resume goes on with the run in checkpoint: same model, optimizer, data, seed and batch size",
                "Use the same ones, or start anew without resume.",
                checkpoint=str(path),
                **{f"saved {name}": saved.get(name) for name in different},
                **{f"given {name}": given.get(name) for name in different},
            )
        )


def _modules(model: Any) -> dict[str, str]:
    """What each module is. Of a class of somebody's own only the name: what it prints may change between runs."""
    return {
        f"module {name}": repr(module)
        if type(module) in CLASSES.values() and not list(module.named_children())
        else type(module).__name__
        for name, module in model.named_modules()
    }


def _shapes(state: dict[str, Any]) -> dict[str, str]:
    return {name: f"{array.dtype} {tuple(array.shape)}" for name, array in state.items()}


def _dropouts(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, Dropout)]


def _prefixed(prefix: str, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    return {prefix + name: to_host(array) for name, array in arrays.items()}


def _without_prefix(prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
