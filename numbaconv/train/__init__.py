"""Training, evaluation and prediction: the loops around a model.

`fit` learns, with validation, early stop and checkpoints that resume exactly; `evaluate` and `predict` go once
through data. All three take NumPy arrays and move them to the model's device batch by batch, and all three leave
each module's mode (`train()` / `eval()`) as they found it.
"""

from .checkpoint import CheckpointError
from .evaluation import Evaluation, evaluate, predict
from .fitting import NotFiniteError, fit
from .history import EpochResult, History

__all__ = [
    "CheckpointError",
    "EpochResult",
    "Evaluation",
    "History",
    "NotFiniteError",
    "evaluate",
    "fit",
    "predict",
]
