"""Where a refused option of a container came from, when it is not the cell's line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import Settings
from ..errors import Refused
from ..jobs import JobRequest

_FLAGS = {
    "--image": "docker_image",
    "--pull": "docker_pull",
    "--user": "docker_user",
    "--gpus": "docker_gpus",
    "--network": "docker_network",
    "--memory": "docker_memory",
    "--cpus": "docker_cpus",
    "--pids-limit": "docker_pids",
    "--shm-size": "docker_shm_size",
}


@contextmanager
def origins_named(request: JobRequest, settings: Settings) -> Iterator[None]:
    """A refusal of what a setting says about the request, and not its line, begins with where that is set."""
    try:
        yield
    except Refused as error:
        error.args = (with_origin(str(error), request, settings), *error.args[1:])
        raise


def with_origin(message: str, request: JobRequest, settings: Settings) -> str:
    """What was said about a request, after where the option that it speaks of is set, if it is."""
    origin = _origin(message, request, settings) if request.runner == "docker" else ""
    return f"{origin}: {message}" if origin else message


def _origin(message: str, request: JobRequest, settings: Settings) -> str:
    options, limits = request.container, request.limits
    asked = {
        "--image": options.image,
        "--pull": options.pull,
        "--user": options.user,
        "--gpus": options.gpus,
        "--network": options.network,
        "--memory": limits.memory_bytes,
        "--cpus": limits.cpus,
        "--pids-limit": limits.pids,
        "--shm-size": limits.shm_bytes,
    }
    sentence = f"{message} ".partition(". ")[0]
    for flag, name in _FLAGS.items():
        # what else is said names options as remedies; that of a missing image is the policy itself
        told = re.search(rf"(?<![\w-]){flag}(?![\w-])", message if flag == "--pull" else sentence)
        if name in settings.unread or settings.origin(name) == "default":
            continue
        if told and asked[flag] == settings[name]:
            return _in_words(name, settings.origin(name))
    return ""


def _in_words(name: str, origin: str) -> str:
    if origin.startswith("environment "):
        return f"Environment variable {origin.removeprefix('environment ')}"
    return f"%nodetool config {name}" if origin == "config" else f"c.NodetoolMagics.{name}"
