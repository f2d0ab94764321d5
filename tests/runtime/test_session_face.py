"""The Python face: small, and clear about what is open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import abonyx
from abonyx.errors import ConfigError, SessionClosed, SessionInUse

from ..conftest import MINI


def test_its_public_names_are_few() -> None:
    public = {name for name in dir(abonyx.Session) if not name.startswith("_")}
    assert public == {
        *("score", "embed", "contributions", "close", "reload", "placement", "heads"),
        *("name", "sha256", "source", "variant", "provider", "thresholds", "max_residues"),
    }


def test_facts_of_the_bundle_and_repr(sequences: list[str]) -> None:
    with abonyx.open_session() as session:
        assert (session.name, session.variant, session.provider) == ("abonyx-mini", "fp16-weights", "cpu")
        assert session.thresholds == {"default": 0.5}
        assert session.max_residues == 148
        assert len(session.sha256) == 64
        shown = repr(session)
        for part in ("open", "abonyx-mini", session.sha256[:12], "fp16-weights", "cpu"):
            assert part in shown
    assert "closed" in repr(session)
    assert session.placement == {}
    with pytest.raises(SessionClosed, match="open_session"):
        session.score(sequences)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_bundles_path_opens_it(kind: Any, sequences: list[str]) -> None:
    with abonyx.open_session(kind(MINI)) as session:
        p = session.score(sequences)
        session.reload(kind(MINI))
        assert (session.score(sequences) == p).all()


@pytest.mark.parametrize("wrong", [{"bundle": "x"}, 3, ["a"], b"x"])
def test_anything_else_is_refused_with_what_to_give(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"config is .*\n.*abonyx\.RuntimeConfig\(bundle="):
        abonyx.open_session(wrong)
    abonyx.open_session().close()


def test_a_second_open_says_how_to_close_the_first() -> None:
    session = abonyx.open_session()  # a notebook's cell that is run twice
    with pytest.raises(SessionInUse, match=r"abonyx\.close_session\(\)"):
        abonyx.open_session()
    abonyx.close_session()
    assert "closed" in repr(session)
    abonyx.close_session()
    abonyx.open_session().close()


def test_a_cell_that_opens_can_be_run_again_even_after_it_failed(sequences: list[str]) -> None:
    cell = "with abonyx.open_session() as session:\n    p = session.score(sequences)\n    assert len(p) == count\n"
    names: dict[str, Any] = {"abonyx": abonyx, "sequences": sequences, "count": 99}
    with pytest.raises(AssertionError):
        exec(cell, names)
    names["count"] = 12
    exec(cell, names)
    exec(cell, names)
