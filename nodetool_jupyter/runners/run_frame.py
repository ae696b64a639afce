"""The frame that gives a worker its work."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

from ..jobs import JobRequest
from ..worker import wire
from .base import Parcel


def run_frame(
    request: JobRequest,
    parcel: Parcel,
    *,
    sys_path: Sequence[str] | None,
    by_value: bool,
    environ: Mapping[str, str] | None = None,
) -> list[wire.Buffer]:
    """by_value: code of the cell may come back inside values. environ: what is set before the code runs."""
    return wire.encode(
        {
            "type": "run",
            "code": request.work.runnable,
            "filename": request.work.filename,
            "pickles": request.may_unpickle,
            "by_value": by_value,
            "python": platform.python_version(),
            "outputs": list(request.outputs),
            "collect": list(request.container.collect),
            "sys_path": list(sys_path) if sys_path else None,
            "environ": dict(environ or {}),
            "secrets": dict(parcel.secrets),
            "sources": dict(parcel.sources),
            "max_transfer_bytes": request.most_bytes_back,
        }
    )
