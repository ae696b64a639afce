"""The options of `docker run` on the line of a cell: declared once, and made into `ContainerOptions`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from ..config import Settings
from ..containers import (
    ContainerOptions,
    parse_bind,
    parse_collect,
    parse_gpus,
    parse_image,
    parse_network,
    parse_pull,
    parse_requirements,
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
_LISTED = {"volumes", "tmpfs", "collect", "requirements"}
_SWITCHES = {"gpus_shared", "read_only"}
KEYWORDS = frozenset(_FIELDS) - {"shm_size"}
"""What `run` takes of them; the size of shared memory is one of its limits."""
_NOTHING = "Nothing was started."


_SETTINGS = {
    "image": "docker_image",
    "pull": "docker_pull",
    "user": "docker_user",
    "gpus": "docker_gpus",
    "network": "docker_network",
}
_UNTRUSTED: Mapping[str, Any] = {"pull": "never", "gpus": "", "network": "none"}
"""Whatever is set."""


def given_options(given: Namespace) -> list[str]:
    """The flags on the line that only containers have."""
    return [
        flags[-1]
        for (flags, _), name in zip(OPTIONS, _FIELDS, strict=True)
        if getattr(given, name) not in (None, False)
    ]


def container_options(changed: Mapping[str, Any], settings: Settings, profile: Profile) -> ContainerOptions:
    """What was asked for, then what is set. Raises `InvalidRequest` for what is set, counts and can't be read."""
    unset = {field: name for field, name in _SETTINGS.items() if field not in changed}
    if profile is Profile.UNTRUSTED:
        unset = {field: name for field, name in unset.items() if field not in _UNTRUSTED}
        changed = {**_UNTRUSTED, **changed}
    return ContainerOptions(**{field: settings[name] for field, name in unset.items()}, **changed)


def elsewhere(given: Namespace, runner: str) -> ContainerOptions:
    """For a job in no container: nothing, but for GPUs as advice to a process. Raises `InvalidRequest` for the rest."""
    alone = given_options(given)
    if alone == ["--gpus"] and runner == "subprocess" and (gpus := parse_gpus(given.gpus, "--gpus")):
        return ContainerOptions(gpus=gpus)
    if alone:
        raise InvalidRequest(
            f"Option {alone[0]} is for containers, and the job runs {runner}. Add --runner docker, or leave it out. "
            f"{_NOTHING}"
        )
    return ContainerOptions()


def from_python(options: Mapping[str, Any]) -> Namespace:
    """Keyword arguments as if they stood on the line: `volumes=["./data:/data:ro"]`, `gpus=1`, `user=1000`.

    Takes them out of nothing else than `KEYWORDS`. Raises `InvalidRequest` for a value of a wrong type.
    """
    found: dict[str, Any] = dict.fromkeys(_FIELDS)
    for name, value in options.items():
        listed = name in _LISTED
        items = [value] if isinstance(value, str | int | PathLike) or not listed else list(value)
        if name in _SWITCHES:
            fits = isinstance(value, bool)
        else:
            fits = all(isinstance(item, str | int | PathLike) and not isinstance(item, bool) for item in items)
        if not fits:
            raise InvalidRequest(f"{name}={value!r} can't be read. Write it as on the line of a cell. {_NOTHING}")
        texts = [str(item) for item in items]
        found[name] = value if name in _SWITCHES else texts if listed else texts[0]
    return Namespace(**found)


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
        "tmpfs": ("tmpfs", lambda: _tmpfs(given.tmpfs)),
        "read_only": ("read_only", lambda: True),
        "workdir": ("workdir", lambda: parse_workdir(given.workdir, "--workdir")),
        "collect": ("collect", lambda: tuple(parse_collect(text, "--collect") for text in given.collect)),
        "requirements": ("requirements", lambda: _requirements(given.requirements)),
    }
    found = {field: read() for name, (field, read) in readers.items() if getattr(given, name) not in (None, False)}
    if "image" in found:
        found["pinned"] = ""
    return found


_LIMITS = {
    "memory_bytes": "docker_memory",
    "cpus": "docker_cpus",
    "pids": "docker_pids",
    "shm_bytes": "docker_shm_size",
}


def docker_limits(limits: ResourceLimits, settings: Settings) -> ResourceLimits:
    """The limits that were asked for, then those that are set for containers. Raises as `container_options` does."""
    unset = {field: settings[name] for field, name in _LIMITS.items() if getattr(limits, field) is None}
    return msgspec.structs.replace(limits, **{field: value for field, value in unset.items() if value is not None})


def without_docker_limits(limits: ResourceLimits, settings: Settings) -> ResourceLimits:
    """The limits of a job that ran in a container, for elsewhere: not those that are set for containers alone."""
    readable = [(field, name) for field, name in _LIMITS.items() if name not in settings.unread]
    same = [field for field, name in readable if getattr(limits, field) == settings[name]]
    return msgspec.structs.replace(limits, **dict.fromkeys(same))


def _tmpfs(given: list[str]) -> dict[str, str]:
    found = [parse_tmpfs(text, "--tmpfs") for text in given]
    if len(dict(found)) < len(found):
        raise InvalidRequest(f"--tmpfs: one place is named twice. Leave one out. {_NOTHING}")
    return dict(found)


def _requirements(given: str | list[str]) -> tuple[str, ...]:
    """Lines of a file if there is one of that name, else names with spaces between; or lines."""
    if not isinstance(given, str):
        return parse_requirements(given if len(given) > 1 else _lines(given[0]), "--requirements")
    return parse_requirements(_lines(given), "--requirements")


def _lines(text: str) -> list[str]:
    path = Path(text).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else text.split()
    except (OSError, UnicodeDecodeError):
        raise InvalidRequest(f"--requirements {text!r} can't be read as text. {_NOTHING}") from None
    if path.suffix == ".txt" and not path.is_file():
        raise InvalidRequest(f'--requirements: there is no file {text!r}. Give a file, or names: "numpy pandas".')
    return lines
