"""Fixtures of the workflows."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end of the test at the latest, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()
