"""What no engine can do is refused with both numbers before it is asked; what one refuses is told in a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import CodeWork, JobRequest, ResourceLimits
from nodetool_jupyter.runners.docker.engine import EngineRefused
from nodetool_jupyter.runners.docker.failures import not_started
from nodetool_jupyter.runners.docker.refusals import check_request, most_allowed
from nodetool_jupyter.runners.docker.spec import container_spec

HERE = {"Name": os.uname().nodename, "KernelVersion": os.uname().release, "MemTotal": 8 << 30, "NCPU": 2}
INIT = "unable to start container process: error during container init: "
TASK = f"failed to create shim task: OCI runtime create failed: runc create failed: {INIT}"
WRITE = 'error setting cgroup config for procHooks process: failed to write "7": write /sys/fs/cgroup/'


def number(name: str) -> int:
    return int(Path("/proc/sys", name).read_text())


def refusal(facts: dict[str, Any], *, local: bool, **limits: Any) -> str:
    request = JobRequest(work=CodeWork("1"), runner="docker", limits=ResourceLimits(**limits))
    with pytest.raises(InvalidRequest) as refused:
        check_request(request, facts, local=local)
    return str(refused.value)


def test_the_kernel_s_numbers_count_where_it_is_this_machine_s() -> None:
    pids = min(number("kernel/pid_max"), number("kernel/threads-max"))
    said = f"--pids-limit {pids + 1} is more than the {pids} that the engine's machine can have. Ask for less."
    assert refusal(HERE, local=True, pids=pids + 1).startswith(said)
    files = number("fs/nr_open")
    assert f"Limits(open_files={files + 1}) is more than the {files} " in refusal(
        HERE, local=True, open_files=files + 1
    )
    check_request(JobRequest(work=CodeWork("1"), limits=ResourceLimits(pids=pids, open_files=files)), HERE, local=True)


@pytest.mark.parametrize(
    ("facts", "local"),
    [(HERE, False), ({**HERE, "Name": "not-this-one"}, True), ({**HERE, "KernelVersion": "5"}, True)],
)
def test_elsewhere_only_what_no_linux_has_is_refused(facts: dict[str, Any], *, local: bool) -> None:
    assert most_allowed(facts, local=local) == {"pids": 1 << 22}
    assert "--pids-limit 99999999 is more than the 4194304 that" in refusal(facts, local=local, pids=99_999_999)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"cpus": 2.0000001}, "--cpus 2.0000001 is more than the 2 that the engine's machine has"),
        ({"cpus": 3}, "--cpus 3 is more than the 2 that"),
        ({"memory_bytes": (8 << 30) + 1}, "--memory 8589934593 bytes is more than the 8589934592 bytes that"),
        ({"memory_bytes": 16 << 30}, "--memory 16 GiB is more than the 8 GiB that"),
    ],
)
def test_two_numbers_are_told_so_that_they_differ(limits: dict[str, Any], said: str) -> None:
    assert refusal(HERE, local=True, **limits).startswith(said)


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (404, "No such image: sha256:17f2", "The image was removed while the job was about to start. Run the cell"),
        (500, f"{TASK}{WRITE}pids/docker/3d/pids.max: invalid argument: unknown", "--pids-limit 77 is more than"),
        (500, f"Cannot update container 3d: runc did not: {WRITE}pids.max: invalid argument", "--pids-limit 77 is"),
        (500, f"{TASK}error setting rlimit type 7: operation not permitted: unknown", "(open_files=99) is more"),
        (500, f"{TASK}error creating scratch pipe: pipe2: too many open files: unknown", "(open_files=99) is too"),
        (500, f"{TASK}{WRITE}cpu/docker/57/cpu.cfs_quota_us: invalid argument: unknown", "--cpus 1.5 is not taken"),
        (500, f"{TASK}{WRITE}memory.max: device or resource busy", "--memory 64 MiB is less than"),
        (400, f"{TASK}error mounting \"tmpfs\" to rootfs at \"/x\": not a directory: unknown: A", "to lie over /x"),
        (500, "Cannot mkdir: /srv/file is not a directory", "--workdir '/srv/file' is a file in the image"),
        (403, "authorization denied by plugin opa", "does not let containers be made and started from here: author"),
        (500, f"{TASK}something new: unknown", "The engine refused the container: something new. Change what"),
    ],
)  # fmt: skip
def test_what_an_engine_says_is_told_by_the_option_that_it_speaks_of(status: int, text: str, said: str) -> None:
    limits = ResourceLimits(pids=77, open_files=99, cpus=1.5, memory_bytes=64 << 20)
    options = ContainerOptions(tmpfs={"/x": "size=1"}, workdir="/srv/file")
    request = JobRequest(work=CodeWork("1"), runner="docker", limits=limits, container=options)
    spec = container_spec(request, {}, image="sha256:1", image_user="", network="none", devices=())
    found = str(not_started(EngineRefused(status, text), spec))
    assert said in found
    assert not {"OCI", "runc", "cgroup", "rlimit"} & set(found.replace(":", " ").split())
