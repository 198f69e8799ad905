# %% [markdown]
# # 16 · Scaling up
#
# **The question.** Everything so far ran on a model of five million weights. What changes with a hundred million, or
# seven billion: in the code, in memory, on several machines, and in the hands of another library?
#
# **You will** run lesson 13's RLOO on SmolLM2 without changing a line of it; count where the memory goes and what LoRA
# saves; split one batch over two processes, get it wrong in the way that everybody once got it wrong, and then right to
# the last digits; see why log-probabilities stay in float32; and hand a policy over to plain Transformers and to TRL.
#
# | | |
# |---|---|
# | You need | lessons 10 and 13 (price of KL, RLOO) |
# | Reading | 40 minutes, and an hour for the exercises |
# | Run time | about a minute and a half on 2 cores; the first time, 93 MB to download and a minute more |
# | A GPU | sections 1, 2, 4 and 7 say what it changes; no figure in this lesson was measured on one |

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# SmolLM2-135M-Instruct (Allal et al. 2025) has 26 times the weights of our tiny model, and has read the web instead of
# film reviews. Where it cannot be fetched, the tiny model stands in.

# %%
try:
    assets.smollm2_dir()
    NAME = "smol"
except assets.AssetError as error:
    NAME = "tiny"
    print(f"{error} Until then the tiny model stands in; stored results are SmolLM2's.")

# %% [markdown]
# ## 1 · The same code, another model
#
# Two words differ from lesson 13: the model's name, and `lora=16`, of which more in section 2. The reward is VADER's
# sentiment (lesson 04) of the lecture's opening, *I loved the book but really hated the movie*, and what the model
# adds. Two steps run here; four seeds of twelve steps are stored.
#
# > **Predict before you run.** Sixteen completions of sixteen tokens: how long does a step take? The tiny model needs
# > less than a second.

# %%
from dataclasses import replace

scaling = experiments.lesson_16
policy = models.load_model(NAME, lora=16)
reference = models.AdaptersOff(policy)  # section 2 says how a policy can be its own reference
live = scaling.StepTimes()
group.train(policy, [reviews.LECTURE_OPENING], rewards.vader(), replace(scaling.SMOL, steps=2), reference, live)
print(f"{NAME}: {sum(live.seconds) / 2:.1f} processor seconds a step")

# %%
stored = results.load("16_scaling")["SmolLM2"]
steps = list(range(len(stored["reward"][0])))
lines = {"SmolLM2, 4 stored runs": (steps, stored["reward"]), f"{NAME}, live": ([0, 1], live.column("reward"))}
fig = show.curves(lines, "roll-outs of 16 completions", "mean VADER score", size=(8.5, 3.6))
show.figure(fig, alt="VADER's score of SmolLM2's texts rises over the roll-outs in all four stored runs.")


# %%
before, after = stored["before"], stored["after"]
three = {"SmolLM2": before["texts"][0], "after RLOO": after["texts"][0]}  # of the first seed
show.text_samples([reviews.LECTURE_OPENING] * 3, three)
rows = [(name, *[show.interval(at[key]) for at in (before, after)]) for name, key in scaling.SEEN.items()]
show.table(rows, ["mean VADER score", "before", "after"], "4 seeds, 95 %")
gains = {key: runs.paired_interval(after[key], before[key]) for key in scaling.SEEN.values()}
for name, key in scaling.SEEN.items():
    print(f"gain on {name}: " + "{:.2f} ({:.2f} to {:.2f})".format(*gains[key]).replace("-", "−"))
per_step = [sum(s) / len(s) for s in stored["seconds"]]
print(f"a step took {show.interval(per_step, 1)} seconds of one core")
assert gains["opening"][1] > 0 > gains["unseen"][1]

# %% [markdown]
# On the opening it was trained on, all of the interval is gain. (Read the texts too: VADER counts words, and "loved" is
# one of them; lesson 14.) On openings that it never saw there is no clear difference: twelve steps on one prompt teach
# one prompt.
#
# The algorithm is the same file, `algorithms/group.py`. What has grown is the time for a step, and the memory. That is
# where the work of scaling lies: not in the formulas. The same from the command line, for as long as you like:
#
#     rlhf train rloo --model smol --lora 16 --reward vader --out build/smol
#
# On a machine with a GPU the same call finds it (`device=None` takes CUDA where there is one; `device="cpu"`, `"cuda"`
# and `"mps"` say so by name), and `dtype=torch.bfloat16` makes it use the GPU's fast units (section 4).
#
# ## 2 · Where the memory goes
#
# Four things live in memory while one trains: the **weights**; a **gradient** of each trained weight; what the
# optimiser remembers of it, for Adam a running mean of the gradient and one of its square, the two **moments**; and
# the **activations**, what the forward pass keeps for the backward pass.
#
# **Exercise 16.1 · What training keeps** (implement · difficulty ●●○○○ · importance ●●●●● · 8 min)
#
# A model of `weights` weights, of which `trained` are trained by Adam, all in float32. How many bytes do weights,
# gradients and moments take? By hand: 100 weights, all trained, 1,600 bytes.


# %% tags=["exercise"]
def training_bytes(weights, trained):
    """Bytes of weights, gradients and Adam's moments in float32."""
    ### BEGIN SOLUTION
    return 4 * (weights + trained + 2 * trained)
    ### END SOLUTION


# %%
training_bytes = check("16.1", training_bytes)

# %% [markdown]
# How many weights are there? All three models are of the Llama family, so one formula counts them. It is confirmed on
# models without memory: on torch's device "meta" a tensor has a shape and no numbers.


# %%
SHAPES = {  # width, width inside the MLP, layers, heads, heads of keys, vocabulary, one table for input and output
    "tiny": (256, 672, 4, 4, 4, 8192, True),
    "SmolLM2": (576, 1536, 30, 9, 3, 49152, True),
    "Llama 2 7B": (4096, 11008, 32, 32, 32, 32000, False),
}


def linear_layers(width, inner, layers, heads, keys, *_):
    """(out, in) of every linear layer inside the blocks: q, k, v, o, gate, up, down."""
    kv = width // heads * keys
    block = [(width, width), (kv, width), (kv, width), (width, width), (inner, width), (inner, width), (width, inner)]
    return block * layers


def count_weights(width, inner, layers, heads, keys, vocabulary, tied):
    norms = width * (2 * layers + 1)
    inside = sum(rows * columns for rows, columns in linear_layers(width, inner, layers, heads, keys))
    return vocabulary * width * (1 if tied else 2) + inside + norms


# %%
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
for name, shape in SHAPES.items():
    with torch.device("meta"):
        options = dict(zip((*NAMES, "vocab_size", "tie_word_embeddings"), shape, strict=True))
        ghost = LlamaForCausalLM(LlamaConfig(**options))
    assert sum(p.numel() for p in ghost.parameters()) == count_weights(*shape)
    print(f"{name:10} {count_weights(*shape):13,} weights")
tiny = models.load_model("tiny")
assert sum(p.numel() for p in tiny.parameters()) == count_weights(*SHAPES["tiny"])

# %% [markdown]
# ### LoRA
#
# **LoRA** (*low-rank adaptation*; Hu et al. 2021) leaves every weight $W$ as it is and learns a correction of rank $r$
# beside it:
#
# $$W x + \tfrac{\alpha}{r}\, B A\, x, \qquad A \in \mathbb{R}^{r \times \text{in}},\quad
# B \in \mathbb{R}^{\text{out} \times r}.$$
#
# $A$ starts random, $B$ at zero.
#
# **Exercise 16.2 · How many weights has an adapter?** (derive · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# Layers with the shapes `[(out, in), …]` all get an adapter of rank `r`. How many weights are trained?


# %% tags=["exercise"]
def lora_weights(shapes, r):
    """The number of trained weights."""
    ### BEGIN SOLUTION
    return sum(r * (rows + columns) for rows, columns in shapes)
    ### END SOLUTION


# %%
lora_weights = check("16.2", lora_weights)

# %%
adapted = models.load_model("tiny", lora=16)
counted = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
assert counted == lora_weights(linear_layers(*SHAPES["tiny"]), 16)

rows = []
for name, shape in SHAPES.items():
    weights, trained = count_weights(*shape), lora_weights(linear_layers(*shape), 16)
    full, lora = training_bytes(weights, weights), training_bytes(weights + trained, trained)
    rows.append((name, weights / 1e6, 4 * weights / 1e9, full / 1e9, trained / 1e6, lora / 1e9))
columns = ["model", "million weights", "GB to hold", "GB to train", "million in LoRA, r = 16", "GB to train it"]
show.table(rows, columns, "float32, without activations", dict.fromkeys(columns, ".2f"))
assert 107 < rows[2][3] < 108 and rows[2][5] < 28 and rows[1][4] < 5

# %% [markdown]
# **Touch it.** The adapters' rank is a knob. How far must one turn it until it matters?


# %%
def where_it_goes(model, rank):
    weights, trained = count_weights(*SHAPES[model]), lora_weights(linear_layers(*SHAPES[model]), rank)
    heights = {}
    for name, (held, moved) in {"in full": (weights, weights), "LoRA": (weights + trained, trained)}.items():
        for part, numbers in (("weights", held), ("gradients", moved), ("moments", 2 * moved)):
            heights[f"{name}: {part}"] = 4 * numbers / 1e9
    return show.bars(heights, "GB", f"{model}, r = {rank}: {trained / weights:.2%} of its weights", horizontal=True)


show.slider_figure(
    where_it_goes,
    alt=lambda model, rank: (
        f"Memory of {model} in full and with LoRA of rank {rank}: LoRA has weights and little else."
    ),
    model=["Llama 2 7B", "SmolLM2", "tiny"],
    rank=[1, 4, 16, 64, 256],
)

# %% [markdown]
# With $r = 16$ a fraction of a per cent of the 7 B model is trained (in small models, with their narrow layers, rather
# more), and three of the four parts shrink to nothing. RL needs two more models: the reference, and with a learnt
# reward the reward model. A 7 B model trained in full beside its reference takes over 130 GB; with LoRA, 28, for the
# reference comes free:
#
# - $B = 0$ at the start, so the correction is exactly zero: **the policy is the reference, to the bit.**
# - Switch the adapters off at any time, and the reference is back. One model in memory, two policies.


# %%
def reference_logprobs(policy, texts):
    """What `models.AdaptersOff` does."""
    with policy.lm.disable_adapter(), torch.no_grad():
        return rollout.score(policy, texts).logprobs


openings = reviews.openings("train")[:32]
texts = rollout.sample(adapted, openings[:4], max_new_tokens=16, generator=runs.generator(1))
base = rollout.score(tiny, texts).logprobs
assert torch.equal(rollout.score(adapted, texts).logprobs, base)  # KL to the reference exactly 0

# %% [markdown]
# **Exercise 16.3 · The first step** (predict · difficulty ●●●○○ · importance ●●●○○ · 4 min)
#
# One step of Adam on that policy. Which of the two factors have changed after it: `"A"`, `"B"`, `"both"` or
# `"neither"`?

# %% tags=["exercise"]
moved = (
    ### BEGIN SOLUTION
    "B"
    ### END SOLUTION
)

# %%
moved = check("16.3", moved)

# %%
old = {name: p.clone() for name, p in adapted.named_parameters() if p.requires_grad}
optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-3)
losses.sft_loss(rollout.score(adapted, texts).logprobs, texts.mask).backward()
optimizer.step()
changed = {name for name, p in adapted.named_parameters() if name in old and not torch.equal(p, old[name])}
print("changed:", {name.split(".lora_")[1][0] for name in changed})
now = rollout.score(adapted, texts).logprobs
print(f"KL to the reference on these texts, k1: {(now - base).sum(1).mean():.2f} nats a completion")
assert torch.equal(reference_logprobs(adapted, texts), base) and not torch.equal(now, base)

# %% [markdown]
# The policy has moved, and the reference, in the same memory, is where it was.
#
# ### What LoRA does not save
#
# Activations are not in that table. Autograd will tell us how much it keeps if we stand at the door and weigh each
# tensor that goes in.
#
# > **Predict before you run.** By what part does LoRA reduce them?


# %%
def kept_for_backward(policy, texts):
    """Megabytes that autograd keeps for the backward pass, the weights themselves not counted."""
    weights, seen = {p.untyped_storage().data_ptr() for p in policy.parameters()}, {}

    def weigh(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(weigh, lambda tensor: tensor):
        loss = rollout.score(policy, texts).logprobs.sum()
    return sum(size for place, size in seen.items() if place not in weights) / 1e6 if loss.requires_grad else 0.0


pairs = reviews.demonstrations("train")[:32]
batch = rollout.from_texts(tiny, pairs)
rows = [(f"{n} texts", kept_for_backward(tiny, batch[:n]), kept_for_backward(adapted, batch[:n])) for n in (8, 16, 32)]
columns = ["tiny model", "MB, all weights trained", "MB, LoRA"]
show.table(rows, columns, formats=dict.fromkeys(columns, ".1f"))
assert rows[2][1] > 1.9 * rows[1][1] > 3.5 * rows[0][1] and rows[2][2] > 0.7 * rows[2][1]

# %% [markdown]
# Hardly at all: the gradient must travel through every layer to reach the lowest adapter. Activations grow with the
# number of tokens in a pass, so the cure is to pass fewer at a time: split the batch, call `backward` for each part,
# and make one step at the end (**gradient accumulation**). Or split it over several machines. Either way there is
# something to get wrong.

# %% [markdown]
# ## 3 · A mean of means is not the mean
#
# Two processes, eight tokens. The first has two of them, the second six. Each takes the mean loss over its own tokens,
# and then the two means are averaged: nothing could be more natural, and every tool for training on several machines
# does it by default.

# %%
first, second = torch.tensor([4.0, 2.0]), torch.ones(6)  # losses of the tokens
whole = torch.cat([first, second]).mean()
print(f"mean of means {(first.mean() + second.mean()) / 2}, mean {whole}")
assert (first.mean() + second.mean()) / 2 != whole

# %% [markdown]
# A token of the first process weighs $\frac12 \cdot \frac12$ instead of $\frac18$, twice too much; one of the second
# $\frac12\cdot\frac16$, a third too little. With $W$ processes, of which the $p$-th has $n_p$ of the $N$ tokens,
#
# $$\frac1W \sum_p \frac{1}{n_p} \sum_{i \in p} \ell_i \quad\text{against}\quad
#   \frac1N \sum_p \sum_{i \in p} \ell_i : \qquad \text{each token's weight is off by the factor } \frac{N}{W n_p}.$$
#
# **Tokens of long completions weigh less**, for it is they that make a process's $n_p$ large. Shuffling makes the error
# smaller. Does it make it zero on average? Deal eight completions onto two processes, in all 70 ways:

# %%
from itertools import combinations

lengths = torch.tensor([2, 3, 4, 6, 8, 12, 16, 24]).double()
N, ways = lengths.sum(), torch.tensor(list(combinations(range(8), 4)))  # who is with the first process
with_first = torch.zeros(70, 8).scatter(1, ways, 1.0).double()
of_first = with_first @ lengths
tokens = torch.where(with_first > 0, of_first[:, None], N - of_first[:, None])  # n_p of each completion's process
weight = (N / (2 * tokens)).mean(0)
columns = ["a completion of", *[f"{n:.0f} tokens" for n in lengths.tolist()]]
show.table([("weight of a token", *weight.tolist())], columns, "Mean over all ways to deal; it should be 1")
assert (weight.diff() < 0).all() and weight[0] > 1 > weight[-1] and with_first.sum() == 280

# %% [markdown]
# It does not. Averaged over all ways of dealing, a bias towards short completions is left. Now a real batch, and its
# gradient: 32 demonstrations, and the tiny model. Sorted by length, as one does to save padding, and shuffled.

# %%
parameters = list(tiny.parameters())
ordered = rollout.from_texts(tiny, sorted(pairs, key=lambda pair: len(pair[1])))


def gradient(rows, denominator=None):
    """Of the cloning loss of some rows, as one long vector."""
    loss = losses.sft_loss(rollout.score(tiny, ordered[rows]).logprobs, ordered.mask[rows], denominator)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


whole, count = gradient(slice(None)), ordered.mask.sum()
shuffled = torch.randperm(32, generator=runs.generator(0))
rows = []
splits = {"sorted, 2 parts": (range(32), 2), "shuffled, 2 parts": (shuffled, 2), "shuffled, 8 parts": (shuffled, 8)}
for name, (order, W) in splits.items():
    parts = torch.as_tensor(order).chunk(W)
    means = sum(gradient(part) for part in parts) / W
    sums = sum(gradient(part, denominator=count) for part in parts)
    off = [((g - whole).norm() / whole.norm()).item() for g in (means, sums)]
    rows.append((name, *off, torch.cosine_similarity(means, whole, dim=0).item()))
    assert off[0] > 0.02 and off[1] < 1e-4
columns = ["gradient", "mean of means: off by", "whole count: off by", "cosine of the former"]
show.table(rows, columns, "Length of the difference, over the whole batch's gradient", {columns[2]: ".1e"})
assert rows[0][1] > 0.3 and rows[0][3] < 0.95

# %% [markdown]
# With the whole batch's count as denominator in every part, the sum of the parts is the batch's gradient, up to
# rounding. That is why each loss in `rlhf_lib.losses` takes `denominator=`.
#
# Nothing in this needs two machines. In October 2024 it was noticed that gradient accumulation in Transformers'
# Trainer, TRL with it, had been a mean of means all along
# ([trl#2175](https://github.com/huggingface/trl/issues/2175), repaired by
# [transformers#34191](https://github.com/huggingface/transformers/pull/34191) and several more; Hugging Face's note is
# called [Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation)). Loss curves look fine all
# the while.
#
# **Exercise 16.4 · The same batch in small portions** (find the bug · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# `parts` is a batch in portions: a list of pairs (log-probs `[b, T]`, mask `[b, T]`). This should have the gradient of
# `sft_loss` on the whole batch, and has not. `compare` cuts the batch into portions of four and says how far off it is.
# Repair it; `losses.sft_loss` may stay.


# %%
def given_accumulate(parts):
    """The cloning loss of a batch, portion by portion. Looks right, is not."""
    loss = sum(losses.sft_loss(logprobs, mask) for logprobs, mask in parts)
    return loss / len(parts)


def compare(accumulate):
    logprobs = rollout.score(tiny, ordered).logprobs.detach().requires_grad_()
    parts = list(zip(logprobs.split(4), ordered.mask.split(4), strict=True))
    both = accumulate(parts), losses.sft_loss(logprobs, ordered.mask)
    found, right = (torch.autograd.grad(loss, logprobs)[0] for loss in both)
    print(f"the gradient is off by {((found - right).norm() / right.norm()).item():.1e} of its length")


compare(given_accumulate)


# %% tags=["exercise"]
def accumulate(parts):
    """The cloning loss of a batch, portion by portion."""
    ### BEGIN SOLUTION
    count = sum(mask.sum() for _, mask in parts)
    return sum(losses.sft_loss(logprobs, mask, denominator=count) for logprobs, mask in parts)
    ### END SOLUTION


# %%
accumulate = check("16.4", accumulate)
compare(accumulate)

# %% [markdown]
# ### Two processes, really
#
# Here is a whole training run for any number of processes. Each runs this same file. `processes.share` gives it its
# part of the batch; `clip_gradients` *adds up* everybody's gradients (and shortens nothing here); and `weight(n)` is
# $n_p / N$, for which the processes tell each other their $n_p$: own mean $\times\, n_p/N$ is own sum over $N$.

# %%
SCRIPT = """
from pathlib import Path
import torch
from rlhf_lib import losses, models, processes, reviews, rollout

pairs = sorted(reviews.demonstrations("train")[:32], key=lambda pair: len(pair[1]))
for how in ("right", "means"):
    policy = models.load_model("tiny", device="cpu")
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    part = rollout.from_texts(policy, processes.share(pairs))  # process 0 gets the short ones
    for step in range(4):
        loss = losses.sft_loss(rollout.score(policy, part).logprobs, part.mask)  # mean over the own tokens
        share = processes.weight(part.mask.sum()) if how == "right" else 1 / processes.count()
        optimizer.zero_grad()
        (share * loss).backward()
        processes.clip_gradients(list(policy.parameters()), float("inf"))
        optimizer.step()
    if processes.index() == 0:
        policy.save(Path(__file__).with_name(f"{how}-{processes.count()}"))
"""

# %% [markdown]
# Once in this notebook, as one process, and once by `torchrun`, as two:

# %%
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

temporary = tempfile.TemporaryDirectory()  # gone when the notebook's kernel is
work = Path(temporary.name)
(work / "train.py").write_text(SCRIPT, encoding="utf-8")
runpy.run_path(str(work / "train.py"))
command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(work / "train.py")]
cpu = os.environ | {"RLHF_DEVICE": "cpu", "OMP_NUM_THREADS": "1", "USE_LIBUV": "0"}
done = subprocess.run(command, env=cpu, capture_output=True, text=True, timeout=250)
assert done.returncode == 0, done.stderr[-2000:]

# %%
weights = {
    name: torch.cat([p.detach().flatten() for p in models.load_model(work / name).parameters()])
    for name in ("right-1", "means-1", "right-2", "means-2")
}
origin = torch.cat([p.detach().flatten() for p in tiny.parameters()])
way, gap = weights["right-1"] - origin, {name: w - weights["right-1"] for name, w in weights.items()}
assert not gap["means-1"].any()  # alone, there is nothing to get wrong
rows = []
for name, title in {"right-2": "own mean · n/N, added up", "means-2": "own mean / W, added up"}.items():
    rows.append((title, (gap[name].norm() / way.norm()).item(), gap[name].abs().max().item()))
columns = ["two processes against one", "gap / way travelled", "largest difference of a weight"]
show.table(rows, columns, "After four steps", dict.fromkeys(columns, ".1e"))
assert rows[0][1] < 1e-3 and rows[1][1] > 0.1

# %% [markdown]
# Up to rounding the two are one. (Rounding: sums in another order. It grows with every step, and after some hundred
# steps two *right* runs differ visibly too; so compare early.) Every loop of the library is written like this, so that
#
#     accelerate launch --num_processes 2 -m rlhf_lib.cli train rloo --model smol …        # two GPUs
#     torchrun --standalone --nproc-per-node 2 -m rlhf_lib.cli train rloo --model smol …   # two cores
#
# is the run that you know from one process. Who talks to whom is Accelerate's business, not ours.
#
# One more trap. PyTorch's `DistributedDataParallel`, under TRL and most others, does not add the gradients up: it
# **averages** them.
#
# **Exercise 16.5 · Who divides?** (derive · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# Process `index` of several, which hold `counts` tokens each, divides the sum of its tokens' losses by $d$; then the
# gradients are *averaged*. Which $d$ makes the result the gradient of the whole batch's mean?


# %% tags=["exercise"]
def ddp_denominator(counts, index):
    """By what process `index` divides its sum."""
    ### BEGIN SOLUTION
    return sum(counts) / len(counts)
    ### END SOLUTION


# %%
ddp_denominator = check("16.5", ddp_denominator)
counts = (2, 6)
averaged = sum(part.sum() / ddp_denominator(counts, i) for i, part in enumerate((first, second))) / 2
assert averaged == torch.cat([first, second]).mean()

# %% [markdown]
# Does all this matter for *your* loss? Ask what it is a mean over. Cloning, GRPO's `"batch"` average (DAPO), PPO and
# critics: over tokens, of which nobody has as many as his neighbour. RLOO: over completions, and with equally many on
# each process the mean of means is right. Reward models: over pairs; the last batch of an epoch is the one to look at.
#
# **Exercise 16.6 · How many processes?** (experiment · difficulty ●●●○○ · importance ●●●○○ · 8 min)
#
# Somebody will not mend the mean of means. 64 completions a step, dealt out blindly. How many processes, 2, 4, 8, 16 or
# 32, may there be *at most* if a token's weight is to be off by less than 15 %, in root mean square? The check measures
# your answer on new seeds.


# %%
def weight_error(W, seed, batches=200):
    """Root mean square of N/(W n_p) − 1 over the tokens; mean over batches."""
    drawn = torch.rand(batches, 64, generator=runs.generator(seed)).double()
    lengths = (1 + (drawn.log() / math.log(15 / 16)).floor()).clamp(max=24)  # an end of text in 16, cut off at 24
    tokens = lengths.view(batches, W, -1).sum(2)
    off = tokens.sum(1, keepdim=True) / W / tokens - 1
    return ((tokens * off.square()).sum(1) / tokens.sum(1)).sqrt().mean().item()


print(f"2 processes, one seed: {weight_error(2, 0):.1%}")

# %% tags=["exercise"]
most_processes = (
    ### BEGIN SOLUTION
    4
    ### END SOLUTION
)

# %%
most_processes = check("16.6", most_processes)

# %% [markdown]
# ## 4 · Fewer digits
#
# A GPU multiplies matrices many times faster in **bfloat16** than in float32. It is float32 with the last 16 bits cut
# off: the same range, and 7 bits after the leading one, some two to three decimal digits.
#
# **Exercise 16.7 · A ratio in bfloat16** (predict · difficulty ●●●○○ · importance ●●●●○ · 5 min)
#
# A token's log-probability lies between −16 and −8, and somebody stores it in bfloat16. PPO then takes the ratio of new
# to old probability. How far can rounding alone move a ratio away from 1: by about `"0.01 %"`, `"0.4 %"`, `"3 %"` or
# `"30 %"`?

# %% tags=["exercise"]
rounding = (
    ### BEGIN SOLUTION
    "3 %"
    ### END SOLUTION
)

# %%
rounding = check("16.7", rounding)
grid = torch.linspace(-16, -8, 100_001)
worst = (grid - grid.bfloat16().float()).abs().max()
print(f"largest error of a log-probability {worst:.5f}; of the ratio {worst.exp() - 1:.2%}")
assert abs(worst - 1 / 32) < 1e-3

# %% [markdown]
# And of a whole completion's ratio, as RLOO in TRL and DPO use it, the errors of all tokens add up. Measure it on the
# tiny model: how far from 1 is the ratio of a policy *to itself*?


# %%
def logprobs_from(logits, texts):
    """log π of the sampled tokens in the logits' own precision, 0 at pads."""
    taken = logits.log_softmax(-1).gather(-1, texts.tokens[..., None]).squeeze(-1).float()
    return torch.where(texts.mask, taken, 0.0)


half = models.load_model("tiny", dtype=torch.bfloat16)  # autocast: matrices multiplied in bf16, weights in float32
how = {"max_new_tokens": 24, "generator": runs.generator(2)}
texts, in_half = (rollout.sample(model, openings, **how) for model in (tiny, half))
ids = torch.cat([texts.prompt_ids, texts.tokens], 1)[:, :-1]
attention = torch.cat([texts.prompt_mask, texts.mask], 1)[:, :-1]
with torch.no_grad():
    logits, _ = tiny(ids, attention, last=texts.tokens.shape[1])
    found = {  # name: the texts, with the sampler's log-probs; their log-probs once more
        "all in float32": (texts, logprobs_from(logits, texts)),
        "logits and softmax in bf16": (texts, logprobs_from(logits.bfloat16(), texts)),
        "sampled in float32, scored under autocast": (texts, rollout.score(half, texts).logprobs),
        "both under autocast": (in_half, rollout.score(half, in_half).logprobs),
    }

# %%
rows = []
for name, (which, again) in found.items():
    change = again - which.logprobs
    token, text = change[which.mask].abs(), change.sum(1).exp()
    rows.append((name, token.max().item(), token.mean().item(), (text - 1).abs().max().item()))
columns = ["at step 0", "|Δ log π|, largest", "mean", "a completion's |ratio − 1|, largest"]
show.table(rows, columns, "The ratio of a policy to itself should be 1", dict.fromkeys(columns, ".1e"))
assert {p.dtype for p in half.parameters()} == {torch.float32}
assert rows[0][3] < 1e-3 and min(row[2] for row in rows[1:]) > 100 * rows[0][2]

# %% [markdown]
# So three habits, which the library has:
#
# - **Weights stay float32.** Autocast multiplies in bf16 and adds up in float32. A step of $10^{-5}$ on a weight of
#   size 1 is lost in bf16, whose next number after 1 is 1.0078: `torch.tensor(1.0).bfloat16() + 1e-5 == 1`.
# - **Logits become float32 before the softmax** (`losses.token_logprobs`). It costs one tensor and saves the ratio.
# - **The old log-probs come from the sampler**, and the first ratio is looked at. With bf16 matrices it is no longer
#   exactly 1, even if one model does both: word by word from the cache, and all words at once, are sums in another
#   order. It had better be close.

# %%
assert torch.tensor(1.0).bfloat16() + 1e-5 == 1 and torch.tensor(1.0) + 1e-5 > 1

# %% [markdown]
# ## 5 · A folder that everybody can read
#
# `policy.save(folder)` writes Hugging Face's own format, and one small file of ours beside it.

# %%
tiny.save(work / "policy")
for file in sorted((work / "policy").iterdir()):
    print(f"{file.stat().st_size:12,} bytes  {file.name}")

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

plain, words = (kind.from_pretrained(work / "policy") for kind in (AutoModelForCausalLM, AutoTokenizer))
inputs = words(reviews.LECTURE_OPENING, return_tensors="pt", return_token_type_ids=False)
with torch.no_grad():
    theirs = plain(**inputs).logits.float()
    ours, _ = tiny(inputs["input_ids"], inputs["attention_mask"], last=inputs["input_ids"].shape[1])
assert torch.equal(theirs, ours)  # to the bit
assert words.pad_token_id != words.eos_token_id
written = plain.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=words.pad_token_id)
print(words.decode(written[0], skip_special_tokens=True))

# %% [markdown]
# No line of ours is needed to read it. Two things that were done with care, because others were bitten by them:
#
# - **safetensors**, not pickle. A `.bin` or `.pt` file is a program, which runs when it is loaded. A safetensors file
#   is a header in JSON and numbers.
# - **The pad is not the end token.** Many models come with pad = eos (SmolLM2 does). Masks made by `ids != pad` then
#   hide the end of the text from the loss, and the model never learns to stop. `load_model` gives such a tokenizer
#   another pad.
#
# ### With an adapter
#
# Under LoRA the folder holds the adapter alone, a small part of the whole; the base is found by its name. To hand the
# policy to somebody without PEFT, merge the two.
#
# **Exercise 16.8 · Merge an adapter** (implement · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# Return the one matrix that does what `W` `[out, in]` and its adapter (`A` `[r, in]`, `B` `[out, r]`, `alpha`) do
# together.


# %% tags=["exercise"]
def merge(W, A, B, alpha):
    """The merged matrix, [out, in]."""
    ### BEGIN SOLUTION
    return W + alpha / A.shape[0] * B @ A
    ### END SOLUTION


# %%
merge = check("16.8", merge)

# %%
adapted.save(work / "adapter")
print("the adapter's folder:", sum(f.stat().st_size for f in (work / "adapter").glob("adapter*")) // 1000, "kB")
layer = adapted.lm.get_decoder().layers[0].mlp.up_proj
A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
x = torch.randn(5, A.shape[1], generator=runs.generator(3))
torch.testing.assert_close(x @ merge(layer.weight, A, B, alpha=32).T, layer(x))

# %%
import copy

before_merging = rollout.score(adapted, texts).logprobs.detach()
merged = models.Policy(copy.deepcopy(adapted.lm).merge_and_unload(), adapted.tokenizer, name="merged")
merged.save(work / "merged")
once = rollout.score(models.load_model(work / "merged"), texts).logprobs.detach()
print(f"merged once: largest difference of a log-prob {(once - before_merging).abs().max():.1e}")

# %% [markdown]
# Equal up to rounding, not to the bit: $W x + B A x$ and $(W + B A)\,x$ round differently. And the classic: the merged
# folder is loaded, and somebody puts the adapter on top of it once more.

# %%
import peft

doubled = peft.PeftModel.from_pretrained(models.load_model(work / "merged").lm, work / "adapter")
twice = rollout.score(models.Policy(doubled, adapted.tokenizer, name="twice"), texts).logprobs.detach()
for name, other in {"merged once": once, "merged, and the adapter again": twice}.items():
    print(f"{name:30} mean |Δ log π| {(other - before_merging)[texts.mask].abs().mean():.1e}")
assert (once - before_merging).abs().max() < 1e-2 < (twice - before_merging).abs().max()

# %% [markdown]
# Nothing complains: the shapes fit. Keep merged models and adapters in folders of different names, and compare
# log-probs after every export.

# %% [markdown]
# ## 6 · Handing over to TRL
#
# This library is for understanding. For a large model one takes a large library, and
# [TRL](https://github.com/huggingface/trl) (Transformer Reinforcement Learning, Hugging Face) is the most used. It
# reads our folder, and its `RLOOTrainer` is section 1's algorithm. The settings have other names, and other values
# where one leaves them out:

# %%
entries = [[str(x).replace("-", "−") for x in row] for row in scaling.DICTIONARY]
show.table(entries, scaling.DICTIONARY_COLUMNS, "The defaults of this library and of TRL 1.16")

# %% [markdown]
# Read the last rows first: who just calls `GRPOTrainer` with its defaults takes a learning rate a hundred times
# smaller, advantages divided by their group's deviation, no KL, and bf16 (section 4). `loss_type="dapo"` divides by
# the tokens of *all* processes; `"bnpo"` divides by the local ones, a mean of means, and its documentation says so. As
# for exercise 16.5: TRL's line is `num_items_in_batch / num_processes`.
#
# Are they the same? The losses can be compared exactly. TRL's RLOO takes *one* ratio for a completion, ours one for
# each token. On fresh samples both are 1, and then the gradients must agree:

# %%
fresh = rollout.sample(tiny, openings[:8], samples_per_prompt=4, max_new_tokens=24, generator=runs.generator(5))
advantages = estimators.leave_one_out(rewards.vader()(fresh), 4)
new = rollout.score(tiny, fresh).logprobs
of_tokens = losses.ppo_loss(new, fresh.logprobs, advantages, fresh.mask, denominator=len(fresh))
of_texts = -((new.sum(1) - fresh.logprobs.sum(1)).exp() * advantages).mean()  # as in TRL's rloo_trainer.py
ours, theirs = (
    torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)])
    for loss in (of_tokens, of_texts)
)
print(f"difference of the gradients, over their length: {((ours - theirs).norm() / ours.norm()).item():.1e}")
assert (ours - theirs).norm() < 1e-3 * ours.norm()

# %% [markdown]
# And the whole run? Our SFT policy is saved; both train it on the same openings, with VADER as reward, at the same
# settings (`scaling.trl_settings`: full softmax, no dropout, float32, no gradient checkpointing), 15 roll-outs of 32
# completions; then 48 test openings. One thread, in turn: ours, TRL's, ours, TRL's …

# %%
beside = results.load("16_scaling")["beside"]
names = {"rlhf_lib": "this library", "TRL": "TRL 1.16 RLOOTrainer"}
lines = {title: (list(range(15)), beside[name]["reward"]) for name, title in names.items()}
fig = show.curves(lines, "roll-outs of 32 completions", "mean VADER score", size=(8.5, 3.6))
show.figure(fig, alt="Both libraries' scores creep up over fifteen noisy roll-outs; their bands overlap throughout.")

# %%
keys = {"mean VADER score": "positive", "KL to the SFT policy, nats": "KL", "tokens a completion": "length"}
measured = {title: [beside[name][key] for name in names] for title, key in keys.items()}
measured["processor seconds a step"] = [[sum(s) / len(s) for s in beside[name]["seconds"]] for name in names]
rows = []
for key, (ours, theirs) in measured.items():
    gap = [a - b for a, b in zip(ours, theirs, strict=True)]
    rows.append((key, *[show.interval(values) for values in (ours, theirs, gap)]))
show.table(rows, ["48 test openings", *names.values(), "difference"], "4 seeds, 95 %; differences paired by seed")
start = beside["start"]["positive"]
print("VADER of the SFT policy, where both start:", show.interval(start))
for title, scored in zip(names.values(), measured["mean VADER score"], strict=True):
    print(f"gain by {title}:", show.interval([a - b for a, b in zip(scored, start, strict=True)]))
ours, theirs = measured["processor seconds a step"]
print("TRL's seconds over ours:", show.interval([b / a for a, b in zip(ours, theirs, strict=True)]))
assert runs.paired_interval(beside["rlhf_lib"]["positive"], start)[1] > 0

# %% [markdown]
# As far as four seeds can tell, the two learn the same: score, KL and length differ by less than their intervals. (The
# gain by ours is clear; of TRL's, nearly as large, the interval just reaches 0. Four seeds are few.) What does differ
# are the seconds. TRL reads each text once more before it trains on it (for the old log-probs, which we take from the
# sampler), samples by Transformers' general `generate`, and keeps many more statistics. All that weighs most on a
# model as small as this one: on a large model, where the matrices take the time, the ratio should be nearer to 1. We
# have not measured it. And TRL has what is not here: sampling by vLLM, sharded weights (DeepSpeed, FSDP), images,
# tools.
#
# What did we have to know to make them equal? Nine rows of the table above. A comparison that leaves both at their
# defaults compares the defaults.
#
# Live, where TRL is installed (`pip install -e .[peers]`; Python 3.11 or newer), three steps:

# %%
import importlib.util

if importlib.util.find_spec("trl"):
    _, took, earned = scaling.train_with_trl(str(work / "policy"), seed=0, steps=3)
    print("TRL, live: mean score a step", [round(x, 2) for x in earned], "seconds", [round(s, 1) for s in took])
else:
    print("TRL is not installed here; the stored runs above stand for it.")

# %% [markdown]
# ## 7 · Where the time goes
#
# RL differs from other training in that it must *write* before it learns. How long does either take?


# %%
def least_seconds(work, repeats=3):
    """The least of a few times: what it takes if nothing comes between."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def write(model, prompts, **options):
    return rollout.sample(model, prompts, generator=runs.generator(4), **options)


sampled = write(tiny, openings, max_new_tokens=24)
parts = {
    "sampling": least_seconds(lambda: write(tiny, openings, max_new_tokens=24)),
    "reference, forward": least_seconds(lambda: reference_logprobs(adapted, sampled)),
    "policy, forward and backward": least_seconds(lambda: rollout.score(tiny, sampled).logprobs.sum().backward()),
}
table = [(name, s, s / sum(parts.values()), round(int(sampled.mask.sum()) / s)) for name, s in parts.items()]
show.table(table, ["tiny model, 32 completions", "seconds", "share", "tokens a second"])

# %% [markdown]
# Writing cannot be done for all tokens at once: each needs the one before. Three
# things make it bearable, and `rollout.sample` does all three. What is each worth?
#
# > **Predict before you run.** 16 completions of 24 tokens: all rows at once against one after the other; with the keys
# > and values of earlier tokens kept (**KV cache**) against reading the text again for each word; and a prompt of 200
# > tokens read once for its 16 completions against 16 times.


# %%
@torch.no_grad()
def read_again(model, texts):
    """What sampling these texts would compute without a cache: for each token, all before it."""
    ids = torch.cat([texts.prompt_ids, texts.tokens], 1)
    attention = torch.cat([texts.prompt_mask, texts.mask], 1)
    for place in range(texts.tokens.shape[1]):
        going, width = texts.mask[:, place], texts.prompt_ids.shape[1] + place
        model(ids[going, :width], attention[going, :width], last=1)


# %%
long, few, how = [5] * 200, openings[:16], {"max_new_tokens": 24}
written = write(tiny, few, **how)
pairs_of_work = {
    "all rows at once": (lambda: [write(tiny, [one], **how) for one in few], lambda: write(tiny, few, **how)),
    "KV cache": (lambda: read_again(tiny, written), lambda: write(tiny, few, **how)),
    "prompt read once": (
        lambda: write(tiny, [long] * 16, max_new_tokens=1),
        lambda: write(tiny, [long], samples_per_prompt=16, max_new_tokens=1),
    ),
}
rows = [
    (name, least_seconds(without, 2), least_seconds(with_it, 2)) for name, (without, with_it) in pairs_of_work.items()
]
columns = ["", "seconds without", "with", "times as fast"]
show.table([(*row, row[1] / row[2]) for row in rows], columns, "tiny model", dict.fromkeys(columns, ".2f"))
assert rows[0][1] > 2 * rows[0][2] and rows[2][1] > 2 * rows[2][2]

# %% [markdown]
# (The longer the texts, the more the last two are worth: without a cache, the reading grows with the square.)
#
# Programs made for nothing but writing, vLLM above all, go further down this road: new rows take the places of finished
# ones, the cache is kept in pages, the weights in fewer bits. TRL can hand the sampling over to vLLM. The price is in
# section 4: two programs, two sets of roundings, and a first ratio that is no longer 1.
#
# ## Recap
#
# - **The algorithm does not change with the model.** Time and memory do.
# - **Memory**: 16 bytes for each weight trained by Adam in float32, 4 for a frozen one, and activations on top. LoRA
#   saves gradients and moments, and gives the reference away free; it does not save activations.
# - **A mean of means is not the mean.** Tokens of long completions weigh less, on several processes and in gradient
#   accumulation alike. Divide by the whole batch's count (by $N/W$ where gradients are averaged).
# - **bf16** for multiplying matrices; weights, softmax and log-probs in float32.
# - A saved policy is an ordinary Hugging Face folder. Merge once.
# - **TRL** is the same algorithm under other names. Check its defaults against what you mean.
#
# | claim | where |
# |---|---|
# | weights + gradients + 2 moments | section 2, counted |
# | $B = 0$: policy = reference | section 2, to the bit |
# | $\frac1W\sum_p \frac1{n_p}\sum_i \ell_i \ne \frac1N\sum_i \ell_i$ | section 3, all dealings, two processes |
# | bf16 has 7 bits | section 4, a ratio at step 0 |
# | the folder is Hugging Face's | section 5, logits to the bit |

# %%
quiz(
    "Gradient accumulation over 8 parts. Which count goes into the denominator of the first part's token loss?",
    {
        "The part's own tokens": "That is the mean of means: its tokens weigh more where the part is short.",
        "The tokens of all 8 parts": "So they must be counted before the first backward.",
        "The tokens of all 8 parts, times 8": "Too small a step, by 8.",
    },
    correct="The tokens of all 8 parts",
)
quiz(
    "A 7 B model does not fit. You take LoRA, and it still runs out of memory in the backward pass. What now?",
    {
        "A smaller rank": "The adapters are a fraction of a per cent already.",
        "Fewer tokens a pass": "What is left are activations, and they go with the tokens of a pass. Accumulate "
        "gradients (rightly), or recompute activations (gradient checkpointing).",
        "Another optimiser": "Adam's moments of the adapters are small.",
    },
    correct="Fewer tokens a pass",
)
quiz(
    "Your PPO's first ratio is 0.97 on average over tokens, before any update. What do you look at?",
    {
        "The learning rate": "There was no update yet.",
        "Which program and which precision computed the old log-probs": "The ratio of a policy to itself is 1, up to "
        "rounding. Temperature, masks and padding are the next suspects.",
        "The clip": "It hides the symptom.",
    },
    correct="Which program and which precision computed the old log-probs",
)

# %% [markdown]
# **Next:** there is no lesson 17. `rlhf train` trains the model of your choice on a reward of your own; the labels of
# lesson 08, the judge of lesson 09 and the doubts of lesson 14 go with you.
