"""What of the host a container may be shown."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...containers import Bind
from ...errors import InvalidRequest
from ...mount_table import Lying, lies, mounts

_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/var/lib/containerd")
_KERNELS_OWN = (
    *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2"),
    *("debugfs", "tracefs", "bpf", "securityfs", "configfs"),
)
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
    if not binds:
        return ()
    if not engine_url.startswith("unix://"):
        raise InvalidRequest(
            f"-v {binds[0].source!r}: the engine at {engine_url} is another machine's, and its paths can't be checked "
            "from here. Send the data with --in, or use a local engine. Nothing was started."
        )
    sockets = {path for path in (*_ENGINES, engine_url.removeprefix("unix://")) if path.startswith("/")}
    never = {path for path in (*_NEVER, engine_root) if path}
    places = (
        *(_Place(path, "the Docker socket", "is, or contains,") for path in sorted(map(os.path.realpath, sockets))),
        *(_Place(path, "the job store or its files") for path in map(os.path.realpath, private)),
        *(_Place(path, f"{path}, which is the machine's own") for path in sorted(map(os.path.realpath, never))),
    )
    table = mounts()
    checked = tuple(_checked(bind, places, table) for bind in binds)
    _check_linked(checked, sorted(map(os.path.realpath, sockets)))
    return checked


def check_workdir(binds: Iterable[Bind], workdir: str) -> None:
    """Raise `InvalidRequest` for a file where the job is to run. binds: checked ones."""
    for bind in binds:
        if _contains(bind.target, workdir) and not os.path.isdir(bind.source):
            raise InvalidRequest(
                f"-v: {bind.source!r} is no folder, and the job is to run in {workdir!r}. Show it elsewhere, as in "
                f"-v {bind.source}:{bind.target}/{os.path.basename(bind.source)}. Nothing was started."
            )


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


@dataclass(frozen=True)
class _Place:
    """What no container may be shown, nor a part of it, nor what it lies in."""

    path: str
    what: str
    how: str = "is, contains or belongs to"


def _checked(bind: Bind, places: Iterable[_Place], table: dict[str, Lying]) -> Bind:
    source = os.path.realpath(os.path.expanduser(bind.source))
    if source == "/":
        raise MountRefused(bind.source, "is the whole machine")
    for place in places:
        if _contains(source, place.path) or _contains(place.path, source):
            raise MountRefused(bind.source, f"{place.how} {place.what}")
    upwards = _upwards(source)
    if upwards[0] is None:
        raise InvalidRequest(f"-v: there is no {bind.source!r} on this machine. Make it first. Nothing was started.")
    here = lies(source, table)
    for place in places:
        around, there = _upwards(place.path), lies(place.path, table)
        same = upwards[0] in around or (around[0] is not None and around[0] in upwards)
        if same or (here is not None and there is not None and here.overlaps(there)):
            raise MountRefused(bind.source, f"{place.how} {place.what}, mounted or linked under another name")
    if here is not None and here.kind in _KERNELS_OWN:
        raise MountRefused(bind.source, f"lies on a file system of the kernel's own ({here.kind})")
    return Bind(source, bind.target, bind.read_only)


def _check_linked(binds: Iterable[Bind], sockets: Iterable[str]) -> None:
    """A second name of a socket can lie in any folder of its file system, and nobody looks through them all."""
    for socket in sockets:
        try:
            found, around = os.stat(socket), os.stat(os.path.dirname(socket))
        except OSError:
            continue
        for bind in binds:
            if found.st_nlink > 1 and os.stat(bind.source).st_dev in (found.st_dev, around.st_dev):
                raise MountRefused(
                    bind.source,
                    f"may contain the Docker socket: {socket} has {found.st_nlink} names on that file system (hard "
                    f"links). Find them with `find / -xdev -samefile {socket}`, and remove the others",
                )


def _upwards(path: str) -> list[tuple[int, int] | None]:
    """What lies at a path and at each folder above it: the same under every name that mounts and links give it."""
    folders = [path]
    while folders[-1] != os.path.dirname(folders[-1]):
        folders.append(os.path.dirname(folders[-1]))
    return what_lies_at(folders)


def _contains(folder: str, path: str) -> bool:
    """By components, not by letters."""
    return os.path.commonpath((folder, path)) == folder
