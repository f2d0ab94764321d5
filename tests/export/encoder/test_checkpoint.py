"""What is given as an encoder and is none: the message says what it is, in a few lines."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from abonyx.errors import InputError
from abonyx_export.encoder.checkpoint import load_checkpoint

from ..conftest import CheckpointMaker


def _refused(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(source))
    assert caught.value.fix and len(str(caught.value)) < 1_000 and "\n" not in caught.value.what
    return str(caught.value)


def _adapter(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    facts = {"peft_type": "LORA", "base_model_name_or_path": "some/esm", "r": 8}
    (directory / "adapter_config.json").write_text(json.dumps(facts))
    (directory / "adapter_model.safetensors").write_bytes(bytes(8))
    return directory


def test_an_adapter_is_to_be_merged_first(tmp_path: Path) -> None:
    message = _refused(_adapter(tmp_path / "lora"))
    assert "is a PEFT adapter (LoRA, say), not a whole model" in message
    assert "merge_and_unload().save_pretrained(MERGED)" in message


def test_an_adapter_beside_a_whole_model_is_refused_until_it_is_moved_away(
    tmp_path: Path, checkpoint: CheckpointMaker
) -> None:
    """transformers loads another model than the weights that are there, if peft is installed."""
    both = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "both"))
    assert "If the weights here are merged already, move adapter_config.json away" in _refused(_adapter(both))
    (both / "adapter_config.json").unlink()
    assert load_checkpoint(str(both)).config.layers == 2


def test_an_adapter_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise EntryNotFoundError.__new__(
            EntryNotFoundError
        )  # its arguments differ between versions of the hub's client

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nAnd more.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    message = _refused("some/lora")
    assert "has no config.json" in message and "merge_and_unload()" in message
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    message = _refused("some/lora")
    assert "LocalEntryNotFoundError: Cannot reach the hub.\n" in message and "merge" not in message


def test_what_transformers_says_is_cut(tmp_path: Path) -> None:
    """It lists the names of all its models."""
    (tmp_path / "config.json").write_text("{}")
    message = _refused(tmp_path)
    assert "transformers cannot load it as an ESM encoder: Unrecognized model" in message and "..." in message
