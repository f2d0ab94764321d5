"""Inputs that are not encoders: the message says in a few lines what they are."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from abonyx.errors import InputError
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.encoder.vocabulary import VOCABULARY

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


def test_an_adapter_must_be_merged_first(tmp_path: Path) -> None:
    message = _refused(_adapter(tmp_path / "lora"))
    assert "this is a PEFT adapter (e.g. LoRA), not a whole model" in message
    assert "merge_and_unload().save_pretrained(MERGED)" in message


def test_an_adapter_beside_a_whole_model_is_refused_until_it_is_moved_away(
    tmp_path: Path, checkpoint: CheckpointMaker
) -> None:
    """If peft is installed, transformers loads another model than the weights in the directory."""
    both = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "both"))
    assert "If the weights here are already merged, move adapter_config.json away" in _refused(_adapter(both))
    (both / "adapter_config.json").unlink()
    assert load_checkpoint(str(both)).config.layers == 2


def test_an_adapter_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise EntryNotFoundError.__new__(
            EntryNotFoundError
        )  # the arguments differ between versions of the hub's client

    def offline(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("Cannot reach the hub.\nAnd more.")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", missing)
    message = _refused("some/lora")
    assert "has no config.json" in message and "merge_and_unload()" in message
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    message = _refused("some/lora")
    assert "LocalEntryNotFoundError: Cannot reach the hub.\n" in message and "merge" not in message


def test_a_long_message_of_transformers_is_cut(tmp_path: Path) -> None:
    """The message lists the names of all its models."""
    (tmp_path / "config.json").write_text("{}")
    message = _refused(tmp_path)
    assert "transformers cannot load it as an encoder: Unrecognized model" in message and "..." in message


# --- A checkpoint that does not fit its config and vocabulary: each fault is named.

Tensors = dict[str, Any]
FREQUENCIES = "encoder.layer.1.attention.self.rotary_embeddings.inv_freq"


def _pop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def _put(name: str, values: list[float]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.array(values, np.float32)})


EIGHT = [1.0, 0.5, 0.25, 0.125, 0.1, 0.05, 0.02, 0.01]
TENSOR_FAULTS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a norm is missing": (
        _pop("encoder.layer.1.LayerNorm.bias"),
        "missing: 1 tensor of the encoder (encoder.layer.1.LayerNorm.bias); transformers would use random values",
    ),
    "frequencies are missing": (_pop(FREQUENCIES), f"missing: 1 tensor of the encoder ({FREQUENCIES})"),
    "a layer too many": (
        _put("encoder.layer.2.LayerNorm.bias", [0.0] * 32),
        "unexpected: 1 tensor of the encoder (encoder.layer.2.LayerNorm.bias); the model in config.json has no such",
    ),
    "an unmerged adapter": (
        _put("encoder.layer.0.attention.self.query.lora_A.weight", [0.0] * 32),
        "unexpected: 1 tensor of the encoder (encoder.layer.0.attention.self.query.lora_A.weight)",
    ),
    "frequencies are not finite": (
        _put(FREQUENCIES, [*EIGHT[:7], np.nan]),
        f"{FREQUENCIES} has 1 values that are not finite",
    ),
    "frequencies are infinite": (_put(FREQUENCIES, [*EIGHT[:7], np.inf]), f"{FREQUENCIES} has 1 values that are not"),
    "a norm is not finite": (
        _put("encoder.layer.1.LayerNorm.bias", [*[0.0] * 30, np.nan, np.inf]),
        "encoder.layer.1.LayerNorm.bias has 2 values that are not finite ([nan, inf])",
    ),
    "frequencies of the wrong length": (
        _put(FREQUENCIES, EIGHT[:7]),
        f"1 tensor of the encoder ({FREQUENCIES}): the shape is not (8,), as config.json requires",
    ),
    "a norm of the wrong length": (
        _put("encoder.layer.1.LayerNorm.bias", EIGHT),
        "(encoder.layer.1.LayerNorm.bias): the shape is not (32,), as config.json requires",
    ),
}


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_tensors_at_fault_are_named(fault: str, tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    from safetensors.numpy import load_file, save_file

    change, message = TENSOR_FAULTS[fault]
    directory = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "fault"))
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    assert message in _refused(directory)


CONFIG_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "a decoder": ({"is_decoder": True}, "is_decoder is True in config.json"),
    "ESMFold": ({"is_folding_model": True}, "is_folding_model is True"),
    "pruned": ({"pruned_heads": {"0": [1]}}, "pruned_heads is set in config.json"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantization_config is set"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "position embeddings 'relative_key' are not"),
    "its own code": (
        {"auto_map": {"AutoModel": "modeling.Model"}},
        "config.json needs Python code of the checkpoint (AutoModel), which abonyx never runs",
    ),
    "its own kind and code": (
        {"model_type": "esm_plus", "auto_map": {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}},
        "config.json needs Python code of the checkpoint (AutoConfig, AutoModel)",
    ),
    "another padding": ({"pad_token_id": 2}, "the pad token is 1 in the vocabulary, but 2 in config.json"),
    "a mask that is a residue": ({"mask_token_id": 5}, "mask_token_id in config.json is 5, which is the id of A"),
    "fewer rows": ({"vocab_size": 20}, "the id of C is 23, but the embedding has only 20 rows"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads is 0 in config.json"),
    "layers in words": ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two' in config.json"),
    "a negative epsilon": ({"layer_norm_eps": -1.0}, "layer_norm_eps is -1.0 in config.json"),
    "padding without a row": ({"pad_token_id": 99}, "pad_token_id is 99 in config.json, but the embedding has 33 rows"),
    "no positions": ({"max_position_embeddings": 3}, "max_position_embeddings is 3 in config.json, too few"),
    "odd heads": ({"num_attention_heads": 32}, "hidden size 32 cannot be split into 32 heads of an even width"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_config_at_fault_is_refused(fault: str, tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    facts, message = CONFIG_FAULTS[fault]
    directory = Path(shutil.copytree(checkpoint("esm1v"), tmp_path / "fault"))
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | facts))
    assert message in _refused(directory)


def test_two_residues_of_one_id_are_refused(tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    directory = Path(shutil.copytree(checkpoint("esm1v"), tmp_path / "fault"))
    (directory / "added_tokens.json").write_text(json.dumps({"C": VOCABULARY.index("A")}))
    assert f"the tokenizer gives A and C the same id, {VOCABULARY.index('A')}" in _refused(directory)


def test_a_vocabulary_without_a_residue_is_refused(tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    directory = Path(shutil.copytree(checkpoint("esm1v"), tmp_path / "fault"))
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY).replace("\nW\n", "\nw\n"))
    assert "no token for W" in _refused(directory)


def test_weights_that_are_code_are_not_run(tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    directory = Path(shutil.copytree(checkpoint("esm1v"), tmp_path / "fault"))
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(tmp_path / "ran")))
    # Which of these two messages appears depends on the version of transformers.
    refusal = _refused(directory)
    assert (
        "transformers cannot load it as an encoder" in refusal or "one that can only be read by running code" in refusal
    )
    assert not (tmp_path / "ran").exists()


class _Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


FILE_FAULTS: dict[str, tuple[str, bytes | None, str]] = {
    "no config": ("config.json", None, "has no config.json"),
    "no vocabulary": ("vocab.txt", None, "has no vocab.txt"),
    "a binary vocabulary": ("vocab.txt", bytes([255, 254, 0]) * 9, "transformers cannot read its tokenizer: 'utf-8'"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_files_at_fault_are_named(fault: str, tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    name, content, message = FILE_FAULTS[fault]
    directory = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "fault"))
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    assert message in _refused(directory)


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("",))  # not print: Ray puts another function in its place


def test_weights_that_name_code_are_refused_by_its_name(tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    import torch

    directory = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "fault"))
    (directory / "model.safetensors").unlink()
    torch.save({"weight": _Code()}, directory / "pytorch_model.bin")
    assert "reading it would run code (exec), which abonyx never does" in _refused(directory)
    (directory / "pytorch_model.bin").write_bytes(b"xx" * 100)
    assert "not a PyTorch checkpoint, or one that can only be read by running code" in _refused(directory)


def test_tokenizers_of_words_and_with_code(tmp_path: Path) -> None:
    """If the merges do not fit a byte-pair vocabulary, the tokenizers library raises a plain Exception."""
    from .test_bert import make

    directory = make(tmp_path / "checkpoint", "Roberta")
    settings = {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["tokens.Other", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "tokenizer_config.json needs Python code from the checkpoint, which abonyx never runs" in _refused(directory)
    (directory / "vocab.txt").unlink()
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "A": 4, "the": 5}))
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    assert "transformers cannot read its tokenizer: Error while initializing BPE" in _refused(directory)
