"""What the Python of an image is like: asked in a container that can do nothing else."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, wait
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..base import WorkerNotStarted
from .engine import CHECK_SECONDS, LONG_SECONDS, CallOff, Engine, EngineRefused, EngineUnavailable
from .handshake import CALLED_OFF
from .images import volumes_of
from .spec import differences, helper_host

_PROGRAM = """\
import json, os, platform, sys
v = sys.version_info
version = ".".join(map(str, v[:3]))
libc, libc_version = platform.libc_ver()
if not libc and any(name.startswith("ld-musl-") for name in os.listdir("/lib")):
    libc = "musl"
print(json.dumps({
    "version": version, "abi": "cp%d%d%s" % (v[0], v[1], getattr(sys, "abiflags", "")),
    "libc": libc, "libc_version": libc_version, "machine": platform.machine(),
    "markers": {
        "implementation_name": sys.implementation.name, "implementation_version": version, "os_name": os.name,
        "platform_machine": platform.machine(), "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(), "platform_system": platform.system(),
        "platform_version": platform.version(), "python_full_version": platform.python_version(),
        "python_version": "%d.%d" % v[:2], "sys_platform": sys.platform,
    },
}))
"""
PATIENCE_SECONDS = 10.0
SOON_SECONDS, _LOOK_SECONDS, _GLANCE_SECONDS = 4.0, 1.0, 0.5
_OLDEST_GLIBC = 5
_MOST_SHOWN = 60
_LIMITS = {"memory_bytes": 256 << 20, "cpus": 1.0, "pids": 64}
LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.]*\Z", max_length=32)]
_Marker = Annotated[str, Meta(max_length=512)]
_Number = Annotated[str, Meta(pattern=r"^([0-9]{1,2}(\.[0-9]{1,3})+)?\Z")]


class Python(Struct, frozen=True):
    """A Python interpreter: `version` 3.11.2, `abi` cp311; its C library and processor; markers as packages read them.

    Everything is "" in an image that has none. What an image says of itself can be anything else than true.
    """

    version: _Number = ""
    abi: _Word = ""
    libc: _Word = ""
    libc_version: _Number = ""
    machine: _Word = ""
    markers: Annotated[dict[_Marker, _Marker], Meta(max_length=32)] = {}

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of wheels that it takes, the newest first."""
        if self.libc == "musl":
            return f"musllinux_1_2_{self.machine}", f"musllinux_1_1_{self.machine}"
        newest = int((*self.libc_version.split("."), "17")[1])
        found = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, _OLDEST_GLIBC - 1, -1)]
        old = {"manylinux2014": 17, "manylinux2010": 12, "manylinux1": 5}
        return (*found, *(f"{name}_{self.machine}" for name, minor in old.items() if minor <= newest))

    @property
    def name(self) -> str:
        """As a person says it: Python 3.11 on x86_64 (glibc 2.36)."""
        libc = f"{self.libc} {self.libc_version}".strip()
        return f"Python {'.'.join(self.version.split('.')[:2])} on {self.machine} ({libc})"


def probe(engine: Engine, image_id: str, labels: Mapping[str, str], stop: CallOff | None = None) -> Python:
    """Ask the image's Python what it is. Blocks for some tenths of a second, at most for `PATIENCE_SECONDS`.

    Raises `EngineUnavailable`, and `WorkerNotStarted` when called off.
    """
    try:
        said = output_of(engine, image_id, ["python3", "-I", "-S", "-c", _PROGRAM], labels, stop)
        return msgspec.convert(json.loads(said), Python)
    except (EngineRefused, ValueError):  # no python3, or one that fails at once
        return Python()


class Pythons:
    """Asks images for their Python, each once at a time and no caller longer than some seconds. From any thread.

    learn: gets an image's id and the version, also when nobody waits for it any more.
    """

    def __init__(
        self, engine: Engine, labels: Mapping[str, str], executor: Executor, learn: Callable[[str, str], None]
    ) -> None:
        self._engine = engine
        self._labels = labels
        self._executor = executor
        self._learn = learn
        self._lock = threading.Lock()
        self._asked: dict[str, Future[str]] = {}

    def version(self, image_id: str) -> str:
        """The version; "" where there is none, or none that is told soon. Raises `EngineUnavailable`."""
        with self._lock:
            if image_id not in self._asked:
                self._asked[image_id] = self._executor.submit(self._ask, image_id)
            asked = self._asked[image_id]
        until = time.monotonic() + SOON_SECONDS
        while not wait([asked], min(_LOOK_SECONDS, SOON_SECONDS)).done:
            self._engine.ask(lambda client: client.ping(), seconds=CHECK_SECONDS)  # is it the image, or the engine?
            if time.monotonic() >= until:
                return ""
        return asked.result()

    def _ask(self, image_id: str) -> str:
        try:
            version = probe(self._engine, image_id, self._labels).version
            self._learn(image_id, version)
            return version
        finally:
            with self._lock:
                del self._asked[image_id]


def ends(engine: Engine, container: str, *, seconds: float, stop: CallOff) -> bool:
    """Whether a container ends within so many seconds: an image's python3 may never do. Blocks.

    Raises `WorkerNotStarted` when called off, `EngineUnavailable`, `EngineRefused`.
    """
    until = time.monotonic() + seconds
    while not engine.ask(lambda client: _ended(client, container), seconds=LONG_SECONDS):
        if stop.is_set():
            raise WorkerNotStarted(CALLED_OFF)
        if time.monotonic() >= until:
            return False
        engine.ping()  # is it the container, or the engine?
    return True


def _ended(client: Any, container: str) -> bool:
    """Whether it has ended, or does in a moment; without a timeout of its own the SDK's call waits for ever."""
    import requests

    try:
        client.wait(container, timeout=_GLANCE_SECONDS)
    except requests.exceptions.RequestException as error:
        if "timed out" not in str(error):
            raise
        return False
    return True


def check_applied(engine: Engine, container: str, config: Mapping[str, Any]) -> None:
    """Refuse an engine that made another container than it was asked for, before it starts.

    config: the body of the create call. Raises `EngineUnavailable`.
    """
    found = engine.ask(lambda client: client.inspect_container(container))
    for field, wanted, there in differences(config, found):
        raise EngineUnavailable(
            f"the engine at {engine.url} did not apply {field} to a container that serves a job "
            f"(asked was {str(wanted)[:_MOST_SHOWN]}, and it reports {str(there)[:_MOST_SHOWN]})",
            "Use an engine that holds it; the container was removed unstarted. [NT-D03]",
        )


def output_of(
    engine: Engine, image_id: str, command: list[str], labels: Mapping[str, str], stop: CallOff | None = None
) -> str:
    """What a command writes in a container of the image: as nobody, without network, with nothing to write to.

    Blocks. Raises `EngineUnavailable`, `EngineRefused`, and `WorkerNotStarted` when called off.
    """
    volumes = volumes_of(engine.ask(lambda client: client.inspect_image(image_id)))
    config: dict[str, Any] = {
        "Image": image_id,
        "Entrypoint": [],
        "Cmd": command,
        "User": "65534:65534",
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**labels, "nodetool.slot": "probe"},
        "HostConfig": {
            **helper_host(engine.facts(), _LIMITS),
            "ReadonlyRootfs": True,
            "Tmpfs": dict.fromkeys(volumes, "ro,nosuid,nodev,noexec,size=4k"),
            "LogConfig": LOG,
        },
    }
    created = engine.create(config)["Id"]
    try:
        check_applied(engine, created, config)
        engine.ask(lambda client: client.start(created), seconds=LONG_SECONDS)
        if not ends(engine, created, seconds=PATIENCE_SECONDS, stop=stop or CallOff()):
            raise EngineRefused(0, f"its python3 did not end within {PATIENCE_SECONDS:g} s")
        said: bytes = engine.ask(lambda client: client.logs(created, stderr=False))
        return said.decode("utf-8", "replace").strip()
    finally:
        with suppress(EngineRefused, EngineUnavailable):
            engine.ask(lambda client: client.remove_container(created, v=True, force=True), seconds=LONG_SECONDS)
