"""BERT and RoBERTa encoders: norms after the blocks, token types, positions from 0 or from the padding's id."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from click.testing import CliRunner

import abonyx
from abonyx.alphabet import Alphabet
from abonyx.batching import make_inputs
from abonyx.bundle import open_bundle, tolerances
from abonyx.errors import InputError
from abonyx_export import cli
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder.cuda_graph import CUDA_INPUTS, write_cuda_encoder
from abonyx_export.encoder.graph import ENCODER_INPUTS, write_encoder
from abonyx_export.export import export_bundle
from abonyx_export.parity import reference_embeddings
from abonyx_export.request import ExportRequest

from ..conftest import HeadMaker
from ..test_export import PORTABLE_OPS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# The vocabulary of AntiBERTy, without X; and that of ProtBert and IgBert, with more tokens in another order.
WITHOUT_X = [*SPECIAL, *"ACDEFGHIKLMNPQRSTVWY"]
WITH_X = [*SPECIAL, *"LAGVESIKRDTPNQFYMHCWXUBZO"]
SEQUENCES = ["EVQLVESGGGLVQPGRSLRLSCAASGFTF", "QVQLQSGAEVKKPGASVKVSCKASGYTFTSYWMHWVRQAPGQGLEWIGR", "DIQMTQSPSS"]
Float64 = np.ndarray[Any, np.dtype[np.float64]]


def make(
    directory: Path,
    kind: str = "Bert",
    suffix: str = "Model",
    vocabulary: list[str] = WITHOUT_X,
    half: bool = False,
    **facts: Any,
) -> Path:
    """A random encoder, with attention and biases as large as in a trained encoder."""
    torch.manual_seed(2)
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": len(vocabulary),
            "hidden_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "max_position_embeddings": 140,
            "pad_token_id": vocabulary.index("[PAD]"),
            "type_vocab_size": 2,
        }
        | facts
    )
    model = getattr(transformers, f"{kind}{suffix}")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.mul_(8 if name.endswith(("query.weight", "key.weight")) else 1)
    (model.half() if half else model).save_pretrained(directory)
    write_vocabulary(directory, vocabulary)
    return directory


def write_vocabulary(directory: Path, vocabulary: list[str], **facts: object) -> None:
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    settings = {"do_lower_case": False, "tokenizer_class": "BertTokenizer"} | facts
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def independent(directory: Path) -> Float64:
    """Mean over residues by transformers in float64, from text with spaces, in one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).double().eval()
    batch = tokenizer([" ".join(sequence) for sequence in SEQUENCES], return_tensors="pt", padding=True)
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    rows = [hidden[row, 1 : 1 + len(sequence)].mean(dim=0) for row, sequence in enumerate(SEQUENCES)]
    means: Float64 = torch.stack(rows).numpy()
    return means


def check(directory: Path, tmp_path: Path) -> Checkpoint:
    """Check that the graph and export's reference give the independent numbers."""
    import onnxruntime

    loaded = load_checkpoint(str(directory))
    exact = independent(directory)
    rows = Alphabet(loaded.alphabet).encode(SEQUENCES)
    write_encoder(loaded.config, loaded.tensor, tmp_path / "model.onnx")
    write_cuda_encoder(loaded.config, loaded.tensor, tmp_path / "cuda.onnx", arithmetic=np.float32)
    for name, inputs in (("model", ENCODER_INPUTS), ("cuda", CUDA_INPUTS)):
        session = onnxruntime.InferenceSession(str(tmp_path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        found = session.run(["embedding"], make_inputs(rows, inputs, loaded.alphabet.pad_id))[0]
        assert np.abs(found - exact).max() <= tolerances.FP32_GOAL_P, name
    assert np.abs(reference_embeddings(loaded, rows) - exact).max() <= tolerances.FP32_GOAL_P
    return loaded


MOVED = [*WITH_X[1:4], "[PAD]", *WITH_X[4:]]
MOVED.insert(0, "[UNK2]")
CASES: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert with X": {"vocabulary": WITH_X},
    "bert, padding is 4": {"vocabulary": MOVED},
    "roberta": {"kind": "Roberta"},
    "roberta, padding is 4": {"kind": "Roberta", "vocabulary": MOVED},
    "epsilon": {"layer_norm_eps": 0.05},
    "one token type": {"type_vocab_size": 1},
    "a language model": {"suffix": "ForMaskedLM"},
    "a classifier": {"suffix": "ForSequenceClassification", "kind": "Roberta"},
    "half precision": {"half": True},
    "dropout": {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_gives_transformers_numbers(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    loaded = check(make(tmp_path / "checkpoint", **case), tmp_path)
    vocabulary = case.get("vocabulary", WITHOUT_X)
    pad = vocabulary.index("[PAD]")
    assert loaded.config.max_residues == 140 - 2 - (pad + 1 if "kind" in case else 0)
    assert ("X" in loaded.alphabet.residues) == ("X" in vocabulary)
    assert loaded.alphabet.residues["W"] == vocabulary.index("W")
    assert loaded.ignored if "suffix" in case else all(name.startswith("pooler") for name in loaded.ignored)
    assert {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node} <= PORTABLE_OPS


HALVES = ("fp16", "fp16-weights", "cuda-fp16")


@pytest.mark.parametrize(("kind", "layers"), [("Bert", ("embedding", "last")), ("Roberta", ("last",))])
def test_a_bundle(
    kind: str, layers: tuple[str, ...], tmp_path: Path, spread_head: HeadMaker, sequences: list[str]
) -> None:
    """Every position is compared: the longest row has 138 residues, or 137 if the padding's id comes first."""
    directory = make(tmp_path / "checkpoint", kind)
    head = spread_head(directory, layers)
    asked = ExportRequest(
        encoder=str(directory),
        heads=(("nonspecificity", head),),
        output=tmp_path / "bundle",
        pooled_layers=layers,
        variants=("fp32", *HALVES),
        max_dp=dict.fromkeys(HALVES, tolerances.TINY_FP16_P),
    )
    manifest = export_bundle(asked)
    assert manifest.encoder.architecture == kind.lower()
    record = manifest.variants["fp32"].parity
    assert record is not None
    assert record.max_p <= tolerances.FP32_GOAL_P
    graph = onnx.load(tmp_path / "bundle" / "cuda-fp16" / "model.onnx", load_external_data=False).graph
    fused = Counter(node.op_type for node in graph.node if node.domain == "com.microsoft")
    assert fused == {"SkipLayerNormalization": 6, "BiasGelu": 3, "MultiHeadAttention": 3}
    longest = 138 if kind == "Bert" else 137
    assert open_bundle(tmp_path / "bundle").manifest.max_residues == longest
    with abonyx.open_session(abonyx.RuntimeConfig(bundle=str(tmp_path / "bundle"))) as session:
        assert np.isfinite(session.score([(sequences[0] * 2)[:longest]])).all()
        with pytest.raises(InputError, match=r"X \(unknown residue\) at position 3: this bundle's encoder has"):
            session.score(["EVX" + sequences[0][3:]])


def test_x_is_refused_in_a_file_with_its_place(tmp_path: Path) -> None:
    from abonyx.cli.embed import embed

    make(tmp_path / "checkpoint")
    CliRunner().invoke(
        cli.export,
        ["--encoder", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "bundle"), "--variants", "fp32"],
        catch_exceptions=False,
    )
    (tmp_path / "in.csv").write_text("id,sequence\na,EVQLVESGG\nb,EVQLVXSGG\n")
    arguments = [str(tmp_path / "in.csv"), "--bundle", str(tmp_path / "bundle"), "-o", str(tmp_path / "out.npy")]
    result = CliRunner().invoke(embed, arguments)
    assert "in.csv:3: b: X (unknown residue) at position 6: this bundle's encoder has no token for X" in str(
        result.exception
    )


WORDS = [*SPECIAL, *"ACDEFGHIKLMNPQRSTVWY", "the", "##ing"]
FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "relative positions": (
        {"position_embedding_type": "relative_key"},
        {},
        "position embeddings 'relative_key' are not supported",
    ),
    "a decoder": ({"is_decoder": True}, {}, "is_decoder is True in config.json"),
    "another activation": ({"hidden_act": "gelu_new"}, {}, "hidden_act 'gelu_new' is not supported"),
    "words": ({"vocabulary": WORDS}, {}, "2 of 27 tokens are words (##ing, the)"),
    "lower case": ({}, {"do_lower_case": True}, "the tokenizer reads A C D E F G H I K L M N P Q R S T V W Y as"),
    "no W": ({"vocabulary": [token for token in WITH_X if token != "W"]}, {}, "no token for W"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_refused(fault: str, tmp_path: Path) -> None:
    facts, settings, message = FAULTS[fault]
    directory = make(tmp_path / "checkpoint", **facts)
    write_vocabulary(directory, facts.get("vocabulary", WITHOUT_X), **settings)
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(directory))
    assert message in str(caught.value)
    assert caught.value.fix


@pytest.mark.parametrize("name", ["encoder.layer.1.output.LayerNorm.bias", "embeddings.token_type_embeddings.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    directory = make(tmp_path / "checkpoint", suffix="ForMaskedLM")
    tensors = load_file(directory / "model.safetensors")
    del tensors[f"bert.{name}"]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError) as caught:
        load_checkpoint(str(directory))
    assert f"missing: 1 tensor of the encoder ({name})" in str(caught.value)
