"""`abonyx score INPUT... -o DIR --ray`: score the files of a run with the workers of a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from abonyx.ray.cluster import for_worker, load_ray
from abonyx.ray.files import RayDispatch
from abonyx.run.directory import score_directory
from abonyx.run.run_file import RunFile
from abonyx.run.scorer import DirectoryRequest


def score_by_ray(request: DirectoryRequest, sources: Sequence[Path], address: str, restart: bool) -> None:
    """Score files with Ray's workers; see run.directory.score_directory.

    Args:
        request, sources, restart: as for score_directory.
        address: address of a Ray cluster; "" = start Ray on this machine.

    Raises:
        ConfigError: Ray is not installed or does not answer.
        EngineError: as for score_directory.
    """
    load_ray()
    run = dataclasses.replace(request.run, config=for_worker(request.run.config))

    def dispatch(request: DirectoryRequest, run_file: RunFile, restart: bool) -> RayDispatch:
        return RayDispatch(request, run_file, restart, address)

    score_directory(dataclasses.replace(request, run=run), sources, restart, dispatch)
