"""A stop while a job's process boots: it waits until the work can take it, and none of our own code is shown."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import venv
from pathlib import Path

import anyio
import pytest

from nodetool_jupyter.events import Exit, Stream
from nodetool_jupyter.frames import Raised, Report
from nodetool_jupyter.jobs import CodeWork, JobRequest
from nodetool_jupyter.runners.base import Parcel
from nodetool_jupyter.runners.run_frame import run_frame
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from nodetool_jupyter.worker import wire, zygote
from nodetool_jupyter.worker.control import PREFIX
from nodetool_jupyter.worker.tree import JOB_VARIABLE
from tests.runners.processes import HANG_GUARD_SECONDS, Place

# Runs in the process that boots: says that it is here, and goes on when the stop has arrived and waits.
HOLD = """
import os, signal, sys, time
if "boot.py" in " ".join(sys.orig_argv):
    open({mark!r}, "w").close()
    until = time.monotonic() + {guard}
    while signal.{name} not in signal.sigpending() and time.monotonic() < until:
        time.sleep(0.001)
"""


def before_python(folder: Path, hold: str) -> Path:
    """An interpreter that is held before it runs."""
    (folder / "hold.py").write_text(f"{hold}\nos.execv(sys.argv[1], sys.argv[1:])")
    words = [sys.executable, "-I", "-S", str(folder / "hold.py"), sys.executable]
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    python.chmod(0o755)
    return python


def in_site(folder: Path, hold: str) -> Path:
    """An interpreter that is held by a module of its environment, when the worker has been given its work."""
    venv.create(folder / "env", symlinks=True)
    [packages] = (folder / "env").glob("lib/python*/site-packages")
    (packages / "held_at_boot.py").write_text(hold)  # some systems have a sitecustomize of their own
    (packages / "held_at_boot.pth").write_text("import held_at_boot\n")
    return folder / "env" / "bin" / "python"


@pytest.mark.parametrize("held", [before_python, in_site])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stop_during_boot_is_taken_by_the_work_and_shows_nothing_of_ours(
    place: Place, tmp_path: Path, held: object, name: str
) -> None:
    mark = tmp_path / "mark"
    hold = HOLD.format(mark=str(mark), guard=HANG_GUARD_SECONDS, name=name)
    python = held(tmp_path, hold)  # type: ignore[operator]  # one of the two above

    async def work(runner: SubprocessRunner) -> tuple[list[Report], Exit]:
        request = JobRequest(work=CodeWork("print('never')"), runner="subprocess", python=str(python))
        await anyio.to_thread.run_sync(runner.check, request)
        async with runner.launch(place.job(request), Parcel(environ=os.environ)) as worker:
            while not mark.exists():
                await anyio.sleep(0.001)
            if name == "SIGINT":
                worker.stop(2 * HANG_GUARD_SECONDS)
            else:
                os.kill(int(worker.isolation().details["pid"]), signal.SIGTERM)
            reports = [report async for batch in worker.reports() for report in batch]
            return reports, await worker.wait()

    reports, ended = place.session(work)
    [raised] = [report for report in reports if isinstance(report, Raised)]
    assert raised.ename == {"SIGINT": "KeyboardInterrupt", "SIGTERM": "SystemExit"}[name]
    assert raised.cancelled
    assert "line" not in "".join(raised.traceback)
    assert [report.text for report in reports if isinstance(report, Stream)] == []
    assert (ended.code, ended.signal) == (1, None)


def test_a_stop_finds_a_waiting_interpreter_before_it_is_the_jobs(tmp_path: Path) -> None:
    orders, theirs = socket.socketpair()
    channel, its_channel = socket.socketpair()
    null = os.open(os.devnull, os.O_RDWR)
    waits = "import socket, sys\nfrom nodetool_jupyter.worker.zygote import _wait_for_order\n"
    waits += "_wait_for_order(socket.socket(fileno=int(sys.argv[1])))"
    command = [sys.executable, "-c", waits, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        while not _blocks(process.pid, signal.SIGINT):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        order = {"parent": os.getpid(), "cwd": str(tmp_path), "env": {JOB_VARIABLE: "j"}, "rlimits": {}}
        data = json.dumps(order).encode()
        socket.send_fds(orders, [PREFIX.pack(len(data)) + data], [null, null, its_channel.fileno()])
        assert orders.recv(1) == zygote.TAKEN
        assert orders.recv(1) == b""
        its_channel.close()
        run = run_frame(JobRequest(work=CodeWork("print('never')")), Parcel(), sys_path=sys.path, by_value=True)
        wire.write(channel.fileno(), run)
        channel.settimeout(HANG_GUARD_SECONDS)
        parser, types = wire.Parser(max_body_bytes=0), []
        while data := channel.recv(1 << 16):
            types += [json.loads(header)["type"] for header, _ in parser.feed(data)]
        assert types == ["ready", "raised"]
    finally:
        for end in (orders, channel, its_channel):
            end.close()
        os.close(null)
        process.kill()
        process.wait()


def _blocks(pid: int, number: int) -> bool:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigBlk:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False
