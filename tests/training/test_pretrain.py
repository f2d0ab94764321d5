"""Pretraining: the model equals transformers', interrupted runs give the same result, and the checkpoint exports."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the export extra is not installed")

import torch

import pretrain as module
from abonyx.bundle import tolerances
from abonyx_export.encoder.checkpoint import load_checkpoint
from pretrain import (
    IGNORED,
    MASK,
    PAD,
    PretrainedEncoder,
    Recipe,
    TrainingRun,
    encode,
    mask_tokens,
    pretrain,
    read_recipe,
    vary_starts,
)

from ..conftest import REPOSITORY

RECIPE = replace(
    read_recipe(REPOSITORY / "training" / "recipe.toml"),
    layers=2,
    hidden=32,
    attention_heads=2,
    steps=12,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    report_steps=4,
    held_out_share=0.2,
    dropout=0.1,
    position_offsets=0,
    cut_residues=0,
    extra_residues=0,
)

VARIED = replace(RECIPE, position_offsets=6, cut_residues=3, extra_residues=2)


def weights(directory: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(directory / "model.safetensors"))


def train(sequences: list[str], directory: Path, seed: int = 1, **options: int) -> dict[str, object] | None:
    torch.use_deterministic_algorithms(True)
    try:
        return pretrain(TrainingRun.begin(RECIPE, sequences, seed, "cpu"), directory, lambda line: None, **options)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("recipe", [RECIPE, VARIED])
def test_is_the_model_of_transformers(tmp_path: Path, sequences: list[str], recipe: Recipe) -> None:
    from transformers import EsmForMaskedLM

    torch.manual_seed(3)
    run = TrainingRun.begin(recipe, sequences, 1, "cpu")
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter)).copy_(parameter.half())
        for table in run.model.embeddings.values():
            table.weight[PAD] = 0
    module.write_checkpoint(run, tmp_path)
    theirs = EsmForMaskedLM.from_pretrained(tmp_path).eval()
    padded = encode([sequences[0], sequences[1][:40]], 160)
    masked = encode([sequences[0][:40]], 42)
    masked[0, 5:9] = MASK
    run.model.eval()
    # Padding and masks are tested separately: with both, transformers 4.57 divides by the padded length, but fair-esm
    # and abonyx divide by the number of tokens.
    for ids in (padded, masked):
        with torch.no_grad():
            first, last = run.model(ids)
            expected = theirs(input_ids=ids, attention_mask=ids.ne(PAD).long(), output_hidden_states=True)
        real = ids.ne(PAD)
        assert (first - expected.hidden_states[0])[real].abs().max() < tolerances.FP32_GOAL_P
        assert (last - expected.hidden_states[-1])[real].abs().max() < tolerances.FP32_GOAL_P
        assert (run.model.predict(last) - expected.logits)[real].abs().max() < tolerances.FP32.p
    with torch.no_grad():
        alone, among = run.model(masked)[1], run.model(torch.cat([encode([sequences[1]], 160)[:, :42], masked]))[1]
    assert (alone[0] - among[1]).abs().max() < tolerances.FP32_GOAL_P


def test_interrupted_runs_end_with_the_same_bytes(tmp_path: Path, sequences: list[str]) -> None:
    record = train(sequences, tmp_path / "whole")
    assert record is not None
    for stop in (4, 6, 8):  # 6 is between two saved states, so that steps are repeated
        assert train(sequences, tmp_path / "parts", stop_after=stop) is None
        assert (tmp_path / "parts" / "state.pt").is_file()
    again = train(sequences, tmp_path / "parts")
    assert again is not None
    assert again["weights_sha256"] == record["weights_sha256"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == sorted(module.OUTPUTS)
    history = json.loads((tmp_path / "whole" / "training.json").read_text())["history"]
    assert [line["step"] for line in history] == [4, 8, 12]
    other = train(sequences, tmp_path / "other", seed=2)
    assert other is not None
    assert other["weights_sha256"] != record["weights_sha256"]


def test_half_of_the_starts_are_varied_and_the_ends_are_left() -> None:
    length, width = 20, 30
    rows = torch.full((2000, width), PAD)
    rows[:, 0] = 0
    rows[:, 1 : length + 1] = torch.arange(4, 4 + length)
    rows[:, length + 1] = 2  # EOS
    lengths = []
    for row in vary_starts(rows, 3, 2, torch.Generator().manual_seed(0)):
        tokens = int(row.ne(PAD).sum()) - 2
        assert row[0] == 0 and row[tokens + 1] == 2
        assert row[tokens + 2 :].eq(PAD).all()
        kept = min(tokens, length)
        assert row[tokens + 1 - kept : tokens + 1].tolist() == list(range(24 - kept, 24))
        extra = row[1 : tokens + 1 - kept]
        assert ((extra >= module.FIRST_RESIDUE) & (extra <= module.LAST_RESIDUE)).all()
        lengths.append(tokens - length)
    shares = np.bincount(np.array(lengths) + 3, minlength=6) / 2000
    assert 0.46 < shares[3] < 0.54
    assert all(0.07 < share < 0.13 for share in shares[[0, 1, 2, 4, 5]])


def test_offsets_are_drawn_for_each_row_and_move_its_positions(sequences: list[str]) -> None:
    run = TrainingRun.begin(VARIED, sequences * 40, 1, "cpu")
    run.recipe = replace(VARIED, batch_size=300)
    _, offsets = run.varied()
    assert offsets is not None
    assert sorted(set(offsets.tolist())) == list(range(7))
    ids = encode(sequences[:2], 160)
    table = run.model.embeddings["position_embeddings"].weight
    moved, middle = (run.model.embed(ids, each) for each in (torch.tensor([0, 6]), None))
    lengths = ids.ne(PAD).sum(1)
    for row, first in ((0, 0), (1, 6)):
        places = torch.arange(PAD + 1, PAD + 1 + int(lengths[row]))
        difference = (moved - middle)[row, : lengths[row]]
        assert torch.allclose(difference, table[places + first] - table[places + 3], atol=1e-6)


def test_the_recipe_without_variations_draws_nothing(sequences: list[str]) -> None:
    run = TrainingRun.begin(RECIPE, sequences, 1, "cpu")
    before = run.generator.get_state()
    ids, offsets = run.varied()
    assert offsets is None
    assert torch.equal(ids, run.batch())
    assert torch.equal(run.generator.get_state(), before)


def test_a_state_of_another_seed_is_refused(tmp_path: Path, sequences: list[str]) -> None:
    train(sequences, tmp_path, stop_after=4)
    with pytest.raises(SystemExit, match=r"another seed: 1, expected 2"):
        train(sequences, tmp_path, seed=2)
    with pytest.raises(SystemExit, match=r"another corpus_sha256"):
        train(sequences[::-1], tmp_path)


def test_learns(tmp_path: Path, sequences: list[str]) -> None:
    recipe = replace(RECIPE, steps=80, dropout=0.0, report_steps=40)
    record = pretrain(TrainingRun.begin(recipe, sequences * 4, 1, "cpu"), tmp_path, lambda line: None)
    assert record is not None
    losses = [line["held_out_loss"] for line in record["history"]]
    assert losses[-1] < 2.6 < np.log(20)  # residue frequencies alone are nearly there; uniform is 3.0


@pytest.mark.parametrize("recipe", [RECIPE, VARIED])
def test_the_checkpoint_exports_and_stores_in_half_without_loss(
    tmp_path: Path, sequences: list[str], recipe: Recipe
) -> None:
    assert pretrain(TrainingRun.begin(recipe, sequences, 1, "cpu"), tmp_path, lambda line: None) is not None
    checkpoint = load_checkpoint(str(tmp_path), pooled_layers=("embedding", "last"))
    assert checkpoint.config.max_residues == max(map(len, sequences))
    assert checkpoint.config.embedding_width == 2 * RECIPE.hidden
    assert checkpoint.config.token_dropout
    for name, values in weights(tmp_path).items():
        assert (values == values.astype(np.float16)).all(), name
    table = weights(tmp_path)["esm.embeddings.position_embeddings.weight"]
    assert np.abs(table[PAD + 1 :]).max(axis=1).min() > 0  # all rows that belong to a position
    assert not table[PAD].any()


def test_masking() -> None:
    ids = torch.full((64, 100), 5)
    ids[:, 0], ids[:, -1] = 0, 2
    hidden, target = mask_tokens(ids, 0.15, torch.Generator().manual_seed(0))
    chosen = target != IGNORED
    assert (target[chosen] == ids[chosen]).all()
    assert (hidden[~chosen] == ids[~chosen]).all()
    assert not chosen[:, 0].any() and not chosen[:, -1].any()
    assert 0.13 < chosen.float().mean() < 0.17
    assert 0.75 < (hidden[chosen] == MASK).float().mean() < 0.85
    assert ((hidden >= 4) & (hidden <= 23) | (hidden == MASK) | (hidden < 3)).all()


def test_every_sequence_once_an_epoch(sequences: list[str]) -> None:
    run = TrainingRun.begin(replace(RECIPE, held_out_share=0.0), sequences, 1, "cpu")
    rows = []
    for step in range(3):
        run.step = step
        rows += run.batch().tolist()
    assert sorted(rows) == sorted(run.train.tolist())
    assert run.learning_rate() == pytest.approx(1e-2 * 0.5 * (1 + np.cos(np.pi * 0.1)))  # step 3 of 12, warm-up 2


def test_a_recipe_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    text = (REPOSITORY / "training" / "recipe.toml").read_text()
    for wrong in (text + "extra = 1\n", text.replace("layers = 6", "layers = 6.0"), text.replace("dropout", "drop")):
        (tmp_path / "recipe.toml").write_text(wrong)
        with pytest.raises(SystemExit, match=r"extra|layers|dropout"):
            read_recipe(tmp_path / "recipe.toml")


def test_recipe_is_what_its_file_says() -> None:
    recipe = read_recipe(REPOSITORY / "training" / "recipe.toml")
    assert isinstance(recipe, Recipe)
    assert asdict(recipe)["layers"] == 6
    assert sum(p.numel() for p in PretrainedEncoder(recipe, 152).parameters()) < 8e6


def test_command_line_refuses_a_finished_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    arguments = ["pretrain", "--corpus", "c", "--recipe", "r", "--seed", "1", "-o", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match=r"already has config.json"):
        module.main()


def test_a_corpus_of_other_letters_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("EVQL\nEV-L\n")
    with pytest.raises(SystemExit, match="sequence 2 has letters that ESM does not know: '-'"):
        module.read_corpus(tmp_path / "c.txt")
