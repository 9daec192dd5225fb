"""Functions of one element, float32 or float64, in its own type: the GPU's, and NumPy's in the simulator.

The GPU's are NVIDIA's libdevice: errors of 1 to 2 units in the last place, no fast approximations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .runtime import simulated

__all__ = ["erf", "exp", "log", "sqrt", "tanh"]

erf: Any
exp: Any
log: Any
sqrt: Any
tanh: Any

if simulated():
    exp, log, sqrt, tanh = np.exp, np.log, np.sqrt, np.tanh

    def erf(value: Any) -> Any:
        return type(value)(math.erf(value))

else:
    from math import erf, exp, log, sqrt, tanh
