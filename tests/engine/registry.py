"""A registry on loopback with one image, whose last layer comes as fast as a test wants it to."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.engine import images

_GUARD_SECONDS = 60.0
_LAYER_BYTES = 24 << 20
_TYPES = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "layer": "application/vnd.docker.image.rootfs.diff.tar.gzip",  # the engine looks what it really is
}


class Registry:
    """The test image under a name of its own, with a layer that no engine has yet.

    Half of that layer is sent; the rest waits for `release`. `name`: how the engine finds the image.
    """

    def __init__(self) -> None:
        self._released = threading.Event()
        base = images.tarball()
        self._blobs: dict[str, bytes | Path] = {}
        layers = [self._add(base), self._add(_noise())]
        self._held = layers[1]["digest"]
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
                        registry._released.wait(_GUARD_SECONDS)
                        self.wfile.write(content[half:])
                except OSError:  # the pull was called off
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                return

        return Handler

    @contextmanager
    def serving(self) -> Iterator[Registry]:
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


def _noise() -> bytes:
    """A layer with a file that nobody has."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        weights = tarfile.TarInfo("srv/weights")
        weights.size = _LAYER_BYTES
        archive.addfile(weights, io.BytesIO(secrets.token_bytes(_LAYER_BYTES)))
    return layer.getvalue()
