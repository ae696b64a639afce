from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from nodetool_jupyter.events import LogUpdate, NodeProgress, Notification
from nodetool_jupyter.frames import FilePart, Raised, Returned
from nodetool_jupyter.worker import progress
from tests.worker.driving import Child, Ran

if TYPE_CHECKING:
    from nodetool_jupyter.worker.current import Inside, Report

Run = Callable[..., Ran]
Start = Callable[..., Child]
FORMS = ["tqdm", "tqdm.std", "tqdm.auto", "tqdm.autonotebook", "tqdm.notebook", "tqdm.asyncio", "tqdm.gui", "tqdm.rich"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_tqdm_becomes_a_bar_and_no_text(run: Run, form: str) -> None:
    if form == "tqdm.rich":
        pytest.importorskip("rich")
    ran = run(f"from {form} import tqdm\nfor _ in tqdm(range(5), desc='load', unit='row'): pass")
    assert isinstance(ran.terminal, Returned), ran.terminal
    assert (ran.text(), ran.text("stderr")) == ("", "")
    assert ran.displays == []
    first, last = ran.bars[0], ran.bars[-1]
    assert (first.progress, first.total, first.label, first.unit, first.closed) == (0, 5, "load", "row", False)
    assert (last.progress, last.total, last.closed) == (5, 5, True)
    assert {bar.bar for bar in ran.bars} == {first.bar}


def test_asynchronous_iteration_becomes_a_bar(run: Run) -> None:
    code = (
        "from tqdm.asyncio import tqdm\nasync def numbers():\n"
        "    for n in range(3): yield n\nasync for _ in tqdm(numbers(), total=3): pass"
    )
    assert run(code).bars[-1].progress == 3


@pytest.mark.parametrize("kind", ["thread_map", "process_map"])
def test_maps_over_threads_and_processes_become_a_bar(run: Run, kind: str) -> None:
    code = (
        f"from tqdm.contrib.concurrent import {kind}\ndef double(x): return 2 * x\n"
        f"{kind}(double, range(4), max_workers=2)"
    )
    ran = run(code)
    assert ran.value() == [0, 2, 4, 6]
    assert ran.bars[-1].progress == 4
    assert "it/s" not in ran.raw_stderr


def test_nested_bars_have_their_depth(run: Run) -> None:
    code = (
        "from tqdm import tqdm\nfor _ in tqdm(range(2), desc='out'):\n"
        "    for _ in tqdm(range(2), desc='in', leave=False): pass"
    )
    assert {(bar.label, bar.depth) for bar in run(code).bars} == {("out", 0), ("in", 1)}


def test_a_bar_that_writes_to_a_file_of_its_own_is_left_alone(run: Run) -> None:
    ran = run(
        "import io\nfrom tqdm import tqdm\nfile = io.StringIO()\n"
        "for _ in tqdm(range(3), file=file): pass\n'3/3' in file.getvalue()"
    )
    assert ran.value() is True
    assert ran.bars == []


def test_a_disabled_bar_shows_nothing(run: Run) -> None:
    assert run("from tqdm import tqdm\nfor _ in tqdm(range(3), disable=True): pass").bars == []


def test_a_bar_can_be_driven_by_hand_with_a_note(run: Run) -> None:
    code = (
        "from tqdm import tqdm\nbar = tqdm(total=4)\nbar.update(3)\n"
        "bar.set_postfix(loss=0.5)\nbar.reset()\nbar.update(4)\nbar.close()"
    )
    bars = run(code).bars
    assert "loss=0.5" in {bar.chunk for bar in bars}
    assert (bars[-1].progress, bars[-1].closed) == (4, True)


def test_a_bar_without_a_total_has_none(run: Run) -> None:
    assert run("from tqdm import tqdm\nfor _ in tqdm(iter(range(3))): pass").bars[-1].total is None


def test_a_flood_of_updates_is_held_to_20_a_second_and_the_last_arrives(run: Run) -> None:
    code = (
        "import time, nodetool_jupyter as nt\nstart = time.monotonic()\n"
        "for n in range(20_000): nt.progress(n + 1, 20_000, f'step {n}')\ntime.monotonic() - start"
    )
    ran = run(code)
    assert (ran.bars[-1].progress, ran.bars[-1].chunk) == (20_000, "step 19999")
    assert len(ran.bars) <= ran.value() / 0.04 + 3  # the code ends its watch before the last one is sent


def test_the_last_value_arrives_while_the_cell_is_busy_with_something_else(start: Start, tmp_path: Path) -> None:
    child = start()
    go = tmp_path / "go"
    code = "import nodetool_jupyter as nt, os, time\nnt.progress(1, 3)\nnt.progress(2, 3)\n"
    child.run(f"{code}while not os.path.exists({str(go)!r}): time.sleep(0.01)")
    child.until(lambda report: isinstance(report, NodeProgress) and report.progress == 2)
    go.touch()
    assert isinstance(child.rest()[-1], Returned)


def test_odd_numbers_do_not_break_a_bar(run: Run) -> None:
    code = (
        "import nodetool_jupyter as nt, numpy\n"
        "nt.progress(numpy.int64(1), float('inf'))\nnt.progress(float('nan'), 2)\n"
        "nt.progress(10**400, numpy.float32(2.5))"
    )
    ran = run(code)
    assert isinstance(ran.terminal, Returned)
    assert (ran.bars[0].progress, ran.bars[0].total) == (1, None)
    assert ran.bars[-1].total == 2.5


def test_a_message_between_bars_is_plain_text(run: Run) -> None:
    assert run("from tqdm import tqdm\nfor n in tqdm(range(2)): tqdm.write(f'n={n}')").stdout == "n=0\nn=1\n"


def test_log_records_become_events_beside_the_persons_handlers(run: Run) -> None:
    code = (
        "import logging\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
        "log = logging.getLogger('mine')\n"
        "log.debug('no')\nlog.info('hello %s', 'you')\ntry:\n    1 / 0\n"
        "except ZeroDivisionError:\n    log.exception('oh')"
    )
    ran = run(code)
    logs = ran.of(LogUpdate)
    assert [(log.node_name, log.severity) for log in logs] == [("mine", "info"), ("mine", "error")]
    assert logs[0].content == "hello you"
    assert "ZeroDivisionError" in logs[1].content
    assert ran.text("stderr").startswith("hello you\noh\n")


def test_levels_are_respected(run: Run) -> None:
    code = (
        "import logging\nlogging.info('quiet')\n"
        "logging.getLogger('a').setLevel('DEBUG')\nlogging.getLogger('a').debug('loud')"
    )
    assert [log.content for log in run(code).of(LogUpdate)] == ["loud"]


def test_a_record_whose_text_fails_does_not_fail_the_cell(run: Run) -> None:
    ran = run("import logging\nlogging.warning('%d', 'x')")
    assert isinstance(ran.terminal, Returned)
    assert "Logging error" in ran.text("stderr")


def test_outputs_and_files_are_handed_back_on_the_way(run: Run) -> None:
    code = (
        "import nodetool_jupyter as nt\nopen('plot.bin', 'wb').write(b'x' * 2_500_000)\nopen('empty', 'w').close()\n"
        "[nt.output('rows', [1, 2]), nt.save('plot.bin'), nt.save('./empty')]"
    )
    ran = run(code)
    assert ran.value("rows") == [1, 2]
    assert ran.value() == [[1, 2], "plot.bin", "./empty"]
    parts = [part for part in ran.of(FilePart) if part.name == "plot.bin"]
    assert b"".join(part.body for part in parts) == b"x" * 2_500_000
    assert [part.last for part in parts] == [False, False, True]
    assert [(part.last, part.body) for part in ran.of(FilePart) if part.name == "empty"] == [(True, b"")]


def test_a_file_that_is_too_large_raises_before_any_of_it_is_sent(run: Run) -> None:
    code = (
        "import nodetool_jupyter as nt\nopen('ok', 'wb').write(b'x' * 500_000)\nnt.save('ok')\n"
        "with open('huge.bin', 'wb') as file:\n    file.truncate(1 << 40)\nnt.save('huge.bin')"
    )
    ran = run(code, frame={"max_transfer_bytes": 1 << 20})
    assert (ran.raised.ename, ran.raised.evalue) == (
        "FileTooLarge",
        "File 'huge.bin' (1024.0 GiB) can't come back from the job: the files that it saves may have 1 MiB altogether, "
        "of which 488 KiB are used. Raise --max-transfer, or save less.",
    )
    assert [part.name for part in ran.of(FilePart) if not part.given_up] == ["ok"]


def test_a_file_without_end_is_given_up(run: Run) -> None:
    code = (
        "import nodetool_jupyter as nt\ntry:\n    nt.save('/dev/zero')\nexcept ValueError:\n    pass\n"
        "open('zero', 'w').close()\nnt.save('zero')"
    )
    parts = run(code, frame={"max_transfer_bytes": 3 << 20}).of(FilePart)
    assert {part.name for part in parts} == {"zero"}
    assert [(part.last, part.given_up) for part in parts[-2:]] == [(True, True), (True, False)]
    assert sum(len(part.body) for part in parts) <= 3 << 20


def test_a_pipe_is_not_waited_for(run: Run) -> None:
    ran = run("import os\nimport nodetool_jupyter as nt\nos.mkfifo('pipe')\nnt.save('pipe')")
    assert "A pipe can't come back from the job." in ran.raised.evalue


def test_a_collected_file_that_cannot_come_is_told_and_fails_nothing(run: Run) -> None:
    code = (
        "with open('b.csv', 'wb') as file:\n    file.truncate(1 << 40)\n"
        "for name in ('a.csv', 'c.csv'):\n    open(name, 'w').write('x')"
    )
    ran = run(code, frame={"max_transfer_bytes": 1 << 20, "collect": ["*.csv"]})
    assert isinstance(ran.terminal, Returned)
    [note] = ran.of(Notification)
    assert note.severity == "warning"
    assert note.content.startswith("File 'b.csv' (1024.0 GiB) can't come back from the job: ")
    assert [part.name for part in ran.of(FilePart) if not part.given_up] == ["a.csv", "c.csv"]


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("no*.csv", "it fits nothing. Files below a folder are named as in 'out/*.csv'"), ("o*", "it fits only folders")],
)
@pytest.mark.parametrize("end", ["", "\n1 / 0"])
def test_a_pattern_that_no_file_fits_is_told_and_fails_nothing(run: Run, pattern: str, why: str, end: str) -> None:
    ran = run(f"import os\nos.makedirs('out')\nopen('a.txt', 'w').close(){end}", frame={"collect": [pattern, "*.txt"]})
    assert isinstance(ran.terminal, Raised if end else Returned)
    [note] = ran.of(Notification)
    assert note.severity == "warning"
    assert note.content.startswith(f"No file came back for --collect {pattern!r}: in /")
    assert f" {why}" in note.content
    assert [part.name for part in ran.of(FilePart)] == ["a.txt"]


def test_what_the_cell_raised_counts_and_not_a_file_that_cannot_be_collected(run: Run) -> None:
    code = "import os\nos.symlink('/proc/self/mem', 'mem.csv')\nraise KeyError('mine')"
    ran = run(code, frame={"collect": ["*.csv"]})
    assert ran.raised.ename == "KeyError"
    [note] = ran.of(Notification)
    assert note.content.startswith("File 'mem.csv' can't come back from the job: [Errno 5]")


def test_an_output_that_cannot_travel_raises_where_it_is_called(run: Run) -> None:
    ran = run("import nodetool_jupyter as nt\nnt.output('it', (n for n in []))")
    assert ran.raised.ename == "CannotTravel"
    assert "'it' (generator" in ran.raised.evalue


def test_the_helpers_are_harmless_outside_a_job(tmp_path: object) -> None:
    import nodetool_jupyter as nt

    assert nt.progress(1, 2, "x") is None
    assert nt.output("x", 5) == 5
    assert nt.cancelled() is False
    assert nt.save("nothing-is-there.png") == "nothing-is-there.png"


class Crossing:
    """What a bar knows of its job; the first time that it is asked something, another thread gets in between."""

    def __init__(self) -> None:
        self.sent: list[object] = []
        self.outlet = self
        self.between: Callable[[], None] | None = None

    @property
    def open(self) -> bool:
        between, self.between = self.between, None
        if between is not None:
            between()
        return True

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """The bar's turn comes when the test says so."""

    def emit(self, report: Report) -> None:
        self.sent.append(report["progress"])


def test_the_last_value_is_the_newest_even_if_one_that_waited_is_sent_after_it() -> None:
    job = Crossing()
    bar = progress._Bar(cast("Inside", job), "1")
    bar.show({"progress": 1})
    bar.show({"progress": 2})
    assert job.sent == [1], "the second one was to wait for its turn"
    job.between = lambda: bar.show({"progress": 3}, now=True)
    bar.catch_up()
    assert job.sent == [1, 3, 2, 3]
