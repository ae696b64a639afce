"""A sentence more for failures whose cause lies in how the job was started."""

from __future__ import annotations

import os
import re

from ..config import environment, job_environment
from ..jobs import JobRequest, Profile

_MISSING_FILE = re.compile(r"FileNotFoundError: .*: '(/[^']+|\.[^']*|[^'/]+)'\Z")
_KEY_ERROR = re.compile(r"KeyError: '(\w+)'\Z")
_NO_NETWORK = re.compile(r"Network is unreachable|[Nn]ame resolution|Name or service not known|Failed to resolve")
_NO_FILE = re.compile(r"(FileNotFoundError|ModuleNotFoundError): ")


def with_hint(message: str, request: JobRequest) -> str:
    """The message and, for what the job could not have, how it can: network, files, a variable of the kernel's."""
    if request.profile is Profile.UNTRUSTED:
        if _NO_NETWORK.search(message):
            return (
                f"{message}. The untrusted profile has no network. Fetch what the code needs first, pass it with --in."
            )
        if _NO_FILE.match(message):
            return f"{message}. The untrusted profile sees no files of yours. Pass what the code needs with --in."
    if request.runner == "docker":
        if _NO_NETWORK.search(message) and request.container.network == "none":
            return f"{message}. The container has no network; --network bridge gives it one."
        if missing := _MISSING_FILE.match(message):
            shown = _folder(missing[1])
            return f"{message}. A container sees none of this machine's files; show it a folder with -v {shown}."
    found = _KEY_ERROR.match(message)
    if found is None or request.runner == "threaded":
        return message
    name, environ = found[1], environment()
    if name not in environ or name in job_environment(environ, request):
        return message
    return f"{message}. The kernel's environment has {name}; pass it with -e {name}."


def _folder(path: str) -> str:
    """A mount that would show this path where the code looks for it."""
    folder = os.path.dirname(path) or "."
    return f"{folder}:{folder}:ro" if folder.startswith("/") else f"{folder}:/job/{folder.strip('./') or 'data'}:ro"
