"""What is given as an encoder and is none: the message says what it is, in a few lines."""

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
    assert "transformers cannot load it as an encoder: Unrecognized model" in message and "..." in message


# --- a checkpoint that is not what its config and vocabulary say: each fault is named

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
        "lacks 1 tensor of the encoder (encoder.layer.1.LayerNorm.bias), which transformers would make up",
    ),
    "frequencies are missing": (_pop(FREQUENCIES), f"lacks 1 tensor of the encoder ({FREQUENCIES})"),
    "a layer too many": (
        _put("encoder.layer.2.LayerNorm.bias", [0.0] * 32),
        "has 1 tensor of the encoder (encoder.layer.2.LayerNorm.bias), for which the model that config.json describes",
    ),
    "an unmerged adapter": (
        _put("encoder.layer.0.attention.self.query.lora_A.weight", [0.0] * 32),
        "has 1 tensor of the encoder (encoder.layer.0.attention.self.query.lora_A.weight)",
    ),
    "frequencies are not finite": (_put(FREQUENCIES, [*EIGHT[:7], np.nan]), f"{FREQUENCIES} is not finite"),
    "frequencies are infinite": (_put(FREQUENCIES, [*EIGHT[:7], np.inf]), f"{FREQUENCIES} is not finite"),
    "a norm is not finite": (
        _put("encoder.layer.1.LayerNorm.bias", [*[0.0] * 30, np.nan, np.inf]),
        "encoder.layer.1.LayerNorm.bias is not finite: 2 of its values ([nan, inf])",
    ),
    "frequencies of the wrong length": (
        _put(FREQUENCIES, EIGHT[:7]),
        f"1 tensor of the encoder ({FREQUENCIES}): not of the shape that config.json gives it, (8,)",
    ),
    "a norm of the wrong length": (
        _put("encoder.layer.1.LayerNorm.bias", EIGHT),
        "(encoder.layer.1.LayerNorm.bias): not of the shape that config.json gives it, (32,)",
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
    "relative positions": ({"position_embedding_type": "relative_key"}, "position embeddings are 'relative_key'"),
    "its own code": (
        {"auto_map": {"AutoModel": "modeling.Model"}},
        "config.json names Python code of its own (AutoModel), which abonyx does not run",
    ),
    "its own kind and code": (
        {"model_type": "esm_plus", "auto_map": {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}},
        "config.json names Python code of its own (AutoConfig, AutoModel)",
    ),
    "another padding": ({"pad_token_id": 2}, "pad token is 1 in the vocabulary and 2 in config.json"),
    "a mask that is a residue": ({"mask_token_id": 5}, "mask_token_id in config.json is 5, which is the id of A"),
    "fewer rows": ({"vocab_size": 20}, "C is token 23 of the vocabulary, the embedding has 20 rows"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads is 0 in config.json"),
    "layers in words": ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two' in config.json"),
    "a negative epsilon": ({"layer_norm_eps": -1.0}, "layer_norm_eps is -1.0 in config.json"),
    "padding without a row": ({"pad_token_id": 99}, "pad_token_id is 99 in config.json, the embedding has 33 rows"),
    "no positions": ({"max_position_embeddings": 3}, "max_position_embeddings is 3 in config.json, which leaves no"),
    "odd heads": ({"num_attention_heads": 32}, "hidden size 32 does not divide into 32 even heads"),
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
    # Which of the two says so depends on the version of transformers.
    refusal = _refused(directory)
    assert "transformers cannot load it as an encoder" in refusal or "one that needs code to be read" in refusal
    assert not (tmp_path / "ran").exists()


class _Trap:
    """Makes a file when it is unpickled."""

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
        return (print, ("executed",))


def test_weights_that_name_code_are_refused_by_its_name(tmp_path: Path, checkpoint: CheckpointMaker) -> None:
    import torch

    directory = Path(shutil.copytree(checkpoint("esm2"), tmp_path / "fault"))
    (directory / "model.safetensors").unlink()
    torch.save({"weight": _Code()}, directory / "pytorch_model.bin")
    assert "cannot be read without running code (print), which abonyx does not do" in _refused(directory)
    (directory / "pytorch_model.bin").write_bytes(b"xx" * 100)
    assert "not a PyTorch checkpoint, or one that needs code to be read" in _refused(directory)


def test_tokenizers_of_words_and_with_code(tmp_path: Path) -> None:
    """A byte-pair vocabulary that does not fit its merges fails in the tokenizers library, as a plain Exception."""
    from .test_bert import make

    directory = make(tmp_path / "checkpoint", "Roberta")
    settings = {"tokenizer_class": "Other", "auto_map": {"AutoTokenizer": ["tokens.Other", None]}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert "tokenizer_config.json names Python code of its own, which abonyx does not run" in _refused(directory)
    (directory / "vocab.txt").unlink()
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "vocab.json").write_text(json.dumps({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "A": 4, "the": 5}))
    (directory / "merges.txt").write_text("#version: 0.2\nt h\nth e\n")
    assert "transformers cannot read its tokenizer: Error while initializing BPE" in _refused(directory)
