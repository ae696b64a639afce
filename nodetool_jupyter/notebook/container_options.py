"""The options of `docker run` on the line of a cell: declared once, and made into `ContainerOptions`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from ..config import Settings
from ..containers import (
    ContainerOptions,
    parse_bind,
    parse_gpus,
    parse_image,
    parse_network,
    parse_pull,
    parse_tmpfs,
    parse_user,
    parse_workdir,
)
from ..errors import InvalidRequest
from ..jobs import Profile, ResourceLimits

OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("--image",), {"metavar": "REF", "help": "image of the container, with its tag (docker)"}),
    (("--pull",), {"metavar": "WHEN", "help": "when the image is fetched: missing, always or never (docker)"}),
    (("--shm-size",), {"metavar": "SIZE", "help": "size of /dev/shm: 1g (docker)"}),
    (("--gpus",), {"metavar": "GPUS", "help": "all, a number, none, or '\"device=0,2\"' (docker)"}),
    (("--gpus-shared",), {"action": "store_true", "help": "on GPUs that other jobs use as well (docker)"}),
    (("--user",), {"metavar": "UID[:GID]", "help": "who it runs as; never root unless asked (docker)"}),
    (("--network",), {"metavar": "NET", "help": "none (the default), bridge, or a network's name (docker)"}),
    (("-v", "--volume"), {"metavar": "SRC:DST[:ro]", "action": "append", "dest": "volumes",
                          "help": "show a folder of this machine in the container (docker)"}),
    (("--tmpfs",), {"metavar": "DST:size=N", "action": "append", "help": "a folder in memory (docker)"}),
    (("--read-only",), {"action": "store_true", "help": "nothing but /job, /tmp and --tmpfs can be written (docker)"}),
    (("-w", "--workdir"), {"metavar": "DIR", "help": "where it runs in the container: /job (docker)"}),
    (("--collect",), {"metavar": "GLOB", "action": "append", "help": "files to bring back, as save() does (docker)"}),
    (("--requirements",), {"metavar": "FILE|NAMES", "help": "an image with these packages, built once (docker)"}),
)  # fmt: skip

VALUES: dict[str, tuple[str, ...]] = {
    "--pull": ("missing", "always", "never"),
    "--network": ("none", "bridge"),
    "--gpus": ("all", "none", "1"),
    "--shm-size": ("64m", "1g"),
}
_FIELDS = tuple(
    flags[-1].lstrip("-").replace("-", "_") if settings.get("dest") is None else settings["dest"]
    for flags, settings in OPTIONS
)


def given_options(given: Namespace) -> list[str]:
    """The flags on the line that only containers have."""
    return [
        flags[-1]
        for (flags, _), name in zip(OPTIONS, _FIELDS, strict=True)
        if getattr(given, name) not in (None, False)
    ]


def container_options(given: Namespace, settings: Settings, profile: Profile) -> ContainerOptions:
    """What the line says, then what is set. Raises `InvalidRequest`."""
    pull = "never" if profile is Profile.UNTRUSTED else settings["docker_pull"]
    changed = container_changes(given)
    return msgspec.structs.replace(
        ContainerOptions(
            image=settings["docker_image"],
            pull=pull,
            user=settings["docker_user"],
            gpus="" if profile is Profile.UNTRUSTED else settings["docker_gpus"],
            network="none" if profile is Profile.UNTRUSTED else settings["docker_network"],
        ),
        **changed,
    )


def container_changes(given: Namespace) -> dict[str, Any]:
    """Only what the line says: fields of `ContainerOptions`. Raises `InvalidRequest`."""
    readers: dict[str, tuple[str, Callable[[], Any]]] = {
        "image": ("image", lambda: parse_image(given.image, "--image")),
        "pull": ("pull", lambda: parse_pull(given.pull, "--pull")),
        "gpus": ("gpus", lambda: parse_gpus(given.gpus, "--gpus")),
        "gpus_shared": ("gpus_shared", lambda: True),
        "user": ("user", lambda: parse_user(given.user, "--user")),
        "network": ("network", lambda: parse_network(given.network, "--network")),
        "volumes": ("binds", lambda: tuple(parse_bind(text, "-v") for text in given.volumes)),
        "tmpfs": ("tmpfs", lambda: dict(parse_tmpfs(text, "--tmpfs") for text in given.tmpfs)),
        "read_only": ("read_only", lambda: True),
        "workdir": ("workdir", lambda: parse_workdir(given.workdir, "--workdir")),
        "collect": ("collect", lambda: tuple(given.collect)),
        "requirements": ("requirements", lambda: _requirements(given.requirements)),
    }
    found = {field: read() for name, (field, read) in readers.items() if getattr(given, name) not in (None, False)}
    if "image" in found:
        found["pinned"] = ""
    return found


def docker_limits(limits: ResourceLimits, settings: Settings) -> ResourceLimits:
    """The limits on the line, then those that are set for containers."""
    names = {
        "memory_bytes": "docker_memory",
        "cpus": "docker_cpus",
        "pids": "docker_pids",
        "shm_bytes": "docker_shm_size",
    }
    unset = {field: settings[name] for field, name in names.items() if getattr(limits, field) is None}
    return msgspec.structs.replace(limits, **{field: value for field, value in unset.items() if value is not None})


def _requirements(text: str) -> tuple[str, ...]:
    """Lines of a file if there is one of that name, else names with spaces between."""
    path = Path(text).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split()
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(f"--requirements {text!r} can't be read as text. Nothing was started.") from None
    if path.suffix == ".txt" and not path.is_file():
        raise InvalidRequest(f'--requirements: there is no file {text!r}. Give a file, or names: "numpy pandas".')
    found = tuple(line.strip() for line in lines if line.strip() and not line.strip().startswith("#"))
    unfit = [line for line in found if line.startswith("-")]
    if unfit:
        raise InvalidRequest(
            f"--requirements: {unfit[0]!r} is an option of pip, which is not taken here. "
            "List packages only. Nothing was started."
        )
    return found
