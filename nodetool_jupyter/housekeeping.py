"""Removes what is no longer needed: old jobs, and whatever dead managers left behind."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from . import places
from .jobs import JobStatus
from .mount_table import mounts_below
from .runners.base import Sweeper, Swept
from .stores.base import JobStore, Owner
from .stores.owners import alive, labels_gone
from .worker import cgroups, folders

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where shm_open(3) puts segments on Linux
_FINAL = tuple(status for status in JobStatus if status.final)
_PAGE = 500
_MOST_OWNER_BYTES = 64 << 10


class Pruned(Struct, frozen=True):
    """What was removed: ids of jobs, paths, names of groups, what was where runners run jobs.

    `left`: what could not be, each with the reason.
    """

    jobs: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    shared_memory: tuple[str, ...] = ()
    cgroups: tuple[str, ...] = ()
    runners: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def announce(owner: Owner) -> None:
    """Write who a manager is into its folder, before it makes anything there."""
    text = msgspec.json.encode(owner)
    while True:
        folder = places.owner_root(owner.id)
        new = folder / f".{places.OWNER_FILE}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(new, flags, 0o600)
        except FileNotFoundError:  # a sweep took the folder while it was empty
            continue
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
        new.rename(folder / places.OWNER_FILE)
        return


def retire(owner_id: str) -> list[str]:
    """Remove the folder of a manager that ends; what could not be removed, each with the reason."""
    return _remove(places.owner_root(owner_id))


def prune(
    store: JobStore,
    older_than_seconds: float,
    *,
    user: str,
    assets: Path | None = None,
    sweepers: Iterable[Sweeper] = (),
) -> Pruned:
    """Remove a user's jobs that ended so long ago, with their events and files, then `sweep`, here and in runners.

    assets: the folder with one folder per job, named by its id.
    """
    ended_before = time.time() - older_than_seconds
    old: list[str] = []
    left: list[str] = []
    before: float | None = None
    while page := store.find(user=user, statuses=_FINAL, limit=_PAGE, before=before):
        before = page[-1].created_at
        going = [job.id for job in page if (job.ended_at or job.created_at) < ended_before]
        store.delete(going)
        old += going
    if assets is not None:
        left = [sentence for job_id in old for sentence in _remove(assets / job_id)]
    swept = sweep(store)
    runners = sweep_runners(sweepers, user, built_before=ended_before)
    return msgspec.structs.replace(
        swept, jobs=tuple(old), runners=runners.removed, left=(*left, *swept.left, *runners.left)
    )


def sweep_runners(sweepers: Iterable[Sweeper], user: str, *, built_before: float = 0.0) -> Swept:
    """Remove what dead managers of a user left where their jobs ran, and what was built for jobs before a time."""
    swept = [sweeper.sweep(lambda labels: labels_gone(labels, user), built_before=built_before) for sweeper in sweepers]
    return Swept(
        tuple(what for one in swept for what in one.removed), tuple(what for one in swept for what in one.left)
    )


def sweep(store: JobStore) -> Pruned:
    """Remove folders, shared memory and cgroups of managers that are dead; nothing of one that may live."""
    root = places.job_root()
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _sweep(store, root)
    except BlockingIOError:
        return Pruned(left=(f"{root}: another kernel is sweeping it now.",))
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a process forked meanwhile holds the same lock
        os.close(handle)


def _sweep(store: JobStore, root: Path) -> Pruned:
    registered = {places.owner_part(owner.id): owner for owner in store.owners()}
    found = {entry.name: _owner_in(Path(entry.path)) or registered.get(entry.name) for entry in os.scandir(root)}
    dead = {name: owner for name, owner in {**registered, **found}.items() if owner is not None and not alive(owner)}
    left: list[str] = []
    removed_memory = tuple(_remove_shared_memory(dead, left))
    removed_groups = tuple(_remove_groups())
    removed_folders = tuple(str(path) for path in _remove_folders(root, found, dead, left))
    return Pruned((), removed_folders, removed_memory, removed_groups, (), tuple(left))


def _remove_folders(
    root: Path, found: Mapping[str, Owner | None], dead: Mapping[str, Owner], left: list[str]
) -> Iterator[Path]:
    for name, owner in sorted(found.items()):
        path = root / name
        if name in dead:
            if not (faults := _remove(path)):
                yield path
            left += faults
        elif owner is None:
            try:
                path.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(f"{path}: nothing says whose it is. Remove it by hand if no kernel uses it.")
            else:
                yield path


def _remove_shared_memory(dead: Mapping[str, Owner], left: list[str]) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(SHARED_MEMORY), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if places.owner_in(entry.name) not in dead:
            continue
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
                continue
            os.unlink(entry.path)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(f"{entry.path}: {error.strerror}")
        else:
            yield entry.path


def _remove_groups() -> Iterator[str]:
    """Groups carry their maker's process in their names, so `worker.cgroups` knows which are stale."""
    hierarchies = cgroups.find()
    before = {hierarchy.folder: set(_groups(hierarchy.folder)) for hierarchy in hierarchies}
    cgroups.remove_stale(hierarchies)
    for folder, names in sorted(before.items()):
        yield from sorted(f"{folder}/{name}" for name in names - set(_groups(folder)))


def _groups(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if places.owner_in(name) is not None]
    except OSError:
        return []


def _remove(path: Path) -> list[str]:
    """Delete a tree that nobody uses any more; what is left, each with the reason."""
    if inside := mounts_below(path):
        return [f"{path}: {inside[0]} is mounted in it. Unmount that first; nothing was removed."]
    if path.is_symlink():
        return [f"{path}: it is a link, so it was not followed."]
    try:
        return folders.remove(str(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]


def _owner_in(folder: Path) -> Owner | None:
    """The owner that a folder's file names; `None` without a readable one that fits the folder's name."""
    try:
        descriptor = os.open(folder / places.OWNER_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file, suppress(msgspec.DecodeError, OSError):
        owner = msgspec.json.decode(file.read(_MOST_OWNER_BYTES), type=Owner)
        return owner if places.owner_part(owner.id) == folder.name else None
    return None
