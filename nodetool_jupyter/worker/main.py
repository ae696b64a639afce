"""A worker's life: say ready, take the work, run it, report how it ended, exit."""

from __future__ import annotations

import os
import sys

from . import PROTOCOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .current import Report

_OUT_OF_THE_WAY = 63


def main(fd: int, meanwhile: Callable[[int], None] | None = None) -> None:
    """Run the one job that the parent sends on this channel; never returns. `meanwhile` may use the wait for it."""
    fd = _keep_private(fd)
    _say_ready(fd)
    if meanwhile is not None:
        meanwhile(fd)
    from .channel import Channel

    channel = Channel(fd)
    values: list[tuple[Report, memoryview]] = []
    while (frame := channel.read()) is not None:
        if frame[0]["type"] == "run":
            from .process import run_job

            os._exit(run_job(channel, frame[0], values))
        values.append(frame)
    os._exit(0)


def _keep_private(fd: int) -> int:
    """Move the channel where code that closes or uses low descriptors does not meet it."""
    try:
        moved = os.dup2(fd, _OUT_OF_THE_WAY, inheritable=False)
    except OSError:  # a limit on open files below that
        os.set_inheritable(fd, False)
        return fd
    os.close(fd)
    return moved


def _say_ready(fd: int) -> None:
    """Written by hand: the parent need not wait until this process has imported its JSON."""
    python = ".".join(map(str, sys.version_info[:3]))
    header = f'{{"type":"ready","protocol":{PROTOCOL},"python":"{python}","pid":{os.getpid()}}}'.encode()
    os.write(fd, len(header).to_bytes(4, "big") + bytes(4) + header)
