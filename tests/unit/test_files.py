"""What a file that is replaced as a whole does to what stood there."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from outbox.files import replacement

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, text: str = "new") -> None:
    with replacement(path) as begun:
        begun.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_link_stays_one_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    file, link, dangling = (tmp_path / name for name in ("file", "link", "dangling"))
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to("file")
    dangling.symlink_to("made")
    for path in (link, dangling):
        write(path)
        assert path.is_symlink()
    assert (file.read_text(), mode(file)) == ("new", 0o640)
    assert (tmp_path / "made").read_text() == "new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write(pipe)
        assert read.result(30) == "new"
    assert pipe.is_fifo()


def test_what_breaks_off_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    with suppress(KeyError), replacement(file) as begun:
        begun.write_text("half")
        raise KeyError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_may_not_be_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may be root, to whom everything is allowed."""
    file = tmp_path / "file"
    file.write_text("old")
    monkeypatch.setattr("os.access", lambda path, _: path != file)
    with pytest.raises(PermissionError, match="file"):
        write(file)
    assert file.read_text() == "old"
