"""Names of bundles on the hub: valid forms, and that no path is read as a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.config import RuntimeConfig, load_config
from abonyx.errors import ConfigError
from abonyx.hub_name import HubName, is_hub_name

COMMIT, HASH = "0123456789abcdef" * 2 + "01234567", "0123456789abcdef" * 4
RIGHT = (
    "hf:acme/mini",
    "hf:acme/mini@main",
    "hf:acme/mini@v1.0",
    "hf:acme/mini@refs/pr/3",
    f"hf:Acme-1/mini_2.b@{COMMIT}",
    f"hf:acme/mini#sha256={HASH}",
    f"hf:acme/mini@{COMMIT}#sha256={HASH}",
)
WRONG = (
    *("hf:", "hf:acme", "hf:/mini", "hf:acme/", "hf:acme/mini/more", "hf:acme/mini@", "hf:acme/mini#", "hf:acme/mi ni"),
    *("hf:../mini", "hf:acme/..", "hf:acme/a--b", "hf:acme/mini.git", "hf:acme/mini@../x", "hf:acme/mini@a b"),
    *("hf:acme/mini@a\nb", f"hf:acme/mini#{HASH}", "hf:acme/mini#sha256=12ab", f"hf:acme/mini#sha256={HASH.upper()}"),
    *(f"hf:acme/mini#sha256={HASH}@main", f"hf:{'a' * 60}/{'b' * 60}", "hf:acme\\mini", "hf:acme/mini-"),
)


@pytest.mark.parametrize("text", RIGHT)
def test_a_name_prints_as_it_was_written(text: str) -> None:
    assert str(HubName.parse(text)) == text
    assert RuntimeConfig(bundle=text).bundle == text


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_name_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(ConfigError, match="hf:ORG/NAME@REVISION"):
        RuntimeConfig(bundle=text)


def test_a_commit_is_a_whole_hash() -> None:
    assert HubName.parse(f"hf:acme/mini@{COMMIT}").commit == COMMIT
    assert HubName.parse(f"hf:acme/mini@{COMMIT[:12]}").commit is None
    assert HubName.parse("hf:acme/mini").commit is None


def test_a_directory_of_such_a_name_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_hub_name("./hf:acme/mini")
    assert RuntimeConfig(bundle="./hf:acme/mini").bundle == str(tmp_path / "hf:acme" / "mini")
    assert not is_hub_name(None)


def test_a_config_file_names_a_bundle_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "hub.toml").write_text(f'bundle = "hf:acme/mini@{COMMIT}"\n')
    assert load_config(tmp_path / "hub.toml", environment={}).bundle == f"hf:acme/mini@{COMMIT}"
    assert load_config(environment={"ABONYX_BUNDLE": "hf:acme/mini"}).bundle == "hf:acme/mini"
    assert load_config(environment={}, flags={"bundle": str(Path("hf:acme/mini"))}).bundle == "hf:acme/mini"
