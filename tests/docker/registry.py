"""A registry of the tests' own on the loopback, and one that takes connections and sends nothing."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker

from tests.components import require
from tests.engine.private import GUARD_SECONDS, until

_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Its address, as the names of its images begin."""
    require("A registry", shutil.which("docker-registry"), "apt-get install docker-registry")
    port = free_port()
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder / "registry", port=port))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        until(lambda: process.poll() is not None or _answers(port), "the registry answers")
        assert process.poll() is None, (folder / "registry.log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(GUARD_SECONDS)


@contextmanager
def silent_registry() -> Iterator[str]:
    """The address of a registry that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def push(client: docker.DockerClient, image: str, name: str) -> str:
    """Put an image into the registry under a name, and leave the engine without that name; the digest."""
    client.api.tag(image, *name.rsplit(":", 1))
    digest = ""
    try:
        for line in client.api.push(*name.rsplit(":", 1), stream=True, decode=True):
            assert "error" not in line, line
            digest = line.get("aux", {}).get("Digest", digest)
    finally:
        client.api.remove_image(name)
    return digest


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=1):
            return True
    except (urllib.error.URLError, OSError):
        return False
