"""What the profile `untrusted` means for a process: bubblewrap's arguments on this machine, tried out before a job.

A job inside sees the system's programs and libraries and its interpreter, read-only, two small folders in memory
and nothing else: no file of the person's, no network, no process but its own. It is nobody (65534), for real where
the kernel is root's, else in a user namespace.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import worker
from .config import data_dir, runtime_dir
from .errors import ProfileRefused
from .worker import seccomp

NOBODY = 65534
TMP_BYTES, SHM_BYTES = 64 << 20, 8 << 20
FILTER_FD = 4
_PROBE_SECONDS = 30
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
_SETTINGS = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
_PASSED = ("LANG", "LC_", "TZ")
_NEVER_SEEN = ("/", "/root", "/home", "/tmp", "/var", "/etc", "/run", "/dev", "/proc", "/sys")
_WAYS_OUT = "Make that work, or use --runner docker"
_NAMESPACES = ("pid", "net", "ipc", "uts", "cgroup-try")
_LOWERING = (
    *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
    *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
)
_LOOK = """
import json, os, sys
def kept(path):
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    except OSError:
        return True
    return False
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
facts = {name: status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}
facts["ids"] = [*os.getresuid(), *os.getresgid()]
facts["network"] = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
facts["first process"] = os.getppid()
facts["read-only"] = all(map(kept, ["/probe", "/usr/probe", "/dev/probe", "/proc/1/mem", sys.prefix + "/probe"]))
print(json.dumps(facts))
"""
_EXPECTED = {
    **dict.fromkeys(("CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "ids": [NOBODY] * 6,
    "network": ["lo"],
    "first process": 1,
    "read-only": True,
}


@dataclass(frozen=True)
class Sandbox:
    """`argv` stands before the interpreter's own; it wants the filter of system calls on descriptor 4.

    seen: folders of this machine that a job can read; hidden: what within them it can't.
    """

    argv: tuple[str, ...]
    seen: tuple[str, ...]
    hidden: tuple[str, ...]

    def sees(self, path: str) -> bool:
        """Whether a job can read this path."""
        inside = [folder for folder in (*self.seen, *self.hidden) if _within(path, folder)]
        return bool(inside) and max(inside, key=len) in self.seen

    def details(self, *, counted: bool) -> dict[str, Any]:
        """What is in force, for the `isolation` event; `counted` as `filter_file` has it."""
        return {
            "uid": NOBODY,
            "network": "none",
            "seccomp": seccomp.in_words(counted=counted),
            "files": f"read-only: {', '.join(self.seen)}",
            "writable": f"/tmp ({TMP_BYTES >> 20} MiB), /dev/shm ({SHM_BYTES >> 20} MiB), in memory",
        }


def environment(environ: Mapping[str, str], asked: Mapping[str, str], *, python: str, cpus: float) -> dict[str, str]:
    """The whole environment of a job: bubblewrap itself is started with it, since its first process keeps it readable.

    Libraries learn how many threads make sense: they see every processor of the machine.
    """
    return {
        **{name: value for name, value in environ.items() if name.startswith(_PASSED)},
        "PATH": f"{os.path.dirname(python)}:/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "nobody",
        "OMP_NUM_THREADS": str(max(1, round(cpus))),
        "PYTHONFAULTHANDLER": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **asked,
        "TMPDIR": "/tmp",
    }


def filter_file(*, pinned: bool, counted: bool) -> int:
    """A descriptor with the filter of system calls, as `Sandbox.argv` wants it; see `seccomp.program`."""
    descriptor = os.memfd_create("nodetool-filter")
    os.write(descriptor, seccomp.program(pinned=pinned, counted=counted))
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def sandbox(python: str, folders: Iterable[str], *, cwd: str) -> Sandbox:
    """The sandbox for an interpreter that needs these folders; it was really made once before.

    cwd: the notebook's folder, which a job must not see. Raises `ProfileRefused` (NT-S02) where none can be made.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise _refused("bubblewrap was not found", "Install it (apt install bubblewrap), or use --runner docker")
    lowered = _is_root()
    setpriv = shutil.which("setpriv") if lowered else None
    if lowered and setpriv is None:
        raise _refused("setpriv was not found", "Install it (apt install util-linux), or use --runner docker")
    package = os.path.dirname(os.path.dirname(worker.__file__))
    mounts = _mounts(["/usr", package, os.path.realpath(python), *folders], _private(cwd))
    mounted = tuple(_mount_arguments(mounts))
    after = (setpriv, *_LOWERING) if setpriv else ()
    argv = (found, *_namespaces(lowered), *mounted, "--seccomp", str(FILTER_FD), "--", *after)
    _try(argv, python, os.stat(found).st_mtime_ns)
    seen, hidden = (tuple(path for path, shown in mounts.items() if shown is kind) for kind in (True, False))
    return Sandbox(argv, seen, hidden)


def _is_root() -> bool:
    return os.geteuid() == 0


def _refused(why: str, remedy: str) -> ProfileRefused:
    what = "No sandbox is available for an untrusted subprocess job"
    return ProfileRefused("NT-S02", f"{what}: {why.rstrip('.')}. {remedy.rstrip('.')}. Nothing was started.")


def _private(cwd: str) -> list[str]:
    """Folders of the person that must stay out of sight even where they lie in one that is seen."""
    folders = [os.path.expanduser("~"), cwd or "/", str(data_dir()), str(runtime_dir()), tempfile.gettempdir()]
    return [os.path.realpath(folder) for folder in folders]


def _mounts(wanted: Sequence[str], private: Sequence[str]) -> dict[str, bool]:
    """Paths from the outermost to the innermost: seen, or hidden within one that is."""
    mounts: dict[str, bool] = {}
    kinds = {**dict.fromkeys(private, False), **dict.fromkeys(map(os.path.normpath, wanted), True)}
    for path in sorted(kinds, key=lambda path: (path.count("/"), path)):
        shown = kinds[path]
        real = os.path.realpath(path)
        aside = any(_within(folder, real) and not _within(folder, path) for folder in private)
        if shown and (path in private or path in _NEVER_SEEN or aside):
            raise _refused(
                f"Python needs {path!r}, and files of yours lie there",
                "Work in another folder, or take a Python environment with a folder of its own",
            )
        above = [folder for folder in mounts if _within(path, folder)]
        if shown is not (bool(above) and mounts[max(above, key=len)]) and os.path.exists(path):
            mounts[path] = shown
    return mounts


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _namespaces(lowered: bool) -> Iterator[str]:
    """Namespaces and rights. Root can't be mapped to nobody, who then could not enter root's folders: it steps down."""
    yield from (f"--unshare-{name}" for name in _NAMESPACES)
    yield from ("--die-with-parent", "--new-session", "--hostname", "job", "--cap-drop", "ALL")
    if lowered:
        for capability in ("CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"):
            yield from ("--cap-add", capability)
    else:
        yield from ("--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY))


def _mount_arguments(mounts: Mapping[str, bool]) -> Iterator[str]:
    """Every folder in memory has a size: otherwise a job fills the machine's memory outside of its limits."""
    yield from ("--proc", "/proc", "--dev", "/dev")
    yield from ("--dev-bind", "/dev/full", "/dev/zero")  # zeros to read, too, but what can be mapped is nobody's memory
    yield from ("--perms", "1777", "--size", str(SHM_BYTES), "--tmpfs", "/dev/shm")
    yield from ("--perms", "1777", "--size", str(TMP_BYTES), "--tmpfs", "/tmp")
    made: set[str] = set()
    for path, shown in mounts.items():
        above = [folder for folder in mounts if folder != path and _within(path, folder)]
        if not above or not mounts[max(above, key=len)]:
            yield from _parents(path, made)
        yield from ("--ro-bind", path, path) if shown else ("--perms", "0755", "--size", "4096", "--tmpfs", path)
    for path in _SYSTEM:
        if os.path.islink(path):
            yield from ("--symlink", os.readlink(path), path)
        elif os.path.isdir(path):
            yield from ("--ro-bind", path, path)
    yield from ("--perms", "0755", "--dir", "/etc")
    for path in _SETTINGS:
        yield from ("--ro-bind-try", path, path)
    for path, shown in mounts.items():
        if not shown:
            yield from ("--remount-ro", path)
    # in /proc lies the memory of the first process, which is under no filter of system calls
    for path in ("/proc", "/dev", "/"):
        yield from ("--remount-ro", path)
    yield from ("--chdir", "/tmp")


def _parents(path: str, made: set[str]) -> Iterator[str]:
    """The folders above, which bubblewrap would make for root alone."""
    parts = path.split("/")
    for count in range(2, len(parts)):
        parent = "/".join(parts[:count])
        if parent not in made:
            made.add(parent)
            yield from ("--perms", "0755", "--dir", parent)


@functools.lru_cache(maxsize=64)
def _try(argv: tuple[str, ...], python: str, changed_at: int) -> None:
    """Make the sandbox and look around in it. Only success is remembered: what failed may be mended meanwhile."""
    try:
        descriptor = filter_file(pinned=False, counted=False)
    except OSError as error:
        raise _refused(str(error), "Use --runner docker") from None
    command = [str(descriptor) if part == str(FILTER_FD) else part for part in argv]
    try:
        done = subprocess.run(  # noqa: S603 - our own list
            [*command, python, "-I", "-S", "-c", _LOOK],
            cwd="/",
            env=environment({}, {}, python=python, cpus=1),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
            pass_fds=[descriptor],
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(f"bubblewrap can't be run: {error}", _WAYS_OUT) from None
    finally:
        os.close(descriptor)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        why = said[-1] if said else f"it ended with {done.returncode}"
        raise _refused(f"bubblewrap can't make one here ({why})", _remedy(why, python))
    found = json.loads(done.stdout)
    wrong = sorted(name for name, value in _EXPECTED.items() if found.get(name) != value)
    if wrong:
        raise _refused(f"in the one that bubblewrap made {wrong[0]} is {found.get(wrong[0])!r}", _WAYS_OUT)


def _remedy(why: str, python: str) -> str:
    if "namespace" in why or "uid map" in why:
        return (
            "Allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap), "
            "or use --runner docker"
        )
    if "Unknown option" in why:
        return "Install bubblewrap 0.8 or newer, or use --runner docker"
    if python in why or "ermission denied" in why:
        return f"Let everybody read and run {python!r} and its libraries, or use --python with another one"
    return _WAYS_OUT
