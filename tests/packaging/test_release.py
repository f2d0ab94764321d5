"""The release workflow: it is pinned, has few permissions, is off until a person turns it on, and its files exist."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from abonyx import __version__

from ..conftest import REPOSITORY

yaml = pytest.importorskip("yaml", reason="the test extra is not installed")

FILE = REPOSITORY / ".github" / "workflows" / "release.yml"
TEXT = FILE.read_text(encoding="utf-8") if FILE.is_file() else ""
pytestmark = pytest.mark.skipif(not TEXT, reason="no workflow beside these tests")


def workflow() -> Any:
    return yaml.safe_load(TEXT)


def test_it_runs_for_tags_only_and_not_before_a_person_turned_it_on() -> None:
    read = workflow()
    assert read[True] == {"push": {"tags": ["v*"]}}  # YAML takes the key `on` for a truth value
    first, *others = read["jobs"].values()
    assert first["if"] == "vars.ABONYX_RELEASE == 'on'"
    assert all(job["needs"] for job in others), "a job that does not wait for the first would run at once"
    assert read["jobs"]["publish"]["environment"] == "pypi"


def test_permissions_are_those_of_each_job() -> None:
    read = workflow()
    assert read["permissions"] == {}
    given = {name: job["permissions"] for name, job in read["jobs"].items()}
    assert given == {
        "build": {"contents": "read"},
        "test": {},
        "suite": {"contents": "read"},
        "packaging": {"contents": "read"},
        "attest": {"attestations": "write", "id-token": "write"},
        "publish": {"id-token": "write"},
    }
    assert "secrets." not in TEXT


def test_every_action_is_pinned_by_commit_with_its_version() -> None:
    used = re.findall(r"uses: (.*)$", TEXT, flags=re.M)
    assert len(used) >= 7
    pinned = [re.fullmatch(r"([\w./-]+)@([0-9a-f]{40}) # v\d+\.\d+\.\d+", one) for one in used]
    assert all(pinned), used
    commits = {(one[1], one[2]) for one in pinned if one}
    assert len(commits) == len({name for name, _ in commits}), "one action, one commit"


def test_nothing_is_published_before_every_check_passed() -> None:
    jobs = workflow()["jobs"]
    assert (jobs["publish"]["needs"], jobs["attest"]["needs"]) == ("attest", ["test", "suite", "packaging"])
    commands = [step.get("run", "") for step in jobs["packaging"]["steps"]]
    assert any(command.startswith("make packaging ") for command in commands)
    assert "make test slow PYTHON=python3.11" in [step.get("run", "") for step in jobs["suite"]["steps"]]


def test_it_tries_the_lower_bound_of_torch() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bound,) = [need for need in extras["optional-dependencies"]["export"] if need.startswith("torch>=")]
    (tried,) = re.findall(r"minima\.py export --torch (\S+)", TEXT)
    assert tried == f"{bound.removeprefix('torch>=')}.0"


def test_the_files_it_names_exist() -> None:
    for path in re.findall(r"\b(?:tests|constraints)[\w/.]+", TEXT):
        assert (REPOSITORY / path).exists(), path
    assert "release.yml" in (REPOSITORY / "RELEASE.md").read_text(encoding="utf-8")


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    dated = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changes, flags=re.M)
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], str(cited["date-released"])) == dated[0]
    assert dated[0][0] == __version__
