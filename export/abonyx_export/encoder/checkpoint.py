"""Load and describe a Hugging Face checkpoint. Refuse it if the graph could not be exact."""

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
from abonyx_export.encoder.config import EncoderConfig as EncoderConfig  # re-exported for int8/
from abonyx_export.encoder.fair_esm import load_fair_esm, refuse_code
from abonyx_export.encoder.vocabulary import VOCABULARY as VOCABULARY  # re-exported for training/ and benchmarks/
from abonyx_export.encoder.vocabulary import load_tokenizer, read_alphabet

if TYPE_CHECKING:
    from transformers import EsmModel

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ADAPTER_NAME = "adapter_config.json"
_MERGE = (
    "Merge the adapter first: load the base model with the class used in training (e.g. EsmForMaskedLM), run "
    "PeftModel.from_pretrained(base, ADAPTER).merge_and_unload().save_pretrained(MERGED), copy the base's vocab.txt "
    "into MERGED, and export MERGED."
)
_OWN_CONFIG = "Use the config.json that was saved with the weights."


@dataclass(frozen=True)
class Checkpoint:
    """A loaded encoder.

    Attributes:
        config: shape and options of the encoder.
        model: transformers' model in float32 and eval mode. It is the reference, and the source of the tensors.
        alphabet: token ids of the residues and special tokens.
        repo_id: hub id, or None if it is not known.
        revision: commit, if the source is a hub id.
        ignored: names of tensors that do not belong to the encoder, for example of a classifier.
        on_layer: called with the index of a layer when its tensors are read.
    """

    config: EncoderConfig
    model: EsmModel
    alphabet: AlphabetSpec
    repo_id: str | None
    revision: str | None
    ignored: tuple[str, ...] = ()
    on_layer: Callable[[int], None] = lambda index: None

    def tensor(self, name: str) -> Float32Array:
        """The tensor of that name, float32, not copied. Rotary frequencies are buffers, all others are parameters."""
        layer = _LAYER.match(name)
        if layer:
            self.on_layer(int(layer[1]))
        if name.endswith(INVERSE_FREQUENCY):
            module = name.removesuffix(f".{INVERSE_FREQUENCY}")
            if module not in dict(self.model.named_modules()):  # transformers 5: one module for all layers
                module = "rotary_embeddings"
            frequencies: Float32Array = self.model.get_buffer(f"{module}.{INVERSE_FREQUENCY}").numpy()
            return frequencies
        values: Float32Array = self.model.get_parameter(name).detach().numpy()
        return values

    def encoder(self) -> Encoder:
        """The encoder's description for the manifest."""
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
    """Load an ESM or BERT encoder from a hub id, a local directory, or a file of fair-esm.

    Args:
        source: directory, `.pt` file, or hub id such as facebook/esm1v_t33_650M_UR90S_1.
        revision: branch, tag or commit of a hub id; resolved to a commit before anything is downloaded.
        encoder_id: the user's statement that the directory or file is a copy of this hub id.
        pooled_layers: see EncoderConfig.
        on_config: called with the config. For a hub id or a directory, the weights are not loaded yet.

    Raises:
        ConfigError: a revision is given with a directory or file, `encoder_id` is given with a hub id, the encoder
            does not have the pooled layers, or `source` is not a directory, a file or a hub id.
        InputError: the hub id cannot be downloaded, the encoder is of a kind that the graph does not support, or
            weights or vocabulary are missing.
    """
    # Without this, transformers asks the hub to convert a .bin checkpoint and downloads a second full copy.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")
    import transformers

    transformers.logging.set_verbosity_error()  # the important warnings are errors below
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
    """What transformers loaded, and the names of mismatched (wrong shape), missing and unexpected tensors."""

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
            dtype=torch.float32,  # transformers 5 would use the config's dtype, and round float32 weights to float16
            add_pooling_layer=False,
            attn_implementation="eager",
            ignore_mismatched_sizes=True,  # refused below, with their names
            output_loading_info=True,
        )
        tokenizer = load_tokenizer(hf_config, source, where)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        # AttributeError: the hub's cache has no weights. RuntimeError: tensors have another shape.
        refuse_code(error, source, "Export a checkpoint whose weights are model.safetensors.")
        raise InputError(
            f"{source}: transformers cannot load it as an encoder: {first_line(error)}",
            "Give a checkpoint with config.json, vocab.txt and the weights of an ESM or BERT model, as on the hub.",
        ) from error
    alphabet = read_alphabet(tokenizer, hf_config, source)
    # names, or since transformers 5 (name, shape, shape)
    mismatched = [entry if isinstance(entry, str) else entry[0] for entry in loading["mismatched_keys"]]
    return config, _Loaded(model, alphabet, mismatched, loading["missing_keys"], loading["unexpected_keys"])


def _config_without_code(source: str, where: dict[str, Any]) -> Any:
    """Transformers' config. Refuses a config that names the checkpoint's own Python code."""
    import transformers

    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise InputError(f"{source}: has no config.json", "Use the config.json that was saved with the weights.")
    facts, _ = transformers.PretrainedConfig.get_config_dict(source, **where)
    if facts.get("auto_map"):
        named = ", ".join(sorted(facts["auto_map"]))
        raise InputError(
            f"{source}: config.json needs Python code of the checkpoint ({first_line(named)}), which abonyx never runs",
            "Export an encoder that transformers can load without trust_remote_code.",
        )
    return transformers.AutoConfig.from_pretrained(source, **where, trust_remote_code=False)


# Prefixes of the encoder's tensors. All others (of a language model's head, a classifier, contacts) are ignored.
_ENCODER = ("embeddings.", "encoder.", "rotary_embeddings.")


def _check_names(loaded: _Loaded, source: str) -> tuple[str, ...]:
    """Refuse wrong, missing and unexpected tensors of the encoder; returns the names of ignored tensors."""
    mismatched, missing, extra = (
        sorted(name for name in names if _in_encoder(name))
        for names in (loaded.mismatched, loaded.missing, loaded.unexpected)
    )
    if mismatched:
        wanted = tuple(loaded.model.state_dict()[mismatched[0]].shape)
        what = f"{source}: {_list_tensors(mismatched)}: the shape is not {wanted}, as config.json requires"
        raise InputError(what, _OWN_CONFIG)
    if missing:
        what = f"{source}: missing: {_list_tensors(missing)}; transformers would use random values"
        raise InputError(what, "Use a complete checkpoint.")
    if extra:
        what = f"{source}: unexpected: {_list_tensors(extra)}; the model in config.json has no such tensor"
        raise InputError(what, f"{_OWN_CONFIG} Merge adapters first.")
    return tuple(sorted(loaded.unexpected))


def _in_encoder(name: str) -> bool:
    return name.removeprefix("esm.").removeprefix("bert.").removeprefix("roberta.").startswith(_ENCODER)


def _list_tensors(names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} of the encoder ({shown})"


def _check_finite(checkpoint: Checkpoint, source: str) -> None:
    """Refuse a used tensor that is not finite, because every score would be NaN."""
    for name in checkpoint.config.tensor_names():
        values = checkpoint.tensor(name)
        if not np.isfinite(values).all():
            shown = first_line(values.ravel()[~np.isfinite(values.ravel())][:3].tolist())
            what = f"{source}: {name} has {np.count_nonzero(~np.isfinite(values))} values that are not finite ({shown})"
            raise InputError(what, "Use the published checkpoint, or download it again.")


def identify(source: str, revision: str | None, encoder_id: str | None) -> tuple[str | None, str | None]:
    """The hub id (None if not known) and the commit (None for a directory or file). Downloads config.json only.

    Raises:
        ConfigError, InputError: see load_checkpoint.
    """
    local = "directory" if Path(source).is_dir() else "file" if Path(source).is_file() else None
    if local:
        _refuse_adapter(Path(source))
        if revision is not None:
            what = f"{option('revision')} {revision}: {source} is a {local}, which has no revisions"
            raise ConfigError(what, f"Leave {option('revision')} out.")
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
        # The smallest file shows the commit, from the hub or (offline) from the local cache.
        config = hf_hub_download(source, "config.json", revision=revision)
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            what = f"{source}: the repository has no config.json; it may be an adapter (e.g. LoRA), not a whole model"
            raise InputError(what, _MERGE) from error
        raise InputError(
            f"{source}: cannot download revision {revision or 'main'}: {type(error).__name__}: {first_line(error)}",
            f"Check the id, the revision and the network, or give a directory (and {option('encoder_id')}).",
        ) from error
    return source, Path(config).parent.name


def _refuse_adapter(directory: Path) -> None:
    """Refuse an adapter such as LoRA, because transformers would load the base model without it or wrap the model."""
    if (directory / ADAPTER_NAME).exists():
        raise InputError(
            f"{directory}: {ADAPTER_NAME} shows that this is a PEFT adapter (e.g. LoRA), not a whole model",
            f"{_MERGE} If the weights here are already merged, move {ADAPTER_NAME} away.",
        )
