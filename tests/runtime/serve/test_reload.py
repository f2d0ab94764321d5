"""Reloads: no request is lost or answered by two models, and a bad bundle gives the reason."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.bundle.tolerances import BATCH_NEIGHBOURS  # noqa: E402
from abonyx.config import RuntimeConfig  # noqa: E402
from abonyx.errors import ConfigError  # noqa: E402
from abonyx.session import State, open_session  # noqa: E402

from ...conftest import MINI  # noqa: E402
from ..hostile import edit, relist, shift_head  # noqa: E402
from .serving import ADMIN, PATIENCE_S, TOKEN, Running, at_once, made_up, refused, service, until  # noqa: E402

BEARER = {"Authorization": f"Bearer {ADMIN}"}


class Chosen:
    """The source of the service's config: the current bundle, or an error."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.error: ConfigError | None = None

    def __call__(self) -> RuntimeConfig:
        if self.error:
            raise self.error
        return RuntimeConfig(bundle=str(self.bundle))


def other_bundle(directory: Path) -> Path:
    """The mini bundle with another name and head; its card is a link to a private file."""
    shutil.copytree(MINI, directory)
    shift_head(directory, -4.0)
    edit(directory, name="other")
    (directory / "README.md").unlink()
    (directory / "README.md").symlink_to("/etc/passwd")
    return directory


def damaged(directory: Path) -> Path:
    """A bundle with right hashes but the golden rows of another model."""
    shutil.copytree(MINI, directory)
    with np.load(directory / "golden.npz") as arrays:
        values = dict(arrays)
    np.savez(directory / "golden.npz", **(values | {"embedding": values["embedding"] + 1}))
    relist(directory)
    return directory


def reload(running: Running) -> Any:
    return running.ask("POST", "/v1/reload", headers=BEARER)


def test_reload_under_load_loses_no_request_and_answers_none_by_two_models(tmp_path: Path) -> None:
    bundles = [MINI, other_bundle(tmp_path / "other")]
    requests = [made_up(1 + seed % 12, seed, longest=20) for seed in range(24)]
    expected = {}
    for name, bundle in zip(("abonyx-mini", "other"), bundles, strict=True):
        with open_session(RuntimeConfig(bundle=str(bundle))) as session:
            values = session.score([sequence for one in requests for sequence in one])
        expected[name] = np.split(values, np.cumsum([len(one) for one in requests])[:-1])
    # p of such sequences is often near 0 or 1 for any head, but in most requests it distinguishes the two models
    apart = [np.abs(one - other).max() > 0.01 for one, other in zip(*expected.values(), strict=True)]
    assert sum(apart) > len(apart) * 2 / 3
    chosen = Chosen(MINI)
    answered: list[str] = []
    waited = []
    with service(RuntimeConfig(bundle=str(MINI)), chosen, admin_token=ADMIN) as running:
        started = threading.Event()

        def client(number: int) -> None:
            for turn in range(number, len(requests), 6):
                while (answer := running.score(requests[turn])).status == 503:
                    assert "reloaded" in answer.json["detail"] and int(answer.headers["retry-after"]) > 0
                    waited.append(turn)
                    threading.Event().wait(0.02)
                assert answer.status == 200, answer.body
                found = answer.json
                assert [row["sequence"] for row in found["results"]] == requests[turn]
                p = [row["p_nonspecific"] for row in found["results"]]
                by_its_model = expected[found["model"]["name"]][turn]
                np.testing.assert_allclose(p, by_its_model, rtol=0, atol=BATCH_NEIGHBOURS)
                answered.append(found["model"]["name"])
                started.set()

        def administrator(_number: int) -> None:
            assert started.wait(PATIENCE_S)
            for bundle in (bundles[1], bundles[0], bundles[1]):
                chosen.bundle = bundle
                answer = reload(running)
                assert (answer.status, answer.json["name"]) == (200, "other" if bundle != MINI else "abonyx-mini")

        at_once(lambda number: client(number) if number < 6 else administrator(number), 7)
        assert len(answered) == len(requests) and set(answered) == set(expected)
        assert waited
        assert running.value("abonyx_session_opens_total", outcome="opened") == 4


def test_a_reload_finishes_what_is_queued_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    chosen = Chosen(other_bundle(tmp_path / "other"))
    manifest = json.loads((chosen.bundle / "manifest.json").read_text())
    edit(chosen.bundle, heads=[manifest["heads"][0] | {"pooling": "upstream-batch", "pooling_batch_size": 8}])
    with service(RuntimeConfig(bundle=str(MINI)), chosen, admin_token=ADMIN) as running:
        found: dict[str, Any] = {}
        with running.engine.held():
            scoring = threading.Thread(target=lambda: found.update(score=running.score(made_up(30, 1))))
            scoring.start()
            assert running.engine.inside.wait(PATIENCE_S)
            reloading = threading.Thread(target=lambda: found.update(reload=reload(running)))
            reloading.start()
            until(lambda: running.ask("GET", "/readyz").status == 503)
            for answer in (running.score(["EVQL"]), running.ask("GET", "/v1/model"), reload(running)):
                refused(answer, 503, "the model is being reloaded")
                assert answer.headers["retry-after"] == "5"
            assert running.ask("GET", "/healthz").status == 200
        for thread in (scoring, reloading):
            thread.join(PATIENCE_S)
        assert found["score"].json["model"]["name"] == "abonyx-mini" and len(found["score"].json["results"]) == 30
        assert (found["reload"].json["name"], found["reload"].json["model_card"]) == ("other", None)
        assert running.score(["EVQL"]).json["model"]["name"] == "other"
    assert "the head was trained with pooling upstream-batch (batch 8), but these scores use residues" in caplog.text


def test_a_bundle_that_fails_its_self_test_is_not_served_and_says_why(tmp_path: Path) -> None:
    chosen = Chosen(damaged(tmp_path / "damaged"))
    with service(RuntimeConfig(bundle=str(MINI)), chosen, admin_token=ADMIN) as running:
        answer = reload(running)
        refused(answer, 500, "embedding")
        for path in ("/readyz", "/v1/model"):
            answer = running.ask("GET", path)
            refused(answer, 503, "no model is open: ")
            assert str(chosen.bundle) in answer.json["detail"]
        refused(running.score(["EVQL"]), 503, "no model is open: ")
        assert running.ask("GET", "/healthz").status == 200
        assert running.value("abonyx_ready") == 0
        assert running.value("abonyx_session_opens_total", outcome="failed") == 1
        assert running.value("abonyx_rejected_requests_total", reason="reload_failed") == 1
        assert running.value("abonyx_rejected_requests_total", reason="no_model") == 3
        chosen.bundle = MINI
        assert reload(running).status == 200
        assert running.ask("GET", "/readyz").status == 200 and running.score(["EVQL"]).status == 200


def test_a_model_whose_card_cannot_be_read_is_not_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, open_path = tmp_path / "bundle" / "README.md", Path.open

    def opened(path: Path, *arguments: Any, **more: Any) -> Any:
        if path == card:
            raise PermissionError(13, "Permission denied")
        return open_path(path, *arguments, **more)

    shutil.copytree(MINI, card.parent)
    with service(RuntimeConfig(bundle=str(MINI)), Chosen(card.parent), token=TOKEN, admin_token=ADMIN) as running:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", opened)
            refused(reload(running), 500, f"{card}: cannot be read: Permission denied")
            assert running.session.state is State.CLOSED  # nothing holds the memory
            # only a client with the token sees the path
            answer = running.ask("GET", "/readyz")
            refused(answer, 503, "no model is open")
            assert str(tmp_path) not in answer.body.decode()
            refused(running.ask("GET", "/v1/model", headers={"Authorization": f"Bearer {TOKEN}"}), 503, str(card))
        assert reload(running).status == 200 and running.ask("GET", "/readyz").status == 200


def test_a_config_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    chosen = Chosen(tmp_path / "nothing here")
    with service(RuntimeConfig(bundle=str(MINI)), chosen, admin_token=ADMIN) as running:
        chosen.error = ConfigError("serve.toml: not valid TOML", "Mend it.")
        refused(reload(running), 500, "nothing was reloaded: serve.toml: not valid TOML")
        assert running.score(["EVQL"]).status == 200


def test_reload_has_a_token_of_its_own() -> None:
    with service(token=TOKEN) as running:
        for token in (TOKEN, ADMIN, ""):
            headers = {"Authorization": f"Bearer {token}"}
            refused(running.ask("POST", "/v1/reload", headers=headers), 403, "no admin token was set")
    with service(token=TOKEN, admin_token=ADMIN) as running:
        for token in (TOKEN, f"{ADMIN} ", "x"):
            headers = {"Authorization": f"Bearer x{token}"}
            refused(running.ask("POST", "/v1/reload", headers=headers), 401, "needs the admin token")
        assert reload(running).status == 200
        refused(running.ask("GET", "/v1/model", headers=BEARER), 401, "needs the token")


def misshapen(directory: Path) -> Path:
    """A bundle with right hashes whose graph gives the embedding one more axis."""
    onnx = pytest.importorskip("onnx", reason="the export extra is not installed")
    shutil.copytree(MINI, directory)
    path = next(directory.glob("*/model.onnx"))
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                names[at] = "flat" if name == "embedding" else name
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    model.graph.initializer.append(axis)
    model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["flat", "axis"], ["embedding"]))
    next(one for one in model.graph.output if one.name == "embedding").type.tensor_type.ClearField("shape")
    path.write_bytes(model.SerializeToString())
    relist(directory)
    return directory


def scores(running: Running) -> int:
    return int(running.ask("POST", "/v1/score", {"sequences": [{"id": "a", "sequence": "EVQL"}]}).status)


def test_a_bundle_of_another_shape_is_a_failed_reload_and_the_next_one_works(tmp_path: Path) -> None:
    chosen = Chosen(misshapen(tmp_path / "bad"))
    with service(RuntimeConfig(bundle=str(MINI)), chosen, admin_token=ADMIN) as running:
        found = reload(running)
        assert (found.status, "the manifest says float32 (2, 640)" in found.json["detail"]) == (500, True), found.json
        assert running.ask("GET", "/readyz").status == 503
        chosen.bundle = MINI
        assert reload(running).status == 200
        assert scores(running) == 200


@pytest.mark.parametrize("unexpected", [ValueError("odd"), MemoryError(), RuntimeError("no such thing")])
def test_any_error_of_a_reload_is_told_and_the_next_one_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unexpected: Exception
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise unexpected

    with service(RuntimeConfig(bundle=str(MINI)), Chosen(MINI), admin_token=ADMIN) as running:
        with monkeypatch.context() as patch:
            patch.setattr("abonyx.model.check_graph", fails)
            found = reload(running)
        assert (found.status, type(unexpected).__name__ in found.json["detail"]) == (500, True), found.json
        assert running.ask("GET", "/readyz").status == 503
        assert reload(running).status == 200
        assert scores(running) == 200


def test_an_unexpected_error_in_scoring_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("odd")

    with service(RuntimeConfig(bundle=str(MINI))) as running:
        with monkeypatch.context() as patch:
            patch.setattr("abonyx.serve.scheduler.tokenize", fails)
            assert scores(running) == 500
        assert running.ask("GET", "/healthz").status == 200
        assert scores(running) == 200
