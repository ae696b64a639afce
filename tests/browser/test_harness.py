"""The ground that the other browser tests stand on: plain widgets in a real page."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.browser.jupyter import Notebook

BUTTON = """
import ipywidgets
label = ipywidgets.Label("before")
button = ipywidgets.Button(description="Press")
button.on_click(lambda _: setattr(label, "value", "pressed"))
ipywidgets.VBox([button, label])
"""


def test_a_button_in_a_real_page_reaches_the_kernel(notebook: Callable[..., Notebook]) -> None:
    opened = notebook([BUTTON])
    opened.run(0)
    opened.output(0).get_by_role("button", name="Press").click()
    expect(opened.output(0).locator(".widget-label")).to_have_text("pressed")


def test_a_saved_notebook_has_what_the_page_shows(notebook: Callable[..., Notebook]) -> None:
    opened = notebook(["print('he' + 'llo')"])
    opened.run(0)
    expect(opened.output(0)).to_contain_text("hello")
    (cell,) = opened.save()["cells"]
    assert cell["outputs"][0]["text"] == ["hello\n"]
