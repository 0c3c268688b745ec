"""What more than one test file uses: a fixture, and training without XLA."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A program that runs a few steps is not worth LLVM's optimizing: a quarter of the time
# that compiling takes. Set before TensorFlow is imported, which reads it once.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session")
def root() -> Path:
    """The top of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Let XLA compile training only where a test is marked for it, or says so itself.

    It takes most of the time of a short training: 4 processor seconds a model, and
    TensorFlow alone takes one. A test of what compiled training does, such as the same
    weights bit for bit, has the mark ``xla``, so that it sees what readers run; so have
    all that share a model with one, which is compiled once.
    """
    devices: Any = sys.modules.get("urlm_helpers.training.devices")
    if devices is not None:
        devices.XLA = item.get_closest_marker("xla") is not None
    try:
        return (yield)
    finally:
        if devices is not None:
            devices.XLA = True
