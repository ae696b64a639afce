"""GPUs: what a container would get, who has which, and that nobody gets none in silence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodetool_jupyter.config import job_environment
from nodetool_jupyter.containers import ContainerOptions, parse_gpus
from nodetool_jupyter.errors import InvalidRequest, LimitNotHeld
from nodetool_jupyter.jobs import CodeWork, JobRequest, JobStatus, Reason, ResourceLimits
from nodetool_jupyter.manager import JobExecutionManager
from nodetool_jupyter.runners.base import Parcel, WorkerNotStarted
from nodetool_jupyter.runners.docker import gpus
from nodetool_jupyter.runners.docker.engine import CallOff
from nodetool_jupyter.runners.docker.leases import take
from nodetool_jupyter.runners.docker.spec import container_spec
from nodetool_jupyter.runners.subprocess import SubprocessRunner
from tests.docker.jobs import Jobs, isolation, jobs_on
from tests.engine.private import GUARD_SECONDS, Engine

TWO = {"0": "GPU-aaaa", "1": "GPU-bbbb"}
PART = "MIG-GPU-aaaa/1/0"
UUID = "8f1c2d3e-aaaa-bbbb-cccc-0123456789ab"
BEST_EFFORT = ResourceLimits(best_effort=True)


@pytest.fixture
def jobs(engine: Engine, environ: dict[str, str]) -> Iterator[Jobs]:
    with jobs_on(engine, environ) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's leases are."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def device_requests(text: str, devices: tuple[str, ...] = ()) -> object:
    request = JobRequest(
        work=CodeWork("1"), runner="docker", container=ContainerOptions(gpus=parse_gpus(text, "--gpus"))
    )
    spec = container_spec(request, {}, image="sha256:1", image_user="", network="none", devices=devices)
    return spec.host["DeviceRequests"]


@pytest.mark.parametrize(
    ("text", "leased", "ids", "count"),
    [
        ("all", (), None, -1),
        ("all", ("0", "1"), ["0", "1"], 0),
        ("2", ("0", "3"), ["0", "3"], 0),
        ("2", (), None, 2),
        ('"device=0,2"', (), ["0", "2"], 0),
        ("device=GPU-1f2e", (), ["GPU-1f2e"], 0),
        ('"device=0:1,1"', ("0:1", "1"), ["0:1", "1"], 0),
    ],
)
def test_a_container_gets_the_gpus_asked_for_one_id_in_each_element(
    text: str, leased: tuple[str, ...], ids: list[str] | None, count: int
) -> None:
    expected = {"Driver": "nvidia", "Count": count, "Capabilities": [["gpu"]]}
    assert device_requests(text, leased) == [{**expected, **({"DeviceIDs": ids} if ids else {})}]


@pytest.mark.parametrize("text", ["", "none", "0"])
def test_no_gpu_is_asked_for_unless_somebody_does(text: str) -> None:
    assert device_requests(text) is None


def test_two_jobs_never_have_one_device_unasked(folder: Path) -> None:
    with gpus.lease("1", shared=False, stop=CallOff(), there=TWO) as first:
        with gpus.lease("1", shared=False, stop=CallOff(), there=TWO) as second:
            assert {*first, *second} == {"0", "1"}
            assert [waits(one) for one in ("1", "all", "device=0", "device=GPU-bbbb")] == [True] * 4
            with gpus.lease("device=0", shared=True, stop=CallOff(), there=TWO) as shared:
                assert shared == ("0",)
        assert second == enough("1")
    assert enough("all") == ("0", "1")


def test_a_device_is_one_by_its_number_and_by_its_uuid(folder: Path) -> None:
    with gpus.lease("device=GPU-aaaa", shared=False, stop=CallOff(), there=TWO) as held:
        assert held == ("GPU-aaaa",)
        assert waits("device=0")
        assert enough("1") == ("1",)


def test_a_job_in_line_gets_the_device_that_comes_free(folder: Path) -> None:
    got: list[tuple[str, ...]] = []

    def wait_in_line() -> None:
        with gpus.lease("1", shared=False, stop=CallOff(), there={"0": ""}) as held:
            got.append(held)

    with gpus.lease("all", shared=False, stop=CallOff(), there={"0": ""}):
        waiting = threading.Thread(target=wait_in_line)
        waiting.start()
    waiting.join(GUARD_SECONDS)
    assert got == [("0",)]


def test_who_waits_can_be_called_off_and_holds_nothing_then(folder: Path) -> None:
    with gpus.lease("device=1", shared=False, stop=CallOff(), there=TWO):
        assert waits("all")
        assert enough("device=0") == ("0",)


def test_the_device_of_a_killed_kernel_is_free(folder: Path) -> None:
    program = (
        "import sys, tempfile, time; tempfile.tempdir = sys.argv[1]\n"
        "from nodetool_jupyter.runners.docker.leases import take\n"
        "assert take('gpu-0') is not None; print('held', flush=True); time.sleep(1000)"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert waits("device=0"), "another process has it"
        assert enough("1") == ("1",)
        other.send_signal(signal.SIGKILL)
    assert enough("device=0") == ("0",)


def test_gpus_that_nobody_here_can_see_are_leased_by_name_or_shared(folder: Path) -> None:
    with pytest.raises(WorkerNotStarted, match="can't be seen from here"):
        enough("2", {})
    with gpus.lease("all", shared=True, stop=CallOff(), there={}) as held:
        assert held == ()
    with gpus.lease("device=3", shared=False, stop=CallOff(), there={}) as held:
        assert held == ("3",)


@pytest.mark.parametrize(
    "asked",
    [
        *("3", "device=2", "device=0,7", "device=2:0", "device=00", "device=GPU-cccc", "device=GPU-aa"),
        *("device=MIG-GPU-cccc/1/0", "device=1,GPU-aaaab"),
    ],
)
def test_more_gpus_than_there_are_and_others_are_refused(asked: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        gpus.check_gpus(asked, TWO)
    told = f"--gpus {asked} asks for other GPUs than the 2 of this machine: 0 (GPU-aaaa), 1 (GPU-bbbb). "
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    "asked", ["2", "device=GPU-aaaa", "device=gPU-AAAA", "device=1:0", "device=MIG-GPU-AAAA/1/0", "device=MIG-1f2e"]
)
def test_gpus_that_are_there_may_be_asked_for(asked: str) -> None:
    gpus.check_gpus(asked, TWO)


@pytest.mark.parametrize("one", [PART, "MIG-1f2e", "GPU-1f2e"])
def test_a_part_of_a_uuid_is_refused_where_nobody_can_say_whose_it_is(one: str) -> None:
    with pytest.raises(InvalidRequest, match="has no whole UUID in it"):
        gpus.check_gpus(f"device=0,{one}", {})
    whole = f"GPU-{UUID}" if one.startswith("GPU") else f"MIG-{UUID}"
    gpus.check_gpus(f"device=0,{whole}", {})


ONE_DEVICE = [
    ("0", "0"), ("0", "GPU-aaaa"), ("0", "GPU-AAAA"), ("GPU-AaAa", "1,GPU-aaaa"), ("0", "0:0"), ("0:0", "GPU-aaaa"),
    ("0:1", "0:1"), ("0", PART), ("GPU-AAAA", PART), (PART, PART.upper()), ("0", "MIG-1f2e"), ("0:0", "MIG-1f2e"),
    ("0:0", PART), (PART, "MIG-1f2e"), ("MIG-1f2e", "MIG-1F2E"), ("1,0:0", "1"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), [*ONE_DEVICE, *(pair[::-1] for pair in ONE_DEVICE)])
def test_what_may_be_one_device_by_another_name_is_not_given_twice(folder: Path, one: str, other: str) -> None:
    with gpus.lease(f"device={one}", shared=False, stop=CallOff(), there=TWO) as held:
        assert held == tuple(one.split(","))
        assert waits(f"device={other}")
    assert enough(f"device={other}") == tuple(other.split(","))


@pytest.mark.parametrize(
    ("one", "other"),
    [("0", "1"), ("0", "GPU-bbbb"), ("0:0", "0:1"), ("0:0", "1"), (PART, "MIG-GPU-aaaa/1/1"), ("MIG-1f2e", "MIG-1f2f")],
)
def test_other_devices_and_other_parts_of_one_go_together(folder: Path, one: str, other: str) -> None:
    with gpus.lease(f"device={one}", shared=False, stop=CallOff(), there=TWO):
        assert enough(f"device={other}") == (other,)


def test_a_count_takes_no_device_of_which_a_part_is_taken(folder: Path) -> None:
    with gpus.lease("device=0:1", shared=False, stop=CallOff(), there=TWO):
        assert enough("1") == ("1",)
        assert waits("2")
    assert enough("device=0,GPU-aaaa,0:1") == ("0", "GPU-aaaa", "0:1"), "one job may name one device twice"


def test_the_driver_tells_numbers_and_uuids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, uuid in (("0000:41:00.0", "GPU-b"), ("0000:01:00.0", "GPU-a")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "information").write_text(f"Model: \t\t A\nIRQ: 1\nGPU UUID: \t {uuid}\n")
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path)
    assert gpus.present() == {"0": "GPU-a", "1": "GPU-b"}
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    assert gpus.present() == {}


def test_without_a_gpu_runtime_the_job_is_refused_and_told_what_to_install(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "present", dict)
    with pytest.raises(gpus.NoGpu, match=r"Install the driver and nvidia-container-toolkit.*\[NT-D05\]"):
        jobs.submit("1", container=ContainerOptions(gpus="all"))


def test_an_engine_that_can_not_give_gpus_fails_the_job_with_what_to_install(
    jobs: Jobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_gpus(jobs):
        pytest.skip("This engine can give GPUs. To run this test: take an engine without a GPU runtime.")
    monkeypatch.setattr(gpus, "present", lambda: {"0": ""})
    job, _ = jobs.run("1", container=ContainerOptions(gpus="1"))
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.START_FAILED)
    assert job.message.startswith("The engine has no GPU runtime, so --gpus can't be held. Install the NVIDIA driver")
    assert not jobs.containers()
    assert enough("1", {"0": ""}) == ("0",), "its lease is given back"


def test_a_job_cancelled_while_it_waits_for_a_gpu_leaves_nothing(
    jobs: Jobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "present", lambda: {"0": ""})
    asked = threading.Event()
    monkeypatch.setattr(gpus, "take", lambda name, **how: (asked.set(), take(name, **how))[1])
    with gpus.lease("1", shared=False, stop=CallOff(), there={"0": ""}):
        asked.clear()
        job = jobs.submit("1", container=ContainerOptions(gpus="1"))
        assert asked.wait(GUARD_SECONDS)
        jobs.manager.cancel(job.id)
        assert jobs.end(job)[0].status is JobStatus.CANCELLED
    assert not jobs.containers()


def test_a_job_that_waits_for_a_gpu_keeps_no_other_from_running(
    engine: Engine, environ: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "present", lambda: TWO)
    with jobs_on(engine, {**environ, "DOCKER_MAX_JOBS": "1"}) as jobs:
        with gpus.lease("all", shared=False, stop=CallOff(), there=TWO):
            waiting = [jobs.submit("1", container=ContainerOptions(gpus=asked)) for asked in ("1", "device=1")]
            job, _ = jobs.run("1")
            assert job.status is JobStatus.COMPLETED, job.message
            assert {jobs.manager.waits_for(job.id) for job in waiting} == {"waits for a GPU that another job has"}
            assert {jobs.manager.get(job.id).status for job in waiting} == {JobStatus.QUEUED}
            assert jobs.manager.cancel(waiting.pop().id)
        assert jobs.end(waiting[0])[0].status.final
    assert enough("all") == ("0", "1"), "nobody has a lease any more"


def test_a_job_whose_gpu_can_not_be_kept_fails_and_no_other_with_it(
    jobs: Jobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus, "present", lambda: TWO)
    (folder / f"nodetool-{os.geteuid()}-leases").symlink_to(folder)
    job, _ = jobs.run("1", container=ContainerOptions(gpus="1"))
    assert job.reason is Reason.START_FAILED
    assert "is not a folder of your own. Remove it, or set TMPDIR" in job.message
    assert jobs.run("1")[0].status is JobStatus.COMPLETED


def test_what_was_kept_for_a_job_that_is_cancelled_before_its_start_is_free(folder: Path) -> None:
    found = gpus.Gpus(local=False)
    assert found.reserve("job", ContainerOptions(gpus="device=1"))
    assert waits("device=1")
    found.unreserve("job")
    assert enough("device=1") == ("1",)


def test_a_job_computes_on_a_gpu(jobs: Jobs) -> None:
    if not has_gpus(jobs):
        pytest.skip("No GPU is here. To run this test: a machine with an NVIDIA GPU and nvidia-container-toolkit.")
    job, events = jobs.run("import glob; assert glob.glob('/dev/nvidia[0-9]*')", container=ContainerOptions(gpus="1"))
    assert job.status is JobStatus.COMPLETED, job.message
    assert len(isolation(events).details["gpus"]) == 1


def test_on_a_process_gpus_are_advice_and_refused_as_a_limit() -> None:
    asked = JobRequest(work=CodeWork("1"), runner="subprocess", container=ContainerOptions(gpus="device=1,2"))
    with pytest.raises(LimitNotHeld, match=r"can't hold --gpus here.*Use --runner docker, or add --best-effort"):
        SubprocessRunner().check(asked)


@pytest.mark.parametrize(
    ("asked", "visible"),
    [("device=1,2", "1,2"), ("2", "0,1"), ("device=GPU-a", "GPU-a"), ("all", "kernel's"), ("", "kernel's")],
)
def test_advice_about_gpus_is_an_environment_variable(asked: str, visible: str) -> None:
    request = JobRequest(work=CodeWork("1"), runner="subprocess", container=ContainerOptions(gpus=asked))
    assert job_environment({"CUDA_VISIBLE_DEVICES": "kernel's"}, request) == {"CUDA_VISIBLE_DEVICES": visible}


def test_a_process_with_advice_about_gpus_says_that_they_are_not_held(manager: JobExecutionManager) -> None:
    request = JobRequest(
        work=CodeWork("import os; os.environ['CUDA_VISIBLE_DEVICES']"),
        runner="subprocess",
        limits=BEST_EFFORT,
        container=ContainerOptions(gpus="device=1"),
    )
    job = manager.submit(request, Parcel(environ=job_environment(manager.settings.environ, request)))
    assert manager.wait(job.id, GUARD_SECONDS).status is JobStatus.COMPLETED
    events = manager.events(job.id)
    assert "gpus" in isolation(events).not_held
    assert any(getattr(event, "data", {}).get("text/plain") == "'1'" for event in events)


def has_gpus(jobs: Jobs) -> bool:
    with jobs.engine.client() as client:
        return bool(gpus.present()) and "nvidia" in client.info().get("Runtimes", {})


def waits(asked: str, there: dict[str, str] = TWO) -> bool:
    """Whether this can't be had now; it is called off as soon as it was tried."""
    stop = CallOff()
    stop.set()
    try:
        with gpus.lease(asked, shared=False, stop=stop, there=there):
            return False
    except WorkerNotStarted:
        return True


def enough(asked: str, there: dict[str, str] = TWO) -> tuple[str, ...]:
    """What is had at once."""
    stop = CallOff()
    stop.set()
    with gpus.lease(asked, shared=False, stop=stop, there=there) as held:
        return held
