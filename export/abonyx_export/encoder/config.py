"""What the graph is built from, read from a checkpoint's config, and refused where the graph could not be exact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from abonyx.errors import ConfigError, InputError, first_line
from abonyx.wording import option

INVERSE_FREQUENCY = "inv_freq"
SPECIAL_TOKENS = 2  # CLS and EOS
ARCHITECTURES = ("esm", "bert", "roberta")
_PRE_NORMS = ("attention.LayerNorm", "LayerNorm")


@dataclass(frozen=True)
class EncoderConfig:
    """What the graph is built from.

    Attributes:
        architecture: "esm", whose norms are before each block, or "bert" or "roberta", whose norms are behind.
        positions: "absolute" or "rotary".
        positions_count: rows of the position table (max_position_embeddings).
        pooled_layers: what is pooled and concatenated, in that order: "embedding", "last", or the number of a layer,
            from "1" to the one before the last, whose output is taken as the next layer takes it (see pooled_names).
    """

    layers: int
    hidden: int
    heads: int
    positions: str
    positions_count: int
    token_dropout: bool
    emb_layer_norm_before: bool
    layer_norm_eps: float
    pad_id: int
    pooled_layers: tuple[str, ...] = ("last",)
    architecture: str = "esm"

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads

    @property
    def embedding_width(self) -> int:
        """Columns of the pooled embedding."""
        return self.hidden * len(self.pooled_layers)

    @property
    def max_residues(self) -> int:
        """Longest sequence with a position for every token."""
        return self.positions_count - self.first_position - SPECIAL_TOKENS

    @property
    def first_position(self) -> int:
        """Row of the first token in the position table: BERT counts from 0, the others from pad_id + 1."""
        return 0 if self.architecture == "bert" else self.pad_id + 1

    @property
    def is_post_norm(self) -> bool:
        """Whether each block's norm is behind it, after the residual's sum."""
        return self.architecture != "esm"

    def tensor_names(self) -> Iterator[str]:
        """Transformers' names of every tensor the graph uses."""
        yield "embeddings.word_embeddings.weight"
        if self.is_post_norm:
            yield "embeddings.token_type_embeddings.weight"
        modules = ["embeddings.LayerNorm" if self.is_post_norm else "encoder.emb_layer_norm_after"]
        if self.positions == "absolute":
            yield "embeddings.position_embeddings.weight"
        else:
            yield from (inverse_frequency_name(index) for index in range(self.layers))
        if self.emb_layer_norm_before:
            modules.append("embeddings.layer_norm")
        for index in range(self.layers):
            layer = f"encoder.layer.{index}"
            modules += [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
            norms = ("attention.output.LayerNorm", "output.LayerNorm") if self.is_post_norm else _PRE_NORMS
            modules += [f"{layer}.attention.output.dense", *(f"{layer}.{norm}" for norm in norms)]
            modules += [f"{layer}.intermediate.dense", f"{layer}.output.dense"]
        for module in modules:
            yield f"{module}.weight"
            yield f"{module}.bias"


def pooled_names(given: Sequence[str], layers: int) -> tuple[str, ...]:
    """Layers to pool by the names that the manifest has: layer 0 is "embedding", the last one "last".

    Args:
        given: "embedding", "last" or numbers, as transformers counts its hidden states.
        layers: of the encoder.

    Raises:
        ConfigError: none, something else, a number that is out of range, or one layer twice.
    """
    names: dict[str, str] = {}
    shown = f"{option('pooled_layers')} {','.join(given)}"
    fix = f"Give embedding, last, or numbers from 0 (embedding) to {layers} (last), each layer once."
    for each in given:
        if each not in ("embedding", "last") and not (each.isascii() and each.isdigit() and int(each) <= layers):
            raise ConfigError(f"{shown}: {first_line(repr(each))}: the encoder has {layers} layers", fix)
        number = str(int(each)) if each.isdigit() else each
        name = {"0": "embedding", str(layers): "last"}.get(number, number)
        if name in names:
            raise ConfigError(f"{shown}: {names[name]} and {each} are the same layer of {layers}", fix)
        names[name] = each
    if not names:
        raise ConfigError(f"{shown}: no layer is named", fix)
    return tuple(names)


def inverse_frequency_name(layer: int) -> str:
    """Name of a layer's rotary frequencies (D/2,), as checkpoints store them."""
    return f"encoder.layer.{layer}.attention.self.rotary_embeddings.{INVERSE_FREQUENCY}"


def read_config(config: Any, source: str, pooled_layers: tuple[str, ...]) -> EncoderConfig:
    """Read transformers' config of an encoder.

    Raises:
        InputError: not ESM, BERT or RoBERTa, or of a kind that the graph does not cover.
        ConfigError: pooled layers that it does not have.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{source}: model type {kind!r}", f"abonyx exports encoders of type {', '.join(ARCHITECTURES)}."
        )
    _refuse_other_kinds(config, source)
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (("absolute", "rotary") if kind == "esm" else ("absolute",)):
        raise InputError(f"{source}: position embeddings are {positions!r}", "absolute, and ESM's rotary, are covered.")
    if kind != "esm" and config.hidden_act != "gelu":  # ESM's is in its code
        raise InputError(f"{source}: hidden_act is {config.hidden_act!r}", "'gelu' is covered.")
    _refuse_numbers(config, source)
    if config.hidden_size % config.num_attention_heads or (config.hidden_size // config.num_attention_heads) % 2:
        raise InputError(
            f"{source}: hidden size {config.hidden_size} does not divide into {config.num_attention_heads} even heads",
            "This is not a loadable configuration.",
        )
    found = EncoderConfig(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        positions=positions,
        positions_count=config.max_position_embeddings,
        token_dropout=bool(getattr(config, "token_dropout", False)),
        emb_layer_norm_before=bool(getattr(config, "emb_layer_norm_before", False)),
        layer_norm_eps=float(config.layer_norm_eps),
        pad_id=int(config.pad_token_id),
        pooled_layers=pooled_names(pooled_layers, config.num_hidden_layers),
        architecture=kind,
    )
    if found.max_residues < 1:
        what = f"{source}: max_position_embeddings is {found.positions_count} in config.json, which leaves no residue"
        raise InputError(what, "Use the config.json that was saved with the weights.")
    return found


def _refuse_numbers(config: Any, source: str) -> None:
    """Refuse what transformers would fail on with words of its own, or compute NaN from."""
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        value = getattr(config, key, None)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{source}: {key} is {first_line(repr(value))} in config.json", "It is a count, from 1.")
    eps, pad_id, rows = config.layer_norm_eps, config.pad_token_id, config.vocab_size
    if not isinstance(eps, int | float) or not 0 < eps < 1:
        what = f"{source}: layer_norm_eps is {first_line(repr(eps))} in config.json"
        raise InputError(what, "It is a small number above 0, 1e-5 for example.")
    if not isinstance(pad_id, int) or not 0 <= pad_id < rows:
        what = f"{source}: pad_token_id is {first_line(repr(pad_id))} in config.json, the embedding has {rows} rows"
        raise InputError(what, "Use the config.json that was saved with the weights.")


# What the graph has no nodes for. Another default in another version of transformers is the absence of the key.
_REFUSED = {
    "is_folding_model": "abonyx exports plain encoders (ESM-1b, 1v, 2), not ESMFold.",
    "is_decoder": "abonyx exports encoders, in which each token sees all others.",
    "add_cross_attention": "abonyx exports encoders, in which each token sees all others.",
    "pruned_heads": "Heads were pruned, so that layers differ in width. Export the checkpoint before it was pruned.",
    "quantization_config": "Its weights are quantized. Export the float checkpoint; abonyx quantizes it with int8.",
}


def _refuse_other_kinds(config: Any, source: str) -> None:
    for key, fix in _REFUSED.items():
        value = getattr(config, key, None)
        if value:
            shown = value if isinstance(value, bool) else "set"
            raise InputError(f"{source}: {key} is {shown} in config.json", fix)
