"""GPUs: which there are, and who has which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from ...containers import ContainerOptions, gpu_ids
from ...errors import InvalidRequest, Refused
from ..base import WorkerNotStarted
from .devices import WHOLE_UUID, Locks, locks, unknown
from .engine import CallOff
from .leases import ASK_AGAIN_SECONDS, take

_DRIVER = Path("/proc/driver/nvidia/gpus")
_UUID = re.compile(r"^GPU UUID:\s*(GPU-\S+)", re.MULTILINE)


class NoGpu(Refused):
    """The engine's machine has no GPU that a container could use."""

    code = "NT-D05"
    options = ("--gpus",)

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
    named = gpu_ids(gpus)
    if there and (unknown(named, there) or (gpus.isdigit() and int(gpus) > len(there))):
        listed = ", ".join(f"{number} ({uuid})" if uuid else number for number, uuid in there.items())
        raise InvalidRequest(
            f"--gpus {gpus} asks for other GPUs than the {len(there)} of this machine: {listed}. "
            "Ask for those. Nothing was started."
        ).about("--gpus")
    short = [name for name in named if not (name[0].isdigit() or WHOLE_UUID.search(name))]
    if short and not there:
        raise InvalidRequest(
            f"--gpus {gpus}: {short[0]!r} has no whole UUID in it, and which GPUs there are can't be seen from here. "
            "Write the whole one, or a number. Nothing was started."
        ).about("--gpus")


class Gpus:
    """Who has which devices of an engine. local: whether it is this machine's, whose GPUs can be seen from here."""

    def __init__(self, *, local: bool) -> None:
        self._local = local
        self._reserved: dict[str, Held] = {}

    def there(self) -> Mapping[str, str]:
        """The GPUs of the engine's machine, as far as they can be seen from here."""
        return present() if self._local else {}

    def check(self, asked: str, facts: Mapping[str, Any]) -> None:
        """Refuse what can't be had. facts: what the engine says of itself."""
        there = self.there()
        if not there and "nvidia" not in facts.get("Runtimes", {}) and self._local:
            raise NoGpu
        check_gpus(asked, there)

    def reserve(self, job_id: str, options: ContainerOptions) -> bool:
        """Have devices kept for a job that waits in the queue; false while others hold them. Doesn't block."""
        there = self.there()
        named = _named(options.gpus, there)
        if not options.gpus or options.gpus_shared or not (named or there):
            return True  # nothing is to be kept, or can be: `lease` says so
        held = Held()
        if held.take(named, len(named) or int(options.gpus), there):
            self._reserved[job_id] = held
            return True
        return False

    def unreserve(self, job_id: str) -> None:
        """Give back what was kept for a job that never came to `lease`."""
        if held := self._reserved.pop(job_id, None):
            held.close()

    @contextmanager
    def lease(self, job_id: str, options: ContainerOptions, stop: CallOff) -> Iterator[tuple[str, ...]]:
        """The devices of a job, as long as the block runs: those that were kept for it, or see the function."""
        if held := self._reserved.pop(job_id, None):
            with held:
                yield held.devices
        else:
            with lease(options.gpus, shared=options.gpus_shared, stop=stop, there=self.there()) as devices:
                yield devices


class Held:
    """Devices that nobody else is given until `close`."""

    def __init__(self) -> None:
        self._devices: list[str] = []
        self._descriptors: list[int] = []

    @property
    def devices(self) -> tuple[str, ...]:
        """As they were asked for."""
        return tuple(self._devices)

    def take(self, named: tuple[str, ...], count: int, there: Mapping[str, str]) -> bool:
        """Take the named devices at once, or `count` of those there, or none. A device is one by whatever name."""
        for devices in [named] if named else [(number,) for number in there]:
            if len(self._devices) < count and self._take(locks(devices, there)):
                self._devices += devices
        if len(self._devices) < count:
            self.close()
            return False
        return True

    def _take(self, wanted: Locks) -> bool:
        found: list[int] = []
        for name in sorted(wanted.exclusive | wanted.shared | wanted.free):
            descriptor = take(name, shared=name in wanted.shared)
            if descriptor is None:
                for one in found:
                    os.close(one)
                return False
            if name in wanted.free:
                os.close(descriptor)
            else:
                found.append(descriptor)
        self._descriptors += found
        return True

    def close(self) -> None:
        """Give them back."""
        self._devices.clear()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _named(gpus: str, there: Mapping[str, str]) -> tuple[str, ...]:
    return gpu_ids(gpus) or (tuple(there) if gpus == "all" else ())


@contextmanager
def lease(gpus: str, *, shared: bool, stop: CallOff, there: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Hold devices as long as the block runs; waits in line while others hold them. Blocks.

    there: the GPUs of the engine's machine by number, empty where that can't be known. Yields no device where the
    engine is to choose. Raises `WorkerNotStarted` when `stop` is set while it waits.
    """
    named = _named(gpus, there)
    if shared:
        yield named
        return
    if not named and not there:
        raise WorkerNotStarted(
            f"--gpus {gpus}: which GPUs the engine has can't be seen from here, so none can be kept for this job. "
            "Name them, as in --gpus '\"device=0\"', or add --gpus-shared.",
            options=("--gpus",),
        )
    with Held() as held:
        while not held.take(named, len(named) or int(gpus), there):
            if stop.wait(ASK_AGAIN_SECONDS):
                raise WorkerNotStarted("The wait for a GPU was called off.")
        yield held.devices
