"""Load Meta's own checkpoint files (`esm1v_t33_650M_UR90S_1.pt`, as fair-esm downloads them) as transformers' EsmModel.

The rules are those of fair-esm 2.0.0 (esm/pretrained.py): ESM-1b and ESM-1v have `args`, ESM-2 has `cfg`, and tensors
have fair-esm's names. The separate file of the contact head is not needed. The files are read as data: torch only
creates tensors, plain values, and argparse.Namespace, which holds the training arguments.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from abonyx.bundle.manifest import RESIDUES, AlphabetSpec
from abonyx.errors import InputError, first_line
from abonyx_export.encoder.config import EncoderConfig, inverse_frequency_name, read_config
from abonyx_export.encoder.vocabulary import VOCABULARY

if TYPE_CHECKING:
    import torch
    from transformers import EsmConfig, EsmModel

_FIX = "Give the model's file from Meta (esm1v_..., esm1b_... or esm2_....pt), or a Hugging Face directory."
# The value that transformers' conversion of ESM-2 writes. Rotary positions have no table, and so no limit.
_ROTARY_POSITIONS = 1026
# PyTorch's default, which fair-esm uses for its norms.
_LAYER_NORM_EPS = 1e-5
_WORDS = "embed_tokens.weight"
# fair-esm's names -> transformers' names, outside the layers and inside a layer.
_MODULES = {
    "embed_tokens": "embeddings.word_embeddings",
    "embed_positions": "embeddings.position_embeddings",
    "emb_layer_norm_before": "embeddings.layer_norm",
    "emb_layer_norm_after": "encoder.emb_layer_norm_after",
}
_LAYER_MODULES = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn.rot_emb": "attention.self.rotary_embeddings",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")
_IGNORED = ("lm_head.", "contact_head.")
_UNPICKLED = re.compile(r"GLOBAL ([\w.]+)")


class FairEsm(NamedTuple):
    """The content of a file.

    Attributes:
        config: shape and options of the encoder.
        model: transformers' model in float32.
        alphabet: fair-esm's alphabet, which is not in the file.
        ignored: names of tensors that do not belong to the encoder.
    """

    config: EncoderConfig
    model: EsmModel
    alphabet: AlphabetSpec
    ignored: tuple[str, ...]


def load_fair_esm(path: Path, pooled_layers: tuple[str, ...]) -> FairEsm:
    """Load a `.pt` file of ESM-1b, ESM-1v or ESM-2.

    Raises:
        InputError: the file is not such a checkpoint, needs code, holds another model, or has tensors that are
            missing, unexpected, or of a wrong shape.
    """
    import transformers

    content = _read(path)
    tensors = {
        name.removeprefix("encoder.").removeprefix("sentence_encoder."): value
        for name, value in content["model"].items()
    }
    hf_config = _describe(content, tensors, path)
    config = read_config(hf_config, str(path), pooled_layers)
    ignored = tuple(sorted(name for name in tensors if name.startswith(_IGNORED)))
    state = {_our_name(name): value for name, value in tensors.items() if not name.startswith(_IGNORED)}
    wanted = set(config.tensor_names())
    _refuse(wanted - state.keys(), "missing", "Use a complete file: download it again.", path)
    _refuse(state.keys() - wanted, "unexpected", _FIX, path)
    model = transformers.EsmModel._from_config(hf_config, add_pooling_layer=False, attn_implementation="eager")
    try:
        model.load_state_dict(state, strict=False)  # names are compared above
    except RuntimeError as error:
        raise InputError(f"{path}: the tensors do not fit the arguments: {first_line(error)}", _FIX) from error
    _refuse_lost_frequencies(config, state, model, path)
    return FairEsm(config, model, _alphabet(), ignored)


def refuse_code(error: BaseException, source: str, fix: str) -> None:
    """Raise an InputError if the error, or one of its causes, says that torch refused to run code."""
    text, cause = str(error), error.__cause__ or error.__context__
    while cause is not None:
        text, cause = f"{text}\n{cause}", cause.__cause__ or cause.__context__
    code = _UNPICKLED.search(text)
    if code:
        raise InputError(f"{source}: reading it would run code ({code[1]}), which abonyx never does", fix)
    if "Weights only load failed" in text:  # torch's own text advises to run the code
        raise InputError(f"{source}: not a PyTorch checkpoint, or one that can only be read by running code", fix)


def _read(path: Path) -> dict[str, Any]:
    """The file's content; its tensors are in `model`."""
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # torch warns about pickles from other tools
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise anything in torch's reader: KeyError, struct.error, ...
        refuse_code(error, str(path), _FIX)
        raise InputError(f"{path}: not a PyTorch checkpoint: {first_line(error)}", _FIX) from error
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, torch.Tensor) for value in model.values()):
        held = f"keys {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: not a checkpoint of fair-esm: it holds {first_line(held)}", _FIX)
    return dict(content)


def _arguments(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], bool]:
    """The training arguments, name -> value, and whether the model is ESM-2."""
    cfg = content.get("cfg")
    esm2 = isinstance(cfg, dict)
    arguments = cfg.get("model") if isinstance(cfg, dict) else content.get("args")
    if not isinstance(arguments, argparse.Namespace):
        held = first_line(f"keys {', '.join(map(str, content))}")
        raise InputError(f"{path}: not an encoder of fair-esm: it holds {held}, but no args or cfg of a model", _FIX)
    # fairseq's name for `layers` is `encoder_layers`
    facts = {name.removeprefix("encoder_"): value for name, value in vars(arguments).items()}
    if not esm2 and facts.get("arch") != "roberta_large":
        raise InputError(f"{path}: the model is {first_line(facts.get('arch'))}, not ESM-1b, ESM-1v or ESM-2", _FIX)
    if esm2 and "token_dropout" not in facts:  # in a file of ESM-1b, a missing argument means no token dropout
        raise InputError(f"{path}: argument token_dropout is missing", _FIX)
    return facts, esm2


def _describe(content: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], path: Path) -> EsmConfig:
    """Transformers' config that matches the file's arguments."""
    import transformers

    facts, rotary = _arguments(content, path)

    def fact(name: str) -> int:
        value = facts.get(name)
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{path}: argument {name} is {first_line(value)}", _FIX)
        return value

    words = tensors.get(_WORDS)
    rows = 0 if words is None else len(words)
    if rows != len(VOCABULARY):
        what = f"{path}: {_WORDS} has {rows} rows, the alphabet of ESM-1b, ESM-1v and ESM-2 has {len(VOCABULARY)}"
        raise InputError(what, _FIX)
    hidden, pad_id = fact("embed_dim"), VOCABULARY.index("<pad>")
    return transformers.EsmConfig(
        vocab_size=rows,
        mask_token_id=VOCABULARY.index("<mask>"),
        pad_token_id=pad_id,
        hidden_size=hidden,
        num_hidden_layers=fact("layers"),
        num_attention_heads=fact("attention_heads"),
        intermediate_size=4 * hidden if rotary else fact("ffn_embed_dim"),
        max_position_embeddings=_ROTARY_POSITIONS if rotary else fact("max_positions") + pad_id + 1,
        layer_norm_eps=_LAYER_NORM_EPS,
        token_dropout=bool(facts["token_dropout"] if rotary else facts.get("token_dropout", False)),
        position_embedding_type="rotary" if rotary else "absolute",
        emb_layer_norm_before=any(name.startswith("emb_layer_norm_before.") for name in tensors),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def _our_name(name: str) -> str:
    """Transformers' name of a fair-esm tensor; the same name if transformers has none."""
    layer = _LAYER.fullmatch(name)
    module, _, part = (layer[2] if layer else name).rpartition(".")
    known = (_LAYER_MODULES if layer else _MODULES).get(module)
    if known is None:
        return name
    return f"encoder.layer.{layer[1]}.{known}.{part}" if layer else f"{known}.{part}"


def _their_name(name: str) -> str:
    """The name in fair-esm of a tensor that has this name in transformers."""
    layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", name)
    module, _, part = (layer[2] if layer else name).rpartition(".")
    for theirs, ours in (_LAYER_MODULES if layer else _MODULES).items():
        if ours == module:
            return f"layers.{layer[1]}.{theirs}.{part}" if layer else f"{theirs}.{part}"
    return name


def _refuse(names: Iterable[str], what: str, fix: str, path: Path) -> None:
    """Raise an InputError that lists these tensors, if there are any; `what` is "missing" or "unexpected"."""
    found = sorted(map(_their_name, names))
    if found:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise InputError(f"{path}: {len(found)} {what} tensor{'s' if len(found) > 1 else ''}: {shown}", fix)


def _refuse_lost_frequencies(
    config: EncoderConfig, state: Mapping[str, torch.Tensor], model: EsmModel, path: Path
) -> None:
    """Refuse layers with different frequencies under transformers 5, which has only one table for all layers."""
    if config.positions == "rotary" and "rotary_embeddings.inv_freq" in dict(model.named_buffers()):
        first = state[inverse_frequency_name(0)]
        for index in range(config.layers):
            if not first.equal(state[inverse_frequency_name(index)]):
                raise InputError(
                    f"{path}: rotary frequencies of layers 0 and {index} differ; this version of transformers has only "
                    "one table for all layers",
                    "Install transformers 4.57 to export this file.",
                )


def _alphabet() -> AlphabetSpec:
    return AlphabetSpec(
        residues={letter: VOCABULARY.index(letter) for letter in RESIDUES},
        cls_id=VOCABULARY.index("<cls>"),
        pad_id=VOCABULARY.index("<pad>"),
        eos_id=VOCABULARY.index("<eos>"),
    )
