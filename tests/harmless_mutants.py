"""Mutants of CUDA kernels that change nothing that anyone could notice, and why.

Patterns (fnmatch) of ``kernel:key``, as ptx/mutation.py names them.
"""

from __future__ import annotations

HARMLESS: dict[str, str] = {
    "elementwise.*:add(shl(*,2),4) gt.s64 param? = true": "a whole vector one element at a time: the same results",
    "elementwise.weighted:add(shl(*,2),3) ge.s64 param? = true": "its array is a new one: no whole vector is left over",
    "loss.*:barrier 4 of 4": "keeps the memory of a sum over the block for the next such sum, and this was the last",
    "update._norm:barrier 9 of 9": "the same",
    "update._squares:barrier 9 of 9": "the same",
    "update._total:barrier 9 of 9": "the same",
    "loss._count_labels:barrier 2 of 2": "keeps the memory of a sum over the block for the next one, and there is none",
}
