"""Check a whole bundle: hash every file, read every graph, and run the golden rows on this machine."""

from __future__ import annotations

import msgspec

from abonyx.bundle import check_files, check_graph, open_pinned, shown_names, unlisted_files
from abonyx.bundle.selftest import rows_that_fit
from abonyx.bundle.tolerances import BF16, looser
from abonyx.config import RuntimeConfig
from abonyx.errors import BundleError
from abonyx.first_open import EngineUse, open_in_child
from abonyx.model import open_model

_METRICS = ("p", "logit", "value", "embedding")


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The findings of `verify`, if the bundle is right. If not, an error is raised.

    Attributes:
        bundle, name, sha256, schema_version: directory, name, hash and schema of the bundle.
        files, bytes: number of hashed files and bytes.
        operators: variant -> operator -> number of nodes, for every variant.
        variant, provider: variant and provider of the self-test.
        golden_rows: number of rows in the self-test. It leaves long rows out if static_tokens is set.
        differences: metric -> max |difference| from PyTorch. Metrics: p, logit (logistic heads), value (linear heads,
            in standard deviations of the training values), embedding.
        limits: metric -> largest allowed difference.
        placement: execution provider -> number of graph nodes that it runs.
        use: files, sockets, processes and threads that the open model adds; None if they were not requested, or if the
            system does not tell.
        hub: name of the bundle with commit and hash, if it was given by name.
    """

    bundle: str
    name: str
    sha256: str
    schema_version: int
    files: int
    bytes: int
    operators: dict[str, dict[str, int]]
    variant: str
    provider: str
    golden_rows: int
    differences: dict[str, float]
    limits: dict[str, float]
    placement: dict[str, int]
    use: EngineUse | None = None
    hub: str | None = None


def verify(config: RuntimeConfig, *, deep: bool = False) -> Verification:
    """Check the whole bundle of a config. Every byte is read; remembered hashes are not used.

    Args:
        config: the config.
        deep: whether to also open the bundle in a child process, and report what it uses there (EngineUse).

    Raises:
        BundleError: a file is missing, damaged, not listed or a link; the bundle has another schema; or a graph was not
            exported by abonyx.
        ProviderError, ConfigError: the provider or the variant cannot be used.
        SelfTestError: a golden row gives other numbers here than the bundle stores.
    """
    config, bundle = open_pinned(config)
    manifest = bundle.manifest
    bundle.variant(config.provider, config.variant)
    unlisted = unlisted_files(bundle)
    if unlisted:
        what = f"{bundle.path}: {len(unlisted)} files that the manifest does not list: {shown_names(unlisted)}"
        raise BundleError(what, "Remove them, or export the bundle again.")
    check_files(bundle, manifest.files, use_cache=False)
    operators = {name: dict(check_graph(bundle, variant).operators) for name, variant in manifest.variants.items()}
    tried = open_in_child(config, deep=True) if deep else None
    with open_model(config, self_test="full") as session:
        most = session.static_shape[1] if session.static_shape else None
        limits = looser(session.variant.limits, BF16) if config.bf16 else session.variant.limits
        return Verification(
            bundle=str(bundle.path),
            name=bundle.name,
            sha256=bundle.sha256,
            hub=str(bundle.hub) if bundle.hub else None,
            schema_version=manifest.schema_version,
            files=len(manifest.files),
            bytes=sum(entry.size_bytes for entry in manifest.files.values()),
            operators=operators,
            variant=session.variant_name,
            provider=config.provider,
            golden_rows=len(rows_that_fit(bundle.golden(), most, str(bundle.path))),
            differences=session.differences,
            limits={name: getattr(limits, name) for name in _METRICS if name in session.differences},
            placement=session.placement,
            use=tried.use if tried else None,
        )
