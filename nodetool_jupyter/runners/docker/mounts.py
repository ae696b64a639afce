"""Which paths of the host a container may be shown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ...containers import Bind
from ...errors import InvalidRequest

_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/var/lib/containerd")
_ENGINES = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock")


class MountRefused(InvalidRequest):
    """A source that would let the job out of its container."""

    code = "NT-D04"

    def __init__(self, source: str, why: str) -> None:
        super().__init__(
            f"Mount refused: {source!r} {why}. Mount a folder with nothing but the job's data. "
            "Nothing was started. [NT-D04]"
        )


def checked_binds(
    binds: Iterable[Bind], *, engine_url: str, engine_root: str, private: Iterable[Path]
) -> tuple[Bind, ...]:
    """The binds with real paths, links resolved. Raises `InvalidRequest`.

    engine_root: where the engine keeps its containers. private: folders of this program.
    """
    binds = tuple(binds)
    if binds and not engine_url.startswith("unix://"):
        raise InvalidRequest(
            f"-v {binds[0].source!r}: the engine at {engine_url} is another machine's, and its paths can't be checked "
            "from here. Send the data with --in, or use a local engine. Nothing was started."
        )
    sockets = {
        os.path.realpath(path) for path in (*_ENGINES, engine_url.removeprefix("unix://")) if path.startswith("/")
    }
    own = {os.path.realpath(path): "the job store or its files" for path in private}
    never = {os.path.realpath(path) for path in (*_NEVER, engine_root) if path}
    return tuple(_checked(bind, sockets, own, never) for bind in binds)


def what_lies_at(sources: Iterable[str]) -> list[tuple[int, int] | None]:
    """The files and folders at these paths now: a container shows for ever what lay there when it was made."""
    found: list[tuple[int, int] | None] = []
    for source in sources:
        try:
            status = os.stat(source)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return found


def _checked(bind: Bind, sockets: set[str], own: dict[str, str], never: set[str]) -> Bind:
    source = os.path.realpath(os.path.expanduser(bind.source))
    if source == "/":
        raise MountRefused(bind.source, "is the whole machine")
    for path in sockets:
        if _contains(source, path):
            raise MountRefused(bind.source, "is, or contains, the Docker socket")
    if not os.path.exists(source):
        raise InvalidRequest(f"-v: there is no {bind.source!r} on this machine. Make it first. Nothing was started.")
    for path, what in own.items():
        if _contains(source, path) or _contains(path, source):
            raise MountRefused(bind.source, f"is, contains or belongs to {what}")
    for path in sorted(never):
        if _contains(path, source) or _contains(source, path):
            raise MountRefused(bind.source, f"is, contains or belongs to {path}, which is the machine's own")
    return Bind(source, bind.target, bind.read_only)


def _contains(folder: str, path: str) -> bool:
    """By components, not by letters."""
    return os.path.commonpath((folder, path)) == folder
