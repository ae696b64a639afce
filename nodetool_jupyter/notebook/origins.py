"""Where a refused option of a container came from, when it is not the cell's line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..config import Settings
from ..errors import Refused
from ..jobs import JobRequest


@contextmanager
def origins_named(request: JobRequest, settings: Settings) -> Iterator[None]:
    """A refusal of what a setting says about the request, and not its line, begins with where that is set."""
    try:
        yield
    except Refused as error:
        error.args = (with_origin(str(error), error.options, request, settings), *error.args[1:])
        raise


def with_origin(message: str, options: Sequence[str], request: JobRequest, settings: Settings) -> str:
    """What was said about a request, after where one of the options that it is about is set, if one is."""
    origin = _origin(options, request, settings) if request.runner == "docker" else ""
    return f"{origin}: {message}" if origin else message


def _origin(options: Sequence[str], request: JobRequest, settings: Settings) -> str:
    container, limits = request.container, request.limits
    asked = {
        "--image": ("docker_image", container.image),
        "--pull": ("docker_pull", container.pull),
        "--user": ("docker_user", container.user),
        "--gpus": ("docker_gpus", container.gpus),
        "--network": ("docker_network", container.network),
        "--memory": ("docker_memory", limits.memory_bytes),
        "--cpus": ("docker_cpus", limits.cpus),
        "--pids-limit": ("docker_pids", limits.pids),
        "--shm-size": ("docker_shm_size", limits.shm_bytes),
    }
    for name, value in (asked[option] for option in options if option in asked):
        if name in settings.unread or settings.origin(name) == "default":
            continue
        if value == settings[name]:
            return _in_words(name, settings.origin(name))
    return ""


def _in_words(name: str, origin: str) -> str:
    if origin.startswith("environment "):
        return f"Environment variable {origin.removeprefix('environment ')}"
    return f"%nodetool config {name}" if origin == "config" else f"c.NodetoolMagics.{name}"
