"""The checkpoint's own token ids, for the letters that are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from abonyx.bundle.manifest import RESIDUES, UNKNOWN, AlphabetSpec
from abonyx.errors import InputError, first_line

# ESM-1b's, ESM-1v's and ESM-2's vocabulary; the order is the ids (fair-esm's Alphabet).
VOCABULARY = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
_CORRECT = "Correct the checkpoint."
# What transformers can read a tokenizer from, if there is no vocab.txt.
_VOCABULARIES = ("vocab.txt", "vocab.json", "tokenizer.json", "tokenizer.model")
_BRACKETED = re.compile(r"\[.*\]|<.*>")


def load_tokenizer(config: Any, source: str, where: Mapping[str, Any]) -> Any:
    """Transformers' tokenizer of a checkpoint.

    Args:
        config: transformers' own; where: the revision, of a hub id.

    Raises:
        InputError: it cannot be read, or not without code of its own.
    """
    import transformers

    if Path(source).is_dir() and not any((Path(source) / name).is_file() for name in _VOCABULARIES):
        raise InputError(f"{source}: has no vocab.txt", "Put the vocab.txt of the encoder beside its weights.")
    reader = transformers.EsmTokenizer if config.model_type == "esm" else transformers.AutoTokenizer
    try:
        return reader.from_pretrained(source, **where, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        said = first_line(error)
        if "custom code" in str(error):
            what = f"{source}: tokenizer_config.json names Python code of its own, which abonyx does not run"
            raise InputError(what, "Export an encoder whose tokenizer is part of transformers.") from error
        raise InputError(
            f"{source}: transformers cannot read its tokenizer: {said}", "It needs the vocab.txt of an encoder."
        ) from error


def read_alphabet(tokenizer: Any, config: Any, source: str) -> AlphabetSpec:
    """Read the alphabet of a checkpoint.

    Args:
        tokenizer, config: transformers' own, of the checkpoint.

    Returns:
        The ids of the residues, X among them if the vocabulary has it.

    Raises:
        InputError: a residue without a token, a vocabulary of words, or ids that do not fit the config or each other.
    """
    vocabulary = tokenizer.get_vocab()
    words = sorted(token for token in vocabulary if _is_word(token, tokenizer.all_special_tokens))
    if words:
        what = f"{source}: the vocabulary has words, {len(words)} of {len(vocabulary)} tokens ({', '.join(words[:3])})"
        raise InputError(first_line(what), "abonyx exports encoders that read one residue a token.")
    residues = {letter: vocabulary[letter] for letter in RESIDUES if letter in vocabulary}
    missing = [letter for letter in RESIDUES if letter not in residues and letter != UNKNOWN]
    if missing:
        raise InputError(f"{source}: no token for {', '.join(missing)}", "The vocabulary is not of amino acids.")
    # BERT's tokenizers end a sequence with SEP, which they have no EOS beside
    eos_id = tokenizer.eos_token_id if config.model_type == "esm" else tokenizer.sep_token_id
    ids = {**residues, "CLS": tokenizer.cls_token_id, "EOS": eos_id, "padding": tokenizer.pad_token_id}
    check_ids(ids, config, source)
    read = tokenizer(" ".join(residues))["input_ids"]
    if read != [ids["CLS"], *residues.values(), ids["EOS"]]:
        what = f"{source}: the tokenizer reads {' '.join(residues)} as {read}, not as CLS, one token a residue, and EOS"
        raise InputError(what, "Correct tokenizer_config.json (do_lower_case, say).")
    return AlphabetSpec(residues=residues, cls_id=ids["CLS"], pad_id=ids["padding"], eos_id=eos_id)


def _is_word(token: str, special: Sequence[str]) -> bool:
    """Whether a token is more than one letter; `[CLS]`, `<cls>` and a letter that is marked as a piece are not."""
    return token not in special and not _BRACKETED.fullmatch(token) and len(token.strip("#\u2581\u0120")) > 1


def check_ids(ids: Mapping[str, int | None], config: Any, source: str) -> None:
    """Refuse ids that the embedding has no row for, that two tokens share, or that the config means otherwise.

    Args:
        ids: of each residue, and of "CLS", "EOS" and "padding".
    """
    owners: dict[int | None, str] = {}
    for token, token_id in ids.items():
        if token_id is None:
            raise InputError(f"{source}: the tokenizer has no token for {token}", _CORRECT)
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
    masked = owners.get(getattr(config, "mask_token_id", None))
    if masked and getattr(config, "token_dropout", False):  # transformers would zero its embedding
        raise InputError(
            f"{source}: mask_token_id in config.json is {config.mask_token_id}, which is the id of {masked}", _CORRECT
        )
