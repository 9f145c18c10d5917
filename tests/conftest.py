"""Settings that hold for every test."""

from __future__ import annotations

import os

# Before torch is imported, here or in a process that a test starts: tests run side by side, and threads of several
# processes that wait for each other on the same cores make tiny models ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import platformdirs

# The C kernel is compiled once: a test that gives a command another home would else have it compiled there, which takes
# 12 seconds and more.
os.environ.setdefault("XDG_CACHE_HOME", str(platformdirs.user_cache_path()))

from unittest import mock

import pytest
import torch
from hypothesis import settings

from llmcli.kernels.cpu import step

# Before Triton is imported anywhere: without a GPU its kernels are interpreted.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# For the same reason as above one thread for the C kernel, in this process, where a test does not give a number: a
# thread of it that waits for another spins. Processes that tests start have the program's own default.
mock.patch.object(step, "default_threads", return_value=1).start()

# The same examples in every run: a change is judged by its own merits, not by a new draw.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of what has to be fetched are slow: a real model takes seconds for each, a real vocabulary too."""
    for item in items:
        if item.get_closest_marker("starter") or item.get_closest_marker("npm"):
            item.add_marker(pytest.mark.slow)
