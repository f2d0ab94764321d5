"""Each request has an id and a line of the log, and no line has a sequence."""

from __future__ import annotations

import json
import logging
import re
import signal
from typing import Any

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.logs import FIELDS, LOGGER, to_stderr  # noqa: E402
from abonyx.serve.request_ids import request_id  # noqa: E402

from ..domain import proteins  # noqa: E402
from .serving import CSV, JSON, NDJSON, refused, service, until  # noqa: E402
from .test_command import ended, process  # noqa: E402

LINE = re.compile(r"(\w+) (\S+) (\d+) in \d+\.\d{3} s, request (\S+), client 127\.0\.0\.1")


def access(caplog: pytest.LogCaptureFixture) -> list[tuple[str, ...]]:
    return [found.groups() for record in caplog.records if (found := LINE.fullmatch(record.getMessage()))]


@pytest.mark.parametrize(
    "given", ["7", "a-1", "4f1c0d6e-8b", "trace:1/span=2", "x" * 63 + "1", "Root=1-67891233-abcdef012345678912345678"]
)
def test_a_sane_id_of_the_client_is_kept(given: str) -> None:
    assert request_id(given) == given


@pytest.mark.parametrize(
    "given",
    [None, "", "x" * 64 + "1", "a 1", "1\n", "1\x1b[31m", "é1", "1'", '1"', "<1>", "1;", "1%", "EVQLVESGGGLVQPGGSLRL"],
)
def test_any_other_is_replaced(given: str | None) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", request_id(given))
    assert request_id(given) != request_id(given)


def test_each_answer_has_its_id_and_each_request_its_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "abonyx")
    with service() as running:
        named = {"X-Request-Id": "mine-1"}
        answer = running.ask("POST", "/v1/score", [proteins.VH], named)
        assert (answer.status, answer.headers["x-request-id"]) == (200, "mine-1")
        given = running.ask("GET", "/v1/model").headers["x-request-id"]
        refused(wrong := running.ask("POST", "/v1/score", b"[", JSON | named), 422, "request")
        assert wrong.json["request_id"] == "mine-1"
        refused(running.ask("GET", "/nothing?EVQLVESGGG", None, {"X-Request-Id": "EVQLVESGGG"}), 404, "/nothing")
        refused(running.ask("GET", "/v1/model", None, {"Host": "elsewhere.org"} | named), 421, "Host")
        until(lambda: len(access(caplog)) == 5)
    lines = access(caplog)
    assert [line[:3] for line in lines] == [
        ("POST", "/v1/score", "200"),
        ("GET", "/v1/model", "200"),
        ("POST", "/v1/score", "422"),
        ("GET", "other", "404"),
        ("GET", "/v1/model", "421"),
    ]
    assert [line[3] for line in lines[:3]] == ["mine-1", given, "mine-1"]
    assert "EVQLV" not in caplog.text and proteins.VH[:12] not in caplog.text


def test_a_problem_at_the_end_of_lines_has_the_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as running:
        monkeypatch.setattr(running.engine, "native", None)  # every batch fails
        answer = running.ask("POST", "/v1/score", [proteins.VH], NDJSON | {"X-Request-Id": "mine-2"})
        assert json.loads(answer.body.splitlines()[-1])["problem"]["request_id"] == "mine-2"


def test_ids_and_sequences_of_records_are_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "abonyx")
    with service() as running:
        table = f"id,sequence\nsecret-name,{proteins.VH}\nsecret-name-2,NOT*ONE\n".encode()
        for path in ("/v1/score", "/v1/embed", "/v1/explain"):
            assert running.ask("POST", path, table, CSV).status == 422
            assert running.ask("POST", f"{path}?on_invalid=skip", table, CSV).status == 200
            assert running.ask("POST", f"{path}?{proteins.VH}=1", table, CSV).status == 422
        assert running.ask("POST", f"/{proteins.VH}", table, CSV).status == 404
        until(lambda: len(access(caplog)) == 10)
    assert proteins.VH not in caplog.text and "secret-name" not in caplog.text and "NOT*ONE" not in caplog.text


def test_the_good_answers_of_probes_are_for_v_alone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "abonyx")
    with service(token="a-token-of-clients-") as running:
        for path in ("/healthz", "/readyz", "/metrics"):
            running.ask("GET", path)
        until(lambda: len(access(caplog)) == 3)
    levels = {record.getMessage().split()[1]: record.levelno for record in caplog.records if hasattr(record, FIELDS)}
    assert levels == {"/healthz": logging.DEBUG, "/readyz": logging.DEBUG, "/metrics": logging.INFO}  # 401


def test_it_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "abonyx")
    with service(access_log=False) as running:
        assert running.ask("GET", "/healthz").headers["x-request-id"]
    assert not access(caplog)


def test_a_line_of_json_has_the_parts_as_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with to_stderr(as_json=True):
        LOGGER.info("a request", extra={FIELDS: {"request_id": "r1", "status": 200}})
    found: dict[str, Any] = json.loads(capsys.readouterr().err)
    assert (found["message"], found["request_id"], found["status"]) == ("a request", "r1", 200)


def test_the_command_logs_and_can_be_told_not_to() -> None:
    for options, expected in (([], 1), (["--no-access-log"], 0)):
        with process(*options) as one:
            assert one.ask("GET", "/v1/model")[0] == 200
            one.running.send_signal(signal.SIGTERM)
            assert ended(one) == 0
        assert sum("GET /v1/model 200" in line for line in one.log) == expected, one.log
