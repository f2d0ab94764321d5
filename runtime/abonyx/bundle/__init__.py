"""Bundles, which export writes and the runtime reads: the directory, manifest, graph files and limits."""

from abonyx.bundle.bundle import (
    GOLDEN_NAME,
    Bundle,
    Golden,
    check_graph,
    check_quantization,
    locate_mini,
    open_bundle,
    open_pinned,
    shown_names,
)
from abonyx.bundle.files import check_files, refuse_changed, unlisted_files
from abonyx.bundle.manifest import README_NAME

__all__ = [
    "GOLDEN_NAME",
    "README_NAME",
    "Bundle",
    "Golden",
    "check_files",
    "check_graph",
    "check_quantization",
    "locate_mini",
    "open_bundle",
    "open_pinned",
    "refuse_changed",
    "shown_names",
    "unlisted_files",
]
