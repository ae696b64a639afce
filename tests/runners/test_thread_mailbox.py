"""The way from a job's threads to the manager's loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from nodetool_jupyter.events import Display, Notification, Stream
from nodetool_jupyter.frames import FilePart, Report, Returned, Value
from nodetool_jupyter.runners.thread_mailbox import Mailbox


def posted(write: Callable[[Mailbox], Any]) -> list[list[Report]]:
    """The batches that arrive when a thread writes."""

    async def main() -> list[list[Report]]:
        ended = asyncio.Event()
        mailbox = Mailbox(asyncio.get_running_loop(), ended.set)

        def run() -> None:
            write(mailbox)
            mailbox.post(Returned(), last=True)

        thread = threading.Thread(target=run)
        thread.start()
        batches: list[list[Report]] = []
        async for batch in mailbox.batches():
            batches.append(list(batch))
        await ended.wait()
        thread.join()
        return batches

    return asyncio.run(asyncio.wait_for(main(), 60))


def flat(batches: list[list[Report]]) -> list[Report]:
    return [report for batch in batches for report in batch]


def test_reports_keep_their_order_and_their_text() -> None:
    def write(mailbox: Mailbox) -> None:
        for n in range(1000):
            mailbox.write("stdout" if n % 3 else "stderr", f"{n}\n")
            if n % 100 == 0:
                mailbox.emit({"type": "notification", "content": str(n), "severity": "warning", "code": ""})

    reports = flat(posted(write))
    assert "".join(report.text for report in reports if isinstance(report, Stream)) == "".join(
        f"{n}\n" for n in range(1000)
    )
    assert [r.content for r in reports if isinstance(r, Notification)] == [str(n) for n in range(0, 1000, 100)]
    assert isinstance(reports[-1], Returned)


def test_a_line_that_print_writes_in_two_parts_arrives_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Report:
        mailbox = Mailbox(asyncio.get_running_loop(), lambda: None)

        async def write_the_end(seconds: float) -> None:
            mailbox.write("stdout", "\n")

        mailbox.write("stdout", "line")
        monkeypatch.setattr(asyncio, "sleep", write_the_end)
        [report] = await anext(mailbox.batches())
        return report

    assert asyncio.run(main()) == Stream(name="stdout", text="line\n")


def test_an_unfinished_line_arrives_while_the_writer_goes_on() -> None:
    async def main() -> str:
        mailbox = Mailbox(asyncio.get_running_loop(), lambda: None)
        mailbox.write("stdout", "how much? ")
        async for batch in mailbox.batches():
            (report,) = batch
            assert isinstance(report, Stream)
            return report.text
        return ""

    assert asyncio.run(asyncio.wait_for(main(), 60)) == "how much? "


def test_a_writer_waits_for_a_slow_reader() -> None:
    most = 0
    unread = 0
    lock = threading.Lock()

    def write(mailbox: Mailbox) -> None:
        nonlocal unread, most
        for _ in range(3000):
            with lock:
                unread += 10_000
                most = max(most, unread)
            mailbox.write("stdout", "x" * 9_999 + "\n")

    async def main() -> int:
        nonlocal unread
        mailbox = Mailbox(asyncio.get_running_loop(), lambda: None)
        thread = threading.Thread(target=lambda: (write(mailbox), mailbox.post(Returned(), last=True)))
        thread.start()
        total = 0
        async for batch in mailbox.batches():
            size = sum(len(report.text) for report in batch if isinstance(report, Stream))
            total += size
            with lock:
                unread -= size
        thread.join()
        return total

    assert asyncio.run(main()) == 30_000_000
    assert most < 8 << 20


def test_a_flood_of_records_waits_for_its_reader() -> None:
    async def main() -> tuple[int, int]:
        mailbox = Mailbox(asyncio.get_running_loop(), lambda: None)
        mailbox.emit({"type": "log_update", "content": "first"})
        sent = [0]

        def write() -> None:
            for sent[0] in range(30_000):
                mailbox.emit({"type": "log_update", "content": "x" * 100})
            mailbox.post(Returned(), last=True)

        thread = threading.Thread(target=write)
        found, unread = 0, 0
        async for batch in mailbox.batches():
            if not found:
                thread.start()
            found += len(batch)
            await asyncio.to_thread(thread.join, 0.05)  # a reader that takes its time
            unread = max(unread, sent[0] - found)
        return found, unread

    found, unread = asyncio.run(asyncio.wait_for(main(), 60))
    assert found == 30_002
    assert unread < 10_000


def test_a_last_display_that_fills_the_mailbox_is_read_before_the_end() -> None:
    def write(mailbox: Mailbox) -> None:
        mailbox.write("stdout", "before\n")
        mailbox.hold()
        mailbox.emit({"type": "display", "data": {"text/plain": "x" * 3_000_000}, "metadata": {}, "result": True})

    shown = [report for report in flat(posted(write)) if isinstance(report, Display)]
    assert [len(report.data["text/plain"]) for report in shown] == [3_000_000]


def test_values_pass_as_themselves_and_files_as_bytes() -> None:
    thing = object()

    def write(mailbox: Mailbox) -> None:
        mailbox.emit({"type": "value", "name": "x", "format": "object", "type_name": "object"}, thing)
        mailbox.emit({"type": "file", "name": "f", "last": True}, [b"a", b"b"])

    value, part, _ = flat(posted(write))
    assert isinstance(value, Value)
    assert value.body is thing
    assert part == FilePart("f", True, b"ab")


def test_text_that_no_encoder_takes_is_made_strict_wherever_it_stands() -> None:
    def write(mailbox: Mailbox) -> None:
        mailbox.write("stdout", "\ud800\n")
        mailbox.emit({"type": "display", "data": {"text/plain": ["\ud800"]}, "metadata": {}})

    stream, display, _ = flat(posted(write))
    assert isinstance(stream, Stream)
    assert isinstance(display, Display)
    assert (stream.text, display.data) == ("\ufffd\n", {"text/plain": ["\ufffd"]})


def test_nothing_is_taken_after_the_last_report() -> None:
    def write(mailbox: Mailbox) -> None:
        mailbox.post(Returned(), last=True)
        mailbox.write("stdout", "late\n")
        mailbox.emit({"type": "notification", "content": "late"})

    assert flat(posted(write)) == [Returned()]


def test_an_abandoned_mailbox_lets_its_writers_go() -> None:
    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop(), lambda: None)
        writes = threading.Event()

        def write() -> None:
            writes.set()
            for _ in range(100):
                mailbox.write("stdout", "x" * 100_000)

        thread = threading.Thread(target=write)
        thread.start()
        await asyncio.to_thread(writes.wait)
        mailbox.abandon()
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()

    asyncio.run(main())
