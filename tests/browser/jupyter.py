"""A real Jupyter server on loopback, and what a person does in its page."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

from playwright.sync_api import Locator, Page, expect

App = Literal["lab", "notebook"]
EXPOSED = {"lab": "--LabApp.expose_app_in_browser=True", "notebook": "--JupyterNotebookApp.expose_app_in_browser=True"}
MODULE = {"lab": "jupyterlab", "notebook": "notebook"}
QUIET = {
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}
SETTINGS = ".home/settings"
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"


@dataclass(frozen=True)
class Server:
    """One that runs: `folder` is where its notebooks are, `log` its output."""

    app: App
    url: str
    token: str
    folder: Path
    log: Path


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serve(app: App, folder: Path, *, environ: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server with folders of its own below `folder`; it and its kernels are gone afterwards."""
    home = folder / ".home"
    names = {"CONFIG": "config", "DATA": "data", "RUNTIME": "run"}
    settings = folder / SETTINGS
    for name, content in QUIET.items():
        (settings / name).parent.mkdir(parents=True, exist_ok=True)
        (settings / name).write_text(json.dumps(content))
    token, port = secrets.token_hex(16), _free_port()
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "NODETOOL_"))},
        **{f"JUPYTER_{name}_DIR": str(home / part) for name, part in names.items()},
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_TOKEN": token,
        "HOME": str(home),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        **(environ or {}),
    }
    command = [sys.executable, "-m", MODULE[app], "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", EXPOSED[app]]
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    server = Server(app, f"http://127.0.0.1:{port}", token, folder, log)
    try:
        _wait_until_up(server, process)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_up(server: Server, process: subprocess.Popen[bytes]) -> None:
    guard = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{server.url}/api/status?token={server.token}", timeout=5).read()
            return
        except (OSError, HTTPException):  # also one that takes the call and is too busy to answer
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            if process.poll() is not None or time.monotonic() > guard:
                raise RuntimeError(f"The Jupyter server did not start:\n{server.log.read_text()}") from None


class Notebook:
    """An open notebook in a page."""

    def __init__(self, page: Page, server: Server, cells: Sequence[str], *, name: str = "test") -> None:
        self.page = page
        self.server = server
        self.name = f"{name}-{secrets.token_hex(3)}.ipynb"
        self.path = server.folder / self.name
        self.path.write_text(json.dumps(_document(cells)))
        self.open()

    def open(self) -> None:
        """Open the page and wait for its kernel."""
        where = f"/lab/tree/{self.name}?reset&" if self.server.app == "lab" else f"/notebooks/{self.name}?"
        self.page.goto(f"{self.server.url}{where}token={self.server.token}")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_for_kernel("idle")

    def reload(self) -> None:
        """Load the page again, as a person does."""
        self.page.reload()
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        self.wait_for_kernel("idle")

    def wait_for_kernel(self, status: str) -> None:
        """Wait until the kernel says so. The indicator in the page says idle before there is a session."""
        self.page.wait_for_function(
            f"{KERNEL} && {KERNEL}.connectionStatus === 'connected' && {KERNEL}.status === '{status}'"
        )

    def cell(self, index: int) -> Locator:
        """A cell by its place, from 0."""
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')

    def output(self, index: int) -> Locator:
        """What a cell shows. Never look into the whole cell: its source has the same words."""
        return self.cell(index).locator(".jp-Cell-outputArea")

    def start(self, index: int) -> None:
        """Run a cell and don't wait for it."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, index: int) -> None:
        """Run a cell to its end."""
        self.start(index)
        self.wait_for_end(index)

    def wait_for_end(self, index: int) -> None:
        """Wait until a cell has its number."""
        expect(self.cell(index).locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]"))

    def is_running(self, index: int) -> bool:
        """Whether a cell waits or runs."""
        return "*" in self.cell(index).locator(".jp-InputPrompt").inner_text()

    def command(self, name: str) -> None:
        """Run one of the application's commands."""
        self.page.evaluate("name => window.jupyterapp.commands.execute(name)", name)

    def save(self) -> dict[str, object]:
        """Save, and the document as it is on the disk then."""
        before = self.path.stat().st_mtime_ns
        self.command("docmanager:save")
        guard = time.monotonic() + 30
        while self.path.stat().st_mtime_ns == before:
            assert time.monotonic() < guard, "the notebook was not saved"
            self.page.wait_for_timeout(50)
        return dict(json.loads(self.path.read_text()))

    def close(self) -> None:
        """Shut the kernel down, so that its jobs end with it."""
        self.page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")


def use_theme(page: Page, theme: str) -> None:
    """Change the page's theme; the server remembers it until `forget_theme`."""
    page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
    page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)


def forget_theme(server: Server) -> None:
    """Have the next page begin with the theme that it ends with: one that changes while it loads may fail to."""
    (server.folder / SETTINGS / "@jupyterlab/apputils-extension/themes.jupyterlab-settings").unlink(missing_ok=True)


def _document(cells: Sequence[str]) -> dict[str, object]:
    empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    return {
        "cells": [{**empty, "id": f"cell-{index}", "source": source} for index, source in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
