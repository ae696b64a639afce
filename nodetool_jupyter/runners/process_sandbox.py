"""An untrusted job of the `subprocess` runner: the same order to the supervisor, with bubblewrap around it."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import Any

from ..jobs import JobRequest
from ..sandbox import Sandbox, environment, sandbox
from ..worker.tree import JOB_VARIABLE
from .base import Parcel
from .process_limits import Plan
from .process_python import interpreter


def sandbox_for(request: JobRequest) -> Sandbox:
    """The sandbox of this job's interpreter. The first one takes a tenth of a second. Raises `ProfileRefused`."""
    python = interpreter(request.python)
    return sandbox(python.path, python.folders, cwd=request.cwd)


def enclose(order: Mapping[str, Any], box: Sandbox, request: JobRequest, parcel: Parcel, plan: Plan) -> dict[str, Any]:
    """The order with the sandbox around its interpreter; of the environment only what was asked for goes in."""
    limits = {**plan.defaults, **request.limits.asked()}
    environ = environment(parcel.environ, request.env, python=order["argv"][0], cpus=limits["cpus"])
    processors = sorted(os.sched_getaffinity(0))
    return {
        **order,
        "argv": [*box.argv, *order["argv"]],
        "env": {**environ, JOB_VARIABLE: order["job"]},
        "cwd": "/",
        "enclosed": True,
        "processors": random.sample(processors, min(plan.processors, len(processors))),
    }
