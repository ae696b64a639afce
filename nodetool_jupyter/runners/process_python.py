"""The interpreter of a job: which version it is, and whether it is the kernel's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache

from ..errors import InvalidRequest, RunnerUnavailable

OLDEST = (3, 11)
_ASK_SECONDS = 30
_QUESTION = (
    "import json, sys; print(json.dumps([sys.implementation.name, list(sys.version_info[:3]), sys.prefix, "
    "sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix]))"
)


@dataclass(frozen=True)
class Interpreter:
    """`path` starts it; `same`: it has the kernel's version and environment, so the kernel's `sys.path` fits.

    folders: where its standard library, its packages and itself lie.
    """

    path: str
    version: str
    same: bool
    folders: tuple[str, ...] = ()


def interpreter(path: str = "") -> Interpreter:
    """The interpreter at a path, "" for the kernel's. Runs it once per path and time of change.

    Raises `InvalidRequest` when there is none, `RunnerUnavailable` when a job can't run in it. It may
    take tens of milliseconds; call it from any thread but the manager's.
    """
    if not path or path == sys.executable:
        return Interpreter(sys.executable, _dotted(sys.version_info[:3]), True, _folders())
    found = shutil.which(os.path.expanduser(path))
    if found is None:
        what = "can't be executed" if os.path.exists(os.path.expanduser(path)) else "does not exist"
        raise InvalidRequest(f"The interpreter {path!r} {what}. Give --python, or NODETOOL_PYTHON, the path of one.")
    found = os.path.abspath(found)
    return _ask(found, os.stat(found).st_mtime_ns)


def speaks_other(path: str) -> str:
    """The interpreter's version if its minor one is not the kernel's, so that pickles may not fit; else ""."""
    version = interpreter(path).version
    return version if version.split(".")[:2] != _dotted(sys.version_info[:2]).split(".") else ""


@lru_cache(maxsize=64)
def _ask(path: str, changed_at: int) -> Interpreter:
    try:
        answer = subprocess.run(  # noqa: S603 - the person names the interpreter
            [path, "-I", "-c", _QUESTION],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_SECONDS,
            check=False,
        ).stdout
        name, version, *folders = json.loads(answer)
        found = tuple(int(part) for part in version)
    except (OSError, ValueError, TypeError, subprocess.TimeoutExpired):
        raise InvalidRequest(
            f"{path!r} is not a Python interpreter that works. Give --python, or NODETOOL_PYTHON, another path."
        ) from None
    if name != "cpython" or found < OLDEST:
        mine = f"{sys.implementation.name} {_dotted(sys.version_info[:3])}"
        raise RunnerUnavailable(
            "subprocess",
            f"{path!r} is {name} {_dotted(found)}, the kernel's is {mine}, "
            f"and a job needs CPython {_dotted(OLDEST)} or newer",
            "Give --python a newer one, or leave it out",
        )
    same = found == sys.version_info[:3] and folders[:2] == [sys.prefix, sys.base_prefix]
    return Interpreter(path, _dotted(found), same, _folders() if same else tuple(folders))


def _folders() -> tuple[str, ...]:
    """Of the kernel's own: packages that the person installed for themselves are on its path, too."""
    packages = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    return (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *packages)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
