"""Settings: where each value comes from, what `ENV=test` changes, and what a bad value says."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nodetool_jupyter.config import BY_NAME, RUNNERS, SETTINGS, Settings, job_environment, usable_cpus
from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import CodeWork, JobRequest, Profile

SAMPLES: dict[str, tuple[str, object]] = {
    "env": ("production", "production"),
    "runner": ("subprocess", "subprocess"),
    "profile": ("trusted", Profile.TRUSTED),
    "background": ("1", True),
    "timeout": ("5m", 300.0),
    "grace": ("500ms", 0.5),
    "python": ("/usr/bin/python3", "/usr/bin/python3"),
    "progress": ("text", "text"),
    "noninteractive": ("yes", True),
    "thread_pool_size": ("3", 3),
    "max_workflow_threads": ("7", 7),
    "docker_max_jobs": ("3", 3),
    "docker_image": ("python:3.12-slim", "python:3.12-slim"),
    "docker_pull": ("never", "never"),
    "docker_memory": ("1.5g", 1536 << 20),
    "docker_cpus": ("0.5", 0.5),
    "docker_pids": ("64", 64),
    "docker_shm_size": ("2g", 2 << 30),
    "docker_user": ("1000:100", "1000:100"),
    "docker_gpus": ("0,2", "device=0,2"),
    "docker_network": ("bridge", "bridge"),
    "database_url": ("sqlite:////tmp/x.sqlite", "sqlite:////tmp/x.sqlite"),
}
FREE_TEXT = {"env", "python", "database_url"}
WORDS = {"docker_image", "docker_user", "docker_network"}
"""A name may stand here."""
VARIABLES = [(setting.name, variable) for setting in SETTINGS for variable in setting.variables]


def resolved(settings: Settings) -> dict[str, object]:
    return {name: settings[name] for name in BY_NAME}


def test_every_setting_has_a_sample_here() -> None:
    assert set(SAMPLES) == set(BY_NAME)


@pytest.mark.parametrize(("name", "variable"), VARIABLES)
def test_a_variable_sets_its_setting_and_only_that(name: str, variable: str) -> None:
    text, value = SAMPLES[name]
    settings = Settings({variable: text})
    assert settings[name] == value
    assert settings.origin(name) == f"environment {variable}"
    assert all(settings.origin(other) == "default" for other in BY_NAME if other != name)


@pytest.mark.parametrize(("name", "variable"), [(n, v) for n, v in VARIABLES if n not in FREE_TEXT])
@pytest.mark.parametrize("text", ["banana", "-1", "0.0.0"])
def test_a_value_that_cannot_be_read_is_an_error_that_names_the_variable(name: str, variable: str, text: str) -> None:
    text = f"{text}!" if name in WORDS else text
    with pytest.raises(InvalidRequest) as caught:
        Settings({variable: text})[name]
    assert variable in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(("name", "variable"), [(n, v) for n, v in VARIABLES if n.startswith("docker_")])
def test_a_value_for_containers_that_cannot_be_read_hurts_nobody_who_does_not_ask_for_it(
    name: str, variable: str
) -> None:
    settings = Settings({variable: "me@example.com!"})
    assert all(settings[other] == Settings({})[other] for other in BY_NAME if other != name)
    assert list(settings.unread) == [name]
    assert (settings.or_default(name), settings.origin(name)) == (Settings({})[name], f"environment {variable}")
    with pytest.raises(InvalidRequest, match=rf"{variable}: .*`%nodetool config {name} VALUE` sets another"):
        settings[name]
    settings.choose(name, SAMPLES[name][0])
    assert (settings[name], dict(settings.unread)) == (SAMPLES[name][1], {})


def test_traitlets_are_read_as_text_is() -> None:
    assert Settings({}, traits={"timeout": "5m", "background": True, "docker_pids": 7})["timeout"] == 300
    with pytest.raises(InvalidRequest, match=r"c\.NodetoolMagics\.timeout = 'soon'"):
        Settings({}, traits={"timeout": "soon"})
    assert list(Settings({}, traits={"docker_user": "me@home"}).unread) == ["docker_user"]


@pytest.mark.parametrize("variable", ["THREAD_POOL_SIZE", "MAX_WORKFLOW_THREADS"])
def test_fewer_than_one_job_at_once_is_an_error(variable: str) -> None:
    with pytest.raises(InvalidRequest, match=variable):
        Settings({variable: "0"})


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert resolved(Settings({variable: "" for _, variable in VARIABLES})) == resolved(Settings({}))


def test_the_first_of_several_variables_wins() -> None:
    names = BY_NAME["runner"].variables
    settings = Settings(dict(zip(names, RUNNERS, strict=True)))
    assert names[0] == "NODETOOL_RUNNER"
    assert settings["runner"] == RUNNERS[0]


def test_the_kernels_choice_holds_over_traitlets_over_the_environment_over_the_default() -> None:
    environ = {"NODETOOL_PROGRESS": "text"}
    assert Settings({})["progress"] == "auto"
    assert Settings(environ)["progress"] == "text"
    assert Settings(environ, traits={"progress": "card"})["progress"] == "card"
    settings = Settings(environ, traits={"progress": "card"}, chosen={"progress": "none"})
    assert (settings["progress"], settings.origin("progress")) == ("none", "config")


def test_a_choice_that_cannot_be_read_changes_nothing() -> None:
    settings = Settings({})
    with pytest.raises(InvalidRequest, match="timeout 'soon'"):
        settings.choose("timeout", "soon")
    with pytest.raises(InvalidRequest, match="'colour'"):
        settings.choose("colour", "blue")
    assert settings["timeout"] is None
    settings.choose("timeout", "2m")
    assert settings["timeout"] == 120


def test_concurrency_follows_the_processors_that_this_process_may_use() -> None:
    settings = Settings({})
    assert settings["thread_pool_size"] == usable_cpus() == len(os.sched_getaffinity(0))
    assert settings["max_workflow_threads"] == 2 * usable_cpus()


def test_env_test_changes_exactly_where_jobs_are_kept_and_how_they_are_shown() -> None:
    ordinary, test = Settings({}), Settings({"ENV": "test"})
    before, after = resolved(ordinary), resolved(test)
    assert {name: after[name] for name in BY_NAME if after[name] != before[name]} == {
        "env": "test",
        "noninteractive": True,
    }
    assert ordinary.database_url.startswith("sqlite:///")
    assert ordinary.database_url.endswith("/nodetool/jobs.sqlite")
    assert test.database_url == ""


def test_a_store_that_was_asked_for_holds_in_test_too() -> None:
    settings = Settings({"ENV": "test", "NODETOOL_DATABASE_URL": "sqlite:////tmp/kept.sqlite"})
    assert settings.database_url == "sqlite:////tmp/kept.sqlite"


def test_env_test_can_be_chosen_like_any_other_setting() -> None:
    settings = Settings({}, chosen={"env": "test"})
    assert settings.test
    assert settings.database_url == ""
    assert settings["noninteractive"] is True


@pytest.mark.parametrize("env", ["production", "TEST", "testing"])
def test_only_the_word_test_means_test(env: str) -> None:
    settings = Settings({"ENV": env})
    assert not settings.test
    assert settings["noninteractive"] is False


def test_env_test_is_never_guessed() -> None:
    assert not Settings({"PYTEST_CURRENT_TEST": "x", "PYTEST_VERSION": "9", "CI": "true"}).test


def test_the_owner_is_the_hubs_user_where_there_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings({"JUPYTERHUB_USER": "ada"}).user == "ada"
    monkeypatch.setattr("getpass.getuser", lambda: "os-user")
    assert Settings({}).user == "os-user"


def test_an_owner_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert Settings({}).user == str(os.getuid())


KERNEL = {
    "PATH": "/bin",
    "HOME": "/h",
    "USER": "u",
    "LANG": "C.UTF-8",
    "LC_ALL": "C",
    "TZ": "UTC",
    "https_proxy": "p",
    "NO_PROXY": "q",
    "OMP_NUM_THREADS": "2",
    "CUDA_VISIBLE_DEVICES": "0",
    "MPLBACKEND": "agg",
    "SSL_CERT_FILE": "c",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "GITHUB_TOKEN": "secret",
    "JUPYTER_TOKEN": "secret",
    "JPY_API_TOKEN": "secret",
    "NODETOOL_AUTH_TOKEN": "secret",
    "PYTHONPATH": "/evil",
    "LD_PRELOAD": "evil.so",
    "XPATH": "x",
}


def passed(**fields: Any) -> dict[str, str]:
    return job_environment(KERNEL, JobRequest(work=CodeWork(""), **fields))


def test_a_job_gets_only_the_names_on_the_list() -> None:
    found = passed(runner="subprocess")
    assert "secret" not in found.values()
    assert set(KERNEL) - set(found) == {
        *("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "JUPYTER_TOKEN", "JPY_API_TOKEN", "NODETOOL_AUTH_TOKEN"),
        *("PYTHONPATH", "LD_PRELOAD", "XPATH"),
    }


def test_a_trusted_job_gets_the_whole_environment() -> None:
    assert passed(runner="subprocess", profile=Profile.TRUSTED) == KERNEL


@pytest.mark.parametrize("profile", Profile)
def test_a_container_gets_next_to_nothing_whatever_its_profile(profile: Profile) -> None:
    assert passed(runner="docker", profile=profile) == {"LANG": "C.UTF-8", "TZ": "UTC"}


@pytest.mark.parametrize("runner", ["subprocess", "docker"])
def test_what_was_asked_for_holds_over_the_kernels_own(runner: str) -> None:
    found = passed(runner=runner, env={"TZ": "Asia/Tokyo", "MY_NAME": "1"})
    assert (found["TZ"], found["MY_NAME"]) == ("Asia/Tokyo", "1")


@pytest.mark.parametrize("gpus", ["2", "9" * 20])
def test_a_count_of_gpus_names_the_first_ones_and_no_more_than_a_machine_has(gpus: str) -> None:
    seen = passed(runner="subprocess", container=ContainerOptions(gpus=gpus))["CUDA_VISIBLE_DEVICES"].split(",")
    assert seen == [str(number) for number in range(min(int(gpus), 64))]
