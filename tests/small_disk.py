"""A real file system of 4 MiB, to be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.components import require_right


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where it is mounted."""
    point = tmp_path / "small"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "ntj-small", point]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    require_right("The right to mount", mounted, "run the tests as root")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


def fill(point: Path, *, leave: int = 0) -> None:
    """Take the room of a disk, but for so many bytes, whoever else writes there meanwhile."""
    with (point / "filler").open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
    os.truncate(point / "filler", os.path.getsize(point / "filler") - leave)
