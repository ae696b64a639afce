"""Runs notebooks without a browser: `live.py NOTEBOOK…` shows their jobs at work; with `--save` it keeps the outputs.

While a notebook runs in its kernel, this process follows the kernel's jobs through the store, as any viewer could.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

from nodetool_jupyter.config import Settings
from nodetool_jupyter.jobs import Job
from nodetool_jupyter.stores import open_store
from nodetool_jupyter.view import View, begin, final_line, fold_all, status_line

PULSE_SECONDS = 0.1
MOST_LINES = 12


class Terminal:
    """Lines that stay, and below them one that changes; where there is no terminal it comes again at each tenth."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = ""
        self._tenth = ""
        self.moving = sys.stdout.isatty()

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self._lock:
            self._erase()
            print(line, flush=True)
            self._draw()

    def status(self, line: str, tenth: str = "") -> None:
        """Change the line below; "" takes it away. `tenth` tells how far it is, roughly."""
        with self._lock:
            if self.moving:
                self._erase()
                self._status = line[: shutil.get_terminal_size().columns - 1]
                self._draw()
            elif line and tenth != self._tenth:
                print(line, flush=True)
            self._tenth = tenth

    def _erase(self) -> None:
        if self.moving and self._status:
            print("\r\x1b[2K", end="", flush=True)

    def _draw(self) -> None:
        if self.moving and self._status:
            print(self._status, end="", flush=True)


class Watch(threading.Thread):
    """Follows every job that begins after this, and says how it does."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(daemon=True)
        self._terminal = terminal
        self._settings = Settings()
        self._store = open_store(self._settings)
        self._since = time.time()
        self._views: dict[str, View] = {}
        self._looking = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        """Look until `close`."""
        while not self._ended.wait(PULSE_SECONDS):
            self.look()

    def look(self) -> None:
        """Read what is new of each job that has not ended."""
        with self._looking:
            for job in reversed(self._store.find(user=self._settings.user, limit=20)):
                if job.created_at >= self._since and not self._view(job).status.final:
                    self._show(job)

    def close(self) -> None:
        """Stop, once the last job was shown to its end."""
        self._ended.set()
        self.join()
        self.look()
        self._store.close()

    def _view(self, job: Job) -> View:
        return self._views.setdefault(job.id, begin(job))

    def _show(self, job: Job) -> None:
        old = self._views[job.id]
        view = self._views[job.id] = fold_all(old, self._store.read(job.id, after=old.seq))
        if view.status.final:
            self._terminal.status("")
            self._terminal.say(f"  {final_line(view)}")
        else:
            bar = next(iter(view.bars), None)
            tenth = f"{job.id} {int(10 * (bar.fraction or 0))}" if bar else job.id
            self._terminal.status(f"  {status_line(view, time.time())}", tenth)


class Live(NotebookClient):
    """Executes a notebook and says what its cells show."""

    def __init__(self, notebook: Any, terminal: Terminal, watch: Watch | None = None, **options: Any) -> None:
        quiet = Config({"KernelManager": {"transport_encryption": "auto"}})
        super().__init__(notebook, timeout=600, store_widget_state=False, record_timing=False, config=quiet, **options)
        self.terminal = terminal
        self.watch = watch

    async def async_execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Say which cell begins, and at its end how its jobs ended."""
        if cell.cell_type == "code":
            first, *more = cell.source.splitlines() or [""]
            code = [n for n, one in enumerate(self.nb.cells) if one.cell_type == "code"]
            self.terminal.say(f"\n[{code.index(cell_index) + 1}/{len(code)}] {first}{' …' if more else ''}")
        try:
            return await super().async_execute_cell(cell, cell_index, **options)
        finally:
            if self.watch:
                self.watch.look()

    def process_message(self, message: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Say what a cell shows, as text."""
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            self._say(content["text"])
        elif kind in {"execute_result", "display_data"} and "image/png" in content["data"]:
            self._say("(a picture)")
        elif kind in {"execute_result", "display_data"}:
            self._say(content["data"].get("text/plain", ""))
        elif kind == "error":
            self._say(f"{content['ename']}: {content['evalue']}")
        return super().process_message(message, cell, cell_index)

    def _say(self, text: str) -> None:
        lines = text.rstrip("\n").splitlines()
        for line in lines[:MOST_LINES]:
            self.terminal.say(f"  | {line}")
        if len(lines) > MOST_LINES:
            self.terminal.say(f"  | … and {len(lines) - MOST_LINES} more lines")


def show(path: Path) -> None:
    """Run a notebook as it is, with progress; the copy with its outputs lies in `build/`."""
    terminal = Terminal()
    watch = Watch(terminal)
    watch.start()
    notebook = nbformat.read(path, 4)
    target = Path("build", path.name)
    target.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    try:
        os.environ["NODETOOL_PROGRESS"] = "none"  # this process shows it
        Live(notebook, terminal, watch, resources={"metadata": {"path": path.parent}}).execute()
    finally:
        watch.close()
        nbformat.write(notebook, target)
    terminal.say(f"\n{path} ran in {time.monotonic() - start:.1f} s. With its outputs it is {target}.")


def save(path: Path) -> None:
    """Run a notebook with a store of its own, and write what it shows into it."""
    notebook = nbformat.read(path, 4)
    with tempfile.TemporaryDirectory(prefix="ntj-") as data:
        os.environ.update(NODETOOL_NONINTERACTIVE="1", JUPYTER_DATA_DIR=data)
        Live(notebook, Terminal(), resources={"metadata": {"path": path.parent}}).execute()
    for cell in notebook.cells:
        if "no-saved-output" in cell.metadata.get("tags", ()):  # it tells of this machine
            cell.outputs, cell.execution_count = [], None
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    path.write_text(without_this_machine(nbformat.writes(notebook)) + "\n")


def without_this_machine(text: str) -> str:
    """A saved notebook without the folders and addresses of the machine that ran it."""
    for folder in sorted({sys.prefix, sys.base_prefix, str(Path.cwd()), str(Path.home())}, key=len, reverse=True):
        text = text.replace(folder, "…")
    return re.sub(r"0x[0-9a-f]{8,}", "0x…", text)


def main(arguments: list[str]) -> int:
    """0, or 1 when a cell failed that was not meant to."""
    saving = "--save" in arguments
    try:
        for path in [Path(argument) for argument in arguments if argument != "--save"]:
            (save if saving else show)(path)
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
