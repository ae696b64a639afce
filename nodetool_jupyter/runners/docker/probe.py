"""What the Python of an image is like: asked in a container that can do nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from .engine import LONG_SECONDS, Engine, EngineRefused, EngineUnavailable

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
PATIENCE_SECONDS = 30.0
_OLDEST_GLIBC = 5
LOG = {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "1"}}


_Word = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.]*\Z", max_length=32)]
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
    markers: dict[str, str] = {}

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


def probe(engine: Engine, image_id: str, labels: Mapping[str, str]) -> Python:
    """Ask the image's Python what it is. Blocks for some tenths of a second. Raises `EngineUnavailable`."""
    try:
        said = output_of(engine, image_id, ["python3", "-I", "-S", "-c", _PROGRAM], labels)
        return msgspec.convert(json.loads(said), Python)
    except (EngineRefused, ValueError):  # no python3, or one that fails at once
        return Python()


def _await_end(client: Any, container: str) -> None:
    """As the SDK's, which without a timeout of its own waits for ever: an image's python3 may never end."""
    import requests

    try:
        client.wait(container, timeout=PATIENCE_SECONDS)
    except requests.exceptions.RequestException as error:
        if "timed out" not in str(error):
            raise
        raise EngineRefused(0, f"its python3 did not end within {PATIENCE_SECONDS:g} s") from None


def output_of(engine: Engine, image_id: str, command: list[str], labels: Mapping[str, str]) -> str:
    """What a command writes in a container of the image: as nobody, without network, with nothing to write to.

    Blocks. Raises `EngineUnavailable`, `EngineRefused`.
    """
    config: dict[str, Any] = {
        "Image": image_id,
        "Entrypoint": [],
        "Cmd": command,
        "User": "65534:65534",
        "WorkingDir": "/",
        "Healthcheck": {"Test": ["NONE"]},
        "Labels": {**labels, "nodetool.slot": "probe"},
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges=true"],
            "ReadonlyRootfs": True,
            "Memory": 256 << 20,
            "PidsLimit": 64,
            "LogConfig": LOG,
        },
    }
    created = engine.ask(lambda client: client.create_container_from_config(config), seconds=LONG_SECONDS)["Id"]
    try:
        engine.ask(lambda client: client.start(created), seconds=LONG_SECONDS)
        engine.ask(lambda client: _await_end(client, created), seconds=LONG_SECONDS)
        said: bytes = engine.ask(lambda client: client.logs(created, stderr=False))
        return said.decode("utf-8", "replace").strip()
    finally:
        with suppress(EngineRefused, EngineUnavailable):
            engine.ask(lambda client: client.remove_container(created, v=True, force=True), seconds=LONG_SECONDS)
