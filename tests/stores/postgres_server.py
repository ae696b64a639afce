"""A PostgreSQL server of the test run's own, on a socket in a temporary folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

USER, PASSWORD = "tester", "only-for-tests"
_START_SECONDS = 60.0
_numbers = count(1)


def find_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`, the newest of several."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.split(".")[0]))
    if (found := shutil.which("initdb")) is not None:
        folders.append(Path(found).resolve().parent)
    return next((folder for folder in reversed(folders) if (folder / "postgres").exists()), None)


class Server:
    """A running server; `new_database()` makes an empty database and gives its URL."""

    def __init__(self, binaries: Path, folder: Path, account: dict[str, object]) -> None:
        self._binaries = binaries
        self._folder = folder
        self._account = account
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        command = [self._binaries / "postgres", "-D", self._folder / "data", "-k", self._folder]
        settings = {"listen_addresses": "", "fsync": "off", "max_connections": "60"}
        self._process = subprocess.Popen(
            [*command, *(part for name, value in settings.items() for part in ("-c", f"{name}={value}"))],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            **self._account,
        )
        ready = threading.Event()
        threading.Thread(target=_watch, args=(self._process, ready), daemon=True).start()
        assert ready.wait(_START_SECONDS), "PostgreSQL did not start"
        assert self._process.poll() is None, "PostgreSQL ended at once"

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast": ends sessions, keeps what is committed
            self._process.wait()
            self._process = None

    def url(self, database: str, *, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@/{database}?host={self._folder}"

    def new_database(self, *, encoding: str = "UTF8") -> str:
        import psycopg

        name = f"test_{next(_numbers)}"
        of_its_own = "" if encoding == "UTF8" else f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C'"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {of_its_own}")  # type: ignore[arg-type]
        return self.url(name)


def _watch(process: subprocess.Popen[str], ready: threading.Event) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            if "ready to accept connections" in line:
                ready.set()
    ready.set()


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """Make a cluster, run its server, remove both. A server refuses root, so root hands it to another account."""
    folder = Path(tempfile.mkdtemp(prefix="ntj-pg-"))
    account: dict[str, object] = {}
    if os.geteuid() == 0:
        entry = _account()
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        account = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    secret = folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    try:
        command = [binaries / "initdb", "-D", folder / "data", "-U", USER, "-E", "UTF8", "--no-sync"]
        options = ["--locale=C.UTF-8", "-A", "scram-sha-256", f"--pwfile={secret}"]
        subprocess.run([*command, *options], cwd=folder, check=True, stdout=subprocess.DEVNULL, **account)
        server = Server(binaries, folder, account)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
