"""Code that the estimators share: the bundle that they were fitted with, and the session of one call."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from abonyx.bundle import Bundle, open_bundle
from abonyx.config import RuntimeConfig
from abonyx.engine import slot
from abonyx.errors import BundleError, ConfigError, InputError, SessionInUse
from abonyx.model import OpenModel, open_model
from abonyx.session import as_config
from abonyx.texts import as_pairs, as_texts, type_name


class TextRefused(InputError, ValueError):
    """An InputError that is also a ValueError, which scikit-learn expects for an X or y that cannot be used."""


# Calls of one process take turns, because a process has one session.
_turn = threading.Lock()


def _renew_turn() -> None:
    global _turn
    _turn = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_turn)  # a child does not have the thread that held the lock


def config_of(bundle: str | Path | None, config: RuntimeConfig | None) -> RuntimeConfig:
    """The config for the parameters `bundle` and `config` of an estimator.

    Raises:
        ConfigError: `config` is not a RuntimeConfig, or the two name different bundles.
    """
    if config is not None and not isinstance(config, RuntimeConfig):
        raise ConfigError(f"config is {config!r:.100} ({type(config).__name__})", "Give abonyx.RuntimeConfig(...).")
    if bundle is None or config is None:
        return as_config(config or bundle)
    if config.bundle not in (None, str(bundle)):
        raise ConfigError(f"bundle is {str(bundle)!r} and config.bundle is {config.bundle!r}", "Give only one of them.")
    return dataclasses.replace(config, bundle=str(bundle))


def pin(estimator: Any, config: RuntimeConfig) -> Bundle:
    """Read the bundle's manifest, and note its name, hash and variant in the estimator. No model is opened."""
    bundle = open_bundle(config.bundle)
    estimator.bundle_name_, estimator.bundle_sha256_ = bundle.name, bundle.sha256
    estimator.variant_ = bundle.variant(config.provider, config.variant)[0]
    return bundle


@contextmanager
def pinned_model(estimator: Any, config: RuntimeConfig) -> Iterator[OpenModel]:
    """Yield the model that the estimator was fitted with: the open session's, or one that is opened for this call.

    Raises:
        BundleError: the bundle or its variant has changed since fit.
        SessionInUse: the open session has another bundle or config.
        EngineError: as for open_session.
    """
    with _turn:
        there = slot.holder()
        if there is None or there.process_id != os.getpid():
            _refuse_other(estimator, config, open_bundle(config.bundle))  # before the model is loaded
            with open_model(config) as model:
                _refuse_other(estimator, config, model.bundle)
                yield model
            return
        if not isinstance(there, OpenModel):
            raise SessionInUse(f"a session is already open (opened at {there.opened_at})", "Close it first.")
        with there.turn():
            _refuse_other_session(estimator, config, there)
            yield there


def _refuse_other(estimator: Any, config: RuntimeConfig, bundle: Bundle) -> None:
    variant = bundle.variant(config.provider, config.variant)[0]
    if (bundle.sha256, variant) != (estimator.bundle_sha256_, estimator.variant_):
        fitted = f"{estimator.bundle_name_} ({estimator.bundle_sha256_[:12]}), variant {estimator.variant_}"
        found = f"{bundle.path} is {bundle.label()}, variant {variant}"
        what = f"{type(estimator).__name__} was fitted with {fitted}, but {found}"
        raise BundleError(what, "Give the bundle that it was fitted with, or fit it again.")


def _refuse_other_session(estimator: Any, config: RuntimeConfig, model: OpenModel) -> None:
    """Raise SessionInUse if the open session would give other numbers. Threads and batch sizes may differ."""
    wanted = (estimator.bundle_sha256_, estimator.variant_, config.provider, config.pooling, config.batch_size)
    open_ = model.config
    found = (model.bundle.sha256, model.variant_name, open_.provider, open_.pooling, open_.batch_size)
    if wanted != found:
        names = ("bundle", "variant", "provider", "pooling", "batch_size")
        differ = [
            f"{name} {there!r:.20}, not {mine!r:.20}"
            for name, mine, there in zip(names, wanted, found, strict=True)
            if mine != there
        ]
        what = f"the session that was opened at {model.opened_at} has {'; '.join(differ)}"
        raise SessionInUse(
            what, "Close it (abonyx.close_session()), or open it with the estimator's bundle and config."
        )


def texts_of(given: Any, *, pairs: bool) -> list[Any]:
    """X as a list of texts, or of (heavy, light) pairs.

    Args:
        given: a list, Series or array; or a table of one column, or of two columns (heavy, light) for pairs.
        pairs: whether pairs are expected.

    Raises:
        TextRefused: X is something else, or is empty.
    """
    if hasattr(given, "tocsr"):
        raise TextRefused(f"X is {type_name(given)}, a sparse matrix of numbers", "Give a list of sequences.")
    shape: tuple[int, ...] = getattr(given, "shape", ())
    if len(shape) == 2 and shape[1] == (2 if pairs else 1):
        rows = np.asarray(given, dtype=object).tolist()
        given = [tuple(row) for row in rows] if pairs else [row[0] for row in rows]
    with as_value_errors():
        found: list[Any] = list(zip(*as_pairs(given), strict=True)) if pairs else as_texts(given)
    if not found:
        what = "X has no sequence: found array with 0 sample(s) while a minimum of 1 is required"
        raise TextRefused(what, "Give at least one sequence.")
    return found


@contextmanager
def as_value_errors() -> Iterator[None]:
    """Turn an InputError into a TextRefused."""
    try:
        yield
    except InputError as error:
        raise _refused(error) from error


def _refused(error: InputError) -> TextRefused:
    what, fix = error.marked
    return TextRefused(what.replace("sequences", "X", 1) if what.startswith("sequences") else what, fix)
