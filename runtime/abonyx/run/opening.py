"""Choose the model of a run that is started from Python: the caller's session, or a model opened for the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from abonyx.bundle import Bundle, open_pinned
from abonyx.config import RuntimeConfig
from abonyx.engine import slot
from abonyx.errors import ConfigError, SessionInUse
from abonyx.run.windows import Opening
from abonyx.session import Session, as_config, model_of


class ChosenModel(NamedTuple):
    """The config, bundle and model of a run.

    Attributes:
        config, bundle: of the session, or of the model that the run will open.
        opening: gives the model of the caller's session; None = the run opens and closes a model.
        budget: token budget of the session's model; None if there is no session.
    """

    config: RuntimeConfig
    bundle: Bundle
    opening: Opening | None = None
    budget: int | None = None


@contextmanager
def chosen_model(session: Session | None, config: RuntimeConfig | str | Path | None) -> Iterator[ChosenModel]:
    """Hold the caller's session for the whole block, so that one model scores everything.

    Without a session, open the bundle.

    Raises:
        ConfigError: session and config are both given, or one of them has a wrong type.
        SessionClosed, SessionForked: the session cannot be used, or was reloaded during the wait for its turn.
        SessionInUse: no session is given, but one is open.
        BundleError: the bundle cannot be read.
    """
    if session is None:
        chosen = as_config(config)
        there = slot.holder()
        if there is not None and there.process_id == os.getpid():
            fix = "Give it as session=..., or close it with abonyx.close_session()."
            raise SessionInUse(f"a session is already open (opened at {there.opened_at})", fix)
        yield ChosenModel(*open_pinned(chosen))
        return
    if config is not None:
        raise ConfigError("session and config were both given", "Give only one of them: a session has its own config.")
    model = model_of(session)
    with model.turn():
        yield ChosenModel(model.config, model.bundle, lambda _config: nullcontext(model), model.budget.tokens)
