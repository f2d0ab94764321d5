"""Pooled layers by name and by number, in every graph, compared with transformers' hidden states in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from abonyx.alphabet import Alphabet
from abonyx.bundle import open_bundle, tolerances
from abonyx.errors import ConfigError
from abonyx_export.encoder.checkpoint import load_checkpoint
from abonyx_export.encoder.config import pooled_names
from abonyx_export.export import export_bundle
from abonyx_export.parity import reference_embeddings
from abonyx_export.request import ExportRequest
from make_checkpoint import Shape, make_checkpoint

from ..conftest import HeadMaker
from . import test_bert
from .test_stored import SEQUENCES, graphs

LAYERS = 4
ESM = {
    "esm1b": Shape(LAYERS, 32, 2, emb_layer_norm_before=True),
    "esm2": Shape(LAYERS, 32, 2, positions="rotary"),
}


def make(name: str, directory: Path) -> Path:
    if name in ESM:
        make_checkpoint(ESM[name], directory, seed=4)
        return directory
    return test_bert.make(directory, name, num_hidden_layers=LAYERS, vocabulary=test_bert.WITH_X)


def hidden_states(directory: Path) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """Mean over residues of the embedding and of each layer's output, computed by transformers from text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32).double().eval()
    batch = tokenizer([" ".join(sequence) for sequence in SEQUENCES], return_tensors="pt", padding=True)
    outputs: list[torch.Tensor] = []
    for layer in model.encoder.layer:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.inference_mode():
        found = model(**batch, output_hidden_states=True)
    states = found.hidden_states
    for state, output in zip(states[1:-1], outputs[:-1], strict=True):
        assert torch.equal(state, output)  # layer number N is the output of the Nth layer
    assert torch.equal(states[-1], found.last_hidden_state)
    return [
        torch.stack([state[row, 1 : 1 + len(text)].mean(dim=0) for row, text in enumerate(SEQUENCES)]).numpy()
        for state in states
    ]


@pytest.mark.parametrize("name", [*ESM, "Bert", "Roberta"])
def test_every_graph_gives_transformers_hidden_states(name: str, tmp_path: Path) -> None:
    directory = make(name, tmp_path / "checkpoint")
    states = hidden_states(directory)
    loaded = load_checkpoint(str(directory), pooled_layers=("2", "0", "4", "1"))
    assert loaded.config.pooled_layers == ("2", "embedding", "last", "1")
    exact = np.concatenate([states[index] for index in (2, 0, 4, 1)], axis=1)
    reference = reference_embeddings(loaded, Alphabet(loaded.alphabet).encode(SEQUENCES))
    assert np.abs(reference - exact).max() <= tolerances.FP32_GOAL_P
    for kind, found in graphs(loaded, tmp_path).items():
        assert np.abs(found - exact).max() <= tolerances.FP32_GOAL_P, kind


@pytest.mark.parametrize("name", ["esm2", "Bert"])
def test_a_bundle_of_numbers(name: str, tmp_path: Path, spread_head: HeadMaker) -> None:
    directory = make(name, tmp_path / "checkpoint")
    variants = ("fp32", "fp16", "fp16-weights", "cuda-fp16")
    asked = ExportRequest(
        encoder=str(directory),
        heads=(("nonspecificity", spread_head(directory, ("1", "3"))),),
        output=tmp_path / "bundle",
        pooled_layers=("1", "3"),
        variants=variants,
        max_dp=dict.fromkeys(variants[1:], tolerances.TINY_FP16_P),
    )
    export_bundle(asked)
    manifest = open_bundle(tmp_path / "bundle").manifest
    assert manifest.pooled_layers == ["1", "3"]
    assert manifest.embedding_width == 2 * manifest.encoder.hidden
    record = manifest.variants["fp32"].parity
    assert record is not None
    assert record.max_p <= tolerances.FP32_GOAL_P


REFUSED = {
    ("4", "34"): "the encoder has 33 layers, but no layer '34'",
    ("-1",): "the encoder has 33 layers, but no layer '-1'",
    ("first",): "the encoder has 33 layers, but no layer 'first'",
    ("4", "last", "4"): "4 and 4 are the same layer (of 33)",
    ("33", "last"): "33 and last are the same layer (of 33)",
    ("embedding", "0"): "embedding and 0 are the same layer (of 33)",
    ("04", "4"): "04 and 4 are the same layer (of 33)",
    (): "no layer is named",
}


@pytest.mark.parametrize("given", REFUSED)
def test_layers_that_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        pooled_names(given, 33)
    assert str(caught.value).startswith(f"pooled_layers {','.join(given)}: {REFUSED[given]}")
    assert "0 (embedding) to 33 (last)" in caught.value.fix


def test_the_commands_word(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from abonyx.wording import Interface
    from abonyx_export import cli

    directory = make("esm2", tmp_path / "checkpoint")
    arguments = ["--encoder", str(directory), "-o", str(tmp_path / "bundle"), "--pooled-layers"]
    result = CliRunner().invoke(cli.export, [*arguments, "embedding+last,5"])
    assert isinstance(result.exception, ConfigError)
    shown = result.exception.text(Interface.COMMAND_LINE)
    assert shown.startswith("--pooled-layers embedding,last,5: the encoder has 4 layers, but no layer '5'")
