"""numbaconv: convolutional networks in Numba, readable to the bottom in Python."""

from __future__ import annotations

from . import data, functional, io, models, nn, optim, train
from .algorithm import algorithm, set_algorithm
from .backend import channels_last, device_of, layout_of, to_device, to_host
from .functional import explain
from .gradcheck import gradcheck
from .io import load, save
from .parallel import get_num_threads, num_threads, set_num_threads

__version__ = "0.1.0"
