"""Read the encoder's shape and options from a checkpoint's config. Refuse it if the graph could not be exact."""

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
    """Shape and options of the encoder, from which the graph is built.

    Attributes:
        positions: "absolute" or "rotary".
        positions_count: rows of the position table (max_position_embeddings).
        pooled_layers: layers whose means are concatenated, in that order: "embedding", "last", or a layer number from
            "1" to the layer before the last. A numbered layer's output is the input of the next layer.
        architecture: "esm" (each block's norm is before the block), "bert" or "roberta" (the norm is after it).
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
        """Whether each block's norm is after the block, applied to the sum with the residual."""
        return self.architecture != "esm"

    def tensor_names(self) -> Iterator[str]:
        """Names, in transformers, of every tensor that the graph uses."""
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
    """The manifest's names of the layers to pool: layer 0 is "embedding", the last layer is "last".

    Args:
        given: "embedding", "last", or indexes of transformers' hidden states.
        layers: number of layers of the encoder.

    Raises:
        ConfigError: `given` is empty, a name is unknown, a number is out of range, or a layer appears twice.
    """
    names: dict[str, str] = {}
    shown = f"{option('pooled_layers')} {','.join(given)}"
    fix = f"Give embedding, last, or numbers from 0 (embedding) to {layers} (last), each layer once."
    for each in given:
        if each not in ("embedding", "last") and not (each.isascii() and each.isdigit() and int(each) <= layers):
            raise ConfigError(f"{shown}: the encoder has {layers} layers, but no layer {first_line(repr(each))}", fix)
        number = str(int(each)) if each.isdigit() else each
        name = {"0": "embedding", str(layers): "last"}.get(number, number)
        if name in names:
            raise ConfigError(f"{shown}: {names[name]} and {each} are the same layer (of {layers})", fix)
        names[name] = each
    if not names:
        raise ConfigError(f"{shown}: no layer is named", fix)
    return tuple(names)


def inverse_frequency_name(layer: int) -> str:
    """Name in checkpoints of a layer's rotary frequencies (D/2,)."""
    return f"encoder.layer.{layer}.attention.self.rotary_embeddings.{INVERSE_FREQUENCY}"


def read_config(config: Any, source: str, pooled_layers: tuple[str, ...]) -> EncoderConfig:
    """Read transformers' config of an encoder.

    Args:
        config: transformers' config.
        source: the checkpoint's name, for messages.
        pooled_layers: layers to pool, as in pooled_names.

    Raises:
        InputError: the encoder is not ESM, BERT or RoBERTa, or is of a kind that the graph does not support.
        ConfigError: the encoder does not have these pooled layers.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise InputError(
            f"{source}: model type {kind!r} is not supported", f"Export an encoder of type {', '.join(ARCHITECTURES)}."
        )
    _refuse_other_kinds(config, source)
    positions = getattr(config, "position_embedding_type", "absolute")
    if positions not in (("absolute", "rotary") if kind == "esm" else ("absolute",)):
        what = f"{source}: position embeddings {positions!r} are not supported"
        raise InputError(what, "Export an encoder with absolute positions, or an ESM with rotary positions.")
    if kind != "esm" and config.hidden_act != "gelu":  # ESM's code always uses gelu
        what = f"{source}: hidden_act {config.hidden_act!r} is not supported"
        raise InputError(what, "Export an encoder with hidden_act 'gelu'.")
    _refuse_numbers(config, source)
    if config.hidden_size % config.num_attention_heads or (config.hidden_size // config.num_attention_heads) % 2:
        raise InputError(
            f"{source}: hidden size {config.hidden_size} cannot be split into {config.num_attention_heads} heads of an "
            "even width",
            "Use the config.json that was saved with the weights.",
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
        what = f"{source}: max_position_embeddings is {found.positions_count} in config.json, too few for one residue"
        raise InputError(what, "Use the config.json that was saved with the weights.")
    return found


def _refuse_numbers(config: Any, source: str) -> None:
    """Refuse numbers that would make transformers fail with an unclear message, or compute NaN."""
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_position_embeddings"):
        value = getattr(config, key, None)
        if not isinstance(value, int) or value < 1:
            what = f"{source}: {key} is {first_line(repr(value))} in config.json, not a count of 1 or more"
            raise InputError(what, "Use the config.json that was saved with the weights.")
    eps, pad_id, rows = config.layer_norm_eps, config.pad_token_id, config.vocab_size
    if not isinstance(eps, int | float) or not 0 < eps < 1:
        what = f"{source}: layer_norm_eps is {first_line(repr(eps))} in config.json, not a small number above 0"
        raise InputError(what, "Use the config.json that was saved with the weights; a usual value is 1e-5.")
    if not isinstance(pad_id, int) or not 0 <= pad_id < rows:
        what = f"{source}: pad_token_id is {first_line(repr(pad_id))} in config.json, but the embedding has {rows} rows"
        raise InputError(what, "Use the config.json that was saved with the weights.")


# Options that the graph does not support. A key that is missing has its default, which the graph supports.
_REFUSED = {
    "is_folding_model": "Export a plain encoder (ESM-1b, 1v, 2); abonyx does not export ESMFold.",
    "is_decoder": "Export an encoder, in which each token sees all others.",
    "add_cross_attention": "Export an encoder, in which each token sees all others.",
    "pruned_heads": "Layers with pruned heads differ in width. Export the checkpoint from before the pruning.",
    "quantization_config": "The weights are quantized. Export the float checkpoint; the variant int8 quantizes it.",
}


def _refuse_other_kinds(config: Any, source: str) -> None:
    for key, fix in _REFUSED.items():
        value = getattr(config, key, None)
        if value:
            shown = value if isinstance(value, bool) else "set"
            raise InputError(f"{source}: {key} is {shown} in config.json", fix)
