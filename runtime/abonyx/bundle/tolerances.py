"""Every numeric tolerance of the project, with its reason. Tests and export read them from here."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest |difference| from PyTorch float32 that a variant may show, at export and at every open.

    Attributes:
        p: of the probability.
        logit: of the head's logit. A saturated head hides any error in p, so the logit has a limit of its own.
        embedding: of any element of the pooled embedding.
        value: of a linear head's value, in standard deviations of the values that it was trained on.
    """

    p: float
    logit: float
    embedding: float
    value: float


# The sigmoid's slope is at most 1/4: a logit off by 4e moves p by at most e, and by nearly e at p = 0.5.
LOGIT_PER_P = 4.0

# Two float32 engines that add in another order agree to about 1e-6 on the embedding (measured: 3e-7 to 8e-7 at 6
# layers, 2e-6 at 33); the head multiplies that by its norm. 1e-4 is a hundred times what is seen, and 1e-5 the goal.
# A linear head's value is off by at most 7.5e-6 of the sd of its training values (twelve ridge heads on the Jain
# assays, 6 layers); the rest is for other processors' order of summing. A limit in the unit would say nothing: values
# go from 0.01 to 1000.
FP32 = Limits(p=1e-4, logit=LOGIT_PER_P * 1e-4, embedding=1e-4, value=2e-5)
FP32_GOAL_P = 1e-5

# Contributions of a row's tokens against the head's own sum, in logits, and in sds of a linear head's training
# values: two orders of adding the same float32 numbers, of which the head's is the less exact (3.8e-6 off float64 on
# mini, where contributions are 9e-7 off). Seen at most: 4.7e-6 (mini, 300 antibodies, logits to 9.4), 1.6e-6 (trained
# ESM-2 8M, C = 10), 1.03e-5 (1,280 random units, the published ESM-1v head). The goal (issue 20) is what the tests
# hold mini to. A run is refused at ten times that; the limit grows with a sum above 1, as float32's steps do. A wrong
# sum is off by more.
CONTRIBUTION_SUM_GOAL = 1e-5
CONTRIBUTION_SUM = 10 * CONTRIBUTION_SUM_GOAL
CONTRIBUTION_SUM_VALUE_GOAL = 2e-5
CONTRIBUTION_SUM_VALUE = 10 * CONTRIBUTION_SUM_VALUE_GOAL

# Rounding the weights alone to float16 moves p by up to 3e-3 (33 layers, ESM-1v head, p near 0.5), so no float16
# arithmetic can be held below that; 0.0066 is what float16 arithmetic moved an element of the embedding on a GPU.
# A value in training sds spreads about as a logit does, so it may move as far.
FP16 = Limits(p=5e-3, logit=LOGIT_PER_P * 5e-3, embedding=5e-2, value=LOGIT_PER_P * 5e-3)

# Largest activation that float16 arithmetic may meet at export (issue 5): float16 ends at 65,504, and other sequences
# may go further than the golden rows.
FP16_LARGEST_ACTIVATION = 30_000.0

# Of p at float16 on the tests' own checkpoints: 32 hidden units spread p only through a head of large norm, which
# multiplies float16's rounding too.
TINY_FP16_P = 0.02

# Of peers in benchmarks/, whose arithmetic is not abonyx's to judge: that they run the same model is what these tell.
# esm-cpp is held to FP32 before it quantises.
PEER_BF16_P = 0.05
PEER_INT8_P = 0.3
PEER_FP16_P = 0.02
# cuda-fp16 on a card beside transformers' own float16 (issue 5): |dp| from float32, and how many times as much.
CUDA_FP16_P = 5e-3
CUDA_FP16_OVER_TRANSFORMERS = 1.25

# int8's gate on scores (issue 4): |dp| from float32 at most and on average, label flips at each threshold, rank
# correlation. At p = 0.5 a |dp| of 0.02 is a logit off by 0.08.
INT8_GATE_MAX_P = 0.02
INT8_GATE_MEAN_P = 0.003
INT8_GATE_FLIPS = 0.005
INT8_GATE_SPEARMAN = 0.999
# Of a linear head, in training sds: what the limits of p allow a logit near p = 0.5.
INT8_GATE_MAX_VALUE = LOGIT_PER_P * INT8_GATE_MAX_P
INT8_GATE_MEAN_VALUE = LOGIT_PER_P * INT8_GATE_MEAN_P
# Of the golden rows, which reach further from antibodies than the gate's: a logit far from 0 may be off by more than
# p shows (0.27 at 33 random layers), and an element of the embedding by more than the score does.
INT8 = Limits(p=INT8_GATE_MAX_P, logit=0.4, embedding=0.5, value=0.4)
# What export allows of it on the golden rows. Every machine that opens the bundle runs them again, on its own engine:
# of one export they were off by 0.0199 on ONNX Runtime's CPU kernels, and by 0.0204 on OpenVINO, which refused it.
INT8_GOLDEN_SHARE = 0.9

# Gate of int8 on the tests' own checkpoints, for its flips and ranks, which scale along: their logits (sd 0.4) crowd
# about the threshold, where 2 % flip at a max |dp| of 0.013. Of |dp| itself the tests hold them to the real limit.
TINY_INT8_P = 0.1
# One sequence alone and among others at int8: the scales are fixed, but a last bit of float32 can tip a value to the
# next integer, a 255th of its range. Seen: nothing, on 48 real sequences (6 layers of 1280; alone, 512, 4,000 tokens).
INT8_BATCH_NEIGHBOURS = 2e-3

# By a variant's precision, as export writes it into the manifest.
LIMITS: dict[str, Limits] = {"fp32": FP32, "fp16": FP16, "fp16-weights": FP16, "int8": INT8, "cuda-fp16": FP16}

# One sequence alone and the same one among others, float32: summation order may change with the batch's shape.
BATCH_NEIGHBOURS = 1e-5
# The same of float16 arithmetic on a card: 1.5e-4 was seen between two ways of batching (33 random layers, H100).
FLOAT16_NEIGHBOURS = 5e-4

# A golden set must tell a right encoder from a wrong one: the spread of p below which every gate passes by
# saturation (a head on random weights gives p = 1.0 throughout).
GOLDEN_MIN_SD_P = 0.05

# Spread of the golden rows' logits below which a head tells nothing apart: float32 holds no such difference in p.
HEAD_MIN_SPREAD = 1e-9

# A head's graph (float32) against sigmoid(w.x + b) in float64. Rounding w and summing D products puts about 4 u s
# on the logit (u = 2^-24, s the root of the summed squares of the products, 1 to 4 on the probe rows) and a quarter of
# it on p. A linear head is held to FP32.value.
# Measured: 5e-7 to 8e-7 for the old pipeline's four heads, up to 1e-6 for synthetic ones of D = 320 to 2560;
# the rest is for other processors' order of summing.
HEAD_P = 4e-6

# A metric of a bootstrap resample against scikit-learn's on the same rows: the same float64 sums in another order.
RESAMPLED_METRIC = 1e-12

# Draws of clusters below which a card says nothing: beyond each end of a 95 % interval lie 2.5 % of them, of 200 five.
# With twenty, the interval's end is the largest draw, whatever it is.
CARD_MIN_DRAWS = 200

# Resident memory after five open-score-close cycles against that after the first close; MEMORY_BYTES also holds any
# reload against the second one (benchmarks/soak.py).
MEMORY_RATIO = 1.10
MEMORY_BYTES = 30 * 2**20

# Resident memory of `score` with all rows done against that with a tenth of them done: their ratio less 1.
SOAK_RATIO = 0.05

# bfloat16 arithmetic (OpenVINO on a CPU): 8 bits of mantissa, an eighth of float16's. Measured: p 2.0e-3, logit 0.015,
# embedding 0.011 (mini); embedding 0.024 at 6 and 0.049 at 33 layers of ESM-1v's width with random weights, where the
# mini's ratio gives a logit 0.07. The rest is for other processors; a logit far from 0 may move more than p shows.
BF16 = Limits(p=0.02, logit=0.2, embedding=0.2, value=0.2)


def looser(one: Limits, other: Limits) -> Limits:
    """The larger limit of each metric: what a graph of one precision run in another's arithmetic may show."""
    return Limits(**{name: max(getattr(one, name), getattr(other, name)) for name in one.__struct_fields__})


# An interval of an AUC or a correlation that is narrower than this has no width but what rounding in float64 gave it:
# every draw had the same figure, and the interval says nothing of how far the figure moves.
NO_WIDTH = 1e-9
