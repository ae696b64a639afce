"""What one job has at a time on this machine. A lease is a lock on a file, so that a dead kernel holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ... import places
from ..base import WorkerNotStarted
from .engine import CallOff

ASK_AGAIN_SECONDS = 0.5


def take(name: str, *, shared: bool = False) -> int | None:
    """The lease as a descriptor, to be closed when it is given back; `None` while somebody else has it.

    shared: others may have it as well, who take it so.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    path = places.lease_file(name)
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)  # whoever had it before has removed it


@contextmanager
def alone(name: str, stop: CallOff) -> Iterator[None]:
    """Wait in line for a lease and hold it as long as the block runs. Raises `WorkerNotStarted` when called off.

    Its file is removed at the end, or by `sweep`: there are as many names as there is work.
    """
    while (held := take(name)) is None:
        if stop.wait(ASK_AGAIN_SECONDS):
            raise WorkerNotStarted("The start was called off.")
    try:
        yield
    finally:
        places.lease_file(name).unlink(missing_ok=True)
        os.close(held)


def sweep(beginning: str) -> None:
    """Remove the files of leases with such names that nobody has: whoever was killed under one left it."""
    for path in places.lease_folder().glob(f"{beginning}*"):
        if (held := take(path.name)) is not None:
            path.unlink(missing_ok=True)
            os.close(held)
