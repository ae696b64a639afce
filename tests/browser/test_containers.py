"""The card of a job in a container: its image on the way, what it uses and may use, what it is kept from, its end."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.jupyter import Notebook, Server, serve, use_theme
from tests.browser.test_card import CONTRAST, LOAD, card, folded
from tests.engine.images import DEFAULT, tarball
from tests.engine.private import Engine
from tests.engine.registry import SlowRegistry

pytestmark = pytest.mark.timeout(300)  # the first one starts an engine and a JupyterLab
BUSY = """
import subprocess, time
from nodetool_jupyter import progress
helpers = [subprocess.Popen(["sleep", "600"]) for _ in range(3)]
kept = []
for n in range(6000):
    kept = [*kept[-200:], b"x" * 200_000]
    progress(n + 1, 6000, "collecting")
    time.sleep(0.1)
"""

OVERLAPS = """card => {
  const rows = [...card.children].filter(row => row.offsetHeight).map(row => {
    const text = document.createRange();
    text.selectNodeContents(row);
    return {name: row.className, top: row.getBoundingClientRect().top, bottom: text.getBoundingClientRect().bottom};
  });
  return rows.slice(1).filter((row, n) => rows[n].bottom > row.top + 1).map(row => row.name);
}"""


@pytest.fixture(scope="session")
def server(browser: Browser, run_engine: Engine) -> Iterator[Server]:
    """A JupyterLab whose kernels find the engine of the tests."""
    folder = Path(tempfile.mkdtemp(prefix="ntj-b-"))
    with serve("lab", folder, environ={**run_engine.environ, "NODETOOL_DOCKER_IMAGE": DEFAULT}) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def registry() -> Iterator[SlowRegistry]:
    with SlowRegistry(tarball()).serving() as running:
        yield running


@pytest.fixture
def ready(notebook: Callable[..., Notebook]) -> Callable[..., Notebook]:
    """A notebook whose first cell has loaded the extension, and whose second is a job in a container."""

    def make(code: str, options: str = "") -> Notebook:
        opened = notebook([LOAD, f"%%nodetool --runner docker {options}\n{code.strip()}"])
        opened.run(0)
        return opened

    return make


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_card_shows_what_a_container_uses_may_use_and_is_kept_from(
    ready: Callable[..., Notebook], page: Page, shoot: Callable[..., Path], theme: str
) -> None:
    opened = ready(BUSY, "--name collect --memory 256m --cpus 0.5 --pids-limit 64")
    use_theme(page, theme)
    opened.start(1)
    shown = card(opened, 1)
    expect(shown.locator(".ntj-usage-text")).to_have_text(
        re.compile(r"MiB of 256 MiB, .* CPU on up to 0\.5 processors, \d+ of 64 processes")
    )
    expect(shown.locator(".ntj-isolation")).to_have_text("container · user 65534 · no network · none of your files")
    expect(shown.get_by_role("progressbar")).to_be_visible()
    assert opened.is_running(1)
    shoot()
    contrasts = shown.evaluate(CONTRAST)
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 3.5} == {}
    page.set_viewport_size({"width": 720, "height": 900})
    shoot("narrow")
    assert shown.evaluate(OVERLAPS) == []
    shown.get_by_role("button", name="Cancel").click()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


def test_an_image_on_its_way_shows_how_far_it_is(
    ready: Callable[..., Notebook], registry: SlowRegistry, shoot: Callable[..., Path]
) -> None:
    opened = ready("import os\nos.stat('/srv/weights').st_size > 0", f"--name fetch --image {registry.name}")
    opened.start(1)
    bar = card(opened, 1).get_by_role("progressbar", name="pull model:1.0")
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"\d+% · [\d.]+ MiB of [\d.]+ MiB"))
    expect(card(opened, 1)).to_have_attribute("data-status", "starting")
    shoot()
    registry.release()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "completed")).to_be_visible()
    expect(opened.output(1)).to_contain_text("True")


def test_a_job_can_be_cancelled_while_its_image_is_on_its_way(
    ready: Callable[..., Notebook], registry: SlowRegistry
) -> None:
    opened = ready("1", f"--image {registry.name}")
    opened.start(1)
    expect(card(opened, 1).get_by_role("progressbar", name="pull model:1.0")).to_be_visible()
    card(opened, 1).get_by_role("button", name="Cancel").click()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


def test_a_job_that_took_too_much_memory_says_what_to_do(
    ready: Callable[..., Notebook], shoot: Callable[..., Path]
) -> None:
    opened = ready("data = b'x' * 200_000_000", "--name hungry --memory 64m")
    opened.run(1)
    expect(folded(opened, 1, "failed")).to_be_visible()
    expect(opened.output(1)).to_contain_text("Killed: memory limit 64 MiB reached. Rerun with --memory 128m.")
    folded(opened, 1, "failed").locator("summary").click()
    expect(folded(opened, 1, "failed")).to_contain_text("memory 64 MiB (container memory)")
    shoot()


def test_an_untrusted_job_is_seen_to_be_one(ready: Callable[..., Notebook], shoot: Callable[..., Path]) -> None:
    opened = ready("import time\nprint('inside', flush=True)\ntime.sleep(600)", "--profile untrusted --name stranger")
    opened.start(1)
    expect(card(opened, 1).locator(".ntj-isolation")).to_contain_text("read-only")
    expect(card(opened, 1).locator(".ntj-isolation")).to_contain_text("profile untrusted")
    expect(card(opened, 1).locator(".ntj-usage-text")).to_contain_text("of 512 MiB")
    shoot()
    card(opened, 1).get_by_role("button", name="Cancel").click()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()
