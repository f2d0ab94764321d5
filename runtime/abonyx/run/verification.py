"""A bundle checked from its bytes to its numbers: every file hashed, every graph read, the golden rows run here."""

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
    """What `verify` found; it is only made where everything is right.

    Attributes:
        files, bytes: how many were hashed.
        operators: variant -> operator -> nodes, of every variant.
        variant, provider: what the self-test ran.
        golden_rows: run in the self-test; fewer than there are where static_tokens leaves long ones out.
        differences, limits: max |difference| from PyTorch by metric, and what is allowed: p, logit (logistic heads),
            value (linear heads, in training sds), embedding.
        placement: execution provider -> nodes.
        use: what the open model holds of the system; None unless asked for, or if the system does not say.
        hub: the bundle's name by commit and hash, if it was given by name.
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
    """Check the config's bundle whole. Every byte is read: no remembered hash counts.

    Args:
        deep: open it in a process of its own first, even if it passed here before, and look what it holds there.

    Raises:
        BundleError: a file that is missing, damaged, not listed or a link; another schema; a graph no export writes.
        ProviderError, ConfigError: the provider or the variant cannot be used.
        SelfTestError: a golden row does not come out right here.
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
