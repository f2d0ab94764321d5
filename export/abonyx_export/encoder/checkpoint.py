"""A Hugging Face ESM checkpoint: loaded, described, and refused where the graph could not be exact."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from abonyx.arrays import Float32Array
from abonyx.bundle.manifest import AlphabetSpec, Encoder
from abonyx.errors import ConfigError, InputError, first_line
from abonyx.wording import option
from abonyx_export.encoder.config import INVERSE_FREQUENCY, read_config
from abonyx_export.encoder.config import EncoderConfig as EncoderConfig  # int8/ takes it from here
from abonyx_export.encoder.fair_esm import load_fair_esm, refuse_code
from abonyx_export.encoder.vocabulary import VOCABULARY as VOCABULARY  # as do training/ and benchmarks/
from abonyx_export.encoder.vocabulary import load_tokenizer, read_alphabet

if TYPE_CHECKING:
    from transformers import EsmModel

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER_NAME = "adapter_config.json"
_MERGE = (
    "Merge it first: load the base with the class that it was trained as (EsmForMaskedLM, say), then "
    "PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().save_pretrained(MERGED); put the base's vocab.txt "
    "into MERGED, and export MERGED."
)
_OWN_CONFIG = "Use the config.json that was saved with the weights."


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder.

    Attributes:
        model: transformers' EsmModel in float32, eval mode: the reference, and the source of the tensors.
        repo_id: hub id it is known by, or None; revision: commit, for a hub id.
        ignored: names of its tensors that do not belong to the encoder, for example those of a classifier.
        on_layer: called with the index of a layer whose tensors are read.
    """

    config: EncoderConfig
    model: EsmModel
    alphabet: AlphabetSpec
    repo_id: str | None
    revision: str | None
    ignored: tuple[str, ...] = ()
    on_layer: Callable[[int], None] = lambda index: None

    def tensor(self, name: str) -> Float32Array:
        """The tensor of that name, not copied: a parameter or, of rotary frequencies, a buffer."""
        layer = _LAYER.match(name)
        if layer:
            self.on_layer(int(layer[1]))
        if name.endswith(INVERSE_FREQUENCY):
            module = name.removesuffix(f".{INVERSE_FREQUENCY}")
            if module not in dict(self.model.named_modules()):  # transformers 5 has one for all layers
                module = "rotary_embeddings"
            frequencies: Float32Array = self.model.get_buffer(f"{module}.{INVERSE_FREQUENCY}").numpy()
            return frequencies
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
            architecture=self.config.architecture,
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
    on_config: Callable[[EncoderConfig], None] = lambda config: None,
) -> Checkpoint:
    """Load an ESM encoder from a hub id, a local directory, or a file of fair-esm.

    Args:
        source: directory, `.pt` file, or hub id such as facebook/esm1v_t33_650M_UR90S_1.
        revision: branch, tag or commit of a hub id; resolved to a commit before anything is downloaded.
        encoder_id: the hub id that a directory or file is a copy of, where the user vouches for it.
        pooled_layers: see EncoderConfig.
        on_config: called with the config before a hub's or directory's weights are loaded.

    Raises:
        ConfigError: a revision with a directory or file, a directory or hub id that does not exist.
        InputError: not an ESM encoder, of a kind the graph does not cover, or with weights or vocabulary missing.
    """
    # Or transformers asks the hub to convert a .bin checkpoint and downloads the result: a second full copy.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    import transformers

    transformers.logging.set_verbosity_error()  # what matters of its warnings is checked below
    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    repo_id, commit = identify(source, revision, encoder_id)
    where: dict[str, Any] = {"revision": commit} if commit else {}
    if Path(source).is_file():
        config, model, alphabet, ignored = load_fair_esm(Path(source), pooled_layers)
        on_config(config)
    else:
        config, loaded = _load(source, where, pooled_layers, on_config)
        model, alphabet, ignored = loaded.model, loaded.alphabet, _check_names(loaded, source)
    model = model.float().eval().requires_grad_(False)
    checkpoint = Checkpoint(config, model, alphabet, repo_id, commit, ignored)
    _check_finite(checkpoint, source)
    return checkpoint


class _Loaded(NamedTuple):
    """What transformers made of a checkpoint, and the names of tensors that do not fit, are missing or too many."""

    model: EsmModel
    alphabet: AlphabetSpec
    mismatched: Iterable[str]
    missing: Iterable[str]
    unexpected: Iterable[str]


def _load(
    source: str, where: dict[str, Any], pooled_layers: tuple[str, ...], on_config: Callable[[EncoderConfig], None]
) -> tuple[EncoderConfig, _Loaded]:
    """Load a hub id or directory with transformers."""
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        hf_config = _config_without_code(source, where)
        config = read_config(hf_config, source, pooled_layers)
        on_config(config)
        classes = {"esm": "EsmModel", "bert": "BertModel", "roberta": "RobertaModel"}
        model, loading = getattr(transformers, classes[config.architecture]).from_pretrained(
            source,
            **where,
            dtype=torch.float32,  # 5 would keep a checkpoint's float16, and round to it what is stored in float32
            add_pooling_layer=False,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # refused below, by name
            output_loading_info=True,
        )
        tokenizer = load_tokenizer(hf_config, source, where)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        # AttributeError: a hub cache without weights; RuntimeError: tensors of another shape
        refuse_code(error, source, "Export a checkpoint whose weights are model.safetensors.")
        raise InputError(
            f"{source}: transformers cannot load it as an encoder: {first_line(error)}",
            "It needs config.json, vocab.txt and the weights of an ESM or BERT model, as on the hub.",
        ) from error
    alphabet = read_alphabet(tokenizer, hf_config, source)
    # names, or since transformers 5 (name, shape, shape)
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]]
    return config, _Loaded(model, alphabet, mismatched, loading["missing_keys"], loading["unexpected_keys"])


def _config_without_code(source: str, where: dict[str, Any]) -> Any:
    """Transformers' config; refused if it names code of the checkpoint's own, which transformers would ask to run."""
    import transformers

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise InputError(f"{source}: has no config.json", "Use the config.json that was saved with the weights.")
    facts, _ = transformers.PretrainedConfig.get_config_dict(source, **where)
    if facts.get("auto_map"):
        named = ", ".join(sorted(facts["auto_map"]))
        raise InputError(
            f"{source}: config.json names Python code of its own ({first_line(named)}), which abonyx does not run",
            "Export an encoder whose model is part of transformers, without trust_remote_code.",
        )
    return transformers.AutoConfig.from_pretrained(source, **where, trust_remote_code=False)


# Where the tensors of the encoder are: what is elsewhere (a language model's head, a classifier, contacts) is ignored.
_ENCODER = ("embeddings.", "encoder.", "rotary_embeddings.")


def _check_names(loaded: _Loaded, source: str) -> tuple[str, ...]:
    """Refuse a checkpoint that is not the encoder's tensors, no more and no less; returns the names of ignored ones."""
    mismatched, missing, extra = (
        sorted(name for name in names if _in_encoder(name))
        for names in (loaded.mismatched, loaded.missing, loaded.unexpected)
    )
    if mismatched:
        wanted = tuple(loaded.model.state_dict()[mismatched[0]].shape)
        what = f"{source}: {_named(mismatched)}: not of the shape that config.json gives it, {wanted}"
        raise InputError(what, _OWN_CONFIG)
    if missing:
        what = f"{source}: lacks {_named(missing)}, which transformers would make up"
        raise InputError(what, "Use a complete checkpoint.")
    if extra:
        what = f"{source}: has {_named(extra)}, for which the model that config.json describes has no place"
        raise InputError(what, f"{_OWN_CONFIG} Merge adapters first.")
    return tuple(sorted(loaded.unexpected))


def _in_encoder(name: str) -> bool:
    return name.removeprefix("esm.").removeprefix("bert.").removeprefix("roberta.").startswith(_ENCODER)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} of the encoder ({shown})"


def _check_finite(checkpoint: Checkpoint, source: str) -> None:
    """Refuse a tensor that the graph uses and that is not finite: every score would be NaN."""
    for name in checkpoint.config.tensor_names():
        values = checkpoint.tensor(name)
        if not np.isfinite(values).all():
            shown = first_line(values.ravel()[~np.isfinite(values.ravel())][:3].tolist())
            what = f"{source}: {name} is not finite: {np.count_nonzero(~np.isfinite(values))} of its values ({shown})"
            raise InputError(what, "Use the checkpoint as it was published.")


def identify(source: str, revision: str | None, encoder_id: str | None) -> tuple[str | None, str | None]:
    """Hub id (or None) and commit (or None for a directory); downloads nothing but config.json.

    Raises:
        ConfigError, InputError: as load_checkpoint.
    """
    local = "directory" if Path(source).is_dir() else "file" if Path(source).is_file() else None
    if local:
        _refuse_adapter(Path(source))
        if revision is not None:
            what = f"{option('revision')} {revision}: {source} is a {local}"
            raise ConfigError(what, f"A {local} has no revisions.")
        return encoder_id, None
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"{option('encoder')} {source}: no such directory or file",
            "Give a directory, a .pt file of fair-esm, or a hub id (owner/name).",
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
