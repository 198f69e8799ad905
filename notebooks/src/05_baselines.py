# %% [markdown]
# # 05 · Baselines
#
# **The question.** Subtract the same number from every score. The gradient does not change at all; its noise does.
# Which number is best, and which ones make matters worse?
#
# **You will** prove and compute that a baseline costs no bias, and find what does; draw the variance as a parabola and
# read off its best point; build a baseline from the other texts of a batch and meet an old friend from statistics; see
# $V(s)$, the lecture's choice, beaten by a constant; and train with and without.
#
# | | |
# |---|---|
# | You need | lesson 02 ($V$, $Q$, $A$), 03 ($\nabla\log\pi$), 04 (REINFORCE, reward-to-go, ascent) |
# | Reading | 40 minutes, and 45 for the exercises |
# | Run time | about 20 s on 2 cores |
# | A GPU | changes nothing: all of this is small |

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# ## 1 · Where is zero?
#
# REINFORCE says: $\nabla J = \mathbb{E}[\,\nabla\log\pi \cdot G\,]$ with $G$ the score of the text. But who says where
# a score's zero is? The raters of our reviews gave −4 to +4. They might as well have given 1 to 9 stars: the same
# opinions plus 5. A reward model (lesson 09) even learns from comparisons alone, and its zero is an accident.
#
# The world of this lesson is the micro review language: go on from "awful" with at most three of ten words. All 820
# texts can be listed, so every expectation is a sum. And since they are listed, *drawing a text is drawing a row*.

# %%
task = reviews.micro_mdp(horizon=3)
words, mask = mdp.enumerate_episodes(task)  # all texts, [820, 3]
G = mdp.episode_returns(task, words, mask, torch.float64)  # their scores, [820]


def climb(policy, updates):
    """Follow the exact gradient of J, with steps of 1."""
    for _ in range(updates):
        (slope,) = torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)
        policy.logits.data += slope
    return policy


policy = climb(models.TablePolicy(task).double(), 10)  # a row of ten logits for each partial text; half trained
states = mdp.exact_values(task, policy).states  # the 91 partial texts
number = {state: i for i, state in enumerate(states)}
row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in words.tolist()])
# [820, 3]: for each word, the number of the partial text before it

# %% [markdown]
# For every word of every text, $\nabla\log\pi(a|s)$: in the row of the partial text, 1 for the word drawn minus all
# words' probabilities; 0 in all other rows. One vector of 910 numbers a word.


# %%
def gradients(policy):
    """The texts' probabilities p [820], and g = ∇log π of each of their words [820, 3, 910]."""
    log_pi = policy(words).detach()
    push = (torch.nn.functional.one_hot(words, 10) - log_pi.exp()) * mask[..., None]
    g = torch.zeros(len(words), 3, len(states), 10, dtype=torch.float64)
    g[torch.arange(len(words))[:, None], torch.arange(3), row] = push
    return mdp.action_logprobs(task, policy, words, mask).sum(1).exp().detach(), g.flatten(2)


p, g = gradients(policy)
J = p @ G
slope = p @ (G[:, None] * g.sum(1))  # ∇J = Σ_texts p · G · ∇log π(text)
(exact,) = torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)
torch.testing.assert_close(slope, exact.flatten(), rtol=0, atol=1e-9)
print(f"J = {J:.3f}; length of ∇J = {slope.norm():.3f}")

# %% [markdown]
# Now REINFORCE as in lesson 04, four texts a step, once with each scale.
#
# > **Predict before you run.** Same texts, same opinions. How often does a step go *downhill*, on each scale?


# %%
def estimates(drawn, b):
    """One estimate of ∇J for each batch in drawn [M, N], with baseline b (broadcast to [M, N, 3])."""
    weight = (G[drawn][..., None] - b) / drawn.shape[1]
    return torch.einsum("mnt,mntd->md", weight, g[drawn])


drawn = torch.multinomial(p, 4000, replacement=True, generator=runs.generator(0)).view(1000, 4)
rows = []
for scale, zero in {"−4 … +4": 0.0, "1 … 9 stars": -5.0}.items():  # scores + 5: subtract −5
    along = estimates(drawn, zero) @ slope / slope.norm() ** 2  # 1 would be perfect
    mean_slope = p @ ((G - zero)[:, None] * g.sum(1))
    torch.testing.assert_close(mean_slope, slope, rtol=0, atol=1e-9)
    rows.append((scale, mean_slope.norm().item(), along.std().item(), f"{(along < 0).double().mean():.0%}"))
show.table(rows, ["scores", "length of ∇J", "spread of a step along ∇J, in units of ∇J", "steps that go downhill"])
assert rows[1][2] > 2 * rows[0][2]

# %% [markdown]
# The exact gradient is the same to the last digit; the samples of it are not. With stars every text is "good": whatever
# is drawn gets pushed up, the bad ones too, and only the *differences* between these pushes mean something.
#
# If adding 5 can do so much harm, subtracting the right number should do some good. That number is the **baseline**.

# %% [markdown]
# ## 2 · It costs nothing: $\mathbb{E}[\nabla\log\pi \cdot B(s)] = 0$
#
# The slide, with the distribution written as $\pi(a|s)$:
#
# $$\mathbb{E}\big[\nabla\log\pi(a|s)\, B(s)\big] = \sum_s d(s) \sum_a \nabla\pi(a|s)\, B(s)
#   = \sum_s d(s)\, B(s)\, \nabla \underbrace{\sum_a \pi(a|s)}_{=\,1} = 0$$
#
# Probability pushed onto one word is taken from the others: pushing *all* words equally does nothing. Note that the
# sum over $a$ is zero at **each** $s$, so $B$ may be a different number for every partial text, as wild as you like.
#
# > **Read the slide with care.** It writes $\pi(s,a)$ for $\pi(a|s)$. And its $d^\pi$ is no probability distribution:
# > $\mathbb{E}$ hides a sum over the words of an episode, and $d(s)$ is how often an episode visits $s$, times
# > $\gamma^{|s|}$ (lesson 04). Here γ is 1 and the score comes at the end; else read $\gamma^t (v_t - B(s_t))$ for
# > $G - B$, and all that follows holds.
#
# Take wild numbers, for the table and for a transformer, in which all partial texts share their weights.

# %%
network = models.load_model("micro", dtype=torch.float64)
torch.manual_seed(0)
wild = 100 * torch.randn(len(states), dtype=torch.float64)  # B(s), one number a partial text
kinds = {
    "table": (policy, [policy.logits]),
    "transformer": (models.as_policy(network, "awful", task), list(network.parameters())),
}
rows = []
for name, (pi, weights) in kinds.items():
    log_pi = mdp.action_logprobs(task, pi, words, mask)
    chance = log_pi.sum(1).exp().detach()
    for what, factor in {"B(s)": wild[row], "the score G": G[:, None].expand(-1, 3)}.items():
        mean = torch.autograd.grad(chance @ (factor * log_pi).sum(1), weights, retain_graph=True)
        rows.append((f"{name}, {what}", torch.cat([m.flatten() for m in mean]).abs().max().item()))
show.table(rows, ["policy, factor", "largest entry of E[Σ ∇log π · factor]"], formats={})
assert rows[0][1] < 1e-9 < rows[1][1] and rows[2][1] < 1e-3 < rows[3][1]

# %% [markdown]
# Zero to rounding error, with $B$ in the hundreds (the transformer's layers round to float32 on the way).
#
# **See it.** One word out of three. Each arrow is what REINFORCE adds to the three logits when that word is drawn,
# $(r - b)\,\nabla\log\pi$; the likelier the word, the wider the arrow. The three numbers add up to zero, so they fit in
# a plane: towards a word's corner means that its logit rises. Move $b$: the arrows swing about, their mean stays
# where it is.

# %%
worth, chance = torch.tensor([3.0, 2.0, -3.0]), torch.tensor([0.2, 0.6, 0.2])  # of "great", "good", "awful"
corner = torch.tensor([[math.cos(a), math.sin(a)] for a in (math.pi / 2, 7 * math.pi / 6, -math.pi / 6)])


@show.style()
def arrows(b):
    pushes = (worth - b)[:, None] * (torch.eye(3) - chance)  # (r − b) ∇log π, for each word that may be drawn
    noise = chance @ (pushes - chance @ pushes).square().sum(1)
    fig, ax = show.new_figure(title=f"b = {b:.2f}: variance {noise:.2f}", size=(7, 4.6))
    ends = [*(pushes @ corner), chance @ pushes @ corner]
    names, colours = ["great", "good", "awful", "mean"], ["#2b7fbf", "#c07d00", "#c06a9a", "#000000"]
    for end, name, colour, width in zip(ends, names, colours, [*chance.tolist(), 0.3], strict=True):
        ax.arrow(0, 0, *end.tolist(), width=0.25 * width, color=colour, length_includes_head=True, zorder=3, label=name)
    for place, name in zip(corner, names, strict=False):
        ax.plot(*torch.stack([0 * place, 4 * place]).T.tolist(), color="#000000", alpha=0.3, linestyle=":")
        ax.text(*(4.5 * place).tolist(), name, ha="center", va="center")
    ax.set(xlim=(-7.5, 4.8), ylim=(-3.2, 5), aspect="equal")
    ax.axis("off")
    fig.legend(loc="outside right upper")
    return fig


# %%
show.slider_figure(
    arrows,
    alt=lambda b: f"At b = {b:.2f} the three words' arrows differ; their mean points away from awful as ever.",
    labels={"b": "baseline b"},
    b=(-1.0, 3.0, 0.25, 0.0),
)

# %% [markdown]
# ## 3 · What does cost something
#
# The proof pulled $B(s)$ out of the sum over $a$. It may not contain the word just drawn, nor anything that comes after
# it. What if it does? Let $B$ be any number computed from the finished text. Then
#
# $$\mathbb{E}\big[\nabla\log\pi(\text{text})\; B(\text{text})\big] = \nabla\, \mathbb{E}[B]
# \qquad\Longrightarrow\qquad \mathbb{E}\big[\nabla\log\pi\,(G - B)\big] = \nabla\big(J - \mathbb{E}[B]\big).$$
#
# That is the likelihood ratio again, with $B$ as the reward. So the bias has a name: **you no longer climb $J$ but
# $J$ minus the mean of what you subtract.**
#
# > **Predict before you run.** Subtract the number of words of the finished text, "since long texts tend to score
# > higher". What will the policy learn?

# %%
now, length = torch.arange(3), mask.sum(1, keepdim=True).double()
so_far = torch.stack([reviews.micro_score(words, mask & (now < t), ("awful",)) for t in range(3)], 1).double()
cool = models.TablePolicy(task).double()
cool.logits.data = policy.logits.detach() / 0.7  # sampling at temperature 0.7
trials = {  # B, under which texts, and whose mean it adds
    "score of the text so far": (so_far, p),
    "number of words of the finished text": (length, p),
    "a quarter of the text's own score": (G[:, None] / 4, p),
    "the number 1, but texts drawn at temperature 0.7": (torch.ones(1, 1), gradients(cool)[0]),
}
rows = []
for name, (b, chance) in trials.items():
    bias = -(chance @ (b[..., None] * g).sum(1))  # what B does to the mean of the estimate
    rows.append((name, (bias.norm() / slope.norm()).item(), round((bias @ slope / slope.norm() ** 2).item(), 6) + 0.0))
show.table(rows, ["B", "bias, in lengths of ∇J", "its part along ∇J"], formats={"its part along ∇J": "+.3f"})
longer = mdp.TokenMDP(task.actions, 3, lambda text, taken: taken.sum(1).double(), eos=task.eos)
(longer,) = torch.autograd.grad(mdp.exact_objective(longer, policy), policy.logits)  # ∇E[length]
torch.testing.assert_close(p @ (length[..., None] * g).sum(1), longer.flatten(), rtol=0, atol=1e-9)
assert rows[0][1] < 1e-9 and abs(rows[2][1] - 0.25) < 1e-9 and min(rows[1][1], rows[3][1]) > 0.05

# %% [markdown]
# - The **text so far** is the state: no bias, and $B$ is another number at each word.
# - The **finished length** looks into the future: the policy now climbs $J - \mathbb{E}[T]$ and learns to be brief.
# - A quarter of the **own score** leaves three quarters of the gradient. Right direction, wrong length. Remember it.
# - Even a **constant** has a bias if the texts are not the policy's own: $\sum_a \pi(a|s)\,\nabla\log\pi(a|s) = 0$, but
#   another temperature's probabilities in front of it do not cancel. Sample and differentiate the same distribution.

# %% [markdown]
# **Exercise 05.1 · What may be subtracted?** (predict · difficulty ●●○○○ · importance ●●●●● · 4 min)
#
# Which of these leaves the mean of the gradient alone? Answer with one of `"the score of the greedy text"`, `"the best
# score in the batch"`, `"1 if the text ends with a full stop, else 0"`, `"the score so far, this word included"`.

# %% tags=["exercise"]
allowed = (
    ### BEGIN SOLUTION
    "the score of the greedy text"
    ### END SOLUTION
)

# %%
allowed = check("05.1", allowed)

# %% [markdown]
# ## 4 · What it buys: a parabola
#
# With one number $b$ for all words, and $g = \sum_t \nabla\log\pi(a_t|s_t)$ for the whole text, the variance of one
# text's estimate (all components added up) is
#
# $$\operatorname{Var}(b) = \mathbb{E}\big[\lVert g \rVert^2 (G - b)^2\big] - \lVert\nabla J\rVert^2
#   = \operatorname{Var}(b^*) + \mathbb{E}\lVert g\rVert^2\,(b - b^*)^2,
# \qquad b^* = \frac{\mathbb{E}[\lVert g\rVert^2\, G]}{\mathbb{E}[\lVert g\rVert^2]}.$$
#
# A parabola: multiply out, and complete the square. Its lowest point $b^*$ is a mean of the scores, but not $J$: texts
# whose words are improbable have a long $g$ and count more (Greensmith et al. 2004). And **a baseline hurts exactly
# when it is farther from $b^*$ than 0 is**.
#
# Three candidates: the mean score $J$; $b^*$; and the score of the **greedy** text, what the policy writes when it
# always takes its likeliest word. That is *self-critical* training (Rennie et al. 2017): "were you better than your
# own best guess?"
#
# > **Predict before you run.** The policy is half trained. Does the greedy score help?


# %%
def variance(b, p=p, g=g, G=G):
    """Exact variance of one text's estimate with baseline b, a number or one a word [820, 3]."""
    one_text = ((G[:, None] - b)[..., None] * g).sum(1)
    return (p @ one_text.square().sum(1) - (p @ one_text).norm() ** 2).item()


def greedy_text(log_pi):
    """Row of the text whose every word is the likeliest, from log π [820, 3, 10]."""
    return ((log_pi.argmax(-1) == words) | ~mask).all(1).nonzero()[0].item()


size = p @ g.sum(1).square().sum(1)  # E‖g‖²
best = (p @ (g.sum(1).square().sum(1) * G) / size).item()  # b*
greedy = G[greedy_text(policy(words))].item()
points = {"none": 0.0, "mean score J": J.item(), "best constant b*": best, "greedy (self-critical)": greedy}
for b in points.values():
    assert abs(variance(b) - variance(best) - size * (b - best) ** 2) < 1e-9

# %%
measured = {name: [] for name in points}  # 8 × 2,000 texts
for seed in range(8):
    drawn = torch.multinomial(p, 2000, replacement=True, generator=runs.generator(seed)).view(-1, 1)
    for name, b in points.items():
        measured[name].append(estimates(drawn, b).var(0).sum().item())


# %%
@show.style()
def parabola():
    fig, ax = show.new_figure("baseline b", "variance of one text's estimate")
    x = torch.linspace(-3, 2, 100)
    ax.plot(x, [variance(best) + size.item() * (b - best) ** 2 for b in x.tolist()], color="#000000", label="exact")
    for (name, b), marker, colour in zip(points.items(), "osD^", show.plots.PALETTE, strict=False):
        mean, low, high = runs.mean_interval(measured[name])
        ax.errorbar(b, mean, [[mean - low], [high - mean]], fmt=marker, color=colour, capsize=4, ms=8, label=name)
    fig.legend(loc="outside right upper")
    return fig


alt = "Measured variances lie on the exact parabola: b* lowest, J near it, none higher, the greedy score far above all."
show.figure(parabola(), alt=alt)

# %%
for name, b in points.items():
    print(f"{name:24} b = {b:6.3f}   variance {variance(b):7.3f}, measured {sum(measured[name]) / 8:7.3f}")
    assert abs(sum(measured[name]) / 8 / variance(b) - 1) < 0.1
assert variance(greedy) > 2 * variance(0.0) > 2 * variance(best)

# %% [markdown]
# **The baseline that hurts.** The greedy score has no bias: it does not depend on the text that was drawn. But at this
# stage the best guess is far better than the average attempt, so most texts are "worse than they could have been" and
# get pushed down, and the variance is three times that of no baseline at all. It was made for policies that are
# nearly deterministic, whose attempts score about as well as their greedy text.

# %% [markdown]
# **Exercise 05.2 · The best constant** (derive · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# One word is drawn from a softmax with probabilities `p` `[A]`; word `a` is worth `r[a]`. Work out
# $\lVert\nabla\log\pi(a)\rVert^2$ with respect to the logits, for each word, then $b^*$. Write it as a function.


# %% tags=["exercise"]
def best_constant(p, r):
    """b* of a single softmax choice, from probabilities p [A] and worths r [A]."""
    ### BEGIN SOLUTION
    length_squared = 1 - 2 * p + p.square().sum()  # (1 − p_a)² + Σ_{c≠a} p_c²
    return (p * length_squared * r).sum() / (p * length_squared).sum()
    ### END SOLUTION


# %%
best_constant = check("05.2", best_constant)
three = torch.tensor([0.2, 0.6, 0.2]), torch.tensor([3.0, 2.0, -3.0])
print(f"great, good, awful: b* = {best_constant(*three):.3f}, mean score {three[0] @ three[1]:.3f}")
print("Compare with section 2's slider: where was its variance smallest?")

# %% [markdown]
# ## 5 · A baseline made of the other texts
#
# Nobody tells us $J$ or $b^*$. But we draw $N$ texts for the same opening anyway: take their mean score. Careful: that
# mean contains the text's own score, with weight $1/N$. Section 3 has the verdict ready: $B = G_i/N + \dots$ biases the
# gradient by $-\tfrac1N \nabla J$, and what is left is $\tfrac{N-1}{N}\nabla J$.
#
# The cure: **leave one out**, and use the mean of the *others* (Kool et al. 2019; RLOO in Ahmadian et al. 2024).

# %% [markdown]
# **Exercise 05.3 · Leave one out** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# `scores` `[B]` holds the scores of several prompts' texts; a prompt's `group_size` texts stand next to each other.
# Return each score minus the mean of the *other* scores of its group, `[B]`. By hand: scores `[1, 2, 6, 0, 0, 3]` in
# groups of 3 give `[-3, -1.5, 4.5, -1.5, -1.5, 3]`.


# %% tags=["exercise"]
def my_leave_one_out(scores, group_size):
    """Each score minus the mean of the others of its group: [B] -> [B]."""
    ### BEGIN SOLUTION
    groups = scores.view(-1, group_size)
    others = (groups.sum(1, keepdim=True) - groups) / (group_size - 1)
    return (groups - others).flatten()
    ### END SOLUTION


# %%
my_leave_one_out = check("05.3", my_leave_one_out)

# %% [markdown]
# (The library's is `estimators.leave_one_out`; `algorithms/reinforce.py` uses it by default.)
#
# **Exactly, for two texts.** All 820 × 820 pairs can be listed too.

# %%
pair = p[:, None] * p  # probability of each pair (i, j)
apart = G[:, None] - G  # with two texts, leave-one-out weighs the first by this and the second by minus this
text = g.sum(1)  # ∇log π of the whole text


def pairs_mean(weight_first, weight_second):
    """Exact mean of the estimate ½ (w_i g_i + w_j g_j)."""
    return ((pair * weight_first).sum(1) @ text + (pair * weight_second).sum(0) @ text) / 2


others, with_own = pairs_mean(apart, -apart), pairs_mean(apart / 2, -apart / 2)  # G_i − (G_i + G_j)/2 = apart/2
for name, mean in {"leave one out": others, "mean with its own text": with_own}.items():
    print(f"{name:24} E[estimate] = {(mean @ slope / slope.norm() ** 2).item():.6f} · ∇J")
torch.testing.assert_close(others, slope, rtol=0, atol=1e-9)
torch.testing.assert_close(with_own, slope / 2, rtol=0, atol=1e-9)

# %% [markdown]
# **An old friend.** Since $\mathbb{E}[g] = 0$, the policy gradient is a covariance: $\nabla J = \mathbb{E}[g\,G] =
# \operatorname{Cov}(g, G)$. And leave-one-out REINFORCE is nothing but the textbook's *sample covariance*
#
# $$\frac1N \sum_i g_i \Big(G_i - \tfrac{1}{N-1}\sum_{j \ne i} G_j\Big)
#   = \frac{1}{N-1} \sum_i (g_i - \bar g)(G_i - \bar G).$$
#
# The mean with the own text in it is the same with $\tfrac1N$ in front: too small by $(N-1)/N$, for the reason every
# statistics course gives. The textbooks know the variance of a sample covariance too:
#
# $$\operatorname{Var}_{\text{LOO}} = \frac{\operatorname{Var}(b{=}J)}{N}
#  + \frac{\mathbb{E}\lVert g\rVert^2 \operatorname{Var}(G) + \lVert\nabla J\rVert^2}{N(N-1)}.$$
#
# The first part is what the true mean $J$ would give. The second is the price for estimating it, and soon fades. Check
# both: the variance on all pairs, the covariance on four texts.


# %%
def loo_variance(n):
    """Closed form: variance of the leave-one-out estimate from n texts."""
    price = size * (p @ (G - J) ** 2) + slope.norm() ** 2
    return variance(J) / n + price.item() / (n * (n - 1))


gram = text @ text.T
apart_g = gram.diag()[:, None] + gram.diag() - 2 * gram  # ‖g_i − g_j‖²
by_listing = (pair * apart_g * apart**2).sum() / 4 - slope.norm() ** 2  # the estimate is ½ (g_i − g_j)(G_i − G_j)
assert abs(by_listing - loo_variance(2)) < 1e-9

four = torch.multinomial(p, 4, replacement=True, generator=runs.generator(1))
centred = text[four] - text[four].mean(0)
sample_covariance = centred.T @ (G[four] - G[four].mean()) / 3
by_hand = my_leave_one_out(G[four], 4) @ text[four] / 4
torch.testing.assert_close(by_hand, sample_covariance, rtol=0, atol=1e-9)

# %% [markdown]
# > **Predict before you run.** With how many texts does leave-one-out beat no baseline?

# %%
spreads = {n: n * loo_variance(n) for n in (2, 4, 8, 16, 64)}
rows = [(f"leave one out, N = {n}", spread, ((n - 1) / n) ** 2 * spread) for n, spread in spreads.items()]
rows.append(("true mean J", variance(J), variance(J)))
rows += [("no baseline", variance(0.0), None), ("no baseline, 1 … 9 stars", variance(-5.0), None)]
show.table(rows, ["baseline", "N × variance", "the same with its own text"])

# %% [markdown]
# At $N = 4$ the price eats the gain: on the raters' scale, whose zero happens to lie well, leave-one-out is no better
# than nothing. But the last row is "nothing" on the star scale, and there leave-one-out stays what it is here. (Do not
# be taken in by the right-hand column: its steps are less noisy only because they are shorter.)

# %% [markdown]
# **Exercise 05.4 · With itself in the mean** (predict · difficulty ●●○○○ · importance ●●●●○ · 4 min)
#
# A colleague subtracts the group's whole mean, own text included. To save memory, groups of 8 become groups of 2, with
# the same learning rate. How long is the expected step, as a fraction of $\alpha\nabla J$, with groups of 8 and of 2?
# Answer `(with 8, with 2)`.

# %% tags=["exercise"]
fractions = (
    ### BEGIN SOLUTION
    0.875,
    0.5,
    ### END SOLUTION
)

# %%
fractions = check("05.4", fractions)

# %% [markdown]
# An honest verdict: with *one* group size, the own text in the mean is no disaster. It multiplies every estimate by the
# same $(N-1)/N$, as a smaller learning rate would. It becomes a bias that matters where group sizes differ, or when you
# compare settings "at the same learning rate".

# %% [markdown]
# ## 6 · All of them, exactly and measured
#
# $V(s)$, the lecture's "good baseline", gives every partial text its own number: the score to be expected from here.
# What would be the *best* number for each? The $\nabla\log\pi$ of a text's words live in different rows of the table
# and so are orthogonal. The variance is then a sum over words, each row can be minimised alone, and $b^*$'s formula
# holds for each partial text:
#
# $$V(s) = \mathbb{E}[\,G \mid s\,], \qquad
#  b^*(s) = \frac{\mathbb{E}\big[\lVert\nabla\log\pi(a|s)\rVert^2\, G \mid s\big]}
#                {\mathbb{E}\big[\lVert\nabla\log\pi(a|s)\rVert^2 \mid s\big]}.$$
#
# One is the plain mean of the scores that follow, the other a weighted mean. Both are sums over our list. With $V$
# subtracted, what remains has the mean $Q(s,a) - V(s) = A(s,a)$, the **advantage**; the second cell's last line is the
# slide's $\nabla J = \mathbb{E}[\nabla\log\pi(a|s)\, A(s,a)]$.

# %%
passes = torch.zeros(len(words), len(states), dtype=torch.float64)
passes[torch.arange(len(words))[:, None].expand_as(row)[mask], row[mask]] = 1.0  # which texts pass which partial text


def state_values(p):
    """V of the 91 partial texts, from the probabilities of the texts [..., 820]."""
    return (p * G) @ passes / (p @ passes)


def best_state_baseline(p, g):
    """b* of the 91 partial texts."""
    squared = g.square().sum(-1) * mask  # ‖∇log π‖² of each word
    weighted, total = torch.zeros(2, len(states), dtype=torch.float64)
    weighted.index_add_(0, row.flatten(), (p[:, None] * squared * G[:, None]).flatten())
    total.index_add_(0, row.flatten(), (p[:, None] * squared).flatten())
    return weighted / total


# %%
V, b_star = state_values(p), best_state_baseline(p, g)
values = mdp.exact_values(task, policy)
torch.testing.assert_close(V, values.v.detach(), rtol=0, atol=1e-9)
A = values.advantage.detach()[row, words]  # Q(s, a) − V(s) of each word
torch.testing.assert_close(p @ (A[..., None] * g).sum(1), slope, rtol=0, atol=1e-9)  # ∇J = E[∇log π · A]

# %% [markdown]
# Now the whole field, four texts an estimate. For each baseline: what multiple of $\nabla J$ is its mean, and its
# variance; exactly, by listing, and measured on 8 × 500 batches.

# %%
N, every = 4, torch.arange(len(words))
baselines = {  # i: numbers of the texts drawn, [batches, N]
    "none": lambda i: 0.0,
    "constant J": lambda i: J,
    "best constant": lambda i: best,
    "batch mean, own in it": lambda i: G[i].mean(1)[:, None, None],
    "leave one out": lambda i: (G[i] - my_leave_one_out(G[i].flatten(), N).view(-1, N))[..., None],
    "greedy": lambda i: greedy,
    "V(s)": lambda i: V[row[i]],
    "best for each s, b*(s)": lambda i: b_star[row[i]],
}
truth = {}  # exact multiple of ∇J, exact variance
for name, b in baselines.items():
    if name not in ("batch mean, own in it", "leave one out"):
        mean = p @ ((G[:, None] - b(every))[..., None] * g).sum(1)  # over all texts
        torch.testing.assert_close(mean, slope, rtol=0, atol=1e-9)
        truth[name] = 1.0, variance(b(every)) / N
truth["leave one out"] = 1.0, loo_variance(N)
truth["batch mean, own in it"] = (N - 1) / N, ((N - 1) / N) ** 2 * loo_variance(N)

# %%
measured = {name: ([], []) for name in baselines}
for seed in range(8):
    drawn = torch.multinomial(p, 500 * N, replacement=True, generator=runs.generator(seed, 6)).view(500, N)
    for name, b in baselines.items():
        steps = estimates(drawn, b(drawn))
        measured[name][0].append((steps.mean(0) @ slope / slope.norm() ** 2).item())
        measured[name][1].append(steps.var(0).sum().item())


rows = []
for name in baselines:
    multiple, spread = truth[name]
    rows.append((name, multiple, show.interval(measured[name][0], 3), spread, show.interval(measured[name][1], 3)))
    assert abs(sum(measured[name][1]) / 8 / spread - 1) < 0.1 and abs(sum(measured[name][0]) / 8 - multiple) < 0.2
show.table(rows, ["baseline", "mean / ∇J, exact", "measured (95 %)", "variance, exact", "measured (95 %) "])


# %%
@show.style()
def field():
    fig, axes = show.new_figure(panels=2, size=(10, 3.8))
    for k, ax in enumerate(axes):
        for y, name in enumerate(baselines):
            mean, low, high = runs.mean_interval(measured[name][k])
            ax.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", color=show.plots.PALETTE[0], capsize=4)
            ax.plot(truth[name][k], y, "|", color="#000000", ms=16, mew=2)
        ax.set_title(["mean of the estimate, in units of ∇J", "variance of the estimate"][k], loc="left")
        ax.set_yticks(range(len(baselines)), list(baselines) if k == 0 else [""] * len(baselines))
        ax.invert_yaxis()
    return fig


alt = "Every measured interval lies about its exact mark. All means are 1, except 0.75 for the batch mean with its own "
alt += "text. The variance is largest for the greedy baseline, smallest for V(s) and b*(s)."
show.figure(field(), alt=alt)
assert truth["greedy"][1] > truth["none"][1] > truth["constant J"][1] > truth["V(s)"][1]

# %% [markdown]
# Dots: measured; strokes: exact. Read the left panel first: **only one baseline has a bias**, and it is the one that
# looks at the text itself. (Its small variance is that of short steps: over $0.75^2$ it is leave-one-out's.) The right
# panel is what a baseline is for. $V(s)$ does well, $b^*(s)$ a little better. So
# is the lecture's advice, "a good baseline is the state value function", the end of the story?

# %% [markdown]
# ## 7 · $V(s)$ beaten by a constant
#
# The smallest world: two words. With probability $p$ the policy writes "great", worth 1, else "awful", worth 0. There
# is one state, and $V = p$.
#
# > **Predict before you run.** $p = 0.9$. Rank by variance: no baseline, $V$, and $b^* = 1-p$, a constant that is about
# > as far from $V$ as can be.


# %%
def two_words(p):
    """For baselines 0, V and b*: what is added to the logit of "great" after either word, and the exact variance."""
    chance, worth = torch.tensor([p, 1 - p], dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64)
    toward = torch.tensor([1 - p, -p], dtype=torch.float64)  # ∂log π / ∂logit of "great"; of "awful" it is minus that
    rows = []
    for name, b in {"none": 0.0, "V = p": p, "b* = 1 − p": best_constant(chance, worth).item()}.items():
        push = (worth - b) * toward + 0.0
        spread = 2 * (chance @ push**2 - (chance @ push) ** 2)
        rows.append((name, b, *push.tolist(), (chance @ push).item(), abs(spread.item())))
    return rows


columns = ["baseline", "b", 'step if "great"', 'step if "awful"', "mean step", "variance"]
show.table(two_words(0.9), columns, formats={"variance": ".4f"})
none, value, optimum = (line[-1] for line in two_words(0.9))
assert optimum < 1e-12 and none < value / 10 and abs(two_words(0.9)[2][1] - 0.1) < 1e-6

# %% [markdown]
# The best constant's variance is **exactly zero**: whichever word is drawn, the step is $\nabla J$ itself. And $V$ does
# worse than nothing.
#
# Look at the two steps to see why. A likely word has a short $\nabla\log\pi$ (here $0.1$ and $-0.1$), an unlikely one a
# long one ($0.9$ and $-0.9$). $V$ is near the score of the likely word; so nine draws in ten add next to nothing, and
# the tenth, the long one, is multiplied by nearly the whole difference in score. Noise comes from the **rare words**,
# so the best baseline sits near *their* scores, $b^* = 1 - p$, not where the policy spends its time.
#
# $$V = \arg\min_b\, \mathbb{E}\big[(G-b)^2\big] \qquad\text{but}\qquad
#   b^* = \arg\min_b\, \mathbb{E}\big[\lVert\nabla\log\pi\rVert^2 (G-b)^2\big].$$
#
# $V$ is the best *prediction* of the score. The best *baseline* is a weighted regression. They agree where all words
# have a $\nabla\log\pi$ of the same length: under a uniform policy.

# %% [markdown]
# **Exercise 05.5 · No better than nothing** (experiment · difficulty ●●●○○ · importance ●●●○○ · 10 min)
#
# Five words: "great", worth 1, with probability $p$; the other four, worth 0, share the rest equally. At small $p$, $V$
# is the better choice; at large $p$, nothing at all is. Find the $p$ at which $V$ and no baseline are equally noisy, by
# experiment (or on paper). The check draws 8 × 4,000 words anew: the ratio of the two variances must lie within 0.9 to
# 1.1, interval and all. How sure are you of the second decimal?


# %%
def measured_ratio(p, seeds=range(8), draws=4000):
    """Sampled variance with baseline V over that with none, one number a seed."""
    chance, worth, ratios = torch.tensor([p, *[(1 - p) / 4] * 4]), torch.tensor([1.0, 0, 0, 0, 0]), []
    for seed in seeds:
        word = torch.multinomial(chance, draws, replacement=True, generator=runs.generator(seed))
        toward = torch.nn.functional.one_hot(word, 5) - chance  # ∇log π
        with_v, with_none = (worth[word, None] - p) * toward, worth[word, None] * toward
        ratios.append((with_v.var(0).sum() / with_none.var(0).sum()).item())
    return ratios


for trial in (0.2, 0.4, 0.6, 0.8):
    print(f"p = {trial}: {show.interval(measured_ratio(trial), 3)} times the variance of no baseline")

# %% tags=["exercise"]
even = (
    ### BEGIN SOLUTION
    7 / 15
    ### END SOLUTION
)

# %%
even = check("05.5", even)

# %% [markdown]
# **Is it a curiosity of two words?** Train the review policy on, by exact gradients, and list every baseline's variance
# on the way. All curves are exact, as a multiple of the variance without baseline.
#
# > **Predict before you run.** $V(s)$ has 91 numbers to choose, and knows what is to come. Can a *single* number, the
# > same for all partial texts and words, ever beat it? Can none?


# %%
def relative_variances(learner):
    """Exact variance with each baseline over that with none."""
    p, g = gradients(learner)
    squared = g.square().sum(-1)  # in a table the words' gradients are orthogonal: the variance is a sum over words
    mean, shortest = p @ G, (p @ (G[:, None] * g.sum(1))).norm() ** 2
    choices = {
        "none": 0.0,
        "V(s)": state_values(p)[row],
        "best constant": (p @ (squared.sum(1) * G)) / (p @ squared.sum(1)),
        "best for each s": best_state_baseline(p, g)[row],
        "constant J": mean,
        "greedy": G[greedy_text(learner(words))],
    }
    noise = {name: (p @ (squared * (G[:, None] - b) ** 2).sum(1) - shortest).item() for name, b in choices.items()}
    return mean.item(), {name: value / noise["none"] for name, value in noise.items() if name != "none"}


# %%
learner, history = models.TablePolicy(task).double(), []
updates = [0, 3, 6, 10, 15, 20, 30, 40, 50, 60, 70, 80, 100, 120, 150]
for before, after in zip([0, *updates], updates, strict=False):
    history.append(relative_variances(climb(learner, after - before)))
names = list(history[0][1])
lines = {name: (updates, [ratios[name] for _, ratios in history]) for name in names}
fig = show.curves(lines, "updates", "variance / variance of none", exact={"none": 1.0}, size=(8, 4))
fig.axes[0].set_yscale("log")
fig.axes[0].set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
fig.axes[0].minorticks_off()
alt = "Early, V(s) equals the best baseline for each s, and greedy is worse than none. Late, V(s) rises above the best "
alt += "constant and then above 1, the level of no baseline."
show.figure(fig, alt=alt)
start, half, end = (history[k][1] for k in (0, updates.index(10), -1))
assert abs(start["V(s)"] - start["best for each s"]) < 1e-9  # the uniform policy
assert half["V(s)"] < half["best constant"] < 1 and end["best constant"] < 1 < end["V(s)"]
for k, (j, ratios) in zip(updates, history, strict=True):
    if k % 50 == 0 or k == 80:
        print(f"{k:3} updates: J = {j:6.3f}; V(s) {ratios['V(s)']:.2f}, one constant {ratios['best constant']:.2f}")

# %% [markdown]
# It is no curiosity. While the policy is undecided, $V(s)$ is nearly the best there is, and for a uniform policy
# exactly: all words have the same $\lVert\nabla\log\pi\rVert$. As the policy makes up its mind, the same thing happens
# as with two words: the best single number overtakes it, then even no baseline at all, and in the end every curve but
# $b^*(s)$ is far from the best. (That "none" does well is luck: 0 lies between the scores of the policy's favourite
# texts and those of its rare ones. With stars, it would not.)
#
# Does it spoil $V(s)$? Hardly: noise is worst early, and there $V(s)$ is good. It also does what no constant can:
# it tells the words of a text apart (lesson 06). But "good", on the slide, means neither best nor always better.

# %% [markdown]
# ## 8 · Shared weights: a small linear system
#
# *You may skip this section; nothing later needs it.*
#
# In a real model all words share their weights, and the words' gradients $g_t = \nabla\log\pi(a_t|s_t)$ are not
# orthogonal. What is the best baseline now? Let it be a weighted sum of features of the state, such as the position or
# the score so far: $b_t = \sum_f w_f\, \varphi_f(s_t)$. With $h_f = \sum_t \varphi_f(s_t)\, g_t$ the estimate is
# $g\,G - \sum_f w_f h_f$. Each $h_f$ has mean 0, so the weights $w$ change only the estimate's mean square, and the
# smallest is found by **least squares**:
#
# $$M w = c, \qquad M_{fk} = \mathbb{E}[h_f \cdot h_k], \qquad c_f = \mathbb{E}[h_f \cdot g\,G].$$
#
# The policy is lesson 04's: *one* softmax for all positions.


# %%
def best_weights(features, p, g):
    """w and M of the best baseline that is linear in features [820, 3, F]."""
    h = torch.einsum("ntf,ntd->nfd", features, g)
    M = torch.einsum("n,nfd,nkd->fk", p, h, h)
    c = torch.einsum("n,nfd,nd->f", p, h, G[:, None] * g.sum(1))
    return torch.linalg.solve(M, c), M


theta = torch.zeros(10, dtype=torch.float64)
theta[0], theta[task.eos] = 3.0, 2.3  # likes "great", and to stop
p_one = (theta.log_softmax(-1)[words] * mask).sum(1).exp()
g_one = (torch.nn.functional.one_hot(words, 10) - theta.softmax(-1)) * mask[..., None]
place = torch.eye(3, dtype=torch.float64).expand(len(words), 3, 3)  # one number a position
kinds = {"one number": torch.ones(len(words), 3, 1).double(), "one a position": place}
kinds["1, position, score so far"] = torch.stack([torch.ones_like(so_far), (place @ now.double()), so_far], -1)

# %%
plain = {"none": 0.0, "mean score J": p_one @ G, "V(s)": state_values(p_one)[row]}
rows = [(name, variance(b, p_one, g_one), "") for name, b in plain.items()]
squared = g_one.square().sum(-1)
word_by_word = (p_one @ (squared * G[:, None])) / (p_one @ squared)  # as if the words' gradients were orthogonal
rows.append(("one a position, each by itself", variance(word_by_word, p_one, g_one), ""))
for name, features in kinds.items():
    w, M = best_weights(features, p_one, g_one)
    off = (M - M.diag().diag()).abs().max().item()
    rows.append((f"{name}, solved", variance(features @ w, p_one, g_one), "yes" if off < 1e-12 else "no"))
show.table(rows, ["baseline", "variance", "M diagonal?"])
assert rows[6][1] < rows[2][1] < rows[5][1] < rows[3][1] < rows[4][1] < rows[1][1]
w, _ = best_weights(place, p, g)  # with the table the two agree
torch.testing.assert_close(w, (p @ (g.square().sum(-1) * G[:, None])) / (p @ g.square().sum(-1)), rtol=0, atol=1e-9)

# %% [markdown]
# With one number a position $M$ comes out diagonal even here: whatever was written before, $\nabla\log\pi$ of the next
# word has mean 0, so different words' pushes are uncorrelated. What weight sharing changes is the right-hand side,
# $c_t = \mathbb{E}[g_t \cdot \sum_u g_u\, G]$ in place of $\mathbb{E}[\lVert g_t\rVert^2 G]$: a little for this policy.
# With features that several words share, the system is a full one; and three well chosen numbers beat all of $V(s)$.
#
# Nobody computes $b^*$ in practice: it takes the gradient of every single word. $V(s)$ needs scores only, which is why
# it is what one learns.

# %% [markdown]
# ## 9 · Two mistakes that nobody notices
#
# **Another prompt's baseline.** A batch holds texts for several openings. Use the other texts of the *whole batch*, or
# mix up the rows so that groups interleave, and each text is compared with texts for another opening. There is no bias,
# so no test of the mean will find it. Two openings, the undecided policy:

# %%
p0, g0 = gradients(models.TablePolicy(task).double())  # uniform: the same texts and gradients for either opening
scores = {o: reviews.micro_score(words, mask, (o,)).double() for o in ("awful", "great")}
means = {opening: (p0 @ s).item() for opening, s in scores.items()}
rows = []
for (opening, s), other in zip(scores.items(), ("great", "awful"), strict=True):
    choices = 0.0, means[opening], sum(means.values()) / 2, means[other]
    rows.append((opening, means[opening], *[variance(b, p0, g0, s) for b in choices]))
show.table(rows, ["opening", "J", "var: none", "its own J", "mean of both", "the other's J"])
assert all(line[3] < line[4] and line[3] < line[2] < line[5] for line in rows)

# %% [markdown]
# The other opening's mean is far worse than nothing. The mean of both happens to be near 0, so it does about
# as much as "none".
#
# **Exercise 05.6 · A value that learns along** (find the bug · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# One word a text, so $V$ is easy: $\sum_a \pi(a)\, r(a)$. This loss trains well. But its mean gradient is not
# $-\nabla J$. Find out by experiment what it is (the cell compares the two for three policies), why, and repair it.
# `logits` and `worth` are `[A]`, `drawn` `[N]` are the words drawn; the result is a scalar to minimise.


# %%
def given_loss(logits, worth, drawn):
    """REINFORCE with V as its baseline. Looks right, is not."""
    log_pi = logits.log_softmax(-1)
    value = log_pi.exp() @ worth
    return -((worth[drawn] - value) * log_pi[drawn]).mean()


def compare(loss):
    """Exact mean of minus the loss's gradient, over ∇J, entry by entry, for three policies."""
    worth = torch.tensor([3.0, 2.0, -3.0])
    for start in ([0.0, 0.0, 0.0], [0.0, 1.1, 0.0], [2.0, -1.0, -3.0]):
        logits = torch.tensor(start, requires_grad=True)
        chance = logits.softmax(-1)
        (exact,) = torch.autograd.grad(chance @ worth, logits, retain_graph=True)
        each = [torch.autograd.grad(-loss(logits, worth, torch.tensor([a])), logits)[0] for a in range(3)]
        ratio = (chance.detach() @ torch.stack(each) / exact).tolist()
        print("π =", " ".join(f"{c:.2f}" for c in chance), "  mean / ∇J =", " ".join(f"{x:.3f}" for x in ratio))


compare(given_loss)


# %% tags=["exercise"]
def my_loss(logits, worth, drawn):
    """A scalar whose mean gradient is −∇J, with V as its baseline."""
    ### BEGIN SOLUTION
    log_pi = logits.log_softmax(-1)
    value = (log_pi.exp() @ worth).detach()
    return -((worth[drawn] - value) * log_pi[drawn]).mean()
    ### END SOLUTION


# %%
my_loss = check("05.6", my_loss)
compare(my_loss)

# %% [markdown]
# ## 10 · Does it learn faster?
#
# Variance is not the goal; a better policy is. Train the review policy from scratch, 64 seeds for each baseline at
# **equal samples**, four texts an update (the greedy baseline pays for its greedy text: three and one), on both scales.
# $V(s)$ is the exact one, better than any critic you could train.
#
# > **Predict before you run.** Which run suffers from the stars? Which do not notice at all?


# %%
def learners_baseline(baseline, score, drawn, log_pi, p):
    """What is subtracted, to broadcast with [seeds, n, 3]."""
    got = score[drawn]
    if baseline == "none":
        return 0.0
    if baseline == "leave one out":
        return (got - my_leave_one_out(got.flatten(), got.shape[1]).view_as(got))[..., None]
    if baseline == "greedy":
        greedy = ((log_pi.argmax(-1)[:, row] == words) | ~mask).all(-1).int().argmax(-1)
        return score[greedy][:, None, None]
    visited = (p @ passes).clamp(min=1e-300)  # "V(s)"
    return ((p * score) @ passes / visited)[torch.arange(len(p))[:, None, None], row[drawn]]


# %%
def learn(baseline, zero=0.0, rate=1.0, seeds=64, updates=100, n=4):
    """J before each update, [updates, seeds]: REINFORCE from the uniform policy with a table a seed, all at once."""
    generator, logits, js = runs.generator(5), torch.zeros(seeds, len(states), 10, dtype=torch.float64), []
    score, runs_column = G - zero, torch.arange(seeds)[:, None, None]
    for _ in range(updates):
        log_pi = logits.log_softmax(-1)
        p = (log_pi[:, row, words] * mask).sum(-1).exp()  # of each text, for each seed [seeds, 820]
        js.append(p @ G)
        drawn = torch.multinomial(p, n - (baseline == "greedy"), replacement=True, generator=generator)
        b = learners_baseline(baseline, score, drawn, log_pi, p)
        weight = (score[drawn][..., None] - b) * mask[drawn] / drawn.shape[1]
        push = torch.nn.functional.one_hot(words[drawn], 10) - log_pi[runs_column, row[drawn]].exp()
        at = (runs_column * len(states) + row[drawn]).flatten()
        logits.view(-1, 10).index_add_(0, at, rate * (weight[..., None] * push).view(-1, 10))  # ascent
    return torch.stack(js)


# %%
settings = {"none, −4 … +4": ("none", 0.0), "none, 1 … 9 stars": ("none", -5.0)}
settings |= {f"{name}, either scale": (name, 0.0) for name in ("leave one out", "greedy", "V(s)")}
curves = {label: learn(*setting) for label, setting in settings.items()}
lines = {label: (range(0, 400, 4), js.T.tolist()) for label, js in curves.items()}
alt = "J over 400 texts, 64 seeds each. Without baseline on the star scale learning stalls far below the rest; the "
alt += "others climb to nearly the same height, greedy more slowly at first."
show.figure(show.curves(lines, "texts drawn", "J", size=(8.5, 4)), alt=alt)
for name in ("leave one out", "greedy", "V(s)"):
    one_scale, the_other = (learn(name, zero, seeds=8, updates=20) for zero in (0.0, -5.0))
    torch.testing.assert_close(one_scale, the_other, rtol=0, atol=1e-6)  # the same policies, step for step

# %%
ends = {label: js[-1].tolist() for label, js in curves.items()}
rows = []
for label, finals in ends.items():
    others = [x - y for x, y in zip(finals, ends["leave one out, either scale"], strict=True)]
    rows.append((label, show.interval(finals, 3), show.interval(others, 3) if any(others) else ""))
show.table(rows, ["baseline", "J after 400 texts (95 %)", "minus leave one out (95 %)"])
stars, plain = (runs.mean_interval(ends[f"none, {scale}"]) for scale in ("1 … 9 stars", "−4 … +4"))
assert stars[2] < plain[1]

# %% [markdown]
# Is that fair? More noise wants smaller steps. So give each its own best learning rate.

# %%
rates = [0.25, 0.5, 1.0, 2.0, 4.0]
swept = {label: [learn(*setting, rate, seeds=16)[-1].tolist() for rate in rates] for label, setting in settings.items()}
fig = show.curves(
    {label: (rates, list(zip(*finals, strict=True))) for label, finals in swept.items()},
    "learning rate",
    "J after 400 texts",
    size=(8.5, 4),
)
fig.axes[0].set_xscale("log", base=2)
fig.axes[0].set_xticks(rates, [f"{rate:g}" for rate in rates])
alt = "J after 400 texts against the learning rate: stars without baseline stay far below the best of the others."
show.figure(fig, alt=alt)
best_means = {label: max(sum(finals) / len(finals) for finals in per_rate) for label, per_rate in swept.items()}
assert min(best_means, key=best_means.get) == "none, 1 … 9 stars"

# %% [markdown]
# An honest verdict. On stars, having no baseline costs dearly, even at the learning rate that suits it best: every
# text drawn is pushed up, and a run soon settles on one that it happened to meet. Every baseline made of scores
# repairs that completely: shift all scores and it shifts along, **step for step the same policies**. That is a
# baseline's first job. On the raters' own scale, whose zero happens to lie well, little is left to gain: half the
# variance is not twice the speed, and at $N = 4$ leave-one-out pays for its own noise (section 5). Look at the
# intervals before you call a winner.
#
# Where you do not know the zero, and with a reward model you never do, subtract something.

# %% [markdown]
# ## Recap
#
# - $\mathbb{E}[\nabla\log\pi\, B(s)] = 0$ for any $B$ of the state, however wild. A $B$ that sees the word or the
#   future adds the bias $-\nabla\mathbb{E}[B]$. Sampling from another distribution makes even a constant biased.
# - **Variance is a parabola** in $b$, lowest at $b^* = \mathbb{E}[\lVert g\rVert^2 G] / \mathbb{E}\lVert g\rVert^2$. A
#   baseline hurts when it is farther from $b^*$ than 0 is: greedy early in training, another prompt's mean.
# - **Leave one out** is the sample covariance of $g$ and $G$; with the own text in the mean the gradient is
#   $\frac{N-1}{N}\nabla J$.
# - **$V(s)$** is best for a uniform policy, and beaten by a constant, even by none, for a decided one: the noise comes
#   from rare words, and $V$ sits where the frequent ones are.
# - A baseline's first job is to make the zero of the scores irrelevant.
#
# | in the lecture | here | note |
# |---|---|---|
# | $\mathbb{E}[\nabla\log\pi\,B(s)] = 0$ | section 2 | $\pi(a\mid s)$; $d^\pi$ counts visits, it is no distribution |
# | "this can reduce variance" | sections 4 and 6 | *can*: it can also raise it |
# | "a good baseline is $B(s) = V(s)$" | sections 6 and 7 | neither the best nor always better than none |
# | $\nabla J = \mathbb{E}[\nabla\log\pi\, A]$, $A = Q - V$ | section 6 | exact; with a critic's $A^w$ only "≈" (06) |

# %%
quiz(
    "You subtract from every score the best score in its batch. What happens?",
    {
        "The mean of the gradient stays": "The best text meets itself: the number depends on what was drawn.",
        "A bias: the policy no longer climbs J": "What is subtracted depends on the text, so the mean of what is "
        "subtracted gets climbed down.",
        "Only the variance changes": "That would need a number that does not look at the text.",
    },
    correct="A bias: the policy no longer climbs J",
)
quiz(
    "A policy writes the same good answer 95 times in 100. Which baseline makes its gradient least noisy?",
    {
        "The mean score, near the good answer's": "It makes the 95 count for nothing, and the noise comes from the 5.",
        "Something near the scores of the other 5": "The rare answers have the long ∇log π; so the best baseline is "
        "near what they earn.",
        "None": "Only if the rare answers happen to score about 0.",
    },
    correct="Something near the scores of the other 5",
)
quiz(
    "All scores of a reward model go up by 100. What changes for REINFORCE with leave-one-out?",
    {
        "Nothing": "Each score and the mean of the others rise alike.",
        "The expected gradient": "Not even without baseline: the mean of ∇log π is 0.",
        "The variance": "Without a baseline it would, enormously. Differences of scores do not change.",
    },
    correct="Nothing",
)

# %% [markdown]
# **Next:** lesson 06, *Actor-critic*: a learnt $V(s)$ does more than lower the noise; it tells the words of one text
# apart. Leave-one-out returns as RLOO in lesson 13, beside GRPO, which also divides by the standard deviation.
