"""A sentence more for failures whose cause lies in how the job was started."""

from __future__ import annotations

import re

from ..config import environment, job_environment
from ..jobs import JobRequest

_KEY_ERROR = re.compile(r"KeyError: '(\w+)'\Z")


def with_hint(message: str, request: JobRequest) -> str:
    """The message and, for a missing environment variable that the kernel has, how to pass it."""
    found = _KEY_ERROR.match(message)
    if found is None or request.runner == "threaded":
        return message
    name, environ = found[1], environment()
    if name not in environ or name in job_environment(environ, request.profile, request.env):
        return message
    return f"{message}. The kernel's environment has {name}; pass it with -e {name}."
