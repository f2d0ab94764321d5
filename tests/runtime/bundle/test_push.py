"""`abonyx push`, with a server that has the hub's endpoints: uploads, refusals and output."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from abonyx.bundle import open_bundle
from abonyx.bundle.hub.fetch import fetch
from abonyx.bundle.hub.readme import readme
from abonyx.hub_name import HubName

from ...conftest import MINI
from .hub_server import WRITE_TOKEN, HubServer, Repository

NEW = "acme/new"
SHA256 = open_bundle(None).sha256


@pytest.fixture
def writable(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """A hub that this process may write to."""
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    return hub


def test_a_pushed_bundle_comes_back_by_the_printed_name(writable: HubServer, run: Any, tmp_path: Path) -> None:
    done = run("push", MINI, f"hf:{NEW}")
    assert done.code == 0, done.err
    (name,) = done.out.splitlines()
    commit = writable.repositories[NEW].revisions["main"]
    assert name == f"hf:{NEW}@{commit}#sha256={SHA256}"
    assert writable.repositories[NEW].private
    assert "to the private repository" in done.err and "can read every training sequence" in done.err
    path, _ = fetch(HubName.parse(name))
    for file in MINI.rglob("*"):
        if file.is_file() and file.name != "README.md":
            assert (path / file.relative_to(MINI)).read_bytes() == file.read_bytes()
    assert WRITE_TOKEN not in done.err + done.out


def test_what_a_push_asks_is_what_privacy_names(writable: HubServer, run: Any) -> None:
    assert run("push", MINI, f"hf:{NEW}").code == 0
    replaced = [(method, re.sub(r"^/upload/\w+", "/upload/HASH", path)) for method, path, _ in writable.asked]
    # huggingface_hub 1 and later writes true, earlier ones True.
    asked = {(method, re.sub(r"blobs=[Tt]rue$", "blobs=BOOL", path)) for method, path in replaced}
    assert asked == {
        ("GET", f"/api/models/{NEW}/revision/main?blobs=BOOL"),
        ("POST", "/api/repos/create"),
        ("POST", "/api/validate-yaml"),
        ("POST", f"/api/models/{NEW}/preupload/main"),
        ("POST", f"/{NEW}.git/info/lfs/objects/batch"),
        ("PUT", "/upload/HASH"),
        ("POST", f"/api/models/{NEW}/commit/main"),
    }
    to_storage = [headers for method, _, headers in writable.asked if method == "PUT"]
    assert to_storage and not [one for headers in to_storage for one in headers if one.lower() == "authorization"]


def test_the_readme_has_metadata_the_bundles_own_text_and_the_cards(writable: HubServer, run: Any) -> None:
    assert run("push", MINI, f"hf:{NEW}").code == 0
    repository = writable.repositories[NEW]
    text = repository.commits[repository.revisions["main"]]["README.md"].decode()
    front, _, rest = text.removeprefix("---\n").partition("---\n")
    assert "license: apache-2.0\n" in front and "library_name: abonyx\n" in front and "- antibody\n" in front
    assert rest.startswith("\n# abonyx-mini: model card")
    assert f"--bundle 'hf:{NEW}#sha256={SHA256}'" in rest
    assert (MINI / "card.md").read_text(encoding="utf-8").strip() in rest


def test_a_bundle_from_the_hub_is_pushed_again_with_the_same_readme(writable: HubServer, run: Any) -> None:
    first = run("push", MINI, f"hf:{NEW}").out.strip()
    before = writable.repositories[NEW].revisions["main"]
    assert run("push", first, f"hf:{NEW}").code == 0
    assert writable.repositories[NEW].revisions["main"] == before


def test_a_licence_that_the_hub_has_no_word_for(bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bare, folder)
    (folder / "README.md").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["licence"], manifest["encoder"]["repo_id"] = "MITRE's own: see *there*", "facebook/esm2_t6_8M_UR50D"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = readme(open_bundle(folder), NEW)
    assert "license: other\nlicense_name: mitre-s-own-see-there\n" in text
    assert 'base_model: "facebook/esm2_t6_8M_UR50D"\n' in text
    assert "\n# abonyx-mini\n" in text and "MITRE's own: see \\*there\\*" in text


def test_a_public_repository_takes_stored_sequences_only_if_told(writable: HubServer, run: Any) -> None:
    said = run("push", MINI, f"hf:{NEW}", "--public")
    assert (
        said.code == 2 and "training_sequences.txt: contains training sequences, which everybody could read" in said.err
    )
    assert "--publish-sequences" in said.err
    assert writable.asked == []
    assert run("push", MINI, f"hf:{NEW}", "--public", "--publish-sequences").code == 0
    assert not writable.repositories[NEW].private


def test_a_repository_stays_as_public_as_it_is(writable: HubServer, run: Any, bare: Path) -> None:
    repository = writable.repositories[NEW] = Repository()
    repository.add({".gitattributes": b"", "notes.txt": b"of others"})
    said = run("push", bare, f"hf:{NEW}")
    assert said.code == 2 and f"hf:{NEW}: the repository is public" in said.err and "give --public" in said.err
    done = run("push", bare, f"hf:{NEW}", "--public")
    assert done.code == 0 and "1 files that do not belong to this bundle: notes.txt" in done.err
    repository.private = True
    said = run("push", bare, f"hf:{NEW}", "--public")
    assert said.code == 2 and "the repository is private" in said.err
    assert len(repository.commits) == 2


def test_a_damaged_bundle_is_not_pushed(writable: HubServer, run: Any, bare: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bare, folder)
    (folder / "notes.txt").write_text("mine")
    said = run("push", folder, f"hf:{NEW}")
    assert said.code == 4 and "1 files that the manifest does not list: notes.txt" in said.err
    (folder / "notes.txt").unlink()
    data = bytearray((folder / "golden.npz").read_bytes())
    data[100] ^= 1
    (folder / "golden.npz").write_bytes(data)
    said = run("push", folder, f"hf:{NEW}")
    assert said.code == 4 and "golden.npz: sha256" in said.err
    assert writable.asked == []


def test_a_push_needs_a_token_that_may_write(
    hub: HubServer, run: Any, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("push", bare, f"hf:{NEW}")
    assert said.code == 2 and "a push needs a token" in said.err
    assert hub.asked == []
    monkeypatch.setenv("HF_TOKEN", "hf_that_only_reads")
    said = run("push", bare, f"hf:{NEW}")
    assert said.code == 4 and "answers 403" in said.err and "HF_TOKEN" in said.err
    assert "hf_that_only_reads" not in said.err


@pytest.mark.parametrize("name", [f"hf:{NEW}@main", f"hf:{NEW}#sha256={SHA256}", NEW, "hf:new"])
def test_what_cannot_be_pushed_to(name: str, writable: HubServer, run: Any, bare: Path) -> None:
    said = run("push", bare, name)
    assert said.code == 2 and "hf:" in said.err.partition("\nGive ")[2]
    assert writable.asked == []


def test_offline_nothing_is_pushed(writable: HubServer, run: Any, bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = run("push", bare, f"hf:{NEW}")
    assert said.code == 2 and "HF_HUB_OFFLINE is set, which forbids" in said.err
    assert writable.asked == []


def test_what_the_hub_says_of_the_readme_is_a_note(writable: HubServer, run: Any, bare: Path) -> None:
    writable.yaml_warning = "license: unusual"
    done = run("push", bare, f"hf:{NEW}")
    assert done.code == 0 and "note: the hub says: Warnings while validating metadata" in done.err
    assert "license: unusual" in done.err and "UserWarning" not in done.err


def test_an_upload_that_breaks_says_so(writable: HubServer, run: Any, bare: Path) -> None:
    writable.repositories[NEW] = Repository(private=True)
    writable.repositories[NEW].add({".gitattributes": b""})
    writable.fail_writes = 400
    said = run("push", bare, f"hf:{NEW}")
    assert said.code == 4 and "answers 400" in said.err
    assert len(writable.repositories[NEW].commits) == 1
