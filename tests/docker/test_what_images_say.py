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
from nodetool_jupyter.runners.docker.users import in_numbers

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
    [
        *((root, NOBODY) for root in ("", "+0", "-0", "00:0", "0:5", "root", "root:5", "-5", "99999999999")),
        *((name, NOBODY) for name in ("app", "\u00b2", "\u0663", "1_0", "1000:app", "1000:-1")),
        *(("1000", "1000:1000"), ("+1000", "1000:1000"), ("1000:100", "1000:100"), ("1000:0", "1000:0")),
    ],
)
def test_an_images_own_user_counts_where_it_is_a_number_and_not_roots(user: str, runs_as: str) -> None:
    def runs(profile: Profile) -> str:
        spec = container_spec(request(profile), {}, image="sha256:1", image_user=user, network="none", devices=())
        return str(spec.config["User"])

    assert runs(Profile.DEFAULT) == runs_as
    assert runs(Profile.UNTRUSTED) == (NOBODY if runs_as.endswith(":0") else runs_as)


PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\napp:x:7:8::/:/bin/sh\napp:x:0:0::/:\ntoor:x:0:0::/:\nodd:x:seven:8::/:\nshort:x\n"
)
GROUP = "root:x:0:\nstaff:x:50:app\nodd:x:x:\n"


@pytest.mark.parametrize(
    ("user", "means"),
    [
        *(("app", "7:8"), ("app:staff", "7:50"), ("app:0", "7:0"), ("1000:staff", "1000:50"), ("toor", "0:0")),
        *((as_it_is, as_it_is) for as_it_is in ("odd", "short", "none", "app:odd", "app:none", "1000:none")),
    ],
)
def test_names_are_what_the_images_files_say_and_nothing_else(user: str, means: str) -> None:
    assert in_numbers(user, PASSWD, GROUP) == means
    assert in_numbers("app", "", "") == "app"


@pytest.mark.parametrize("told", [[], ["name=apparmor"], ["name=seccomp,profile=unconfined"]])
def test_an_engine_without_a_filter_on_system_calls_runs_no_untrusted_code(told: list[str]) -> None:
    with pytest.raises(ProfileRefused, match=r"no filter on system calls.*NT-D03"):
        check_request(request(), {"SecurityOptions": told}, local=False)
    check_request(request(), SECCOMP, local=False)
    check_request(request(Profile.DEFAULT), {"SecurityOptions": told}, local=False)


@pytest.mark.parametrize("best_effort", [True, False])
def test_untrusted_code_runs_only_where_every_limit_of_its_profile_holds(*, best_effort: bool) -> None:
    facts = {"PidsLimit": False}
    with pytest.raises(LimitNotHeld, match="--pids-limit"):
        check_held(request(best_effort=best_effort), facts)
    check_held(request(Profile.DEFAULT), facts)
    check_held(request(), {"PidsLimit": True})
