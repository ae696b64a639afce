"""The options of a container as people write them: what each means, and one clear sentence for what it can't."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

import pytest

from nodetool_jupyter.config import Settings
from nodetool_jupyter.containers import (
    Bind,
    ContainerOptions,
    gpu_ids,
    is_pinned,
    parse_bind,
    parse_gpu_devices,
    parse_gpus,
    parse_network,
    parse_pull,
    parse_tmpfs,
    parse_user,
    parse_workdir,
)
from nodetool_jupyter.errors import InvalidRequest
from nodetool_jupyter.jobs import ResourceLimits
from nodetool_jupyter.notebook.options import option_parser, parse, resolve, split

Parse = Callable[[str, str], Any]


def given(line: str) -> Namespace:
    return parse(option_parser("nodetool"), split(line), usage="%%nodetool")


def container(line: str, **chosen: str) -> ContainerOptions:
    return resolve(given(f"-r docker {line}"), Settings({}, chosen=chosen)).container


def refusal(line: str) -> str:
    with pytest.raises(InvalidRequest) as caught:
        container(line)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("all", "all"),
        ("ALL", None),
        ("none", ""),
        ("0", ""),
        ("2", "2"),
        ("02", "2"),
        ("device=0", "device=0"),
        ("""'"device=0,2"'""", "device=0,2"),
        (r"\"device=0,2\"", "device=0,2"),
        ("""'"device=0,2","device=3"'""", None),
        ("""'device=0,2'""", "device=0,2"),
        ("device=0,2", "device=0,2"),
        ("""'"device=2,0,2"'""", "device=2,0"),
        ("""'"device=0:1,GPU-3a23c669-1f69-c64e-cf85-44e9b07e7a2a"'""",
         "device=0:1,GPU-3a23c669-1f69-c64e-cf85-44e9b07e7a2a"),
        ("device=MIG-GPU-3a23c669/1/0", "device=MIG-GPU-3a23c669/1/0"),
        ("device=", None),
        ("device=,", None),
        ("""'"device=0, 2"'""", None),
        ("devices=0", None),
        ("0,2", None),
        ("-1", None),
        ("1.5", None),
        ("two", None),
        ("device=everything", None),
        ("capabilities=utility", None),
    ],
)  # fmt: skip
def test_gpus_in_every_form_of_quotes(written: str, means: str | None) -> None:
    if means is None:
        said = refusal(f"--gpus={written}")
        assert said.startswith("--gpus ")
        assert """'"device=0,2"'""" in said
    else:
        assert container(f"--gpus={written}").gpus == means


def test_ids_of_gpus_are_those_that_are_named() -> None:
    assert [gpu_ids(gpus) for gpus in ("", "all", "2", "device=0,GPU-a")] == [(), (), (), ("0", "GPU-a")]


@pytest.mark.parametrize(
    ("text", "means"),
    [("", ""), ("all", "all"), ("0", "device=0"), ("0,2", "device=0,2"), ("none", ""), ("1", "device=1")],
)
def test_plain_numbers_in_the_environment_are_devices(text: str, means: str) -> None:
    assert parse_gpu_devices(text, "DOCKER_GPU_DEVICES:") == means


@pytest.mark.parametrize(
    ("read", "text", "means"),
    [
        (parse_pull, "missing", "missing"),
        (parse_network, "none", "none"),
        (parse_network, "my_net.1", "my_net.1"),
        (parse_user, "0", "0"),
        (parse_user, "1000:100", "1000:100"),
        (parse_user, "www-data", "www-data"),
        (parse_bind, "/a:/b", Bind("/a", "/b")),
        (parse_bind, "./a b:/b/../c:rw", None),
        (parse_bind, "./a b:/b//c/:rw", Bind("./a b", "/b/c")),
        (parse_bind, "~/d:/d:ro", Bind("~/d", "/d", True)),
        (parse_tmpfs, "/x:size=64m", ("/x", "size=67108864,mode=1777")),
        (parse_tmpfs, "/x:size=1.5g,noexec,mode=700", ("/x", "size=1610612736,noexec,mode=700")),
        (parse_tmpfs, "/x:uid=65534,size=1m", ("/x", "uid=65534,size=1048576")),
        (parse_workdir, "/srv/", "/srv"),
    ],
)
def test_what_is_written_well_is_understood(read: Parse, text: str, means: object) -> None:
    if means is None:
        with pytest.raises(InvalidRequest):
            read(text, "it")
    else:
        assert read(text, "it") == means


BAD: list[tuple[Parse, str, str]] = [
    (parse_pull, "", "missing, always, never"),
    (parse_pull, "Never", "missing, always, never"),
    (parse_network, "host", "share a network"),
    (parse_network, "container:other", "share a network"),
    (parse_network, "", "no network's name"),
    (parse_network, "a b", "no network's name"),
    (parse_network, "-x", "no network's name"),
    (parse_network, "net\n", "no network's name"),
    (parse_user, "", "no user"),
    (parse_user, "-1", "no user"),
    (parse_user, "1000:", "no user"),
    (parse_user, ":100", "no user"),
    (parse_user, "none", "'none' is no user. Write UID or UID:GID"),
    (parse_user, "1:2:3", "no user"),
    (parse_user, "Root User", "no user"),
    (parse_user, "2147483648", "no user"),
    (parse_user, "\u0661", "no user"),
    (parse_bind, "/a", "names no place in the container"),
    (parse_bind, "/a:", "names no place in the container"),
    (parse_bind, ":/a", "is not a path"),
    (parse_bind, "volume:/a", "./volume:/a"),
    (parse_bind, "/a:b", "absolute path"),
    (parse_bind, "/a:/", "not '/'"),
    (parse_bind, "/a://", "not '/'"),
    (parse_bind, "/a:/.", "not '/'"),
    (parse_bind, "/a:/b/../..", "not '/'"),
    (parse_bind, "/a:/proc/self", "the system's own"),
    (parse_bind, "/a:/sys", "the system's own"),
    (parse_bind, "/a:/./dev/x", "the system's own"),
    (parse_bind, "/a:/b:z", "mode 'z' is not offered"),
    (parse_bind, "/a:/b:ro:x", "mode 'ro:x' is not offered"),
    (parse_bind, "/a:/b:ro,rshared", "is not offered"),
    (parse_tmpfs, "/x", "has no size"),
    (parse_tmpfs, "/x:noexec", "has no size"),
    (parse_tmpfs, "/x:size", "size has no value. Write it as in size=64m"),
    (parse_tmpfs, "/x:size=", "size has no value. Write it as in size=64m"),
    (parse_tmpfs, "/x:size=1m,mode=", "mode has no value"),
    (parse_tmpfs, "/x:size=50%", "is not a size"),
    (parse_tmpfs, "/x:size=-1", "is not a size"),
    (parse_tmpfs, "/x:size=1m,huge=always", "'huge=always' is not known"),
    (parse_tmpfs, "/x:size=1m,mode=rwx", "'mode=rwx' can't be read. Write numbers, mode= in octal"),
    (parse_tmpfs, "/x:size=1m,uid=me", "'uid=me' can't be read"),
    (parse_tmpfs, "/x:size=1m,bind", "'bind' is not known"),
    (parse_tmpfs, "x:size=1m", "absolute path"),
    (parse_tmpfs, "/:size=1m", "not '/'"),
    (parse_tmpfs, "/dev:size=1m", "the system's own"),
    (parse_workdir, "job", "absolute path"),
    (parse_workdir, "", "absolute path"),
    (parse_workdir, "/a/../b", "absolute path"),
    (parse_workdir, "/proc/self/fd/8", "none of the system's own"),
    (parse_workdir, "//proc/self", "none of the system's own"),
    (parse_gpus, "a\nb", "can't be read"),
    (parse_gpu_devices, "0;1", "0,2"),
]


@pytest.mark.parametrize(("read", "text", "words"), BAD)
def test_a_mistake_is_one_sentence_with_the_value_and_what_to_write(read: Parse, text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(text, "--it")
    said = str(caught.value)
    assert said.startswith(f"--it {text!r}")
    assert words in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--image ''", "--image '' is no image's name"),
        ("--image 'a b'", "--image 'a b' is no image's name"),
        ("--image Upper:1", "--image 'Upper:1' is no image's name"),
        ("--image a:b:c", "is no image's name"),
        ("--image -x", "expected one argument"),
        ("--pull daily", "--pull 'daily'"),
        ("--network host", "--network 'host' is refused"),
        ("--network container:x", "--network 'container:x' is refused"),
        ("--user -x", "expected one argument"),
        ("--user=-x", "--user '-x'"),
        ("-v data:/data", "-v 'data:/data'"),
        ("--volume /data", "-v '/data'"),
        ("--tmpfs /x", "--tmpfs '/x' has no size"),
        ("-w job", "--workdir 'job'"),
        ("--shm-size 0", "--shm-size '0'"),
        ("--shm-size big", "--shm-size 'big' is not a size"),
        ("--privileged", "There is no option '--privileged'"),
        ("--cap-add ALL", "There is no option '--cap-add'"),
        ("--security-opt x", "There is no option '--security-opt'"),
        ("--device /dev/sda", "There is no option '--device'"),
        ("--pid host", "There is no option '--pid'. Did you mean --pids-limit?"),
        ("--collect ''", "--collect '' is no pattern of files"),
        ("--memory -1g", "-m/--memory: expected one argument, and '-1g' begins as an option does. Write --memory=-1g"),
        ("--ipc host", "There is no option '--ipc'"),
        ("--mount type=bind", "There is no option '--mount'"),
        ("--network-alias x", "There is no option '--network-alias'"),
        ("--read-only=no", "--read-only"),
    ],
)
def test_a_mistake_on_the_line_names_its_option(line: str, words: str) -> None:
    assert words in refusal(line)


def test_the_line_wins_over_what_is_set_and_untrusted_takes_nothing_that_leads_out() -> None:
    chosen = {"docker_image": "set:1", "docker_network": "bridge", "docker_gpus": "all", "docker_pull": "always"}
    found = container("--image mine:2 --network none", **chosen)
    assert (found.image, found.network, found.gpus, found.pull) == ("mine:2", "none", "all", "always")
    found = container("--profile untrusted", **chosen)
    assert (found.image, found.network, found.gpus, found.pull) == ("set:1", "none", "", "never")


def test_everything_on_the_line_arrives() -> None:
    line = (
        "--user 1000 -v /a:/b:ro -v ./c:/d --tmpfs /x:size=1m --read-only -w /srv --collect '*.csv' --collect b"
        " --shm-size 1g --gpus 1 --gpus-shared"
    )
    found = container(line)
    assert found.binds == (Bind("/a", "/b", True), Bind("./c", "/d"))
    assert found.tmpfs == {"/x": "size=1048576,mode=1777"}
    assert (found.user, found.read_only, found.workdir, found.collect) == ("1000", True, "/srv", ("*.csv", "b"))
    assert (found.gpus, found.gpus_shared) == ("1", True)
    assert resolve(given(f"-r docker {line}"), Settings({})).limits == ResourceLimits(shm_bytes=1 << 30)


@pytest.mark.parametrize("runner", ["threaded", "subprocess"])
@pytest.mark.parametrize("line", ["--image x:1", "-v /a:/b", "--user 0", "--read-only", "--collect x", "-w /x"])
def test_options_of_containers_are_refused_elsewhere(runner: str, line: str) -> None:
    with pytest.raises(InvalidRequest, match="Add --runner docker, or leave it out"):
        resolve(given(f"-r {runner} {line}"), Settings({}))


@pytest.mark.parametrize(
    ("image", "pinned"),
    [
        ("python", False),
        ("python:latest", False),
        ("host:5000/python", False),
        ("python:3.12-slim", True),
        ("host:5000/python:3", True),
        ("python@sha256:0123", True),
    ],
)
def test_an_image_without_a_tag_means_another_one_tomorrow(image: str, pinned: bool) -> None:
    assert is_pinned(image) is pinned
