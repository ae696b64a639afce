"""GPUs: which there are, and who has which. A lease is a lock on a file, so that a dead kernel holds none."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ... import places
from ...containers import gpu_ids
from ...errors import Refused
from ..base import WorkerNotStarted
from .engine import CallOff

_DRIVER = Path("/proc/driver/nvidia/gpus")
_ASK_AGAIN_SECONDS = 0.5


class NoGpu(Refused):
    """The engine's machine has no GPU that a container could use."""

    code = "NT-D05"

    def __init__(self) -> None:
        super().__init__(
            "--gpus can't be held: this machine has no NVIDIA driver and the engine no GPU runtime. Install the driver "
            "and nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker` and restart Docker; or "
            "leave --gpus out. Nothing was started. [NT-D05]"
        )


def present() -> tuple[str, ...]:
    """The numbers of this machine's GPUs, as the driver tells them."""
    try:
        return tuple(str(number) for number, _ in enumerate(sorted(os.listdir(_DRIVER))))
    except OSError:
        return ()


@contextmanager
def lease(gpus: str, *, shared: bool, stop: CallOff, there: tuple[str, ...] | None = None) -> Iterator[tuple[str, ...]]:
    """Hold devices as long as the block runs; waits in line while others hold them. Blocks.

    Raises `WorkerNotStarted` when more are asked for than there are, or `stop` is set while it waits.
    """
    known = present() if there is None else there
    named = gpu_ids(gpus) or (known if gpus == "all" else ())
    count = len(named) or int(gpus)
    if not named and count > len(known):
        raise WorkerNotStarted(
            f"--gpus {count} asks for more GPUs than the {len(known)} that this machine has. Ask for fewer."
        )
    if shared:
        yield named or known[:count]
        return
    held: dict[str, int] = {}
    try:
        while not _try(held, named or known, count):
            _give_back(held)
            if stop.wait(_ASK_AGAIN_SECONDS):
                raise WorkerNotStarted("The wait for a GPU was called off.")
        yield tuple(held)
    finally:
        _give_back(held)


def _try(held: dict[str, int], candidates: tuple[str, ...], count: int) -> bool:
    """Take `count` of the candidates at once, or not enough."""
    for device in candidates:
        if len(held) == count:
            break
        descriptor = os.open(
            places.lease_file(f"gpu-{device}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            continue
        held[device] = descriptor
    return len(held) == count


def _give_back(held: dict[str, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
