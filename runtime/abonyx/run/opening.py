"""The model of a run that Python starts: that of the caller's session, or one that is opened for the run."""

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
    """What a run is scored with.

    Attributes:
        opening: gives the model of the caller's session; None = the run opens one and closes it.
        budget: that model's tokens a batch; None as opening.
    """

    config: RuntimeConfig
    bundle: Bundle
    opening: Opening | None = None
    budget: int | None = None


@contextmanager
def chosen_model(session: Session | None, config: RuntimeConfig | str | Path | None) -> Iterator[ChosenModel]:
    """Hold the caller's session for the whole block, so that one model scores all of it; or open the bundle only.

    Raises:
        ConfigError: both or neither can be used.
        SessionClosed, SessionForked: the session cannot be used, or was reloaded during the wait for its turn.
        SessionInUse: no session is given, and one is open.
        BundleError: the bundle cannot be read.
    """
    if session is None:
        chosen = as_config(config)
        there = slot.holder()
        if there is not None and there.process_id == os.getpid():
            fix = "Give it as session=..., or close it: abonyx.close_session()."
            raise SessionInUse(f"a session is already open, since {there.opened_at}", fix)
        yield ChosenModel(*open_pinned(chosen))
        return
    if config is not None:
        raise ConfigError("session and config were both given", "Give one of them: a session has its config.")
    model = model_of(session)
    with model.turn():
        yield ChosenModel(model.config, model.bundle, lambda _config: nullcontext(model), model.budget.tokens)
