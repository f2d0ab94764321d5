"""Pretrain a small encoder of ESM-1v's architecture on antibody sequences, by masked-language modelling.

    python training/pretrain.py --corpus corpus.txt --recipe training/recipe.toml --seed 10 -o DIR [--device cuda]

This is plain PyTorch in one file, which is why it has over 300 lines. It must give the same numbers as transformers'
EsmForMaskedLM. DIR becomes a checkpoint in the hub's layout (config.json, vocab.txt, model.safetensors) with a training
record (training.json). After a stop, the same command resumes from DIR/state.pt. On a CPU,
the weights are then the same as without the stop.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from abonyx_export.encoder.checkpoint import VOCABULARY

CLS, PAD, EOS, MASK = (VOCABULARY.index(token) for token in ("<cls>", "<pad>", "<eos>", "<mask>"))
FIRST_RESIDUE, LAST_RESIDUE = VOCABULARY.index("L"), VOCABULARY.index("C")
# Embeddings are scaled as if 0.15 * 0.8 of the tokens were masked: the share in training (Lin et al. 2023, fair-esm).
UNMASKED_SHARE = 0.88
OUTPUTS = ("config.json", "vocab.txt", "model.safetensors", "training.json")
STATE = "state.pt"
# Target of a token that is not predicted; functional.cross_entropy's default.
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that decide the weights, together with the corpus and the seed.

    Attributes:
        held_out_share: share of the corpus for the held-out loss; the model is never trained on it.
        mask_share: share of residues to predict. Of these, 80 % are masked, 10 % are replaced by a random residue, and
            10 % stay (Devlin et al. 2019).
        batch_size: sequences per step.
        steps: steps of the optimiser.
        warmup_steps: steps in which the learning rate rises linearly; then it follows a cosine to 0.
        max_gradient_norm: gradients are clipped to this norm.
        report_steps: steps between two lines of the training record.
        position_offsets: each row's positions are moved by a random number from 0 to this value, different in every
            step, so that the model cannot learn the usual residue of a position. The checkpoint has the middle of the
            table. 0 = no offset, as in ESM-1v.
        cut_residues, extra_residues: half of the rows lose their first 1 to cut_residues residues, or get 1 to
            extra_residues random residues in front. The end of the sequence does not change.
    """

    layers: int
    hidden: int
    attention_heads: int
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    dropout: float
    mask_share: float
    max_gradient_norm: float
    held_out_share: float
    report_steps: int
    position_offsets: int
    cut_residues: int
    extra_residues: int


def read_recipe(path: Path) -> Recipe:
    """Read the recipe from a TOML file. No key may be missing, unknown or of a wrong type."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    kinds = {field.name: field.type for field in fields(Recipe)}
    wrong = sorted(kinds.keys() ^ values.keys())
    wrong += [key for key in kinds.keys() & values.keys() if type(values[key]).__name__ != kinds[key]]
    if wrong:
        sys.exit(f"{path}: these keys are missing, unknown or of a wrong type: {', '.join(wrong)}")
    return Recipe(**values)


class PretrainedLayer(nn.Module):
    """One pre-norm transformer layer; its tensors have transformers' names."""

    def __init__(self, hidden: int, attention_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_heads, self.dropout = attention_heads, dropout
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict({"dense": nn.Linear(hidden, hidden)}),
                "LayerNorm": nn.LayerNorm(hidden, eps=1e-5),
            }
        )
        self.LayerNorm = nn.LayerNorm(hidden, eps=1e-5)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, 4 * hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(4 * hidden, hidden)})

    def forward(self, x: Tensor, may_attend: Tensor) -> Tensor:
        """Hidden states (B, L, H) -> (B, L, H); may_attend is (B, 1, 1, L) bool."""
        batch, length, hidden = x.shape
        attention: Any = self.attention
        normed = attention["LayerNorm"](x)
        query, key, value = (
            attention["self"][name](normed).view(batch, length, self.attention_heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )  # (B, heads, L, H / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=may_attend)
        mixed = mixed.transpose(1, 2).reshape(batch, length, hidden)  # (B, L, H)
        x = x + functional.dropout(attention["output"]["dense"](mixed), self.dropout, self.training)
        wide = functional.gelu(self.intermediate["dense"](self.LayerNorm(x)))
        return x + functional.dropout(self.output["dense"](wide), self.dropout, self.training)


class PretrainedEncoder(nn.Module):
    """ESM-1v's encoder with its masked-language head: absolute positions, token dropout, and a norm at the end."""

    def __init__(self, recipe: Recipe, longest: int) -> None:
        super().__init__()
        hidden = recipe.hidden
        self.middle, self.longest = recipe.position_offsets // 2, longest
        # PAD + 1 ids before the first position, then CLS, the longest row with extra residues, EOS, and the offsets.
        # The table has only these positions, because each of them is trained.
        positions = PAD + 1 + longest + recipe.extra_residues + 2 + recipe.position_offsets
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(len(VOCABULARY), hidden, padding_idx=PAD),
                "position_embeddings": nn.Embedding(positions, hidden, padding_idx=PAD),
            }
        )
        layers = [PretrainedLayer(hidden, recipe.attention_heads, recipe.dropout) for _ in range(recipe.layers)]
        self.encoder = nn.ModuleDict(
            {"layer": nn.ModuleList(layers), "emb_layer_norm_after": nn.LayerNorm(hidden, eps=1e-5)}
        )
        self.lm_head = nn.ModuleDict({"dense": nn.Linear(hidden, hidden), "layer_norm": nn.LayerNorm(hidden, eps=1e-5)})
        self.lm_bias = nn.Parameter(torch.zeros(len(VOCABULARY)))
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)  # transformers initialises every ESM this way
        tables: Any = self.embeddings
        with torch.no_grad():
            for table in tables.values():
                table.weight[PAD] = 0

    def embed(self, ids: Tensor, offsets: Tensor | None) -> Tensor:
        """Tokens (B, L) -> input of the first layer (B, L, H); padding is zero."""
        is_token = ids.ne(PAD)
        moved = self.middle if offsets is None else offsets[:, None]
        position_ids = (torch.cumsum(is_token, 1) + moved) * is_token + PAD
        masked = ids.eq(MASK)
        words = self.embeddings["word_embeddings"](ids).masked_fill(masked[..., None], 0.0)
        unmasked_share = 1 - masked.sum(1) / is_token.sum(1)  # (B,)
        words = words * (UNMASKED_SHARE / unmasked_share)[:, None, None].to(words.dtype)
        positions = self.embeddings["position_embeddings"](position_ids)
        return (words + positions) * is_token[..., None]  # type: ignore[no-any-return]

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, L) -> the embedding layer and the last layer after its norm, (B, L, H) each.

        Args:
            ids: (B, L) token ids of VOCABULARY.
            offsets: (B,) int64, the move of each row's positions; None = the middle, as in the checkpoint.
        """
        first = x = self.embed(ids, offsets)
        may_attend = ids.ne(PAD)[:, None, None, :]  # (B, 1, 1, L)
        encoder: Any = self.encoder
        for layer in encoder["layer"]:
            x = layer(x, may_attend)
        return first, encoder["emb_layer_norm_after"](x)

    def predict(self, last: Tensor) -> Tensor:
        """The last layer (..., H) -> logits of the vocabulary (..., V), with the embedding table as output layer."""
        hidden = self.lm_head["layer_norm"](functional.gelu(self.lm_head["dense"](last)))
        return functional.linear(hidden, self.embeddings["word_embeddings"].weight, self.lm_bias)  # type: ignore[arg-type]

    def checkpoint(self) -> dict[str, Tensor]:
        """Float32 tensors by transformers' names, rounded to float16 values, so that float16 storage loses nothing.

        The position table starts at the middle offset and has the positions of the longest sequence, because a plain
        ESM starts at the first position.
        """
        names = {"lm_bias": "lm_head.bias"}
        tensors = {}
        for name, parameter in self.named_parameters():
            known = names.get(name, name if name.startswith("lm_head.") else f"esm.{name}")
            tensors[known] = parameter.detach().half().float().cpu().contiguous()
        name = "esm.embeddings.position_embeddings.weight"
        first = PAD + 1 + self.middle
        tensors[name] = torch.cat([tensors[name][: PAD + 1], tensors[name][first : first + self.longest + 2]])
        return tensors


def encode(sequences: Sequence[str], width: int) -> Tensor:
    """Padded token rows (n, width) with CLS and EOS."""
    ids = {residue: index for index, residue in enumerate(VOCABULARY)}
    rows = torch.full((len(sequences), width), PAD, dtype=torch.long)
    for row, sequence in zip(rows, sequences, strict=True):
        row[: len(sequence) + 2] = torch.tensor([CLS, *(ids[residue] for residue in sequence), EOS])
    return rows


def mask_tokens(ids: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch with hidden residues (see Recipe.mask_share), and the targets: their true ids, IGNORED elsewhere."""

    def draw() -> Tensor:
        return torch.rand(ids.shape, device=ids.device, generator=generator)

    chosen = (ids >= FIRST_RESIDUE) & (ids <= LAST_RESIDUE) & (draw() < share)
    how = draw()
    other = torch.randint(FIRST_RESIDUE, LAST_RESIDUE + 1, ids.shape, device=ids.device, generator=generator)
    hidden = torch.where(chosen & (how < 0.8), MASK, torch.where(chosen & (how >= 0.9), other, ids))
    return hidden, torch.where(chosen, ids, IGNORED)


def vary_starts(ids: Tensor, cut: int, extra: int, generator: torch.Generator) -> Tensor:
    """The batch with changed starts: half of the rows lose 1 to `cut` residues or get 1 to `extra` random ones."""

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, device=ids.device, generator=generator)

    rows, width = ids.shape
    moved = draw(-extra, cut, rows)
    moved = torch.where(moved >= 0, moved + 1, moved) * draw(0, 2, rows)  # from -extra to cut; 0 for half of the rows
    column = torch.arange(width, device=ids.device).expand(rows, width)
    source = column + moved[:, None]
    others = draw(FIRST_RESIDUE, LAST_RESIDUE + 1, rows, width)
    residues = torch.where(source < 1, others, ids.gather(1, source.clamp(0, width - 1)))
    return torch.where(column == 0, ids, torch.where(source >= width, PAD, residues))


@dataclass
class TrainingRun:
    """One pretraining run: its data, its model, and its current step."""

    recipe: Recipe
    corpus_sha256: str
    seed: int
    device: str
    train: Tensor
    held_out: Tensor
    model: PretrainedEncoder
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    step: int
    history: list[dict[str, float]]

    @classmethod
    def begin(cls, recipe: Recipe, sequences: Sequence[str], seed: int, device: str) -> TrainingRun:
        """Start a run at step 0. The split into training and held-out sequences is the same for every seed."""
        longest = max(map(len, sequences))
        tokens = encode(sequences, 8 * math.ceil((longest + recipe.extra_residues + 2) / 8))
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
        held_out = round(recipe.held_out_share * len(tokens))
        torch.manual_seed(seed)
        model = PretrainedEncoder(recipe, longest).to(device)
        tables = {id(table) for table in model.embeddings.parameters()}
        decayed = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables]
        others = [p for p in model.parameters() if p.ndim != 2 or id(p) in tables]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        betas = (recipe.adam_beta1, recipe.adam_beta2)
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=device == "cuda")
        generator = torch.Generator(device).manual_seed(seed)
        train = tokens[order[held_out:]].to(device)
        return cls(
            recipe,
            hashlib.sha256("\n".join(sequences).encode()).hexdigest(),
            seed,
            device,
            train,
            tokens[order[:held_out]],
            model,
            optimiser,
            generator,
            step=0,
            history=[],
        )

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        recipe, done = self.recipe, self.step + 1
        if done <= recipe.warmup_steps:
            return recipe.learning_rate * done / recipe.warmup_steps
        share = (done - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def batch(self) -> Tensor:
        """The step's rows. Every epoch has a new random order of the sequences, without an incomplete last batch."""
        per_epoch = len(self.train) // self.recipe.batch_size
        if not per_epoch:
            sys.exit(f"{len(self.train)} training sequences are fewer than batch_size {self.recipe.batch_size}")
        epoch, at = divmod(self.step, per_epoch)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(self.seed * 100_003 + epoch))
        rows = order[at * self.recipe.batch_size : (at + 1) * self.recipe.batch_size]
        return self.train[rows.to(self.device)]

    def varied(self) -> tuple[Tensor, Tensor | None]:
        """The step's rows with changed starts, and their offsets. A recipe with neither draws no random numbers."""
        recipe, ids = self.recipe, self.batch()
        if recipe.cut_residues or recipe.extra_residues:
            ids = vary_starts(ids, recipe.cut_residues, recipe.extra_residues, self.generator)
        if not recipe.position_offsets:
            return ids, None
        high, draws = recipe.position_offsets + 1, self.generator
        return ids, torch.randint(0, high, (len(ids),), device=ids.device, generator=draws)

    def loss(
        self,
        encoder: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]],
        ids: Tensor,
        offsets: Tensor | None,
        draws: torch.Generator,
    ) -> Tensor:
        """Cross-entropy of the hidden residues of a batch."""
        hidden, target = mask_tokens(ids, self.recipe.mask_share, draws)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            _, last = encoder(hidden, offsets)
            logits = self.model.predict(last)
        return functional.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=IGNORED)

    def advance(self) -> Tensor:
        """One optimiser step; returns its loss as a tensor, without waiting for the device."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.loss(self.model, *self.varied(), self.generator)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.max_gradient_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def held_out_loss(self) -> float:
        """Mean cross-entropy on the held-out sequences. The same residues are hidden every time."""
        generator = torch.Generator(self.device).manual_seed(12345)
        self.model.eval()
        with torch.no_grad():
            parts = torch.split(self.held_out, self.recipe.batch_size)
            # Call forward and not the compiled module, which would be compiled again for the shape of the last batch.
            losses = [
                (self.loss(self.model.forward, part.to(self.device), None, generator).item(), len(part))
                for part in parts
            ]
        self.model.train()
        return sum(loss * rows for loss, rows in losses) / max(1, len(self.held_out))

    def state(self) -> dict[str, Any]:
        """Everything that a later process needs to resume. It includes torch's generator, which dropout uses."""
        generators = {"run": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if self.device == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state()
        return {
            "recipe": asdict(self.recipe),
            "corpus_sha256": self.corpus_sha256,
            "seed": self.seed,
            "device": self.device,
            "step": self.step,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "generators": generators,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from a state. A state of another recipe, corpus, seed or device is refused."""
        identity = {"recipe": asdict(self.recipe), "corpus_sha256": self.corpus_sha256}
        for key, here in (identity | {"seed": self.seed, "device": self.device}).items():
            if state[key] != here:
                sys.exit(f"{STATE} has another {key}: {state[key]}, expected {here}; give another directory")
        self.step, self.history = state["step"], state["history"]
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generators"]["run"].cpu())
        torch.set_rng_state(state["generators"]["cpu"].cpu())
        if self.device == "cuda":
            torch.cuda.set_rng_state(state["generators"]["cuda"].cpu())


def pretrain(
    run: TrainingRun, directory: Path, report: Callable[[str], object], stop_after: int | None = None
) -> dict[str, Any] | None:
    """Train to the recipe's last step, saving the state at each report.

    Args:
        run: from TrainingRun.begin; resumes from directory/state.pt if the file exists.
        directory: created if needed. At the end it has OUTPUTS, and state.pt is removed.
        report: called with a line at each report.
        stop_after: stop at this step, like an interrupted run.

    Returns:
        The training record, or None if the run stopped at stop_after.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state_file = directory / STATE
    if state_file.is_file():
        run.restore(torch.load(state_file, map_location=run.device, weights_only=True))
        report(f"resuming from step {run.step}")
    recipe = run.recipe
    total, taken, started = torch.zeros((), device=run.device), 0, time.perf_counter()
    while run.step < min(recipe.steps, stop_after or recipe.steps):
        total += run.advance()
        taken += 1
        if run.step % recipe.report_steps == 0 or run.step == recipe.steps:
            line = {
                "step": run.step,
                "train_loss": round(float(total) / taken, 4),
                "held_out_loss": round(run.held_out_loss(), 4),
                "seconds": round(time.perf_counter() - started, 1),
            }
            run.history.append(line)
            total, taken, started = torch.zeros((), device=run.device), 0, time.perf_counter()
            report(", ".join(f"{key} {value}" for key, value in line.items()))
            partial = directory / f"{STATE}.partial"
            torch.save(run.state(), partial)
            partial.replace(state_file)
    if run.step < recipe.steps:
        return None
    record = write_checkpoint(run, directory)
    state_file.unlink(missing_ok=True)
    return record


def write_checkpoint(run: TrainingRun, directory: Path) -> dict[str, Any]:
    """Write OUTPUTS; returns the training record."""
    from safetensors.torch import save_file

    recipe = run.recipe
    config = {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": len(VOCABULARY),
        "pad_token_id": PAD,
        "mask_token_id": MASK,
        "num_hidden_layers": recipe.layers,
        "hidden_size": recipe.hidden,
        "num_attention_heads": recipe.attention_heads,
        "intermediate_size": 4 * recipe.hidden,
        "max_position_embeddings": PAD + 1 + run.model.longest + 2,
        "position_embedding_type": "absolute",
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "token_dropout": True,
        "emb_layer_norm_before": False,
        "tie_word_embeddings": True,
    }
    record = {
        "recipe": asdict(recipe),
        "corpus_sha256": run.corpus_sha256,
        "seed": run.seed,
        "trained_sequences": len(run.train),
        "held_out_sequences": len(run.held_out),
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "device": torch.cuda.get_device_name() if run.device == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "history": run.history,
    }
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (directory / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    save_file(run.model.checkpoint(), directory / "model.safetensors", metadata={"format": "pt"})
    record["weights_sha256"] = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    (directory / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def read_corpus(path: Path) -> list[str]:
    """Read one sequence per line. A letter that ESM does not know ends the program with the number of the line."""
    sequences = path.read_text(encoding="utf-8").split()
    letters = set(VOCABULARY[FIRST_RESIDUE : VOCABULARY.index("X") + 1])
    for number, sequence in enumerate(sequences, 1):
        if not set(sequence) <= letters:
            wrong = "".join(sorted(set(sequence) - letters))
            sys.exit(f"{path}: sequence {number} has letters that ESM does not know: {wrong!r}")
    if not sequences:
        sys.exit(f"{path}: the file has no sequences")
    return sequences


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="corpus.txt from training/corpus.py")
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    finished = [name for name in OUTPUTS if (arguments.output / name).exists()]
    if finished and not (arguments.output / STATE).exists():  # if STATE exists, a run stopped while it wrote OUTPUTS
        sys.exit(f"{arguments.output} already has {', '.join(finished)}; give another directory")
    run = TrainingRun.begin(
        read_recipe(arguments.recipe), read_corpus(arguments.corpus), arguments.seed, arguments.device
    )
    if arguments.device == "cuda":
        run.model.compile()
    pretrain(run, arguments.output, lambda line: sys.stderr.write(f"{line}\n"))


if __name__ == "__main__":
    main()
