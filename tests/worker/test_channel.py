from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from nodetool_jupyter.events import LogUpdate, Stream
from nodetool_jupyter.frames import Returned, decode_frames
from nodetool_jupyter.worker import wire
from nodetool_jupyter.worker.channel import TEXT_BYTES, Channel
from tests.worker.driving import Child, Ran

HANG_GUARD_SECONDS = 60
Run = Callable[..., Ran]
Start = Callable[..., Child]


def test_a_print_of_50_megabytes_arrives_whole_in_bounded_frames(run: Run) -> None:
    ran = run("print('x' * 50_000_000)")
    pieces = [report.text for report in ran.of(Stream)]
    assert sum(map(len, pieces)) == 50_000_001
    assert max(map(len, pieces)) <= TEXT_BYTES


def test_frames_of_text_beyond_ascii_are_bounded_in_bytes(run: Run) -> None:
    pieces = [report.text for report in run("print('😀' * 100_000)").of(Stream)]
    assert max(len(piece.encode()) for piece in pieces) <= TEXT_BYTES
    assert "".join(pieces) == "😀" * 100_000 + "\n"


def test_both_streams_keep_their_order(run: Run) -> None:
    ran = run("import sys\nfor n in range(500):\n    print(n)\n    print(n, file=sys.stderr)")
    assert "".join(report.text for report in ran.of(Stream)) == "".join(f"{n}\n{n}\n" for n in range(500))


def test_bytes_written_to_the_buffer_keep_their_place(run: Run) -> None:
    code = (
        "import sys\nprint('a')\nsys.stdout.buffer.write('ä'.encode()[:1])\n"
        "sys.stdout.buffer.write('ä\\n'.encode()[1:])\nprint('b')"
    )
    assert run(code + "\nNone").stdout == "a\nä\nb\n"


def test_half_a_surrogate_pair_is_printed_as_a_replacement(run: Run) -> None:
    ran = run("print('a\\udc80b', chr(0xd83d))\nraise ValueError('\\udc80')")
    assert ran.stdout == "a\ufffdb \ufffd\n"
    assert ran.raised.evalue == "\ufffd"


def test_text_that_looks_like_a_frame_is_text(run: Run) -> None:
    fake = '{"type":"returned"}'
    ran = run(f"print({fake!r})\nprint(b'\\0\\0\\0\\x13\\0\\0\\0\\0'.decode() + {fake!r})\n1 / 0")
    assert ran.raised.ename == "ZeroDivisionError"
    assert fake in ran.stdout


def test_a_line_arrives_while_the_cell_goes_on(start: Start) -> None:
    child = start()
    child.run("import time\nprint('now')\nprint('no newline', end='')\ntime.sleep(1000)")
    child.printed("now\nno newline", end="")


def test_a_flood_of_prints_is_gathered(run: Run) -> None:
    ran = run("for n in range(100_000): print(n)")
    assert ran.stdout == "".join(f"{n}\n" for n in range(100_000))
    assert len(ran.of(Stream)) < 20_000


def test_a_flood_of_reports_arrives_whole_and_in_order(run: Run) -> None:
    code = (
        "import logging\nlog = logging.getLogger('a')\nlog.setLevel('INFO')\nlog.propagate = False\n"
        "log.addHandler(logging.NullHandler())\nfor n in range(20_000):\n    log.info(n)\n    if n % 7 == 0: print(n)"
    )
    shown = [r.content + "\n" if isinstance(r, LogUpdate) else r.text for r in run(code).of(LogUpdate, Stream)]
    assert list(map(int, "".join(shown).split())) == [
        n for number in range(20_000) for n in ([number, number] if number % 7 == 0 else [number])
    ]


def test_an_output_is_sent_as_it_was_when_it_was_handed_over(run: Run) -> None:
    code = (
        "import nodetool_jupyter as nt, numpy\nfor n in range(200): nt.progress(n, 200)\na = numpy.zeros(100_000)\n"
        "for n in range(50): print(n)\nnt.output('a', a)\na[:] = 1"
    )
    assert run(code).value("a").sum() == 0


def test_closing_all_descriptors_ends_the_job_without_a_result(run: Run) -> None:
    ran = run("import os\nos.closerange(0, 256)\nprint('lost')\n5")
    assert ran.terminal is None
    assert ran.exit_code == 0


def test_the_standard_descriptors_can_be_closed_and_replaced(run: Run) -> None:
    code = "import os\nos.closerange(0, 10)\nfor n in range(4): os.open('/dev/null', os.O_RDWR)\nprint('still here')\n5"
    ran = run(code)
    assert ran.stdout == "still here\n"
    assert ran.value() == 5


def test_frames_never_go_into_a_file_that_took_the_channels_place(run: Run, tmp_path: object) -> None:
    code = f"""
import os
target = os.open({str(tmp_path)!r} + "/own", os.O_RDWR | os.O_CREAT)
for fd in range(3, 256):
    if fd != target:
        try:
            os.fstat(fd)
        except OSError:
            continue
        os.dup2(target, fd)
print("secret")
1
"""
    ran = run(code)
    assert ran.terminal is None
    assert (tmp_path / "own").read_bytes() == b""  # type: ignore[operator]


def test_the_channel_is_closed_in_programs_that_the_cell_starts(run: Run) -> None:
    code = (
        "import subprocess, sys\n"
        "print(subprocess.run(['ls', '-l', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout)"
    )
    assert "socket" not in run(code).stdout


def test_what_a_forked_child_prints_goes_to_the_pipes_and_its_end_is_its_own(run: Run) -> None:
    code = """
import os, sys
print("parent")
pid = os.fork()
if pid == 0:
    print("child")
else:
    os.waitpid(pid, 0)
    print("parent again")
"""
    ran = run(code)
    assert ran.stdout == "parent\nparent again\n"
    assert ran.raw_stdout == "child\n"
    assert isinstance(ran.terminal, Returned)


def test_a_pool_of_forked_processes_works(run: Run) -> None:
    code = "import multiprocessing\ndef square(x): return x * x\n"
    code += "with multiprocessing.get_context('fork').Pool(2) as pool: found = pool.map(square, range(5))\nfound"
    assert run(code).value() == [0, 1, 4, 9, 16]


def test_a_fork_while_another_thread_prints_does_not_hang(run: Run) -> None:
    code = """
import os, threading
done = threading.Event()
def chatter():
    while not done.is_set():
        print("x" * 1000)
thread = threading.Thread(target=chatter)
thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        print("child")
        os._exit(0)
    os.waitpid(pid, 0)
done.set()
"""
    ran = run(code)
    assert isinstance(ran.terminal, Returned)
    assert ran.raw_stdout == "child\n" * 20


def test_a_handler_that_prints_in_the_middle_of_a_print_tears_nothing(run: Run) -> None:
    code = """
import signal
seen = 0
def handler(*_):
    global seen
    seen += 1
    print("<handler>")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
n = 0
while seen < 200:
    print("line", n)
    n += 1
signal.setitimer(signal.ITIMER_REAL, 0)
n
"""
    ran = run(code)
    text = ran.stdout
    assert text.count("<handler>") >= 200
    rest = text.replace("<handler>\n", "").replace("<handler>", "")
    numbers = [word for word in rest.split() if word.isdigit()]
    assert numbers == [str(n) for n in range(ran.value())]


def test_a_handler_that_raises_in_the_middle_of_a_print_tears_nothing(run: Run) -> None:
    code = """
import signal
class Now(Exception): pass
def handler(*_): raise Now
raised = n = 0
while raised < 100:
    try:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005)
        while True:
            print("line", n)
            n += 1
    except Now:
        raised += 1
"""
    ran = run(code)
    assert isinstance(ran.terminal, Returned), ran.terminal


def test_a_reader_that_waits_holds_the_writer_back() -> None:
    mine, theirs = socket.socketpair()
    with mine, theirs:
        channel = Channel(theirs.detach())
        sent: list[int] = []

        def flood() -> None:
            for n in range(2000):
                channel.write("stdout", "x" * 10_000 + "\n")
                sent.append(n)

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        parser = wire.Parser(max_body_bytes=0)
        mine.settimeout(60)
        received = 0
        while received < 2000 * 10_001:
            for header, _ in parser.feed(mine.recv(1 << 16)):
                received += len(json.loads(header)["text"])
                assert len(sent) * 10_001 <= received + (1 << 20)
        thread.join(60)
        assert len(sent) == 2000
        assert parser.idle
        channel.close()


def test_when_the_parent_goes_the_job_is_terminated(start: Start) -> None:
    child = start()
    child.run("import time\ntry:\n    print('ready')\n    time.sleep(1000)\nfinally:\n    open('cleaned', 'w').close()")
    child.printed("ready")
    child.hang_up()
    assert child.process.wait(30) in (1, 143)
    assert (child._folder / "cleaned").exists()


def test_when_the_parent_goes_a_job_that_ignores_it_ends_too(start: Start) -> None:
    child = start()
    child.run(
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready')\nwhile True: time.sleep(0.05)"
    )
    child.printed("ready")
    child.hang_up()
    assert child.process.wait(30) == 128 + signal.SIGTERM


def test_a_worker_without_work_ends_with_its_parent(start: Start) -> None:
    child = start()
    child.next()
    child.hang_up()
    assert child.process.wait(30) == 0


def test_an_interpreter_that_is_too_old_says_so(tmp_path: object) -> None:
    from tests.worker.driving import BOOT

    old = BOOT.read_text().replace("OLDEST = (3, 11)", "OLDEST = (9, 9)")
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-I", "-S", "-c", old], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs CPython 9.9 or newer" in done.stderr
    assert os.path.basename(sys.executable) in done.stderr


class Interrupted(deque):
    """A channel's queue that is looked at in the moments in which a signal handler may run."""

    def __init__(self, handler: Callable[[], None], items: Iterable[Any] = ()) -> None:
        super().__init__(items)
        self._handler = handler
        self._inside = False

    def _interrupt(self) -> None:
        if not self._inside:
            self._inside = True
            self._handler()

    def __bool__(self) -> bool:
        there = len(self) > 0
        if not there and sys._getframe(1).f_code.co_name == "_send":
            self._interrupt()
        return there

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        if place == -1:
            self._interrupt()
        return found


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    mine, theirs = socket.socketpair()
    mine.settimeout(HANG_GUARD_SECONDS)
    with mine:
        channel = Channel(theirs.detach())
        yield mine, channel
        channel.close()


def received(end: socket.socket, characters: int) -> str:
    """So much text, without anything else being done with the channel."""
    parser, text = wire.Parser(max_body_bytes=0), ""
    while len(text) < characters:
        text += "".join(report.text for report in decode_frames(parser.feed(end.recv(1 << 16))))  # type: ignore[union-attr]
    return text


def test_what_a_handler_prints_at_the_end_of_a_send_is_sent_too(ends: tuple[socket.socket, Channel]) -> None:
    mine, channel = ends
    channel._queue = Interrupted(lambda: channel.write("stdout", "handler\n"))
    channel.write("stdout", "print\n")
    assert received(mine, 14) == "print\nhandler\n"


@pytest.mark.parametrize("handlers", ["handler\n", "handler"])
def test_what_is_written_around_a_handler_arrives_whole(ends: tuple[socket.socket, Channel], handlers: str) -> None:
    mine, channel = ends
    channel.write("stderr", "one")
    channel._queue = Interrupted(lambda: channel.write("stderr", handlers), channel._queue)
    channel.write("stderr", "two\n")
    assert received(mine, 7 + len(handlers)) == f"one{handlers}two\n"


@pytest.mark.parametrize("text", ["handler\n", "handler"])
def test_a_report_around_a_handler_arrives(ends: tuple[socket.socket, Channel], text: str) -> None:
    mine, channel = ends
    channel.write("stdout", "one")
    channel._queue = Interrupted(lambda: channel.write("stdout", text), channel._queue)
    channel.emit({"type": "stream", "name": "stdout", "text": "two"})
    assert received(mine, 6 + len(text)) == f"one{text}two"


def test_what_an_interrupt_keeps_from_being_sent_is_sent_by_itself(
    ends: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, channel = ends
    write, interrupts = os.write, [KeyboardInterrupt()]

    def interrupted(fd: int, part: Any) -> int:
        if interrupts:
            raise interrupts.pop()
        return write(fd, part)

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        channel.write("stdout", "print\n")
    assert received(mine, 6) == "print\n"


def test_text_is_sent_at_once_where_no_thread_can_be_started(
    ends: tuple[socket.socket, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("nodetool_jupyter.worker.channel.start_new_thread", refuse)
    mine, channel = ends
    channel.write("stdout", "no line yet")
    assert received(mine, 11) == "no line yet"
