"""A sentence more for failures whose cause lies in how the job was started."""

from __future__ import annotations

import re

from ..config import environment, job_environment
from ..jobs import JobRequest, Profile

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
    found = _KEY_ERROR.match(message)
    if found is None or request.runner == "threaded":
        return message
    name, environ = found[1], environment()
    if name not in environ or name in job_environment(environ, request.profile, request.env):
        return message
    return f"{message}. The kernel's environment has {name}; pass it with -e {name}."
