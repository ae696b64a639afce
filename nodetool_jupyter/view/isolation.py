"""What holds a job in, in words: one line for the card, rows for those who want to know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..events import Isolation
from ..jobs import LIMIT_NAMES, ResourceLimits
from ..quantities import format_limit, format_size

_SHORT_ID = 12
_MOST_PACKAGES = 6
_MORE_THAN_A_NAME = re.compile(r"\s*(;| --hash=).*")


_LIMITS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "wall_seconds": ("time", lambda value: f"time {format_limit(value)}"),
    "memory_bytes": ("memory", lambda value: f"memory {format_size(value)}"),
    "cpus": ("processors", lambda value: f"{value:g} processor{'s' * (value != 1)}"),
    "pids": ("processes", lambda value: f"{value:,.0f} process{'es' * (value != 1)}"),
    "shm_bytes": ("shared memory", lambda value: f"shared memory {format_size(value)}"),
    "cpu_seconds": ("processor time", lambda value: f"processor time {format_limit(value)}"),
    "open_files": ("open files", lambda value: f"{value:,.0f} open file{'s' * (value != 1)}"),
    "file_size_bytes": ("file size", lambda value: f"file size {format_size(value)}"),
}


def isolation_text(found: Isolation) -> str:
    """`container · user 65534 · no network · none of your files`."""
    parts = [_PLACES.get(found.boundary, _no_boundary)(found)]
    if found.profile != "default":
        parts.append(f"profile {found.profile}")
    return " · ".join(parts)


def _no_boundary(found: Isolation) -> str:
    if found.boundary != "none":
        return found.boundary
    if found.details.get("namespace") == "shared":
        return "a thread of the kernel · nothing is kept apart"
    return "a process of its own · your user, your files, your network"


def _sandboxed(found: Isolation) -> str:
    details = found.details
    refused = [details["seccomp"]] if "seccomp" in details else []
    user = f"user {details.get('uid', '?')}"
    return " · ".join(["sandboxed process", user, _network(details), "none of your files", *refused])


def _container(found: Isolation) -> str:
    details = found.details
    parts = ["container", _user(str(details.get("user", "?"))), _network(details), _files(details)]
    if details.get("read_only"):
        parts.append("read-only")
    if gpus := details.get("gpus"):
        parts.append(f"GPU {', '.join(map(str, gpus))}")
    if details.get("seccomp"):
        parts.append(details["seccomp"])
    return " · ".join(parts)


_PLACES: Mapping[str, Callable[[Isolation], str]] = {"bubblewrap": _sandboxed, "container": _container}


def _user(user: str) -> str:
    name, _, group = user.partition(":")
    if name == "0":
        return f"user {name} (root)"
    return f"user {name}, group 0 (root)" if group == "0" else f"user {name}"


def _network(details: Mapping[str, Any]) -> str:
    name = str(details.get("network", "none"))
    if name == "none":
        return "no network"
    return "network bridge" if name.startswith("nodetool-") else f"network {name}"


def _files(details: Mapping[str, Any]) -> str:
    mounts = details.get("mounts", ())
    if not mounts:
        return "none of your files"
    only = ", read-only" * all(str(mount).endswith(":ro") for mount in mounts)
    return f"{len(mounts)} mount{'s' * (len(mounts) > 1)} of your files{only}"


def isolation_rows(found: Isolation, asked: ResourceLimits, *, stable: bool = False) -> list[tuple[str, str]]:
    """Name and value of each fact: boundary, image, mounts, the limits that are held and those that are not.

    stable: without what differs from machine to machine.
    """
    details = found.details
    rows = [("isolation", isolation_text(found)), ("image", _image(details, stable=stable))]
    rows.append(("packages", _packages(details, stable=stable)))
    rows += [("mount", str(mount)) for mount in details.get("mounts", ())]
    rows += [("files", details["files"])] if isinstance(details.get("files"), str) else []
    rows.append(("limits", ", ".join(_held(found, asked))))
    rows.append(("not held", names_of_limits(found.not_held)))
    return [(name, value) for name, value in rows if value]


def _image(details: Mapping[str, Any], *, stable: bool) -> str:
    if not details.get("image") or stable:
        return str(details.get("image", ""))
    id_ = str(details.get("image_id", "")).removeprefix("sha256:")[:_SHORT_ID]
    python = f", Python {details['python']}" if details.get("python") else ""
    return f"{details['image']} ({id_ or 'not on this machine yet'}){python}"


def _packages(details: Mapping[str, Any], *, stable: bool) -> str:
    """`numpy>=2, pandas (nodetool/built:0123456789ab)`: what was added to the image, without hashes and conditions."""
    lines = details.get("requirements", ())
    short = [_MORE_THAN_A_NAME.sub("", str(line)) for line in lines[:_MOST_PACKAGES]]
    if len(lines) > _MOST_PACKAGES:
        short[-1] += f" and {len(lines) - _MOST_PACKAGES} more"
    return ", ".join(short) + (f" ({details.get('built_name', '')})" if short and not stable else "")


def _held(found: Isolation, asked: ResourceLimits) -> list[str]:
    values = limits_in_force(found, asked)
    return [
        f"{_LIMITS[name][1](values[name]) if name in values else _LIMITS[name][0]} ({found.held[name]})"
        for name in LIMIT_NAMES
        if name in found.held
    ]


def limits_in_force(found: Isolation | None, asked: ResourceLimits) -> dict[str, float]:
    """The limits that hold the job, asked for or the profile's; before its start those that were asked for."""
    if found is None:
        return asked.asked()
    values = {**found.details.get("profile_limits", {}), **asked.asked()}
    return {name: value for name, value in values.items() if name in found.held}


def limit_text(name: str, value: float) -> str:
    """`64 processes`, `memory 512 MiB`."""
    return _LIMITS[name][1](value)


def names_of_limits(names: Iterable[str]) -> str:
    """`memory, processes`."""
    return ", ".join(_LIMITS[name][0] if name in _LIMITS else name for name in names)
