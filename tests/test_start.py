"""The first call in a process: one line on stderr for people who wait, and nothing for those who do not."""

from __future__ import annotations

import gc
import threading

import pytest

from numbaconv import compile_notice

# A kernel whose compilation takes as long as it is told to.
SLOW = """
import time
from numbaconv import compile_notice, jit

@jit.kernel
def double(x):
    return 2 * x

@jit.kernel
def calls(x):
    return double(x) + 1

def slow(dispatcher, seconds):
    compile_function = dispatcher._compiler.compile.__wrapped__
    def wait(*args):
        time.sleep(seconds)
        return compile_function(*args)
    dispatcher._compiler.compile = compile_notice.announced(wait)

compile_notice.PATIENCE_SECONDS = 0.6
slow(double, {seconds})
"""


def lines(forked, seconds, code, tmp_path, **environment):
    (done,) = forked(SLOW.format(seconds=seconds) + code, NUMBA_CACHE_DIR=str(tmp_path), **environment)
    assert done.code == 0, done.err
    return done.err.splitlines()


def test_a_long_compilation_is_told_in_one_line_while_it_lasts(forked, tmp_path):
    told = lines(forked, 0.9, "double(1); double(1.5); double(True)", tmp_path)
    assert len(told) == 1
    assert told[0].startswith("numbaconv: compiling kernels for this machine")
    assert "NUMBACONV_QUIET=1" in told[0]


def test_many_short_ones_count_together_and_nested_ones_once(forked, tmp_path):
    assert len(lines(forked, 0.35, "double(1); double(1.5)", tmp_path)) == 1
    assert lines(forked, 0.2, "calls(1)", tmp_path) == []


@pytest.mark.parametrize(("value", "count"), [("1", 0), ("0", 1), ("", 1)])
def test_numbaconv_quiet(value, count, forked, tmp_path):
    assert len(lines(forked, 0.7, "double(1)", tmp_path, NUMBACONV_QUIET=value)) == count


def test_short_ones_say_nothing(forked, tmp_path):
    assert lines(forked, 0.0, "double(1)", tmp_path) == []


def test_a_failed_compilation_stops_the_clock(forked, tmp_path):
    code = """
@jit.kernel
def wrong(x):
    return x.nothing
try:
    wrong(1)
except Exception as error:
    assert "nothing" in str(error)
else:
    raise AssertionError("compiled")
time.sleep(0.8)
assert compile_notice._depth == 0
"""
    assert lines(forked, 0.0, code, tmp_path) == []


def test_no_thread_is_left_behind():
    before = threading.active_count()
    with compile_notice.compiling():
        pass
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(5)
    assert threading.active_count() <= before


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was(enabled):
    """After compiling, compiling inside of it, and an interruption."""
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with compile_notice.compiling(), compile_notice.compiling():
            assert not gc.isenabled()
        assert gc.isenabled() is enabled
        with pytest.raises(KeyboardInterrupt), compile_notice.compiling():
            raise KeyboardInterrupt
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if was else gc.disable)()
