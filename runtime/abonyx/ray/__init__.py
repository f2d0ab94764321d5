"""Scoring on many machines with Ray: one worker is one actor, one process, one session. Needs the extra `ray`.

    import abonyx.ray, ray

    scored = abonyx.ray.score(ray.data.read_parquet("repertoire/"), abonyx.RuntimeConfig(bundle="esm1v"))

`abonyx score DIR -o DIR --ray` scores whole files instead, each to a file of the same order; docs/scale.md.
"""

from __future__ import annotations

from abonyx.privacy import silence
from abonyx.ray.dataset import score

silence()  # before anything starts Ray, be it ray.data.read_parquet

__all__ = ["score"]
