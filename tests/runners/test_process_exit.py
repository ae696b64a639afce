"""From a receipt to what killed a job, and to the sentence about it."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.runners.process_exit import describe
from nodetool_jupyter.sandbox import SHM_BYTES
from nodetool_jupyter.verdict import verdict

MIB = 1 << 20
FAULT = "Fatal Python error: Bus error\n"


def receipt(status: int) -> dict[str, Any]:
    noted = {"stuck": False, "oom_kills": 0, "killed_for": None, "peak_memory_bytes": 0, "by_us": False}
    return {**noted, "status": status, "refused_forks": 0, "reaped": 1, "sent": (), "cpu_seconds": 0.0}


@pytest.mark.parametrize(
    ("limits", "defaults", "sandbox_bytes", "said"),
    [
        ({"shm_bytes": 16 * MIB}, {"pids": 64}, 0, "it has 16 MiB. Rerun with --shm-size 32m."),
        ({}, {"shm_bytes": 64 * MIB}, 0, "it has 64 MiB. Rerun with --shm-size 128m."),
        ({}, {}, SHM_BYTES, "it has 8 MiB in the sandbox. Share less, or rerun with -r docker --shm-size 16m."),
        ({}, {}, 0, ""),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV])
def test_a_bus_error_is_told_with_the_shared_memory_that_it_mostly_means(
    limits: dict[str, int], defaults: dict[str, float], sandbox_bytes: int, said: str, number: signal.Signals
) -> None:
    asked = ResourceLimits(**limits)
    found = describe(
        receipt(-number), limits=asked, defaults=defaults, stderr_tail=FAULT, sandbox_shm_bytes=sandbox_bytes
    )
    message = verdict(None, found, limits=asked).message
    assert message.startswith(f"The interpreter crashed with {number.name} (")
    assert message.endswith("Fatal Python error: Bus error")
    if number is signal.SIGBUS and said:
        assert f"Bus error). Most often that means that /dev/shm is full: {said} Fatal" in message
    else:
        assert "/dev/shm" not in message
