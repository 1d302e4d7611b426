"""What a step leaves to read afterwards: its log."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from bccp.core import logs


def test_a_log_has_what_is_said_logged_and_warned_of_and_the_error_but_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "train.log"

    def work() -> None:
        logs.emit("  train: from https://me:passw0rd@host/x")
        logging.getLogger("a.library").warning("is near")
        logging.getLogger("a.library").debug("a detail")
        warnings.warn("is old", FutureWarning, stacklevel=1)
        raise ValueError("too far")

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="too far"), logs.logged(path):
            work()
        logs.emit("afterwards")
        logging.getLogger("a.library").warning("afterwards")
    text = path.read_text(encoding="utf-8")
    parts = (
        "INFO bccp.said: train: from https://host/x\n",
        "WARNING a.library: is near\n",
        "FutureWarning: is old",
        "Traceback",
        "ValueError: too far",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert not any(word in text for word in ("passw0rd", "afterwards", "a detail"))
    assert capsys.readouterr().out == "  train: from https://me:passw0rd@host/x\nafterwards\n"
    assert [str(one.message) for one in shown] == ["is old"]  # it is shown all the same


def test_a_log_that_cannot_be_written_is_done_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    for path in (tmp_path / "run" / "train.log", Path("/dev/full"), None):
        with logs.logged(path):
            logs.emit("said")
    assert capfd.readouterr() == ("said\n" * 3, "")
