"""What training costs in energy, by the real tracker: nothing is asked, sent, written or printed. Skipped where it is not installed."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.models.fitting import energy


def test_without_a_country_nothing_is_measured() -> None:
    with energy.measured(None) as spent:
        pass
    assert spent == {}


def test_energy_and_co2_are_measured_at_home_and_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("codecarbon")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asks the network"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("it asks the network"))
    with energy.measured("DEU") as spent:
        sum(number**2 for number in range(1_000_000))
    assert set(spent) == {"energy_kwh", "co2_kg"}
    assert 0 < spent["co2_kg"] < spent["energy_kwh"] < 1e-3
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_country_that_the_tracker_does_not_know_is_refused() -> None:
    pytest.importorskip("codecarbon")
    with pytest.raises(BCCPError, match=r"train\.energy_country=XQX is unknown to codecarbon"), energy.measured("XQX"):
        pass
