"""GPUs: which there are, and who has which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ...containers import gpu_ids
from ...errors import InvalidRequest, Refused
from ..base import WorkerNotStarted
from .engine import CallOff
from .leases import ASK_AGAIN_SECONDS, take

_DRIVER = Path("/proc/driver/nvidia/gpus")
_UUID = re.compile(r"^GPU UUID:\s*(GPU-\S+)", re.MULTILINE)


class NoGpu(Refused):
    """The engine's machine has no GPU that a container could use."""

    code = "NT-D05"

    def __init__(self) -> None:
        super().__init__(
            "--gpus can't be held: this machine has no NVIDIA driver and the engine no GPU runtime. Install the driver "
            "and nvidia-container-toolkit, run `nvidia-ctk runtime configure --runtime=docker` and restart Docker; or "
            "leave --gpus out. Nothing was started. [NT-D05]"
        )


def present() -> dict[str, str]:
    """This machine's GPUs by number, each with its UUID, as the driver tells them."""
    found = {}
    with suppress(OSError):
        for number, place in enumerate(sorted(_DRIVER.iterdir())):
            uuid = _UUID.search((place / "information").read_text())
            found[str(number)] = uuid[1] if uuid else ""
    return found


def check_gpus(gpus: str, there: Mapping[str, str]) -> None:
    """Refuse more GPUs, or others, than there are. Where nobody knows which there are, the engine is asked."""
    unknown = [one for one in gpu_ids(gpus) if one.isdigit() and one not in there]
    if there and (unknown or (gpus.isdigit() and int(gpus) > len(there))):
        raise InvalidRequest(
            f"--gpus {gpus} asks for other GPUs than the {len(there)} of this machine: {', '.join(there)}. "
            "Ask for those. Nothing was started."
        )


@contextmanager
def lease(gpus: str, *, shared: bool, stop: CallOff, there: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Hold devices as long as the block runs; waits in line while others hold them. Blocks.

    there: the GPUs of the engine's machine by number, empty where that can't be known. Yields no device where the
    engine is to choose. Raises `WorkerNotStarted` when `stop` is set while it waits.
    """
    named = gpu_ids(gpus) or (tuple(there) if gpus == "all" else ())
    if shared:
        yield named
        return
    if not named and not there:
        raise WorkerNotStarted(
            f"--gpus {gpus}: which GPUs the engine has can't be seen from here, so none can be kept for this job. "
            "Name them, as in --gpus '\"device=0\"', or add --gpus-shared."
        )
    held: dict[str, int] = {}
    try:
        while not _try(held, named or tuple(there), len(named) or int(gpus), there):
            _give_back(held)
            if stop.wait(ASK_AGAIN_SECONDS):
                raise WorkerNotStarted("The wait for a GPU was called off.")
        yield tuple(held)
    finally:
        _give_back(held)


def _try(held: dict[str, int], candidates: tuple[str, ...], count: int, there: Mapping[str, str]) -> bool:
    """Take `count` of the candidates at once, or not enough. A device is one, by its number or its UUID."""
    numbers = {uuid: number for number, uuid in there.items() if uuid}
    for device in candidates:
        if len(held) == count:
            break
        descriptor = take(f"gpu-{numbers.get(device, device)}")
        if descriptor is not None:
            held[device] = descriptor
    return len(held) == count


def _give_back(held: dict[str, int]) -> None:
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
