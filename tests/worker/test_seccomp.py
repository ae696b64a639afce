"""The filter of system calls, as a machine would run it and on this one."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from nodetool_jupyter.worker import seccomp

ALLOW, KILL = "allow", "kill"
NEW_USER, SIGCHLD, AF_VSOCK = 0x10000000, 17, 40


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None, **asked: bool) -> str:
    """What the program says of a call: a small machine for the instructions that it uses."""
    arch = seccomp.ARCHITECTURES[machine] if arch is None else arch
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("=HBBI", seccomp.program(machine, **asked)))
    at = accumulator = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x06:
            names = {0x7FFF0000: ALLOW, 0x80000000: KILL}
            return names.get(operand) or errno.errorcode[operand & 0xFFFF]
        else:
            holds = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[
                code
            ]
            at += yes if holds else no


@pytest.mark.parametrize(("machine", "column"), [("x86_64", 0), ("aarch64", 1)])
def test_calls_that_reach_too_far_are_refused(machine: str, column: int) -> None:
    for name, numbers in seccomp.REFUSED.items():
        if numbers[column] is not None:
            assert verdict(machine, numbers[column]) == "EPERM", name


@pytest.mark.parametrize(
    ("machine", "read", "clone", "clone3", "socket", "affinity"),
    [("x86_64", 0, 56, 435, 41, 203), ("aarch64", 63, 220, 435, 198, 122)],
)
def test_what_every_program_needs_is_allowed(
    machine: str, read: int, clone: int, clone3: int, socket: int, affinity: int
) -> None:
    assert verdict(machine, read) == ALLOW
    assert verdict(machine, clone, SIGCHLD) == ALLOW
    assert verdict(machine, clone, NEW_USER | SIGCHLD) == "EPERM"
    assert verdict(machine, clone3) == "ENOSYS"
    assert [verdict(machine, socket, family) for family in (1, 2, 10, 16)] == [ALLOW] * 4
    assert [verdict(machine, socket, family) for family in (0, 17, 38, AF_VSOCK)] == ["EAFNOSUPPORT"] * 4
    assert verdict(machine, affinity) == ALLOW
    assert verdict(machine, affinity, pinned=True) == "EPERM"


@pytest.mark.parametrize(("machine", "mmap", "setsockopt", "fcntl"), [("x86_64", 9, 54, 72), ("aarch64", 222, 208, 25)])
def test_memory_that_no_process_holds_is_refused_where_nothing_counts_it(
    machine: str, mmap: int, setsockopt: int, fcntl: int
) -> None:
    column = list(seccomp.ARCHITECTURES).index(machine)
    shared, private, validated, file = 0x21, 0x22, 0x23, 0x01
    calls = [(numbers[column],) for numbers in seccomp.UNCOUNTED.values()]
    calls += [(mmap, 0, 0, 0, flags) for flags in (shared, validated)]
    calls += [(setsockopt, 3, 1, option) for option in (7, 8, 60)] + [(fcntl, 3, 1031)]
    assert [verdict(machine, *call, counted=False) for call in calls] == ["EPERM"] * len(calls)
    assert [verdict(machine, *call) for call in calls] == [ALLOW] * len(calls)
    others = [(mmap, 0, 0, 0, flags) for flags in (private, file)]
    others += [(setsockopt, 3, 1, 2), (setsockopt, 3, 6, 7), (fcntl, 3, 1030)]
    assert [verdict(machine, *call, counted=False) for call in others] == [ALLOW] * len(others)


def test_calls_of_another_architecture_end_the_process() -> None:
    assert verdict("x86_64", 1, arch=0x40000003) == KILL
    assert verdict("x86_64", 0x40000000 | 101) == KILL
    assert verdict("aarch64", 1, arch=0x40000028) == KILL


def test_another_machine_has_no_filter() -> None:
    with pytest.raises(OSError, match="no filter of system calls for riscv64"):
        seccomp.program("riscv64")


@pytest.mark.skipif(os.uname().machine not in seccomp.ARCHITECTURES, reason="no filter for this machine")
def test_a_loaded_filter_holds_and_threads_and_children_still_work() -> None:
    code = f"""
import ctypes, runpy
module = runpy.run_path({str(Path(seccomp.__file__))!r})
module["load"]()
import os, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
number = module["REFUSED"]["ptrace"][0 if os.uname().machine == "x86_64" else 1]
print(libc.syscall(number, 0, 0, 0, 0), ctypes.get_errno())
thread = threading.Thread(target=print, args=("thread",)); thread.start(); thread.join()
print(subprocess.run(["echo", "child"], capture_output=True, text=True).stdout, end="")
status = open("/proc/self/status").read()
print("NoNewPrivs:\\t1" in status, "Seccomp:\\t2" in status)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["-1 1", "thread", "child", "True True", ""]
