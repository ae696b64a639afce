"""One server of each kind and one browser for all browser tests; a page of its own for each."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.jupyter import Notebook, Server, forget_theme, serve
from tests.components import require

SCREENSHOTS = Path(__file__).parent / "screenshots"
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
expect.set_options(timeout=120_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Come last: Playwright keeps an event loop running in the main thread, where others then can't run theirs.

    What is not about the application itself runs in JupyterLab alone, for the card's code is the same in both.
    """
    items[:] = [item for item in items if not (_in_notebook(item) and item.get_closest_marker("lab_alone"))]
    items.sort(key=lambda item: item.path.is_relative_to(Path(__file__).parent))


def _in_notebook(item: pytest.Item) -> bool:
    return getattr(item, "callspec", None) is not None and item.callspec.params.get("server") == "notebook"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    path = require("A Chromium browser", found, "apt-get install chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session", params=["lab", "notebook"])
def server(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="ntj-b-"))
    with serve(request.param, folder) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a browser that has never been here."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, device_scale_factor=2)
    opened = context.new_page()
    opened.set_default_timeout(120_000)
    yield opened
    context.close()


@pytest.fixture
def notebook(page: Page, server: Server) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook with these cells: `notebook(["1 + 1"])`."""
    opened: list[Notebook] = []

    def make(cells: Sequence[str]) -> Notebook:
        opened.append(Notebook(page, server, cells))
        return opened[-1]

    yield make
    for one in opened:
        one.close()
    forget_theme(server)


@pytest.fixture
def shoot(request: pytest.FixtureRequest, page: Page) -> Callable[[str], Path]:
    """Take a picture of the page for people to look at; where it is."""

    def take(what: str = "") -> Path:
        SCREENSHOTS.mkdir(exist_ok=True)
        name = re.sub(r"[^\w-]+", "-", f"{request.node.name}{'-' if what else ''}{what}").removeprefix("test_")
        path = SCREENSHOTS / f"{name}.png"
        page.screenshot(path=path)
        return path

    return take
