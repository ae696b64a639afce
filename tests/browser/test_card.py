"""The card of a job in a real page: what a person sees and does while a cell runs, after it, and after a reload."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from nodetool_jupyter.jobs import JobStatus
from nodetool_jupyter.view.text import MARKS, left_text
from tests.browser.jupyter import KERNEL, Notebook, use_theme

LOAD = "%load_ext nodetool_jupyter"
LONG = """
from nodetool_jupyter import progress
import time
print("working", flush=True)
for n in range(6000):
    progress(n + 1, 6000, f"step {n + 1}")
    time.sleep(0.1)
"""


def job(code: str, options: str = "") -> str:
    return f"%%nodetool --runner subprocess {options}\n{code.strip()}"


def card(opened: Notebook, index: int) -> Locator:
    return opened.output(index).locator(".ntj-card")


def folded(opened: Notebook, index: int, status: str) -> Locator:
    """The one line that stands for a job that has ended as `status`."""
    return opened.output(index).locator(f'.nodetool-job:has-text("{MARKS[JobStatus(status)]}")')


@pytest.fixture
def ready(notebook: Callable[..., Notebook]) -> Callable[..., Notebook]:
    """A notebook whose first cell has loaded the extension; the others are as given."""

    def make(*cells: str) -> Notebook:
        opened = notebook([LOAD, *cells])
        opened.run(0)
        return opened

    return make


def test_a_cell_runs_in_a_process_and_shows_what_it_would_show_without(
    ready: Callable[..., Notebook], shoot: Callable[..., Path]
) -> None:
    opened = ready(job("print('from a process')\nimport os\n[os.getpid() > 0, 21 * 2]", "--name greeting"))
    opened.run(1)
    expect(opened.output(1)).to_contain_text("from a process")
    expect(opened.output(1)).to_contain_text("[True, 42]")
    expect(folded(opened, 1, "completed")).to_be_visible()
    expect(folded(opened, 1, "completed")).to_contain_text("greeting · subprocess")
    shoot()


def test_progress_moves_while_the_cell_runs(ready: Callable[..., Notebook], shoot: Callable[..., Path]) -> None:
    opened = ready(job(LONG, "--name moving"))
    opened.start(1)
    bar = card(opened, 1).get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"step \d+"))
    first = bar.get_attribute("aria-valuetext")
    expect(bar).not_to_have_attribute("aria-valuetext", first or "")
    assert opened.is_running(1)
    expect(opened.output(1)).to_contain_text("working")
    shoot()


def test_cancel_works_while_the_cell_waits(ready: Callable[..., Notebook], shoot: Callable[..., Path]) -> None:
    opened = ready(job(LONG, "--name stopped"), "print('kernel', 'answers')")
    opened.start(1)
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    assert opened.is_running(1)
    card(opened, 1).get_by_role("button", name="Cancel").click()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()
    expect(opened.output(1)).to_contain_text("JobCancelled")
    opened.run(2)
    expect(opened.output(2)).to_contain_text("kernel answers")
    shoot()


@pytest.mark.lab_alone
def test_cancel_works_while_the_cell_waits_for_a_thread(ready: Callable[..., Notebook]) -> None:
    opened = ready("%%nodetool\nimport time\nwhile True: time.sleep(0.05)")
    opened.start(1)
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    card(opened, 1).get_by_role("button", name="Cancel").click()
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


@pytest.mark.lab_alone
def test_the_stop_button_of_the_notebook_cancels_the_job(ready: Callable[..., Notebook]) -> None:
    opened = ready(job(LONG))
    opened.start(1)
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    opened.command("notebook:interrupt-kernel")
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


def test_output_of_a_background_job_stays_in_its_own_cell(
    ready: Callable[..., Notebook], shoot: Callable[..., Path]
) -> None:
    code = "import time\nfor n in range(40):\n    print('behind', n, flush=True)\n    time.sleep(0.05)"
    opened = ready(job(code, "--background --name behind"), "print('in', 'front')", "print('last', 'one')")
    opened.run(1)
    opened.run(2)
    opened.run(3)
    expect(folded(opened, 1, "completed")).to_be_visible()
    expect(opened.output(1)).to_contain_text("behind 39")
    for index in (2, 3):
        expect(opened.output(index)).not_to_contain_text("behind")
    shoot()


@pytest.mark.lab_alone
def test_a_cell_that_waits_can_be_let_go(ready: Callable[..., Notebook]) -> None:
    opened = ready(job(LONG), "print('free', 'again')")
    opened.start(1)
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    card(opened, 1).get_by_role("button", name="Detach").click()
    opened.wait_for_end(1)
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    opened.run(2)
    expect(opened.output(2)).to_contain_text("free again")
    card(opened, 1).get_by_role("button", name="Cancel").click()
    expect(folded(opened, 1, "cancelled")).to_be_visible()


def test_after_a_reload_the_card_is_there_and_lives(ready: Callable[..., Notebook], shoot: Callable[..., Path]) -> None:
    opened = ready(job(LONG, "--background --name lasting"), "_job.cancel()")
    opened.run(1)
    bar = card(opened, 1).get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuetext", re.compile(r"step \d+"))
    opened.save()
    opened.reload()
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    before = bar.get_attribute("aria-valuetext")
    expect(bar).not_to_have_attribute("aria-valuetext", before or "")
    shoot("alive")
    card(opened, 1).get_by_role("button", name="Cancel").click()
    expect(card(opened, 1)).to_have_attribute("data-status", "cancelled")


FRAMES = """
() => new Promise(done => {
  const next = left => left ? requestAnimationFrame(() => next(left - 1)) : done();
  next(30);
})
"""


@pytest.mark.lab_alone
@pytest.mark.parametrize("way", ["restarted", "killed", "frozen"])
def test_a_card_whose_kernel_ended_says_so_and_stands_still(
    ready: Callable[..., Notebook], page: Page, shoot: Callable[..., Path], way: str
) -> None:
    signal = "SIGKILL" if way == "killed" else "SIGSTOP"
    opened = ready(job(LONG, "--background --name orphan"), f"import os, signal; os.kill(os.getpid(), signal.{signal})")
    opened.run(1)
    shown = card(opened, 1)
    expect(shown).to_have_attribute("data-status", "running")
    expect(shown.locator(".ntj-time")).not_to_be_empty()
    if way == "restarted":
        page.evaluate(f"() => {KERNEL}.restart()")
    else:
        opened.start(2)
    if way == "frozen":
        expect(opened.cell(2).locator(".jp-InputPrompt")).to_contain_text("*")
        opened.close()
    expect(shown.locator(".ntj-said")).to_have_text("The kernel ended, and the job with it.")
    expect(shown).to_have_attribute("data-status", "ended")
    expect(shown.get_by_role("button")).to_have_count(0)
    expect(shown.get_by_role("progressbar")).to_have_count(0)
    before = shown.locator(".ntj-time").inner_text()
    page.evaluate(FRAMES)
    assert shown.locator(".ntj-time").inner_text() == before
    shoot()


@pytest.mark.lab_alone
def test_a_long_name_leaves_room_for_the_time_left(
    ready: Callable[..., Notebook], page: Page, shoot: Callable[..., Path]
) -> None:
    name = "a-very-long-name-" * 12
    opened = ready(job(LONG, f"--name {name}"))
    opened.start(1)
    shown = card(opened, 1)
    expect(shown.locator(".ntj-time")).to_contain_text("left")
    assert name in (shown.locator(".ntj-title").get_attribute("title") or "")
    cut = "node => node.scrollWidth > node.clientWidth"
    for width in (1200, 1000, 700):
        page.set_viewport_size({"width": width, "height": 800})
        page.evaluate(FRAMES)
        assert not shown.locator(".ntj-time").evaluate(cut)
        assert not shown.evaluate(cut)
        assert shown.locator(".ntj-title").evaluate(cut)
        shoot(str(width))


@pytest.mark.lab_alone
def test_a_failure_says_why_and_what_to_do(ready: Callable[..., Notebook], shoot: Callable[..., Path]) -> None:
    opened = ready(job("blocks = []\nwhile True: blocks.append(bytes(10_000_000))", "--memory 200m --name hungry"))
    opened.run(1)
    expect(folded(opened, 1, "failed")).to_be_visible()
    expect(opened.output(1)).to_contain_text("Killed: memory limit 200 MiB reached. Rerun with --memory 400m.")
    shoot()


CLICK_ONCE = """
const watch = new MutationObserver(() => {
  const cancel = document.querySelector(".ntj-button:last-child");
  if (!cancel) return;
  watch.disconnect();
  cancel.click();
});
watch.observe(document, {childList: true, subtree: true});
"""


@pytest.mark.lab_alone
def test_a_click_on_the_first_card_of_a_page_is_never_too_early(ready: Callable[..., Notebook], page: Page) -> None:
    """JupyterLab has no shell for clicks yet at this moment, and would keep this one until the cell has ended."""
    page.add_init_script(CLICK_ONCE)
    opened = ready(job(LONG))
    opened.start(1)
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


@pytest.mark.lab_alone
def test_the_card_is_used_from_the_keyboard(ready: Callable[..., Notebook]) -> None:
    opened = ready(job(LONG))
    opened.start(1)
    cancel = card(opened, 1).get_by_role("button", name="Cancel")
    expect(card(opened, 1)).to_have_attribute("data-status", "running")
    cancel.focus()
    expect(cancel).to_be_focused()
    cancel.press("Enter")
    opened.wait_for_end(1)
    expect(folded(opened, 1, "cancelled")).to_be_visible()


def test_the_page_says_what_is_left_as_text_does(page: Page) -> None:
    script = files("nodetool_jupyter.notebook").joinpath("card.js").read_text()
    about = re.search(r"function about\(.*?\n}\n", script, re.S)
    assert about
    seconds = [0, 0.99, 1, 1.5, 12.3, 59.4, 59.5, 89, 90, 185, 3569, 3570, 3600, 7140, 7200, 100_000]
    said = page.evaluate(f"seconds => {{ {about[0]} return seconds.map(about); }}", seconds)
    assert said == [left_text(each) for each in seconds]


CONTRAST = """
card => {
  const parse = text => {
    const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d");
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = color => {
    const [r, g, b] = [...parse(color)].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (parse(color)[3] > 250) return color;
    }
    return "white";
  };
  const found = {};
  const texts = ".ntj-title, .ntj-meta, .ntj-status, .ntj-time, button, .ntj-bar-amount, .ntj-usage-text, "
    + ".ntj-isolation";
  for (const node of card.querySelectorAll(texts)) {
    if (!node.offsetParent || !node.textContent) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(behind(node))];
    found[node.className] = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  }
  return found;
}
"""


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_the_card_can_be_read_in_every_theme(
    ready: Callable[..., Notebook], page: Page, shoot: Callable[..., Path], theme: str
) -> None:
    opened = ready(job(LONG, "--memory 1g --name readable"))
    use_theme(page, theme)
    opened.start(1)
    expect(card(opened, 1).locator(".ntj-usage-text")).to_contain_text("MiB")
    shoot()
    contrasts = card(opened, 1).evaluate(CONTRAST)
    assert len(contrasts) >= 6
    assert {name: ratio for name, ratio in contrasts.items() if ratio < 3.5} == {}


@pytest.mark.lab_alone
def test_a_saved_notebook_keeps_a_plain_form_of_the_card(ready: Callable[..., Notebook]) -> None:
    opened = ready(job("print('kept')", "--name keepsake"))
    opened.run(1)
    expect(folded(opened, 1, "completed")).to_be_visible()
    document = opened.save()
    bundles = [output["data"] for output in document["cells"][1]["outputs"] if "data" in output]
    (bundle,) = [bundle for bundle in bundles if "keepsake" in "".join(bundle.get("text/plain", ""))]
    assert set(bundle) == {"text/plain", "text/html"}
    assert "keepsake" in "".join(bundle["text/html"])
    assert "<script" not in "".join(bundle["text/html"])


@pytest.mark.lab_alone
def test_a_job_that_reports_all_the_time_does_not_flood_the_page(ready: Callable[..., Notebook], page: Page) -> None:
    frames: list[int] = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda data: frames.append(len(data))))
    code = "from nodetool_jupyter import progress\nfor n in range(200_000): progress(n + 1, 200_000)\nprint('done')"
    opened = ready(job(code, "--name busy"))
    frames.clear()
    began = time.monotonic()
    opened.run(1)
    expect(folded(opened, 1, "completed")).to_be_visible()
    assert len(frames) < 200 + 30 * (time.monotonic() - began)
