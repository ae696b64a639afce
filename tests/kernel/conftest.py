"""A real kernel in a process of its own, with a store of its own."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.conftest import HANG_GUARD_SECONDS


def gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that waits for its reaper has."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], Any]) -> Any:
    """Wait for a condition; its value."""
    guard = time.monotonic() + HANG_GUARD_SECONDS
    while not (value := condition()):
        assert time.monotonic() < guard, "waited in vain"
        time.sleep(0.01)
    return value


@dataclass
class Ran:
    """What a cell did: everything it showed as text, and its error."""

    text: str = ""
    error: str = ""
    message: str = ""
    bundles: list[dict[str, Any]] = field(default_factory=list)


class Kernel:
    """A kernel and its client."""

    def __init__(self, environ: dict[str, str], folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3", transport_encryption="auto")
        self.manager.start_kernel(env=environ, cwd=str(folder))
        self._connect()

    def _connect(self) -> None:
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=HANG_GUARD_SECONDS)

    @property
    def pid(self) -> int:
        """The kernel's own process."""
        return int(self.manager.provisioner.pid)

    def start(self, code: str) -> str:
        """Send a cell; its message's id."""
        return str(self.client.execute(code))

    def follow(self, cell: str, *, until_text: str = "") -> Ran:
        """Collect what a cell shows until it ends, or until a text has come."""
        ran = Ran()
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=HANG_GUARD_SECONDS)
            except queue.Empty:
                pytest.fail(f"The cell did not end. It showed:\n{ran.text}")
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                ran.text += content["text"]
            elif kind in {"display_data", "execute_result", "update_display_data"}:
                ran.bundles.append(content["data"])
                ran.text += content["data"].get("text/plain", "") + "\n"
            elif kind == "error":
                ran.error, ran.message = content["ename"], content["evalue"]
            elif kind == "status" and content["execution_state"] == "idle":
                return ran
            if until_text and until_text in ran.text:
                return ran

    def run(self, code: str) -> Ran:
        """Run a cell to its end, whatever that is."""
        return self.follow(self.start(code))

    def value(self, code: str) -> str:
        """What a cell prints; it must not fail."""
        ran = self.run(code)
        assert not ran.error, f"{ran.error}: {ran.message}"
        return ran.text.strip()

    def interrupt(self) -> None:
        """What the stop button does."""
        self.manager.interrupt_kernel()

    def restart(self, *, now: bool = False) -> None:
        """What the restart button does; `now` kills instead of asking."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self._connect()

    def close(self) -> None:
        """End it, whatever is left of it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def kernel_environ(tmp_path: Path) -> dict[str, str]:
    """As a person's kernel has it, without widgets, on the default store in a folder of its own."""
    return {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "data"), "NODETOOL_NONINTERACTIVE": "1"}


@pytest.fixture
def start_kernel(kernel_environ: dict[str, str], tmp_path: Path) -> Iterator[Callable[[], Kernel]]:
    """Start a kernel with the extension loaded; all of them share one store."""
    started: list[Kernel] = []

    def start() -> Kernel:
        kernel = Kernel(kernel_environ, tmp_path)
        started.append(kernel)
        kernel.value("%load_ext nodetool_jupyter")
        return kernel

    yield start
    for kernel in started:
        kernel.close()


@pytest.fixture
def kernel(start_kernel: Callable[[], Kernel]) -> Kernel:
    """One kernel with the extension loaded."""
    return start_kernel()
