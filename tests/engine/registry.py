"""Registries on the loopback: a real one, one whose image comes as fast as a test wants, and one that says nothing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker

from tests.components import require
from tests.engine.private import GUARD_SECONDS, until

_LAYER_BYTES = 24 << 20
_CONFIG = """version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_TYPES = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",  # the engine looks what it really is
}


class SlowRegistry:
    """One image, with a layer that no engine has yet: half of that is sent, and the rest waits for `release`.

    base: the layer below it, such as the test image's. `name`: how the engine finds the image.
    """

    def __init__(self, base: Path | None = None) -> None:
        self._released = threading.Event()
        self._blobs: dict[str, bytes | Path] = {}
        layers = [self._add(layer) for layer in (base, _noise()) if layer is not None]
        self._held = layers[-1]["digest"]
        config = {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
        }
        entry = {**self._add(json.dumps(config).encode()), "mediaType": _TYPES["config"]}
        manifest = {"schemaVersion": 2, "mediaType": _TYPES["manifest"], "config": entry, "layers": layers}
        self._manifest = json.dumps(manifest).encode()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.name = f"127.0.0.1:{self._server.server_port}/lab/model:1.0"

    def release(self) -> None:
        """Send what is held back."""
        self._released.set()

    def _add(self, content: bytes | Path) -> dict[str, Any]:
        whole = content if isinstance(content, bytes) else content.read_bytes()
        digest = f"sha256:{hashlib.sha256(whole).hexdigest()}"
        self._blobs[digest] = content
        return {"mediaType": _TYPES["layer"], "size": len(whole), "digest": digest}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, _, what = self.path.removeprefix("/v2/").removeprefix("lab/model/").partition("/")
                if kind == "manifests":
                    self._answer(registry._manifest, _TYPES["manifest"])
                elif kind == "blobs":
                    content = registry._blobs[what]
                    whole = content if isinstance(content, bytes) else content.read_bytes()
                    self._answer(whole, "application/octet-stream", held=what == registry._held)
                else:
                    self._answer(b"{}", "application/json")

            do_HEAD = do_GET  # noqa: N815 - the server's name for it

            def _answer(self, content: bytes, media: str, *, held: bool = False) -> None:
                self.send_response(200)
                self.send_header("Content-Type", media)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
                self.end_headers()
                if self.command == "HEAD":
                    return
                half = len(content) // 2 if held else len(content)
                try:
                    self.wfile.write(content[:half])
                    if held:
                        registry._released.wait(GUARD_SECONDS)
                        self.wfile.write(content[half:])
                except OSError:  # the pull was called off
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        return Handler

    @contextmanager
    def serving(self) -> Iterator[SlowRegistry]:
        """Answer until the end."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self.release()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@contextmanager
def refusing_registry(status: int, words: str) -> Iterator[str]:
    """One that refuses everything that is asked but whether it is there; the name of an image in it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/v2/" else status)
            body = json.dumps({"errors": [{"code": words.partition(":")[0], "message": words.partition(": ")[2]}]})
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_HEAD = do_GET  # noqa: N815 - the server's name for it

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/lab/model:1.0"
        finally:
            server.shutdown()
            thread.join()


def _noise() -> bytes:
    """A layer with a file that nobody has."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        weights = tarfile.TarInfo("srv/weights")
        weights.size = _LAYER_BYTES
        archive.addfile(weights, io.BytesIO(secrets.token_bytes(_LAYER_BYTES)))
    return layer.getvalue()


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
