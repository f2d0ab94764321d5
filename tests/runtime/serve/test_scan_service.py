"""Scans by a service of their own: what its operator measured, and the time of a request."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.errors import InputTooLarge  # noqa: E402
from abonyx.explain.scan_result import NOT_VALIDATED  # noqa: E402
from abonyx.input.checked import Input  # noqa: E402
from abonyx.serve.scans import refuse_slow  # noqa: E402
from abonyx.serve.settings import Settings  # noqa: E402

from ...conftest import MINI  # noqa: E402
from ..explain.measured import metrics_json  # noqa: E402
from .serving import ADMIN, refused, service, until  # noqa: E402
from .test_scan import LONG, ask, scan  # noqa: E402


def test_a_scan_that_turns_out_too_slow_ends_after_its_first_round(monkeypatch: pytest.MonkeyPatch) -> None:
    with service(RuntimeConfig(token_budget=256)) as running:
        add, score = running.scheduler._speed.add, running.scheduler._score
        rounds: list[object] = []

        def one_round(shares: Any) -> None:
            rounds.append(shares)
            score(shares)
            until(lambda: not running.scheduler._unsettled)  # the request is refused before a second round begins

        monkeypatch.setattr(running.scheduler._speed, "add", lambda tokens, seconds: add(tokens, 1e6 * seconds))
        monkeypatch.setattr(running.scheduler, "_score", one_round)
        refused(ask(running, **LONG), 413, "request_timeout_s is 600")
        assert len(rounds) == 1  # of three
        refused(ask(running, **LONG), 413, "request_timeout_s is 600")
        assert len(rounds) == 1


def test_only_the_rest_of_a_scan_counts_once_it_runs() -> None:
    """600 s at 1 s a sequence: 1,000 are too many, and 500 of them are not once the other 500 took 60 s."""
    scan = cast(Any, SimpleNamespace(scored=Input(sequences=["A"] * 1_000), plan=SimpleNamespace(name="parent")))
    queue = cast(Any, SimpleNamespace(seconds_for=lambda _sequence, count: float(count)))
    settings = Settings(request_timeout_s=600)
    with pytest.raises(InputTooLarge, match="take about 1000 s"):
        refuse_slow(scan, queue, settings, 0, time.monotonic() + 600)
    refuse_slow(scan, queue, settings, 500, time.monotonic() + 540)
    with pytest.raises(InputTooLarge, match="take about 1060 s"):
        refuse_slow(scan, queue, settings, 0, time.monotonic() + 540)


def test_a_scan_whose_time_is_over_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with service(RuntimeConfig(token_budget=256), request_timeout_s=2) as running, running.engine.held():
        answer = ask(running, **LONG)
    refused(answer, 503, "sequences done in 2 s, the most it may take")
    assert "Choose fewer positions" in answer.json["fix"] and "`abonyx scan`" in answer.json["fix"]


def test_the_operators_own_figure_is_carried(tmp_path: Path) -> None:
    metrics, reloaded = tmp_path / "metrics.json", {"Authorization": f"Bearer {ADMIN}"}
    metrics.write_text(json.dumps(metrics_json()), encoding="utf-8")
    config = RuntimeConfig(bundle=str(MINI))
    with service(config, validated=metrics, admin_token=ADMIN) as running:
        answer = scan(running, positions="107")
        assert answer["statement"].startswith("At equal charge the model ranks the 180 variants of ")
        assert answer["notes"][0] == answer["statement"] and NOT_VALIDATED not in json.dumps(answer)
        metrics.write_text(json.dumps(metrics_json(rows=99)), encoding="utf-8")
        assert running.ask("POST", "/v1/reload", headers=reloaded).status == 200
        assert "the 99 variants of" in scan(running, positions="107")["statement"]
