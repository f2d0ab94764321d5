"""Meta's `.pt` files: small random models in fair-esm's layout give the numbers of fair-esm's own classes."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle, tolerances
from abonyx.errors import InputError
from abonyx_export import cli
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.encoder.vocabulary import VOCABULARY
from abonyx_export.parity import reference_embeddings

from .test_stored import SEQUENCES, Float64, graphs

esm = pytest.importorskip("esm", reason="fair-esm is not installed")
if not hasattr(esm, "ProteinBertModel"):
    pytest.skip("the package `esm` is not fair-esm", allow_module_level=True)

LAYERS, HIDDEN, HEADS = 3, 64, 4
KINDS = ("esm1v", "esm1b", "esm2")
Tensors = dict[str, torch.Tensor]


def write(path: Path, kind: str, change: Callable[[dict[str, Any]], object] = lambda content: None) -> Path:
    """Write a random model in the layout of Meta's files: half-precision weights, fairseq's names and arguments."""
    torch.manual_seed(5)
    if kind == "esm2":
        arguments = {
            "encoder_layers": LAYERS,
            "encoder_embed_dim": HIDDEN,
            "encoder_attention_heads": HEADS,
            "token_dropout": True,
        }
        alphabet = esm.data.Alphabet.from_architecture("ESM-1b")
        model = esm.model.esm2.ESM2(LAYERS, HIDDEN, HEADS, alphabet, token_dropout=True)
        content: dict[str, Any] = {"cfg": {"model": argparse.Namespace(**arguments)}}
    else:
        arguments = {
            "arch": "roberta_large",
            "layers": LAYERS,
            "embed_dim": HIDDEN,
            "ffn_embed_dim": 96,
            "attention_heads": HEADS,
            "max_positions": 200,
            "token_dropout": kind == "esm1v",
            "emb_layer_norm_before": kind == "esm1b",
        }
        alphabet = esm.data.Alphabet.from_architecture("roberta_large")
        model = esm.ProteinBertModel(argparse.Namespace(**arguments), alphabet)
        kept = ("arch", "max_positions", "token_dropout")
        theirs = {name if name in kept else f"encoder_{name}": value for name, value in arguments.items()}
        del theirs["encoder_emb_layer_norm_before"]  # fair-esm reads this from the tensors
        content = {"args": argparse.Namespace(**theirs)}
    prefix = "encoder.sentence_encoder."
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(8)
    state = {
        ("encoder." if name.startswith("lm_head") else prefix) + name: value.half()
        for name, value in model.state_dict().items()
        if not name.startswith("contact_head")
    }
    content["model"] = state
    change(content)
    torch.save(content, path)
    return path


def theirs(path: Path) -> Float64:
    """Mean over residues with fair-esm's own loader, alphabet and classes, in float64, in one padded batch."""
    content = torch.load(path, map_location="cpu", weights_only=False)
    regression = {"contact_head.regression.weight": torch.zeros(1, LAYERS * HEADS)}
    regression["contact_head.regression.bias"] = torch.zeros(1)
    model, alphabet = esm.pretrained.load_model_and_alphabet_core(path.stem, content, {"model": regression})
    _, _, tokens = alphabet.get_batch_converter()([("", sequence) for sequence in SEQUENCES])
    with torch.inference_mode():
        hidden = model.double().eval()(tokens, repr_layers=[LAYERS])["representations"][LAYERS]
    means = [hidden[row, 1 : 1 + len(sequence)].mean(dim=0) for row, sequence in enumerate(SEQUENCES)]
    found: Float64 = torch.stack(means).numpy()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_gives_fair_esms_numbers(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"{kind}_t3.pt", kind)
    loaded = load_checkpoint(str(path))
    exact = theirs(path)
    found = graphs(loaded, tmp_path)
    found["transformers"] = reference_embeddings(loaded, Alphabet(loaded.alphabet).encode(SEQUENCES))
    for name, embedding in found.items():
        assert np.abs(embedding - exact).max() <= tolerances.FP32_GOAL_P, name
    assert loaded.config.max_residues == (1022 if kind == "esm2" else 198)
    assert loaded.ignored
    assert all(name.startswith("lm_head.") for name in loaded.ignored)


def test_the_alphabet_is_fair_esms() -> None:
    assert esm.data.Alphabet.from_architecture("ESM-1b").all_toks == VOCABULARY


def test_other_forms_of_the_same_file(tmp_path: Path) -> None:
    """Torch's older format, the prefix `encoder.` alone, and names without fairseq's `encoder_`."""
    first = load_checkpoint(str(write(tmp_path / "esm1v.pt", "esm1v"))).encoder().weights_sha256
    content = torch.load(tmp_path / "esm1v.pt", weights_only=False)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(str(tmp_path / "old.pt")).encoder().weights_sha256 == first

    def rename(content: dict[str, Any]) -> None:
        content["model"] = {
            name.replace("encoder.sentence_encoder.", "encoder."): value for name, value in content["model"].items()
        }
        facts = vars(content["args"])
        content["args"] = argparse.Namespace(**{name.removeprefix("encoder_"): facts[name] for name in facts})

    renamed = write(tmp_path / "renamed.pt", "esm1v", rename)
    assert load_checkpoint(str(renamed)).encoder().weights_sha256 == first


def test_a_bundle_from_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "esm2_t3.pt", "esm2")
    asked = ["--encoder", str(path), "--variants", "fp32,fp16-weights", "-o", str(tmp_path / "bundle")]
    asked += ["--encoder-id", "facebook/esm2_t6_8M_UR50D", "--max-dp", f"fp16-weights={tolerances.TINY_FP16_P}"]
    result = CliRunner().invoke(cli.export, asked, catch_exceptions=False)
    assert result.exit_code == 0
    manifest = open_bundle(tmp_path / "bundle").manifest
    record = manifest.variants["fp32"].parity
    assert record is not None
    assert record.max_p <= tolerances.FP32_GOAL_P
    assert manifest.encoder.repo_id == "facebook/esm2_t6_8M_UR50D"
    assert manifest.encoder.positions == "rotary"
    assert manifest.licence.startswith("MIT")


# --- Files that are not such checkpoints.


def _set(where: str, **facts: object) -> Callable[[dict[str, Any]], object]:
    return lambda content: vars(content["args"] if where == "args" else content["cfg"]["model"]).update(facts)


def _pop(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["model"].pop(f"encoder.sentence_encoder.{name}")


def _put(name: str, values: list[float]) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["model"].update({f"encoder.sentence_encoder.{name}": torch.tensor(values)})


def _only_regression(content: dict[str, Any]) -> None:
    content.pop("args")
    content["model"] = {"contact_head.regression.bias": torch.zeros(1)}


FREQUENCIES = "layers.1.self_attn.rot_emb.inv_freq"
FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "ESM-1": (
        "esm1v",
        _set("args", arch="protein_bert_base"),
        "the model is protein_bert_base, not ESM-1b",
    ),
    "MSA Transformer": ("esm1v", _set("args", arch="msa_transformer"), "the model is msa_transformer, not ESM-1b"),
    "a contact regression": ("esm1v", _only_regression, "it holds keys model, but no args or cfg of a model"),
    "no layers": ("esm1v", _set("args", encoder_layers=None), "argument layers is None"),
    "no token dropout": (
        "esm2",
        lambda content: vars(content["cfg"]["model"]).pop("token_dropout"),
        "argument token_dropout is missing",
    ),
    "a norm is missing": ("esm1v", _pop("layers.1.fc1.bias"), "1 missing tensor: layers.1.fc1.bias"),
    "frequencies are missing": ("esm2", _pop(FREQUENCIES), f"1 missing tensor: {FREQUENCIES}"),
    "words are missing": ("esm2", _pop("embed_tokens.weight"), "embed_tokens.weight has 0 rows, the alphabet"),
    "a layer too many": (
        "esm2",
        _put("layers.3.fc1.bias", [0.0]),
        "1 unexpected tensor: layers.3.fc1.bias",
    ),
    "a bias of keys": (
        "esm1v",
        _put("layers.0.self_attn.bias_k", [0.0]),
        "1 unexpected tensor: layers.0.self_attn.bias_k",
    ),
    "frequencies of the wrong length": ("esm2", _put(FREQUENCIES, [1.0]), "the tensors do not fit the arguments: "),
    "frequencies are not finite": (
        "esm2",
        _put(FREQUENCIES, [1.0, 0.5, 0.25, float("nan"), 0.1, 0.1, 0.1, 0.1]),
        "encoder.layer.1.attention.self.rotary_embeddings.inv_freq has 1 values that are not finite",
    ),
    "heads that do not divide": ("esm2", _set("cfg", encoder_attention_heads=5), "cannot be split into 5 heads"),
}


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(path))
    assert caught.value.fix
    assert len(str(caught.value)) < 1_000
    assert "\n" not in caught.value.what
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_files_at_fault(fault: str, tmp_path: Path) -> None:
    kind, change, message = FAULTS[fault]
    assert message in refused(write(tmp_path / "esm.pt", kind, change))


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x80\x04junk", b"PK\x03\x04" + bytes(100), bytes(5000)])
def test_bytes_that_are_not_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "esm.pt").write_bytes(content)
    assert "esm.pt: not a PyTorch checkpoint" in refused(tmp_path / "esm.pt")


def test_a_truncated_file(tmp_path: Path) -> None:
    path = write(tmp_path / "esm.pt", "esm1v")
    path.write_bytes(path.read_bytes()[:-1000])
    assert "esm.pt: not a PyTorch checkpoint" in refused(path)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "ran")}, tmp_path / "esm.pt")
    assert f"reading it would run code ({os.name}.mkdir), which abonyx" in refused(tmp_path / "esm.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Trap(tmp_path / "ran"), protocol=2))
    refused(tmp_path / "plain.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), {"model": {"a": 1}}, {"state_dict": {}}])
def test_checkpoints_of_something_else(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "esm.pt")
    assert "esm.pt: not a checkpoint of fair-esm: it holds" in refused(tmp_path / "esm.pt")
