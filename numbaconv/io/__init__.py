"""Files: models and named arrays as .safetensors."""

from .model import load, load_state, save
from .tensors import read_tensors, write_atomically, write_tensors

__all__ = ["load", "load_state", "read_tensors", "save", "write_atomically", "write_tensors"]
