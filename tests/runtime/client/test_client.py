"""abonyx.client with a real service: the numbers of a session, complete lists, the service's errors."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client", "httpx"):
    pytest.importorskip(_name, reason="the serve or the client extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.client import Client  # noqa: E402
from abonyx.errors import (  # noqa: E402
    ConfigError,
    EngineError,
    InputError,
    InputTooLarge,
    RecordsRejected,
    ServiceError,
)
from abonyx.extras import install_command  # noqa: E402

from ..domain.proteins import VH  # noqa: E402
from ..serve.serving import Running, made_up, service  # noqa: E402

LIMITS: dict[str, Any] = {
    **{"max_sequences": 10, "max_explained_sequences": 4, "max_residues_per_request": 400},
    **{"max_body_bytes": 1_500, "max_queued_sequences": 400},
}
BAD = "EV*QL"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABONYX_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        with service(**LIMITS) as running:
            yield running


@pytest.fixture(autouse=True)
def isolated() -> None:
    """Replaces conftest's fixture: the module's service keeps its session open."""


@pytest.fixture
def client(shared: Running) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{shared.port}") as client:
        yield client


def close(found: Any, expected: Any) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=BATCH_NEIGHBOURS, rtol=0)


@pytest.mark.parametrize("count", [1, 9, 10, 11, 57])
def test_scores_of_any_number_are_the_sessions_in_order(shared: Running, client: Client, count: int) -> None:
    sequences = made_up(count, seed=count)
    found = client.score(sequences, domain="off")
    close(found.p_nonspecific, shared.session.score(sequences)[:, 0])
    assert [each.id for each in found.answer.results] == [str(number) for number in range(1, count + 1)]
    assert [each.sequence for each in found.answer.results] == sequences
    assert found.rows.tolist() == list(range(count)) and found.rejected == []
    assert found.answer.model.name == "abonyx-mini"
    np.testing.assert_array_equal(found.values("nonspecificity"), found.p_nonspecific)
    with pytest.raises(InputError, match=r"head 'psr' is not in the answer, which has 'nonspecificity'"):
        found.values("psr")


def test_a_list_is_split_by_each_of_the_limits(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    ask = client._transport.ask

    def counted(method: str, path: str, *given: Any, **more: Any) -> bytes:
        sent.append(path)
        return ask(method, path, *given, **more)

    monkeypatch.setattr(client._transport, "ask", counted)

    def parts(sequences: list[str], **more: Any) -> int:
        sent.clear()
        assert len(client.score(sequences, domain="off", **more).answer.results) == len(sequences)
        return sent.count("/v1/score")

    assert parts(["EVQL"] * 10) == 1
    assert parts(["EVQL"] * 11) == 2  # sequences
    assert parts([VH[:100]] * 4) == 1
    assert parts([VH[:100]] * 5) == 2  # residues
    assert parts(["EVQL"] * 10, ids=["n" * 200] * 10) == 2  # bytes
    assert parts(["EVQL"] * 10, ids=["\u00e9" * 100] * 10) == 2


def test_embeddings_are_the_sessions(shared: Running, client: Client) -> None:
    sequences = made_up(23, seed=1)
    found = client.embed(sequences, ids=[f"n{number}" for number in range(23)])
    np.testing.assert_allclose(found.embeddings, shared.session.embed(sequences), atol=1e-4, rtol=0)
    assert found.embeddings.dtype == np.float32 and found.ids[-1] == "n22" and found.answer.results == []


def test_contributions_are_the_sessions(client: Client, shared: Running) -> None:
    sequences = [VH[:length] for length in (40, 50, 60, 70, 80, 90)]
    found = client.explain(sequences, on_invalid="skip")
    assert len(found.contributions) == len(sequences)
    expected = shared.session.contributions(sequences, ["nonspecificity"])
    for one, other in zip(found.contributions, expected, strict=True):
        assert one.heads == ("nonspecificity",)
        np.testing.assert_allclose(one.total, other.total, atol=1e-4)
        np.testing.assert_allclose(one.chains[0].residues, other.chains[0].residues, atol=1e-5)
        sums = one.baseline + one.chains[0].residues.sum(axis=0) + one.chains[0].end
        np.testing.assert_allclose(sums, one.total, atol=1e-4)


@pytest.mark.parametrize("method", ["score", "embed", "explain"])
def test_what_is_scored_and_what_is_rejected_are_all(client: Client, method: str) -> None:
    sequences = ["EVQLVESGGG"] * 3 + [BAD] + ["EVQLVESGGG"] * 7 + [BAD] * 10 + ["QVQL", BAD]
    found = getattr(client, method)(sequences, on_invalid="skip", domain="off")
    bad = [index for index, sequence in enumerate(sequences) if sequence == BAD]
    assert [one.line - 1 for one in found.rejected] == bad
    assert [one.id for one in found.rejected] == [str(index + 1) for index in bad]
    assert all("character '*'" in one.reason for one in found.rejected)
    assert sorted([*found.rows.tolist(), *bad]) == list(range(len(sequences)))
    assert len(found.rows) + len(found.rejected) == len(sequences)


def test_a_part_without_a_usable_sequence_does_not_end_the_rest(client: Client) -> None:
    found = client.score([BAD] * 10 + ["EVQL"] * 10 + [BAD] * 10, on_invalid="skip", domain="off")
    assert found.rows.tolist() == list(range(10, 20)) and len(found.rejected) == 20
    with pytest.raises(RecordsRejected, match="10 sequences cannot be scored") as caught:
        client.score([BAD] * 30, on_invalid="skip")
    assert len(caught.value.records) == 10


def test_flags_of_all_parts_are_counted(client: Client) -> None:
    found = client.score([VH[:60]] * 11 + [VH])
    assert found.answer.flags == {"fragment": 11}


def test_a_bad_sequence_is_named_by_its_place_in_the_list(client: Client) -> None:
    sequences = ["EVQL"] * 14 + [BAD] + ["EVQL"] * 9
    with pytest.raises(RecordsRejected) as caught:
        client.score(sequences, ids=[f"n{index}" for index in range(24)], domain="off")
    error = caught.value
    assert "sequences[14]: n14: character '*' at position 3" in error.what and "on_invalid skip" in error.fix
    assert error.records[0][:2] == ("n14", 15)
    assert error.request_id and f"request {error.request_id}" in error.what


def test_the_services_errors_are_raised_as_its_classes(client: Client, shared: Running) -> None:
    for kind, part, options in (
        (ConfigError, "assay none", {"assay": "none"}),
        (ConfigError, "no head 'x'", {"heads": "x"}),
        (InputError, "domain", {"domain": "sometimes"}),
        (InputError, "trim is domain and domain is off", {"domain": "off", "trim": "domain"}),
    ):
        with pytest.raises(EngineError) as caught:
            client.score(["EVQL"], **options)  # type: ignore[arg-type]
        assert isinstance(caught.value, kind) and part in caught.value.what, caught.value
        assert f"http://127.0.0.1:{shared.port}/v1/score, request " in caught.value.what
    with pytest.raises(InputTooLarge, match="max_residues_per_request"):
        client.score(["EVQL", "E" * 500, "EVQL"])


@pytest.mark.parametrize(
    ("sequences", "ids", "part"),
    [
        ([], None, "sequences is empty"),
        ("EVQL", None, "sequences is one str"),
        (["EVQL", None], None, r"sequences\[1\] is None"),
        ([("EVQL", "DIQM"), "EVQL"], None, r"sequences\[1\] is one sequence"),
        (["EVQL"], ["a", "b"], "there are 2 ids and 1 sequences"),
        ({"a": "EVQL"}, None, "its keys would be scored"),
        (["EVQL"], ["\ud800"], "is not valid Unicode"),
    ],
)
def test_what_is_refused_before_anything_is_sent(client: Client, sequences: Any, ids: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        client.score(sequences, ids=ids)


def test_an_on_invalid_that_does_not_exist(client: Client) -> None:
    with pytest.raises(InputError, match="on_invalid is 'ignore'"):
        client.score(["EVQL"], on_invalid="ignore")  # type: ignore[arg-type]


def test_a_generator_and_an_array_are_lists(client: Client) -> None:
    assert len(client.score(text for text in ["EVQL", "QVQL"]).rows) == 2
    assert len(client.score(np.array(["EVQL", "QVQL", "EVQL"])).rows) == 3


def test_pairs_go_to_heads_of_one_chain_with_a_note(client: Client) -> None:
    found = client.score([("EVQL", "DIQM")] * 12, domain="off")
    assert len(found.rows) == 12
    assert found.answer.notes and "light chain, which is not scored" in found.answer.notes[0]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("127.0.0.1:8000", "url"),
        ("ftp://host", "not http://HOST"),
        ("http://", "not http://HOST"),
        ("http://host?x=1", "not http://HOST"),
        ("http://me:secret@host", "has a user and a password"),
    ],
)
def test_addresses_that_are_none(url: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        Client(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"timeout_s": 0}, {"attempts": 0}, *({"token": text} for text in ("a b", "", "a\n"))]
)
def test_options_that_cannot_be_used(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Client("http://127.0.0.1:1", **options)


def test_a_closed_client_says_so(shared: Running) -> None:
    client = Client(f"http://127.0.0.1:{shared.port}/")
    assert client.model().ready is True
    client.close()
    client.close()
    with pytest.raises(ServiceError, match="closed"):
        client.score(["EVQL"])


def test_without_httpx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=f"(?s)httpx.*{re.escape(install_command('client'))}"):
        Client("http://127.0.0.1:1")


def test_the_client_needs_no_engine_and_no_package_of_the_service() -> None:
    heavy = ("onnxruntime", "fastapi", "starlette", "uvicorn", "h11._x", "prometheus_client", "sklearn", "httpx")
    code = f"import sys, abonyx.client; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
