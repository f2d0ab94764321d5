"""Write an ESM checkpoint with random weights (fixed seed), in the hub's layout.

It is for benchmarks and tests: shape and speed are those of the real encoder, but the numbers have no meaning.

    python benchmarks/make_checkpoint.py esm1v DIR      33 layers, hidden 1280: ESM-1v's exact architecture, 2.6 GB
    python benchmarks/make_checkpoint.py mini DIR       6 layers, hidden 320
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from abonyx_export.encoder.checkpoint import VOCABULARY


class Shape(NamedTuple):
    """An ESM encoder's shape. The feed-forward width is four times the hidden width, as in every ESM."""

    layers: int
    hidden: int
    heads: int
    positions: str = "absolute"
    emb_layer_norm_before: bool = False
    token_dropout: bool = True


SHAPES = {
    "esm1v": Shape(33, 1280, 20),
    "esm1b": Shape(33, 1280, 20, emb_layer_norm_before=True),
    "esm2": Shape(33, 1280, 20, positions="rotary"),
    "mini": Shape(6, 320, 5),
}


def make_checkpoint(shape: Shape, directory: Path, *, seed: int = 0, half_exact: bool = False) -> None:
    """Write config.json, vocab.txt and model.safetensors.

    Args:
        shape: shape of the encoder.
        directory: created if it does not exist.
        seed: seed of torch's generator.
        half_exact: round the weights to float16, so that storing them as float16 is exact.
    """
    import torch
    from transformers import EsmConfig, EsmModel

    torch.manual_seed(seed)
    config = EsmConfig(
        vocab_size=len(VOCABULARY),
        mask_token_id=VOCABULARY.index("<mask>"),
        pad_token_id=VOCABULARY.index("<pad>"),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.hidden,
        max_position_embeddings=1026,
        layer_norm_eps=1e-5,  # as in the published checkpoints; EsmConfig's default is 1e-12
        token_dropout=shape.token_dropout,
        position_embedding_type=shape.positions,
        emb_layer_norm_before=shape.emb_layer_norm_before,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = EsmModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                # transformers starts biases at 0 and LayerNorm at 1 and 0. A graph that lacks them would give the same
                # numbers.
                parameter.add_(0.1 * torch.randn_like(parameter))
            if half_exact:
                parameter.copy_(parameter.half())
    model.save_pretrained(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int, help="number of layers, for quick runs  [default: the shape's]")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    shape = shape._replace(layers=arguments.layers or shape.layers)
    make_checkpoint(shape, arguments.directory, seed=arguments.seed)


if __name__ == "__main__":
    main()
