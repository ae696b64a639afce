"""Wheels for an image, fetched on this machine by its own pip; nothing is ever built here, for that would run code."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ...errors import Refused
from ..base import WorkerNotStarted
from .engine import CallOff
from .probe import Python

_PIP = """\
import json, sys
from pip._vendor.packaging import markers
found = json.loads(sys.argv.pop(1))
markers.default_environment = lambda: dict(found)
from pip._internal.cli.main import main
sys.exit(main())
"""
"""pip reads the markers of packages (`; python_version < "3.12"`) for its own Python; here it is the image's."""
_QUIET = ["--no-input", "--disable-pip-version-check"]
_COLLECTING = re.compile(r"\s*(?:Collecting|Downloading) ([A-Za-z0-9][A-Za-z0-9._-]*)")
_NOT_FOUND = re.compile(r"No matching distribution found for (.+?)(?: \(from .*)?$")
_SKIPPED = re.compile(r"Skipping link: (none of the wheel's tags|No sources permitted)|Found link|requires a different")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NOTHING = "Nothing was left behind."


class NoPip(Refused):
    """There is no pip beside the kernel's Python."""

    code = "NT-D06"

    def __init__(self) -> None:
        super().__init__(
            f"--requirements needs pip on this machine, and {sys.executable} has none. "
            f"Run `{sys.executable} -m ensurepip`, or install it as the environment wants it. Nothing was started. "
            "[NT-D06]"
        )


def check_pip() -> None:
    """Raises `NoPip`."""
    if importlib.util.find_spec("pip") is None:
        raise NoPip


def fetch(
    requirements: Path,
    python: Python,
    folder: Path,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    stop: CallOff,
) -> list[Path]:
    """Download the wheels of a requirements file and of what they need into a folder; `say` is told the names.

    Blocks. Raises `WorkerNotStarted`.
    """
    folder.mkdir()
    command = [
        "download",
        "--only-binary=:all:",
        "--progress-bar=off",
        f"--dest={folder}",
        f"--requirement={requirements}",
    ]
    said = _pip(
        [*command, *_target(python)], python, environ, cwd=folder, stop=stop, heard=lambda line: _say(line, say)
    )
    if said is not None:
        raise WorkerNotStarted(_why(said, python, environ, folder, stop))
    return sorted(folder.glob("*.whl"))


def installer() -> bytes:
    """The pip of this machine as a zip file that a Python can run, whether its image has a pip or not."""
    found = importlib.util.find_spec("pip")
    if found is None or found.origin is None:
        raise NoPip
    root = Path(found.origin).parent
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.suffix not in (".pyc", ".exe"):
                archive.write(path, Path("pip") / path.relative_to(root))
    return written.getvalue()


def _target(python: Python) -> list[str]:
    platforms = [f"--platform={platform}" for platform in python.platforms]
    return ["--implementation=cp", f"--abi={python.abi}", f"--python-version={python.version}", *platforms]


def _pip(
    arguments: Sequence[str],
    python: Python,
    environ: Mapping[str, str],
    *,
    cwd: Path,
    stop: CallOff,
    heard: Callable[[str], None] = lambda line: None,
) -> str | None:
    """Run pip; `None` when it succeeded, else what it said. Raises `WorkerNotStarted` when called off."""
    argv = [sys.executable, "-P", "-c", _PIP, json.dumps(python.markers), *arguments, *_QUIET]
    process = subprocess.Popen(  # noqa: S603 - our own interpreter
        argv,
        cwd=cwd,
        env={**environ, "PYTHONUNBUFFERED": "1", "PIP_NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    lines: list[str] = []
    with process, _Killable(process) as killable, stop.closing(killable):
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            heard(line)
    if stop.is_set():
        raise WorkerNotStarted("The download of wheels was called off.")
    return None if process.returncode == 0 else "\n".join(lines)


class _Killable:
    """A process with all that it started; killed when closed, or when the block is left."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def close(self) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def __enter__(self) -> _Killable:
        return self

    def __exit__(self, *exception: object) -> None:
        if exception[0] is not None:
            self.close()


def _say(line: str, say: Callable[[str], None]) -> None:
    if found := _COLLECTING.match(line):
        say(found[1])


def _why(said: str, python: Python, environ: Mapping[str, str], folder: Path, stop: CallOff) -> str:
    """What pip said, as a sentence: there is no such package, or it has no wheel for this image."""
    errors = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    missing = next((found[1] for line in errors if (found := _NOT_FOUND.search(line))), "")
    if not missing:
        last = (errors or said.splitlines() or ["it said nothing"])[-1].strip().rstrip(".")
        return f"The wheels can't be fetched: {last}. Change --requirements, or look at the network. {_NOTHING}"
    name = found[0] if (found := _NAME.match(missing)) else missing
    arguments = ["download", "-vv", "--no-deps", "--only-binary=:all:", "-d", str(folder), name, *_target(python)]
    told = _pip(arguments, python, environ, cwd=folder, stop=stop)
    if told is not None and not _SKIPPED.search(told):
        return f"There is no package {name!r} where pip looks. Check how it is spelled in --requirements. {_NOTHING}"
    return (
        f"Nothing that fits {missing!r} has a wheel for {python.name}, and nothing is built from source here. "
        f"Ask for another version, or choose an --image with another Python or with the package in it. {_NOTHING}"
    )
