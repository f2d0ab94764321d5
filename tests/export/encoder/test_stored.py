"""Export uses a checkpoint's values as they are stored: the table "From the checkpoint" in docs/export.md.

The reference here is loaded by transformers' Auto classes. It computes in float64, reads text with the checkpoint's own
tokenizer, and takes padded batches. So it shares neither code nor arithmetic with the graphs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from abonyx.alphabet import Alphabet
from abonyx.arrays import Float32Array
from abonyx.batching import make_inputs
from abonyx.bundle import tolerances
from abonyx_export.encoder.checkpoint import Checkpoint, load_checkpoint
from abonyx_export.encoder.config import inverse_frequency_name
from abonyx_export.encoder.cuda_graph import CUDA_INPUTS, write_cuda_encoder
from abonyx_export.encoder.graph import ENCODER_INPUTS, write_encoder
from abonyx_export.encoder.vocabulary import VOCABULARY
from abonyx_export.int8.quantization import Plan
from abonyx_export.parity import reference_embeddings
from make_checkpoint import Shape, make_checkpoint

LAYERS = 3
SHAPES = {
    "esm1v": Shape(LAYERS, 64, 4),
    "esm1b": Shape(LAYERS, 64, 4, emb_layer_norm_before=True),
    "esm2": Shape(LAYERS, 64, 4, positions="rotary"),
    "no-dropout": Shape(LAYERS, 64, 4, token_dropout=False),
}
SEQUENCES = ["EVQLVESGGGLVQPGRSLRLSCAASGFTF", "QVQLXQSGAEVKKPGASVKVSCKASGYTFTSYWMHWVRQAPGQGLEWIGR", "DIQMTQSPSS"]
Float64 = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Make a checkpoint of a shape, with changed tensors and config.json."""

    def make_one(
        name: str = "esm2",
        change: Callable[[dict[str, torch.Tensor]], None] = lambda tensors: None,
        **facts: object,
    ) -> Path:
        directory = tmp_path / "checkpoint"
        make_checkpoint(SHAPES[name], directory, seed=11)
        edit(directory, _sharpen)
        edit(directory, change, **facts)
        return directory

    return make_one


def edit(directory: Path, change: Callable[[dict[str, torch.Tensor]], None], **facts: object) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | facts))


def _sharpen(tensors: dict[str, torch.Tensor]) -> None:
    """Make attention as sharp as in a trained model. With random weights it is uniform and ignores positions."""
    for name, values in tensors.items():
        if name.endswith(("query.weight", "key.weight")):
            values.mul_(16)


def independent(directory: Path, model: Any = None) -> Float64:
    """Mean over residues by transformers in float64, from text, in one padded batch."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    if model is None:
        model = transformers.AutoModel.from_pretrained(directory, add_pooling_layer=False, dtype=torch.float32)
    model = model.double().eval()
    batch = tokenizer(SEQUENCES, return_tensors="pt", padding=True)
    with torch.inference_mode():
        hidden = model(**batch).last_hidden_state
    rows = [hidden[row, 1 : 1 + len(sequence)].mean(dim=0) for row, sequence in enumerate(SEQUENCES)]
    means: Float64 = torch.stack(rows).numpy()
    return means


def graphs(loaded: Checkpoint, folder: Path) -> dict[str, Float32Array]:
    """Embeddings of the padded batch by each kind of graph, all in float32."""
    import onnxruntime

    found = {}
    for kind in ("portable", "int8", "cuda"):
        path = folder / f"{kind}.onnx"
        if kind == "cuda":
            write_cuda_encoder(loaded.config, loaded.tensor, path, arithmetic=np.float32)
        else:  # int8's graph without a product in int8
            write_encoder(
                loaded.config, loaded.tensor, path, plan=Plan([{}] * loaded.config.layers) if kind == "int8" else None
            )
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        names = CUDA_INPUTS if kind == "cuda" else ENCODER_INPUTS
        rows = Alphabet(loaded.alphabet).encode(SEQUENCES)
        found[kind] = session.run(["embedding"], make_inputs(rows, names, loaded.alphabet.pad_id))[0]
    return found


def check(directory: Path, tmp_path: Path, model: Any = None) -> Checkpoint:
    """Check that every graph, and the reference of export, give the independent numbers."""
    loaded = load_checkpoint(str(directory))
    exact = independent(directory, model)
    reference = reference_embeddings(loaded, Alphabet(loaded.alphabet).encode(SEQUENCES))
    assert np.abs(reference - exact).max() <= tolerances.FP32_GOAL_P
    for kind, found in graphs(loaded, tmp_path).items():
        assert np.abs(found - exact).max() <= tolerances.FP32_GOAL_P, kind
    return loaded


@pytest.mark.parametrize("name", SHAPES)
def test_every_kind_of_esm(name: str, make: Callable[..., Path], tmp_path: Path) -> None:
    """Token dropout, emb_layer_norm_before and both kinds of positions."""
    check(make(name), tmp_path)


def round_frequencies(tensors: dict[str, torch.Tensor]) -> None:
    """Released checkpoints have frequencies rounded to float16. bfloat16 makes a visible change within 60 residues."""
    for index in range(LAYERS):
        name = inverse_frequency_name(index)
        tensors[name] = tensors[name].bfloat16().float()


def test_frequencies_that_the_checkpoint_rounded(make: Callable[..., Path], tmp_path: Path) -> None:
    """Every released ESM-2 is like this. Frequencies that are equal in all layers are in the graph once."""
    plain = independent(make())
    directory = make(change=round_frequencies)
    assert np.abs(independent(directory) - plain).max() > 10 * tolerances.FP32_GOAL_P  # or this test could not fail
    check(directory, tmp_path)
    for kind in ("portable", "int8", "cuda"):
        graph = onnx.load(tmp_path / f"{kind}.onnx", load_external_data=False).graph
        assert sum(tensor.name.startswith("rotary") for tensor in graph.initializer) == 2


def test_frequencies_that_differ_between_layers(make: Callable[..., Path], tmp_path: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[inverse_frequency_name(0)] *= 1.5
        tensors[inverse_frequency_name(2)] *= 0.5

    directory = make(change=change)
    if "rotary_embeddings.inv_freq" in dict(transformers.AutoModel.from_pretrained(directory).named_buffers()):
        pytest.skip("this version of transformers has one table for all layers")
    check(directory, tmp_path)
    graph = onnx.load(tmp_path / "portable.onnx", load_external_data=False).graph
    assert sum(tensor.name.startswith("rotary") for tensor in graph.initializer) == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_checkpoint_in_half_precision(dtype: torch.dtype, make: Callable[..., Path], tmp_path: Path) -> None:
    """The stored values are used and computed with in float32; float32 frequencies are not rounded."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, values in tensors.items():
            tensors[name] = values if name.endswith("inv_freq") else values.to(dtype)

    loaded = check(make(change=change, torch_dtype=str(dtype).removeprefix("torch.")), tmp_path)
    stored = load_file(tmp_path / "checkpoint" / "model.safetensors")
    for name in loaded.config.tensor_names():
        assert np.array_equal(loaded.tensor(name), stored[name].float().numpy()), name


def test_a_checkpoint_in_shards(make: Callable[..., Path], tmp_path: Path) -> None:
    directory = make()
    exact = independent(directory)
    model = transformers.EsmModel.from_pretrained(directory, add_pooling_layer=False)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory, max_shard_size="100KB")
    assert len(list(directory.glob("model-*.safetensors"))) > 2
    check(directory, tmp_path)
    assert np.array_equal(independent(directory), exact)


def test_a_checkpoint_in_a_bin_file(make: Callable[..., Path], tmp_path: Path) -> None:
    directory = make("esm1b")
    exact = independent(directory)
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    check(directory, tmp_path)
    assert np.array_equal(independent(directory), exact)


@pytest.mark.parametrize("kind", ["EsmForMaskedLM", "EsmForSequenceClassification", "EsmForTokenClassification"])
def test_models_with_a_head_lose_it(kind: str, make: Callable[..., Path], tmp_path: Path) -> None:
    """Names have the prefix `esm.`; the language model's output matrix is the word embedding, stored once."""
    directory = make()
    config = transformers.AutoConfig.from_pretrained(directory)
    torch.manual_seed(3)
    whole = getattr(transformers, kind)(config).eval()
    whole.save_pretrained(directory)
    assert "esm.embeddings.word_embeddings.weight" in load_file(directory / "model.safetensors")
    loaded = check(directory, tmp_path, whole.esm)
    assert loaded.ignored
    assert all(name.startswith(("lm_head", "classifier")) for name in loaded.ignored)


def test_a_vocabulary_in_another_order(make: Callable[..., Path], tmp_path: Path) -> None:
    """Ids come from vocab.txt, and positions start one above the padding's id."""
    directory = make("esm1v")
    order = np.random.default_rng(0).permutation(len(VOCABULARY))
    names = [VOCABULARY[index] for index in order]
    (directory / "vocab.txt").write_text("\n".join(names) + "\n")
    pad = names.index("<pad>")
    assert pad != 1
    edit(directory, lambda tensors: None, pad_token_id=pad, mask_token_id=names.index("<mask>"))
    loaded = check(directory, tmp_path)
    assert loaded.alphabet.residues["A"] == names.index("A")
    assert loaded.config.max_residues == 1026 - (pad + 1) - 2


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param({"layer_norm_eps": 0.05}, id="layer_norm_eps"),
        pytest.param({"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5}, id="dropout"),
        pytest.param({"max_position_embeddings": 1026, "chunk_size_feed_forward": 7}, id="chunks"),
    ],
)
def test_numbers_of_the_config(facts: dict[str, object], make: Callable[..., Path], tmp_path: Path) -> None:
    check(make("esm1b", **facts), tmp_path)


def test_another_width_of_the_feed_forward(make: Callable[..., Path], tmp_path: Path) -> None:
    directory = make("esm1v")
    config = transformers.AutoConfig.from_pretrained(directory, intermediate_size=96)
    torch.manual_seed(3)
    transformers.EsmModel(config, add_pooling_layer=False).save_pretrained(directory)
    check(directory, tmp_path)


def test_buffers_of_earlier_versions_and_contacts_are_ignored(make: Callable[..., Path], tmp_path: Path) -> None:
    """Earlier versions store `position_ids`. Rotary checkpoints have a position table, like the released ones."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embeddings.position_ids"] = torch.arange(1026)[None].flip(-1).contiguous()
        tensors["embeddings.position_embeddings.weight"] = torch.randn(1026, 64)
        for name in ("contact_head.regression.weight", "contact_head.regression.bias"):
            tensors.pop(name, None)

    loaded = check(make(change=change), tmp_path)
    assert loaded.ignored == ()


def test_max_residues_follows_from_the_position_table(make: Callable[..., Path]) -> None:
    directory = make("esm1v", lambda tensors: _cut(tensors, 200), max_position_embeddings=200)
    assert load_checkpoint(str(directory)).config.max_residues == 200 - 2 - 2


def _cut(tensors: dict[str, torch.Tensor], rows: int) -> None:
    name = "embeddings.position_embeddings.weight"
    tensors[name] = tensors[name][:rows].clone()


def test_weights_sha256_covers_the_frequencies(make: Callable[..., Path], tmp_path: Path) -> None:
    directory = make()
    plain = load_checkpoint(str(directory)).encoder().weights_sha256
    again = Path(shutil.copytree(directory, tmp_path / "again"))
    assert load_checkpoint(str(again)).encoder().weights_sha256 == plain
    edit(again, round_frequencies)
    assert load_checkpoint(str(again)).encoder().weights_sha256 != plain
