"""The line of `%%nodetool`: what it says, and what is said about its mistakes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import msgspec
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from nodetool_jupyter.config import RUNNERS, Settings
from nodetool_jupyter.containers import ContainerOptions
from nodetool_jupyter.errors import InvalidRequest, ProfileRefused
from nodetool_jupyter.jobs import CodeWork, JobRequest, Profile, ResourceLimits
from nodetool_jupyter.notebook.completion import VERBS
from nodetool_jupyter.notebook.options import AUTO, Options, changes, option_parser, parse, resolve, split


def given(line: str) -> Namespace:
    return parse(option_parser("nodetool"), split(line), usage="%%nodetool")


def options(line: str, **chosen: str) -> Options:
    return resolve(given(line), Settings({}, chosen=chosen))


def refusal(line: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        options(line)
    return str(caught.value)


def test_an_empty_line_means_the_defaults() -> None:
    found = options("")
    assert (found.runner, found.profile, found.inputs, found.outputs) == ("threaded", Profile.DEFAULT, AUTO, ())
    assert not found.background
    assert found.raises
    assert found.limits == ResourceLimits()
    assert (found.max_output_bytes, found.max_transfer_bytes, found.grace_seconds) == (1 << 20, None, 5.0)


def test_every_option_is_understood() -> None:
    found = options(
        "-r subprocess -i a,b -o c -o d -b -t 5m -m 2g --cpus 1.5 --pids-limit 64 --python /usr/bin/python3 --fresh"
        " --profile trusted -e A=1 -e B --env-file f --secret S --name train --label k=v --grace 3s"
        " --job j --progress text --max-output 2m --max-transfer 1m --no-raise --dry-run --best-effort"
    )
    assert found == Options(
        runner="subprocess",
        profile=Profile.TRUSTED,
        inputs=("a", "b"),
        outputs=("c", "d"),
        background=True,
        limits=ResourceLimits(wall_seconds=300, memory_bytes=2 << 30, cpus=1.5, pids=64, best_effort=True),
        python="/usr/bin/python3",
        fresh=True,
        env=("A=1", "B"),
        env_files=("f",),
        secrets=("S",),
        name="train",
        labels={"k": "v"},
        grace_seconds=3.0,
        job="j",
        progress="text",
        max_output_bytes=2 << 20,
        max_transfer_bytes=1 << 20,
        raises=False,
        dry_run=True,
        container=ContainerOptions(),
    )


def test_the_line_wins_over_what_is_set() -> None:
    assert options("", runner="subprocess", timeout="10s").runner == "subprocess"
    assert options("", timeout="10s").limits.wall_seconds == 10
    assert options("-r threaded -t 20s", runner="subprocess", timeout="10s").limits.wall_seconds == 20
    assert options("-r threaded", runner="subprocess").runner == "threaded"


LOGIN = {"DOCKER_USER": "me@example.com", "DOCKER_PIDS_LIMIT": "many"}
"""As CI has it for a registry."""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-r threaded", ""),
        ("-r subprocess", ""),
        ("-r docker --user 1000 --pids-limit 64", ""),
        ("-r docker --user 1000", "DOCKER_PIDS_LIMIT: 'many'"),
        ("-r docker --pids-limit 64", "DOCKER_USER: 'me@example.com'"),
    ],
)
def test_what_is_set_for_containers_counts_for_them_alone_and_where_the_line_says_nothing(line: str, said: str) -> None:
    if not said:
        assert resolve(given(line), Settings(LOGIN)) == resolve(given(line), Settings({}))
        return
    with pytest.raises(InvalidRequest, match=said):
        resolve(given(line), Settings(LOGIN))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--name 'two words'", ["--name", "two words"]),
        ('--name "it\'s"', ["--name", "it's"]),
        ("--name='a b'", ["--name=a b"]),
        ("""--gpus '"device=0,1"'""", ["--gpus", '"device=0,1"']),
        (r"--name a\ b", ["--name", "a b"]),
        ("-e A='x y'z", ["-e", "A=x yz"]),
        ("--name ''", ["--name", ""]),
        ("--name $HOME {x}", ["--name", "$HOME", "{x}"]),
    ],
)
def test_one_layer_of_quotes_is_stripped_as_a_shell_does(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--foo", ["There is no option '--foo'. `%%nodetool?`"]),
        ("--bogus", ["There is no option '--bogus'. `%%nodetool?`"]),
        ("--net none", ["Did you mean --network?"]),
        ("--memroy 2g", ["'--memroy'", "Did you mean --memory?"]),
        ("--mem 2g", ["'--mem'. Did you mean --memory?"]),
        ("--name ''", ["--name '' names nothing"]),
        ("--job ''", ["--job '' names nothing"]),
        ("-r ''", ["--runner '' names nothing"]),
        ("-t --cpus 1", ["Option -t/--timeout: expected one argument. `%%nodetool?`"]),
        ("train", ["'train'", "quotes"]),
        ("-t", ["Option -t/--timeout: expected one argument"]),
        ("-m 2x", ["--memory '2x' is not a size", "512m"]),
        ("-m 0", ["--memory '0'"]),
        ("-m 1k", ["--memory '1k' is too little", "at least 16m"]),
        ("--job class", ["--job 'class'", "no keyword"]),
        ("-o class", ["--out 'class'"]),
        ("--cpus 0", ["--cpus '0'"]),
        ("--cpus nan", ["--cpus 'nan'"]),
        ("-t soon", ["--timeout 'soon' is not a duration"]),
        ("-t 0s", ["--timeout '0s' is not above zero"]),
        ("--cpus none", ["--cpus 'none'"]),
        ("--pids-limit 1.5", ["--pids-limit '1.5'"]),
        ("--profile safe", ["--profile 'safe'", "trusted, default, untrusted"]),
        ("--progress bar", ["--progress 'bar'", "auto, card, text, none"]),
        ("--job 2x", ["--job '2x'"]),
        ("-i a-b", ["--in 'a-b'"]),
        ("-o 1a", ["--out '1a'"]),
        ("--label =x", ["--label '=x'"]),
        ("--name 'open", ["Close the quotation"]),
        ("--image python:3.12", ["Option --image is for containers", "Add --runner docker"]),
    ],
)
def test_a_mistake_is_named_in_one_sentence(line: str, parts: list[str]) -> None:
    said = refusal(line)
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_a_label_without_a_value_has_an_empty_one() -> None:
    assert options("--label x --label y=1").labels == {"x": "", "y": "1"}


def test_none_sends_nothing() -> None:
    assert options("--in none").inputs == ()
    assert options("--in auto").inputs == AUTO
    assert options("--in a -i b,a").inputs == ("a", "b")


def test_a_rerun_changes_only_what_is_given() -> None:
    request = JobRequest(work=CodeWork("1"), runner="subprocess", limits=ResourceLimits(memory_bytes=1 << 30, cpus=2))
    assert changes(given("-m 4g"), request) == {"limits": ResourceLimits(memory_bytes=4 << 30, cpus=2)}
    assert changes(given("-r threaded --grace 1s"), request)["runner"] == "threaded"
    assert changes(given("--shm-size 32m"), request)["limits"].shm_bytes == 32 << 20
    with pytest.raises(InvalidRequest, match="--profile 'x'"):
        changes(given("--profile x"), request)


def test_the_magics_document_themselves(shell: InteractiveShell) -> None:
    text = shell.object_inspect_text("%%nodetool")
    assert "--runner RUNNER" in text
    assert "Run this cell as a job" in text
    assert "fetching or building an image before the code runs don't count" in " ".join(text.split())
    assert "Look after jobs." in shell.object_inspect_text("%nodetool")


def completed(shell: InteractiveShell, line: str) -> set[str]:
    with provisionalcompleter():
        return {one.text for one in shell.Completer.completions(line, len(line))}


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("%%nodetool --ru", {"--runner"}),
        ("%%nodetool --runner ", set(RUNNERS)),
        ("%%nodetool -r sub", {"subprocess"}),
        ("%%nodetool --runner=sub", {"subprocess"}),
        ("%%nodetool --profile ", {"trusted", "default", "untrusted"}),
        ("%%nodetool --progress ", {"auto", "card", "text", "none"}),
        ("%%nodetool --in tabl", {"table_of_mine"}),
        ("%%nodetool --in a,tabl", {"table_of_mine"}),
        ("%%nodetool --in=a,tabl", {"table_of_mine"}),
        ("%%nodetool -r threaded --me", {"--memory"}),
        ("%nodetool ", set(VERBS)),
        ("%nodetool ca", {"cancel"}),
        ("%nodetool cancel --", {"--all"}),
        ("%nodetool config pro", {"profile", "progress"}),
        ("%nodetool config runner ", set(RUNNERS)),
        ("%nodetool rerun -1 --mem", {"--memory"}),
    ],
)
def test_options_values_and_verbs_are_completed_and_nothing_else_is(
    shell: InteractiveShell, line: str, some: set[str]
) -> None:
    shell.user_ns["table_of_mine"] = 1
    assert completed(shell, line) == some


def test_ipythons_own_files_and_names_do_not_bury_the_options(
    shell: InteractiveShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "--runner-up").touch()
    (tmp_path / "subprocess.py").touch()
    assert completed(shell, "%%nodetool -r sub") == {"subprocess"}
    assert "%alias" not in completed(shell, "%nodetool ")
    assert all(text.startswith("--") for text in completed(shell, "%%nodetool "))


def test_the_code_of_a_cell_is_completed_as_ever(shell: InteractiveShell) -> None:
    shell.user_ns["table_of_mine"] = 1
    with provisionalcompleter():
        cell = "%%nodetool -r threaded\ntable_of"
        assert "table_of_mine" in {one.text for one in shell.Completer.completions(cell, len(cell))}


def test_an_option_that_was_given_is_not_offered_again(shell: InteractiveShell) -> None:
    assert "--runner" not in completed(shell, "%%nodetool --runner threaded --r")


def test_nothing_of_ours_is_completed_once_the_extension_is_unloaded(shell: InteractiveShell) -> None:
    shell.run_line_magic("unload_ext", "nodetool_jupyter")
    assert "--runner" not in completed(shell, "%%nodetool --ru")
    shell.run_line_magic("load_ext", "nodetool_jupyter")


def test_a_timeout_that_is_set_can_be_taken_back() -> None:
    assert options("", timeout="5m").limits.wall_seconds == 300
    assert options("-t none", timeout="5m").limits.wall_seconds is None
    assert options("", timeout="none").limits.wall_seconds is None
    before = JobRequest(work=CodeWork("1"), limits=ResourceLimits(wall_seconds=300))
    assert changes(given("-t none"), before)["limits"].wall_seconds is None
    assert options("--profile untrusted").limits.wall_seconds is None
    untrusted = msgspec.structs.replace(before, profile=Profile.UNTRUSTED)
    for refuse in (lambda: options("-t none --profile untrusted"), lambda: changes(given("-t none"), untrusted)):
        with pytest.raises(ProfileRefused, match="--timeout none does not go with --profile untrusted"):
            refuse()
