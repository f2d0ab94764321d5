"""Scoring on many machines with Ray: one worker is one actor, one process, one session. Needs the extra `ray`.

    import abonyx.ray, ray

    scored = abonyx.ray.score(ray.data.read_parquet("repertoire/"), abonyx.RuntimeConfig(bundle="esm1v"))

`abonyx score DIR -o DIR --ray` scores whole files instead, each to a file of the same order; docs/scale.md.
"""

from __future__ import annotations

import os

from abonyx.ray.dataset import score

# Before anything starts Ray, be it ray.data.read_parquet. Nothing is sent anywhere unless the user has said so.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

__all__ = ["score"]
