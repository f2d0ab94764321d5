"""The request of a calibration, and the checks that need no encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from abonyx.bundle.manifest import LOGISTIC, HeadSpec
from abonyx.errors import BundleError, ConfigError, printable
from abonyx.output.directory import check_directory
from abonyx.output.files import check_output, rejected_path
from abonyx.run.request import RunRequest
from abonyx.wording import option


@dataclass(frozen=True, kw_only=True)
class CalibrateRequest:
    """What to calibrate.

    Attributes:
        run: the parent bundle, how it runs, and how the controls are read.
        source: the file of controls; None = standard input.
        label_column: name of the column of labels.
        output: the new bundle's directory; must not exist.
        head: name of the head; None = the first.
        name: name of the new bundle; None = the name of its directory.
        notice: one line shown wherever the bundle is named; None = the parent's.
        embedding_cache: directory; None = in the user's cache.
    """

    run: RunRequest
    source: Path | None
    label_column: str
    output: Path
    head: str | None = None
    name: str | None = None
    notice: str | None = None
    embedding_cache: Path | None = None

    @property
    def source_name(self) -> str:
        """The input's name in messages and in the bundle: the file name without its folder."""
        return self.source.name if self.source else "standard input"

    @property
    def at(self) -> int:
        """Index of the head in the bundle. check_request refuses an unknown name."""
        return 0 if self.head is None else [head.name for head in self.run.bundle.manifest.heads].index(self.head)

    @property
    def spec(self) -> HeadSpec:
        """The head before the calibration."""
        return self.run.bundle.manifest.heads[self.at]

    @property
    def logistic(self) -> bool:
        """Whether the head gives a probability."""
        return self.spec.kind == LOGISTIC


def check_request(request: CalibrateRequest) -> None:
    """Refuse what can be refused before the controls are read.

    Raises:
        ConfigError: the head does not exist, or the output cannot be created.
        BundleError: the bundle has no head, or has a variant that was never checked.
    """
    bundle = request.run.bundle
    bundle.refuse_placeholder()
    names = [head.name for head in bundle.manifest.heads]
    if request.head is not None and request.head not in names:
        what = f"{option('head')}: {bundle.name} has no head {printable(request.head)!r}"
        raise ConfigError(what, f"The bundle has: {', '.join(names)}.")
    for name, variant in bundle.manifest.variants.items():
        if variant.parity is None:
            raise BundleError(f"{bundle.path}: variant {name} was never checked", "Export the bundle again.")
    check_directory(request.output)
    if request.run.skip and request.output.absolute().parent.is_dir():
        check_output(rejected_path(request.output), request.source)
