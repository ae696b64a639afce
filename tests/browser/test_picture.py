"""The README's picture: `make picture` takes it anew."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import SCREENSHOTS
from tests.browser.jupyter import Notebook, use_theme

TRAIN = """
%%nodetool --runner subprocess --memory 512m --timeout 10m --name train --out weights
import numpy as np
from tqdm.auto import tqdm

rng = np.random.default_rng(7)
truth, weights, kept = rng.normal(size=200), np.zeros(200), []
for epoch in tqdm(range(12), desc="epochs"):
    for _ in tqdm(range(500), desc="batches", leave=False):
        x = rng.normal(size=(500, 200))
        error = x @ (weights - truth)
        weights -= 0.001 * error @ x / len(x)
        kept.append(x[:40].copy())
    print(f"epoch {epoch + 1}: loss {np.mean(error**2):.2f}")
"""


@pytest.mark.lab_alone
def test_the_picture_of_a_job_at_work(notebook: Callable[..., Notebook], page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 680})
    opened = notebook(["%load_ext nodetool_jupyter", TRAIN.strip()])
    use_theme(page, "JupyterLab Light")
    opened.command("application:toggle-left-area")
    opened.run(0)
    opened.start(1)
    expect(opened.output(1)).to_contain_text("epoch 7")
    inner = opened.output(1).get_by_role("progressbar", name="batches")
    expect(inner).to_have_attribute("aria-valuetext", re.compile(r"[4-8]\d%"))
    expect(opened.output(1).locator(".ntj-usage-text")).to_contain_text("of 512 MiB")
    SCREENSHOTS.mkdir(exist_ok=True)
    panel = page.locator(".jp-NotebookPanel")
    box = panel.bounding_box()
    assert box
    page.screenshot(path=SCREENSHOTS / "picture.png", clip={**box, "height": min(box["height"], 640)})
    opened.wait_for_end(1)
