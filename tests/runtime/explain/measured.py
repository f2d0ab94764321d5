"""A figure that a user measured, as `abonyx evaluate --by` writes it."""

from __future__ import annotations

from typing import Any

from abonyx.bundle import open_bundle

from ...conftest import MINI


def metrics_json(**changes: Any) -> dict[str, Any]:
    """What `evaluate --by` wrote, as far as a scan reads it; changes of `by_parent` go by its own keys."""
    found = {
        "bundle_sha256": open_bundle(MINI).sha256,
        "input_sha256": "0" * 64,
        "head": "nonspecificity",
        "input": "variants.csv",
        "variant": "fp16-weights",
        "pooling": "residues",
        "domain": {"--domain": "check", "--trim domain": False},
        "by_parent": {
            "metric": "ROC AUC",
            "rows": 180,
            "flagged": 0,
            "model_at_equal_charge": {"value": 0.4, "low": 0.3, "high": 0.45},
            "concluded": True,
            "sentence": "Proven. Choose D.\nSecond line",
        },
    }
    within = {name: changes.pop(name) for name in list(changes) if name in found["by_parent"]}
    return found | {"by_parent": found["by_parent"] | within} | changes
