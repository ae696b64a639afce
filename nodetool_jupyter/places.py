"""Where the things of jobs are put, by names that tell whose they are, so that leftovers can be found.

    <temporary folder>/nodetool-<uid>/              0700, checked to be this user's own
        <owner id>/                                 one manager's
            owner.json                              who that is; see `housekeeping.announce`
            <job id>/                               one job's: temporary files, sockets

Shared memory and cgroups are called `nodetool-<uid>-<owner id>-<job id>`. Whatever follows this rule is
removed by `housekeeping.prune` once its owner is dead, and never before.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from .errors import Refused

OWNER_FILE = "owner.json"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
_PLAIN_OWNER = re.compile(r"[A-Za-z0-9_]{1,64}")
_TRIES = 100


def job_root() -> Path:
    """The private folder (0700) of this user, made when missing. Raises `Refused` if it is not safe."""
    root = Path(tempfile.gettempdir()) / f"nodetool-{os.geteuid()}"
    _make(root)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Refused(f"{str(root)!r} is not a folder of your own. Remove it, or set TMPDIR to a private folder.")
    if stat.S_IMODE(found.st_mode) != 0o700:
        root.chmod(0o700)
    return root


def lease_folder() -> Path:
    """Where leases are, if there are any."""
    return Path(tempfile.gettempdir()) / f"nodetool-{os.geteuid()}-leases"


def lease_file(name: str) -> Path:
    """The file whose lock is the lease of something that only one job may have at a time."""
    folder = lease_folder()
    _make(folder)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise Refused(f"{str(folder)!r} is not a folder of your own. Remove it, or set TMPDIR to a private folder.")
    return folder / name.replace("/", "_")


def owner_root(owner_id: str) -> Path:
    """The folder (0700) of one manager, made when missing."""
    folder = job_root() / owner_part(owner_id)
    _make(folder)
    return folder


def job_folder(owner_id: str, job_id: str) -> Path:
    """The folder (0700) of one job, made when missing; whoever runs the job removes it at its end."""
    for _ in range(_TRIES):
        folder = owner_root(owner_id) / _part(job_id)
        try:
            _make(folder)
        except FileNotFoundError:  # a sweep took the empty folder of the owner in between
            continue
        return folder
    raise Refused(f"The folder {str(folder)!r} is removed again and again by somebody else. Nothing was started.")


def resource_name(owner_id: str, job_id: str) -> str:
    """The name of a job's shared memory segment or cgroup; more may be added after another "-"."""
    return f"{resource_prefix()}{owner_part(owner_id)}-{_part(job_id)}"


def resource_prefix() -> str:
    """How every name of this user's resources begins."""
    return f"nodetool-{os.geteuid()}-"


def owner_in(name: str) -> str | None:
    """The `owner_part` in the name of a resource of this user; `None` when the name is no such one."""
    prefix = resource_prefix()
    owner, dash, _ = name.removeprefix(prefix).partition("-")
    return owner if name.startswith(prefix) and dash and owner else None


def owner_part(owner_id: str) -> str:
    """An owner's id as it stands in names: without "-", which ends it there."""
    return owner_id if _PLAIN_OWNER.fullmatch(owner_id) else _hashed(owner_id)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        return


def _part(text: str) -> str:
    """The id itself where it can be a file's name, else a hash of it."""
    return text if _PLAIN.fullmatch(text) else _hashed(text)


def _hashed(text: str) -> str:
    return "h_" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
