"""The disk cache of kernels must never serve a stale one."""

import os
import shutil
from pathlib import Path

import numbaconv


def test_editing_a_helper_in_another_file_is_seen_by_cached_kernels(run_python, tmp_path):
    """numba stamps a cached kernel with its own file only; ours with every file that kernels come from."""
    shutil.copytree(
        Path(numbaconv.__file__).parent, tmp_path / "numbaconv", ignore=shutil.ignore_patterns("__pycache__")
    )
    helper = tmp_path / "numbaconv" / "cpu" / "edited_helper.py"
    user = tmp_path / "numbaconv" / "cpu" / "edited_kernel.py"
    user.write_text(
        "from ..jit import kernel\nfrom .edited_helper import helper\n\n@kernel\ndef answer(x):\n    return helper(x)\n"
    )
    body = "from ..jit import kernel\n\n@kernel\ndef helper(x):\n    return x + {}\n"
    code = "from numbaconv.cpu.edited_kernel import answer; print(answer(1), sum(answer.stats.cache_hits.values()))"

    cache = tmp_path / "cache"
    cache.mkdir()

    def answer_with(increment):
        helper.write_text(body.format(increment))
        stat = helper.stat()
        os.utime(helper, ns=(stat.st_atime_ns, 10**18))  # the same time stamp and size each time
        return run_python(code, cwd=cache, NUMBA_CACHE_DIR=str(cache), PYTHONPATH=str(tmp_path)).split()

    assert answer_with(1) == ["2", "0"]
    assert answer_with(1) == ["2", "1"]  # unchanged: from the cache
    assert answer_with(5) == ["6", "0"]
    assert answer_with(1) == ["2", "0"]
