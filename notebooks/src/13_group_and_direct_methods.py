# %% [markdown]
# # 13 · Group and direct methods
#
# **The question.** PPO's critic is one more model to train, often as big as the policy. Its job: to say what
# was to be expected of a prompt. The prompt's *other completions* say that too. Are they enough? And with a reward in
# hand, or only pairs of texts: does one need RL at all?
#
# **You will** meet RLOO and GRPO, and take GRPO's three choices apart, each against the exact gradient; turn RL's
# optimum round until a reward model falls out (DPO), and see where its pairs are silent; compute the best of $n$
# exactly; and put all of them into one table at an equal budget.
#
# | | |
# |---|---|
# | You need | lessons 05 (leave-one-out), 09 (Bradley–Terry), 10 (price of KL, Gibbs policy) and 11 (PPO) |
# | Reading | 40 minutes, and 75 for the exercises |
# | Run time | about 20 s on 2 cores; if lesson 09 has not run yet, a minute and a half more, once |
# | A GPU | shortens section 8 only |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · The others know
#
# The world is the micro review language with texts of at most two words, 91 of them, and *five* openings, from "great"
# to "awful". One policy serves all five: it does not look at the opening, so the openings compete for the same
# probabilities. It is half trained. A text **succeeds** when the whole scores at least 1.

# %%
task = reviews.micro_mdp(horizon=2)
words, mask = mdp.enumerate_episodes(task)  # all texts, [91, 2]
openings = ("great", "good", "dull", "bad", "awful")
scores = torch.stack([reviews.micro_score(words, mask, (opening,)).double() for opening in openings])  # [5, 91]
success = (scores >= 1).double()

policy = models.TablePolicy(task).double()
for _ in range(10):  # along the exact gradient of the mean score
    chances = mdp.action_logprobs(task, policy, words, mask).sum(1).exp()
    policy.logits.data += torch.autograd.grad((scores @ chances).mean(), policy.logits)[0]

logprobs = mdp.action_logprobs(task, policy, words, mask).sum(1)  # log π of each text
p = logprobs.detach().exp()  # [91]
g = torch.stack([torch.autograd.grad(x, policy.logits, retain_graph=True)[0].flatten() for x in logprobs])  # ∇log π
rate = success @ p  # how often each opening succeeds, [5]
print("P(success):", ", ".join(f"{opening} {x:.2f}" for opening, x in zip(openings, rate.tolist(), strict=True)))

# %% [markdown]
# Lesson 05 compared each text with the mean of the *other* texts for the same opening, and found no bias. That is
# **RLOO** (*REINFORCE, leave one out*; Ahmadian et al. 2024), and all it adds is the order of things: sum the price of
# the KL over the text, subtract it from the score, *then* leave one out. In three lines:
#
# ```python
# paid = score - beta * kl.sum(1)                              # kl: k1, as in lesson 10
# advantages = estimators.leave_one_out(paid, group_size)      # one number a text
# loss = losses.policy_gradient_loss(logprobs, advantages, mask)
# ```
#
# Many programs subtract the mean of the whole group, the own score included. It is the same up to a factor,
#
# $$r_i - \tfrac1G \sum_j r_j = \tfrac{G-1}{G}\Big(r_i - \tfrac{1}{G-1}\sum_{j \ne i} r_j\Big),$$
#
# in every single group. So is its mean: list *all* groups of two and of three texts and add up.


# %%
def field(advantage, reward, size):
    """Exact mean of (1/G) Σ advantage_i ∇log π(text_i) over all groups of `size` texts, [100]."""
    group = torch.cartesian_prod(*[torch.arange(len(p))] * size)  # every group there is
    first = advantage(reward[group].flatten(), size).view(-1, size)[:, 0]  # all members are alike: take the first
    weight = torch.zeros_like(p).index_add(0, group[:, 0], p[group].prod(1) * first)
    return weight @ g


for size in (2, 3):
    slope = (p * scores[4]) @ g  # ∇J for the opening "awful"
    for name, advantage in {"leave one out": estimators.leave_one_out, "mean": estimators.group_normalize}.items():
        mean = field(advantage, scores[4], size)
        share = (mean @ slope / slope.norm() ** 2).item()
        print(f"groups of {size}, {name:13} E[estimate] = {share:.6f} · ∇J")
        torch.testing.assert_close(mean, slope * ((size - 1) / size if name == "mean" else 1), rtol=0, atol=1e-9)

# %% [markdown]
# So no critic is needed; the price is several completions for each prompt. How many? With a budget of $B$ texts a step,
# a larger group knows better what was to be expected, and fewer prompts are heard. If $V$ is the variance
# of $\nabla J$ between the openings, and lesson 05's $a/G + c/(G(G-1))$ that of leave-one-out within one, then
#
# $$\operatorname{Var} = \tfrac1B \Big( G\, V + a + \tfrac{c}{G-1} \Big).$$


# %%
def sampled_variance(size, seed, batches=2000, budget=32):
    """Variance of RLOO's gradient of P(success) from `budget` texts, groups of `size` for openings drawn at random."""
    draw = runs.generator(seed)
    opening = torch.randint(5, (batches, budget // size, 1), generator=draw)
    text = torch.multinomial(p, batches * budget, replacement=True, generator=draw).view(batches, -1, size)
    advantages = estimators.leave_one_out(success[opening, text].flatten(), size).view(batches, budget)
    weight = torch.zeros(batches, len(p), dtype=torch.float64).scatter_add(1, text.flatten(1), advantages / budget)
    return (weight @ g).var(0).sum().item()


print(f"groups of 2, one seed: {sampled_variance(2, 0):.4f}")

# %% [markdown]
# **Exercise 13.1 · Few large groups, or many small ones?** (experiment · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# A step draws 32 texts. Which group size, 2, 4, 8, 16 or 32, gives the least noise? Try them; the check measures yours
# on seeds you have not seen. Then say how sure you are: is the best clearly better than its neighbours?

# %% tags=["exercise"]
my_size = (
    ### BEGIN SOLUTION
    8
    ### END SOLUTION
)

# %%
my_size = check("13.1", my_size)

# %%
slopes = torch.stack([(p * r) @ g for r in success])  # ∇P(success) of each opening, [5, 100]
V = (slopes - slopes.mean(0)).square().sum(1).mean()
length = g.square().sum(1)
a = (p * length * (success - rate[:, None]) ** 2).sum(1).mean() - slopes.square().sum(1).mean()
c = (p @ length) * (rate * (1 - rate)).mean() + slopes.square().sum(1).mean()
sizes = (2, 4, 8, 16, 32)
exact = [((size * V + a + c / (size - 1)) / 32).item() for size in sizes]
measured = [[sampled_variance(size, seed) for seed in range(4)] for size in sizes]
for x, ys in zip(exact, measured, strict=True):
    assert abs(sum(ys) / 4 / x - 1) < 0.1
table = [(f"{32 // size} × {size}", x, sum(ys) / 4) for size, x, ys in zip(sizes, exact, measured, strict=True)]
show.table(
    table, ["openings × texts", "variance, exact", "measured"], formats={"variance, exact": ".5f", "measured": ".5f"}
)

# %% [markdown]
# Flat at the bottom: $a$, the noise of REINFORCE itself, is there whatever the group. (An opinion about *this* world.
# Where prompts differ more, smaller groups win; where scores spread more, larger ones.)
#
# ## 2 · GRPO divides by the deviation
#
# **GRPO** (*group relative policy optimization*; Shao et al. 2024) became known with DeepSeek's R1, trained on problems
# whose answers a rule can call right or wrong: rewards of 0 and 1. It is PPO's clipped ratio with three choices of its
# own:
#
# $$\frac1G \sum_{i=1}^G \underbrace{\frac{1}{|o_i|}}_{\text{section 3}} \sum_t \Big[
#   \min\big(\rho_{it} A_i,\ \operatorname{clip}(\rho_{it}) A_i\big) -
#   \underbrace{\beta\, k_3(i,t)}_{\text{section 4}} \Big], \qquad
#   A_i = \underbrace{\frac{r_i - \operatorname{mean}(r)}{\operatorname{std}(r)}}_{\text{this section}}.$$
#
# In the library they are settings of one loop, and so are two repairs, Dr. GRPO (Liu et al. 2025) and DAPO (Yu et al.
# 2025), which each take some of them back:

# %%
kinds = {"RLOO": group.RLOO, "GRPO": group.GRPO, "Dr. GRPO": group.DR_GRPO, "DAPO (in part)": group.DAPO}
settings = [(name, kind.advantage, kind.average, kind.kl_in if kind.beta else "no KL") for name, kind in kinds.items()]
show.table(settings, ["group.Config", "advantage", "average over a text's tokens", "KL in"])

# %% [markdown]
# **Exercise 13.2 · GRPO's advantage** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# `scores` `[B]`, a prompt's `group_size` texts next to each other. From each score subtract its group's mean, and
# divide by the group's sample deviation ($G-1$ below) plus $10^{-4}$. By hand: `[1, 2, 6, 4, 4, 4]` in groups of 3
# gives `[-0.756, -0.378, 1.134, 0, 0, 0]`.


# %% tags=["exercise"]
def my_group_advantage(scores, group_size):
    """(score − group's mean) / (group's sample deviation + 1e-4): [B] -> [B]."""
    ### BEGIN SOLUTION
    groups = scores.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    ### END SOLUTION


# %%
my_group_advantage = check("13.2", my_group_advantage)

# %% [markdown]
# Why divide? It looks like PPO's whitening. But whitening divides a whole batch by one number, and this divides every
# group by its own. Two groups, and what becomes of them:

# %%
two_groups = torch.tensor([3.0, -2.0, 1.0, 0.51, 0.50, 0.49])
for name, advantage in {"scores": lambda x, _: x, "RLOO": estimators.leave_one_out, "GRPO": my_group_advantage}.items():
    print(f"{name:7}", "   ".join(f"{x:6.3f}" for x in advantage(two_groups, 3).tolist()))

# %% [markdown]
# Three texts that a reward model can hardly tell apart push as hard as three that lie worlds apart. What does the
# policy climb, then? With rewards of 0 and 1 there is an exact answer. Begin with pairs, and list all 91 × 91 of them.
#
# **Exercise 13.3 · Where do pairs pull?** (predict · difficulty ●●●○○ · importance ●●●●○ · 4 min)
#
# Groups of two, rewards 0 or 1, divided by the deviation. Compared with $\nabla p$ of each opening, is the pull
# `"the same pull on all, up to one factor for all"`, `"harder on the hard opening and on the easy one"` or
# `"hardest on the opening near one half"`?

# %% tags=["exercise"]
pull_of_pairs = (
    ### BEGIN SOLUTION
    "the same pull on all, up to one factor for all"
    ### END SOLUTION
)

# %%
pull_of_pairs = check("13.3", pull_of_pairs)

# %%
rows = []
for i, opening in enumerate(openings):
    pulls = [field(my_group_advantage, success[i], size) for size in (2, 3)]
    weights = [(pull @ slopes[i] / slopes[i].norm() ** 2).item() for pull in pulls]
    for pull, weight in zip(pulls, weights, strict=True):
        torch.testing.assert_close(pull, weight * slopes[i], rtol=0, atol=1e-9)  # along ∇p, whatever the group size
    rows.append((opening, rate[i].item(), *weights))
show.table(rows, ["opening", "p", "pull / ∇p in groups of 2", "in groups of 3"])
for column, weight in {2: 0.5**0.5, 3: 2 / 3**0.5}.items():
    assert all(abs(row[column] - weight) < 1e-3 and abs(row[column] - rows[0][column]) < 1e-9 for row in rows)

# %% [markdown]
# One number for all, $1/\sqrt2$: a pair is flat, or it holds one success and one failure, and its deviation is always
# the same. **At $G = 2$ the division changes nothing but the step size.** Nor at $G = 3$, for the same reason: a mixed
# triple is split one to two, whichever way. From $G = 4$ on there are several splits, with several deviations.
#
# **Exercise 13.4 · How hard a group pulls** (derive · difficulty ●●●●○ · importance ●●●●○ · 15 min)
#
# Derive that weight for any $G$: the mean estimate is $w_G(p)\,\nabla p$. Let $k$ of the $G$ texts succeed; the sample
# deviation is then $s = \sqrt{k(G-k)/(G(G-1))}$. Use that the mean of $\nabla\log\pi$ is $\nabla p / p$ over successes
# and $-\nabla p/(1-p)$ over failures (why?). Write $w_G(p)$ as a function; leave the $10^{-4}$ out.


# %% tags=["exercise"]
def pull(p, G):
    """w_G(p): GRPO's mean estimate over ∇p, for a prompt of success rate p and groups of G."""
    ### BEGIN SOLUTION
    total = 0.0
    for k in range(1, G):
        chance = math.comb(G, k) * p**k * (1 - p) ** (G - k)
        total += chance * math.sqrt(k * (G - k) * (G - 1) / G**3)
    return total / (p * (1 - p))
    ### END SOLUTION


# %%
pull = check("13.4", pull)


def listed_pull(p, G):
    """The same by listing: a group for each number of successes, with the library's own advantages."""
    total = 0.0
    for k in range(G + 1):
        won, lost = estimators.group_normalize(torch.tensor([1.0] * k + [0.0] * (G - k)), G, "std")[[0, -1]].tolist()
        chance = math.comb(G, k) * p**k * (1 - p) ** (G - k)
        total += chance * (k * won / p - (G - k) * lost / (1 - p)) / G
    return total


for row in rows:
    assert abs(pull(row[1], 3) / row[3] - 1) < 1e-3  # as in the listing of all triples
for G in (2, 4, 16, 64):
    assert all(abs(pull(x, G) / listed_pull(x, G) - 1) < 2e-3 for x in (0.02, 0.3, 0.5, 0.9))

# %% [markdown]
# **Touch it.** The weight over $p$, for groups of $G$; the points are our five openings.


# %%
@show.style()
def weights_figure(G):
    fig, ax = show.new_figure("P(success), p", "weight of ∇p", size=(8, 3.8))
    x = torch.linspace(0.004, 0.996, 249).tolist()
    for (size, dashes), colour in zip({2: ":", 4: "-.", 16: "--", 64: "-"}.items(), show.plots.PALETTE, strict=False):
        ax.plot(x, [pull(v, size) for v in x], dashes, color=colour, label=f"G = {size}", linewidth=1.5)
    ax.plot(x, [1 / (v * (1 - v)) ** 0.5 for v in x], color="#000000", linewidth=1, label="1/√(p(1 − p))")
    ax.plot(rate, [pull(v, G) for v in rate.tolist()], "o", color="#000000", label=f"openings, G = {G}")
    ax.set(ylim=(0, 9))
    fig.legend(loc="outside right upper")
    return fig


show.slider_figure(
    weights_figure,
    alt=lambda G: f"A level line for G = 2; larger groups bend up at both ends, to {(G - 1) / G**0.5:.1f} at G = {G}.",
    labels={"G": "group size G"},
    G=[2, 3, 4, 8, 16, 32, 64],
)

# %% [markdown]
# As $G$ grows the deviation becomes $\sqrt{p(1-p)}$, and the pull $\nabla p/\sqrt{p(1-p)}$. That is a gradient:
#
# $$\frac{\nabla p}{\sqrt{p(1-p)}} = \nabla\, 2\arcsin\sqrt{p}.$$
#
# **With rewards of 0 and 1, GRPO climbs $J = \sum p$ at $G = 2$, and $\sum 2\arcsin\sqrt p$ in the limit**, the sums
# over prompts; from $G = 4$ on, a hill between. Hard prompts *and* easy ones weigh more than those in the middle, up
# to $(G-1)/\sqrt G$ at the ends.

# %%
hill = (2 * (success @ logprobs.exp()).sqrt().arcsin()).sum()
(limit,) = torch.autograd.grad(hill, policy.logits, retain_graph=True)
slope = slopes.sum(0)  # ∇J
names, along = [2, 4, 16, 64, "∞"], []
for G in names:
    weights = (rate * (1 - rate)) ** -0.5 if G == "∞" else torch.tensor([pull(x, G) for x in rate.tolist()]).double()
    along.append((weights @ slopes, weights))
torch.testing.assert_close(along[-1][0], limit.flatten(), rtol=0, atol=1e-9)
cosines = [torch.cosine_similarity(pulled, slope, dim=0).item() for pulled, _ in along]
table = [(f"{o} (p = {rate[i]:.2f})", *[w[i].item() for _, w in along]) for i, o in enumerate(openings)]
table.append(("cosine with ∇J", *cosines))
show.table(table, ["weight of", *[f"G = {G}" for G in names]], formats={f"G = {G}": ".4f" for G in names})
assert abs(cosines[0] - 1) < 1e-6 and cosines == sorted(cosines, reverse=True) and cosines[-1] < 0.999
assert abs(pull(1e-9, 64) - 63 / 8) < 1e-3

# %% [markdown]
# Here the openings want nearly the same of the policy, so the direction of the sum (last row) hardly changes. Who is
# heard does: "awful" counts twice as much as "dull".
#
# Is that a fault? It is *another objective*, which nobody wrote down. Judge it by what it does: one hard prompt
# ($p = 0.02$) and one of middling difficulty, each with its own logit, under exact ascent of either hill.

# %%
paths = {}
for name, weight in {"J": lambda x: 2.0, "2 arcsin √p": lambda x: (x * (1 - x)) ** -0.5}.items():
    for start in (0.02, 0.5):
        logit, seen = math.log(start / (1 - start)), []
        for _ in range(121):
            x = 1 / (1 + math.exp(-logit))
            seen.append(x)
            logit += 0.3 * weight(x) * x * (1 - x)  # ∂p/∂logit = p (1 − p); both weights are 2 at p = ½
        paths[f"{name}, from {start}"] = seen
fig = show.curves(paths, "update", "P(success)", exact={"one half": 0.5}, size=(8.5, 3.6))
alt = (
    "From one half both rise alike; from 0.02 the arcsine's path leaves the floor within a few updates, J's much later."
)
show.figure(fig, alt=alt)
slow, fast = (next(i for i, x in enumerate([*seen, 1.0]) if x > 0.5) for name, seen in paths.items() if "0.02" in name)
print(f"from 0.02 to one half: {slow} updates under J, {fast} under the arcsine")
assert fast < 0.7 * slow

# %% [markdown]
# Under $J$ a hard prompt waits: its gradient is $p(1-p)$, next to nothing. Dividing by the deviation lifts it off the
# floor. Whoever wants *every* problem solved sometimes may like that hill. Whoever wants the mean reward, or has a
# noisy reward model whose smallest differences mean nothing, does not. And a finite group sets a limit: where none of
# its $G$ texts succeeds it is flat and teaches nothing, whatever one divides by (`flat` in `group.train`'s history).
#
# ## 3 · GRPO divides by the length
#
# $\log\pi$ of a text is a *sum* over its tokens. GRPO takes their mean. So each text's advantage is divided by its
# length, and what is climbed is $\mathbb{E}\big[(r - b)/|o|\big]$ with $b$ held fixed. Read it for a wrong answer,
# $-b/|o|$: *the longer, the less bad.* For a right one, $(1-b)/|o|$: the shorter, the better.
#
# A world in which length has nothing to do with being right: the first word is the answer, what follows is talk.
#
# > **Predict before you run.** Under the exact policy gradient, what happens to the lengths? And under GRPO's?

# %%
talk = mdp.TokenMDP(("yes", "no", "well", "."), 5, lambda text, taken: (text[:, 0] == 0).double(), eos=3)
said, taken = mdp.enumerate_episodes(talk)
right, size = (said[:, 0] == 0).double(), taken.sum(1).double()
curves = {}
for name, share in {"sum": torch.ones_like(size), "mean (GRPO)": 1 / size}.items():
    speaker, seen = models.TablePolicy(talk).double(), []
    for _ in range(150):
        logp = mdp.action_logprobs(talk, speaker, said, taken).sum(1)
        q = logp.exp().detach()
        seen.append([q @ right, (q * right) @ size / (q @ right), (q * (1 - right)) @ size / (q @ (1 - right))])
        loss = (q * share * (right - q @ right)) @ logp  # b: the group's mean, for large groups P(right)
        speaker.logits.data += 3.0 * torch.autograd.grad(loss, speaker.logits)[0]
    curves[name] = torch.tensor(seen).T.tolist()

# %%
lines = {}
for name, (_, of_right, of_wrong) in curves.items():
    lines |= {f"{name}: right": of_right, f"{name}: wrong": of_wrong}
alt = "With sums both lengths stay where they were. With means right answers get shorter and wrong ones longer."
fig = show.curves(lines, "update", "mean length of the answers", size=(8.5, 3.6))
fig.axes[0].legend(loc=(0.4, 0.72), ncols=2, frameon=False)
show.figure(fig, alt=alt)
(_, *still), (_, shorter, longer) = curves["sum"], curves["mean (GRPO)"]
assert all(max(x) - min(x) < 1e-9 for x in still)
assert shorter[-1] < shorter[0] - 0.3 and longer[-1] > longer[0] + 0.3

# %% [markdown]
# With sums, not a digit moves: no word after the first has an advantage. With means the wrong answers begin to
# ramble (an immediate "." is punished hardest), and in a model that is still often wrong that is what one sees: texts
# that grow and grow (Liu et al. 2025).
# DAPO divides by the tokens of the *whole update* instead: no text is favoured, though a batch of long texts takes a
# shorter step. A constant, or the number of texts, is free of either.

# %% [markdown]
# **Exercise 13.5 · A mean that changes the lengths** (find the bug · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# One prompt's texts, leave-one-out. All looks right, but the mean gradient of this loss is not $-\nabla J$. `compare`
# takes all pairs of texts of a small talk and prints how one step changes the mean length of wrong answers. Find
# the culprit and repair it. `logprobs` and `mask` are `[B, T]`, `scores` `[B]`; the result is a scalar to minimise.


# %%
def given_loss(logprobs, scores, mask):
    """RLOO for one group. Looks right, is not."""
    advantages = estimators.leave_one_out(scores, len(scores))
    text = torch.where(mask, logprobs, 0.0).sum(1) / mask.sum(1)
    return -(advantages * text).mean()


def compare(loss):
    """Exact change of the wrong answers' mean length along minus the mean gradient of a loss."""
    brief = mdp.TokenMDP(talk.actions, 3, talk.reward, eos=3)
    said, taken = mdp.enumerate_episodes(brief)
    free = models.TablePolicy(brief).double()
    logp = mdp.action_logprobs(brief, free, said, taken)
    q, wrong = logp.sum(1).exp(), (said[:, 0] != 0).double()
    pairs = torch.cartesian_prod(torch.arange(len(q)), torch.arange(len(q)))
    each = [loss(logp[two], 1 - wrong[two], taken[two]) * q[two].prod().detach() for two in pairs]
    step = -torch.autograd.grad(sum(each), free.logits, retain_graph=True)[0]
    lengths = (q * wrong) @ taken.sum(1).double() / (q @ wrong)
    print(f"change of their length: {(torch.autograd.grad(lengths, free.logits)[0] * step).sum():+.5f}")


compare(given_loss)


# %% tags=["exercise"]
def my_loss(logprobs, scores, mask):
    """A scalar whose mean gradient is −∇J."""
    ### BEGIN SOLUTION
    advantages = estimators.leave_one_out(scores, len(scores))
    text = torch.where(mask, logprobs, 0.0).sum(1)
    return -(advantages * text).mean()
    ### END SOLUTION


# %%
my_loss = check("13.5", my_loss)
compare(my_loss)

# %% [markdown]
# ## 4 · GRPO charges $k_3$ in the loss
#
# Lesson 10 had the list: $k_3 = e^{-\ell} - 1 + \ell$ with $\ell = \log\pi - \log\pi_\text{ref}$ has the right value,
# and as a *loss* the wrong gradient. Its mean gradient is that of the other KL,
#
# $$\mathbb{E}_\pi[\nabla k_3] = \sum_a \pi(a) \Big(1 - \frac{\pi_\text{ref}(a)}{\pi(a)}\Big) \nabla\log\pi(a) =
#   \nabla\, \mathrm{KL}(\pi_\text{ref} \,\|\, \pi).$$
#
# (With several words: in every state that π visits.) Anywhere, exactly:

# %%
free = torch.randn(10, generator=runs.generator(0), dtype=torch.float64, requires_grad=True)
ref, beta = torch.full((10,), 0.1, dtype=torch.float64), 0.5
log_pi = free.log_softmax(-1)
(of_k3,) = torch.autograd.grad(
    log_pi.exp().detach() @ losses.kl_estimate(log_pi, ref.log(), "k3"), free, retain_graph=True
)
(forward,) = torch.autograd.grad(ref @ (ref.log() - log_pi), free, retain_graph=True)  # ∇KL(π_ref‖π)
(reverse,) = torch.autograd.grad(log_pi.exp() @ (log_pi - ref.log()), free)  # ∇KL(π‖π_ref)
for name, other in {"∇KL(π_ref‖π)": forward, "∇KL(π‖π_ref)": reverse}.items():
    print(f"mean gradient of k3 in the loss, difference from {name}: {(of_k3 - other).norm() / other.norm():.1e}")
torch.testing.assert_close(of_k3, forward, rtol=0, atol=1e-12)
assert (of_k3 - reverse).norm() > 0.1 * reverse.norm()

# %% [markdown]
# So where does it lead? Maximise $\sum_a \pi r - \beta\,\mathrm{KL}(\pi_\text{ref}\|\pi)$ over all distributions
# (Lagrange): $\pi(a) = \beta\,\pi_\text{ref}(a)/(\lambda - r(a))$, with the λ that makes it add up to 1. Not
# $e^{r/\beta}$ but a hyperbola. One word after "awful but":

# %%
worth = torch.tensor([reviews.MICRO_VALUES.get(word, 0.0) for word in task.actions]).double() * 0.75 - 0.75
arrived = {}
for kind in ("k1 in the reward", "k3 in the loss"):
    logits = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    for _ in range(500):
        log_pi = logits.log_softmax(-1)
        pi, charged = log_pi.exp().detach(), losses.kl_estimate(log_pi, ref.log(), kind[:2])
        if kind == "k1 in the reward":
            objective = (pi * (worth - beta * charged.detach())) @ log_pi
        else:
            objective = pi @ (worth * log_pi - beta * charged)
        (step,) = torch.autograd.grad(objective, logits)
        logits.data += 0.2 * step / pi  # divided by π it gets there sooner, to the same place
    arrived[kind] = pi

# %%
low, high = worth.max().item(), worth.max().item() + 10
for _ in range(60):  # halve the interval in which λ lies
    middle = (low + high) / 2
    low, high = (middle, high) if (beta * ref / (middle - worth)).sum() > 1 else (low, middle)
torch.testing.assert_close(arrived["k3 in the loss"], beta * ref / (high - worth), rtol=0, atol=1e-6)
torch.testing.assert_close(arrived["k1 in the reward"], (ref.log() + worth / beta).softmax(0), rtol=0, atol=1e-6)
rows = [(word, *[pi[i].item() for pi in arrived.values()]) for i, word in enumerate(task.actions)]
show.table(
    rows, ["word", "k1 in the reward: Gibbs", "k3 in the loss"], f"Exact optimum at β = {beta}; reference 0.1 each"
)
bad = [sum(pi[task.actions.index(w)].item() for w in ("bad", "awful")) for pi in arrived.values()]
print(
    f"P(bad or awful): {bad[0]:.4f} and {bad[1]:.4f}; E[reward] {arrived['k1 in the reward'] @ worth:.3f} and "
    f"{arrived['k3 in the loss'] @ worth:.3f}"
)
assert bad[1] > 5 * bad[0]

# %% [markdown]
# The same β, another policy: the forward KL asks π to *cover* what the reference says, so nothing is ever given up, the
# worst words included. Neither is wrong as an aim. But the printed "KL" is that of the first column's aim, and the
# policy goes to the second's.
#
# ## 5 · DPO: the optimum turned round
#
# Lesson 10's optimum is $\pi^* = \pi_\text{ref}\, e^{r/\beta}/Z$. Solve it for $r$:
#
# $$r(x, y) = \beta \log \frac{\pi^*(y|x)}{\pi_\text{ref}(y|x)} + \beta \log Z(x).$$
#
# *Every policy is the optimum for some reward*: its **implicit reward** $\beta\log(\pi/\pi_\text{ref})$. And
# Bradley–Terry (lesson 09) compares two texts of one prompt, so that $Z$ cancels. Put it in, and a reward model's loss
# becomes a policy's, **direct preference optimisation** (Rafailov et al. 2023):
#
# $$-\log \sigma\Big(\beta \log\frac{\pi(y_+)}{\pi_\text{ref}(y_+)} - \beta\log\frac{\pi(y_-)}{\pi_\text{ref}(y_-)}
# \Big).$$
#
# No reward model, no sampling. If the pairs cover everything, its minimum should be the Gibbs policy, whoever wrote
# the texts. Let a Bradley–Terry rater judge all 91 × 91 pairs, each as often as any other:

# %%
beta, r = 0.5, scores[4]  # the opening "awful"
log_ref = logprobs.detach()
wins = (r[:, None] - r).sigmoid() / len(r) ** 2  # the share of all labels that says "row beats column"
direct = models.TablePolicy(task).double()
optimizer = torch.optim.LBFGS(direct.parameters(), max_iter=1000, line_search_fn="strong_wolfe", tolerance_change=1e-14)


def population_loss(log_pi):
    implicit = beta * (log_pi - log_ref)
    return -(wins * torch.nn.functional.logsigmoid(implicit[:, None] - implicit)).sum()


def closure():
    optimizer.zero_grad()
    loss = population_loss(mdp.action_logprobs(task, direct, words, mask).sum(1))
    loss.backward()
    return loss


optimizer.step(closure)
found = mdp.action_logprobs(task, direct, words, mask).sum(1).detach()
best, value = (x.detach() for x in mdp.gibbs(task, policy, beta))  # log π* of each text, and β log Z
implicit = beta * (found - log_ref) + value
print(f"largest difference from the Gibbs policy: {(found.exp() - best.exp()).abs().max():.1e}")
print(f"largest difference of implicit from true reward: {(implicit - r).abs().max():.1e}")
assert (found.exp() - best.exp()).abs().max() < 1e-4 and (implicit - r).abs().max() < 1e-2

# %% [markdown]
# The policy *is* a reward model, and RL is done. (The pairs were not the policy's own: it made no difference, since
# none was missing.)
#
# **Exercise 13.6 · DPO's loss** (implement · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# Write it for real texts. `chosen` and `ref_chosen` `[N, T]` are the token log-probs of the chosen texts under policy
# and reference, with `chosen_mask`; `rejected…` `[N, S]` likewise. A scalar, the mean over pairs. By hand: summed
# log-ratios 2 and −1 at β = 0.5 give $-\log\sigma(1.5) = 0.201$.


# %% tags=["exercise"]
def my_dpo_loss(chosen, ref_chosen, rejected, ref_rejected, chosen_mask, rejected_mask, beta):
    """DPO's loss from token log-probs."""
    ### BEGIN SOLUTION
    better = torch.where(chosen_mask, chosen - ref_chosen, 0.0).sum(1)
    worse = torch.where(rejected_mask, rejected - ref_rejected, 0.0).sum(1)
    return -torch.nn.functional.logsigmoid(beta * (better - worse)).mean()
    ### END SOLUTION


# %%
my_dpo_loss = check("13.6", my_dpo_loss)

# %% [markdown]
# (`losses.dpo_loss` takes the four sums; `dpo.train` is the loop.)
#
# ## 6 · Where no pair was drawn
#
# Nobody has all pairs. Suppose only some texts $S$ are ever compared. The loss contains *differences* of log-probs
# within $S$: it fixes how π divides its probability **within** $S$. How much $S$ gets in all, and what happens outside,
# it does not see:

# %%
compared = torch.rand(len(p), generator=runs.generator(0)) < 0.5  # half of the texts
wins = wins * (compared[:, None] & compared)
rows = []
for name, factor in {"the Gibbs policy": 1.0, "1000 × more outside": 1000.0, "1000 × less outside": 0.001}.items():
    other = (best + math.log(factor) * ~compared).log_softmax(0)
    rows.append((name, other.exp()[~compared].sum().item(), (other.exp() @ r).item(), population_loss(other).item()))
show.table(rows, ["policy", "P(texts in no pair)", "J", "DPO's loss"], formats={"DPO's loss": ".9f"})
assert max(row[3] for row in rows) - min(row[3] for row in rows) < 1e-12

# %% [markdown]
# Three policies, one loss, to the last digit. So which of them does training find? That is up to the optimiser and to
# how words share weights. Take lesson 11's policy (weights shared between states; texts of three words), 64 pairs of
# its own texts, labelled by the same rater, and go through them 200 times. Eight draws of pairs:

# %%
larger = reviews.micro_mdp(horizon=3)
said, taken = mdp.enumerate_episodes(larger)  # 820 texts
reward = mdp.episode_returns(larger, said, taken, torch.float64)
states = mdp.exact_values(larger, models.TablePolicy(larger)).states
number = {state: i for i, state in enumerate(states)}
row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in said.tolist()])
phi = torch.zeros(len(states), 24, dtype=torch.float64)  # features: a constant, the length, the last two words
for i, state in enumerate(states):
    phi[i, [0, 1 + len(state), *(4 + word + 10 * back for back, word in enumerate(reversed(state)))]] = 1


def log_p(W):
    """log-probability of every text, [..., 820], for weights W [..., 24, 10]."""
    return ((phi @ W).log_softmax(-1)[..., row, said] * taken).sum(-1)


W = torch.zeros(24, 10, dtype=torch.float64, requires_grad=True)
adam = torch.optim.Adam([W], lr=0.05, maximize=True)
for _ in range(12):  # half trained
    adam.zero_grad()
    (log_p(W).exp() @ reward).backward()
    adam.step()
start = log_p(W).detach()

# %%
draw = runs.generator(0)
two = torch.multinomial(start.exp().expand(8, -1), 128, replacement=True, generator=draw).view(8, 64, 2)
first = torch.rand(8, 64, generator=draw) < (reward[two[..., 0]] - reward[two[..., 1]]).sigmoid()
chosen, rejected = torch.where(first, *two.unbind(-1)), torch.where(first, *two.flip(-1).unbind(-1))
in_no_pair = torch.ones(8, 820, dtype=torch.bool).scatter(1, two.flatten(1), False)
W = W.detach().repeat(8, 1, 1).requires_grad_()
adam, seen = torch.optim.Adam([W], lr=0.02), []
for _ in range(201):
    change = log_p(W) - start
    better, worse = change.gather(1, chosen), change.gather(1, rejected)
    now = (change.detach() + start).exp()
    loss = -torch.nn.functional.logsigmoid(beta * (better - worse)).mean(1)
    seen.append([better.mean(1), worse.mean(1), (now * in_no_pair).sum(1), now @ reward, loss])
    adam.zero_grad()
    loss.sum().backward()
    adam.step()
seen = torch.stack([torch.stack(step).detach() for step in seen])  # [201, 5, 8]

# %% [markdown]
# **Exercise 13.7 · What becomes of the texts in the pairs?** (predict · difficulty ●●●○○ · importance ●●●●● · 4 min)
#
# By the end, has the mean log-probability of the chosen texts risen, and of the rejected ones? Answer
# `"chosen rises, rejected falls"`, `"both rise"` or `"both fall"`. Then run on.

# %% tags=["exercise"]
what_becomes = (
    ### BEGIN SOLUTION
    "both fall"
    ### END SOLUTION
)

# %%
what_becomes = check("13.7", what_becomes)

# %%
star = (start + reward / beta).softmax(0)  # the Gibbs policy


@show.style()
def silent_places():
    fig, axes = show.new_figure("step", size=(11, 3.6), panels=3)
    panels = [("change of log π", {"chosen": 0, "rejected": 1}), ("P(texts in no pair)", {"DPO": 2}), ("J", {"DPO": 3})]
    for ax, (title, lines) in zip(axes, panels, strict=True):
        for (name, k), colour in zip(lines.items(), show.plots.PALETTE, strict=False):
            middle, low, high = zip(*(runs.mean_interval(at) for at in seen[:, k].tolist()), strict=True)
            ax.plot(middle, "-" if name != "rejected" else "--", color=colour, label=name)
            ax.fill_between(range(201), low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set_title(title, loc="left")
    axes[1].axhline((star * in_no_pair).sum(1).mean(), color="#000000", linestyle=":", label="Gibbs policy, mean")
    axes[2].axhline(star @ reward, color="#000000", linestyle=":", label="Gibbs policy")
    for ax in axes:
        ax.legend()
    return fig


alt = "Chosen and rejected both lose log-probability, the rejected more; the share of texts in no pair falls, then "
alt += "rises far above the Gibbs policy's; J rises, then loses what it gained."
show.figure(silent_places(), alt=alt)


# %%
for k, name in enumerate(("chosen", "rejected", "P(texts in no pair)", "J", "DPO's loss")):
    print(f"{name:20} start {seen[0, k].mean():6.2f}   end, 95 %: " + show.interval(seen[-1, k].tolist()))
best_J, optimum = max(seen[:, 3].mean(1)), (star * in_no_pair).sum(1).mean()
assert (seen[-1, :2] < 0).all() and seen[-1, 2].mean() > optimum + 0.1
assert best_J > seen[0, 3].mean() + 0.2 and best_J > seen[-1, 3].mean() + 0.2 and seen[-1, 4].mean() < 0.4

# %% [markdown]
# **Both fall.** The loss wants the difference, and a difference grows fastest where the rejected text is pushed down;
# words that the two share go down with it. What they lose goes to texts about which nobody said anything. $J$ rises
# for a while, then is lost again, and the loss on the pairs shows none of it: it falls all the way. The remedies are
# those of RL: stop early, a larger β, and *fresh pairs from the present policy*.
#
# ## 7 · The best of $n$
#
# The plainest method trains nothing: draw $n$, keep the best. Lesson 10 had its mean score. What is its
# *distribution*, and how far is it from the policy?

# %% [markdown]
# **Exercise 13.8 · The distribution of the best of n** (implement · difficulty ●●●○○ · importance ●●●●○ · 12 min)
#
# `p` `[N]` are the texts' probabilities, `scores` `[N]`; some scores are equal. Return the probability of each text to
# be the best of `n` independent draws, `[N]`; of equally good ones the first drawn is kept. By hand: p = [0.5, 0.25,
# 0.25], scores [0, 1, 1], n = 2 gives [0.25, 0.375, 0.375].


# %% tags=["exercise"]
def best_of(p, scores, n):
    """Probability of each text to be the best of n: [N]."""
    ### BEGIN SOLUTION
    at_most = (scores[None, :] <= scores[:, None]).to(p.dtype) @ p
    below = (scores[None, :] < scores[:, None]).to(p.dtype) @ p
    return (at_most**n - below**n) * p / (at_most - below)
    ### END SOLUTION


# %%
best_of = check("13.8", best_of)

# %% [markdown]
# Where no two texts tie, the KL of the best of $n$ to the policy is $\log n - \frac{n-1}{n}$, whatever the policy and
# the scores (Beirami et al. 2024). Where they tie it is less. And how good a bargain is it? By lesson 10 no policy of
# the same KL has a higher $J$ than the Gibbs policy of some β.
#
# > **Predict before you run.** No training, no gradient: how far below the optimum is it, at the same KL?

# %%
ns = [1, 2, 4, 8, 16, 32, 64]
kept = torch.stack([best_of(p, r, n) for n in ns])
kl = (kept * (kept / p).log()).sum(1)
bound = torch.tensor([best_of_n.kl_bound(n) for n in ns])


def gibbs_at(nats):
    """(J, KL) of the Gibbs policy of the largest β with a KL of at least `nats`."""
    low, high = 0.05, 1e4
    for _ in range(80):
        middle = (low * high) ** 0.5
        star = (log_ref + r / middle).softmax(0)
        low, high = (low, middle) if (star * (star / p).log()).sum() < nats else (middle, high)
    return (star @ r).item(), (star * (star / p).log()).sum().item()


rows = []
for n, q, spent, most in zip(ns, kept, kl.tolist(), bound.tolist(), strict=True):
    rows.append((n, spent, most, (q @ r).item(), gibbs_at(spent)[0] if n > 1 else (p @ r).item()))
show.table(rows, ["n", "KL", "log n − (n − 1)/n", "J, best of n", "J, Gibbs at the same KL"], formats={"KL": ".3f"})
assert all(row[1] < row[2] - 1e-3 and row[3] < row[4] for row in rows[1:])
assert all(row[3] - rows[0][3] > 0.9 * (row[4] - rows[0][3]) for row in rows[1:])

# %%
nats = torch.linspace(0.02, float(kl.max()), 40).tolist()
lines = {
    "Gibbs policies: the most there is": (nats, [gibbs_at(x)[0] for x in nats]),
    "best of n = 1, 2, 4, …": (kl, kept @ r),
    "best of n, KL by the formula without ties": (bound, kept @ r),
}
fig = show.curves(lines, "KL to the policy (nats)", "J", size=(8, 3.8))
show.figure(fig, alt="Best of n runs close below the Gibbs policies; drawn at the formula's KL it seems farther off.")

# %% [markdown]
# More than nine tenths of what the optimum gains for the same nats, without a gradient. What it costs is paid at the
# other end: $n$ texts for every answer, for ever. And its nats grow as $\log n$ only: to go 5 nats away, as PPO
# will below, takes some four hundred samples for one answer.
#
# ## 8 · One table
#
# Now the tiny language model. All start from the SFT policy and are paid by the panel's reward model; all may sample
# **480 completions**:
#
# - **RLOO**, **GRPO**, **PPO**: 15 roll-outs of 8 openings × 4 completions, β = 0.1 (GRPO's beside advantages of
#   deviation 1: another price); PPO passes over each twice.
# - **DPO**: two completions for each of 240 openings, sampled once from the SFT policy; a Bradley–Terry rater with the
#   reward model's scores says which is better. So its aim is RLOO's, $\mathbb{E}[r] - 0.1\,\mathrm{KL}$. (Texts that
#   were cut off at 24 tokens, about a third, are read as if they ended there.)
# - **Best of 10**: the 480 completions go straight to the 48 test openings.
#
# What must be in memory: RLOO and GRPO, the policy, the reference and the reward model; PPO, a critic as well (here one
# layer on the policy's own body, so that leaving it out saves little; in the papers a model of its own); DPO, policy
# and reference. Learning rates: of $10^{-4}$, $3\cdot10^{-4}$ and $10^{-3}$ the second was each method's best on
# validation openings (a fifth seed, by $r - 0.1\,\mathrm{KL}$; for PPO the first did as well). Four stored seeds; live,
# five steps of RLOO.

# %%
from dataclasses import replace

stored, sft = results.load("13_direct"), stages.sft_policy()
live_policy = stages.sft_policy()
short = replace(experiments.lesson_13.RIVALS["RLOO"], steps=5, seed=7)
live = group.train(live_policy, reviews.openings("train"), stages.panel_reward_model(), short, reference=sft)
steps, curves = list(range(15)), {name: stored["curves"][name]["reward"] for name in experiments.lesson_13.RIVALS}
lines = {name: (steps, torch.tensor(curves[name]).mean(0).tolist()) for name in ("GRPO", "PPO")}  # means of four
lines = {"RLOO, with its interval": (steps, curves["RLOO"])} | lines
lines["RLOO, live"] = (list(range(len(live.history))), live.column("reward"))
fig = show.curves(lines, "roll-outs of 32 completions", "mean score of the reward model", size=(8.5, 3.8))
show.figure(fig, alt="RLOO, GRPO and PPO rise from about 0 over fifteen roll-outs, mostly within RLOO's interval.")
assert abs(live.history[0]["kl"]) < 1e-3

# %% [markdown]
# > **Predict before you run.** Order the five by the judge, who trained nobody. Which differences will be clear with
# > four seeds?

# %%
rivals = stored["table"]
asked = dict.fromkeys(experiments.lesson_13.RIVALS, "480 scores") | {"SFT": "nothing", "DPO": "240 comparisons"}
asked["best of 10"] = "480 scores, for 48 answers"


def plus_minus(values, spec):
    mean, _, high = runs.mean_interval(values)
    return f"{mean:{spec}} ± {high - mean:{spec}}".replace("-", "−")


rows = []
for name, found in rivals.items():
    scored = [plus_minus(found[key], ".2f") for key in ("judge", "reward")]
    nats = f"≤ {found['KL'][0]:.2f}" if name == "best of 10" else plus_minus(found["KL"], ".2f")
    spent = [round(sum(found[key]) / 4) for key in ("tokens", "seconds")]
    rows.append((name, *scored, nats, plus_minus(found["objective"], ".2f"), *spent, asked[name]))
columns = ["method", "judge", "reward", "KL", "reward − 0.1 KL", "tokens", "seconds", "asked of the rater"]
show.table(rows, columns, "48 test openings; 4 seeds, 95 %. Seconds: one processor thread, sampling and training")


# %%
def minus(one, other, key):
    """The mean difference over the seeds, its interval, and what it says."""
    mean, low, high = runs.paired_interval(rivals[one][key], rivals[other][key])
    verdict = "worse" if high < 0 else "better" if low > 0 else "no clear difference"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−"), verdict


methods = [name for name in rivals if name != "SFT"]
duels = [(name, "SFT") for name in methods] + [(name, "RLOO") for name in methods if name != "RLOO"]
rows = [(f"{a} − {b}", *minus(a, b, "judge"), *minus(a, b, "objective")) for a, b in duels]
columns = ["difference", "judge (95 %)", "the first is", "reward − 0.1 KL (95 %)", "and by it"]
show.table(rows, columns, "Paired by seed")
assert all(minus(name, "SFT", "judge")[1] == "better" for name in (*experiments.lesson_13.RIVALS, "best of 10"))
assert all(minus(name, "RLOO", "judge")[1] == "no clear difference" for name in ("GRPO", "PPO", "best of 10"))
assert runs.paired_interval(rivals["PPO"]["KL"], rivals["RLOO"]["KL"])[1] > 0
assert minus("DPO", "RLOO", "judge")[1] == "worse" and minus("best of 10", "RLOO", "objective")[1] == "better"

# %% [markdown]
# An honest reading.
#
# - **RLOO, GRPO and PPO help, and four seeds cannot tell them apart.** Leaving the critic out cost nothing that shows
#   here; GRPO's other objectives gained and lost nothing that shows. PPO takes half as long again for its second pass
#   over each roll-out, and goes farther from the SFT policy for nothing that the judge could see.
# - **The best of 10 is far ahead by the reward, at few nats, and by the judge not clearly ahead of RLOO.** It chooses
#   by the reward model, lucky mistakes included. Its seconds are low, but they buy 48 answers, and the next 48 cost as
#   much again.
# - **DPO is behind RLOO, and not clearly ahead of where it began.** That is a verdict on 240 comparisons: a noisy yes
#   or no each, where the others got a number for each of 480 texts. At twice the passes it fitted its pairs and did no
#   better (one seed, validation openings). Where labels are people's, 240 comparisons are what one has, and the others
#   would first need a reward model out of them.
#
# The budget was equal in completions; labels and seconds stand beside it, since no table can make all three equal. And
# DPO's pairs show what section 6 showed. Each pair is seen once, so these are pairs new to the policy:

# %%
direct_runs = stored["curves"]["DPO"]
lines = {name: (list(range(15)), direct_runs[name]) for name in ("chosen", "rejected")}
fig = show.curves(lines, "update (16 new pairs each)", "change of log π, nats a text", size=(8, 3.4))
show.figure(fig, alt="On new pairs the chosen and the rejected texts both lose about a nat; their bands overlap.")
print("new pairs in the right order:", show.interval([sum(seed[1:]) / 14 for seed in direct_runs["accuracy"]]))
assert all(sum(seed[-5:]) < 0 for name in ("chosen", "rejected") for seed in direct_runs[name])

# %% [markdown]
# Both fall, and by about as much: after so few labels a new pair is put in the rater's order as if by a coin.
#
# ## Recap
#
# - **RLOO**: a prompt's other completions are the baseline; no critic, no bias. With the own score in the mean it is
#   the same times $(G-1)/G$.
# - **GRPO's three choices** each change the objective. Over the deviation: $J$ at $G=2$, $\sum 2\arcsin\sqrt p$ in the
#   limit, hard and easy prompts before the others. Over the length: long wrong answers, short right ones. $k_3$ in the
#   loss: the forward KL, which gives nothing up.
# - **DPO** is Bradley–Terry with $\beta\log(\pi/\pi_\text{ref})$ as the reward; with all pairs its minimum is the Gibbs
#   policy. Where no pair was drawn it says nothing, and what both texts of a pair lose goes there.
# - **Best of $n$** is nearly the best policy of its KL, at most $\log n - \frac{n-1}{n}$ nats away, and paid for at
#   every answer.
# - At an equal budget RLOO, GRPO and PPO could not be told apart; the best of 10 led by the reward, and by the judge
#   not clearly; 240 noisy comparisons were too few for DPO.
#
# | equation | from | where |
# |---|---|---|
# | $r_i - \bar r = \frac{G-1}{G}\,(r_i - \bar r_{-i})$ | Kool et al. 2019 | section 1, all groups of two and three |
# | $A_i = (r_i - \bar r)/\operatorname{std}$ climbs $\sum 2\arcsin\sqrt p$ | GRPO | section 2, listed and derived |
# | $\frac{1}{\lvert o_i\rvert}\sum_t$ | GRPO | section 3, exact lengths |
# | $\mathbb{E}_\pi[\nabla k_3] = \nabla\,\mathrm{KL}(\pi_\text{ref}\|\pi)$ | GRPO | section 4, where it arrives |
# | $r = \beta\log(\pi^*/\pi_\text{ref}) + \beta\log Z$ | DPO, eq. 5 | section 5, all pairs |
# | $\mathrm{KL} = \log n - (n-1)/n$ | Beirami et al. 2024 | section 7, an upper bound with ties |

# %%
quiz(
    "Rewards of 0 and 1, groups of 64, GRPO. Which prompt's gradient is multiplied most?",
    {
        "One that succeeds half of the time": "There the weight is least, 2.",
        "One that succeeds 2 times in 100": "Nearly 6, three times the weight at one half; and the same at 98 in 100.",
        "All alike": "That is so for groups of two.",
    },
    correct="One that succeeds 2 times in 100",
)
quiz(
    "During DPO the log-probability of the chosen texts falls. What is wrong?",
    {
        "Nothing in the code need be wrong": "The loss asks for the difference only. But look at what the policy "
        "writes now: the probability has gone somewhere.",
        "Chosen and rejected were swapped": "Then it would order fewer than half of fresh pairs right: check it.",
        "β is too large": "A larger β keeps the policy nearer to the reference.",
    },
    correct="Nothing in the code need be wrong",
)
quiz(
    "You may draw 16 answers to each question, for ever. What does GRPO give you that the best of 16 does not?",
    {
        "A better policy for the same KL": "The best of n came within a tenth of the best there is.",
        "One answer for the price of one": "Training moves the price of the search into the weights. And it can go "
        "farther than log 16 nats.",
        "Nothing": "Sixteen answers cost sixteen times as much as one.",
    },
    correct="One answer for the price of one",
)

# %% [markdown]
# **Next:** lesson 14, *Reward hacking*: all methods of this lesson believe their reward. What happens when it is wrong?
