"""What an image tells of itself is a claim: it costs nothing, breaks nothing and orders nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nodetool_jupyter.errors import LimitNotHeld, ProfileRefused, ProtocolError
from nodetool_jupyter.frames import Ready, decode_frame
from nodetool_jupyter.jobs import CodeWork, JobRequest, Profile, ResourceLimits
from nodetool_jupyter.runners.docker.probe import Python
from nodetool_jupyter.runners.docker.refusals import check_held, check_request
from nodetool_jupyter.runners.docker.spec import NOBODY, container_spec

SECCOMP = {"SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"]}


def request(profile: Profile = Profile.UNTRUSTED, **limits: Any) -> JobRequest:
    return JobRequest(work=CodeWork("1"), runner="docker", profile=profile, limits=ResourceLimits(**limits))


@pytest.mark.parametrize("version", ["3.11.2\x1b]52;c;eA==\x07", "", "3.11\n", "3" * 33, "<b>3</b>"])
def test_a_version_that_is_none_is_not_taken(version: str) -> None:
    with pytest.raises(ProtocolError):
        decode_frame(msgspec.json.encode({"type": "ready", "protocol": 1, "python": version}), memoryview(b""))


@pytest.mark.parametrize("version", ["3.11.2", "3.14.0rc1", "3.15.0a1+"])
def test_a_version_of_python_is_taken(version: str) -> None:
    header = msgspec.json.encode({"type": "ready", "protocol": 1, "python": version})
    assert decode_frame(header, memoryview(b"")) == Ready(1, version)


@pytest.mark.parametrize(
    "claim",
    [
        {"libc_version": "2.99999999999"},
        {"libc_version": "2.x"},
        {"version": "\0"},
        {"machine": "x" * 33},
        {"abi": "-e"},
    ],
)
def test_a_python_that_can_not_be_is_none(claim: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(claim, Python)


@pytest.mark.parametrize(
    ("user", "runs_as"),
    [("+0", NOBODY), ("-0", NOBODY), ("00:0", NOBODY), ("root:5", NOBODY), ("\u00b2", "\u00b2"), ("app", "app")],
)
def test_every_way_to_write_root_is_nobody(user: str, runs_as: str) -> None:
    spec = container_spec(request(Profile.DEFAULT), {}, image="sha256:1", image_user=user, network="none", devices=())
    assert spec.config["User"] == runs_as


@pytest.mark.parametrize("told", [[], ["name=apparmor"], ["name=seccomp,profile=unconfined"]])
def test_an_engine_without_a_filter_on_system_calls_runs_no_untrusted_code(told: list[str]) -> None:
    with pytest.raises(ProfileRefused, match=r"no filter on system calls.*NT-D03"):
        check_request(request(), {"SecurityOptions": told})
    check_request(request(), SECCOMP)
    check_request(request(Profile.DEFAULT), {"SecurityOptions": told})


@pytest.mark.parametrize("best_effort", [True, False])
def test_untrusted_code_runs_only_where_every_limit_of_its_profile_holds(*, best_effort: bool) -> None:
    facts = {"PidsLimit": False}
    with pytest.raises(LimitNotHeld, match="--pids-limit"):
        check_held(request(best_effort=best_effort), facts)
    check_held(request(Profile.DEFAULT), facts)
    check_held(request(), {"PidsLimit": True})
