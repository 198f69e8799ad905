# %% [markdown]
# # 07 · Pre-training and supervised fine-tuning
#
# **The question.** Before any reinforcement there is imitation: *collect expert demos, train with supervised
# learning.* What does imitating teach, what can it never teach, what does it cost? And what was pre-training for?
#
# **You will** write the loss of behaviour cloning and repair a clone that never stops; see that cloning is a policy
# gradient whose every weight is 1; clone a good and a bad demonstrator together, **exactly**, and get their average;
# start the same training from random and from pre-trained weights; and price the demonstrations.
#
# | | |
# |---|---|
# | You need | lessons 01 and 03 |
# | Reading | 35 minutes, and 50 for the exercises |
# | Run time | about 40 s on 2 cores, once the SFT policy and the judge are there |
# | A GPU | shortens section 4 |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · Copy the expert
#
# A **demonstration** is a prompt and what an expert would answer. Our experts are the authors of film reviews: take
# a sentence that people found positive (mean rating at least 2), call its first five words the prompt and the rest
# the answer.

# %%
demonstrations = reviews.demonstrations("train")
print(len(demonstrations), "demonstrations")
show.table([(prompt, answer.strip()) for prompt, answer in demonstrations[100:900:200]], ["prompt", "demonstrated"])

# %% [markdown]
# Imitating means: make what the expert said likely. That is all of **behaviour cloning**, or *supervised
# fine-tuning* (SFT):
#
# $$L(\theta) = -\frac{1}{M} \sum_{\text{demonstrations}}\; \sum_{t} \log \pi_\theta(a_t \mid s_t),$$
#
# where $a_t$ runs over the demonstrated tokens, the end token included, $s_t$ is the prompt and the demonstrated
# tokens so far, and $M$ counts the tokens. In a classifier's words: cross-entropy, with the expert's next word as
# the label. No environment, no samples, no score.
#
# Easy to say, and easy to get wrong by one. A row holds prompt, completion, end token and, behind it, padding. Let the
# prompt be `the film`, the completion `was good`:
#
# | place | 0 | 1 | 2 | 3 | 4 | 5 |
# |---|---|---|---|---|---|---|
# | `ids` | the | film | was | good | *end* | *pad* |
# | its `logits` predict | film | was | good | *end* | nothing | nothing |
# | in the loss, as a target | | | yes | yes | yes | |
#
# **Exercise 07.1 · The cloning loss** (implement · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# `logits` is `[B, T, V]`: `logits[:, t]` comes from the tokens up to and including place `t`. `ids` is `[B, T]`.
# `prompt_length` and `length` are `[B]`: in the example 2 and 5. Return the mean over all target tokens of the batch.


# %% tags=["exercise"]
def my_cloning_loss(logits, ids, prompt_length, length):
    """−log π of completions and end tokens, averaged over these tokens."""
    ### BEGIN SOLUTION
    log_pi = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    place = torch.arange(1, ids.shape[1])
    mask = (place >= prompt_length[:, None]) & (place < length[:, None])
    return -log_pi[mask].mean()
    ### END SOLUTION


# %%
my_cloning_loss = check("07.1", my_cloning_loss)

# %% [markdown]
# The library does the same in two steps: `rollout.score` gives the log-probabilities of a completion's tokens,
# `losses.sft_loss` averages them where a mask says so. On the tiny model and three real demonstrations:

# %%
pupils = experiments.shared.writers(seed=4)  # the tiny model: with random weights, pre-trained, fine-tuned (SFT)
base = pupils["pre-trained"]
batch = rollout.from_texts(base, demonstrations[:3])
with torch.no_grad():
    library = losses.sft_loss(rollout.score(base, batch).logprobs, batch.mask)
    ids = torch.cat([batch.prompt_ids, batch.tokens], 1)[2:]  # one row: no padding on its left
    keep = torch.cat([batch.prompt_mask, batch.mask], 1)[2:]
    ids, prompt_length = ids[keep][None], batch.prompt_mask[2:].sum(1)
    logits, _ = base(ids, torch.ones_like(ids), last=ids.shape[1])
    mine = my_cloning_loss(logits.cpu(), ids.cpu(), prompt_length.cpu(), torch.tensor([ids.shape[1]]))
    one = losses.sft_loss(rollout.score(base, batch[2]).logprobs, batch[2].mask)
print(f"three demonstrations: {library:.3f} nats a token; the third alone: {one:.3f}, by your loss {mine:.3f}")
torch.testing.assert_close(mine, one.cpu(), rtol=1e-3, atol=1e-3)

# %% [markdown]
# **Exercise 07.2 · The clone that never stops** (find the bug · difficulty ●●●○○ · importance ●●●●● · 10 min)
#
# Many tokenizers have no padding token, and so people pad with the end token. The function below builds a batch from
# token lists: `ids [B, T]`, and the `mask` of what is to be imitated. The loss falls nicely, and the clone writes
# well; it merely goes on writing until it is cut off. Look at what comes out, and repair it.


# %%
def given_batch(prompts, completions, end):
    """ids [B, T] and mask [B, T], True on the tokens to imitate."""
    rows = [p + c + [end] for p, c in zip(prompts, completions, strict=True)]
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [end] * (width - len(row)) for row in rows])  # padded with the end token
    after_prompt = torch.arange(width) >= torch.tensor([[len(p)] for p in prompts])
    return ids, after_prompt & (ids != end)


given_batch([[5, 7], [8]], [[3, 4, 9], [6]], end=2)


# %% tags=["exercise"]
def repaired_batch(prompts, completions, end):
    """The same, repaired."""
    ### BEGIN SOLUTION
    ids, _ = given_batch(prompts, completions, end)
    place = torch.arange(ids.shape[1])
    first = torch.tensor([[len(p)] for p in prompts])
    last = torch.tensor([[len(p) + len(c)] for p, c in zip(prompts, completions, strict=True)])  # the end token
    return ids, (place >= first) & (place <= last)
    ### END SOLUTION


# %%
repaired_batch = check("07.2", repaired_batch)

# %% [markdown]
# ## 2 · A policy gradient without a score
#
# Put two formulas next to each other. REINFORCE weighs what the *policy* wrote by its score; cloning takes what the
# *expert* wrote:
#
# $$\nabla J = \mathbb{E}_{y \sim \pi}\big[\, R(y)\; \nabla \log \pi(y)\,\big], \qquad
# -\nabla L \;\propto\; \mathbb{E}_{y \sim \text{expert}}\big[\, 1 \cdot \nabla \log \pi(y)\,\big].$$
#
# Two differences: whose texts, and the weight. Weight 1 says "all of this was good". Let us be exact, in the micro
# review language: go on from "awful" with at most three of ten words, 820 texts in all. A **good** demonstrator writes
# texts with the frequencies of chance times $e^{R}$, a **bad** one with those of chance times $e^{-R}$ (normalised).

# %%
task = reviews.micro_mdp(horizon=3)
words, mask = mdp.enumerate_episodes(task)  # all texts, [820, 3]
R = mdp.episode_returns(task, words, mask, torch.float64)  # their scores
table = models.TablePolicy(task).double()  # uniform: a row of ten logits for each of 91 partial texts
by_chance = mdp.action_logprobs(task, table, words, mask).sum(1).detach()
good, bad = (by_chance + R).softmax(0), (by_chance - R).softmax(0)  # how often each writes each text
show.table(
    [(name, (p @ R).item()) for name, p in {"good": good, "by chance": by_chance.exp(), "bad": bad}.items()],
    ["demonstrator", "J, the mean score"],
)

# %% [markdown]
# First, one batch: draw 64 demonstrations. The library's cloning loss (here divided by the number of texts) and its
# policy-gradient loss with all weights 1 should have the same gradient.

# %%
torch.manual_seed(1)
student = models.TablePolicy(task).double()
student.logits.data = torch.randn_like(student.logits)
drawn = torch.multinomial(good, 64, replacement=True, generator=runs.generator(0))
y, m = words[drawn], mask[drawn]
log_pi = mdp.action_logprobs(task, student, y, m)
cloning = losses.sft_loss(log_pi, m, denominator=len(y))
weight_one = losses.policy_gradient_loss(log_pi, torch.ones(len(y), dtype=torch.float64), m)
gradients = [torch.autograd.grad(loss, student.logits, retain_graph=True)[0] for loss in (cloning, weight_one)]
print(f"largest difference of the two gradients: {(gradients[0] - gradients[1]).abs().max():.1e}")
torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)

# %% [markdown]
# No difference at all. Now the *expected* steps, as sums over all 820 texts: where does each recipe push, compared with
# $\nabla J$?
#
# > **Predict before you run.** What if the policy takes its **own** texts for demonstrations?
#
# **Exercise 07.3 · Cloning yourself** (predict · difficulty ●●○○○ · importance ●●●●○ · 3 min)
#
# Where does the expected step of cloning lead, if the demonstrations are drawn from the policy itself? Answer
# `"nowhere"`, `"to its favourite texts"` or `"to a uniform policy"`.

# %% tags=["exercise"]
where = (
    ### BEGIN SOLUTION
    "nowhere"
    ### END SOLUTION
)

# %%
where = check("07.3", where)

# %%
text_log_pi = mdp.action_logprobs(task, student, words, mask).sum(1)
pi = text_log_pi.exp().detach()
(slope,) = torch.autograd.grad(mdp.exact_objective(task, student), student.logits)  # ∇J
recipes = {  # who writes, and the weight of each text
    "the good demonstrator's texts, weight 1": (good, torch.ones_like(R)),
    "own texts, weight 1": (pi, torch.ones_like(R)),
    "own texts, weight good / π": (pi, good / pi),
    "own texts, weight R: the policy gradient": (pi, R),
    "the bad demonstrator's texts, weight 1": (bad, torch.ones_like(R)),
}
rows, push = [], {}
for name, (writer, weight) in recipes.items():
    (push[name],) = torch.autograd.grad((writer * weight) @ text_log_pi, student.logits, retain_graph=True)
    along = (push[name] * slope).sum() / slope.norm()  # how far it climbs J
    rows.append((name, push[name].norm().item(), round(along.item(), 6) + 0.0))
show.table(
    rows, ["texts and weights", "length of the step", "of which along ∇J"], formats={"of which along ∇J": "+.3f"}
)
first, own, ratio, gradient, _ = push.values()
torch.testing.assert_close(ratio, first, rtol=0, atol=1e-9)
torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-9)
assert own.abs().max() < 1e-12 and rows[0][2] > 0 > rows[4][2]

# %% [markdown]
# - From one's own texts nothing is learnt: $\mathbb{E}_\pi[\nabla\log\pi] = 0$. **All that cloning knows comes from
#   who wrote the texts.**
# - Row 3: cloning is reinforcement with the score $p_\text{expert}(y)/\pi(y)$: "would the expert have said this more
#   often than I do?" The expert's taste *is* the reward, and nothing else is.
# - Row 5: clone a bad demonstrator, and the step leads downhill. The loss $L$ falls all the same.
#
# Partial text by partial text the push on the logits is simple: how often the expert comes by, times the gap between
# expert and policy. It is 0 when they agree.

# %%
states = mdp.exact_values(task, student).states  # the 91 partial texts
number = {state: i for i, state in enumerate(states)}
row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in words.tolist()])  # [820, 3]


def clone(p):
    """Clone texts with frequencies p [820] by counting: how often does each word follow each partial text?"""
    counts = torch.zeros(len(states) * 10, dtype=torch.float64)
    counts.index_add_(0, (10 * row + words)[mask], p[:, None].expand(-1, 3)[mask])
    policy = models.TablePolicy(task).double()
    policy.logits.data = (counts.view(-1, 10) + 1e-20).log()  # where nobody came by: all words alike
    return policy


expert = clone(good)
visits = mdp.state_distribution(task, expert).detach()
gap = expert.logits.softmax(-1) - student.logits.softmax(-1)
torch.testing.assert_close(first, (visits[:, None] * gap).detach(), rtol=0, atol=1e-9)
print("push on the logits = visits of the expert × (expert − policy), in all", len(states), "partial texts")

# %% [markdown]
# And so the perfect clone needs no gradient at all, only **counting**: in each partial text, what share of the
# demonstrations went on with "great"? For a table that is the minimum of $L$; a network comes as near as it can.
#
# Mind the factor *visits of the expert*. Where the expert never goes, the clone learns nothing. After its first own
# mistake it is in a text that no expert has ever written, with nobody to imitate.

# %% [markdown]
# ## 3 · You get their average
#
# Demonstrations are bought from many people. Some are experts; some are in a hurry. Mix them: a share $w$ of the
# texts comes from the good demonstrator, the rest from the bad one. Nobody marks which is which.
#
# > **Predict before you run.** Half and half. Does the clone learn from the good one what is right, and from the bad
# > one what is wrong?


# %%
def learning(p, updates=80):
    """J of a student that clones texts with frequencies p by gradient descent, before each update."""
    student = models.TablePolicy(task).double()
    optimizer, scores = torch.optim.Adam([student.logits], lr=0.2), []
    for _ in range(updates):
        log_pi = mdp.action_logprobs(task, student, words, mask).sum(1)
        scores.append((log_pi.detach().exp() @ R).item())
        optimizer.zero_grad()
        (-(p @ log_pi)).backward()
        optimizer.step()
    return scores


taught = {"good": good, "half and half": (good + bad) / 2, "bad": bad}
curves = {f"demonstrators: {name}": learning(p) for name, p in taught.items()}
levels = {name: (p @ R).item() for name, p in taught.items()}
fig = show.curves(curves, "updates", "J of the clone", size=(7.5, 4))
for level in levels.values():
    fig.axes[0].axhline(level, color="#000000", alpha=0.5, linewidth=1, label="_")
fig.axes[0].legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.7))
alt = "Three clones climb or fall to the thin lines, their demonstrators' mean scores; half and half ends in between."
show.figure(fig, alt=alt)
for scores, level in zip(curves.values(), levels.values(), strict=True):
    assert abs(scores[-1] - level) < 0.1
print("mean score of the demonstrations (thin lines):", {name: round(level, 3) for name, level in levels.items()})

# %% [markdown]
# The loss cannot tell good from bad, because it was never told. The limit is exact. A clone that can represent it
# writes **each text as often as the demonstrations do**, so
#
# $$J(\text{clone}) = w\, J(\text{good}) + (1 - w)\, J(\text{bad}) \;\le\; J(\text{good}).$$

# %%
for w in torch.linspace(0, 1, 11).tolist():
    p = w * good + (1 - w) * bad
    mixed = clone(p)
    texts = mdp.action_logprobs(task, mixed, words, mask).sum(1).exp().detach()
    assert (texts - p).abs().max() < 1e-9  # each text as often as the demonstrations do
    J = mdp.exact_objective(task, mixed).item()
    assert abs(J - w * levels["good"] - (1 - w) * levels["bad"]) < 1e-9
    assert J <= levels["good"] + 1e-9
print("J of the clone is the mix of the demonstrators' J, for every share w")

# %% [markdown]
# **Touch it.** The clone does not write average texts. It is the good writer with chance $w$, and else the bad one.


# %%
@show.style()
def scores_of_clone(w):
    J = w * levels["good"] + (1 - w) * levels["bad"]
    fig, ax = show.new_figure("score of a text", "share of the clone's texts", size=(7, 3.4))
    ax.hist(
        [R.tolist(), R.tolist()],
        bins=24,
        range=(-4, 4),
        weights=[(w * good).tolist(), ((1 - w) * bad).tolist()],
        stacked=True,
        color=[show.plots.BLUE, show.plots.ORANGE],
        label=["as the good one", "as the bad one"],
    )
    ax.axvline(J, color="#000000", linestyle="--", label=f"J = {J:+.2f}")
    ax.axvline(levels["good"], color="#000000", linestyle=":", label=f"the good one's: {levels['good']:+.2f}")
    fig.legend(loc="outside right upper")
    return fig


show.slider_figure(
    scores_of_clone,
    alt=lambda w: f"With a share {w:.1f} of good texts the clone's mean score lies between the two demonstrators'.",
    labels={"w": "share of good demonstrations"},
    w=(0.0, 1.0, 0.1, 0.5),
)

# %% [markdown]
# ### Bayes in every word
#
# How can one policy be two writers? By looking at what it has written. After "but very" the text is more likely the
# good one's, and the clone goes on like the good one; after "and awful" it goes on like the bad one.
#
# **Exercise 07.4 · The next word of a clone** (derive · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# In one state: demonstrator $i$ gave a share `weights[i]` of the demonstrations, comes through this state with
# probability `reach[i]`, and then says word $a$ with probability `pi[i, a]`. What are the probabilities `[A]` of the
# clone's next word here? Minimise the cross-entropy on paper, then write it.


# %% tags=["exercise"]
def clone_says(weights, reach, pi):
    """The clone's policy in one state: weights [M], reach [M], pi [M, A] -> [A]."""
    ### BEGIN SOLUTION
    whose = weights * reach
    return (whose / whose.sum()) @ pi
    ### END SOLUTION


# %%
clone_says = check("07.4", clone_says)

# %% [markdown]
# Confirm it in all 91 partial texts, and look at some. Beside it a tempting wrong answer: average the two policies with
# the same weights everywhere. Such a writer forgets which of the two it is, and tosses a coin at every word.

# %%
w, pair = 0.5, [clone(good), clone(bad)]
both = torch.stack([one.logits.detach().softmax(-1) for one in pair], 1)  # [91, 2, 10]
reach = torch.stack([mdp.state_distribution(task, one).detach() for one in pair], 1)  # [91, 2]
half = clone((good + bad) / 2)
weights = torch.tensor([w, 1 - w], dtype=torch.float64)
says = torch.stack([clone_says(weights, reach[i], both[i]) for i in range(len(states))])
torch.testing.assert_close(says, half.logits.detach().softmax(-1), rtol=0, atol=1e-9)

forgetful = models.TablePolicy(task).double()
forgetful.logits.data = both.mean(1).log()
V = {name: mdp.exact_values(task, one).v for name, one in {"clone": half, "forgetful": forgetful}.items()}
rows = []
for text in ((), ("but",), ("but", "very"), ("and",), ("and", "awful")):
    s = number[tuple(reviews.micro_ids(text))]
    posterior = (weights * reach[s] / (weights @ reach[s]))[0].item()
    rows.append((" ".join(("awful", *text)) + " …", posterior, V["clone"][s].item(), V["forgetful"][s].item()))
show.table(rows, ["partial text", "P(it is the good one's)", "V of the clone", "V of the forgetful average"])
assert rows[2][1] > 0.5 > rows[4][1] and abs(rows[0][2] - rows[0][3]) > 0.01

# %% [markdown]
# $P(\text{good} \mid \text{text so far}) \propto w \cdot \text{reach}$: Bayes' rule, learnt by nothing but next-word
# prediction. Large models do it too: a model of everybody's texts *becomes* whoever the prompt sounds like. In our
# task a negative opening sounds like a negative reviewer.
#
# <details><summary><b>Optional: "never better", and the temperature</b></summary>
#
# The clone's *distribution* is the mix. Sample it more coldly and it bets on the commoner words. If each bad
# demonstrator errs in another way while the good ones agree, the majority is right more often than its members; with
# a bad majority the same trick makes things worse. The next cell computes it; which way it goes depends on $w$, and
# nothing in the demonstrations tells you.
#
# </details>

# %%
rows = []
for w in (0.3, 0.5, 0.7):
    mixed, found = clone(w * good + (1 - w) * bad), []
    for temperature in (1.0, 0.5, 0.1):
        cool = models.TablePolicy(task).double()
        cool.logits.data = mixed.logits.detach() / temperature
        found.append(mdp.exact_objective(task, cool).item())
    rows.append((f"{w:.0%} good", *found))
show.table(rows, ["demonstrations", "J at temperature 1", "0.5", "0.1"], formats={"0.5": ".3f", "0.1": ".3f"})

# %% [markdown]
# ### What would help: a score
#
# Suppose that somebody scored every demonstration. Then one could throw out the bad ones, and clone the rest. For a
# table, $J$ of the clone is the mean score of what it cloned, to the digit, for any number of demonstrations:

# %%
for count in (5, 50, 500):
    drawn = torch.multinomial((good + bad) / 2, count, replacement=True, generator=runs.generator(count))
    bought = torch.bincount(drawn, minlength=len(R)).double() / count
    J = mdp.exact_objective(task, clone(bought)).item()
    print(f"{count:4} demonstrations: mean score {R[drawn].mean():+.6f}, J of their clone {J:+.6f}")
    assert abs(J - R[drawn].mean()) < 1e-6

# %% [markdown]
# **Exercise 07.5 · Better than the good one** (experiment · difficulty ●●●○○ · importance ●●●●○ · 8 min)
#
# Buy 400 demonstrations, half from each demonstrator, keep those that score at least a threshold, clone them. The
# thresholds to choose from are −2, −1.5, … 2. Which is the **lowest** with a clone *safely* better than the good
# demonstrator: the whole 95 % interval over new purchases lies above? Turn the knob, then answer.

# %%
from rlhf_lib.course.exercises.lesson_07 import filtered, good_demonstrators_score

threshold = -2.0
trials = [filtered(threshold, seed) for seed in range(6)]
print("J of the clone {:.3f}, 95 % interval {:.3f} to {:.3f}".format(*runs.mean_interval([J for J, _ in trials])))
print(f"the good demonstrator: {good_demonstrators_score():.3f}; kept {[kept for _, kept in trials]} of 400")

# %% tags=["exercise"]
lowest = (
    ### BEGIN SOLUTION
    -1.5
    ### END SOLUTION
)

# %%
lowest = check("07.5", lowest)

# %% [markdown]
# With a score, *better than the best demonstrator* is easy. The score is the new thing; lessons 08 and 09 get one from
# people, and lesson 10 goes on from here.
#
# ## 4 · "What does pre-training do? Weight initialisation."
#
# The lecture's question and its answer. First: what *is* pre-training? The same loss, with an empty prompt and with
# whatever people wrote as the demonstration. Check it on sentences of our reviews:

# %%
sentences = reviews.load().subset("validation").texts[::40]
start = [base.tokenizer.bos_token_id]
batch = rollout.from_texts(base, [(start, sentence) for sentence in sentences])
with torch.no_grad():
    nats = losses.sft_loss(rollout.score(base, batch).logprobs, batch.mask, denominator=1)
bits = (nats / math.log(2) / sum(map(len, sentences))).item()
known = metrics.bits_per_character(base, sentences)
unknown = metrics.bits_per_character(pupils["random weights"], sentences)
print(f"cloning loss as bits a character {bits:.4f}; metrics.bits_per_character {known:.4f}")
print(f"the same model with random weights: {unknown:.2f}")
assert abs(bits - known) < 1e-3 and unknown > known + 0.5

# %% [markdown]
# So pre-training clones everybody, and by section 3 its product is everybody's average. What is that good for? Start
# SFT from it, and once more from random weights: **the same network, the same 640 demonstrations in the same order, the
# same 20 steps**. Only the weights at step 0 differ. (And the learning rate: random weights get a larger one, the best
# of three that were tried.) Four stored runs with their interval, and one run now.
#
# > **Predict before you run.** After 640 demonstrations, how far has the random start come? And the pre-trained one?

# %%
stored = results.load("07_sft")
data, pupils = experiments.lesson_07.demonstrators(seed=4), experiments.shared.writers(seed=4)
live = {
    name: experiments.lesson_07.clone(pupils[name], data["good"], 4, rate)
    for name, rate in experiments.lesson_07.RATES.items()
}

# %%
fig = show.curves(stored["curves"], "step (32 demonstrations each)", "loss, nats a token", size=(7.5, 4.2))
ax = fig.axes[0]
for (name, curve), colour in zip(live.items(), show.plots.PALETTE, strict=False):
    ax.plot(curve, "x", color=colour, label=f"{name}, this run")
uniform = f"{base.vocabulary:,} tokens, all alike"
ax.axhline(math.log(base.vocabulary), color="#000000", linestyle=":", label=uniform)
ax.set_xticks(range(0, 20, 5))
ax.legend(frameon=False, fontsize=10, ncols=2, loc="center", bbox_to_anchor=(0.6, 0.33))
alt = "Loss at each step: random weights fall steeply but end far above the pre-trained ones, whose loss stays level."
show.figure(fig, alt=alt)
last, first = stored["curves"]["random weights"], stored["curves"]["pre-trained"]
assert runs.paired_interval([c[-1] for c in last], [c[0] for c in first])[1] > 0

# %% [markdown]
# Every demonstration is seen once, and its loss is measured before the step that learns from it. Two findings:
#
# - The random start ends **far above the place where the pre-trained one began**.
# - The pre-trained start does not get visibly better at all. No wonder: our tiny model was pre-trained on reviews, and
#   these very sentences were among them. What SFT changes nevertheless is section 5's question.
#
# What do the two write, after the same 20 steps?

# %%
prompts = [*reviews.openings("validation", limit=3), reviews.LECTURE_OPENING]
said = {}
for name in experiments.lesson_07.RATES:
    texts = rollout.sample(pupils[name], prompts, max_new_tokens=24, generator=runs.generator(2))
    said[f"{name} → SFT"] = texts.completions()
show.text_samples(prompts, said)

# %%
unseen, rows = stored["perplexity"], []
for name in experiments.lesson_07.RATES:
    before, after = runs.mean_interval(unseen[name]), runs.mean_interval(unseen[f"{name} → SFT"])
    rows.append((name, f"{before[0]:,.0f}", "{:,.0f} ({:,.0f} to {:,.0f})".format(*after)))
caption = "Perplexity of unseen demonstrations (95 %, 4 runs)"
show.table(rows, ["weights at the start", "before", "after 20 steps of SFT"], caption=caption)
assert runs.paired_interval(unseen["random weights → SFT"], unseen["pre-trained → SFT"])[1] > 0
_, low, high = runs.paired_interval(unseen["pre-trained → SFT"], unseen["pre-trained"])
assert -0.05 < low / unseen["pre-trained"][0] and high / unseen["pre-trained"][0] < 0.05

# %% [markdown]
# (A perplexity of 100: as uncertain as if 100 tokens were equally likely at each place.) In 20 steps the random start
# has learnt which words are frequent, and no grammar. On sentences that neither has seen, SFT leaves the pre-trained
# model as certain as it was, within 5 %. How many steps would the random start need? That experiment has been done. It
# is called pre-training.

# %%
import json

from rlhf_lib.paths import data_dir

made = json.loads((data_dir() / "tiny" / "training.json").read_text(encoding="utf-8"))
cloned_tokens = int(rollout.from_texts(base, data["good"]).mask.sum())
print(f"pre-training: {made['steps']:,} steps, {made['tokens']:,} tokens; our SFT: 20 steps, {cloned_tokens:,} tokens")
print(f"pre-training read {made['tokens'] / cloned_tokens:.0f} times as much")
fig = show.curves(
    {"pre-training": tuple(zip(*made["curve"], strict=True))},
    "step of pre-training",
    "bits a character",
    exact={"random start after SFT": metrics.bits_per_character(pupils["random weights"], sentences)},
)
show.figure(
    fig, alt="Bits a character on unseen reviews fall over 1,481 steps of pre-training, far below 20 steps' level."
)

# %% [markdown]
# "Weight initialisation" is right, and too modest. In the *algorithm* nothing else happens: the loss that follows
# knows nothing of how the weights came about. But an initial policy decides what is worth sampling, and so what a
# demonstration (here), a label (lesson 08) or a reward (lesson 10) can teach. It also fixes the **reference**, to
# which the KL of lesson 10 will hold the policy.
#
# ## 5 · Good and bad reviewers, on real text
#
# Section 3 once more, with the tiny model: clone 640 sentences that people found good, or 640 that they found bad (mean
# rating at most −2), or half of each. (The learning rate is higher than in section 4, so that 20 steps leave a clear
# mark.) Then the clones continue negative and positive openings that are new to them. The **judge** scores the result:
# a reward model of people who rated other sentences.
#
# > **Predict before you run.** Section 3's clone had $J = w\, J(\text{good}) + (1 - w)\, J(\text{bad})$: a straight
# > line over $w$. Where will the mixed clone be?


# %%
@show.style()
def judged_clones(judged):
    fig, ax = show.new_figure("demonstrations", "judge's mean score", size=(8, 4))
    shares = {"bad": 0, "half of each": 0.5, "good": 1}
    for kind, marker, colour in zip(judged["none"], "os", show.plots.PALETTE, strict=False):
        middle, low, high = torch.tensor([runs.mean_interval(judged[name][kind]) for name in shares]).T
        bars = torch.stack([middle - low, high - middle]).tolist()
        ax.errorbar(list(shares.values()), middle.tolist(), bars, fmt=marker, color=colour, capsize=5, label=kind)
        again = marker == "s"  # one entry in the legend for both colours
        ax.plot((0, 1), middle[[0, 2]].tolist(), "--", color=colour, label="_" if again else "straight line")
        before = runs.mean_interval(judged["none"][kind])[0]
        ax.axhline(before, color=colour, linestyle=":", label="_" if again else "before cloning")
    ax.set_xticks(list(shares.values()), list(shares))
    fig.legend(loc="outside right upper")
    return fig


judged = stored["judge"]
alt = "Judge's mean scores of three clones rise with the share of good demonstrations, near a straight line."
show.figure(judged_clones(judged), alt=alt)

# %%
names = {"good": "good", "bad": "bad", "mixed": "half of each", "before cloning": "none"}
score = {name: {kind: torch.tensor(x) for kind, x in judged[key].items()} for name, key in names.items()}
score["average of the two"] = {kind: (score["good"][kind] + score["bad"][kind]) / 2 for kind in score["good"]}
pairs = [("good", "bad"), ("good", "before cloning"), ("bad", "before cloning")]
pairs += [("good", "mixed"), ("mixed", "bad"), ("mixed", "average of the two")]
differ = {
    (one, other): [runs.paired_interval(score[one][kind].tolist(), score[other][kind].tolist()) for kind in score[one]]
    for one, other in pairs
}
rows = [(" − ".join(p), *["{:+.2f} ({:+.2f} to {:+.2f})".format(*x) for x in found]) for p, found in differ.items()]
caption = "Differences of the judge's mean score, 95 % intervals over 4 stored runs"
show.table(rows, ["clones compared", *score["good"]], caption=caption)
assert all(low > 0 for _, low, _ in differ["good", "bad"] + differ["good", "mixed"] + differ["good", "before cloning"])
assert all(low > 0 for _, low, _ in differ["mixed", "bad"])
assert all(high < 0 for _, _, high in differ["bad", "before cloning"])
assert all(low < 0 < high for _, low, high in differ["mixed", "average of the two"])

# %% [markdown]
# - **Good demonstrators make a better clone than bad ones**, with the same loss, the same rate and equally many texts.
#   Compared with the policy *before* cloning, the good ones pull it up and the bad ones down.
# - **The mixed clone is worse than the good one, better than the bad one, and no different from the average that we
#   could see.** Four runs are few, and 20 steps make no perfect clone: the measurement agrees with section 3, but
#   section 3 proved it.
# - All scores are lower after negative openings. Do not read too much into that: the judge reads the opening too.
#
# So SFT did not change how *well* this model predicts (section 4) as much as **for whom** it speaks, among all the
# writers that it knows.
#
# ## 6 · Two hundred dollars a turn
#
# *"Human expert demo data is expensive for hard tasks!!!"*: the lecture reckons 200 dollars a turn, and so 2 million
# for 10,000. Somebody has to know the answer, and write it. Our 640 demonstrations were free. At the lecture's price:

# %%
DEMONSTRATION, PREFERENCE = 200, 20  # dollars a turn
assert 10_000 * DEMONSTRATION == 2_000_000
print(f"section 4's demonstrations: ${len(data['good']) * DEMONSTRATION:,}")
print(f"all {len(demonstrations):,} of ours: ${len(demonstrations) * DEMONSTRATION:,}")
print(f"the lecture's 10,000: ${10_000 * DEMONSTRATION:,}, or {10_000 * DEMONSTRATION // PREFERENCE:,} preferences")

# %% [markdown]
# **Exercise 07.6 · The price of InstructGPT's demonstrations** (predict · difficulty ●○○○○ · importance ●●●●○ · 3 min)
#
# InstructGPT was fine-tuned on about 13,000 prompts with demonstrations (Ouyang et al. 2022). What would they cost at
# the lecture's price, in dollars?

# %% tags=["exercise"]
price = (
    ### BEGIN SOLUTION
    13_000 * 200
    ### END SOLUTION
)

# %%
price = check("07.6", price)

# %% [markdown]
# The calculator. Not every bought answer is usable: set the share that survives a check. Beside it the published
# sizes: LIMA's 1,000 (Zhou et al. 2023), and Llama 2's 27,540 (Touvron et al. 2023), whose authors found that fewer
# but better demonstrations made a better model, and stopped there. Section 3 says why: the clone is the average.


# %%
@show.style()
def bill(turns, dollars, usable):
    cost = turns * dollars / (usable / 100)
    sizes = {"yours": cost, "LIMA's 1,000": 1_000 * 200, "the lecture's 10,000": 2_000_000, "Llama 2's": 27_540 * 200}
    fig, ax = show.new_figure("dollars (logarithmic)", size=(8.5, 2.8))
    drawn = ax.barh(list(sizes), list(sizes.values()), color=show.plots.PALETTE[:4])
    ax.bar_label(drawn, [f"${value:,.0f}" for value in sizes.values()], padding=4)
    ax.set(xscale="log", xlim=(1e3, 1e10), title=f"or {cost / PREFERENCE:,.0f} preferences at $20")
    ax.grid(False)  # its lines would run through the dollars
    ax.invert_yaxis()
    return fig


show.slider_figure(
    bill,
    alt=lambda turns, dollars, usable: f"{turns:,.0f} usable turns cost {turns * dollars / usable * 100:,.0f} dollars.",
    labels={"turns": "usable turns", "dollars": "dollars a turn", "usable": "% usable"},
    turns=(1_000, 100_000, 1_000, 10_000),
    dollars=(20, 1_000, 20, 200),
    usable=(25, 100, 5, 100),
)

# %% [markdown]
# A demonstration tells what one expert would say. A preference tells which of two answers is better. It costs a tenth,
# and people can judge answers that they could not have written. That is where lesson 08 goes.
#
# ## Recap
#
# - **Behaviour cloning**: make demonstrated tokens likely; prompt out, end token in, pads out, one place shifted.
# - It is a **policy gradient with weight 1**, on somebody else's texts. On one's own texts it teaches nothing.
# - A perfect clone **counts**. In each state it is the demonstrators' mixture with Bayes' weights.
# - **Clone a mix and you get the average, never better.** With a score, filtering beats the best demonstrator.
# - **Pre-training** is the same loss, on everybody; its product is the weights at which SFT begins. From random weights
#   the same 20 steps lead nowhere near. From pre-trained ones they hardly change the loss, but whom the model imitates.
# - Demonstrations at 200 dollars a turn: 10,000 are 2 million.
#
# | in the lecture | here | settled by |
# |---|---|---|
# | "Supervised Learning (Behavior Cloning)" | sections 1 and 2 | `assert_close(*gradients, …)` |
# | demonstrators' quality | sections 3 and 5 | `assert (texts - p).abs().max() < 1e-9` |
# | pre-training: "Weight initialization" | section 4 | paired intervals over 4 stored runs |
# | 10,000 turns at 200 dollars: 2 million | section 6 | `assert 10_000 * DEMONSTRATION == 2_000_000` |

# %%
quiz(
    "Half of your demonstrators always answer right, half always wrong, in the same style. What does the clone do?",
    {
        "It learns to answer right": "Nothing in the loss says which half is right.",
        "It is right about half of the time": "Each text as often as in the demonstrations: that is the minimum.",
        "It gives an answer halfway between": "It imitates one or the other; only the mean score is halfway.",
    },
    correct="It is right about half of the time",
)
quiz(
    "Your fine-tuned model writes well but never stops. Where do you look first?",
    {
        "At the learning rate": "A wrong rate would spoil the writing too.",
        "Whether the end token is in the loss": "If padding is masked by its id, and padding is the end token, nothing "
        "ever teaches the model to stop.",
        "At the sampling temperature": "A model that gives the end token no probability does not stop at any.",
    },
    correct="Whether the end token is in the loss",
)
quiz(
    "Why does cloning one's own samples teach nothing, while REINFORCE on one's own samples does?",
    {
        "REINFORCE samples more": "With ever so many samples cloning's expected step remains 0.",
        "The weight: E[∇log π] = 0, but E[R ∇log π] = ∇J": "A constant weight is a baseline (lesson 05). Only "
        "differences of the weights push.",
        "REINFORCE has no labels": "Neither has labels from outside; one has a score.",
    },
    correct="The weight: E[∇log π] = 0, but E[R ∇log π] = ∇J",
)

# %% [markdown]
# **Next:** [lesson 08](08_human_preferences.ipynb), *Synthetic data and human preferences*: where a score comes from.
