"""A Docker engine of the test run's own: it shares nothing with an engine that this machine may have already.

It has a containerd, socket, data, state, network bridge and empty settings of its own and leaves the firewall alone,
or has a firewall of its own too, with network interfaces that only its containers see.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import docker
import psutil

GUARD_SECONDS = 60.0
_LONGEST_FOLDER = 60  # a socket's whole path must stay below 108 bytes
_PREFIX, _OWNER = "ntj-e-", "owner.json"
_CONTAINERD = """version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{folder}/containerd.sock"
"""


@contextmanager
def running(*options: str, firewall: bool = False) -> Iterator[Engine]:
    """An engine without images, removed at the end with everything that is in it. options: more for `dockerd`."""
    sweep_dead_runs()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_base()))
    engine = Engine(folder, options, firewall=firewall)
    try:
        # in memory: made and removed at once, however busy the disk is
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g,mode=700", "tmpfs", str(folder)], check=True)
        me = psutil.Process()
        owner = {"pid": me.pid, "started": me.create_time(), "bridge": engine.bridge}
        (folder / _OWNER).write_text(json.dumps(owner))
        engine.start()
        yield engine
    finally:
        engine.close()


def sweep_dead_runs() -> None:
    """Remove the engines of runs that were killed; never one whose run still lives, or that tells of none."""
    for told in Path(_base()).glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(FileNotFoundError), told.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # another run is at it
                continue
            owner = json.load(file)
            if not _lives(owner["pid"], owner["started"]):
                Engine(told.parent, bridge=owner["bridge"]).remove()


def _base() -> str:
    base = tempfile.gettempdir()
    return base if len(base) < _LONGEST_FOLDER else "/tmp"


def _lives(pid: int, started: float) -> bool:
    try:
        return psutil.Process(pid).create_time() == started
    except psutil.NoSuchProcess:
        return False


class Engine:
    """A private engine that tests may stop, kill and freeze. environ: what a process needs to find it."""

    def __init__(self, folder: Path, options: Sequence[str] = (), *, bridge: str = "", firewall: bool = False) -> None:
        self.folder = folder
        self._options = options
        self._firewall = firewall
        self.bridge = bridge or f"ntj{secrets.token_hex(4)}"
        self.url = f"unix://{folder}/docker.sock"
        self.environ = {"DOCKER_HOST": self.url}
        self._containerd: subprocess.Popen[bytes] | None = None
        self._dockerd: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of `dockerd`."""
        assert self._dockerd is not None, "this engine is stopped"
        return self._dockerd.pid

    @contextmanager
    def client(self, *, timeout_seconds: float = GUARD_SECONDS) -> Iterator[docker.DockerClient]:
        """A client of the SDK, whose connections are closed at the end; `.api` is the low-level one."""
        client = docker.DockerClient(base_url=self.url, timeout=timeout_seconds)
        try:
            yield client
        finally:
            client.close()

    def start(self) -> None:
        """Start what doesn't run, and wait until it answers."""
        if self._containerd is None:
            if not self._firewall:
                self._make_bridge()
            (self.folder / "containerd.toml").write_text(_CONTAINERD.format(folder=self.folder))
            (self.folder / "daemon.json").write_text("{}")  # the machine's own settings are for the machine's engine
            command = ["containerd", "--config", str(self.folder / "containerd.toml")]
            self._containerd = self._launch(command, lambda: _connects(self.folder / "containerd.sock"))
        if self._dockerd is None:
            self._dockerd = self._launch(self._command(), self.answers)

    def stop(self) -> None:
        """Stop `dockerd` in order: it stops its containers, which stay in it."""
        if self._dockerd is not None:
            self.thaw()
            self._dockerd.terminate()
            self._dockerd.wait(GUARD_SECONDS)
            self._dockerd = None

    def kill(self) -> None:
        """`kill -9` of `dockerd`: containers go on running, as they do on a real machine."""
        if self._dockerd is not None:
            self._dockerd.kill()
            self._dockerd.wait(GUARD_SECONDS)
            self._dockerd = None

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Let `dockerd` take connections and never answer, until `thaw`."""
        os.kill(self.pid, signal.SIGSTOP)
        until(lambda: psutil.Process(self.pid).status() == psutil.STATUS_STOPPED, "dockerd is stopped by SIGSTOP")

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def answers(self) -> bool:
        """Whether a ping is answered within a second."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1)
            try:
                connection.connect(str(self.folder / "docker.sock"))
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(64)
            except OSError:
                return False

    def log(self) -> str:
        """What `dockerd` and `containerd` wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def processes(self) -> dict[int, str]:
        """Every process of this engine by its id: `dockerd`, `containerd` and one for each running container."""
        found = {}
        for process in psutil.process_iter(["cmdline"]):
            command = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in command and "containerd" in command:
                found[process.pid] = command
        return found

    def leftovers(self) -> dict[str, list[str]]:
        """What this machine has of this engine."""
        return {
            "processes": list(self.processes().values()),
            "mounts": mounts_below(self.folder),
            "bridges": [name for name in os.listdir("/sys/class/net") if name == self.bridge],
            "folders": [str(self.folder)] if self.folder.exists() else [],
        }

    def close(self) -> None:
        """Remove the engine. One that a test left dead or frozen is started again: only it can remove what it made."""
        try:
            if self._dockerd is not None and not self.answers():
                self.kill()
            self.start()
            self._empty()
            self.stop()
        finally:
            self._sweep()

    def remove(self) -> None:
        """Remove an engine that another process started and left."""
        for process in psutil.process_iter():
            if self._contains(process.pid):
                process.kill()
        self._sweep()

    def _contains(self, pid: int) -> bool:
        """Whether a process runs in a container of this engine: its root lies there."""
        try:
            mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
        except OSError:
            return False
        return any(line.split()[4] == "/" and f"{self.folder}/" in line for line in mounts)

    def _command(self) -> list[str]:
        folder = self.folder
        return [
            *(("unshare", "--net", "dockerd") if self._firewall else ("dockerd",)),
            *("--host", self.url, "--config-file", f"{folder}/daemon.json"),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/docker.pid"),
            *("--containerd", f"{folder}/containerd.sock"),
            *(() if self._firewall else ("--bridge", self.bridge)),
            *(() if self._firewall else ("--iptables=false", "--ip-forward=false", "--ip-masq=false")),
            *self._options,
        ]

    def _launch(self, command: Sequence[str], ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which stop it then
            )
        try:
            until(lambda: process.poll() is not None or ready(), f"{command[0]} answers")
            assert process.poll() is None, f"{command[0]} ended at once:\n{self.log()[-2000:]}"
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def _make_bridge(self) -> None:
        number = secrets.randbelow(512)  # of the networks that are set aside for measuring and belong to nobody
        address = f"198.{18 + number // 256}.{number % 256}.1/24"
        for arguments in (["link", "add", self.bridge, "type", "bridge"], ["addr", "add", address, "dev", self.bridge]):
            subprocess.run(["ip", *arguments], check=True)
        subprocess.run(["ip", "link", "set", self.bridge, "up"], check=True)

    def _empty(self) -> None:
        with self.client() as client:
            for container in client.api.containers(all=True):
                client.api.remove_container(container["Id"], force=True, v=True)
            client.api.prune_networks()

    def _sweep(self) -> None:
        for process in (self._dockerd, self._containerd):
            if process is not None:
                process.terminate() if process is self._containerd else process.kill()
                process.wait(GUARD_SECONDS)
        self._dockerd = self._containerd = None
        for pid in self.processes():
            with suppress(ProcessLookupError):  # one may end with another
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "the engine's processes are gone")
        if self.leftovers()["bridges"]:
            subprocess.run(["ip", "link", "delete", self.bridge], check=True)
        remove(self.folder)
        left = self.leftovers()
        assert not any(left.values()), left


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; its value."""
    guard = time.monotonic() + GUARD_SECONDS
    while not (value := condition()):
        assert time.monotonic() < guard, f"waited in vain until {what}"
        time.sleep(0.02)
    return value


def mounts_below(folder: Path) -> list[str]:
    """Where something is mounted on a folder or in it, the innermost first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if f"{point}/".startswith(f"{folder}/")), reverse=True)


def remove(folder: Path) -> None:
    """Remove a folder in which something may still be mounted."""
    for point in mounts_below(folder):
        subprocess.run(["umount", "--lazy", point], check=True)
    assert not mounts_below(folder), "nothing is deleted through a mount"
    shutil.rmtree(folder)


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True
