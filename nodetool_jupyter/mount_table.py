"""What is mounted where, from the kernel's own table (`/proc/self/mountinfo`, proc(5)); empty where there is none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MOUNTINFO = Path("/proc/self/mountinfo")


class Lying(NamedTuple):
    """A place on a file system: the same for each name that mounts give it.

    device: as in "8:1". path: from the file system's own root. kind: as in "ext4".
    """

    device: str
    path: str
    kind: str

    def overlaps(self, other: Lying) -> bool:
        """Whether one is the other, or lies in it."""
        return self.device == other.device and os.path.commonpath((self.path, other.path)) in (self.path, other.path)


def mounts() -> dict[str, Lying]:
    """Every mount point, with what of a file system it shows; a later mount covers an earlier one."""
    try:
        lines = os.fsdecode(MOUNTINFO.read_bytes()).split(
            "\n"
        )  # of all that ends a line, the kernel escapes this alone
    except OSError:
        return {}
    found = {}
    for line in filter(None, lines):
        fields, _, rest = line.partition(" - ")
        _, _, device, root, point, *_ = fields.split(" ")
        found[_unescaped(point)] = Lying(device, _unescaped(root), rest.split(" ")[0])
    return found


def lies(path: str, table: dict[str, Lying]) -> Lying | None:
    """Where a real, absolute path lies; `None` if unknown. table: what `mounts` told."""
    point = path
    while point not in table:
        if point == os.path.dirname(point):
            return None
        point = os.path.dirname(point)
    below = os.path.join(table[point].path, os.path.relpath(path, point))
    return table[point]._replace(path=os.path.normpath(below))


def file_system(folder: Path) -> str:
    """The type of the file system that holds a folder; "" if unknown."""
    found = lies(str(folder), mounts())
    return found.kind if found else ""


def mounts_below(folder: Path) -> list[Path]:
    """Mount points at or in a folder, whose contents belong to somebody else."""
    return [point for point in map(Path, mounts()) if point.is_relative_to(folder)]


def _unescaped(text: str) -> str:
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
