"""Shared fixtures: where the real test data lies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before torch is loaded: threads that spin while they wait slow each other down on shared cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def caplog(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Pytest's own, which also sees the project's log; that log goes nowhere else by itself."""
    logger = logging.getLogger("harness")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real benchmark data; the test is skipped where it is absent."""
    named = os.environ.get("RLRF_DATA")
    folder = Path(named) if named else Path(__file__).parents[1] / ".." / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real test data is not at {folder} (name its folder in RLRF_DATA)")
    return folder.resolve()
