"""The folder of a job goes with it, whatever the job made of it."""

from __future__ import annotations

import os
import stat
import subprocess
import textwrap
from pathlib import Path

from nodetool_jupyter.worker import folders
from tests.components import require_right
from tests.runners.processes import Place


def test_a_job_has_a_private_temporary_folder_that_goes_with_it(place: Place) -> None:
    code = """
    import os, stat, tempfile
    print(tempfile.gettempdir() == os.environ["TMPDIR"], oct(stat.S_IMODE(os.stat(os.environ["TMPDIR"]).st_mode)))
    print(os.environ["TMPDIR"])
    open(tempfile.mkdtemp() + "/file", "w").close()
    """
    first, path = place.run(textwrap.dedent(code)).text().splitlines()
    assert first == "True 0o700"
    assert not os.path.exists(path)


def test_deep_trees_closed_folders_and_odd_names_are_removed(tmp_path: Path) -> None:
    top = tmp_path / "job"
    top.mkdir()
    where = os.open(top, os.O_RDONLY)
    for depth in range(1_500):
        os.mkdir("d", dir_fd=where)
        inner = os.open("d", os.O_RDONLY, dir_fd=where)
        if depth % 500 == 0:
            os.mkdir("other\nname", mode=0, dir_fd=inner)
            os.mkdir("1", dir_fd=inner)
        os.close(where)
        where = inner
    os.close(where)
    (top / "0").mkdir()
    (top / "0" / "file").write_text("x")
    (top / "0").chmod(0)
    os.mkfifo(top / "pipe")
    assert folders.remove(str(top)) == []
    assert not top.exists()


def test_links_are_removed_and_never_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o750)
    (outside / "precious").write_text("x")
    top = tmp_path / "job"
    (top / "inner").mkdir(parents=True)
    for folder in (top, top / "inner"):
        (folder / "to folder").symlink_to(outside)
        (folder / "to file").symlink_to(outside / "precious")
        (folder / "to nothing").symlink_to("/nowhere")
    assert folders.remove(str(top)) == []
    assert (outside / "precious").read_text() == "x"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o750


def test_a_link_in_the_place_of_the_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "job").symlink_to(tmp_path / "precious")
    assert folders.remove(str(tmp_path / "job")) != []
    assert (tmp_path / "precious").is_dir()


def test_what_can_not_be_removed_is_named(tmp_path: Path) -> None:
    top = tmp_path / "job"
    (top / "mounted").mkdir(parents=True)
    (top / "file").write_text("x")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "x", str(top / "mounted")], check=False)
    require_right("The right to mount", mounted.returncode == 0, "run the tests as root")
    try:
        left = folders.remove(str(top))
        assert len(left) == 1
        assert "mounted" in left[0]
        assert not (top / "file").exists()
    finally:
        subprocess.run(["umount", str(top / "mounted")], check=True)
    assert folders.remove(str(top)) == []
