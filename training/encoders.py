"""Shared by the training scripts: read a table's column, change a recipe, compute an encoder's features."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretrain import FIRST_RESIDUE, PretrainedEncoder, Recipe, encode

RECIPE = Path(__file__).resolve().parent / "recipe.toml"


def read_column(spec: str, column: str = "sequence") -> list[str]:
    """A column of a table, given as PATH or PATH:COLUMN."""
    name, _, given = spec.partition(":")
    path = Path(name)
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [row[given or column] for row in csv.DictReader(line for line in file if not line.startswith("#"))]


def changed(recipe: Recipe, change: str) -> Recipe:
    """The recipe with the keys of KEY=VALUE,... replaced; "base" changes nothing."""
    kinds = {field.name: float if field.type == "float" else int for field in fields(Recipe)}
    pairs = [pair.split("=") for pair in change.split(",")] if change != "base" else []
    values: dict[str, Any] = {key: kinds[key](value) for key, value in pairs}
    return replace(recipe, **values)


def pooled(model: PretrainedEncoder, sequences: Sequence[str], device: str) -> np.ndarray:
    """Residue means of the embedding layer and of the last layer, (n, 2H) float32."""
    width = max(map(len, sequences)) + 2
    parts = []
    with torch.inference_mode():
        for ids in torch.split(encode(sequences, width), 128):
            layers = model.forward(ids.to(device))
            weights = (ids >= FIRST_RESIDUE).to(device).float()  # (B, L); CLS, PAD and EOS have smaller ids
            means = [torch.einsum("bl,blh->bh", weights, layer) / weights.sum(1, keepdim=True) for layer in layers]
            parts.append(torch.cat(means, 1).cpu())
    return torch.cat(parts).numpy()
