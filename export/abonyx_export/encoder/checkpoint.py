"""A Hugging Face ESM checkpoint: loaded, described, and refused where the graph could not be exact."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle.manifest import RESIDUES, AlphabetSpec, Encoder
from abonyx.errors import ConfigError, InputError, first_line
from abonyx.wording import option

if TYPE_CHECKING:
    from transformers import EsmModel

# ESM-1b's, ESM-1v's and ESM-2's vocabulary; the order is the ids (fair-esm's Alphabet).
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER_NAME = "adapter_config.json"
_MERGE = (
    "Merge it first: load the base with the class that it was trained as (EsmForMaskedLM, say), then "
    "PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().save_pretrained(MERGED); put the base's vocab.txt "
    "into MERGED, and export MERGED."
)
SPECIAL_TOKENS = 2  # CLS and EOS


@dataclass(frozen=True)
class EncoderConfig:
    """What the graph is built from.

    Attributes:
        positions: "absolute" or "rotary".
        positions_count: rows of the position table (max_position_embeddings).
        pooled_layers: ("last",) or ("embedding", "last"), concatenated.
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
        """Longest sequence with a position for every token: ids run from pad_id + 1."""
        return self.positions_count - (self.pad_id + 1) - SPECIAL_TOKENS

    def tensor_names(self) -> Iterator[str]:
        """Transformers' names of every tensor the graph uses."""
        yield "embeddings.word_embeddings.weight"
        modules = ["encoder.emb_layer_norm_after"]
        if self.positions == "absolute":
            yield "embeddings.position_embeddings.weight"
        if self.emb_layer_norm_before:
            modules.append("embeddings.layer_norm")
        for index in range(self.layers):
            layer = f"encoder.layer.{index}"
            modules += [f"{layer}.attention.self.{part}" for part in ("query", "key", "value")]
            modules += [f"{layer}.attention.output.dense", f"{layer}.attention.LayerNorm", f"{layer}.LayerNorm"]
            modules += [f"{layer}.intermediate.dense", f"{layer}.output.dense"]
        for module in modules:
            yield f"{module}.weight"
            yield f"{module}.bias"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder.

    Attributes:
        model: transformers' EsmModel in float32, eval mode: the reference, and the source of the tensors.
        repo_id: hub id it is known by, or None; revision: commit, for a hub id.
    """

    config: EncoderConfig
    model: EsmModel
    alphabet: AlphabetSpec
    repo_id: str | None
    revision: str | None

    def tensor(self, name: str) -> Float32Array:
        """The tensor of that name, not copied."""
        values: Float32Array = self.model.get_parameter(name).detach().numpy()
        return values

    def encoder(self) -> Encoder:
        """The manifest's description."""
        digest = hashlib.sha256()
        for name in self.config.tensor_names():
            values = np.ascontiguousarray(self.tensor(name))
            digest.update(f"{name}{values.shape}".encode())
            digest.update(values.data)
        return Encoder(
            repo_id=self.repo_id,
            revision=self.revision,
            weights_sha256=digest.hexdigest(),
            architecture="esm",
            positions=self.config.positions,
            layers=self.config.layers,
            hidden=self.config.hidden,
            attention_heads=self.config.heads,
            token_dropout=self.config.token_dropout,
        )


def load_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    encoder_id: str | None = None,
    pooled_layers: tuple[str, ...] = ("last",),
) -> Checkpoint:
    """Load an ESM encoder from a hub id or a local directory.

    Args:
        source: directory, or hub id such as facebook/esm1v_t33_650M_UR90S_1.
        revision: branch, tag or commit of a hub id; resolved to a commit before anything is downloaded.
        encoder_id: the hub id that a directory is a copy of, where the user vouches for it.
        pooled_layers: see EncoderConfig.

    Raises:
        ConfigError: a revision with a directory, a directory or hub id that does not exist.
        InputError: not an ESM encoder, of a kind the graph does not cover, or with weights or vocabulary missing.
    """
    # Or transformers asks the hub to convert a .bin checkpoint and downloads the result: a second full copy.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    import transformers
    from safetensors import SafetensorError

    transformers.logging.set_verbosity_error()  # what matters of its warnings is checked below
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    repo_id, commit = identify(source, revision, encoder_id)
    where: dict[str, Any] = {"revision": commit} if commit else {}
    try:
        hf_config = transformers.AutoConfig.from_pretrained(source, **where)
        config = _read_config(hf_config, source, pooled_layers)
        model, loading = transformers.EsmModel.from_pretrained(
            source, **where, add_pooling_layer=False, attn_implementation="eager", output_loading_info=True
        )
        tokenizer = transformers.EsmTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        # TypeError: no vocab.txt; AttributeError: a hub cache without weights; RuntimeError: tensors of another shape
        raise InputError(
            f"{source}: transformers cannot load it as an ESM encoder: {first_line(error)}",
            "It needs config.json, vocab.txt and the weights of an ESM model, as on the hub.",
        ) from error
    missing = sorted(set(loading["missing_keys"]) & set(config.tensor_names()))
    if missing:
        raise InputError(
            f"{source}: {len(missing)} tensors are missing and would be random: {', '.join(missing[:3])} ...",
            "Use a complete checkpoint.",
        )
    alphabet = _read_alphabet(tokenizer, config, source, hf_config.vocab_size)
    return Checkpoint(config, model.float().eval().requires_grad_(False), alphabet, repo_id, commit)


def identify(source: str, revision: str | None, encoder_id: str | None) -> tuple[str | None, str | None]:
    """Hub id (or None) and commit (or None for a directory); downloads nothing but config.json.

    Raises:
        ConfigError, InputError: as load_checkpoint.
    """
    if Path(source).is_dir():
        _refuse_adapter(Path(source))
        if revision is not None:
            raise ConfigError(
                f"{option('revision')} {revision}: {source} is a directory", "A directory has no revisions."
            )
        return encoder_id, None
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"{option('encoder')} {source}: no such directory", "Give a directory or a hub id (owner/name)."
        )
    if encoder_id is not None:
        raise ConfigError(
            f"{option('encoder_id')} {encoder_id}: {source} is a hub id already", f"Leave {option('encoder_id')} out."
        )
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        # The smallest file tells the commit, from the hub or, offline, from the local cache.
        config = hf_hub_download(source, "config.json", revision=revision)
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            what = f"{source}: the repository has no config.json: an adapter (LoRA, say) is not a whole model"
            raise InputError(what, _MERGE) from error
        raise InputError(
            f"{source}: revision {revision or 'main'} cannot be had: {type(error).__name__}: {first_line(error)}",
            f"Check the id, the revision and the network, or give a directory (and {option('encoder_id')}).",
        ) from error
    return source, Path(config).parent.name


def _refuse_adapter(directory: Path) -> None:
    """Raise an InputError for LoRA and its like: transformers would load the base without it, or a model around it."""
    if (directory / ADAPTER_NAME).exists():
        raise InputError(
            f"{directory}: {ADAPTER_NAME}: is a PEFT adapter (LoRA, say), not a whole model",
            f"{_MERGE} If the weights here are merged already, move {ADAPTER_NAME} away.",
        )


def _read_config(config: Any, source: str, pooled_layers: tuple[str, ...]) -> EncoderConfig:
    if config.model_type != "esm":
        raise InputError(f"{source}: model type {config.model_type!r}", "abonyx exports ESM encoders ('esm').")
    refused = {
        "is_folding_model": getattr(config, "is_folding_model", False),
        "is_decoder": getattr(config, "is_decoder", False),
        "add_cross_attention": getattr(config, "add_cross_attention", False),
    }
    for key, value in refused.items():
        if value:
            raise InputError(f"{source}: {key} is {value}", "abonyx exports plain ESM encoders (ESM-1b, 1v, 2).")
    positions = config.position_embedding_type
    if positions not in ("absolute", "rotary"):
        raise InputError(f"{source}: position embeddings are {positions!r}", "absolute and rotary are covered.")
    if config.hidden_size % config.num_attention_heads or (config.hidden_size // config.num_attention_heads) % 2:
        raise InputError(
            f"{source}: hidden size {config.hidden_size} does not divide into {config.num_attention_heads} even heads",
            "This is not a loadable ESM configuration.",
        )
    return EncoderConfig(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        positions=positions,
        positions_count=config.max_position_embeddings,
        token_dropout=bool(config.token_dropout),
        emb_layer_norm_before=bool(config.emb_layer_norm_before),
        layer_norm_eps=float(config.layer_norm_eps),
        pad_id=int(config.pad_token_id),
        pooled_layers=pooled_layers,
    )


def _read_alphabet(tokenizer: Any, config: EncoderConfig, source: str, rows: int) -> AlphabetSpec:
    """The checkpoint's own vocabulary, for the letters that are scored."""
    residues = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in RESIDUES}
    unknown = [letter for letter, token_id in residues.items() if token_id in (None, tokenizer.unk_token_id)]
    if unknown:
        raise InputError(f"{source}: no token for {', '.join(unknown)}", "The vocabulary is not ESM's.")
    largest = max(*residues.values(), tokenizer.cls_token_id, tokenizer.eos_token_id)
    if largest >= rows:
        raise InputError(
            f"{source}: vocab.txt has token {largest}, the embedding {rows} rows", "Correct the checkpoint."
        )
    if tokenizer.pad_token_id != config.pad_id:
        raise InputError(
            f"{source}: pad token is {tokenizer.pad_token_id} in vocab.txt and {config.pad_id} in config.json",
            "Correct the checkpoint.",
        )
    return AlphabetSpec(
        residues=residues, cls_id=tokenizer.cls_token_id, pad_id=config.pad_id, eos_id=tokenizer.eos_token_id
    )
