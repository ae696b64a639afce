"""Cells in a real kernel: what arrives where, and how many messages it takes."""

from __future__ import annotations

import queue
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import HANG_GUARD_SECONDS
from tests.kernel.conftest import Kernel

RUNNERS = ["threaded", "subprocess"]


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def messages(kernel: Kernel, code: str) -> list[dict[str, Any]]:
    """Everything that a cell sends until it is done."""
    cell = kernel.start(code)
    found = []
    while True:
        message = kernel.client.get_iopub_msg(timeout=HANG_GUARD_SECONDS)
        if message["parent_header"].get("msg_id") != cell:
            continue
        found.append(message)
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found


def outputs(kernel: Kernel, code: str) -> list[Any]:
    """A cell's outputs in order, streams joined, without its card."""
    found: list[Any] = []
    for message in messages(kernel, code):
        content = message["content"]
        if message["msg_type"] == "stream":
            if found and found[-1][0] == content["name"]:
                found[-1] = (content["name"], found[-1][1] + content["text"])
            else:
                found.append((content["name"], content["text"]))
        elif message["msg_type"] in {"display_data", "execute_result", "update_display_data"}:
            if "widget-view" not in str(content["data"]) and "nodetool-job" not in str(content["data"]):
                found.append((message["msg_type"], content["data"]["text/plain"]))
        elif message["msg_type"] in {"error", "clear_output"}:
            found.append((message["msg_type"], content.get("ename")))
    return found


def test_output_comes_in_the_order_in_which_the_cell_made_it(kernel: Kernel, runner: str) -> None:
    code = """print("a")
from IPython.display import display
h = display("b", display_id=True)
print("c")
import sys; print("d", file=sys.stderr)
h.update("e")
6 * 7"""
    assert outputs(kernel, f"%%nodetool -r {runner}\n{code}") == [
        ("stdout", "a\n"),
        ("display_data", "'b'"),
        ("stdout", "c\n"),
        ("stderr", "d\n"),
        ("update_display_data", "'e'"),
        ("display_data", "42"),
    ]


def test_clearing_the_output_keeps_the_card(kernel: Kernel, runner: str) -> None:
    code = "from IPython.display import clear_output\nprint('old')\nclear_output()\nprint('new')"
    found = messages(kernel, f"%%nodetool -r {runner}\n{code}")
    kinds = [message["msg_type"] for message in found]
    after = found[kinds.index("clear_output") :]
    assert "widget-view" in str(after[1]["content"]["data"])
    assert "".join(m["content"]["text"] for m in after if m["msg_type"] == "stream") == "new\n"


def test_a_card_is_shown_at_first_and_static_html_at_the_end(kernel: Kernel, runner: str) -> None:
    found = messages(kernel, f"%%nodetool -r {runner} --name train\n1")
    bundles = [m for m in found if m["msg_type"] in {"display_data", "update_display_data"}]
    first, last = bundles[0]["content"], bundles[-1]["content"]
    assert "application/vnd.jupyter.widget-view+json" in first["data"]
    assert "text/html" not in first["data"]
    assert last["transient"]["display_id"] == first["transient"]["display_id"]
    assert last["data"]["text/plain"].startswith(f"✔ train · {runner} · ")


def test_two_thousand_bars_take_few_messages_and_the_last_state_arrives(kernel: Kernel, runner: str) -> None:
    code = """import nodetool_jupyter as nt
from tqdm import tqdm
for n in tqdm(range(2_000), desc="outer"):
    for _ in tqdm(range(3), leave=False): pass"""
    began = time.monotonic()
    found = messages(kernel, f"%%nodetool -r {runner}\n{code}")
    seconds = time.monotonic() - began
    counted = Counter(message["msg_type"] for message in found)
    assert counted["comm_msg"] <= 10 * seconds + 10
    assert sum(counted.values()) <= 20 * seconds + 40
    states = [
        m["content"]["data"]["state"]["state"]
        for m in found
        if "state" in m["content"].get("data", {}).get("state", {})
    ]
    assert states[-1]["status"] == "completed"
    assert states[-1]["bars"][0]["amount"] == "100% · 2,000 of 2,000"


def test_a_flood_of_lines_is_a_few_messages_with_every_line(kernel: Kernel, runner: str) -> None:
    found = messages(kernel, f"%%nodetool -r {runner} --progress none\nfor n in range(5_000): print(n, flush=True)")
    texts = [m["content"]["text"] for m in found if m["msg_type"] == "stream"]
    assert "".join(texts).split() == [str(n) for n in range(5_000)]
    assert len(texts) < 500


def gather(kernel: Kernel, wanted: dict[str, str]) -> None:
    """Wait until each cell has shown its text; fail if a text comes in another cell."""
    texts: dict[str, str] = dict.fromkeys(wanted, "")
    while not all(text in texts[cell] for cell, text in wanted.items()):
        try:
            message = kernel.client.get_iopub_msg(timeout=HANG_GUARD_SECONDS)
        except queue.Empty:
            pytest.fail(f"waited in vain: {texts}")
        parent = message["parent_header"].get("msg_id")
        content = message["content"]
        text = content.get("text", "") + str(content.get("data", {}).get("text/plain", ""))
        for cell, expected in wanted.items():
            assert parent == cell or expected not in text, f"{expected!r} came to another cell"
        if parent in texts:
            texts[parent] += text


def test_background_output_stays_in_the_cell_that_started_it(kernel: Kernel, runner: str) -> None:
    gate = "import time, os\nwhile not os.path.exists(path): time.sleep(0.01)\n"
    Path(kernel.value("import tempfile; folder = tempfile.mkdtemp(); print(folder)"))
    kernel.value("path = folder + '/go'")
    first = kernel.start(f"%%nodetool -r {runner} -b --job one\n{gate}print('from one')\n'value of one'")
    kernel.follow(first)
    second = kernel.start("print('from two')")
    kernel.follow(second)
    third = kernel.start("import time\nopen(path, 'w').close()\ntime.sleep(0.3)\nprint('from three')")
    gather(kernel, {first: "value of one", third: "from three"})
    kernel.value("one.wait(60); import os; os.unlink(path)")


HELD = """
import nodetool_jupyter as nt, os, tempfile
gate = os.path.join(tempfile.mkdtemp(), "go")
code = ["import os, time", "print('be' + 'gun', flush=True)"]
code += ["while not os.path.exists(gate): time.sleep(0.01)", "print('en' + 'ded')"]
held = nt.run("\\n".join(code), runner={runner!r}, inputs={{"gate": gate}}, name="held")
"""


def test_a_handle_that_is_shown_while_its_job_goes_on_is_a_card_that_goes_on(kernel: Kernel, runner: str) -> None:
    kernel.value(HELD.format(runner=runner))
    first = kernel.start("display(held)")
    ran = kernel.follow(first)
    assert not ran.error
    assert "application/vnd.jupyter.widget-view+json" in ran.bundles[0]
    assert kernel.value("print(held.done())") == "False"
    again = kernel.start("held")
    ran = kernel.follow(again)
    assert "application/vnd.jupyter.widget-view+json" in ran.bundles[0]
    assert "begun" not in ran.text
    gather(kernel, {first: "ended", kernel.start("open(gate, 'w').close(); print('op' + 'en')"): "open"})
    kernel.value("held.wait(60)")
    static = kernel.run("display(held)")
    assert set(static.bundles[0]) == {"text/plain", "text/html"}
    assert "held · " + runner in static.text


def test_the_card_of_a_handle_takes_its_static_form_at_the_end(kernel: Kernel, runner: str) -> None:
    kernel.value(HELD.format(runner=runner))
    first = kernel.start("display(held)")
    kernel.follow(first)
    gather(kernel, {first: f"✔ held · {runner}", kernel.start("open(gate, 'w').close(); print('op' + 'en')"): "open"})


def test_a_noninteractive_handle_is_a_line(quiet_kernel: Kernel, runner: str) -> None:
    quiet_kernel.value(HELD.format(runner=runner))
    quiet_kernel.value("while held.status != 'running': pass")
    found = messages(quiet_kernel, "display(held)")
    assert "comm_open" not in {message["msg_type"] for message in found}
    (bundle,) = [m["content"]["data"] for m in found if m["msg_type"] == "display_data"]
    assert bundle["text/plain"] == f"<JobHandle held · {runner} · running>"
    quiet_kernel.value("held.cancel(); held.wait(60)")


def test_why_a_background_job_failed_stands_in_the_cell_that_started_it(kernel: Kernel, runner: str) -> None:
    started = kernel.start(f"%%nodetool -r {runner} -b --job failing\n'text' + 1")
    later = kernel.start("failing.wait(60)\n'after' + 'wards'")
    gather(kernel, {started: "JobFailed", later: "afterwards"})


def test_what_a_background_job_brings_back_is_there_in_a_later_cell(kernel: Kernel) -> None:
    kernel.run("%%nodetool -r subprocess -b --out brought --job later\nbrought = [1, 2]")
    kernel.value("later.wait(60)")
    assert kernel.value("print(brought)") == "[1, 2]"


def test_wait_waits_for_background_jobs_and_fails_when_one_failed(kernel: Kernel) -> None:
    kernel.run("%%nodetool -r subprocess -b --out waited\nimport time; time.sleep(0.2); waited = 3")
    kernel.value("%nodetool wait")
    assert kernel.value("print(waited)") == "3"
    kernel.run("%%nodetool -r subprocess -b\nimport time; time.sleep(0.2); 1 / 0")
    assert kernel.run("%nodetool wait").error == "JobFailed"


def test_wait_tells_of_a_background_job_that_had_ended_before(kernel: Kernel) -> None:
    kernel.run("%%nodetool -r subprocess -b --name early\n1 / 0")
    kernel.value("import time\nwhile not _job.done(): time.sleep(0.01)")
    waited = kernel.run("%nodetool wait")
    assert waited.error == "JobFailed"
    assert "✘ early · subprocess · failed" in waited.text
    assert kernel.value("%nodetool wait") == ""


def test_a_failed_cell_shows_the_jobs_traceback_and_then_the_cause(kernel: Kernel, runner: str) -> None:
    found = messages(kernel, f"%%nodetool -r {runner}\nx = 1\nx / 0")
    (error,) = [message["content"] for message in found if message["msg_type"] == "error"]
    assert (error["ename"], error["evalue"]) == ("JobFailed", "ZeroDivisionError: division by zero")
    text = "\n".join(error["traceback"])
    assert text.index("x / 0") < text.index("JobFailed")
    assert "site-packages" not in text
    assert "notebook/" not in text


def test_a_function_of_another_cell_is_shown_as_that_cell_with_its_lines(kernel: Kernel, runner: str) -> None:
    kernel.value("# a remark\ndef divide(n):\n    def inner():\n        return 1 / n\n    return inner()")
    found = messages(kernel, f"%%nodetool -r {runner}\ndivide(0)")
    (error,) = [message["content"] for message in found if message["msg_type"] == "error"]
    text = re.sub(r"\x1b\[\d+m", "", "\n".join(error["traceback"]))
    cells = re.findall(r"^Cell In\[(\d+)\], line (\d+)(?: in (.*))?$", text, re.MULTILINE)
    assert [line for _, line, _ in cells] == ["2", "5", "4"]
    assert cells[1][2] == "divide"
    assert cells[0][0] != cells[1][0] == cells[2][0]
    assert "----> 4         return 1 / n\n      5     return inner()" in text
    assert "ipykernel_" not in text


def test_a_refusal_is_one_sentence_in_the_notebook(kernel: Kernel) -> None:
    found = messages(kernel, "%%nodetool --memroy 2g\n1")
    (error,) = [message["content"] for message in found if message["msg_type"] == "error"]
    assert error["ename"] == "InvalidRequest"
    assert len(error["traceback"]) == 1
    assert "Did you mean --memory?" in error["traceback"][0]


def test_an_interrupt_in_a_cell_that_awaits_cancels_too(kernel: Kernel) -> None:
    job = "print('begun', flush=True); import time; time.sleep(600)"
    call = f"get_ipython().run_cell_magic('nodetool', '-r subprocess', {job!r})"
    cell = kernel.start(f"import asyncio\nawait asyncio.sleep(0)\n{call}")
    kernel.follow(cell, until_text="begun")
    kernel.interrupt()
    assert kernel.follow(cell).error in {"JobCancelled", "KeyboardInterrupt", "CancelledError"}
    assert kernel.value("print(_job.wait(60))") == "cancelled"


def test_a_second_interrupt_leaves_a_job_that_can_not_be_stopped_and_says_so(kernel: Kernel) -> None:
    kernel.value("import tempfile; end = tempfile.mkdtemp() + '/end'")
    cell = kernel.start(f"%%nodetool -r threaded\n{_STUBBORN}")
    kernel.follow(cell, until_text="begun")
    kernel.interrupt()
    kernel.follow(cell, until_text="refused")
    kernel.interrupt()
    ran = kernel.follow(cell)
    assert ran.error == "Interrupted"
    assert "is still cancelling" in ran.message
    kernel.value("open(end, 'w').close()")
    assert kernel.value("print(_job.wait(60))") in {"cancelled", "completed"}


_STUBBORN = """import os, sys, threading, time
begun = said = ended = False
main = threading.main_thread().ident

def waits(frame):  # only from then on an interrupt is that of the cell's wait
    while frame and (frame.f_code.co_name, os.path.basename(frame.f_code.co_filename)) != ('_wait', 'showing.py'):
        frame = frame.f_back
    return bool(frame)

while not waits(sys._current_frames()[main]): time.sleep(0.001)
while not ended:
    try:
        if not begun: print('begun')
        begun = True
        while not os.path.exists(end): time.sleep(0.01)
        ended = True
    except KeyboardInterrupt:
        if not said: print('refused', flush=True)
        said = True
"""


@pytest.mark.parametrize("line", ["attach -1", "logs -1 -f"])
def test_an_interrupt_of_a_look_leaves_the_job_running_and_says_how_to_stop_it(kernel: Kernel, line: str) -> None:
    kernel.run("%%nodetool --runner subprocess --background --job lasting\nprint('here')\nimport time; time.sleep(600)")
    looking = kernel.start(f"%nodetool {line}")
    kernel.follow(looking, until_text="here")
    kernel.interrupt()
    ran = kernel.follow(looking)
    assert ran.error == "Interrupted"
    assert re.search(r"Job [0-9a-f]{8} goes on; `%nodetool cancel [0-9a-f]{8}` stops it.", ran.message)
    # what a job prints is shown at once, and on record a moment later
    recorded = "import time\nwhile lasting.status == 'starting': time.sleep(0.01)\nprint(lasting.status)"
    assert kernel.value(recorded) == "running"
    kernel.value("lasting.cancel()")
    assert kernel.run("%nodetool wait -1").error == "JobCancelled"


def test_text_is_brought_up_to_date_in_place_where_it_is_asked_for(kernel: Kernel) -> None:
    found = messages(kernel, "%%nodetool --progress text --name train\n1")
    bundles = [m for m in found if m["msg_type"] in {"display_data", "update_display_data"}]
    assert "train · threaded · queued" in bundles[0]["content"]["data"]["text/plain"]
    assert bundles[-1]["content"]["data"]["text/plain"].startswith("✔ train · threaded · ")


def test_a_noninteractive_cell_shows_the_same_in_every_run(quiet_kernel: Kernel, runner: str) -> None:
    cell = f"%%nodetool -r {runner} --name train -b\nprint('x')\n6 * 7"
    first, second = outputs(quiet_kernel, cell), outputs(quiet_kernel, cell)
    assert first == second == [("stdout", "x\n"), ("display_data", "42")]
    bundles = [m["content"]["data"] for m in messages(quiet_kernel, cell) if m["msg_type"] == "display_data"]
    assert bundles[-1]["text/plain"] == f"✔ train · {runner}"
    assert "comm_open" not in {m["msg_type"] for m in messages(quiet_kernel, cell)}


def test_a_notebook_saved_headlessly_keeps_the_static_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV", "test")
    monkeypatch.setenv("NODETOOL_NONINTERACTIVE", "0")
    sources = ["%load_ext nodetool_jupyter", "%%nodetool -r subprocess --name train\nprint('x')"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(
        notebook, timeout=60, store_widget_state=False, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.create_kernel_manager().transport_encryption = "auto"
    client.execute()
    card, text = notebook.cells[1].outputs
    assert text.text == "x\n"
    assert set(card.data) == {"text/plain", "text/html"}
    assert card.data["text/plain"].startswith("✔ train · subprocess")
