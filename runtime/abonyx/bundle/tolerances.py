"""Every numeric tolerance of the project, with its reason. Tests and export import them from here."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest |difference| from PyTorch float32 that a variant may show, at export and at every open.

    Attributes:
        p: for a probability.
        logit: for the logit of a head. It has its own limit, because a saturated p hides an error.
        embedding: for any element of the pooled embedding.
        value: for the value of a linear head, in standard deviations of its training values.
    """

    p: float
    logit: float
    embedding: float
    value: float


# The slope of the sigmoid is at most 1/4. So a logit error of 4e moves p by at most e, and by nearly e at p = 0.5.
LOGIT_PER_P = 4.0

# Two float32 engines that add in different orders agree to about 1e-6 on the embedding (measured: 3e-7 to 8e-7 at 6
# layers, 2e-6 at 33). The head multiplies this error by its norm. 1e-4 is a hundred times the measured error, and 1e-5
# is the goal. For linear heads, the measured error of a value is at most 7.5e-6 of the sd of the training values
# (twelve ridge heads on the Jain assays, 6 layers); the rest of the limit is for processors that sum in another order.
# The limit is not in the head's unit, because values range from 0.01 to 1000.
FP32 = Limits(p=1e-4, logit=LOGIT_PER_P * 1e-4, embedding=1e-4, value=2e-5)
FP32_GOAL_P = 1e-5

# The sum of a row's contributions against the head's own sum, in logits, or in sds of a linear head's training values.
# Both add the same float32 numbers in different orders. The head's order is less exact (its error against float64 is
# 3.8e-6 on mini; that of the contributions is 9e-7). Largest measured difference: 4.7e-6 (mini, 300 antibodies, logits
# up to 9.4), 1.6e-6 (trained ESM-2 8M, C = 10), 1.03e-5 (1,280 random units, the published ESM-1v head). The tests
# check mini against the goal (issue 20). A run stops at ten times the goal. Above 1, the limit grows with the sum, as
# the steps of float32 do. A real mistake makes a larger difference.
CONTRIBUTION_SUM_GOAL = 1e-5
CONTRIBUTION_SUM = 10 * CONTRIBUTION_SUM_GOAL
CONTRIBUTION_SUM_VALUE_GOAL = 2e-5
CONTRIBUTION_SUM_VALUE = 10 * CONTRIBUTION_SUM_VALUE_GOAL

# Rounding only the weights to float16 moves p by up to 3e-3 (33 layers, ESM-1v head, p near 0.5), so float16 arithmetic
# cannot have a smaller limit. On a GPU, float16 arithmetic moved an element of the embedding by 0.0066. A value in
# training sds varies about as much as a logit, so it has the same limit.
FP16 = Limits(p=5e-3, logit=LOGIT_PER_P * 5e-3, embedding=5e-2, value=LOGIT_PER_P * 5e-3)

# Largest activation that export allows for float16 arithmetic (issue 5). float16 ends at 65,504, and other sequences
# may have larger activations than the golden rows.
FP16_LARGEST_ACTIVATION = 30_000.0
# Largest sum of the biases of a pre-norm layer's two products in cuda-fp16. The graph adds the products without their
# biases. This sum is one activation minus another, minus the biases. So it is at most 2 x 30,000 + 5,504, the largest
# float16.
FP16_LARGEST_BIASES = 65_504 - 2 * FP16_LARGEST_ACTIVATION

# Limit of p at float16 for the checkpoints of the tests. With 32 hidden units, only a head with a large norm spreads p,
# and it also multiplies the rounding of float16.
TINY_FP16_P = 0.02

# Limits of p for other engines in benchmarks/. They only check that an engine runs the same model. For esm-cpp without
# quantisation, the limit is FP32.p.
PEER_BF16_P = 0.05
PEER_INT8_P = 0.3
PEER_FP16_P = 0.02
# cuda-fp16 on a GPU (issue 5): its |dp| from float32, and the ratio of this to the |dp| of transformers' float16.
CUDA_FP16_P = 5e-3
CUDA_FP16_OVER_TRANSFORMERS = 1.25

# Limits of int8 for scores (issue 4): largest and mean |dp| from float32, share of label flips at each threshold, rank
# correlation. At p = 0.5, a |dp| of 0.02 is a logit error of 0.08.
INT8_GATE_MAX_P = 0.02
INT8_GATE_MEAN_P = 0.003
INT8_GATE_FLIPS = 0.005
INT8_GATE_SPEARMAN = 0.999
# The same for a linear head, in training sds: the logit error that the limits of p allow near p = 0.5.
INT8_GATE_MAX_VALUE = LOGIT_PER_P * INT8_GATE_MAX_P
INT8_GATE_MEAN_VALUE = LOGIT_PER_P * INT8_GATE_MEAN_P
# Limits of int8 for the golden rows, which are less like antibodies than the sequences above. A logit far from 0 may
# have a larger error than p shows (0.27 at 33 random layers), and so may an element of the embedding.
INT8 = Limits(p=INT8_GATE_MAX_P, logit=0.4, embedding=0.5, value=0.4)
# Export uses these limits times this factor. Every machine that opens the bundle runs the golden rows on its own
# engine, and engines differ: for one export the error was 0.0199 on ONNX Runtime's CPU kernels and 0.0204 on OpenVINO,
# which therefore refused the bundle.
INT8_GOLDEN_SHARE = 0.9

# Limit of p for int8 on the checkpoints of the tests. Their logits (sd 0.4) are close to the threshold, so 2 % of the
# labels flip at a max |dp| of 0.013. The limits of flips and ranks scale with this one. One test also checks the gate's
# |dp| against INT8_GATE_MAX_P.
TINY_INT8_P = 0.1
# A sequence scored alone, against the same sequence in a batch, at int8. The scales are fixed, but the last bit of a
# float32 can round a value to the next integer, 1/255 of its range. Measured: no difference, on 48 real sequences (6
# layers of 1280; alone, and in batches of 512 and 4,000 tokens).
INT8_BATCH_NEIGHBOURS = 2e-3

# Precision of a variant -> the limits that export writes into the manifest.
LIMITS: dict[str, Limits] = {"fp32": FP32, "fp16": FP16, "fp16-weights": FP16, "int8": INT8, "cuda-fp16": FP16}

# A sequence scored alone, against the same sequence in a batch, at float32: the order of summation may depend on the
# shape of the batch.
BATCH_NEIGHBOURS = 1e-5
# The same for float16 arithmetic on a GPU. Measured between a service (batches of 1 to about 250 rows) and a run:
# 1.3e-3 (20,000 antibodies, 33 random layers, H100). Measured between two ways of batching a run: 1.5e-4.
FLOAT16_NEIGHBOURS = 2e-3

# Smallest sd of p in a golden set. Below it, p is saturated, and even a wrong encoder would pass every check (a head on
# random weights gives p = 1.0 for all rows).
GOLDEN_MIN_SD_P = 0.05

# Smallest spread of the golden rows' logits. Below it, a head gives the same p for all rows at float32.
HEAD_MIN_SPREAD = 1e-9

# The graph of a head (float32) against sigmoid(w.x + b) in float64. Rounding w and summing D products gives the logit
# an error of about 4 u s (u = 2^-24, s the root of the summed squares of the products, 1 to 4 on the probe rows), and p
# a quarter of it. For a linear head the limit is FP32.value. Measured: 5e-7 to 8e-7 for the four heads of the old
# pipeline, up to 1e-6 for synthetic heads of D = 320 to 2560. The rest is for processors that sum in another order.
HEAD_P = 4e-6

# A metric of a bootstrap resample against scikit-learn on the same rows: the same float64 sums in another order.
RESAMPLED_METRIC = 1e-12

# Smallest number of bootstrap draws for an interval on a card. Of 200 draws, five are beyond each end of a 95 %
# interval. Of twenty, the end of the interval would be the most extreme draw.
CARD_MIN_DRAWS = 200

# Resident memory after five cycles of open, score and close, compared with that after the first close. MEMORY_BYTES
# also limits how much memory grows from the second reload to any later reload (benchmarks/soak.py).
MEMORY_RATIO = 1.10
MEMORY_BYTES = 30 * 2**20

# Resident memory of `score` when all rows are done, compared with a tenth of the rows: the ratio minus 1.
SOAK_RATIO = 0.05

# bfloat16 arithmetic (OpenVINO on a CPU): its steps are eight times as large as those of float16. Measured: p 2.0e-3,
# logit 0.015, embedding 0.011 (mini); embedding 0.024 at 6 and 0.049 at 33 layers of ESM-1v's width with random
# weights, from which mini's ratio predicts a logit error of 0.07. The rest is for other processors. A logit far from 0
# may move more than p shows.
BF16 = Limits(p=0.02, logit=0.2, embedding=0.2, value=0.2)


def looser(one: Limits, other: Limits) -> Limits:
    """The larger limit of each metric, for a graph of one precision that runs in the arithmetic of another."""
    return Limits(**{name: max(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__})


# If the interval of an AUC or a correlation is narrower than this, its width is only rounding in float64: every draw
# gave the same figure, so the interval says nothing about how far the figure can move.
NO_WIDTH = 1e-9
