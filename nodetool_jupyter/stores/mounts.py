"""What is mounted where, from the kernel's own table (`/proc/self/mountinfo`, proc(5))."""

from __future__ import annotations

from pathlib import Path

MOUNTINFO = Path("/proc/self/mountinfo")


def mounts() -> list[tuple[Path, str]]:
    """Every mount point with its type of file system, in order; empty where the kernel has no such table."""
    try:
        lines = MOUNTINFO.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields, _, rest = line.partition(" - ")
        found.append((Path(_unescaped(fields.split(" ")[4])), rest.split(" ")[0]))
    return found


def file_system(folder: Path) -> str:
    """The type of the file system that holds a folder; "" if unknown."""
    best, kind = -1, ""
    for point, found in mounts():
        if folder.is_relative_to(point) and len(point.parts) >= best:  # a later mount on a point covers the others
            best, kind = len(point.parts), found
    return kind


def mounts_below(folder: Path) -> list[Path]:
    """Mount points at or in a folder, whose contents belong to somebody else."""
    return [point for point, _ in mounts() if point.is_relative_to(folder)]


def _unescaped(text: str) -> str:
    for code in ("040", "011", "012", "134"):
        text = text.replace(f"\\{code}", chr(int(code, 8)))
    return text
