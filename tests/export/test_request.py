"""--head NAME=FILE: names, paths, and texts that are neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from abonyx.errors import ConfigError
from abonyx_export.head.head import DEFAULT_NAME
from abonyx_export.request import named_head


def test_a_name_and_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p=1.npz").touch()
    assert named_head("hic=hic.npz") == ("hic", Path("hic.npz"))
    assert named_head("hic.npz") == (DEFAULT_NAME, Path("hic.npz"))
    assert named_head("./p=1.npz") == (DEFAULT_NAME, Path("./p=1.npz"))
    assert named_head("p=1.npz") == (DEFAULT_NAME, Path("p=1.npz")), "p is no name, and the file is there"


@pytest.mark.parametrize("name", ["my head", "2nd", "all", "", "h" * 300])
def test_a_name_that_is_not_valid_is_not_used_as_a_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a valid head name.*\nA name has 1 to 40 letters"):
        named_head(f"{name}=hic.npz")
