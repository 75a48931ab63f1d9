"""Files that are whole or not there, and locks that follow no link."""

import errno
import os
from pathlib import Path

import pytest

from jaxdiv.errors import InputError, visible
from jaxdiv.files import locked, unless_full


def test_a_lock_that_is_a_planted_link_is_refused_and_its_target_stays(tmp_path):
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / ".table.lock").symlink_to(target)
    with pytest.raises(InputError, match="is a link"), locked(tmp_path / "table"):
        pass
    assert target.read_text() == "kept"


def test_a_lock_leaves_the_content_of_its_file_and_refuses_a_pipe(tmp_path):
    (tmp_path / ".table.lock").write_text("someone's")
    with locked(tmp_path / "table"):
        pass
    assert (tmp_path / ".table.lock").read_text() == "someone's"
    os.mkfifo(tmp_path / ".other.lock")
    with pytest.raises(InputError, match="is no file"), locked(tmp_path / "other"):
        pass


def test_a_full_disk_is_one_line_however_deep_its_error_lies():
    def fails():
        try:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            try:
                raise ValueError("RESOURCE_EXHAUSTED: cannot commit") from error
            finally:
                raise RuntimeError("handle is closed")

    where = Path("w"), "`folder`"
    with pytest.raises(InputError, match=r"w cannot be written \(No space left on device\): "), unless_full(*where):
        fails()
    with pytest.raises(ZeroDivisionError), unless_full(*where):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("name", ["\x1b[2J", "\x07", "\x9b31m", "a\u202eb", "\r"])
def test_no_name_steers_the_terminal(name):
    assert all(character.isprintable() for character in visible(name))
    assert visible("größe 1\n\t") == "größe 1\n\t"
