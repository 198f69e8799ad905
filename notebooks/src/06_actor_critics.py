# %% [markdown]
# # 06 · Actor-critic
#
# **The question.** Return, Q, advantage: the lecture's summary has three weights for $\nabla\log\pi$ and puts "=" in
# front of each. What do you gain when a *learnt* critic speaks instead of the score, and what do you pay?
#
# **You will** compare the three forms exactly and at equal samples; see a critic mislead its actor, and by how
# much; turn TD errors into advantages that add up along a sentence; measure the dial λ between bias and noise;
# and train the generic actor-critic on text, with values and advantages under its words.
#
# | | |
# |---|---|
# | You need | lesson 02 ($V$, $Q$, $A$), 04 (the theorem, reward-to-go), 05 (baselines) |
# | Reading | 40 minutes, and 55 for the exercises |
# | Run time | about 40 s on 2 cores; if lesson 09 has not run yet, 90 s more while its models are trained |
# | A GPU | shortens the last section only |

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# ## 1 · Three weights, one gradient
#
# Lesson 05's world: at most three of ten words after "awful", all 820 texts in a list, a policy that is half
# trained. `g` holds $\nabla\log\pi$ of each word of each text, `p` the texts' probabilities, `r` the rewards: the
# score with the last word, γ = 1.

# %%
task = reviews.micro_mdp(horizon=3)
words, mask = mdp.enumerate_episodes(task)  # all texts, [820, 3]
r = mdp.episode_rewards(task, words, mask, torch.float64)
G = r.sum(1)  # scores
policy = models.TablePolicy(task).double()
for _ in range(10):  # half trained: ten exact steps up
    policy.logits.data += torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)[0]
values = mdp.exact_values(task, policy)
V, Q, A = (x.detach() for x in values[:3])  # [91], [91, 10], [91, 10]: the 91 partial texts, ten words
number = {state: i for i, state in enumerate(values.states)}
row = torch.tensor([[number.get(tuple(text[:t]), 0) for t in range(3)] for text in words.tolist()])
# [820, 3]: for each word, the number of the partial text before it

# %%
p = mdp.action_logprobs(task, policy, words, mask).sum(1).exp().detach()
g = torch.zeros(820, 3, 91, 10, dtype=torch.float64)
push = (torch.nn.functional.one_hot(words, 10) - policy(words).detach().exp()) * mask[..., None]
g[torch.arange(820)[:, None], torch.arange(3), row] = push
g = g.flatten(2)  # ∇log π(a|s) of each word, [820, 3, 910]
(slope,) = torch.autograd.grad(mdp.exact_objective(task, policy), policy.logits)
slope = slope.flatten()  # the exact ∇J


def one_text(weight):
    """Σ_t weight · ∇log π of each text, [820, 910], from a weight for each word [820, 3]."""
    return (torch.where(mask, weight, 0.0)[..., None] * g).sum(1)


def bias_and_variance(weight):
    """Exactly: length of the bias in units of ‖∇J‖, and the variance of one text's estimate."""
    estimate = one_text(weight)
    mean = p @ estimate
    return ((mean - slope).norm() / slope.norm()).item(), (p @ estimate.square().sum(1) - mean @ mean).item()


# %% [markdown]
# The policy gradient theorem (lesson 04) has $Q^\pi(s,a)$ as the weight. REINFORCE puts in the return $v_t$, one
# sample of it. And $A^\pi = Q^\pi - V^\pi$ is $Q^\pi$ with a baseline (lesson 05). Suppose somebody told us the
# true ones.
#
# > **Predict before you run.** Which of the three has the wrong mean? Which is the noisiest, and why?

# %%
weights = {"return v_t": G[:, None].expand(-1, 3), "true Q(s, a)": Q[row, words], "true A(s, a)": A[row, words]}
rows = [(name, *bias_and_variance(weight)) for name, weight in weights.items()]
show.table(rows, ["weight of ∇log π", "bias / ‖∇J‖, exact", "variance of one text, exact"], formats={})
assert all(bias < 1e-9 for _, bias, _ in rows) and rows[0][2] > rows[1][2] > 2 * rows[2][2]

# %% [markdown]
# Three right means. $Q$ is the average of all returns that may follow: the luck of the *later* words is gone. $A$
# loses the level as well. So these three of the lecture's equations are exact:
#
# $$\nabla J = \mathbb{E}[\nabla\log\pi\, v_t] = \mathbb{E}[\nabla\log\pi\, Q^\pi]
#   = \mathbb{E}[\nabla\log\pi\, A^\pi].$$
#
# > **A slip on the slide.** Its summary writes "=" for $Q^w$ and $A^w$ too. But $w$ are the parameters of a *learnt*
# > critic, and nobody told it the truth. For those two lines read **"≈"**, as the critic's own slide does.
#
# ## 2 · A critic that has to learn
#
# A critic sees texts and scores, and predicts the scores from what it can see, by regression. A real one is a network
# with too little data; ours is linear, $Q_w(s,a) = w \cdot \varphi(s,a)$, with five features: 1, the position, the
# score so far, the word's own worth, and "it is the full stop". We call it *the line*.

# %%
at = torch.arange(3).double()
so_far = torch.stack([reviews.micro_score(words, mask & (at < t), ("awful",)) for t in range(3)], 1).double()
worth = torch.tensor([reviews.MICRO_VALUES.get(word, 0.0) for word in task.actions]).double()[words]
seen = torch.stack([torch.ones(820, 3), at.expand(820, 3), so_far], -1) * mask[..., None]  # of the state, [820, 3, 3]
seen_too = torch.stack([worth, words == task.eos], -1) * mask[..., None]  # of the word, [820, 3, 2]
phi_v, phi_q = seen, torch.cat([seen, seen_too], -1)


def fit(share, phi):
    """Least squares of the scores on features [820, 3, F]; share [M, 820]: how often each text counts. w [M, F]."""
    squares = torch.einsum("mn,ntf,ntk->mfk", share, phi, phi)
    size = torch.eye(phi.shape[-1], dtype=torch.float64)
    return torch.linalg.solve(squares + 1e-6 * size, torch.einsum("mn,ntf,n->mf", share, phi, G))


w_q, w_v = fit(p[None], phi_q)[0], fit(p[None], phi_v)[0]  # with all texts: the best lines there are
Q_w, V_w = phi_q @ w_q, phi_v @ w_v  # [820, 3]: for each word; for the state before it

# %% [markdown]
# The **Q actor-critic** keeps two sets of parameters: the critic's $w$ and the actor's $\theta$,
# $\Delta\theta = \alpha\, \nabla\log\pi(a|s)\, Q_w(s,a)$.
#
# > **A slip on the slide.** Its update goes on after that: "$\dots\, Q_w(s,a)\, \nabla_\theta(s,a)\, Q_w(s,a)$", a
# > copy gone wrong. It ends at the first $Q_w(s,a)$.
#
# > **Predict before you run.** This critic was fitted to *all* texts, weighted as the policy writes them: it has seen
# > everything. Is the actor's gradient right?

# %%
rows = [("Q_w, the best line", *bias_and_variance(Q_w))]
rows += [("return v_t", *bias_and_variance(weights["return v_t"])), ("true Q", *bias_and_variance(Q[row, words]))]
show.table(rows, ["weight of ∇log π", "bias / ‖∇J‖, exact", "variance of one text, exact"], formats={})
cosine = torch.nn.functional.cosine_similarity(p @ one_text(Q_w), slope, dim=0)
print(f"cosine of the Q actor-critic's mean direction with ∇J: {cosine:.3f}")
assert 0.1 < rows[0][1] < 0.5 and rows[0][2] < rows[2][2] and cosine < 0.99

# %% [markdown]
# It is off by a quarter of $\nabla J$, and no amount of data will mend it: five numbers cannot tell 910 pairs apart.
# In return it is quieter than even the true $Q$. This is the bargain of every critic, **bias for variance**, and the
# rest of the lesson is about its terms. (There is one kind of critic without bias; the optional section has it.)
#
# ## 3 · One learnt V is enough: the TD error
#
# An advantage actor-critic needs $A = Q - V$. Must it learn both? In lesson 02 we saw that for text $Q^\pi(s,a) = r +
# \gamma V^\pi(s \cdot a)$: nothing is random once the word is chosen. So
#
# $$A^\pi(s_t, a_t) = \underbrace{r_t + \gamma V^\pi(s_{t+1})}_{\text{found}}
#   - \underbrace{V^\pi(s_t)}_{\text{expected}} = \delta_t,$$
#
# the **TD error**. Elsewhere the world rolls dice after the action, and the statement is
# $\mathbb{E}[\delta \mid s, a] = A(s,a)$. Values after the last word are 0: the text is over.

# %% [markdown]
# **Exercise 06.1 · TD errors** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# Return δ for each word. `rewards`, `values` `[B, T]`, `values[:, t]` being $V$ of the state *before* word $t$;
# `mask` is False after a text's end, and what the values hold there is rubbish. By hand, γ = 0.5: rewards
# `[0, 2, 0]`, values `[1, 3, 9]`, mask `[True, True, False]` give `[0.5, -1, 0]`.


# %% tags=["exercise"]
def my_td_errors(rewards, values, mask, gamma):
    """r + γ V(s') − V(s) of each word, 0 where the mask is False: all [B, T] -> [B, T]."""
    ### BEGIN SOLUTION
    following = torch.nn.functional.pad(torch.where(mask, values, 0.0)[:, 1:], (0, 1))
    return torch.where(mask, rewards + gamma * following - values, 0.0)
    ### END SOLUTION


# %%
my_td_errors = check("06.1", my_td_errors)

# %% [markdown]
# Check both statements. With the true $V$, δ *is* $A$. And with a moody rater, who adds or takes away 2 by the toss of
# a coin, its mean is.

# %%
delta = my_td_errors(r, V[row], mask, 1.0)
torch.testing.assert_close(delta[mask], A[row, words][mask], rtol=0, atol=1e-9)
noise = runs.generator(0)
dice = torch.where(torch.rand(500, 820, generator=noise) < 0.5, -2.0, 2.0).double()  # a moody rater: ±2, 500 times
moody = torch.stack([my_td_errors(torch.where(r != 0, r + d[:, None], r), V[row], mask, 1.0) for d in dice])
far = (moody.mean(0) - A[row, words])[mask].abs().max()
print(f"true V: largest |δ − A| over {int(mask.sum()):,} words {(delta - A[row, words])[mask].abs().max():.1e}")
print(f"with a moody rater one δ is off by up to 2, the mean of 500 by at most {far:.2f}")
assert far < 0.6  # six standard errors of 2/√500

# %% [markdown]
# Now a $V$ that is wrong by $e(s) = V_w(s) - V^\pi(s)$. Put it in:
#
# $$\mathbb{E}[\delta \mid s, a] = A^\pi(s,a) \;-\; \underbrace{e(s)}_{\text{a baseline}} \;+\;
#   \underbrace{\gamma\, e(s \cdot a)}_{\text{depends on the word}}.$$
#
# The error at the state itself is a baseline and harmless, however large. The error at the **next** state is not: the
# actor is drawn to wherever the critic is too optimistic.
#
# **Exercise 06.2 · An optimist** (predict · difficulty ●●●○○ · importance ●●●●○ · 5 min)
#
# A critic is exactly 1 too high at every partial text; γ = 1, δ is the weight. What is the policy taught by the
# error? Answer with one of `"to write longer texts"`, `"to write shorter texts"`,
# `"nothing new, a constant is a baseline"`, `"the same as before, in larger steps"`.

# %% tags=["exercise"]
lesson_of_the_optimist = (
    ### BEGIN SOLUTION
    "to write longer texts"
    ### END SOLUTION
)

# %%
lesson_of_the_optimist = check("06.2", lesson_of_the_optimist)

# %%
count = mdp.TokenMDP(task.actions, 3, lambda text, taken: taken.sum(1).double(), eos=task.eos)
(longer,) = torch.autograd.grad(mdp.exact_objective(count, policy), policy.logits)  # ∇E[length]
rows = []
for name, critic in {"true V": V[row], "1 too high": V[row] + 1, "1 too low": V[row] - 1, "line V_w": V_w}.items():
    weight = my_td_errors(r, critic, mask, 1.0)
    error = p @ one_text(weight) - slope
    along = torch.nn.functional.cosine_similarity(error, longer.flatten(), dim=0).item()
    rows.append((name, *bias_and_variance(weight), None if name == "true V" else along))
columns = ["critic", "bias / ‖∇J‖", "variance", "cosine of the bias with ∇E[length]"]
show.table(rows, columns, formats={"bias / ‖∇J‖": ".3f"})
assert rows[1][3] > 0.9 and rows[2][3] < -0.9 and 0.05 < rows[3][1] < 0.4

# %% [markdown]
# An optimist teaches rambling, a pessimist silence: "." is the one word that ends a text early, and after it no value
# follows. The line errs by about as much, in a direction of its own. Language models meet this in practice, because a
# value head starts at 0 and scores rarely average 0.
#
# ## 4 · Advantages along one sentence add up
#
# Add the TD errors of a text of $T$ words, γ = 1. Every value but the first appears twice, once as found and once as
# expected, and cancels:
#
# $$\sum_{t=0}^{T-1} \delta_t = \text{score} - V(s_0),$$
#
# **for any $V$ whatever**. What the text earned above expectation is shared out among its words, to the last cent.


# %%
def account(text, critic):
    """The words of one text, what was expected before each, and their TD errors, which must add up."""
    i = ((words == torch.tensor(text)) | ~mask).all(1).nonzero()[0].item()
    expected, surprise = critic[i], my_td_errors(r[i : i + 1], critic[i : i + 1], mask[i : i + 1], 1.0)[0]
    assert abs(surprise.sum() - (G[i] - critic[i, 0])) < 1e-9
    names = [task.actions[w] for w in words[i][mask[i]]]
    shown = {"V before": expected, "TD error": surprise, "return": G[i].expand(3)}
    return names, {name: x[: len(names)] for name, x in shown.items()}, G[i].item()


critics = {"true V": V[row], "learnt line V_w": V_w}
texts = {"but very great": [8, 5, 0], "very very great": [5, 5, 0], "but great .": [8, 0, 9], "not but good": [6, 8, 1]}
assert all(account(text, critic) for text in texts.values() for critic in critics.values())


# %%
def draw_account(text, critic):
    names, shown, score = account(texts[text], critics[critic])
    promised, total = shown["V before"][0], shown["TD error"].sum()
    title = f"score − V(s₀) = {score:.2f} − ({promised:.2f}) = {total:.2f} = Σδ"
    return show.words_under_sentence(names, shown, title=title)


show.slider_figure(
    draw_account,
    alt=lambda text, critic: f"V, TD errors and return under the words of “awful {text}”, by the {critic}.",
    text=list(texts),
    critic=list(critics),
)

# %% [markdown]
# In "awful but very great" the return gives all three words the same. The TD errors tell them apart: "but" and
# "very" were *bad news* for this half-trained writer, which seldom goes on well from there, and "great" earns it
# all back and more. Move `critic`: the learnt line shares out the same kind of sum differently. A sum that is
# right says nothing about its parts.
#
# All texts and both critics at once; and with γ < 1 the rule holds for $\gamma^t\delta_t$:

# %%
for name, critic in critics.items():
    total = my_td_errors(r, critic, mask, 1.0).sum(1)
    torch.testing.assert_close(total, G - critic[:, 0], rtol=0, atol=1e-9)
    discounted = (0.9**at * my_td_errors(r, critic, mask, 0.9)).sum(1)
    torch.testing.assert_close(discounted, (0.9**at * r).sum(1) - critic[:, 0], rtol=0, atol=1e-9)
    print(f"{name:16} mean of Σδ over all texts: off by {abs(p @ total - (p @ G - critic[0, 0])):.1e} from J − V(s₀)")

# %% [markdown]
# ## 5 · The dial λ
#
# $\delta_t$ trusts the critic after one word. $v_t - V(s_t)$ never does: there $V$ is only a baseline, and no
# critic can bias it. In between: look $n$ words ahead and then trust. The values on the way cancel, as in section 4:
#
# $$\underbrace{r_t + \dots + \gamma^{n-1} r_{t+n-1} + \gamma^n V(s_{t+n})}_{\text{found, } n \text{ words on}} - V(s_t)
#   = \delta_t + \gamma\,\delta_{t+1} + \dots + \gamma^{n-1}\delta_{t+n-1}.$$
#
# **GAE**, generalised advantage estimation (Schulman et al. 2016), averages these over all $n$, with weights
# $(1 - \lambda)\lambda^{n-1}$. The TD error $\delta_k$ is in all that look beyond word $k$, and their weights add up to
# $\lambda^{k-t}$. So
#
# $$\hat A_t = \sum_{k \ge t} (\gamma\lambda)^{k-t}\, \delta_k, \qquad
#   \hat A_t\big|_{\lambda=0} = \delta_t, \qquad \hat A_t\big|_{\lambda=1} = v_t - V(s_t).$$
#
# **Exercise 06.3 · A critic that always says c** (derive · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# A critic that knows nothing says $c$ everywhere. The score comes with the last of `length` words, γ = 1. Derive
# $\hat A_t$ for each word, and write it as a function of `score`, `c`, `length` and `lam`: a tensor `[length]`.


# %% tags=["exercise"]
def constant_critic(score, c, length, lam):
    """GAE's advantages of a text's words if V says c everywhere: [length]."""
    ### BEGIN SOLUTION
    return torch.tensor([lam ** (length - 1 - t) * (score - c) for t in range(length)])
    ### END SOLUTION


# %%
constant_critic = check("06.3", constant_critic)

# %% [markdown]
# **Exercise 06.4 · The dial** (implement · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# Compute $\hat A$ `[B, T]`, arguments as in 06.1. There is no need for a double sum: $\hat A_t = \delta_t +
# \gamma\lambda \hat A_{t+1}$. By hand, γ = λ = 0.5: rewards `[0, 2, 0]`, values `[1, 3, 9]`,
# mask `[True, True, False]` give `[0.25, -1, 0]`.


# %% tags=["exercise"]
def my_gae(rewards, values, mask, gamma, lam):
    """Generalised advantage estimates, 0 where the mask is False: all [B, T] -> [B, T]."""
    ### BEGIN SOLUTION
    delta, advantages, running = my_td_errors(rewards, values, mask, gamma), torch.zeros_like(rewards), 0.0
    for t in reversed(range(rewards.shape[1])):
        running = delta[:, t] + gamma * lam * running
        advantages[:, t] = running
    return torch.where(mask, advantages, 0.0)
    ### END SOLUTION


# %%
my_gae = check("06.4", my_gae)
one = torch.ones(1, 5, dtype=torch.bool)
by_loop = my_gae(torch.tensor([[0.0, 0, 0, 0, 3]]), torch.full((1, 5), -1.0), one, 1.0, 0.7)[0]
torch.testing.assert_close(by_loop, constant_critic(3.0, -1.0, 5, 0.7))  # the derivation of 06.3
torch.testing.assert_close(my_gae(r, V_w, mask, 1.0, 1.0)[mask], (G[:, None] - V_w)[mask])
torch.testing.assert_close(my_gae(r, V_w, mask, 1.0, 0.0), my_td_errors(r, V_w, mask, 1.0))

# %% [markdown]
# (The library's is `estimators.gae`.) Now turn the dial, for three critics: the true $V$, the learnt line, and a
# **fresh** one that says 0, as a value head does before training. Bias and variance are exact sums over the 820
# texts; the dots are measured on 8 × 400 batches of 16 texts.
#
# > **Predict before you run.** For which critic does λ matter to the bias? Which curve of the variance is the
# > highest?

# %%
dial = [0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0]
judges = {"true V": V[row], "learnt V_w": V_w, "fresh, V = 0": torch.zeros_like(V_w)}
exact = {}  # (bias, variance) of each critic at each λ
for name, critic in judges.items():
    exact[name] = [bias_and_variance(my_gae(r, critic, mask, 1.0, lam)) for lam in dial]


# %%
def shares(N, seed, batches=400, of=p):
    """`batches` draws of N texts as how often each of the 820 came, over N: [batches, 820]."""
    drawn = torch.multinomial(of, N * batches, replacement=True, generator=runs.generator(seed, N)).view(batches, N)
    return torch.zeros(batches, 820, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double()) / N


measured = {name: [] for name in judges}  # for every other λ: (bias along the exact one, variance), 8 seeds each
for name, critic in judges.items():
    for lam in dial[::2]:
        texts_at = one_text(my_gae(r, critic, mask, 1.0, lam))
        steps = [shares(16, seed) @ texts_at for seed in range(8)]
        wide = [16 * step.var(0).sum().item() for step in steps]
        off = [((step.mean(0) - slope) @ (p @ texts_at - slope)).item() for step in steps]  # along the exact bias
        measured[name].append((off, wide))


# %%
@show.style()
def draw_dial():
    fig, axes = show.new_figure("λ", panels=2, size=(10, 3.8))
    for k, ax in enumerate(axes):
        for (name, curve), colour, dash in zip(exact.items(), show.plots.PALETTE, show.plots.DASHES, strict=False):
            ax.plot(dial, [point[k] for point in curve], color=colour, linestyle=dash, label=name)
            for lam, (off, wide), (size, _) in zip(dial[::2], measured[name], curve[::2], strict=True):
                length = size * slope.norm().item() ** 2
                found = wide if k else [x / length for x in off] if size > 1e-6 else None
                if found:
                    mean, low, high = runs.mean_interval(found)
                    ax.errorbar(lam, mean, [[mean - low], [high - mean]], fmt="o", color=colour, ms=5, capsize=3)
        ax.set_title(["bias, in lengths of ∇J", "variance of one text's estimate"][k], loc="left")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    return fig


# %%
alt = "Bias against λ: 0 for the true V, falling from 0.17 to 0 for the learnt one, from 0.9 to 0 for the fresh one. "
alt += "Variance against λ rises for all three, and is highest for the fresh critic. Measured dots lie on the lines."
show.figure(draw_dial(), alt=alt)
for name, curve in exact.items():
    assert curve[-1][0] < 1e-9 and curve[-1][1] > curve[0][1]
    for (_, wide), (_, spread) in zip(measured[name], curve[::2], strict=True):
        assert abs(sum(wide) / 8 / spread - 1) < 0.1

# %% [markdown]
# Left, the bias: none for the true $V$, at any λ; **none at λ = 1, for any critic**. Right, the noise: more of it
# at λ = 1 than at 0, for every critic. And the fresh critic at λ = 0 has nearly lost the gradient: only the last
# word ever hears of the score. Exercise 06.3 says why: to a critic without opinions, λ is a discount.
#
# What counts is the whole error of a step from $N$ texts: its mean square is $\text{bias}^2 + \text{variance} / N$. The
# plot shows the root, in lengths of $\nabla J$. Move $N$.
#
# > **Predict before you run.** With more texts, which way does the best λ move?


# %%
def draw_error(N):
    size = slope.norm().item()
    lines = {
        name: (dial, [math.sqrt(bias**2 + spread / N / size**2) for bias, spread in curve])
        for name, curve in exact.items()
    }
    fig = show.curves(lines, "λ", "error of a step / ‖∇J‖", f"{N} texts a step", size=(7, 3.6))
    for (x, y), colour in zip(lines.values(), show.plots.PALETTE, strict=False):
        fig.axes[0].plot(x[y.index(min(y))], min(y), "*", color=colour, markersize=14)
    return fig


show.slider_figure(
    draw_error,
    alt=lambda N: f"Root mean squared error against λ at {N} texts a step; a star marks each critic's best λ.",
    labels={"N": "texts a step"},
    N=[4, 16, 64, 256, 1024, 4096],
)

# %% [markdown]
# The stars wander to the right as $N$ grows: noise averages out, bias does not. And the better the critic, the
# further left its star. There is no best λ; there is one for this critic and this batch.
#
# **Exercise 06.5 · Where to set it** (experiment · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# For the **fresh** critic and 64 texts a step, find a λ whose mean squared error is less than 0.92 of that at λ = 1.
# The check measures both on the same 8 × 400 new batches; the whole interval must lie below. How confident are you?

# %% tags=["exercise"]
my_lambda = (
    ### BEGIN SOLUTION
    0.84
    ### END SOLUTION
)

# %%
my_lambda = check("06.5", my_lambda)

# %% [markdown]
# ## 6 · The lecture's summary as one experiment
#
# So far the critics were fitted to all texts. Now everybody gets the same $N$ texts and nothing else: the critics are
# fitted to those very texts, then the step is made from them. 200 batches for each $N$.
#
# > **Predict before you run.** Which form wins at $N = 16$? Which at $N = 4096$? Which stops getting better?


# %%
def linear(weight_of, features):
    """Every weight is linear in w: the texts' estimates [820, 910] at w = 0, and what each feature's w adds."""
    zero = torch.zeros_like(r)
    return one_text(weight_of(r, zero)), [one_text(weight_of(zero, f.contiguous())) for f in features.unbind(-1)]


forms = {
    "REINFORCE, v_t": (phi_v, one_text(weights["return v_t"]), []),
    "Q actor-critic, Q_w": (phi_q, *linear(lambda rewards, q: q, phi_q)),
    "A actor-critic, λ = 0": (phi_v, *linear(lambda rewards, v: my_gae(rewards, v, mask, 1.0, 0.0), phi_v)),
    "A actor-critic, λ = 0.9": (phi_v, *linear(lambda rewards, v: my_gae(rewards, v, mask, 1.0, 0.9), phi_v)),
    "A actor-critic, λ = 1": (phi_v, *linear(lambda rewards, v: my_gae(rewards, v, mask, 1.0, 1.0), phi_v)),
}
sizes, errors = [4, 16, 64, 256, 1024, 4096], {name: [] for name in forms}
for N in sizes:
    share = shares(N, seed=1, batches=200)
    for name, (phi, plain, per_feature) in forms.items():
        w = fit(share, phi)  # the critic, from the batch's own texts
        step = share @ plain + sum(w[:, f : f + 1] * (share @ part) for f, part in enumerate(per_feature))
        errors[name].append(((step - slope).square().sum(1).mean().sqrt() / slope.norm()).item())

# %%
fig = show.loglog({n: (sizes, e) for n, e in errors.items()}, "texts N", "error / ‖∇J‖", slope=-0.5, size=(9, 4.2))
alt = "Error against N on log axes. REINFORCE falls with slope −1/2. All critics start below it; Q actor-critic and "
alt += "the advantage with λ = 0 flatten out and end above it, λ = 1 stays below it throughout."
show.figure(fig, alt=alt)
show.table([(name, *e) for name, e in errors.items()], ["form", *[f"N = {N}" for N in sizes]])
reinforce_error, q_error, zero_error, middle_error, one_error = errors.values()
assert max(e[1] for e in list(errors.values())[1:]) < reinforce_error[1]  # with 16 texts every critic helps
assert q_error[-1] > 2 * reinforce_error[-1] and zero_error[-1] > 1.4 * reinforce_error[-1]
assert one_error[-1] < 0.9 * reinforce_error[-1] and zero_error[0] < one_error[0]

# %% [markdown]
# The summary slide in one picture, "=" and "≈":
#
# - **REINFORCE** (=) is the worst with few texts and improves for ever.
# - **Q actor-critic** (≈) is quieter, and soon comes to rest on its bias: more texts do not help it.
# - **Advantage actor-critic** (≈) with λ = 0 is best with few texts; its floor lies lower, as $V$ is easier to learn
#   than $Q$. With λ = 1 it has no floor; λ = 0.9 is a compromise that is never bad.
#
# (At small $N$, λ = 1 is not quite unbiased: its $V_w$ was fitted to the very texts it judges, the own text in the
# mean again, lesson 05.)
#
# **Does it learn faster?** Train from scratch: 400 texts, four an update, 32 seeds at once, critics as tables that
# learn along the way, every form at its own best learning rate.
#
# > **Predict before you run.** All critics start at 0. Which form will be the last to get going?


# %%
def learn(lam, rate, use_q=False, seeds=32, updates=100, n=4, critic_rate=0.2):
    """J before each update, [updates, seeds]. lam None: REINFORCE. Critics: V [seeds, 91], or Q [seeds, 910]."""
    noise, logits, js = runs.generator(5), torch.zeros(seeds, 91, 10, dtype=torch.float64), []
    critic, each = torch.zeros(seeds * 910, dtype=torch.float64), torch.arange(seeds)[:, None, None]
    for _ in range(updates):
        log_pi = logits.log_softmax(-1)
        chance = (log_pi[:, row, words] * mask).sum(-1).exp()
        js.append(chance @ G)
        i = torch.multinomial(chance, n, replacement=True, generator=noise)
        state = each * 91 + row[i]
        entry = state * 10 + words[i] if use_q else state
        m, guess, target = mask[i], critic[entry], G[i][..., None].expand(-1, -1, 3)
        weight = guess if use_q else target
        if lam is not None:
            advantage, lambda_return = estimators.gae(r[i].view(-1, 3), guess.view(-1, 3), m.view(-1, 3), 1.0, lam)
            weight, target = advantage.view_as(guess), lambda_return.view_as(guess)
        push = (torch.nn.functional.one_hot(words[i], 10) - log_pi[each, row[i]].exp()) * (weight * m)[..., None]
        logits.view(-1, 10).index_add_(0, state.flatten(), rate / n * push.view(-1, 10))  # the actor
        critic.index_add_(0, entry.flatten(), (critic_rate * (target - guess) * m).flatten())  # the critic
    return torch.stack(js)


# %%
kinds = {"REINFORCE": (None, False), "Q actor-critic": (None, True)}
kinds |= {f"advantage, λ = {lam:g}": (lam, False) for lam in (0.0, 0.9, 1.0)}
rates = [1.0, 2.0, 4.0]
trained, best_rate = {}, {}
for name, (lam, use_q) in kinds.items():
    tried = {rate: learn(lam, rate, use_q) for rate in rates}
    best_rate[name] = max(rates, key=lambda rate: tried[rate][-1].mean())
    trained[name] = tried[best_rate[name]]
curves = {name: (range(0, 400, 4), js.T.tolist()) for name, js in trained.items()}
alt = "J against texts drawn: λ = 0 climbs much later than the others; in the end the 95 % bands overlap."
show.figure(show.curves(curves, "texts drawn", "J", size=(9, 4.2)), alt=alt)

# %%
rows = []
for name, js in trained.items():
    against = runs.paired_interval(js[-1].tolist(), trained["REINFORCE"][-1].tolist())
    versus = "" if name == "REINFORCE" else "{:+.2f} ({:+.2f} to {:+.2f})".format(*against)
    mean, low, high = runs.mean_interval(js[-1].tolist())
    rows.append((name, f"{best_rate[name]:g}", f"{mean:.2f} ({low:.2f} to {high:.2f})", versus))
show.table(rows, ["form", "learning rate", "J after 400 texts (95 %)", "minus REINFORCE (95 %)"])
early = {name: runs.mean_interval(js[25].tolist()) for name, js in trained.items()}  # after 100 texts
assert early["advantage, λ = 0"][2] < early["REINFORCE"][1]

# %% [markdown]
# Two findings. **λ = 0 gets off late**: at first the critic knows nothing, and then only last words hear of the
# score (06.3); the others have climbed by the time its values have crept back to the first word. And in the end
# **no form stands out**: look at the intervals. The quieter step of the picture above is not by itself a faster
# climb, as in lesson 05. A table, moreover, learns nothing about one text from another; critics earn their keep by
# *carrying over* what one text taught to others like it.
#
# ## 7 · Two learners, one loss
#
# A network with a value head trains actor and critic with one optimiser, so their two losses are added. But the
# TD error is in both, and $V$ is in it twice. Who is to learn from which?
#
# **Exercise 06.6 · One loss for two** (find the bug · difficulty ●●●●○ · importance ●●●●● · 12 min)
#
# Actor and critic in one loss, for TD errors (γ = 1): `logprobs`, `values`, `next_values` and `rewards` are
# `[N]`, one word each. It runs, the loss falls nicely, and the values come out wrong. The cell below trains a
# critic's table with the given loss, on all texts. Find out who moves what, and repair it.


# %%
def given_loss(logprobs, values, next_values, rewards):
    """Actor and critic in one loss. Looks right, is not."""
    delta = rewards + next_values - values
    return -(delta * logprobs).mean() + 0.5 * delta.square().mean()


# %%
def trained_critic(loss, updates=150):
    """A table V trained on all words of all texts; log π gets no gradient here and is left out (0)."""
    v = torch.zeros(91, dtype=torch.float64, requires_grad=True)
    goes_on = torch.nn.functional.pad(mask[:, 1:], (0, 1))
    following = torch.where(goes_on, row.roll(-1, 1), 91)[mask]  # number 91 is the end, worth 0
    often = (p[:, None].expand(-1, 3)[mask] * len(following)).sqrt()  # how often a word is drawn; the loss squares it
    optimizer, history = torch.optim.Adam([v], lr=0.1), []
    for _ in range(updates):
        table = torch.nn.functional.pad(v, (0, 1))
        value = loss(0 * often, often * table[row[mask]], often * table[following], often * r[mask])
        history.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return v.detach(), history


# %%
v, history = trained_critic(given_loss)
print(f"loss {history[0]:.2f} → {history[-1]:.2f}; V(s₀) = {v[0]:.2f}, which should be J = {V[0]:.2f}")


# %% tags=["exercise"]
def my_loss(logprobs, values, next_values, rewards):
    """A loss for one optimiser: the policy gradient for log π, the TD target for V(s), nothing else: scalar."""
    ### BEGIN SOLUTION
    target = (rewards + next_values).detach()
    advantage = (target - values).detach()
    return -(advantage * logprobs).mean() + 0.5 * (target - values).square().mean()
    ### END SOLUTION


# %%
my_loss = check("06.6", my_loss)

# %%
rows, reach = [], mdp.state_distribution(task, policy).detach()
for name, loss in {"as given": given_loss, "yours (or ours)": my_loss}.items():
    v, history = trained_critic(loss)
    off = ((reach @ (v - V) ** 2) / reach.sum()).sqrt().item()
    bias, _ = bias_and_variance(my_td_errors(r, v[row], mask, 1.0))
    rows.append((name, history[-1], off, bias))
show.table(rows, ["loss", "critic's loss at the end", "error of V", "bias of the actor at λ = 0, / ‖∇J‖"])
assert rows[0][1] < rows[1][1] and rows[0][2] > 2 * rows[1][2] and rows[0][3] > 2 * rows[1][3]

# %% [markdown]
# The given critic has the **lower loss and the wrong values**. Asked to make surprises small, it may move what it
# expected or what it found, and does both: each value is pulled towards the values that follow, and these back
# towards it. Surprises cannot all vanish, since the policy is random, and the values that make them smallest are
# not the true ones (Baird 1995 calls this the residual gradient, and the repaired one direct). A target is a
# number: detach it.

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## Optional · A Q critic without bias
#
# *Skip this section if you like; nothing later needs it. (If its cells are hidden, click the arrow beside the
# title.)*
#
# Sutton et al. (2000): take $\nabla\log\pi(a|s)$ **itself as the critic's features**, $Q_w = w \cdot \nabla\log\pi$,
# and fit it **by least squares on the policy's own texts**. Then the actor's gradient is exact, however bad the fit.
# Reason: least squares leaves a residual that is orthogonal to every feature, $\mathbb{E}[(Q^\pi -
# Q_w)\,\nabla\log\pi] = 0$. That *is* $\mathbb{E}[\nabla\log\pi\, Q_w] = \mathbb{E}[\nabla\log\pi\, Q^\pi] = \nabla
# J$.
#
# With a row for every state the fit would be perfect and prove little. So take lesson 04's policy, **one**
# softmax for all positions: ten features for 910 pairs.

# %%
theta = torch.zeros(10, dtype=torch.float64)
theta[0], theta[task.eos] = 2.0, 1.0  # likes "great", and to stop
theta.requires_grad_()


def shared(tokens):
    """log π [N, T, 10]: the same ten numbers at every position."""
    return theta.log_softmax(-1).expand(*tokens.shape, -1)


(slope_1,) = torch.autograd.grad(mdp.exact_objective(task, shared), theta)
pi_1 = theta.softmax(-1).detach()
truth = mdp.exact_values(task, shared)
Q_1, A_1 = truth.q.detach()[row, words], truth.advantage.detach()[row, words]
p_1 = mdp.action_logprobs(task, shared, words, mask).sum(1).exp().detach()
psi = (torch.nn.functional.one_hot(words, 10) - pi_1) * mask[..., None]  # ∇log π, [820, 3, 10]


# %%
def least_squares(features, target, chance):
    """The fit's predictions [820, 3] and its weights, each text counting as `chance` says."""
    root = (chance[:, None] * mask).sqrt()
    w = torch.linalg.lstsq((root[..., None] * features)[mask], (root * target)[mask][:, None], driver="gelsd").solution
    return (features @ w).squeeze(-1), w.squeeze(-1)


def gradient(weight, chance=p_1):
    return torch.einsum("n,nt,ntd->d", chance, torch.where(mask, weight, 0.0), psi)


# %%
evenly = torch.full_like(p_1, 1 / 820)
fits = {
    "∇log π, on-policy": least_squares(psi, Q_1, p_1),
    "∇log π, all texts alike": least_squares(psi, Q_1, evenly),
    "five ordinary features, on-policy": least_squares(phi_q, Q_1, p_1),
}
rows = []
for name, (guess, _) in fits.items():
    missed = (((p_1[:, None] * mask) * (Q_1 - guess) ** 2).sum() / (p_1[:, None] * mask).sum()).sqrt()
    bias = (gradient(guess) - slope_1).norm() / slope_1.norm()
    rows.append((name, missed.item(), bias.item()))
show.table(rows, ["features and fit", "error of Q_w, root mean square", "bias of the actor / ‖∇J‖"])
assert rows[0][2] < 1e-9 and rows[1][2] > 0.03 and rows[2][2] > 0.01 and rows[2][1] < rows[0][1]

# %% [markdown]
# The ordinary critic predicts far better, and misleads; the compatible one predicts badly, in just the way that
# does no harm. Take away either condition and the bias is back. Three more facts, each a line:

# %%
guess, w = fits["∇log π, on-policy"]
zero = pi_1 @ (torch.eye(10) - pi_1) @ w
fitted_to_A = least_squares(psi, A_1, p_1)[1]
print(f"mean of Q_w over the words: {zero:.1e}; w, fitted to A instead: off by {(w - fitted_to_A).abs().max():.1e}")
fisher = torch.einsum("n,nti,ntj->ij", p_1, psi, psi)
print(f"Fisher matrix × w − ∇J: {(fisher @ w - slope_1).abs().max():.1e}")

batch = shares(64, seed=3, batches=1, of=p_1)[0]  # 64 texts
critic, _ = least_squares(psi, G[:, None].expand(-1, 3), batch)  # fitted to the batch's own returns ...
gap = (gradient(critic, batch) - gradient(G[:, None].expand(-1, 3), batch)).abs().max()  # ... against REINFORCE
print(f"compatible critic, fitted to a batch, against REINFORCE on that batch: largest difference {gap:.1e}")
assert max(abs(zero), (w - fitted_to_A).abs().max(), (fisher @ w - slope_1).abs().max(), gap) < 1e-9

# %% [markdown]
# - Its mean over words is 0 in every state: it estimates the **advantage**, whatever it is fitted to.
# - Its weights are the **natural gradient** $F^{-1}\nabla J$ (Kakade 2002): what a trust region would have you step
#   along.
# - Fitted to the batch from which the step is made, it gives **REINFORCE, to the last digit**. Without bias there is
#   nothing to gain from the same texts; a critic helps by what it carries over, from other texts or other states.

# %% [markdown]
# ## 8 · The generic actor-critic, on text
#
# The last slide of this part of the lecture is the generic actor-critic for language. On a language model the critic is
# a linear **value head**: it reads the last hidden state at every position, so actor and critic share all other
# weights. This is the whole algorithm, to be read; the next cell runs the library's.


# %%
def mine(policy, prompts, reward, config, reference):
    """Sample, score, ask the critic, compare, update both."""
    optimizer = torch.optim.AdamW(policy.parameters(), lr=config.lr, weight_decay=0.0)
    for step in range(config.steps):
        batch = rollout.sample(policy, rollout.prompt_batch(prompts, step, 16), samples_per_prompt=4, max_new_tokens=24)
        with torch.no_grad():
            kl = losses.kl_estimate(batch.logprobs, rollout.score(reference, batch).logprobs)  # lesson 10
            earned = estimators.holistic_rewards(reward(batch), batch.mask, kl, config.beta)
            expected = rollout.score(policy, batch).values
        advantages, targets = estimators.gae(earned, expected, batch.mask, config.gamma, config.lam)
        new = rollout.score(policy, batch)
        actor = losses.policy_gradient_loss(new.logprobs, advantages, batch.mask)
        critic = losses.value_loss(new.values, targets, batch.mask)
        optimizer.zero_grad()
        (actor + config.value_weight * critic).backward()
        optimizer.step()


# %% [markdown]
# `rlhf_lib/algorithms/actor_critic.py` is the same with metrics and a stop button. Read it beside `reinforce.py`:
# they differ where the algorithms do. The policy is lesson 07's, fine-tuned on positive reviews. The reward is
# lesson 09's reward model; its 0 is about what the policy earns at first. And every word pays a little for leading
# away from where the policy began: the KL of lesson 10. A few steps, with λ = 1: the head is fresh, and section 5
# tells what λ < 1 would do with it.

# %%
prompts, sft_policy, panel = reviews.openings("train"), stages.sft_policy(), stages.panel_reward_model()
policy_with_head = stages.sft_policy(value_head=True)
config = actor_critic.Config(steps=6, lr=3e-4, lam=1.0, beta=0.1, value_weight=1.0)
run = actor_critic.train(policy_with_head, prompts, panel, config, reference=sft_policy)
curves = {"reward": run.column("reward"), "value loss": run.column("value_loss"), "KL": run.column("kl")}
show.figure(
    show.curves(curves, "step", "score, squared score, nats", "One run: not evidence of anything yet", size=(7, 3.2)),
    alt="Reward, value loss and KL over the steps of one short run.",
)

# %% [markdown]
# Six steps show that the parts fit together, and no more. (Three units share the axis: read each line by itself.)
#
# ### What the critic has learnt
#
# The run's value head was fresh and has seen a few hundred texts. How much of the scores' variance does it foresee,
# from how much of the text? Beside it we put a critic that starts as a **copy of the reward model** (as
# InstructGPT's did) and learns to predict the scores of 240 texts from every position, in two passes.
#
# > **Predict before you run.** At the first word, halfway, at the last: how much can anyone foresee?


# %%
def scored(policy, split, openings, seed):
    """Four texts for each of some openings, and the reward model's scores."""
    prompts, noise = reviews.openings(split, limit=openings), runs.generator(seed)
    texts = rollout.sample(policy, prompts, max_new_tokens=24, samples_per_prompt=4, generator=noise)
    with torch.no_grad():
        return texts, panel(texts)


# %%
copy_of_panel = stages.panel_reward_model()
critic = models.Policy(copy_of_panel.lm, copy_of_panel.tokenizer, name="critic", value_head=True)
critic.value_head.load_state_dict(copy_of_panel.head.state_dict())
seen_texts, seen_scores = scored(sft_policy, "train", 60, seed=1)
optimizer = torch.optim.AdamW(critic.parameters(), lr=1e-4, weight_decay=0.0)
for rows_of_batch in runs.shuffled_batches(len(seen_texts), 32, epochs=2, seed=0):
    part = seen_texts[rows_of_batch]
    target = seen_scores[rows_of_batch][:, None].expand(part.mask.shape)
    loss = losses.value_loss(rollout.score(critic, part).values, target, part.mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %%
new_texts, new_scores = scored(sft_policy, "validation", 36, seed=2)  # openings that no model was trained on
places, foreseen = [0.0, 0.25, 0.5, 0.75, 1.0], {}
for name, one in {"copy of the reward model": critic, "value head of the run": policy_with_head}.items():
    with torch.no_grad():
        v = rollout.score(one, new_texts).values
    at_place = [v[torch.arange(len(v)), ((new_texts.lengths - 1) * place).long()] for place in places]
    foreseen[name] = [1 - ((new_scores - x).square().mean() / new_scores.var()).item() for x in at_place]
fig = show.curves(
    {name: (places, shares_) for name, shares_ in foreseen.items()},
    "place in the text, from the first word to the last",
    "share of the variance foreseen",
    exact={"as good as the mean": 0.0},
)
alt = "The reward model's copy foresees more with every word, most at the last; the short run's head stays near zero."
show.figure(fig, alt=alt)
own = foreseen["copy of the reward model"]
assert own[-1] > own[0] and own[-1] > 0.3

# %% [markdown]
# "Values of partial sentences are hard to judge" (lesson 02), as a curve. At the first word all that is known is
# the opening; the rest of the score is still to be decided, and no critic can know it. At the last word it could
# be read off. The run's own head has hardly begun: it must learn from scores what the reward model knew already.
# Until it does, λ = 1 keeps it from doing harm.
#
# ### Under the words
#
# Choose one of four new texts. The bars are what the critic expects *before* each word, and the TD error: what the word
# changed.


# %%
def account_of(i):
    """The words of text i, V before each, the TD errors; they must add up to score − V(s₀)."""
    text = new_texts[i : i + 1]
    with torch.no_grad():
        v, score = rollout.score(critic, text).values, panel(text)
    earned = estimators.holistic_rewards(score, text.mask)
    surprise, _ = estimators.gae(earned, v, text.mask, 1.0, 0.0)
    assert abs(surprise.sum() - (score - v[:, 0])).item() < 1e-4
    names = [text.tokenizer.decode([token]).strip() or "·" for token in text.tokens[0].tolist()]
    length = int(text.lengths)
    return text.prompts()[0], names[:length], v[0, :length].tolist(), surprise[0, :length].tolist(), score.item()


# %%
short = [i for i, n in enumerate(new_texts.lengths.tolist()) if 8 <= n <= 14 and new_texts.finished[i]]
by_score = sorted(short, key=lambda i: new_scores[i].item())
chosen = {"the best": by_score[-1], "the second": by_score[-2], "the middle": by_score[len(short) // 2]}
chosen["the worst"] = by_score[0]


def draw_text(text):
    prompt, names, v, surprise, score = account_of(chosen[text])
    title = f"{prompt} …    score {score:.2f} − V(s₀) {v[0]:.2f} = {sum(surprise):.2f}, the sum below"
    return show.words_under_sentence(names, {"V before": v, "TD error": surprise}, title=title)


show.slider_figure(
    draw_text,
    alt=lambda text: f"The critic's value before each token of a sampled text ({text} by score), and the TD errors.",
    text=list(chosen),
)

# %% [markdown]
# The last token is the end of the text. REINFORCE would give all of these words the same; here each has its own bar,
# and the bars add up to the score minus what the opening promised. Whether every single bar is *right* is another
# question: the sum would be as exact with any critic, and this one read 240 texts. Does it blame the words you would?
#
# ## Recap
#
# - **Three weights**: return, $Q$, $A$. With the true ones all have the mean $\nabla J$, in order of falling noise.
#   With learnt ones it is "≈": a critic trades variance for bias.
# - The **TD error** is the advantage if $V$ is right. Wrong at the next state, it draws the actor to where the critic
#   is too optimistic; a constant too much makes texts longer.
# - TD errors **add up** along a text to score − $V(s_0)$, for any $V$.
# - **λ** is the dial: none of the critic's bias at 1, least noise at 0; the best setting depends on critic and batch.
#   With a fresh critic λ is a discount from the end.
# - In the two losses the actor's weight and the critic's target are numbers: detached. A critic may not move its own
#   target.
# - On text: a score can be foreseen only as far as the text is written; a copy of the reward model is a better start
#   than a fresh head.
#
# | in the lecture | here | note |
# |---|---|---|
# | $Q_w \approx Q^\pi$, $\nabla J \approx \mathbb{E}[\nabla\log\pi\,Q_w]$ | section 2 | "=" if compatible |
# | $\Delta\theta = \alpha\nabla\log\pi\,Q_w$ | sections 2 and 6 | without the slide's trailing factor |
# | $A = Q - V$, $\nabla J = \mathbb{E}[\nabla\log\pi\,A]$ | sections 1 and 3 | |
# | the summary's three lines | sections 1 and 6 | "=" for $v_t$, "≈" for $Q^w$ and $A^w$ |
# | generic actor-critic for language | section 8 | $Q = r + \gamma V(s')$, so one value head does |

# %%
quiz(
    "Your critic is bad. Which setting cannot be harmed by it, on average?",
    {
        "λ = 0": "There the critic says everything, and its errors at the next state go straight into the gradient.",
        "λ = 1": "The critic is then only a baseline: it adds noise at worst, never bias.",
        "A small value_weight": "That slows the critic's learning; what it says is still used.",
    },
    correct="λ = 1",
)
quiz(
    "The TD errors of a text add up exactly to score − V(s₀). What does that tell about the critic?",
    {
        "It is right": "The sum is right for any V, even for V = 0.",
        "Nothing": "All values but the first cancel, right or wrong.",
        "Its error is spread evenly": "Errors cancel in the sum; single words may be far off.",
    },
    correct="Nothing",
)
quiz(
    "With more and more texts a step, an actor-critic with λ = 0 stops improving. Why?",
    {
        "Its learning rate is too small": "The error of the gradient itself stops falling, before any step is made.",
        "The critic cannot represent V": "What is left is the critic's bias, and more texts do not remove it.",
        "TD errors are noisy": "They are the quietest of all; noise averages out.",
    },
    correct="The critic cannot represent V",
)

# %% [markdown]
# **Next:** Part III. Lesson 07, *Pre-training and supervised fine-tuning*, makes the policy to start from. Lesson 11,
# *PPO*, is this lesson's actor-critic taking several careful steps from each batch.
