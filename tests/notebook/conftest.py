"""A session without a front end, and one real kernel per module."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.notebook import session as sessions
from nodetool_jupyter.notebook.session import Session
from nodetool_jupyter.runners.base import Runner
from tests.kernel.conftest import Kernel
from tests.small_disk import small_disk  # noqa: F401  # pytest finds fixtures by name


@pytest.fixture
def plain_session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The session of plain Python, on a store in memory."""
    monkeypatch.setenv("ENV", "test")
    session = Session()
    before = sessions.replace_current(session)
    yield session
    session.close()
    sessions.replace_current(before)


@pytest.fixture
def with_runners(plain_session: Session) -> Callable[..., Session]:
    """The session with runners of the test's own."""

    def put(*runners: Runner) -> Session:
        plain_session._manager = JobExecutionManager(plain_session.settings(), runners=runners)
        return plain_session

    return put


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """IPython without terminal and kernel, with the extension loaded, noninteractive."""
    monkeypatch.setenv("ENV", "test")
    ip: InteractiveShell = InteractiveShell.instance(colors="nocolor")
    ip.init_completer()
    ip.run_line_magic("load_ext", "nodetool_jupyter")
    yield ip
    ip.run_line_magic("unload_ext", "nodetool_jupyter")
    atexit.unregister(ip.atexit_operations)
    ip.atexit_operations()
    InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Kernel]]:
    """Start a kernel with the extension loaded; its jobs are kept in memory."""
    started: list[Kernel] = []

    def start(**environ: str) -> Kernel:
        folder: Path = tmp_path_factory.mktemp("kernel")
        kernel = Kernel({**os.environ, "ENV": "test", **environ}, folder)
        started.append(kernel)
        kernel.value("%load_ext nodetool_jupyter")
        return kernel

    yield start
    for kernel in started:
        kernel.close()


@pytest.fixture(scope="module")
def kernel(kernels: Callable[..., Kernel]) -> Kernel:
    """A kernel as a notebook has it: with cards."""
    return kernels(NODETOOL_NONINTERACTIVE="0")


@pytest.fixture(scope="module")
def quiet_kernel(kernels: Callable[..., Kernel]) -> Kernel:
    """A kernel as nbval and CI have it: noninteractive."""
    return kernels()


def refused(shell: Any, cell: str) -> str:
    """The sentence with which a cell is refused."""
    result = shell.run_cell(cell)
    assert result.error_in_exec is not None, "the cell was not refused"
    return str(result.error_in_exec)
