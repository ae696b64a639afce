"""Fixtures that run cells in real children."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.worker.driving import Child, Ran


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Child]]:
    """Start a child; all are gone at the end of the test."""
    with ExitStack() as stack:

        def start_child(**options: Any) -> Child:
            folder = tmp_path / f"child-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            return stack.enter_context(Child(folder, **options))

        yield start_child


@pytest.fixture
def run(start: Callable[..., Child]) -> Callable[..., Ran]:
    """Run a cell to its end: `run(code, x=1, outputs=["y"])`; other keywords are inputs."""

    def run_cell(
        code: str, *, outputs: tuple[str, ...] = (), frame: dict[str, Any] | None = None, **inputs: Any
    ) -> Ran:
        child = start()
        for name, value in inputs.items():
            child.give(name, value)
        child.run(code, outputs=outputs, **(frame or {}))
        return Ran(child.rest(), child)

    return run_cell
