"""Exercises of lesson 16: scaling up."""

import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_number, draw_tensor


# 16.1 implement: what training keeps in memory
def _model(generator):
    weights = int(torch.randint(50, 900, (), generator=generator)) * 1000
    return weights, int(torch.randint(1, 40, (), generator=generator)) * 1000


def memory(weights, trained, copies=4):
    """Bytes in float32: the weights, and of each that is trained its gradient and Adam's two moments."""
    return 4 * weights + 4 * (copies - 1) * trained


# 16.2 derive: weights of an adapter
def _shapes(generator):
    sizes = torch.randint(2, 40, (4, 2), generator=generator).tolist()
    return [tuple(size) for size in sizes], int(torch.randint(2, 9, (), generator=generator))


def lora_weights(shapes, r):
    """Σ r (in + out) over the layers."""
    return sum(r * (rows + columns) for rows, columns in shapes)


# 16.4 find the bug: gradient accumulation
def _batch(generator):
    mask = draw_mask(generator, batch=6, time=6)
    mask[1:3] = torch.arange(6) < 2  # parts of different lengths
    mask[4] = torch.arange(6) < 5
    return draw_tensor(generator, 6, 6, low=-4.0, high=-0.1), mask, 2


def _gradient(accumulate, logprobs, mask, size):
    """What is compared: the gradient that the parts leave behind."""
    free = logprobs.clone().requires_grad_()
    parts = [(free[k : k + size], mask[k : k + size]) for k in range(0, len(mask), size)]
    total = accumulate(parts)
    if total is None or total is ...:
        return total
    return torch.autograd.grad(total, free)[0]


def _sums(parts):
    """Of each part: minus its masked sum, and its number of tokens."""
    return [(-torch.where(mask, logprobs, 0.0).sum(), mask.sum()) for logprobs, mask in parts]


def _whole_batch(parts):
    sums = _sums(parts)
    return sum(loss for loss, _ in sums) / sum(count for _, count in sums)


def _mean_of_means(parts):
    return sum(loss / count for loss, count in _sums(parts)) / len(parts)


def _sum_of_means(parts):
    return sum(loss / count for loss, count in _sums(parts))


def _over_rows(parts):
    return sum(loss for loss, _ in _sums(parts)) / sum(len(mask) for _, mask in parts)


def _over_all_places(parts):
    return sum(loss for loss, _ in _sums(parts)) / sum(mask.numel() for _, mask in parts)


def _twice_divided(parts):
    return _whole_batch(parts) / len(parts)


def _pads_too(parts):
    return -sum(logprobs.sum() for logprobs, _ in parts) / sum(mask.sum() for _, mask in parts)


# 16.5 derive: who divides?
def _counts(generator):
    counts = torch.randint(5, 60, (int(torch.randint(2, 6, (), generator=generator)),), generator=generator)
    return counts.tolist(), 0


def _denominator(counts, index):
    return sum(counts) / len(counts)


# 16.6 experiment: how many processes?
PROCESSES, ROWS, BAR = (2, 4, 8, 16, 32), 64, 0.15


def weight_error(processes: int, seed: int, batches: int = 200) -> float:
    """How far, in root mean square, a token's weight in the mean of means is from 1: 64 completions dealt out blindly.

    Lengths are those of a policy that ends with probability 1/16 at each token and is cut off at 24.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(batches, ROWS, generator=generator, dtype=torch.float64)
    lengths = (1 + (draws.log() / math.log(15 / 16)).floor()).clamp(max=24)
    tokens = lengths.view(batches, processes, -1).sum(2)  # of each process
    weight = tokens.sum(1, keepdim=True) / processes / tokens  # N / (W n_p)
    mean_square = (tokens * (weight - 1).square()).sum(1) / tokens.sum(1)
    return mean_square.sqrt().mean().item()


def _small_error(processes) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if processes not in PROCESSES:
        return False, f"Answer with a number of processes out of {', '.join(map(str, PROCESSES))}."
    mean, low, high = mean_interval([weight_error(int(processes), seed) for seed in range(100, 104)])
    larger = [p for p in PROCESSES if p > processes]
    words = (
        f"On 4 new seeds the weights are off by {mean:.1%}, 95 % interval {low:.1%} to {high:.1%}; all of it must be "
        f"below {BAR:.0%}"
    )
    if high < BAR and larger and mean_interval([weight_error(larger[0], s) for s in range(100, 104)])[2] < BAR:
        return False, words + f". It is; but so it is with {larger[0]}, and the most processes were asked for."
    return high < BAR, words + "."


# 16.8 implement: merging an adapter
def _adapter(generator):
    return (
        draw_tensor(generator, 5, 5),
        draw_tensor(generator, 3, 5),
        draw_tensor(generator, 5, 3),
        draw_number(generator, 3.0, 9.0, decimals=0),
    )


def merged(W, A, B, alpha):
    """W + (α/r) B A."""
    return W + alpha / len(A) * B @ A


EXERCISES = [
    Exercise(
        id="16.1",
        title="What training keeps",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=8,
        reference=memory,
        inputs=_model,
        mistakes={
            "no moments": Mistake(
                "Weights and gradients only. What else does Adam remember of every weight that it trains?",
                lambda weights, trained: memory(weights, trained, 2),
            ),
            "one too few": Mistake(
                "Two numbers beside each trained weight; there are three. Which is missing: the gradient, Adam's "
                "running mean of it, or that of its square?",
                lambda weights, trained: memory(weights, trained, 3),
            ),
            "all trained": Mistake(
                "That is full fine-tuning: a frozen weight has no gradient and no moments.",
                lambda weights, trained: memory(weights, weights),
            ),
            "frozen forgotten": Mistake(
                "The frozen weights are missing. They are not trained, but the forward pass needs them.",
                lambda weights, trained: memory(trained, trained),
            ),
            "numbers": Mistake(
                "That is how many numbers are kept. A float32 number takes more than a byte.",
                lambda weights, trained: memory(weights, trained) // 4,
            ),
            "two bytes": Mistake(
                "Two bytes a number: that would be bfloat16.", lambda weights, trained: memory(weights, trained) // 2
            ),
        },
        hint="Four bytes a number. All weights once; and how many more numbers for each that is trained?",
        remark="16 bytes a trained weight, 4 a frozen one. It is Adam, more than the model, that fills a GPU.",
    ),
    Exercise(
        id="16.2",
        title="How many weights has an adapter?",
        kind="derive",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=lora_weights,
        inputs=_shapes,
        mistakes={
            "product": Mistake(
                "r · out · in: as if B A were stored. Only its two factors are.",
                lambda shapes, r: sum(r * a * b for a, b in shapes),
            ),
            "A only": Mistake("That is A alone, [r, in].", lambda shapes, r: sum(r * b for _, b in shapes)),
            "B only": Mistake("That is B alone, [out, r].", lambda shapes, r: sum(r * a for a, _ in shapes)),
            "the layer too": Mistake(
                "The frozen W is counted too. How many are trained?",
                lambda shapes, r: sum(r * (a + b) + a * b for a, b in shapes),
            ),
            "middle": Mistake(
                "There is an r × r matrix in the middle: LoRA has two factors, not three.",
                lambda shapes, r: sum(r * (a + b) + r * r for a, b in shapes),
            ),
        },
        hint="B is [out, r] and A is [r, in].",
        remark="It grows with the sum of a layer's two sides, and the layer with their product.",
    ),
    Exercise(
        id="16.3",
        title="The first step",
        kind="predict",
        difficulty=3,
        importance=3,
        minutes=4,
        choices=("A", "B", "both", "neither"),
        reference="B",
        mistakes={
            "A": Mistake("The gradient of A carries a factor of B. What is B before the first step?", "A"),
            "both": Mistake(
                "In the end both do. But write down the gradient of B A x by A, and put in what B is at the start.",
                "both",
            ),
            "neither": Mistake(
                "Nothing would ever move then. The gradient of B carries a factor of A, which is random.", "neither"
            ),
        },
        remark="∂(B A x)/∂A has the factor B, and B = 0. From the second step on both move. Were A zero too, neither "
        "ever would.",
    ),
    Exercise(
        id="16.4",
        title="The same batch in small portions",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_whole_batch,
        inputs=_batch,
        call=_gradient,
        mistakes={
            "as given": Mistake(
                "Still a mean of means: which tokens weigh more, those of a part with few tokens or with many?",
                _mean_of_means,
            ),
            "sum of means": Mistake(
                "The means are added up: the step grows with the number of parts. (Transformers 4.47 did this to some "
                "models, on the way to mending the mean of means.)",
                _sum_of_means,
            ),
            "rows": Mistake(
                "Divided by the number of rows: tokens weigh alike now, but the mean over tokens was asked for.",
                _over_rows,
            ),
            "pads counted": Mistake("Pads are counted in the denominator.", _over_all_places),
            "divided twice": Mistake(
                "The whole batch's count is in the denominator already: dividing by the number of parts as well makes "
                "every step too short.",
                _twice_divided,
            ),
            "pads": Mistake("The pads' log-probs are in the sum: the mask is gone.", _pads_too),
            "sign": Mistake("The sign of the loss: optimisers go downhill.", lambda parts: -_whole_batch(parts)),
        },
        hint="Count the tokens of all parts first, then pass that number to each as denominator=.",
        remark="The count must be known before the first part's `backward`. That is the whole price.",
    ),
    Exercise(
        id="16.5",
        title="Who divides?",
        kind="derive",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=_denominator,
        inputs=_counts,
        mistakes={
            "whole batch": Mistake(
                "With N, and gradients that are averaged afterwards, every step is too short: by which factor?",
                lambda counts, index: sum(counts),
            ),
            "own": Mistake("Each process's own count: the mean of means again.", lambda counts, index: counts[index]),
            "times W": Mistake(
                "The wrong way: averaging divides once more, so that less must be divided before.",
                lambda counts, index: sum(counts) * len(counts),
            ),
            "W": Mistake("The number of processes. And the tokens?", lambda counts, index: len(counts)),
        },
        hint="Averaging is a sum divided by W. The sum of the losses over the processes, each divided by d, times 1/W, "
        "must be the sum over all tokens times 1/N.",
        remark="TRL's GRPO does just this: num_items_in_batch / num_processes.",
    ),
    Exercise(
        id="16.6",
        title="How many processes?",
        kind="experiment",
        difficulty=3,
        importance=3,
        minutes=8,
        reference=4,
        accept=_small_error,
        mistakes={
            "one each": Mistake("Two completions a process: their two lengths hardly ever agree.", 32),
            "sixteen": Mistake("Four completions a process do not yet average their lengths.", 16),
        },
        hint="Call weight_error with each number of processes and several seeds.",
        remark="The error shrinks as one over the root of the completions that a process has. "
        "With the right denominator it is 0 for any number.",
    ),
    Exercise(
        id="16.7",
        title="A ratio in bfloat16",
        kind="predict",
        difficulty=3,
        importance=4,
        minutes=5,
        choices=("0.01 %", "0.4 %", "3 %", "30 %"),
        reference="3 %",
        mistakes={
            "float16's": Mistake(
                "So it would be about in float16, which has 10 bits after the leading one. bfloat16 has 7.", "0.4 %"
            ),
            "float32's": Mistake("Far too good: neighbours are 8 · 2⁻⁷ apart there.", "0.01 %"),
            "too much": Mistake("Neighbours are 1/16 apart, and the rounding error is at most half of that.", "30 %"),
        },
        remark="Between 8 and 16 neighbours are 2³ · 2⁻⁷ = 1/16 apart; an error of up to 1/32 in a log-probability is "
        "a factor of up to e^(1/32) = 1.032 in the ratio. In every token, before anything was learnt.",
    ),
    Exercise(
        id="16.8",
        title="Merge an adapter",
        kind="implement",
        difficulty=2,
        importance=4,
        minutes=8,
        reference=merged,
        inputs=_adapter,
        mistakes={
            "no scale": Mistake(
                "The adapter's scale α/r is missing. (PEFT keeps it in adapter_config.json.)",
                lambda W, A, B, alpha: W + B @ A,
            ),
            "α alone": Mistake("Scaled by α, and not divided by the rank.", lambda W, A, B, alpha: W + alpha * B @ A),
            "√r": Mistake(
                "α/√r: that is rsLoRA's scale, another method.",
                lambda W, A, B, alpha: W + alpha / len(A) ** 0.5 * B @ A,
            ),
            "over the width": Mistake(
                "Divided by the layer's width. What is the rank of B A?",
                lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A,
            ),
            "twice": Mistake(
                "The adapter is in it twice. So it comes out when a merged model is loaded under its adapter again.",
                lambda W, A, B, alpha: W + 2 * alpha / len(A) * B @ A,
            ),
            "transposed": Mistake(
                "B A is transposed: rows are outputs, columns inputs.",
                lambda W, A, B, alpha: W + alpha / len(A) * (B @ A).mT,
            ),
            "adapter only": Mistake("The adapter without the layer.", lambda W, A, B, alpha: alpha / len(A) * B @ A),
            "sign": Mistake(
                "Subtracted: that takes a merged adapter out again.",
                lambda W, A, B, alpha: W - alpha / len(A) * B @ A,
            ),
        },
        hint="A is [r, in], B is [out, r]. The layer computes W x + (α/r) B (A x).",
        remark="After merging there is nothing of LoRA left: an ordinary model, as fast as before.",
    ),
]
