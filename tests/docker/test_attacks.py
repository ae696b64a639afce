"""Hostile code in a container: what it can't do, what it can't forge, and what no container is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodetool_jupyter.errors import OutputMissing
from nodetool_jupyter.events import Display, Exit
from nodetool_jupyter.jobs import JobStatus, Profile, Reason
from nodetool_jupyter.notebook.handle import decode_value
from nodetool_jupyter.worker import seccomp
from tests.docker.jobs import Jobs, isolation
from tests.runners.test_subprocess_faults import HOSTILE, SEND_RAW
from tests.sandbox.attacks import SECRETS, attack
from tests.workflows.seeing import of, text

FILTERS = "filters = [l.split()[1] for l in open('/proc/self/status') if l.startswith('Seccomp_filters')]"


def test_every_attack_is_denied(jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with attack(tmp_path, monkeypatch, engine=jobs.engine.url.removeprefix("unix://")) as made:
        jobs.manager.settings.environ.update(SECRETS)
        job, events = jobs.run(f"{made.code}\n{FILTERS}", outputs=("table", "filters"), profile=Profile.UNTRUSTED)
    assert job.status is JobStatus.COMPLETED, (job.message, text(events, "stderr"))
    assert jobs.value(job, "table") == made.table
    assert jobs.value(job, "filters") == ["2"]
    assert isolation(events).details["seccomp"] == seccomp.IN_WORDS


@pytest.mark.parametrize("place", ["fd/1", "fd/0", "mem", "environ"])
def test_the_pump_is_closed_to_the_job(jobs: Jobs, place: str) -> None:
    job, _ = jobs.run(f"import os\nopen(f'/proc/{{os.getppid()}}/{place}', 'r+b')")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.ERROR)
    assert job.message.startswith("PermissionError")


def test_a_job_neither_kills_nor_stops_its_pump(jobs: Jobs) -> None:
    signals = "signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV"
    job, events = jobs.run(
        f"import os, signal\nfor number in ({signals}):\n    os.kill(os.getppid(), number)\nprint('fine')"
    )
    assert (job.status, text(events)) == (JobStatus.COMPLETED, "fine\n"), job.message


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_bytes_on_the_workers_channel_end_the_job_alone(jobs: Jobs, what: str) -> None:
    job, _ = jobs.run(f"{SEND_RAW}\nsend({HOSTILE[what]})\ntime.sleep(600)")
    assert (job.status, job.reason) == (JobStatus.FAILED, Reason.PROTOCOL), job.message
    assert "NT-R02" in job.message


@pytest.mark.parametrize(
    ("reports", "status"),
    [
        ("{'type': 'returned'}, {'type': 'raised', 'ename': 'E', 'evalue': 'e'}", JobStatus.FAILED),
        ("{'type': 'job_update', 'status': 'completed'}", JobStatus.FAILED),
        ("{'type': 'isolation', 'runner': 'docker', 'profile': 'trusted'}", JobStatus.FAILED),
        ("{'type': 'exit', 'code': 0}", JobStatus.FAILED),
        ("{'type': 'stream', 'name': 'stdout', 'text': 'mine', 'job_id': 'another', 'seq': 99}", JobStatus.COMPLETED),
    ],
)
def test_reports_are_taken_for_what_a_job_may_say(jobs: Jobs, reports: str, status: JobStatus) -> None:
    code = (
        f"import os\nfrom nodetool_jupyter.worker.current import current\nfor one in ({reports},):\n"
        "    current().outlet.emit(one)\n"
    )
    after = "import time\ncurrent().outlet.flush()\ntime.sleep(600)" if status is JobStatus.FAILED else ""
    job, events = jobs.run(code + after, grace_seconds=0.3)
    assert job.status is status, job.message
    assert {event.job_id for event in events} == {job.id}
    assert isolation(events).profile == "default"
    assert len(of(events, Exit)) == 1


@pytest.mark.parametrize("kind", ["pickle", "json", "tagged", "numpy", "bytes"])
@pytest.mark.parametrize("profile", [Profile.DEFAULT, Profile.UNTRUSTED])
def test_a_pickle_is_opened_under_no_name(jobs: Jobs, tmp_path: Path, profile: Profile, kind: str) -> None:
    trap = tmp_path / "sprung"
    code = f"""
import pickle
from nodetool_jupyter.worker.current import current
class Trap:
    def __reduce__(self):
        return open, ({str(trap)!r}, "w")
data = pickle.dumps(Trap())
header = {{"type": "value", "name": "x", "format": {kind!r}, "type_name": "A", "sizes": [len(data)], "meta": {{}}}}
current().outlet.emit(header, [data])
"""
    job, _ = jobs.run(code, outputs=(), profile=profile)
    found = jobs.manager.values(job.id).get("x")
    if profile is Profile.UNTRUSTED and kind == "pickle":
        assert (job.reason, found) == (Reason.PROTOCOL, None)
    elif kind == "bytes":
        assert isinstance(decode_value(found, job), bytes)  # type: ignore[arg-type]
    else:
        with pytest.raises(OutputMissing, match=r"can't be unpacked here|came as a pickle"):
            decode_value(found, job)  # type: ignore[arg-type]
    assert not trap.exists()


def test_markup_of_an_untrusted_container_is_not_shown(jobs: Jobs) -> None:
    code = (
        "class A:\n    def _repr_html_(self):\n        return '<script>1</script>'\nprint('\\x1b]52;c;x\\x07red')\nA()"
    )
    job, events = jobs.run(code, profile=Profile.UNTRUSTED)
    assert job.status is JobStatus.COMPLETED, job.message
    assert all("text/html" not in shown.data for shown in of(events, Display))
    assert "\x1b" not in text(events)
