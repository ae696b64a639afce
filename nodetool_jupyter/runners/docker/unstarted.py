"""Looking at an image's files through a container that is never started: the engine does it, nothing of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .engine import Engine


@contextmanager
def unstarted(engine: Engine, image_id: str, labels: Mapping[str, str], what_for: str) -> Iterator[str]:
    """A container's id; it is removed when the block is left. Raises `EngineRefused`, `EngineUnavailable`."""
    config: dict[str, Any] = {
        "Image": image_id,
        "Entrypoint": [],
        "Cmd": ["never started"],
        "Labels": {**labels, "nodetool.slot": what_for},
        "HostConfig": {"NetworkMode": "none"},
    }
    made = engine.create(config)["Id"]
    try:
        yield made
    finally:
        engine.remove(made)
