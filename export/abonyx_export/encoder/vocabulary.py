"""The checkpoint's own token ids, for the letters that are scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abonyx.bundle.manifest import RESIDUES, AlphabetSpec
from abonyx.errors import InputError

# ESM-1b's, ESM-1v's and ESM-2's vocabulary; the order is the ids (fair-esm's Alphabet).
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_CORRECT = "Correct the checkpoint."


def read_alphabet(tokenizer: Any, config: Any, source: str) -> AlphabetSpec:
    """Read the alphabet of an ESM checkpoint.

    Args:
        tokenizer, config: transformers' own, of the checkpoint.

    Raises:
        InputError: a letter without a token, or ids that do not fit the config or each other.
    """
    residues = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in RESIDUES}
    unknown = [letter for letter, token_id in residues.items() if token_id in (None, tokenizer.unk_token_id)]
    if unknown:
        raise InputError(f"{source}: no token for {', '.join(unknown)}", "The vocabulary is not ESM's.")
    ids = {**residues, "CLS": tokenizer.cls_token_id, "EOS": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id}
    check_ids(ids, config, source)
    return AlphabetSpec(
        residues=residues, cls_id=tokenizer.cls_token_id, pad_id=tokenizer.pad_token_id, eos_id=tokenizer.eos_token_id
    )


def check_ids(ids: Mapping[str, int], config: Any, source: str) -> None:
    """Refuse ids that the embedding has no row for, that two tokens share, or that the config means otherwise.

    Args:
        ids: of each residue, and of "CLS", "EOS" and "padding".
    """
    owners: dict[int, str] = {}
    for token, token_id in ids.items():
        if token_id >= config.vocab_size:
            raise InputError(
                f"{source}: {token} is token {token_id} of the vocabulary, the embedding has {config.vocab_size} rows",
                _CORRECT,
            )
        if token_id in owners:
            raise InputError(
                f"{source}: the tokenizer gives {owners[token_id]} and {token} the same id, {token_id}", _CORRECT
            )
        owners[token_id] = token
    if ids["padding"] != config.pad_token_id:
        raise InputError(
            f"{source}: pad token is {ids['padding']} in the vocabulary and {config.pad_token_id} in config.json",
            _CORRECT,
        )
    masked = owners.get(config.mask_token_id)
    if masked and config.token_dropout:  # transformers would zero its embedding
        raise InputError(
            f"{source}: mask_token_id in config.json is {config.mask_token_id}, which is the id of {masked}", _CORRECT
        )
