"""The checkpoint's token ids of the letters that are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abonyx.bundle.manifest import RESIDUES, UNKNOWN, AlphabetSpec
from abonyx.errors import InputError, first_line

# Vocabulary of ESM-1b, ESM-1v and ESM-2 (fair-esm's Alphabet); a token's index is its id.
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_CORRECT = "Correct the checkpoint's tokenizer files or its config.json."
# Files from which transformers can read a tokenizer.
_VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.json", "tokenizer.model")
_BRACKETED = re.compile(r"\[.*\]|<.*>")


def load_tokenizer(config: Any, source: str, where: Mapping[str, Any]) -> Any:
    """Transformers' tokenizer of a checkpoint.

    Args:
        config: transformers' config.
        source: directory or hub id.
        where: the revision of a hub id.

    Raises:
        InputError: the tokenizer cannot be read, or only by running the checkpoint's own code.
    """
    import transformers

    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _VOCABULARIES):
        raise InputError(f"{source}: has no vocab.txt", "Put the vocab.txt of the encoder beside its weights.")
    reader = transformers.EsmTokenizer if config.model_type == "esm" else transformers.AutoTokenizer
    try:
        return reader.from_pretrained(source, **where, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        reason = first_line(error)
        if "custom code" in str(error):
            what = f"{source}: tokenizer_config.json needs Python code from the checkpoint, which abonyx never runs"
            raise InputError(what, "Export an encoder whose tokenizer is part of transformers.") from error
        raise InputError(
            f"{source}: transformers cannot read its tokenizer: {reason}", "Add the vocab.txt of the encoder."
        ) from error


def read_alphabet(tokenizer: Any, config: Any, source: str) -> AlphabetSpec:
    """Read the alphabet of a checkpoint.

    Args:
        tokenizer, config: transformers' tokenizer and config of the checkpoint.
        source: the checkpoint's name, for messages.

    Returns:
        The ids of the residues (with X if the vocabulary has it) and of the special tokens.

    Raises:
        InputError: a residue has no token, the vocabulary has words, or ids do not fit the config or each other.
    """
    vocabulary = tokenizer.get_vocab()
    words = sorted(token for token in vocabulary if _is_word(token, tokenizer.all_special_tokens))
    if words:
        what = f"{source}: {len(words)} of {len(vocabulary)} tokens are words ({', '.join(words[:3])})"
        raise InputError(first_line(what), "Export an encoder with one token for each residue.")
    residues = {letter: vocabulary[letter] for letter in RESIDUES if letter in vocabulary}
    missing = [letter for letter in RESIDUES if letter not in residues and letter != UNKNOWN]
    if missing:
        what = f"{source}: the vocabulary has no token for {', '.join(missing)}"
        raise InputError(what, "Export an encoder of proteins, with a token for each amino acid.")
    # BERT's tokenizers have no EOS; they end a sequence with SEP.
    eos_id = tokenizer.eos_token_id if config.model_type == "esm" else tokenizer.sep_token_id
    ids = {**residues, "CLS": tokenizer.cls_token_id, "EOS": eos_id, "padding": tokenizer.pad_token_id}
    check_ids(ids, config, source)
    read = tokenizer(" ".join(residues))["input_ids"]
    if read != [ids["CLS"], *residues.values(), ids["EOS"]]:
        what = f"{source}: the tokenizer reads {' '.join(residues)} as {read}, not as CLS, one token per residue, EOS"
        raise InputError(what, "Correct tokenizer_config.json, e.g. do_lower_case.")
    return AlphabetSpec(residues=residues, cls_id=ids["CLS"], pad_id=ids["padding"], eos_id=eos_id)


def _is_word(token: str, special: Sequence[str]) -> bool:
    """Whether a token has more than one letter. `[CLS]`, `<cls>` and a letter with a subword marker are not words."""
    return token not in special and not _BRACKETED.fullmatch(token) and len(token.strip("#\u2581\u0120")) > 1


def check_ids(ids: Mapping[str, int | None], config: Any, source: str) -> None:
    """Refuse ids without a row in the embedding, ids that two tokens share, and ids that contradict the config.

    Args:
        ids: token -> id, for each residue, "CLS", "EOS" and "padding".
        config: transformers' config.
        source: the checkpoint's name, for messages.

    Raises:
        InputError: an id is wrong.
    """
    owners: dict[int | None, str] = {}
    for token, token_id in ids.items():
        if token_id is None:
            raise InputError(f"{source}: the tokenizer has no token for {token}", _CORRECT)
        if token_id >= config.vocab_size:
            raise InputError(
                f"{source}: the id of {token} is {token_id}, but the embedding has only {config.vocab_size} rows",
                _CORRECT,
            )
        if token_id in owners:
            raise InputError(
                f"{source}: the tokenizer gives {owners[token_id]} and {token} the same id, {token_id}", _CORRECT
            )
        owners[token_id] = token
    if ids["padding"] != config.pad_token_id:
        raise InputError(
            f"{source}: the pad token is {ids['padding']} in the vocabulary, but {config.pad_token_id} in config.json",
            _CORRECT,
        )
    masked = owners.get(getattr(config, "mask_token_id", None))
    if masked and getattr(config, "token_dropout", False):  # transformers would set this token's embedding to 0
        raise InputError(
            f"{source}: mask_token_id in config.json is {config.mask_token_id}, which is the id of {masked}", _CORRECT
        )
