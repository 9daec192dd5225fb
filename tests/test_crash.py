"""A process killed at any moment, or a full disk, leaves the old or the new file, whole; training goes on from it."""

from __future__ import annotations

import os

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

MOMENTS = [5, pytest.param(50, marks=pytest.mark.full)]


@pytest.fixture
def crash(run_python, tmp_path):
    def run(case, *args):
        run_python(f"import sys, crash_cases; crash_cases.{case}(*sys.argv[1:])", tmp_path, *args)

    return run


def test_save_killed_at_each_stage(crash):
    crash("save_killed_at_each_stage")


@pytest.mark.parametrize("moments", MOMENTS)
def test_save_killed_at_random(crash, moments):
    crash("save_killed_at_random", moments)


@pytest.mark.parametrize("moments", MOMENTS)
def test_training_killed_at_random_resumes_to_the_bit(crash, moments):
    crash("training_killed_at_random", moments)


def test_a_full_disk_keeps_the_old_files(crash):
    crash("disk_full")
