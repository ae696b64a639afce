"""Where the volumes really lie that an image declares: one at a path that is a link in the image lies where it ends."""

from __future__ import annotations

import base64
import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...errors import InvalidRequest
from .engine import LONG_SECONDS, Engine, EngineRefused
from .images import is_the_systems
from .spec import SHARED
from .unstarted import unstarted

if TYPE_CHECKING:
    from docker import APIClient

_STAT = "X-Docker-Container-Path-Stat"


class Links:
    """What is known of images' volumes, which never changes; from any thread."""

    def __init__(self, engine: Engine, labels: Mapping[str, str]) -> None:
        self._engine = engine
        self._labels = labels
        self._known: dict[str, dict[str, str]] = {}

    def check(self, name: str, image_id: str, volumes: Sequence[str]) -> None:
        """Refuse a volume that a link puts over shared memory, or where a container has what is the system's own.

        The first time that an image with volumes is asked about this blocks for some tenths of a second. Raises
        `EngineUnavailable`, `InvalidRequest`.
        """
        if not volumes or not image_id:
            return
        if image_id not in self._known:
            try:
                with unstarted(self._engine, image_id, self._labels, "links") as made:
                    self._known[image_id] = {path: self._real(made, path) for path in volumes}
            except EngineRefused as error:
                raise InvalidRequest(
                    f"Image {name!r} declares volumes, and the engine does not tell where they lie "
                    f"({str(error).strip().rstrip('.')}). Take another --image. Nothing was started."
                ).about("--image") from None
        for path, real in self._known[image_id].items():
            if real != path and (real == SHARED or is_the_systems(real)):
                raise InvalidRequest(
                    f"Image {name!r} declares the volume {path!r}, which a link in it puts over {real}. Build it "
                    "without that, or take another --image. Nothing was started."
                ).about("--image")

    def _real(self, container: str, path: str) -> str:
        """The path without links, each resolved within the container."""
        here = "/"
        for part in path.strip("/").split("/"):
            here = self._end_of(container, posixpath.join(here, part))
        return posixpath.normpath(here)

    def _end_of(self, container: str, path: str) -> str:
        try:
            return self._engine.ask(lambda client: _end_of(client, container, path), seconds=LONG_SECONDS)
        except EngineRefused as error:
            if error.status != 404:
                raise
            return path


def _end_of(client: APIClient, container: str, path: str) -> str:
    """Where a link ends, the last of several; the path itself where it is none."""
    url = client._url("/containers/{0}/archive", container)
    answer = client.head(url, params={"path": path}, timeout=client.timeout)
    client._raise_for_status(answer)
    return str(json.loads(base64.b64decode(answer.headers[_STAT]))["linkTarget"] or path)
