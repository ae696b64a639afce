"""Folders of the machine in a container, and those that no container may be shown."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodetool_jupyter.containers import Bind, ContainerOptions
from nodetool_jupyter.engine import private_folders
from nodetool_jupyter.errors import InvalidRequest, ProfileRefused
from nodetool_jupyter.jobs import JobStatus, Profile, ResourceLimits
from nodetool_jupyter.notebook.hints import with_hint
from nodetool_jupyter.runners.docker.images import ImageMissing
from tests.docker.jobs import Jobs, isolation, jobs_on, kept_environ
from tests.engine.private import Engine, until
from tests.workflows.seeing import text

Mount = Callable[..., Path]


def mounting(*binds: Bind) -> ContainerOptions:
    return ContainerOptions(binds=binds)


def test_a_folder_is_shown_and_written_to_unless_it_is_read_only(jobs: Jobs, tmp_path: Path) -> None:
    for name in ("in", "out"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name).chmod(0o777)
    (tmp_path / "in" / "data").write_text("given")
    tmp_path.chmod(0o755)
    code = (
        "print(open('/in/data').read())\nopen('/out/result', 'w').write('made')\n"
        "try:\n    open('/in/data2', 'w')\nexcept OSError as error:\n    print(error.strerror)"
    )
    options = mounting(Bind(str(tmp_path / "in"), "/in", True), Bind(str(tmp_path / "out"), "/out"))
    job, events = jobs.run(code, container=options)
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == "given\nRead-only file system\n"
    assert (tmp_path / "out" / "result").read_text() == "made"
    assert isolation(events).details["mounts"] == [f"{tmp_path}/in:/in:ro", f"{tmp_path}/out:/out"]


def test_a_folder_may_take_the_place_of_the_jobs_own(jobs: Jobs, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    job, _ = jobs.run("open('here', 'w').close()", container=mounting(Bind(str(tmp_path), "/job")))
    assert job.status is JobStatus.COMPLETED, job.message
    assert (tmp_path / "here").exists()


def test_a_folder_that_the_engine_made_for_the_job_is_told_to_be_roots(jobs: Jobs) -> None:
    options = ContainerOptions(workdir="/work")
    job, _ = jobs.run("open('x', 'w')", container=options)
    assert with_hint(job.message, job.request).endswith("Add --tmpfs /work:size=1g, or run in /job without -w.")
    options = ContainerOptions(workdir="/work", tmpfs={"/work": "size=1048576,mode=1777"})
    job, _ = jobs.run("open('x', 'w').close()\nopen('/etc/x', 'w')", container=options)
    assert job.message.startswith("PermissionError: ")
    assert "--tmpfs" not in with_hint(job.message, job.request)


def test_a_link_is_followed_before_the_folder_is_shown(jobs: Jobs, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    _, events = jobs.run("1", container=mounting(Bind(str(tmp_path / "link"), "/data", True)))
    assert isolation(events).details["mounts"] == [f"{tmp_path}/real:/data:ro"]


def refusal(jobs: Jobs, source: str | Path, *, read_only: bool = True) -> str:
    with pytest.raises(InvalidRequest) as caught:
        jobs.submit("1", container=mounting(Bind(str(source), "/data", read_only)))
    assert jobs.manager.find() == []
    jobs.nothing_is_left()
    return str(caught.value)


NEVER: dict[str, Callable[[Engine], str]] = {
    "the engine's socket": lambda engine: engine.url.removeprefix("unix://"),
    "its containers": lambda engine: f"{engine.folder}/data",
    "something of them": lambda engine: f"{engine.folder}/data/image",
    "its folder": lambda engine: str(engine.folder),
    "the folder above": lambda engine: str(engine.folder.parent),
    "everything": lambda engine: "/",
    "everything, written otherwise": lambda engine: "/usr/..",
    "processes": lambda engine: "/proc",
    "one process": lambda engine: "/proc/self/root",
    "the system": lambda engine: "/sys/fs/cgroup",
    "devices": lambda engine: "/dev",
    "a device": lambda engine: "/dev/null",
    "sockets": lambda engine: "/run",
    "sockets, by the old name": lambda engine: "/var/run",
    "what contains them": lambda engine: "/var",
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("name", NEVER)
def test_what_leads_out_is_refused_whatever_it_is_called(jobs: Jobs, tmp_path: Path, name: str, linked: bool) -> None:
    source = NEVER[name](jobs.engine)
    if linked:
        (tmp_path / "link").symlink_to(source)
        source = str(tmp_path / "link")
    said = refusal(jobs, source)
    assert said.startswith(f"Mount refused: {source!r}"), said
    assert said.endswith("Nothing was started. [NT-D04]")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts something at a new folder of this name below `tmp_path`, until the test ends."""
    with ExitStack() as stack:

        def mounted(name: str, *arguments: str) -> Path:
            place = tmp_path / name
            place.mkdir(parents=True)
            made = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True)
            if made.returncode and not os.environ.get("CI"):
                pytest.skip(f"nothing can be mounted here: {made.stderr.strip()}")
            assert made.returncode == 0, made.stderr
            stack.callback(subprocess.run, ["umount", str(place)], check=True)
            return place

        yield mounted


@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_mounted_below_a_folder_is_not_shown_with_it(
    jobs: Jobs, tmp_path: Path, mount: Mount, read_only: bool
) -> None:
    below = mount("data/below", "-t", "tmpfs", "-o", "size=1m,mode=1777", "none")
    (below / "there").touch()
    (tmp_path / "data" / "given").touch()
    code = (
        "import os\nprint(sorted(os.listdir('/d')), os.listdir('/d/below'))\n"
        "try:\n    open('/d/below/written', 'w')\nexcept OSError:\n    print('refused')"
    )
    job, events = jobs.run(code, container=mounting(Bind(str(tmp_path / "data"), "/d", read_only)))
    assert job.status is JobStatus.COMPLETED, job.message
    assert text(events) == "['below', 'given'] []\nrefused\n"
    assert [path.name for path in below.iterdir()] == ["there"]


BY_ANOTHER_NAME: dict[str, tuple[Callable[[Engine], str], str]] = {
    "the folder of the socket": (lambda engine: str(engine.folder), ""),
    "the socket in it": (lambda engine: str(engine.folder), "docker.sock"),
    "what the folder lies in": (lambda engine: str(engine.folder.parent), ""),
    "its containers": (lambda engine: f"{engine.folder}/data", ""),
    "something of them": (lambda engine: f"{engine.folder}/data", "image"),
    "sockets": (lambda engine: "/run", ""),
    "processes": (lambda engine: "/proc", "self"),
    "everything": (lambda engine: "/", ""),
}


@pytest.mark.parametrize("name", BY_ANOTHER_NAME)
def test_what_leads_out_is_refused_also_where_it_is_mounted_again(jobs: Jobs, mount: Mount, name: str) -> None:
    what, inner = BY_ANOTHER_NAME[name]
    source = mount("data/x", "--bind", what(jobs.engine)) / inner
    said = refusal(jobs, source)
    assert said.startswith(f"Mount refused: {str(source)!r}"), said
    assert "under another name" in said


@pytest.mark.parametrize("name", ["its containers", "something of them", "sockets"])
def test_a_part_of_what_leads_out_is_refused_also_where_it_alone_is_mounted(
    jobs: Jobs, mount: Mount, name: str
) -> None:
    what, inner = BY_ANOTHER_NAME[name]
    part = next(one for one in (Path(what(jobs.engine)) / inner).iterdir() if one.is_dir() and not one.is_mount())
    source = mount("data/a part", "--bind", str(part))
    said = refusal(jobs, source)
    assert said.startswith(f"Mount refused: {str(source)!r}"), said
    assert "under another name" in said


def test_another_file_system_of_processes_is_refused(jobs: Jobs, mount: Mount) -> None:
    assert "a file system of the kernel's own (proc)" in refusal(jobs, mount("data/x", "-t", "proc", "none") / "1")


def test_a_second_name_of_the_engines_socket_is_refused(jobs: Jobs) -> None:
    socket = Path(jobs.engine.url.removeprefix("unix://"))
    second = socket.with_name("second")
    assert "the Docker socket" in refusal(jobs, socket)
    os.link(socket, second)
    try:
        assert "the Docker socket, mounted or linked under another name" in refusal(jobs, second)
    finally:
        second.unlink()


def test_a_store_that_is_mounted_again_is_refused(
    engine: Engine, environ: dict[str, str], tmp_path: Path, mount: Mount
) -> None:
    (tmp_path / "store").mkdir()
    again = mount("data/x", "--bind", str(tmp_path / "store"))
    with jobs_on(engine, kept_environ(environ, tmp_path / "store")) as jobs:
        for folder in private_folders(jobs.manager.settings):
            folder.mkdir(parents=True, exist_ok=True)
        assert "job store" in refusal(jobs, again)


def test_the_store_and_the_files_of_jobs_are_refused_and_what_contains_them(
    engine: Engine, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "store" / "inner").mkdir(parents=True)
    (tmp_path / "storeroom").mkdir()
    with jobs_on(engine, kept_environ(environ, tmp_path / "store")) as jobs:
        for folder in private_folders(jobs.manager.settings):
            folder.mkdir(parents=True, exist_ok=True)
            assert "job store" in refusal(jobs, folder)
        for source in (tmp_path, tmp_path / "store" / "inner", tmp_path / "store" / "jobs.sqlite"):
            assert "job store" in refusal(jobs, source)
        assert jobs.run("1", container=mounting(Bind(str(tmp_path / "storeroom"), "/d")))[0].status is (
            JobStatus.COMPLETED
        )


def test_a_folder_that_is_not_there_is_named_and_not_made(jobs: Jobs, tmp_path: Path) -> None:
    assert "there is no" in refusal(jobs, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "bridge"}, "--network bridge"),
        ({"user": "0"}, "--user 0"),
        ({"user": "root"}, "--user root"),
        ({"user": "0:0"}, "--user 0:0"),
        ({"user": "00"}, "--user 00"),
        ({"user": "toor"}, "--user toor"),
        ({"pull": "always"}, "--pull always"),
        ({"binds": (Bind("/usr/share", "/d"),)}, "-v without :ro"),
        ({"gpus": "all"}, "--gpus"),
    ],
)
def test_untrusted_code_gets_nothing_that_leads_out(jobs: Jobs, fields: dict[str, object], words: str) -> None:
    with pytest.raises(ProfileRefused) as caught:
        jobs.submit("1", profile=Profile.UNTRUSTED, container=ContainerOptions(**fields))  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "NT-S03" in str(caught.value)
    jobs.nothing_is_left()


def test_no_image_is_fetched_for_untrusted_code(jobs: Jobs) -> None:
    with pytest.raises(ImageMissing, match="NT-D02"):
        jobs.submit("1", profile=Profile.UNTRUSTED, container=ContainerOptions(image="nowhere.invalid/not-here:1"))
    assert jobs.manager.find() == []


@pytest.mark.parametrize("network", ["host", "container:other", "default", "bridge; x"])
def test_networks_that_are_somebody_elses_are_refused_from_python_too(jobs: Jobs, network: str) -> None:
    with pytest.raises(InvalidRequest, match="--network"):
        jobs.submit("1", container=ContainerOptions(network=network))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"workdir": "/proc/self/fd/8"}, "--workdir '/proc/self/fd/8'"),
        ({"image": "no image"}, "--image 'no image'"),
        ({"user": "a b"}, "--user 'a b'"),
        ({"gpus": "02"}, "--gpus '02'"),
        ({"tmpfs": {"/x": "mode=700"}}, "has no size"),
        ({"tmpfs": {"/proc": "size=1m"}}, "the system's own"),
        ({"binds": (Bind("/usr", "/dev"),)}, "the system's own"),
        ({"pull": "sometimes"}, "--pull 'sometimes'"),
    ],
)
def test_what_no_line_could_say_is_refused_from_python_too(jobs: Jobs, fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        jobs.submit("1", container=ContainerOptions(**fields))  # type: ignore[arg-type]
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["host", "none", "bridge"])
@pytest.mark.parametrize("length", [64, 12])
def test_a_network_of_the_engines_own_is_refused_by_its_id_too(jobs: Jobs, name: str, length: int) -> None:
    with jobs.engine.client() as client:
        found = client.api.networks(names=[f"^{name}$"])
    with pytest.raises(InvalidRequest, match=f"the engine's own network '{name}'"):
        jobs.submit("1", container=ContainerOptions(network=found[0]["Id"][:length]))
    assert jobs.manager.find() == []


@pytest.mark.parametrize(
    ("binds", "tmpfs", "words"),
    [
        ((Bind("/usr", "/x"), Bind("/etc", "/x")), {}, "-v: '/x' is named twice"),
        ((Bind("/usr", "/x"),), {"/x": "size=1m"}, "-v and --tmpfs: '/x' is named twice"),
        ((Bind("/usr", "/job/"),), {}, "Write '/job'"),
        ((Bind("/etc/passwd", "/job"),), {}, "is no folder, and the job is to run in '/job'"),
    ],
)
def test_one_place_shows_one_thing_and_the_job_runs_in_a_folder(
    jobs: Jobs, binds: tuple[Bind, ...], tmpfs: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        jobs.submit("1", container=ContainerOptions(binds=binds, tmpfs=tmpfs))
    assert words in str(caught.value)
    assert jobs.manager.find() == []


def test_anonymous_volumes_of_an_image_go_with_the_container(jobs: Jobs) -> None:
    job, _ = jobs.run(
        "import os\nassert os.path.isdir('/declared')", container=ContainerOptions(image="nodetool-test:volume")
    )
    assert job.status is JobStatus.COMPLETED, job.message
    with jobs.engine.client() as client:
        until(lambda: not client.api.volumes()["Volumes"], "it is removed, for which the job's end doesn't wait")


def test_limits_go_with_mounts(jobs: Jobs) -> None:
    options = mounting(Bind("/usr/share", "/usr-share", True))
    job, _ = jobs.run("1", container=options, profile=Profile.UNTRUSTED, limits=ResourceLimits(pids=20))
    assert job.status is JobStatus.COMPLETED, job.message
