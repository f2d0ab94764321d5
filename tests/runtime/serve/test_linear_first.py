"""A bundle with a linear first head is served like any other bundle: no route answers 501."""

from __future__ import annotations

from pathlib import Path

import pytest

for _name in ("fastapi", "uvicorn", "prometheus_client"):
    pytest.importorskip(_name, reason="the serve extra is not installed")

from abonyx.config import RuntimeConfig  # noqa: E402

from ..domain.proteins import VH  # noqa: E402
from ..several import make_several  # noqa: E402
from .serving import refused, service  # noqa: E402


def test_a_linear_first_head(tmp_path: Path) -> None:
    several = make_several(tmp_path / "several", ("hic", "nonspecificity"))
    with service(RuntimeConfig(bundle=str(several))) as running:
        answer = running.score([VH]).json
        (row,) = answer["results"]
        assert list(row["heads"]) == ["hic_value", "hic_percentile"] and answer["threshold"] is None
        assert row["p_nonspecific"] is None and row["nonspecific"] is None and row["call"] is None
        (row,) = running.score([VH], heads="all").json["results"]
        assert {"hic_value", "nonspecificity_p"} < set(row["heads"])
        for asked in ({"threshold": 0.3}, {"assay": "psr"}):
            refused(running.score([VH], **asked), 422, "hic, which gives a value in min")
        model = running.ask("GET", "/v1/model")
        assert (model.status, model.json["default_threshold"]) == (200, None)
        assert running.ask("GET", "/metrics").status == running.ask("GET", "/").status == 200
