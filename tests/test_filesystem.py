"""Files are written completely or not at all, by one writer at a time."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from sklearn_ssl import _filesystem
from sklearn_ssl._filesystem import given_path, naming, remove_abandoned, replace_file

# Program that prints a line in the middle of writing, and stays there until its input ends. It only loads the
# module, as the package takes seconds to import.
WRITER = """
import runpy, sys
replace_file = runpy.run_path(sys.argv[2])["replace_file"]

def write(path):
    (path.parent / ".tmpXYZ").write_bytes(b"half")  # as safetensors does
    print("writing", flush=True)
    sys.stdin.read()

replace_file(sys.argv[1], write)
"""


def write(text):
    return lambda path: path.write_text(text)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    return path


@pytest.fixture
def writer(path):
    """Start another process that is in the middle of writing the file."""
    command = [sys.executable, "-c", WRITER, path, _filesystem.__file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_takes_the_place_of_the_old_one_and_nothing_else_is_left(path):
    replace_file(path, write("new"))
    assert path.read_text() == "new"
    assert names(path.parent) == ["file"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path):
    def fail(new):
        new.write_text("half")
        raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert names(path.parent) == ["file"]


def test_the_old_file_stays_if_it_should(path):
    replace_file(path, write("new"), unless=lambda: path.read_text() == "old")
    assert path.read_text() == "old"
    assert names(path.parent) == ["file"]


def test_a_link_stays_and_leads_to_the_new_file(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link"
    link.symlink_to("../file")
    replace_file(link, write("new"))
    assert link.is_symlink()
    assert path.read_text() == link.read_text() == "new"
    assert names(link.parent) == ["link"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_stay(path, mode):
    path.chmod(mode)
    replace_file(path, write("new"))
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_longest_name_that_the_system_takes(tmp_path):
    replace_file(tmp_path / ("n" * 255), write("new"))
    assert names(tmp_path) == ["n" * 255]


# ------------------------------------------------------------------ several writers


def test_what_a_living_writer_has_in_hand_stays_and_what_a_killed_one_has_left_goes(path, writer):
    remove_abandoned(path.parent)
    [partial, _] = names(path.parent)
    assert names(path.parent / partial) == [".tmpXYZ", "lock", "new"]
    writer.kill()
    writer.wait()
    remove_abandoned(path.parent)
    assert names(path.parent) == ["file"]


def test_the_next_writer_removes_what_a_killed_one_has_left(path, writer):
    writer.kill()
    writer.wait()
    assert len(names(path.parent)) == 2
    replace_file(path, write("new"))
    assert names(path.parent) == ["file"]


def test_who_waits_too_long_for_another_writer_is_told(path, writer, monkeypatch):
    monkeypatch.setattr(_filesystem, "LOCK_TIMEOUT", 0.0)
    with pytest.raises(TimeoutError, match="another process has been writing it for 0 s"):
        replace_file(path, write("new"))
    assert path.read_text() == "old"


def test_writers_of_one_file_take_turns(path):
    """Each writer reads a number and writes the next: no write is lost, and 8 writers of 10 make 80."""
    path.write_text("0")

    def count():
        for _ in range(10):
            replace_file(path, lambda new: new.write_text(str(int(path.read_text()) + 1)))

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "80"
    assert names(path.parent) == ["file"]


def no_locks(*args):
    raise OSError(errno.ENOLCK, "No locks available")


def test_without_locks_each_writer_has_a_folder_of_its_own(path, monkeypatch):
    monkeypatch.setattr(_filesystem.fcntl, "flock", no_locks)
    beside = []

    def write_while_another_does(new):
        new.write_text("first")
        replace_file(path, write("second"))
        beside.extend(names(path.parent))

    replace_file(path, write_while_another_does)
    assert path.read_text() == "first"
    assert len(beside) == 2
    assert names(path.parent) == ["file"]


def test_without_locks_a_folder_goes_when_it_is_an_hour_old(path, monkeypatch):
    old, new = (path.with_name(f".{'0' * 16}-{i:08}.partial") for i in range(2))
    for folder in (old, new):
        folder.mkdir()
        (folder / "new").write_text("half")
    changed = new.stat().st_mtime
    os.utime(old, (changed - 2 * _filesystem.STALE_AFTER,) * 2)
    remove_abandoned(path.parent)
    assert names(path.parent) == [new.name, "file"]


def test_folders_of_others_stay(path):
    for name in (".partial", ".abc.partial", "x" * 16 + ".partial"):
        (path.parent / name).mkdir()
    before = names(path.parent)
    remove_abandoned(path.parent)
    assert names(path.parent) == before


def test_a_folder_that_is_not_there_has_nothing_abandoned(tmp_path):
    remove_abandoned(tmp_path / "none")


# ------------------------------------------------------------------ what is no file


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_neither_replaced_nor_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe is a pipe or a device; give the path of a file"):
        replace_file(tmp_path / "pipe", write("new"))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file"):
        replace_file(tmp_path, write("new"))


@pytest.mark.parametrize("given", ["", "a\0b", 5, None, b"file"])
def test_what_is_no_path_is_refused(given):
    with pytest.raises(ValueError, match=r"is not a path. Give a str or a pathlib.Path"):
        given_path("path", given)


def test_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert given_path("path", "~/runs") == tmp_path / "runs"


def test_an_error_of_the_system_names_the_parameter(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match=r"path='.*none/file': No such file or directory"),
        naming("path", tmp_path / "none" / "file"),
    ):
        replace_file(tmp_path / "none" / "file", write("new"))
