"""The speed of the last minutes: too little tells nothing, and what is old is forgotten."""

from __future__ import annotations

import time

import pytest

from abonyx.serve.speed import Speed


def test_a_first_slow_round_tells_nothing() -> None:
    speed = Speed(600)
    assert speed.seconds_for(1) is None
    speed.add(tokens=10, seconds=59)
    assert speed.seconds_for(1) is None
    speed.add(tokens=991, seconds=1)
    assert speed.seconds_for(1_001) == pytest.approx(60)


def test_old_rounds_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    speed, now = Speed(600), time.monotonic()
    speed.add(tokens=10, seconds=100)
    assert speed.seconds_for(10) == pytest.approx(100)
    monkeypatch.setattr(time, "monotonic", lambda: now + 500)
    speed.add(tokens=1_000, seconds=100)
    monkeypatch.setattr(time, "monotonic", lambda: now + 700)
    assert speed.seconds_for(1_000) == pytest.approx(100)
    monkeypatch.setattr(time, "monotonic", lambda: now + 1_200)
    assert speed.seconds_for(1) is None
