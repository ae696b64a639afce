"""What untrusted code may try, as a cell that any runner with a boundary can run, and how each attempt must end."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from nodetool_jupyter.places import job_root

SENTINEL = "sentinel-d41d8cd98f00b204"
SECRETS = {"NODETOOL_SECRET": SENTINEL, "HTTPS_PROXY": f"http://me:{SENTINEL}@proxy"}
"""What the kernel's environment has during an attack."""

_DEVICES = ("mem", "kmsg", "sda", "kvm", "fuse")
_CELL = """
import ctypes, errno, json, os, resource, signal, socket, struct

SENTINEL, PATHS, DEVICES, KERNEL, PORT = json.loads(PARAMETERS)
libc = ctypes.CDLL(None, use_errno=True)
table = {}

def attempt(name, function, *arguments):
    try:
        table[name] = str(function(*arguments) or "allowed")
    except OSError as error:
        table[name] = errno.errorcode.get(error.errno, str(error.errno))

def call(number, *arguments):
    if number is not None and libc.syscall(number, *arguments) == -1:
        raise OSError(ctypes.get_errno(), "")

X86 = os.uname().machine == "x86_64"
CALLS = {
    "ptrace": (101, 117, 0, 0, 0, 0),
    "process_vm_readv": (310, 270, 1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 271, 1, 0, 0, 0, 0, 0),
    "pidfd_getfd": (438, 438, 0, 0, 0),
    "unshare user": (272, 97, 0x10000000),
    "unshare mount": (272, 97, 0x20000),
    "unshare net": (272, 97, 0x40000000),
    "setns": (308, 268, 0, 0),
    "mount": (165, 40, b"none", b"/nowhere", b"tmpfs", 0, None),
    "umount": (166, 39, b"/nowhere", 0),
    "fsopen": (430, 430, b"tmpfs", 0),
    "open_tree": (428, 428, -100, b"/", 0),
    "pivot_root": (155, 41, b"/nowhere", b"/nowhere"),
    "chroot": (161, 51, b"/nowhere"),
    "bpf": (321, 280, 0, 0, 0),
    "perf_event_open": (298, 241, 0, 0, -1, -1, 0),
    "keyctl": (250, 219, 0, -3, 0),
    "add_key": (248, 217, b"user", b"x", b"y", 1, -3),
    "request_key": (249, 218, b"user", b"x", 0, -3),
    "io_uring_setup": (425, 425, 1, 0),
    "io_setup": (206, 0, 1, 0),
    "userfaultfd": (323, 282, 1),
    "open_by_handle_at": (304, 265, -100, 0, 0),
    "kexec_load": (246, 104, 0, 0, 0, 0),
    "init_module": (175, 105, 0, 0, b""),
    "reboot": (169, 142, 0, 0, 0, 0),
    "swapon": (167, 224, b"/nowhere", 0),
    "personality": (135, 92, 0x40000),
    "clone3": (435, 435, 0, 0),
    "clone with a namespace": (56, 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0),
}
for name, (x86, arm, *arguments) in CALLS.items():
    attempt(f"call {name}", call, x86 if X86 else arm, *arguments)

# rights
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
table["capabilities"] = sorted({status[f"Cap{kind}"].strip() for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")})
table["no new privileges"], table["seccomp"] = status["NoNewPrivs"].strip(), status["Seccomp"].strip()
table["ids"] = sorted({*os.getresuid(), *os.getresgid(), *os.getgroups()})
attempt("a device of its own", os.mknod, "/tmp/sda", 0o60666, os.makedev(8, 0))

def write(path, text="x"):
    with open(path, "w") as file:
        file.write(text)

def open_to_write(path):
    # changes nothing, also where it is allowed: some of these belong to the whole machine
    os.close(os.open(path, os.O_WRONLY))

def denied(function, *arguments):
    def run():
        try:
            function(*arguments)
        except (OSError, ValueError):
            return "denied"
    return run

attempt("setuid 0", denied(os.setuid, 0))
attempt("setgid 0", denied(os.setgid, 0))
attempt("more open files", denied(resource.setrlimit, resource.RLIMIT_NOFILE, (4096, 1 << 20)))
attempt("spared when memory is short", denied(write, "/proc/self/oom_score_adj", "-1"))

# files
def read(path):
    return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1)

for name, path in PATHS.items():
    attempt(f"read {name}", denied(read, path))
for path in (*(f"/dev/{name}" for name in DEVICES), "/proc/kcore", "/proc/1/root/etc"):
    attempt(f"read {path}", denied(open, path, "rb"))
for folder in ("/", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/proc/sys/kernel", "/sys"):
    attempt(f"write to {folder}", denied(write, f"{folder}/probe"))
attempt("write to the library", denied(write, os.path.join(os.path.dirname(os.__file__), "probe")))
for path in ("/proc/sys/kernel/core_pattern", "/proc/1/mem"):
    attempt(f"write to {path}", denied(open_to_write, path))

def fill(folder):
    path = f"{folder}/filler"
    try:
        with open(path, "wb", buffering=0) as file:
            while file.tell() < 200 << 20:
                file.write(bytes(1 << 20))
    finally:
        os.remove(path)

for folder in ("/tmp", "/dev/shm"):
    attempt(f"fill {folder}", fill, folder)

# network
table["interfaces"] = sorted(name for _, name in socket.if_nameindex())

def connect(family, kind, address):
    with socket.socket(family, kind) as end:
        end.settimeout(20)
        end.connect(address)
        end.send(b"x")

attempt("connect to the internet", connect, socket.AF_INET, socket.SOCK_STREAM, ("192.0.2.1", 80))
attempt("send to the internet", connect, socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 53))
attempt("connect to the machine", connect, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT))
attempt("connect to its abstract socket", connect, socket.AF_UNIX, socket.SOCK_STREAM, f"\\0{SENTINEL}")
attempt("raw socket", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
attempt("packet socket", socket.socket, 17, socket.SOCK_RAW)
attempt("hypervisor's socket", socket.socket, 40, socket.SOCK_STREAM)
attempt("kernel's cryptography", socket.socket, 38, socket.SOCK_SEQPACKET)

# processes
def end_first():
    try:
        os.kill(1, signal.SIGKILL)
    except PermissionError:
        pass
    return "survives" if os.path.exists("/proc/1") else "gone"

attempt("kill the first process", end_first)
attempt("signal the kernel", os.kill, KERNEL, 0)
attempt("limit the kernel", lambda: str(resource.prlimit(KERNEL, resource.RLIMIT_NOFILE)))
attempt("see the kernel", lambda: "seen" if os.path.exists(f"/proc/{KERNEL}") else "unseen")

# secrets
def find_sentinel():
    found = [name for name, value in os.environ.items() if SENTINEL in name + value]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline"):
            try:
                text = open(f"/proc/{pid}/{name}", "rb").read()
            except OSError:
                continue
            # the cell itself travels on the channel and stands in no command line
            if SENTINEL.encode() in text:
                found.append(f"/proc/{pid}/{name}")
    return found or "nowhere"

attempt("find the sentinel", find_sentinel)
"""


class Attack(NamedTuple):
    """The cell, whose output `table` is to be exactly this one."""

    code: str
    table: dict[str, object]


@contextmanager
def attack(folder: Path, patch: pytest.MonkeyPatch, **more: str) -> Iterator[Attack]:
    """Everything to be attacked stands ready: a secret, the notebook in this folder, sockets that listen.

    more: other paths that must not be read, by a name.
    """
    for name, value in SECRETS.items():
        patch.setenv(name, value)
    patch.chdir(folder)
    (folder / "notebook.ipynb").write_text("mine")
    paths = {
        "the notebook": str(folder / "notebook.ipynb"),
        "its folder": str(folder),
        "Jupyter's data": os.environ["JUPYTER_DATA_DIR"],
        "Jupyter's connection files": os.environ["JUPYTER_RUNTIME_DIR"],
        "the folders of jobs": str(job_root()),
        "passwords": "/etc/shadow",
        "keys": os.path.expanduser("~/.ssh"),
        "Docker's socket": "/var/run/docker.sock",
        **more,
    }
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{SENTINEL}")
        abstract.listen()
        parameters = json.dumps([SENTINEL, paths, _DEVICES, os.getpid(), listening.getsockname()[1]])
        yield Attack(f"PARAMETERS = {parameters!r}\n{_CELL}", _expected(list(paths)))


def _expected(paths: Sequence[str]) -> dict[str, object]:
    calls = """ptrace,process_vm_readv,process_vm_writev,pidfd_getfd,unshare user,unshare mount,unshare net,setns,mount,
        umount,fsopen,open_tree,pivot_root,chroot,bpf,perf_event_open,keyctl,add_key,request_key,io_uring_setup,
        io_setup,userfaultfd,open_by_handle_at,kexec_load,init_module,reboot,swapon,personality,
        clone with a namespace"""
    written = ("/", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/proc/sys/kernel", "/sys", "the library")
    opened = ("/proc/sys/kernel/core_pattern", "/proc/1/mem")
    return {
        **{f"call {name.strip()}": "EPERM" for name in calls.split(",")},
        "call clone3": "ENOSYS",
        "capabilities": ["0" * 16],
        "no new privileges": "1",
        "seccomp": "2",
        "ids": [65534],
        "setuid 0": "denied",
        "setgid 0": "denied",
        "more open files": "denied",
        "a device of its own": "EPERM",
        "spared when memory is short": "denied",
        **{f"read {name}": "denied" for name in paths},
        **{f"read /dev/{name}": "denied" for name in _DEVICES},
        **{f"read /proc/{name}": "denied" for name in ("kcore", "1/root/etc")},
        **{f"write to {name}": "denied" for name in (*written, *opened)},
        "fill /tmp": "ENOSPC",
        "fill /dev/shm": "ENOSPC",
        "interfaces": ["lo"],
        "connect to the internet": "ENETUNREACH",
        "send to the internet": "ENETUNREACH",
        "connect to the machine": "ECONNREFUSED",
        "connect to its abstract socket": "ECONNREFUSED",
        "raw socket": "EPERM",
        "packet socket": "EAFNOSUPPORT",
        "hypervisor's socket": "EAFNOSUPPORT",
        "kernel's cryptography": "EAFNOSUPPORT",
        "kill the first process": "survives",
        "signal the kernel": "ESRCH",
        "limit the kernel": "ESRCH",
        "see the kernel": "unseen",
        "find the sentinel": "nowhere",
    }
