"""Score on many machines with Ray (extra `ray`). Each worker is an actor in its own process, with one session.

    import abonyx.ray, ray

    scored = abonyx.ray.score(ray.data.read_parquet("repertoire/"), abonyx.RuntimeConfig(bundle="esm1v"))

`abonyx score DIR -o DIR --ray` scores whole files instead, each into a file with the same order (docs/scale.md).
"""

from __future__ import annotations

from abonyx.privacy import silence
from abonyx.ray.dataset import score

silence()  # before anything starts Ray, e.g. ray.data.read_parquet

__all__ = ["score"]
