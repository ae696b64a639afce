"""Removing a job's folder, whatever the job left in it."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator


def remove(path: str) -> list[str]:
    """Delete a folder and everything in it; what could not be deleted, each with the reason.

    Call it when nobody writes there any more. Never follows a link and never recurses: a folder
    found inside another is moved up to the top first, so depth costs neither stack nor descriptors.
    """
    left: list[str] = []
    try:
        top = _open_folder(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    try:
        stuck: set[str] = set()
        serial = itertools.count()
        while names := [name for name in os.listdir(top) if name not in stuck]:
            for name in names:
                try:
                    _remove_entry(top, name, serial)
                except OSError as error:
                    stuck.add(name)
                    left.append(f"{path}/{name}: {error.strerror}")
    finally:
        os.close(top)
    if not left:
        os.rmdir(path)
    return left


def _remove_entry(top: int, name: str, serial: Iterator[int]) -> None:
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    folder = _open_folder(name, top)
    try:
        for inner in os.listdir(folder):
            if _is_folder(inner, folder):
                _move_up(folder, inner, top, serial)
            else:
                os.unlink(inner, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _move_up(folder: int, name: str, top: int, serial: Iterator[int]) -> None:
    os.close(_open_folder(name, folder))
    for number in serial:
        try:
            os.stat(str(number), dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, str(number), src_dir_fd=folder, dst_dir_fd=top)
            return


def _open_folder(name: str, parent: int | None = None) -> int:
    """Open a folder for listing, after giving its owner every right to it."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
