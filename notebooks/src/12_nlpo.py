# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · NLPO and RL4LMs
#
# **The question.** At every word a language model chooses among thousands, nearly all of them nonsense. What if RL may
# choose among the sensible ones only? What does that buy, and what does it cost?
#
# **You will** build the mask of NLPO (*natural language policy optimization*, Ramamurthy, Ammanabrolu et al., ICLR
# 2023) and see which words it lets through; find exactly what goes wrong when the update forgets it, or makes it again;
# learn which KL to report; look for the best word outside the mask; and make the paper's table again, in small.
#
# | | |
# |---|---|
# | You need | lesson 10 (KL to a reference) and 11 (PPO: ratio and clip) |
# | Reading | 40 minutes, and 65 for the exercises |
# | Run time | about 40 s on 2 cores; if lesson 09 has not run yet, a minute and a half more, once |
# | A GPU | shortens the one live run; the table's runs are stored |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · Fewer buttons
#
# Lesson 01 counted the buttons: an LM has 8,192 (ours) to 100,000, and *considers* only $e^{H}$ of them, with $H$ the
# entropy of the next word. Exploring all the others is how a policy finds gibberish. NLPO takes the buttons away. A
# **mask policy** proposes, in each state, its likeliest words until their probabilities add up to $p$ (*top-p*, or
# nucleus; 0.9 in the paper); nothing else can be drawn. With probabilities 0.5, 0.3, 0.15, 0.05 and $p = 0.7$: the
# first word brings 0.5, that is not enough, so the second comes in too, and that is all.
#
# One exception: a text must be able to *end*, so the end token is allowed in every state, whatever its probability.

# %% [markdown]
# **Exercise 12.1 · The likeliest words, and the end** (implement · difficulty ●●●○○ · importance ●●●●● · 15 min)
#
# `logits` `[N, V]` are those of $N$ states. Return a bool `[N, V]`: True for the words allowed, in the vocabulary's
# order. By hand, with the four probabilities above, end token 3 and $p = 0.7$: `[True, True, False, True]`.


# %% tags=["exercise"]
def my_mask(logits, top_p, end):
    """bool [N, V]: the likeliest words, the one that carries their sum to top_p included, and the end token."""
    ### BEGIN SOLUTION
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    keep = probability.cumsum(-1) - probability < top_p  # what had been collected before this word
    allowed = torch.zeros_like(keep).scatter(-1, order, keep)
    allowed[:, end] = True
    return allowed
    ### END SOLUTION


# %%
my_mask = check("12.1", my_mask)

# %% [markdown]
# Now along a real sentence: the SFT policy reads the lecture's opening, and before each word we ask which words its
# mask would have allowed there. (In the library this is `nlpo.nucleus`, and `nlpo.Proposals` with the end token.)
#
# > **Predict before you run.** How many of 8,192 words are allowed, on average: about 10, 100 or 1,000? And how many of
# > the words that *people* wrote in our reviews lie outside the mask?

# %%
TOP_P = 0.9
sft_policy = stages.sft_policy()
end = sft_policy.tokenizer.eos_token_id


@torch.no_grad()
def along(text):
    """Each token of a text but the first; before it the number of words allowed and exp(entropy); the p it needs."""
    ids = torch.tensor([sft_policy.tokenizer(text)["input_ids"]])
    logits = sft_policy(ids, ids >= 0, last=ids.shape[1])[0][0, :-1]
    probability, own = logits.softmax(-1), ids[0, 1:, None]
    likelier = torch.where(probability > probability.gather(1, own), probability, 0.0).sum(1)  # what comes before it
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    words = [sft_policy.tokenizer.decode(i).strip() for i in own[:, 0]]
    return words, my_mask(logits, TOP_P, end).sum(1), entropy.exp(), likelier


people = [along(text) for text in reviews.load().subset("test").texts[::20]]
words, sizes, considered, _ = along(reviews.LECTURE_OPENING)
fig = show.words_under_sentence(words, {"words allowed": sizes, "exp(entropy)": considered}, spec=",.0f", log=True)
show.figure(fig, alt="Under each word of the opening the number of words the mask allows before it, and exp(entropy).")

# %% [markdown]
# And the words that were really written: how large would $p$ have to be for each to be allowed? That is the probability
# of all likelier words together. Here, of some short sentences of the test blocks, is the one with the most words out.

# %%
written = max((one for one in people if 8 <= len(one[0]) <= 16), key=lambda one: (one[3] >= TOP_P).sum())
labels = [word if p < TOP_P else f"{word}\n(out)" for word, p in zip(written[0], written[3].tolist(), strict=True)]
fig = show.words_under_sentence(labels, written[3], "p it needs", spec=".2f")
fig.axes[0].axhline(TOP_P, color="#000000", linestyle="--", linewidth=1)
show.figure(fig, alt="The p that each word of a real sentence needs; those above the dashed line at 0.9 are out.")

# %%
outside = (torch.cat([one[3] for one in people]) >= TOP_P).double().mean().item()
whole = sum((one[3] < TOP_P).all().item() for one in people) / len(people)
sizes, considered = (torch.cat([one[k] for one in people]).double() for k in (1, 2))
print(f"words allowed: {sizes.mean():.0f} on average, from {sizes.min():.0f} to {sizes.max():.0f}, of 8,192")
print(f"words that people wrote outside the mask: {outside:.0%}; whole sentences inside it: {whole:.0%}")
fig = show.scatter({"a state of a test sentence": (considered, sizes)}, "exp(entropy)", "words allowed at p = 0.9")
for ax in fig.axes:
    ax.set(xscale="log", yscale="log")
    ax.plot([1, 8192], [1, 8192], color="#000000", linewidth=1)
show.figure(
    fig, alt="Words allowed against exp(entropy), both from 1 to 8192: they rise together, most above the line."
)
assert 0.05 < outside < 0.35 and whole < 0.4 and 30 < sizes.mean() < 2000
assert (sizes > considered).double().mean() > 0.7

# %% [markdown]
# The mask opens and closes with the policy's doubt: wide open where anything may come, nearly shut inside a word or a
# set phrase. It is a *dynamic* action space. With a small model in doubt it is still a wide one: nearly everywhere more
# words are allowed than $e^H$ (the straight line), as it takes many rare ones to fill the sum up to 0.9. Each of them
# counts as a word here, and for next to nothing in the entropy.
#
# And it has a price. A policy that knows its own doubt is surprised one time in ten by what lies beyond 0.9, so about
# that share of the words that people really wrote is out of bounds (more, where the policy is surer than it should be).
# As a sentence has many words, most of the sentences could not have been written. Move $p$ down and see who goes first.

# %%
opening = "I loved the book but"
ids = torch.tensor([sft_policy.tokenizer(opening)["input_ids"]])
with torch.no_grad():
    next_words = sft_policy(ids, ids >= 0, last=1)[0][0]


@show.style()
def gate(top_p):
    allowed, p = my_mask(next_words, top_p, end)[0], next_words.softmax(-1)[0]
    top = p.topk(16).indices
    top = top if end in top else torch.cat([top[:-1], torch.tensor([end])])
    title = f"after “{opening}”: {allowed.sum()} words allowed, with {p[allowed].sum():.1%} of the probability"
    fig, ax = show.new_figure("", "probability", title, size=(10, 3.6))
    colours = [show.plots.PALETTE[0] if allowed[i] else "#8c8c8c" for i in top]
    bars = ax.bar(range(len(top)), p[top], color=colours)
    ax.bar_label(bars, ["" if allowed[i] else "out" for i in top], fontsize=11)
    names = [sft_policy.tokenizer.decode(i).strip() if i != end else "END" for i in top]
    ax.set_xticks(range(len(top)), names, rotation=40)
    return fig


show.slider_figure(
    gate,
    alt=lambda top_p: f"The likeliest words after the opening; at p = {top_p} those beyond the mask are marked out.",
    labels={"top_p": "p"},
    top_p=[0.99, 0.95, 0.9, 0.8, 0.6, 0.4, 0.2],
)

# %% [markdown]
# ## 2 · The masked policy
#
# What is sampled is the **masked policy**: banned words have probability 0, the others share what is left,
#
# $$\pi_m(a|s) = \frac{\pi(a|s)\,[a \in m(s)]}{Z(s)}, \qquad Z(s) = \sum_{a \in m(s)} \pi(a|s).$$
#
# Two policies are at work: $\pi$, which learns, and the **mask policy**, an older copy of it that draws up $m$ and is
# replaced by $\pi$ only every few roll-outs. If $\pi$ drew up its own mask at each step, whatever falls out of favour
# by bad luck would be banned at once; the lag gives it time to come back.
#
# For exact answers we go back to the micro language: "awful", and at most three more of ten words. The policy has
# read too many sour reviews. In every state it says "dull" with 19 %, "but" and "not" with 1 % each.

# %%
from rlhf_lib.course.exercises.lesson_12 import habitual_policy, trapped_score

world, policy = habitual_policy()
tokens, mask = mdp.enumerate_episodes(world)  # all 820 texts
scores = world.reward(tokens, mask).double()


def proposals(policy, top_p=TOP_P):
    """The mask of every state, [91, 10]."""
    return my_mask(policy.logits.detach(), top_p, world.eos)


def masked(policy, allowed):
    """The masked policy: banned words get the logit −∞."""
    banned = {"logits": policy.logits.masked_fill(~allowed, -math.inf)}
    return lambda tokens: torch.func.functional_call(policy, banned, (tokens,))


def logprobs(policy, allowed):
    """log π_m of every word of every text, [820, 3]."""
    return mdp.action_logprobs(world, masked(policy, allowed), tokens, mask)


first = proposals(policy)[0]
before, after = policy.logits[0].softmax(-1), policy.logits[0].masked_fill(~first, -math.inf).softmax(-1)
rows = [(w, *x) for w, *x in zip(world.actions, before.tolist(), after.tolist(), strict=True)]
show.table(sorted(rows, key=lambda r: -r[1]), ["first word", "π", "masked, p = 0.9"])
print(f"Z = {before[first].sum():.3f}; all masked texts together have probability", end=" ")
print(f"{logprobs(policy, proposals(policy)).sum(1).exp().sum():.6f}")
assert abs(logprobs(policy, proposals(policy)).sum(1).exp().sum() - 1) < 1e-9

# %% [markdown]
# Gone are "great", "not" and "but". (The end of a text is "." here; it would stay even if it were unlikely.) Everything
# in RL that asked for $\pi$ now asks for $\pi_m$: the ratio (section 3), the KL (section 4), and the samples, in which
# some words never come up (section 5).

# %% [markdown]
# ## 3 · The ratio needs the stored mask
#
# PPO divides: $\rho = \pi_\text{new}(a|s) / \pi_\text{old}(a|s)$, where old is *whatever the word was drawn from*. That
# is $\pi_m$ at the time of the roll-out, with the mask of the time of the roll-out.
#
# **Exercise 12.2 · The first ratio** (predict · difficulty ●●○○○ · importance ●●●●● · 4 min)
#
# Somebody masks while sampling and forgets the mask in the update: the sampler's log-probs are those of $\pi_m$, the
# new ones those of $\pi$. No update has been made yet. The ratios are `"exactly 1"`, `"below 1"` or `"above 1"`?

# %% tags=["exercise"]
first_ratio = (
    ### BEGIN SOLUTION
    "below 1"
    ### END SOLUTION
)

# %%
first_ratio = check("12.2", first_ratio)

# %% [markdown]
# Lesson 11 asserted ratio = 1 at the first minibatch; RL4LMs, the paper's library, ships that assertion commented out.
# Let us see what it guards. Train for eight updates with an exact gradient, under the mask of the start; then take the
# expected gradient of PPO's clipped surrogate over *all* texts, with the mask used in four ways, and hold it against
# $\nabla J(\pi_m)$.


# %%
def climb(top_p, updates, mask_every=5, target=scores):
    """NLPO without noise: exact ascent on the masked policy's mean `target`. (policy, its last mask, true J's)."""
    _, policy = habitual_policy()
    optimizer, curve = torch.optim.Adam(policy.parameters(), lr=0.1), []
    for update in range(updates):
        if update % mask_every == 0:
            allowed = proposals(policy, top_p)
        p = logprobs(policy, allowed).sum(1).exp()
        curve.append((p @ scores).item())
        optimizer.zero_grad()
        (-(p @ target)).backward()
        optimizer.step()
    return policy, allowed, curve


number = {state: i for i, state in enumerate(mdp.exact_values(world, policy).states)}
row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in tokens.tolist()])


def first_update(policy, stored, old_mask, new_mask):
    """(mean ratio, share of words with ratio 0, error of the expected gradient relative to the exact one's length)."""
    drawn = logprobs(policy, stored).detach()
    weight = drawn.sum(1).exp()[:, None] * mask  # the text's probability, at each of its words
    old, new = (torch.where(weight > 0, logprobs(policy, m), 0.0) for m in (old_mask, new_mask))
    ratio = (new - old.detach()).exp()
    advantage = scores[:, None] - mdp.exact_values(world, masked(policy, stored)).v.detach()[row]
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    (found,) = torch.autograd.grad((weight * surrogate).sum(), policy.logits)
    (exact,) = torch.autograd.grad(mdp.exact_objective(world, masked(policy, stored)), policy.logits)
    mean = (weight * ratio).sum() / weight.sum()
    return (
        mean.item(),
        ((weight * (ratio == 0)).sum() / weight.sum()).item(),
        ((found - exact).norm() / exact.norm()).item(),
    )


# %%
def ways(top_p):
    trained, stored, _ = climb(top_p, 8, mask_every=100)
    now, none = proposals(trained, top_p), torch.ones_like(stored)
    pairs = {
        "stored mask in both": (stored, stored),
        "mask at sampling only": (stored, none),
        "mask rebuilt from π as it is now": (stored, now),
        "no mask in either": (none, none),
    }
    return {name: first_update(trained, stored, *pair) for name, pair in pairs.items()}


levels = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
found = {top_p: ways(top_p) for top_p in levels}
columns = ["p = 0.8: the update uses", "mean ratio", "words with ratio 0", "error of the gradient"]
show.table([(name, *row) for name, row in found[0.8].items()], columns, formats={"words with ratio 0": ".1%"})
lines = {name: (levels, [found[p][name][2] for p in levels]) for name in found[0.8]}
fig = show.curves(lines, "p", "error of the gradient, relative", size=(8.5, 3.8))
show.figure(fig, alt="The gradient's error against p: 0 for the stored mask, growing to most of its length as p falls.")
assert all(found[p]["stored mask in both"][2] < 1e-9 and found[1.0][name][2] < 1e-9 for p in levels for name in lines)
assert found[0.8]["mask at sampling only"][0] < 1 - 0.05 and found[0.8]["mask rebuilt from π as it is now"][1] > 0

# %% [markdown]
# - **Stored mask in both**: ratio 1, gradient exact, at every $p$.
# - **Mask at sampling only**: every ratio is $Z(s) < 1$. States in which the mask bites count less; and where $Z(s)$
#   is under 0.8 a word starts *below the clip*, and PPO's minimum has already switched off what should push its bad
#   ones down.
# - **Mask rebuilt**: words that were drawn and are now banned get probability 0, and are not learnt from. (Rebuild it
#   for the old log-probs too, and $-\infty - (-\infty)$ is NaN.)
# - **No mask in either** is right here, to the last digit! A fair question: so why bother?

# %% [markdown]
# **Exercise 12.3 · Probabilities that do not add up** (find the bug · difficulty ●●●○○ · importance ●●●●● · 10 min)
#
# First, the log-probs that the ratio is made of. `logits` `[B, T, V]`, `tokens` `[B, T]`, and `allowed`, the stored
# masks, bool `[B, T, V]`. What is returned for each drawn word looks reasonable, and is not $\log\pi_m$. Repair it.


# %%
def logprobs_as_given(logits, tokens, allowed):
    """log π_m of the tokens, [B, T]."""
    log_pi = logits.log_softmax(-1)
    return log_pi.masked_fill(~allowed, -math.inf).gather(-1, tokens[..., None]).squeeze(-1)


# %% tags=["exercise"]
def masked_logprobs(logits, tokens, allowed):
    """The same, repaired."""
    ### BEGIN SOLUTION
    log_pi = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    return log_pi.gather(-1, tokens[..., None]).squeeze(-1)
    ### END SOLUTION


# %%
masked_logprobs = check("12.3", masked_logprobs)

# %% [markdown]
# (The library's `rollout.score` does this whenever a roll-out carries a stored mask.)
#
# Now the question left open. $\nabla\log\pi$ and $\nabla\log\pi_m$ differ by $\nabla\log Z(s)$, the same for every
# word of the state. With words drawn from $\pi_m$, the mean of $\nabla\log\pi_m$ is 0 (lesson 05). And that of
# $\nabla\log\pi$?
#
# **Exercise 12.4 · A pull out of nothing** (derive · difficulty ●●●●○ · importance ●●●●○ · 12 min)
#
# One state with probabilities `p` `[V]` and mask `allowed` `[V]`. Work out $\mathbb{E}_{a\sim\pi_m}[\nabla\log\pi(a)]$
# with respect to the logits, `[V]`.


# %% tags=["exercise"]
def mean_score(p, allowed):
    """E[∇ log π(a)] over words drawn from the masked policy, [V]."""
    ### BEGIN SOLUTION
    return p * allowed / (p * allowed).sum() - p
    ### END SOLUTION


# %%
mean_score = check("12.4", mean_score)
logits = policy.logits[0].detach().clone().requires_grad_()
(slope,) = torch.autograd.grad(logits.softmax(-1)[first].sum().log(), logits)  # ∇ log Z
torch.testing.assert_close(mean_score(before.detach(), first), slope, rtol=0, atol=1e-9)
show.table([("∇ log Z", *slope.tolist())], ["first word", *world.actions])

# %% [markdown]
# It is $\pi_m - \pi = \nabla\log Z$: a pull of everything inside the mask up and everything outside down, whatever the
# reward. With $V(s)$ subtracted, $\mathbb{E}_{\pi_m}[\nabla\log Z(s)\,A] = \nabla\log Z(s) \cdot 0$, and that is why
# "no mask in either" came out exact: the baseline of lesson 05 rescued it. From the *second* update on nothing does:
# the words are still $\pi_m$'s, so an honest ratio has the mean 1, and $\pi_\text{new}/\pi_\text{old}$ has not.

# %%
trained, stored, _ = climb(0.6, 8, mask_every=100)
moved, _, _ = climb(0.6, 11, mask_every=100)  # three updates later
weight = logprobs(trained, stored).detach().sum(1).exp()[:, None] * mask
for name, m in {"stored mask": stored, "no mask": torch.ones_like(stored)}.items():
    old, new = (torch.where(weight > 0, logprobs(q, m).detach(), 0.0) for q in (trained, moved))
    mean_ratio = ((weight * (new - old).exp()).sum() / weight.sum()).item()
    print(f"{name:12} mean ratio three updates later: {mean_ratio:.4f}")
    assert (abs(mean_ratio - 1) < 1e-9) == (name == "stored mask")

# %% [markdown]
# A drift of a percent or two, here; the other two mistakes are the ones to fear. The cure for all three is the same:
# store the mask with the roll-out (`Rollout.allowed`, one bit for each word of the vocabulary), and use it wherever
# that roll-out is scored.

# %% [markdown]
# ## 4 · Which KL?
#
# Lesson 10 charged $\log\pi - \log\pi_\text{ref}$ of the sampled words, whose mean is
# $\mathrm{KL}(\pi\|\pi_\text{ref})$ *if the words are drawn from* $\pi$. Here they are not, and RL4LMs takes the
# unmasked log-probs all the same. One state with three words; the reference gives them 0.5, 0.3 and 0.2, and the mask
# allows the first two. The policy gives the banned word the probability $x$ and the others less, in proportion. Nobody
# sees any of it: $\pi_m$ stays what it is.
#
# > **Predict before you run.** Over the words that $\pi_m$ writes, what does the mean of
# > $\log\pi_m - \log\pi_\text{ref}$ do as $x$ grows, and what that of $\log\pi - \log\pi_\text{ref}$?

# %%
reference, allowed = torch.tensor([0.5, 0.3, 0.2]).log(), torch.tensor([True, True, False])
shares = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
right, unmasked = [], []
for x in shares:
    pi = torch.tensor([0.625 * (1 - x), 0.375 * (1 - x), x])
    pi_m = pi * allowed / (pi * allowed).sum()
    right.append((pi_m[:2] * (pi_m[:2].log() - reference[:2])).sum().item())
    unmasked.append((pi_m[:2] * (pi[:2].log() - reference[:2])).sum().item())
lines = {"log π_m − log ref": (shares, right), "log π − log ref, on the same words": (shares, unmasked)}
fig = show.curves(lines, "x, the policy's probability of the banned word", "mean, nats", exact={"zero": 0.0})
show.figure(
    fig, alt="With masked log-probs the mean is constant at 0.223; with unmasked ones it falls from 0.223 below 0."
)
assert max(right) - min(right) < 1e-6 and unmasked[-1] < 0 < unmasked[0]

# %% [markdown]
# $\mathrm{KL}(\pi_m\|\pi_\text{ref})$ does not move, as nothing that is written changes. The other number goes below
# zero, which no KL can: it measures words that $\pi_m$ writes with a yardstick from $\pi$. What is it, then?
#
# $$\mathrm{KL}(\pi_m \| \pi_\text{ref})
#   = \mathbb{E}_{\pi_m}\Big[\sum_t \log\tfrac{\pi}{\pi_\text{ref}}\Big]
#     + \mathbb{E}_{\pi_m}\Big[\sum_t -\log Z(s_t)\Big]
#   = \mathrm{KL}(\pi_m \| \pi_{\text{ref},m}) + \mathbb{E}_{\pi_m}\Big[\sum_t -\log Z_\text{ref}(s_t)\Big].$$
#
# The unmasked number forgets $-\log Z$, **the price of the mask itself**: up to $-\log p$ a word (0.1 nats at 0.9), due
# before the policy has learnt anything. A masked reference, $\pi_{\text{ref},m}$ with its own $Z_\text{ref}$, forgets a
# price as well.

# %% [markdown]
# **Exercise 12.5 · The KL to report** (implement · difficulty ●●●○○ · importance ●●●●○ · 12 min)
#
# For $N$ states: `logits`, `ref_logits` `[N, V]`, `allowed` bool `[N, V]`. Return
# $\mathrm{KL}(\pi_m\|\pi_\text{ref})$ of each, `[N]`. Mind the banned words: $-\infty \cdot 0$ is not 0 in a
# computer.


# %% tags=["exercise"]
def masked_kl(logits, ref_logits, allowed):
    """KL of the masked policy to the unmasked reference in each state, [N]."""
    ### BEGIN SOLUTION
    log_pi = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    difference = torch.where(allowed, log_pi - ref_logits.log_softmax(-1), 0.0)
    return (log_pi.exp() * difference).sum(-1)
    ### END SOLUTION


# %%
masked_kl = check("12.5", masked_kl)
sour = habitual_policy()[1]  # the reference: where training started
every, rows = torch.ones_like(stored), []
for updates in (0, 5, 10, 20, 40):
    trained, allowed, _ = climb(TOP_P, updates) if updates else (sour, proposals(sour), None)
    allowed = proposals(trained)
    here, wide = logprobs(trained, allowed).sum(1), logprobs(trained, every).sum(1)
    p = here.exp()
    seen = p > 0
    mean = [(p[seen] @ x[seen]).item() for x in (wide - logprobs(sour, every).sum(1), here - wide)]
    exact = mdp.exact_kl(world, masked(trained, allowed), sour).item()
    both = mdp.exact_kl(world, masked(trained, allowed), masked(sour, allowed)).item()
    rows.append((f"after {updates} updates", exact, *mean, both))
    assert abs(exact - sum(mean)) < 1e-9
    visits = mdp.state_distribution(world, masked(trained, allowed))  # the same, state by state
    assert abs(visits @ masked_kl(trained.logits, sour.logits, allowed) - exact) < 1e-6
show.table(
    rows, ["exact, a text of ≤ 3 words", "KL(π_m‖ref)", "unmasked log-probs", "price of the mask", "KL(π_m‖ref_m)"]
)

# %% [markdown]
# `nlpo.train` charges and reports $k_1$ of $\pi_m$ against the unmasked reference: the only one of the three that is
# the KL of what is written, and whose policy gradient belongs to its value (lesson 10, and a test in
# `tests/test_nlpo.py` against the exact gradient of the masked objective). When you compare PPO with NLPO by KL,
# remember that NLPO's starts above 0.

# %% [markdown]
# ## 5 · The best word outside the mask
#
# The micro policy hardly ever says "but". Yet "awful great but great" is the best text there is, and no text without
# "but" comes near it. At $p = 0.9$ that word is banned; at $p = 1$ NLPO is PPO.
#
# > **Predict before you run.** A banned word is never drawn. Can the policy learn to want it, or learn that it is bad?

# %%
trained, allowed, _ = climb(TOP_P, 40)
(slope,) = torch.autograd.grad(mdp.exact_objective(world, masked(trained, allowed)), trained.logits)
print(f"largest gradient of a banned word's logit: {slope[~allowed].abs().max():.1e}")
assert slope[~allowed].abs().max() == 0

proxy, truth, trap = trapped_score(world, tokens, mask).double(), {}, {}
for top_p in (0.8, 0.9, 0.95, 1.0):
    name = f"p = {top_p}" if top_p < 1 else "p = 1 (no mask)"
    truth[name], trap[name] = climb(top_p, 100)[2], climb(top_p, 100, target=proxy)[2]
says_but = ((tokens == world.actions.index("but")) & mask).any(1)
best = {"best text": scores.max().item(), "best without “but”": scores[~says_but].max().item()}
fig = show.curves(truth, "update", "score", "A treasure outside the mask", exact=best, size=(8, 3.8))
show.figure(fig, alt="Only without a mask is the best score reached; at p = 0.8 to 0.95 the curves level off below it.")
values = {name: curve[-1] for name, curve in truth.items()}
print({name: round(value, 2) for name, value in values.items()}, "best text:", round(scores.max().item(), 2))
assert values["p = 1 (no mask)"] > 2.1 and values["p = 0.95"] < 1.6 and values["p = 0.9"] < 0.8

# %% [markdown]
# Its logit has the gradient 0: **out of the mask, out of mind.** No reward can call it back. It may drift in by
# accident, when the allowed words sink below it (as "good" does at $p = 0.8$), or, in a network, by the weights that
# words share. The value lost is the distance between a curve's end and the top: at 0.95 what "but" is worth, and at the
# paper's 0.9, a third of what there was to win.
#
# But turn it round. Suppose the reward is a learnt one with a flaw: it takes every "not" for wit and adds 3. The policy
# says "not" as rarely as "but". Train on the flawed reward; the figure shows the *true* score.

# %%
fig = show.curves(trap, "update", "true score", "A trap outside the mask")
show.figure(
    fig, alt="With a flawed reward the true score of p = 1 first rises and then falls; the masked runs stay up."
)
print({name: round(curve[-1], 2) for name, curve in trap.items()})
assert max(trap["p = 1 (no mask)"]) > 0.2 > 0 > trap["p = 1 (no mask)"][-1] and trap["p = 0.95"][-1] > 1.4

# %% [markdown]
# Same mask, same mechanism, opposite verdict. **A mask cannot tell a treasure from a trap**: it keeps out what the
# policy has not yet been saying. That is a bet that the reward is wrong more often there than the policy is; with a
# fresh reward model, which has never read such texts, not a bad one. It is the bet of the KL price too, but that one
# has a currency: a treasure worth more than its nats gets through.

# %% [markdown]
# And the lag? Let the mask policy be replaced at every update, every 20, or never (which makes it the reference: a mask
# from the reference is one of the classic mistakes, as it never learns what the task needs).

# %%
updates, sizes, ends = [1, 10, 20, 30, 40, 60], {}, {}
for name, every in {"every update": 1, "every 20": 20, "never": 1000}.items():
    climbs = [climb(TOP_P, n, mask_every=every) for n in updates]
    sizes[name] = updates, [allowed[0].sum().item() for _, allowed, _ in climbs]
    ends[name] = round(climbs[-1][2][-1], 2)
fig = show.curves(sizes, "update", "words allowed at the start")
show.figure(
    fig, alt="Refreshed at every update or every 20, the mask shrinks from 7 words to 2; never refreshed it stays."
)
print("score at the end:", ends)
assert sizes["never"][1][-1] == 7 > 3 > sizes["every 20"][1][-1] and max(ends.values()) - min(ends.values()) < 0.5

# %% [markdown]
# A refreshed mask is much like a ratchet: it closes as the policy makes up its mind, and with gradients of 0 outside,
# no reward opens it again. The lag slows it. An honest verdict: with exact gradients the lag makes no great difference
# to where this small world ends (the eager mask is even a little ahead). It is meant against bad luck: with *sampled*
# gradients a good word may fall from grace for an update or two, and without a lag that may be for ever. Does it pay?
# `masked_run` below takes `batch=16, mask_every=...`: a dozen seeds each with 1 and 20 did not settle it.

# %% [markdown]
# **Exercise 12.6 · A mask against a trap** (experiment · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# The flawed reward again, now with *sampled* gradients (128 texts an update, 60 updates). Find a $p$ with which the
# true score ends above 0.5, interval and all, on four seeds you have not seen. Then say how sure you are; and would
# the same $p$ find the treasure?


# %%
from rlhf_lib.course.exercises.lesson_12 import masked_run

for top_p in (0.7, 1.0):
    ends = runs.mean_interval([masked_run(top_p, seed) for seed in range(3)])
    print(f"p = {top_p}: true score {ends[0]:.2f} (95 % interval {ends[1]:.2f} to {ends[2]:.2f})")

# %% tags=["exercise"]
my_p = (
    ### BEGIN SOLUTION
    0.9
    ### END SOLUTION
)

# %%
my_p = check("12.6", my_p)

# %% [markdown]
# ## 6 · The algorithm, and the paper's table in small
#
# `algorithms/nlpo.py` is written as a twin of `ppo.py`. These are the lines in which their loops differ:

# %%
import difflib
import inspect

loops = [inspect.getsource(module.train).split('"""')[2].splitlines() for module in (ppo, nlpo)]
print("\n".join(line for line in difflib.ndiff(*loops) if line[0] in "+-" and "critic:" not in line))

# %% [markdown]
# A mask policy, tracked so that an interrupted run resumes with it; refreshed every `mask_every` roll-outs; asked while
# sampling; and a reference that is scored without the mask. The ratio's lines are PPO's: `score` finds the stored mask
# in the roll-out.
#
# The paper trained GPT-2 on IMDB reviews and found (arXiv 2210.01241; *zero-shot* is the pre-trained model as it is,
# sentiment a classifier's score, perplexity the policy's on reviews that people wrote):

# %%
paper = {
    "zero-shot": (0.489, 32.17),
    "PPO": (0.602, 33.82),
    "NLPO": (0.611, 33.83),
    "supervised": (0.539, 35.47),
    "supervised+PPO": (0.626, 35.05),
    "supervised+NLPO": (0.620, 34.82),
}
columns = ["paper, GPT-2 on IMDB", "sentiment", "perplexity"]
show.table([(name, *figures) for name, figures in paper.items()], columns, formats={"perplexity": ".2f"})
gain = {start: paper[start + "NLPO"][0] - paper[start + "PPO"][0] for start in ("", "supervised+")}
print(
    f"NLPO − PPO in the paper: {gain['']:+.3f} from the base model, {gain['supervised+']:+.3f} from the supervised one"
)

# %% [markdown]
# RL against none: +0.08 to +0.12. NLPO against PPO: +0.009 and −0.006. Before you read anything into the last two, ask
# for an interval. Ours are the same six rows with the tiny model, four seeds each (`data/results/12_nlpo.json`, which
# names the command that made it): 10 roll-outs of 32 texts against the panel's reward model, 4 updates each. PPO and
# NLPO share the seed, so their prompts are the same. First one run live, 5 roll-outs, drawn over the stored ones. On
# the way it counts the positions that its updates evaluate, for section 7.

# %%
from dataclasses import replace

stored, config = results.load("12_nlpo"), experiments.lesson_12.NLPO
learner, counted = stages.sft_policy(value_head=True), {"updates": 0, "mask policy": 0}


def count(module, inputs, output):  # copied with the learner, so it counts the mask policy too
    if module is not learner:
        counted["mask policy"] += inputs[0].numel()
    elif torch.is_grad_enabled():
        counted["updates"] += inputs[0].numel()


learner.register_forward_hook(count)
reward, words_trained = stages.panel_reward_model(), []
live = nlpo.train(
    learner,
    reviews.openings("train"),
    lambda texts: (words_trained.append(int(texts.mask.sum())), reward(texts))[1],
    replace(config, steps=5, seed=9),
    reference=sft_policy,
)
assert max(live.column("first_ratio")) < 1e-3  # ratio 1 at every first minibatch

# %%
curves = {
    "PPO, 4 stored runs": (list(range(config.steps)), stored["curves"]["supervised+PPO"]),
    "NLPO, 4 stored runs": (list(range(config.steps)), stored["curves"]["supervised+NLPO"]),
    "NLPO, this run": (list(range(len(live.history))), live.column("reward")),
}
show.figure(
    show.curves(curves, "roll-out", "reward (0 = the SFT policy)"),
    alt="Reward against roll-out: PPO's and NLPO's bands rise and overlap; the live run jumps up and down beside them.",
)
show.table(
    [(row["step"], row["reward"], row["kl"], row["allowed"], row["clip_fraction"]) for row in live.history],
    ["roll-out", "reward", "KL(π_m‖ref)", "words allowed", "clipped"],
    caption="This run: NLPO from the SFT policy",
    formats={"words allowed": ",.0f"},
)

# %% [markdown]
# The KL does not start at 0: that is the price of the mask. Now the table: 24 openings of the test blocks, 4 texts
# each; NLPO's policies write under their mask, the others freely. "Perplexity of reviews" is the paper's: the policy's,
# without a mask, on sentences that people wrote. "Perplexity" is lesson 11's: the pre-trained model's, on the texts
# that the policy wrote. KL is to the policy that training started from.

# %%
ROWS, MEASURES = list(paper), experiments.lesson_12.NLPO_MEASURES


def interval(values):
    mean, low, high = runs.mean_interval(values)
    return f"{round(mean, 2) + 0.0:.2f} ± {(high - low) / 2:.2f}".replace("-", "−")


def own_way(name):
    return stored[name]["masked" if "NLPO" in name else "free"]


show.table(
    [(name, *(interval(own_way(name)[key]) for key in MEASURES)) for name in ROWS],
    ["tiny, reviews", *MEASURES],
    caption="Mean over 4 seeds ± half the width of Student's 95 % interval",
)


# %%
def compared(name, ours, theirs):
    """A row: the mean difference by seed, its interval, and what that allows us to say."""
    mean, low, high = runs.paired_interval(ours, theirs)
    return name, mean, low, high, "not clear" if low <= 0 <= high else "higher" if mean > 0 else "lower"


keys = ("judge", "perplexity of reviews", "distinct-2", "length", "KL")
show.table(
    [
        compared(
            f"{'supervised' if start else 'base'}: {key}", own_way(f"{start}NLPO")[key], own_way(f"{start}PPO")[key]
        )
        for start in ("", "supervised+")
        for key in keys
    ],
    ["NLPO − PPO, by seed", "mean", "95 % from", "to", "NLPO's is"],
)
gains = {
    "supervised+PPO": (own_way("supervised+PPO"), stored["supervised"]["free"]),
    "supervised+NLPO": (own_way("supervised+NLPO"), stored["supervised"]["masked"]),
}
show.table(
    [compared(f"{name}: {key}", new[key], old[key]) for name, (new, old) in gains.items() for key in keys[:2]],
    ["after RL − before", "mean", "95 % from", "to", "it is"],
)
assert all(runs.paired_interval(new["judge"], old["judge"])[1] > 0 for new, old in gains.values())

# %% [markdown]
# Read the last column first. What four seeds can tell:
#
# - **RL works** from the supervised policy, with the mask and without it, and a judge that took no part in it says so.
# - **It has a price**: the policies have become worse models of the reviews that people wrote, by about a quarter. In
#   the paper that price is 1.7 points of perplexity from the base model and none from the supervised one; our steps
#   are big and our model is small.
# - **PPO or NLPO?** From neither start can our judge tell them apart. The paper has +0.009 and −0.006, without an
#   interval. And even a clear difference in this table would have to answer one more question:
#
# ### How much of it is the mask at writing time?
#
# NLPO's rows differ from PPO's in two ways: how the policy was trained, and that its texts are *written* under a mask.
# PPO's policy can be sampled with top-p as well (*nucleus sampling*, which many do anyway), and NLPO's without.

# %%
rows = []
for name in ("zero-shot", "supervised", "supervised+PPO", "supervised+NLPO"):
    for way, label in (("free", "all words"), ("masked", "top-p 0.9")):
        found = stored[name][way]
        rows.append(
            (f"{name}, {label}", *(interval(found[key]) for key in ("judge", "perplexity", "distinct-2", "KL")))
        )
show.table(rows, ["policy, written with", "judge", "perplexity", "distinct-2", "KL"])
assert all(sum(stored[r]["masked"]["perplexity"]) < sum(stored[r]["free"]["perplexity"]) for r in ROWS)

judged = {(name, way): stored[name][way]["judge"] for name in ROWS for way in ("free", "masked")}
start, p, n = "supervised", "supervised+PPO", "supervised+NLPO"
pairs = {
    "the table's: NLPO masked − PPO free": ((n, "masked"), (p, "free")),
    "like with like: both free": ((n, "free"), (p, "free")),
    "like with like: both masked": ((n, "masked"), (p, "masked")),
    "the mask at writing time alone, PPO's policy": ((p, "masked"), (p, "free")),
    "the mask at writing time alone, supervised policy": ((start, "masked"), (start, "free")),
}
show.table(
    [compared(name, judged[a], judged[b]) for name, (a, b) in pairs.items()],
    ["judge's score, by seed", "mean", "95 % from", "to", "the first is"],
)

# %% [markdown]
# The first line gives each method its own sampler, as the paper's table does; the next two compare like with like, and
# there NLPO's mean is below PPO's, though neither interval is clear of 0. The fourth shows what was mixed in: the mask
# as a way of *sampling* makes PPO's policy better all by itself. A table that gives each method its own sampler cannot
# tell that from a better way of *training*.
#
# One more warning, from this course's own kitchen. Its first edition found the first line at +0.38, 95 % interval 0.19
# to 0.56: "clear", over the same four seeds. Then the supervised policy and the reward model were trained anew, on the
# same ratings, and it was gone. Four seeds of the RL loop say nothing of what was drawn only once, outside it.
#
# And the mask's texts are easier to read for a bystander: perplexity under the base model falls in every pair of rows,
# as it must when the tail is cut off, while KL to the start rises by the price of the mask.

# %% [markdown]
# ## 7 · What it costs
#
# **Exercise 12.7 · Counting positions** (predict · difficulty ●●○○○ · importance ●●●○○ · 6 min)
#
# RL4LMs treats each *word* as a sample of its own: the text before it, padded to the full width, goes through the
# model to learn from that one word. Its IMDB configuration: 10 environments × 128 words a roll-out, prompts of 64 and
# texts of 48 positions, 5 passes. How many token positions do the updates after one roll-out evaluate?

# %% tags=["exercise"]
positions = (
    ### BEGIN SOLUTION
    10 * 128 * (64 + 48) * 5
    ### END SOLUTION
)

# %%
positions = check("12.7", positions)
width, passes, words_drawn = 64 + 48, 5, 10 * 128
teacher_forced = math.ceil(words_drawn / 48) * width * passes  # each text once a pass
dense, packed = words_drawn * 50_257 * 4, words_drawn * math.ceil(50_257 / 8)  # bytes of the stored masks, GPT-2
print(f"RL4LMs: {positions:,} positions; each text once: {teacher_forced:,}; {positions / teacher_forced:.0f} times")
print(f"its masks, a float a word: {dense / 1e6:.0f} MB; packed, a bit a word: {packed / 1e6:.0f} MB")
assert (positions, teacher_forced) == (716_800, 15_120) and round(dense / 1e6) == 257 and dense > 31 * packed

one_by_one = sum(words_trained) * config.epochs * (counted["updates"] / config.epochs / (5 * 32))
print(f"our live run: {counted['updates'] / 5:,.0f} positions an update phase, one forward a sequence and pass;")
print(f"word by word it would have been {one_by_one / 5:,.0f}: {one_by_one / counted['updates']:.0f} times as many")
print(f"the mask policy, while sampling: {counted['mask policy'] / 5:,.0f} a roll-out, and none in the updates")

# %% [markdown]
# A causal LM gives the predictions at *all* positions of a text in one forward pass (*teacher forcing*), and the value
# head the values. So going word by word costs as many times more as a text has words. The mask costs one more forward
# pass a sampled word (of that word alone: a cache keeps what was computed for the words before it), and nothing in the
# updates, because it is stored; as bits, it is 32 times smaller than as floats.
#
# <details><summary>Details: NLPO in RL4LMs and here</summary>
#
# RL4LMs (`gpt2_nlpo.yml` of its IMDB task) keeps at least 100 words whatever p says, allows *all* special tokens, and
# refreshes the mask policy every 5 roll-outs. Here the end token is the only special one that is always allowed: a pad
# or a start token in the middle of a text helps nobody. Its KL takes unmasked log-probs (section 4). `top_k=`
# bounds the number of words as well.
#
# </details>

# %% [markdown]
# ## Recap
#
# - NLPO is PPO on a masked policy: top-p of a lagging copy, the end token always in, renormalised.
# - Samples, ratio and KL are the masked policy's, **with the mask stored at sampling time**. Forgotten, the ratio
#   starts at $Z(s)$; rebuilt, it starts at 0 for some words.
# - Report $\mathrm{KL}(\pi_m\|\pi_\text{ref})$. With unmasked log-probs it is no KL and can be negative.
# - A banned word has gradient 0: the mask keeps out treasures and traps alike.
# - A table without intervals is an anecdote: the paper's NLPO − PPO is +0.009 and −0.006.
#
# | in the lecture | here | note |
# |---|---|---|
# | "supervised for a bit, then approx. trust region RL" | section 6, the rows supervised+… | lesson 11 has PPO |
# | "natural language with RL" (RL4LMs, NLPO) | sections 1 to 7 | the paper's Is RL (Not) for NLP?, ICLR 2023 |
# | $A_t^\pi = Q_t^\pi - V_t^\pi$, generic actor-critic | section 3, `advantage` | V of the *masked* policy |

# %%
quiz(
    "Your NLPO run logs first_ratio = 0.18, the largest |ρ − 1| before the first update. What do you look for first?",
    {
        "A learning rate that is too high": "No update has been made when the first ratio is taken.",
        "A mask that the sampler and the update do not share": "Yes: without it the ratio is Z(s), between p and 1; "
        "with p = 0.8 that is a difference of up to 0.2.",
        "A mask policy that is too old": "Its age changes which words are allowed, not the ratio: both sides use the "
        "stored mask.",
    },
    correct="A mask that the sampler and the update do not share",
)
quiz(
    "With mask_every = 1 the mask policy is the policy itself at each roll-out. What is NLPO then?",
    {
        "PPO": "Only p = 1 gives PPO: all words allowed.",
        "PPO on nucleus samples, with the nucleus in the ratio": "Yes. The lag is what it adds, so that a word may "
        "fall out of favour for a while without being banned.",
        "Greedy decoding": "That would be top_k = 1.",
    },
    correct="PPO on nucleus samples, with the nucleus in the ratio",
)
quiz(
    "The reward loves a name that has probability 0.0001 in every state. How will NLPO at p = 0.9 learn to say it?",
    {
        "Slowly": "A word that is never drawn has gradient 0.",
        "Not at all, unless it gets into the mask some other way": "Yes: by supervised examples, or by weights it "
        "shares with other words.",
        "As fast as PPO": "PPO draws it once in 10,000 words; that is slow, but not never.",
    },
    correct="Not at all, unless it gets into the mask some other way",
)

# %% [markdown]
# **Next:** Part IV. Lesson 13 drops the critic and compares groups of samples instead (RLOO, GRPO), or drops the
# sampling altogether (DPO).
