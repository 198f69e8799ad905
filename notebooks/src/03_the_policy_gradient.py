# %% [markdown]
# # 03 · The policy gradient and one-step MDPs
#
# **How can a policy climb a score that nobody can differentiate? And is a review one decision or many?**
#
# Lesson 01 left us with an objective $J(\theta)$, the score that the policy earns on average. This lesson finds its
# gradient without ever touching the inside of the score, first for one word, then for a whole review.
#
# After it you can
# - derive the likelihood-ratio trick, and turn samples and their rewards into a gradient;
# - name the surrogate loss that is silently wrong, and say what it does instead;
# - treat a whole text as one action, and show that its gradient is the token-level one, sample by sample;
# - say which discounts break that equality and which do not;
# - say how many samples a gradient of a given accuracy costs.
#
# | | |
# |---|---|
# | Before this | lesson 01 (states, actions, $J$); partial derivatives, the chain rule |
# | Reading | about 40 minutes, with the exercises about 100 |
# | Run time | about 15 seconds on 2 cores |
# | With a GPU | nothing changes: all of this is small |

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# ## 1 · The goal and its gradient
#
# Start with the smallest reviews there are: someone has begun one, and the policy adds **one word**. The beginning is
# the *state* $s$, drawn from a distribution $d(s)$ that nobody controls. The word is the action $a$, the score of the
# result is the reward $R_{s,a}$, and it is over. The lecture calls this a **one-step MDP**, or *contextual bandit*.

# %%
begins = {"awful …": 0.4, "awful but …": 0.3, "not …": 0.2, "good but …": 0.1}  # how often a review begins like this
d = torch.tensor(list(begins.values()), dtype=torch.float64)
words, each_word = reviews.MICRO_WORDS, torch.arange(10)[:, None]  # ten endings, of one word each
tasks = [reviews.micro_mdp(horizon=1, opening=s.removesuffix(" …").split()) for s in begins]
R = torch.stack([task.reward(each_word, each_word >= 0) for task in tasks]).double()
show.figure(
    show.heat_map(R, list(begins), words, "Score of the review, by its last word"),
    alt="Scores of 4 openings with 10 words: after not, awful is best; after the three others, great.",
)

# %% [markdown]
# The best word depends on the state, hence *contextual*: after "not", praise backfires and "awful" is best. The
# policy is a table $\theta$ of logits, a row a state:
# $\pi_\theta(a \mid s) = e^{\theta_{s,a}} / \sum_b e^{\theta_{s,b}}$ (the slide writes $\pi_\theta(s, a)$). What it
# earns on average is the slide's
#
# $$J(\theta) = \mathbb{E}_{\pi_\theta}[r] = \sum_s d(s) \sum_a \pi_\theta(a \mid s)\, R_{s,a}.$$


# %%
def J(theta):
    """Σ_s d(s) Σ_a π(a|s) R[s, a]."""
    return d @ (theta.softmax(-1) * R).sum(-1)


blind = torch.zeros(4, 10, dtype=torch.float64)  # every word equally likely
opinionated = torch.randn(4, 10, dtype=torch.float64, generator=runs.generator(0))  # has favourites, at random
tables = [models.TablePolicy(task).double() for task in tasks]  # the library's: an MDP for each opening
library = sum(p * mdp.exact_objective(task, t) for p, task, t in zip(d, tasks, tables, strict=True))
print(f"J of the blind policy {J(blind):.4f} (rlhf_lib.mdp: {library:.4f}); of an opinionated one {J(opinionated):.4f}")
print(f"the most that can be had: {d @ R.amax(1):.4f}")
assert torch.isclose(J(blind), library.detach(), atol=1e-6)

# %% [markdown]
# To climb $J$ we need to know how it changes with each weight, its **gradient**
# $\nabla_\theta J = (\partial J/\partial\theta_1, \dots, \partial J/\partial\theta_n)$. The slide's definition can be
# taken at its word: nudge one weight up and down, look at $J$, go on to the next weight.
#
# *Predict: for the blind policy, which words' weights want to go up after "awful"? All their scores there are 0 or
# below.*


# %%
def nudge_every_weight(theta, step=1e-5):
    """∂J/∂θ_i for each i: two evaluations of J a weight."""
    gradient = torch.zeros_like(theta)
    for i in range(theta.numel()):
        e = torch.zeros_like(theta)
        e.view(-1)[i] = step
        gradient.view(-1)[i] = (J(theta + e) - J(theta - e)) / (2 * step)
    return gradient


# %%
def exact_gradient(theta):
    theta = theta.clone().requires_grad_()
    return torch.autograd.grad(J(theta), theta)[0]


for theta in (blind, opinionated):
    assert torch.allclose(nudge_every_weight(theta), exact_gradient(theta), rtol=0, atol=1e-9)
show.figure(
    show.heat_map(100 * nudge_every_weight(blind), list(begins), words, "100 ∂J/∂θ of the blind policy"),
    alt="100 times the gradient of J by each of the 40 weights: positive where a word scores above its row's average.",
)

# %% [markdown]
# (Automatic differentiation agrees to nine decimals.) After "awful" the weights of three words go up
# although none of them scores above 0. The formula for an entry says why:
#
# $$\frac{\partial J}{\partial \theta_{s,a}} = \underbrace{d(s)\,\pi(a \mid s)}_{\text{how often}}\;
# \underbrace{\Big(R_{s,a} - \sum_b \pi(b \mid s) R_{s,b}\Big)}_{\text{how much better than average}}.$$
#
# Probabilities add up to 1, so "up" can only mean "more than the others". Lesson 05 makes much of that bracket.

# %%
for theta in (blind, opinionated):
    pi = theta.softmax(-1)
    better_than_average = R - (pi * R).sum(-1, keepdim=True)
    assert torch.allclose(d[:, None] * pi * better_than_average, exact_gradient(theta), rtol=0, atol=1e-12)
print("words that go up after 'awful':", [w for w, g in zip(words, exact_gradient(blind)[0], strict=True) if g > 0])

# %% [markdown]
# ### Up or down?
#
# > **A slip on the slide.** It says: "Gradient *descent* according to the policy gradient". *Predict what descent
# > would do to the reviews.*

# %%
curves = {}
for name, sign in {"ascent, θ + α∇J": +1, "descent, θ − α∇J": -1}.items():
    theta, curves[name] = blind, []
    for _ in range(60):
        curves[name].append(J(theta).item())
        theta = theta + sign * 2.0 * exact_gradient(theta)
limits = {"best possible": d @ R.amax(1), "worst possible": d @ R.amin(1)}
show.figure(
    show.curves(curves, "step", "J", exact=limits, size=(7, 3.2)),
    alt="From the same start, ascent climbs towards the best possible J and descent falls towards the worst.",
)
up, down = curves.values()
assert up == sorted(up) and down == sorted(down, reverse=True) and up[-1] > 0.9 * limits["best possible"]

# %% [markdown]
# The goal is to *maximise* $J$: it is gradient **ascent**. (The word descent comes from losses. An optimiser
# minimises, so code hands it something whose gradient is $-\nabla J$.)
#
# ## 2 · The likelihood-ratio trick
#
# Nudging needs two exact values of $J$ for each weight. A language model has millions of weights, and its $J$ is a
# sum over more texts than there are atoms. What can be had are **samples**: draw a word, see its reward.
#
# *Predict: a mean of 1,000 sampled rewards is a good estimate of $J$. Does `autograd` of that mean give a good
# estimate of $\nabla J$?*

# %%
theta = blind.clone().requires_grad_()
states = torch.multinomial(d, 1_000, replacement=True, generator=runs.generator(0))
actions = torch.multinomial(theta.softmax(-1)[states], 1, generator=runs.generator(1)).squeeze(1)
rewards_drawn = R[states, actions]
print(f"mean of 1,000 sampled rewards {rewards_drawn.mean():.3f}; J {J(theta):.3f}")
try:
    torch.autograd.grad(rewards_drawn.mean(), theta)
except RuntimeError as error:
    print("autograd:", str(error).splitlines()[0])

# %% [markdown]
# It gives nothing at all. θ decided *which* rewards were drawn, and a draw has no derivative; the rewards themselves
# are just numbers. (This is the lecture's "arbitrary non-differentiable scores": a person's label is such a number.)
# The dependence on θ sits in the probabilities. In $\nabla J = \sum_s d(s) \sum_a \nabla\pi_\theta(a|s)\, R_{s,a}$ they
# are visible, but this is no average over samples any more: the weights $\nabla\pi$ are not probabilities.
#
# The trick is to multiply and divide by $\pi$ (Glynn 1990; Williams 1992):
#
# $$\nabla\pi_\theta = \pi_\theta\, \frac{\nabla\pi_\theta}{\pi_\theta} = \pi_\theta\, \nabla\log\pi_\theta .$$
#
# Now $\pi$ is back in front, and the sum is an average again:
#
# $$\nabla J(\theta) = \sum_s d(s) \sum_a \pi_\theta(a|s)\, \nabla\log\pi_\theta(a|s)\, R_{s,a}
# = \mathbb{E}_{\pi_\theta}\big[\nabla\log\pi_\theta(a|s)\; r\big].$$
#
# Draw, note $r$, differentiate $\log\pi$ of what was drawn, multiply. $\nabla\log\pi$ is called the **score** of the
# action (nothing to do with a review's score). For a softmax you can work it out.
#
# **Exercise 03.1 · The score of a softmax** (derive · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# With $\pi(a) = e^{\theta_a} / \sum_b e^{\theta_b}$, derive on paper $\partial \log\pi(a) / \partial\theta_b$ for
# $b = a$ and for $b \ne a$. Write the result as a function, without automatic differentiation: `logits [A]` and the
# index `action` give all $A$ derivatives. By hand: two words with equal logits, the first drawn: `[0.5, -0.5]`.


# %% tags=["exercise"]
def my_score(logits, action):
    """∂ log π(action) / ∂ logits: [A], index -> [A]."""
    ### BEGIN SOLUTION
    score = -logits.softmax(-1)
    score[action] += 1
    return score
    ### END SOLUTION


# %%
my_score = check("03.1", my_score)

# %% [markdown]
# With it, each line of the slide's derivation can be computed as it stands, summed over all states and words. One
# more line is in the table:
#
# > **A slip on the slide.** The line before the last is garbled; it reads
# > "$\pi_\theta(s,a)\, \nabla_\theta\log\pi_\theta(s,a)\, R_\theta \log\pi_\theta(s,a)\, R_{s,a}$". The reward does not
# > depend on θ, and the trailing $\log\pi$ does not belong there. Read $\nabla\log\pi_\theta(s,a)\, R_{s,a}$.

# %%
pi = opinionated.softmax(-1)
score = torch.stack([torch.stack([my_score(row, a) for a in range(10)]) for row in opinionated])  # [s, a, b]
grad_pi = pi[:, :, None] * (torch.eye(10) - pi[:, None, :])  # ∂π(a|s)/∂θ_{s,b}, by the quotient rule
lines = {
    "Σ d Σ ∇π R": torch.einsum("s,sab,sa->sb", d, grad_pi, R),
    "Σ d Σ π ∇log π R": torch.einsum("s,sa,sab,sa->sb", d, pi, score, R),
    "as garbled: … R log π R": torch.einsum("s,sa,sab,sa->sb", d, pi, score, R * pi.log() * R),
}
exact, cosine = exact_gradient(opinionated), torch.nn.functional.cosine_similarity
rows = [
    (n, (g - exact).abs().max().item(), cosine(g.flatten(), exact.flatten(), dim=0).item()) for n, g in lines.items()
]
show.table(rows, ["", "largest difference from ∇J", "cosine with ∇J"])
assert rows[0][1] < 1e-12 and rows[1][1] < 1e-12 and rows[2][2] < 0.9
assert (torch.einsum("sa,sab->sb", pi, score)).abs().max() < 1e-12  # scores average to 0

# %% [markdown]
# The first two are $\nabla J$ to rounding error; the garbled one points elsewhere. (The *cosine* of the angle between
# two gradients is 1 if they point the same way, 0 if they are at right angles.)
#
# <details><summary>Optional: why "likelihood ratio"?</summary>
#
# Suppose that the words were drawn from $\pi_\theta$ and you want to know what another policy $\theta'$ would earn.
# Weigh each sample with how much likelier the other policy makes it:
# $J(\theta') = \mathbb{E}_{\pi_\theta}\big[\tfrac{\pi_{\theta'}(a|s)}{\pi_\theta(a|s)}\, r\big]$. That fraction is the
# *likelihood ratio*. Differentiate by $\theta'$ at $\theta' = \theta$: the ratio's derivative is
# $\nabla\pi/\pi = \nabla\log\pi$, and here is the trick again. PPO (lesson 11) keeps the ratio instead of its
# derivative, to take more than one step with the same samples.
#
# Where actions are continuous and the reward is a known smooth function of them, one can also differentiate *through*
# the sample (reparametrisation). Words are neither.
#
# </details>
#
# ## 3 · A gradient from samples
#
# **Exercise 03.2 · A gradient from samples** (implement · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# Estimate $\nabla J$ from $N$ draws: `logits [S, A]`, the states drawn `contexts [N]`, the words drawn in them
# `actions [N]`, and what they earned, `rewards [N]`. The result has the shape of `logits`. By hand: all logits 0, two
# words, one sample (context 0, word 1, reward 4) gives `[-2, 2]` in row 0 and zeros elsewhere.


# %% tags=["exercise"]
def my_gradient(logits, contexts, actions, rewards):
    """The mean over samples of r ∇log π(a|s): [S, A], [N], [N], [N] -> [S, A]."""
    ### BEGIN SOLUTION
    scores = torch.nn.functional.one_hot(actions, logits.shape[1]) - logits.softmax(-1)[contexts]
    total = torch.zeros_like(logits).index_add(0, contexts, rewards[:, None] * scores)
    return total / len(rewards)
    ### END SOLUTION


# %%
my_gradient = check("03.2", my_gradient)

# %% [markdown]
# Each dot below is one of the 40 weights: across, its exact derivative; up, what the samples say. On the line they
# agree. *Predict: from which $N$ on would you trust the direction of this gradient?*


# %%
def draw(n, seed=0, theta=blind):
    """n states, words and rewards of the bandit."""
    g = runs.generator(seed, n)
    states = torch.multinomial(d, n, replacement=True, generator=g)
    actions = torch.multinomial(theta.softmax(-1)[states], 1, generator=g).squeeze(1)
    return states, actions, R[states, actions]


# %%
def sampled_against_exact(N):
    estimate, exact = my_gradient(blind, *draw(N)).flatten(), exact_gradient(blind).flatten()
    title = f"N = {N:,}: cosine with ∇J {cosine(estimate, exact, dim=0):.3f}"
    fig = show.scatter({"a weight": (exact, estimate)}, "exact ∂J/∂θ", "from samples", title, size=(5.4, 4.2))
    fig.axes[0].plot([-0.08, 0.12], [-0.08, 0.12], color="#000000", linewidth=1)
    reach = max(0.2, 1.1 * estimate.abs().max().item())  # so that no dot is cut off
    fig.axes[0].set(ylim=(-reach, reach), xticks=[-0.05, 0, 0.05, 0.1])
    return fig


show.slider_figure(
    sampled_against_exact,
    alt=lambda N: f"40 weights: sampled against exact derivative at N = {N:,}, scattered about the diagonal.",
    N=[10, 100, 1_000, 10_000, 100_000],
)

# %%
errors = {n: (my_gradient(blind, *draw(n)) - exact_gradient(blind)).norm().item() for n in (100, 10_000, 1_000_000)}
show.table(
    [(f"{n:,}", e, e / exact_gradient(blind).norm().item()) for n, e in errors.items()],
    ["samples", "length of the error", "relative to ∇J"],
)
assert errors[100] > 4 * errors[10_000] > 16 * errors[1_000_000]

# %% [markdown]
# A hundred times the samples, a tenth of the error. Section 7 looks at that more closely.
#
# ### In code: a surrogate
#
# Nobody writes scores by hand for a transformer. One writes a scalar whose *gradient* is minus the estimate, a
# **surrogate loss**, and lets `autograd` do the rest. Its value means nothing.
#
# **Exercise 03.3 · A surrogate that likes favourites** (find the bug · difficulty ●●●○○ · importance ●●●●● · 8 min)
#
# `given_surrogate` takes the log-probabilities of the words that were drawn and their rewards. "Make well-paid words
# more probable", it says, and $J$ does go up. `compare` holds the mean direction that it gives against $\nabla J$, once
# with the scores as they are and once with 5 subtracted from each, which should change nothing (why?). Run the cells,
# find the fault, mend it.


# %%
def given_surrogate(logprobs, rewards):
    """A loss for the words drawn: log-probabilities [N], rewards [N] -> scalar. Looks right, is not."""
    return -(logprobs.exp() * rewards).mean()


# %%
def direction(surrogate, theta, shift=0.0):
    """The mean step −∇loss: every state and word once, weighted with how often it is drawn."""
    theta = theta.clone().requires_grad_()
    often = (d[:, None] * theta.softmax(-1)).detach() * theta.numel()  # the surrogate takes a mean over the 40 entries
    loss = surrogate(theta.log_softmax(-1).flatten(), (often * (R + shift)).flatten())
    return -torch.autograd.grad(loss, theta)[0]


def compare(surrogate):
    for shift in (0.0, -5.0):
        g, exact = direction(surrogate, opinionated, shift).flatten(), exact_gradient(opinionated).flatten()
        error = ((g - exact).norm() / exact.norm()).item()
        print(f"scores {shift:+.0f}: cosine with ∇J {cosine(g, exact, dim=0):.3f}, relative error {error:.3f}")


compare(given_surrogate)


# %% tags=["exercise"]
def my_surrogate(logprobs, rewards):
    """A loss for the words drawn, whose gradient is minus the policy gradient's estimate: [N], [N] -> scalar."""
    ### BEGIN SOLUTION
    return -(logprobs * rewards).mean()
    ### END SOLUTION


# %%
my_surrogate = check("03.3", my_surrogate)
compare(my_surrogate)

# %% [markdown]
# Where do they lead?

# %%
curves = {}
trained = {"right, scores − 5": my_surrogate, "given": given_surrogate, "given, scores − 5": given_surrogate}
for name, surrogate in trained.items():
    theta, curves[name], shift = blind, [], 0.0 if name == "given" else -5.0
    for _ in range(120):
        curves[name].append(J(theta).item())
        theta = theta + 2.0 * direction(surrogate, theta, shift)
show.figure(
    show.curves(curves, "step", "J", exact={"best possible": d @ R.amax(1)}),
    alt="The right surrogate nears the best J in 60 steps, with 5 subtracted from all scores too. The given one is far "
    "slower, and with 5 subtracted it stays near the start.",
)
final = [curve[-1] for curve in curves.values()]
favourites = theta.softmax(-1).amax(1)
print("with scores − 5, the likeliest word after each opening has", [f"{p:.0%}" for p in favourites])
assert final[0] > 0.95 > final[1] > final[2] and final[2] < -1 and favourites.max() < 0.25

# %% [markdown]
# Words are drawn in proportion to $\pi$ already. The given surrogate's mean is $\sum \pi\, \nabla\pi\, R = \nabla\,
# \tfrac12 \sum_a \pi(a)^2 R_a$: another mountain. Where all scores are negative, its top is a policy that spreads out,
# since that keeps the squares small. It raised $J$ all the same; that is why such bugs live long.
# **A rising curve does not prove the gradient right. Compare it with an exact answer.**
#
# ## 4 · A whole review as one action
#
# Back to reviews of several words. The lecture: *a one-step MDP in language = generate the entire sequence and
# consider that a singular action.* In lesson 01's picture: a controller with one button for each review. How probable
# is a button? The words' probabilities multiply, so their logarithms add:
#
# $$\pi_\theta(y \mid s) = \prod_{t=0}^{T-1} \pi_\theta(y_t \mid s, y_{<t}), \qquad
# \log\pi_\theta(y \mid s) = \sum_{t=0}^{T-1} \log\pi_\theta(y_t \mid s, y_{<t}).$$
#
# **Exercise 03.4 · One big action** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# Return $\log\pi(y)$ for each text, `[B]`, from the logits at each of its positions `[B, T, V]` (row $t$ is the
# prediction of word $t$), its words `tokens [B, T]`, and `mask [B, T]`, False after its end. By hand: two words with
# equal logits at every step, and a text of three words: $3 \log 0.5 \approx -2.08$.


# %% tags=["exercise"]
def my_text_logprob(logits, tokens, mask):
    """log π of whole texts: [B, T, V], [B, T], [B, T] -> [B]."""
    ### BEGIN SOLUTION
    logprobs = logits.log_softmax(-1).gather(-1, tokens[..., None]).squeeze(-1)
    return torch.where(mask, logprobs, 0.0).sum(1)
    ### END SOLUTION


# %%
my_text_logprob = check("03.4", my_text_logprob)

# %% [markdown]
# Now build that MDP: horizon 1, and an action for each of the 7,381 reviews of up to four words that can follow
# "awful". Its policy is no new one: it is the token policy's $\log\pi(y)$ on every button.

# %%
task = reviews.micro_mdp(horizon=4)  # token-level: 10 actions, up to 4 of them, score at the end, γ = 1
texts, mask = mdp.enumerate_episodes(task)
table = models.TablePolicy(task).double()
torch.nn.init.normal_(table.logits, generator=runs.generator(0))

names = tuple(" ".join(task.actions[w] for w in text[taken]) for text, taken in zip(texts, mask, strict=True))
scores = task.reward(texts, mask).double()
one_step = mdp.TokenMDP(names, horizon=1, reward=lambda chosen, _: scores[chosen[:, 0]])


def big_button(chosen):
    """The same policy on whole reviews: [N, 1] -> [N, 1, 7381]."""
    return my_text_logprob(table(texts), texts, mask).expand(len(chosen), 1, -1)


print(f"{len(names):,} buttons, such as {names[5000]!r} and {names[7000]!r}")
print(f"their probabilities add up to {big_button(texts[:1, :1]).exp().sum():.12f}")

# %% [markdown]
# *Predict: the same policy in two MDPs, one of 820 states with 10 actions, one of a single state with 7,381. Which of
# $J$ and $\nabla J$ agree?*

# %%
rows, gradients = [], {}
for name, game, policy in [("token-level", task, table), ("one-step", one_step, big_button)]:
    value = mdp.exact_objective(game, policy)
    (gradients[name],) = torch.autograd.grad(value, table.logits)
    states = len(mdp.exact_values(game, policy).states)
    rows.append((name, states, len(game.actions), game.horizon, value.item(), gradients[name].norm().item()))
show.table(rows, ["MDP", "states", "actions", "horizon", "J", "length of ∇J"])
gap = (gradients["token-level"] - gradients["one-step"]).abs().max().item()
print(f"largest difference between the gradients, over {table.logits.numel():,} weights: {gap:.1e}")
assert abs(rows[0][4] - rows[1][4]) < 1e-12 and gap < 1e-12

# %% [markdown]
# Both, to rounding error. So section 2 applies to reviews as it stands: $\nabla J = \mathbb{E}\big[\nabla\log\pi(y)\,
# R(y)\big]$. The price is hidden in the second row: as a bandit the problem has one state and nothing in between.
# Nobody can ask what half a review is worth.
#
# ## 5 · One sample, two MDPs
#
# Equal means are one thing. Now draw **one** review, from a real network this time (a one-layer transformer), and let
# two programs compute its gradient. The first sees up to four decisions, each with its return to follow; the second
# sees one.


# %%
def token_level_gradient(policy, weights, text, taken):
    """Σ_t v_t ∇log π(y_t|s_t), with v_t the rewards from word t on."""
    rewards = mdp.episode_rewards(task, text, taken)  # 0, …, 0, score
    v = estimators.reward_to_go(rewards, taken, gamma=1.0)
    logprobs = mdp.action_logprobs(task, policy, text, taken)  # a number a word
    return torch.autograd.grad((v * logprobs).sum(), weights)


def one_step_gradient(policy, weights, text, taken):
    """R(y) ∇log π(y)."""
    score = task.reward(text, taken)
    logprob = mdp.action_logprobs(task, policy, text, taken).sum(1)  # one number a text, as in exercise 03.4
    return torch.autograd.grad((score * logprob).sum(), weights)


# %% [markdown]
# *Predict the largest difference between the two, over all weights of the network: about 1? about 0.01? rounding
# error? exactly 0?*

# %%
network = models.load_model("micro")
policy, weights = models.as_policy(network, "awful", task), list(network.parameters())
rows = []
for seed in range(6):
    text, taken = mdp.sample_episodes(task, policy, 1, runs.generator(seed))
    many, one = (f(policy, weights, text, taken) for f in (token_level_gradient, one_step_gradient))
    many, one = (torch.cat([g.flatten() for g in gs]) for gs in (many, one))
    words_drawn = " ".join(["awful", *(task.actions[w] for w in text[taken])])
    lengths, gap = (many.norm().item(), one.norm().item()), (many - one).abs().max().item()
    rows.append((words_drawn, task.reward(text, taken).item(), *lengths, gap))
    assert torch.equal(many, one)
columns = ["one sample", "R", "length, token-level", "length, one-step", "largest difference"]
show.table(rows, columns, formats={"largest difference": "g"})
print(f"over {len(many):,} weights each")

# %% [markdown]
# **Exactly 0**, not rounding error. Look at the line `v = …`: with one reward at the end and $\gamma = 1$, every
# word's return to follow is $R$, and $\sum_t R\, \nabla\log\pi(y_t|s_t) = R\, \nabla \sum_t \log\pi(y_t|s_t)$. It is
# the same multiplication, done in the same order. Nothing depended on the network or on the draw:

# %%
v = estimators.reward_to_go(mdp.episode_rewards(task, texts, mask), mask, gamma=1.0)
same = (v == torch.where(mask, task.reward(texts, mask)[:, None], 0.0)).all(1)
print(f"{same.sum():,} of {len(texts):,} reviews have the weight R on every one of their words")
assert same.all()

# %% [markdown]
# So the lecture's claim holds in the strongest sense: *"equivalent to the step-wise MDP with many tokens but just set
# discount to 1"*, for $J$, for $\nabla J$, **and for every single sample**. Two consequences:
#
# - To call the words actions changes nothing by itself: no less noise, no finer credit. In "awful but very great"
#   the words "very" and "great" get the same weight.
# - What is "made much better with more granular formulations", as the lecture says later, comes from using the states
#   in between: a baseline for each (lesson 05), a critic (06), rewards on the way.
#
# ## 6 · When a discount matters
#
# "Just set discount to 1". Is that needed? With a score at the end, a review of $T$ words returns
# $\gamma^{T-1} R(y)$ in the token-level MDP (lesson 01), and its own gradient is $\gamma^{T-1} R(y) \nabla\log\pi(y)$.
#
# **Exercise 03.5 · Where a discount matters** (predict · difficulty ●●○○○ · importance ●●●●○ · 4 min)
#
# Take $\gamma < 1$ and a score at the end. Two token-level MDPs: in one, a review is over at its end token, or after
# $K$ words; in the other, it always has exactly $K$ words. In which of them does $\nabla J$ point in **another
# direction** than the one-step MDP's? One of
#
# - `"both of them"`
# - `"only the one with an end token"`
# - `"only the one of fixed length"`
# - `"neither"`

# %% tags=["exercise"]
prediction = (
    ### BEGIN SOLUTION
    "only the one with an end token"
    ### END SOLUTION
)

# %%
prediction = check("03.5", prediction)

# %% [markdown]
# The next cells compute the answer, and add two cases: a score that is *paid* at step $K$, no matter when the review
# ended, and a meter that pays each word the change that it makes to the score. The policies are random tables. Look
# at the column "cosine of the two ∇J"; the last column belongs to the box below.


# %%
def meter(tokens, mask):
    """The change of the score with each word, [N, 4]; it adds up to the score's change since the opening."""
    so_far = [reviews.micro_score(tokens, mask & (torch.arange(4) < k), ("awful",)) for k in range(5)]
    return torch.stack(so_far, 1).diff(dim=1)


def up_to_the_full_stop(tokens, mask):
    """The score of what stands before the first full stop; what follows is written but not read."""
    stops = (tokens == task.eos).long()
    return reviews.micro_score(tokens, stops.cumsum(1) - stops == 0, ("awful",))


cases = {  # reward, end token
    "score at the end, end token": (task.reward, task.eos),
    "score at the end, always 4 words": (task.reward, None),
    "end token, paid after step 4": (up_to_the_full_stop, None),
    "meter, always 4 words": (meter, None),
}


# %%
def solve(reward, eos, gamma):
    """For a random policy: J, ∇J, and the exact means of G ∇log π(y) and of Σ v_t ∇log π(y_t|s_t)."""
    game = mdp.TokenMDP(task.actions, 4, reward, gamma, eos)
    table = models.TablePolicy(game).double()
    torch.nn.init.normal_(table.logits, generator=runs.generator(0))
    value, (texts, mask) = mdp.exact_objective(game, table), mdp.enumerate_episodes(game)
    logprobs, r = mdp.action_logprobs(game, table, texts, mask), mdp.episode_rewards(game, texts, mask, torch.float64)
    v = estimators.reward_to_go(r, mask, gamma)
    p = logprobs.sum(1).exp().detach()  # of each text
    sums = value, p @ (v[:, 0] * logprobs.sum(1)), p @ (v * logprobs).sum(1)
    gradients = [torch.autograd.grad(each, table.logits, retain_graph=True)[0].flatten() for each in sums]
    return value.item(), *gradients


# %%
gamma, rows = 0.5, []
for name, (reward, eos) in cases.items():
    J_one, one, _, _ = solve(reward, eos, gamma=1.0)  # the one-step MDP adds up what is paid, at once
    J_many, many, sampled, without = solve(reward, eos, gamma)
    cosines = (cosine(one, g, dim=0).item() for g in (many, without))
    rows.append((name, J_one, J_many, (many.norm() / one.norm()).item(), *cosines))
    assert torch.allclose(sampled, many, rtol=0, atol=1e-12)
columns = ["γ = 0.5", "J, one-step", "J, token-level", "ratio of lengths of ∇J", "cosine of the two ∇J", "without γ^t"]
show.table(rows, columns)
turned = [row[4] < 0.95 for row in rows]
assert turned == [True, False, False, True]
for row in rows[1:3]:
    assert abs(row[3] - gamma**3) < 1e-9 and abs(row[4] - 1) < 1e-9 and abs(row[2] - gamma**3 * row[1]) < 1e-6
    assert row[5] < 0.95

# %% [markdown]
# - **Fixed payday** (rows 2 and 3): every return is multiplied by the same $\gamma^{K-1} = 0.125$, and so is
#   $\nabla J$. It only rescales; a larger learning rate undoes it.
# - **The payday depends on the text** (row 1): each text's own gradient keeps its direction, but gets its own factor
#   $\gamma^{T-1}$. A mean of arrows of which some are shortened more than others *turns*.
# - **Several paydays** (row 4): early rewards count more than late ones, whatever the length.
#
# And one way out works always: let the big button pay the *discounted* return $G = \sum_t \gamma^t r_t$. Then one-step
# and token-level MDP have the same $J$ and $\nabla J$ at any $\gamma$ (the assertion in the loop). The lecture's
# sentence is right for rewards at the end and $\gamma = 1$; what makes it right is that both MDPs pay the same.
#
# <details><summary>A trap: the last column</summary>
#
# All this is about $\nabla J$. Its exact sampled form has the weight $\gamma^t v_t$ on word $t$, which is $G$ if the
# score comes at the end. Lesson 04's slide, and nearly all code, use $v_t$ alone. Then late words count more, and the
# direction turns even where the payday is fixed: the last column. At $\gamma = 1$ there is nothing to leave out.
#
# </details>
#
# *Predict, then move γ: after "awful", which first word loses most when there is a discount?*

# %%
plain = {}  # ∇J by the first word's ten weights, for the blind policy; the whole gradient has length 1
for g in (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3):
    for eos in (task.eos, None):
        game = mdp.TokenMDP(task.actions, 4, task.reward, g, eos)
        even = models.TablePolicy(game).double()
        (gradient,) = torch.autograd.grad(mdp.exact_objective(game, even), even.logits)
        plain[g, eos] = gradient.flatten() / gradient.norm()


@show.style()
def draw_first_words(gamma):
    fig, axes = show.new_figure(panels=2, size=(10, 3.4))
    for ax, eos, name in zip(axes, (task.eos, None), ("end token", "always 4 words"), strict=True):
        one, many = plain[1.0, eos], plain[gamma, eos]
        ax.bar(task.actions, many[:10], color="#2b7fbf", label=f"token-level, γ = {gamma:g}")
        ax.plot(task.actions, one[:10], "D", color="#d55e00", markersize=6, label="one-step")
        ax.set_title(f"{name}: cosine {one @ many:.3f}", loc="left")
        ax.set_ylim(-1.0, 0.8)
        ax.tick_params(axis="x", rotation=45)
    axes[0].set_ylabel("∂J/∂θ, rescaled")
    axes[1].legend(loc="lower right")
    return fig


# %%
show.slider_figure(
    draw_first_words,
    alt=lambda gamma: (
        f"Push on each first word at γ = {gamma:g}: with an end token the full stop falls further below "
        "the one-step value as γ falls; at fixed length nothing changes."
    ),
    labels={"gamma": "γ"},
    gamma=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
)

# %% [markdown]
# The full stop. Most of what can follow "awful" is bad, and a bad score hurts less the later it comes: *keep talking*.
# At $\gamma = 0.5$ all nine other words are pushed up, "awful" included. After a good opening it is the other way
# round, *stop while it is good*. How much of the gradient is about length alone? Compare it with the gradient of the
# expected length $\mathbb{E}[T]$.

# %%
rows = []
for opening in ("awful", "good"):
    found = {}
    for g in (1.0, 0.5):
        game = reviews.micro_mdp(horizon=4, gamma=g, opening=(opening,))
        even = models.TablePolicy(game).double()
        length = mdp.state_distribution(game, even).sum()  # E[T]: each word adds one state visited
        (longer,) = torch.autograd.grad(length, even.logits)
        (up,) = torch.autograd.grad(mdp.exact_objective(game, even), even.logits)
        found[g] = cosine(up.flatten(), longer.flatten(), dim=0).item()
    rows.append((opening, *found.values()))
columns = ["opening", "cosine of ∇J with ∇E[T], γ = 1", "the same, γ = 0.5"]
show.table(rows, columns, formats=dict.fromkeys(columns[1:], "+.3f"))
assert rows[0][2] > 0.95 > rows[0][1] and rows[1][2] < -0.95 < rows[1][1]
assert (plain[0.5, task.eos][:9] > 0).all() and not (plain[1.0, task.eos][:9] > 0).all()

# %% [markdown]
# At $\gamma = 0.5$ the policy is told little else than to write more, or less. A good reason to take $\gamma = 1$ for
# RLHF on text: a discount is a second objective, about length, that nobody asked for.
#
# **Exercise 03.6 · Where the gradient turns round** (derive · difficulty ●●●○○ · importance ●●●○○ · 10 min)
#
# A policy knows two endings: with probability $p = \sigma(\theta) = 1/(1 + e^{-\theta})$ a long, better one, with
# `t_long` words and the score `r_long`; else a short one, `t_short` and `r_short` (both scores positive,
# `r_long > r_short`). At $\gamma = 1$, $dJ/d\theta > 0$. Derive the $\gamma$ below which it is negative.


# %% tags=["exercise"]
def turning_point(r_long, t_long, r_short, t_short):
    """The γ at which dJ_γ/dθ = 0; scores come with the last word."""
    ### BEGIN SOLUTION
    return (r_short / r_long) ** (1 / (t_long - t_short))
    ### END SOLUTION


# %%
turning_point = check("03.6", turning_point)

# %% [markdown]
# Confirmed on two reviews that begin with "good": stop at once (score 2), or go on with "but very very great" (score
# 4). The curve is $dJ_\gamma/d\theta$ at $\theta = 0$, by automatic differentiation.

# %%
endings = torch.tensor([[8, 5, 5, 0], [9, 9, 9, 9]])  # "but very very great" and "."
taken = torch.tensor([[True] * 4, [True, False, False, False]])
slopes, gammas = [], [i / 100 for i in range(20, 101)]
for g in gammas:
    returns = mdp.episode_returns(reviews.micro_mdp(gamma=g, opening=("good",)), endings, taken, torch.float64)
    theta = torch.zeros((), dtype=torch.float64, requires_grad=True)
    J_two = theta.sigmoid() * returns[0] + (1 - theta.sigmoid()) * returns[1]
    slopes.append(torch.autograd.grad(J_two, theta)[0].item())
turn = turning_point(4.0, 4, 2.0, 1)
fig = show.curves({"dJ/dθ": (gammas, slopes)}, "γ", "dJ/dθ", f"turns round at γ = {turn:.3f}", size=(7, 2.8))
fig.axes[0].axhline(0, color="#000000", linewidth=0.8)
fig.axes[0].axvline(turn, color="#d55e00", linestyle="--")
show.figure(fig, alt=f"The slope of J rises with γ and crosses 0 at γ = {turn:.3f}.")
assert all((slope > 0) == (g > turn) for g, slope in zip(gammas, slopes, strict=True))

# %% [markdown]
# ## 7 · The price of sampling
#
# One sample's $g = R(y)\,\nabla\log\pi(y)$ has the right mean, and is mostly noise. A mean of $N$ independent ones has
# the squared error
#
# $$\mathbb{E}\,\big\|\hat g_N - \nabla J\big\|^2 = \frac{\sigma^2}{N}, \qquad
# \sigma^2 = \mathbb{E}\|g\|^2 - \|\nabla J\|^2 ,$$
#
# and at micro scale $\sigma$, the spread of a single sample (no sigmoid this time), can be computed exactly. We sample
# in the way that every algorithm of this course will, through a surrogate, and for two scales of the same score: from
# −4 to 4, and in stars from 1 to 9 (5 more).
#
# *Predict: how long is the error at $N = 1{,}000$, compared with* $\nabla J$*? And what will the stars change: the
# gradient, the error, or the rate at which it falls?*


# %%
def sampled_gradient(game, policy, n, seed):
    """The mean of R ∇log π over n sampled reviews."""
    texts, mask = mdp.sample_episodes(game, policy, n, runs.generator(seed, n))
    logp, R = mdp.action_logprobs(game, policy, texts, mask).sum(1), mdp.episode_returns(game, texts, mask)
    return torch.autograd.grad(-my_surrogate(logp, R), policy.logits)[0]


# %%
def exact_sigma(game, policy):
    """∇J and the root of E‖g‖² − ‖∇J‖²; the words' scores lie in different rows of the table, so squares add."""
    texts, mask = mdp.enumerate_episodes(game)
    with torch.no_grad():
        log_pi = policy(texts)
        p_word, rest = log_pi.gather(-1, texts[..., None])[..., 0].exp(), log_pi.exp().square().sum(-1)
        squares = torch.where(mask, 1 - 2 * p_word + rest, 0.0).sum(1)  # ‖∇log π(y)‖², [N]
        p = torch.where(mask, p_word, 1.0).prod(1)
    (exact,) = torch.autograd.grad(mdp.exact_objective(game, policy), policy.logits)
    second = p @ (mdp.episode_returns(game, texts, mask, torch.float64).square() * squares)
    return exact, (second - exact.square().sum()).sqrt().item()


# %%
stars = mdp.TokenMDP(task.actions, 4, lambda texts, mask: task.reward(texts, mask) + 5, eos=task.eos)
even, sizes, seeds = models.TablePolicy(task).double(), [10, 32, 100, 316, 1_000, 3_162, 10_000], range(8)
log_n = torch.tensor(sizes).log()
measured, sigma, slopes = {}, {}, {}
for name, game in {"score −4 … 4": task, "stars 1 … 9": stars}.items():
    exact, sigma[name] = exact_sigma(game, even)
    errors = [[(sampled_gradient(game, even, n, seed) - exact).norm().item() for n in sizes] for seed in seeds]
    measured[name] = torch.tensor(errors)  # [seed, N]
    centred = (log_n - log_n.mean()) / (log_n - log_n.mean()).square().sum()
    slopes[name] = (measured[name].log() @ centred).tolist()  # of a straight line through each seed's points
    show_slope = "{:.3f} (95 % interval over 8 seeds {:.3f} to {:.3f})".format(*runs.mean_interval(slopes[name]))
    print(f"{name}: ‖∇J‖ = {exact.norm():.4f}, σ = {sigma[name]:.3f}, fitted slope {show_slope}")
    print(f"    error at N = 1,000: {sigma[name] / 1_000**0.5 / exact.norm():.0%} of the length of ∇J")
    rms = measured[name].square().mean(0).sqrt() * torch.tensor(sizes).sqrt() / sigma[name]
    assert abs(runs.mean_interval(slopes[name])[0] + 0.5) < 0.05 and ((rms - 1).abs() < 0.25).all()


# %%
@show.style()
def draw_errors():
    fig, ax = show.new_figure("reviews N", "length of the error", size=(7, 4))
    for (name, errors), colour, marker, dash in zip(measured.items(), ("#2b7fbf", "#d55e00"), "os", "-:", strict=True):
        for errors_of_a_seed in errors:
            ax.plot(sizes, errors_of_a_seed, marker, color=colour, markersize=4, alpha=0.5)
        ax.plot(sizes, sigma[name] / torch.tensor(sizes).sqrt(), dash, color=colour, label=f"{name}: exact σ/√N")
    ax.axhline(exact.norm().item(), color="#000000", linestyle="--", linewidth=1.2, label="length of ∇J, both")
    ax.set(xscale="log", yscale="log")
    ax.legend(loc="lower left")
    return fig


show.figure(
    draw_errors(),
    alt="On log-log axes the errors of 8 seeds lie on two parallel lines of slope −1/2; the stars' line is about "
    "twice as high. Both cross the length of the gradient, between 100 and 1,000 reviews.",
)

# %% [markdown]
# - **The slope is −½**, for any reward: half the error costs four times the reviews. No algorithm of this course
#   changes that.
# - **The height is σ**, and that can be changed. Five stars more move $J$ by a constant and $\nabla J$ not at all, and
#   yet the noise more than doubles. So what would *subtracting* something do? That is lesson 05.
# - Above the dashed line the error is longer than the gradient. A batch of 16 reviews is mostly noise. Training works
#   all the same, because noise averages out over many small steps, too.
#
# **Exercise 03.7 · Texts for a step** (experiment · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# Find an $N$ at which the sampled gradient of the blind policy (score −4 … 4) has a cosine of at least 0.9 with
# $\nabla J$ on at least 19 of 20 new seeds, with no more than 2,000 reviews. Try it in a cell of your own
# (`sampled_gradient(task, even, N, seed)`), or think: the error is nearly at right angles to $\nabla J$. Then say how
# confident you are, before you ask.

# %% tags=["exercise"]
texts_for_a_step = (
    ### BEGIN SOLUTION
    1_400
    ### END SOLUTION
)

# %%
texts_for_a_step = check("03.7", texts_for_a_step)

# %% [markdown]
# ## What to take along
#
# - $\nabla\pi = \pi\,\nabla\log\pi$ turns the gradient of an average into an average: $\nabla J = \mathbb{E}[r\,
#   \nabla\log\pi(a|s)]$. It asks of the reward nothing but its value.
# - In code: push up the log-probability of what was drawn, times its reward. $\pi$ in place of $\log\pi$ is silently
#   wrong.
# - A text is one action with $\log\pi(y) = \sum_t \log\pi(y_t|s_t)$. With $\gamma = 1$ and a score at the end, the
#   one-step and the token-level gradient are the same for every single sample.
# - $\gamma < 1$ only rescales when the payday is fixed; where the text decides when it is paid, $\nabla J$ turns
#   towards length.
# - The error is $\sigma/\sqrt N$. The slope cannot be changed; σ can.
#
# | the lecture's equation | where it is computed |
# |---|---|
# | $\nabla_\theta J = (\partial J/\partial\theta_1, \dots)$ | section 1, `nudge_every_weight` |
# | gradient *descent* (slip: ascent) | section 1, "Up or down?" |
# | $J = \mathbb{E}[r] = \sum_s d(s) \sum_a \pi R_{s,a}$ | section 1, `J` |
# | $\nabla J = \sum_s d \sum_a \pi\, \nabla\log\pi\, R$ (and the garbled line) | section 2, table of lines |
# | $\nabla J = \mathbb{E}[\nabla\log\pi\; r]$ | section 3 (sampled), section 6 (`sampled`, its exact mean) |
# | sequence = a singular action | section 4, `one_step` |
# | equivalent to many tokens with discount 1 | sections 5 (every sample) and 6 (which discounts) |

# %%
quiz(
    "What must you know about the reward to estimate ∇J with likelihood ratios?",
    {
        "Its derivative by the words": "No: words are not continuous, and a person's label has no derivative.",
        "Its value at the samples drawn": "Yes. All differentiation is done on log π, which we own.",
        "Its value for every possible text": "That would be the exact sum. Sampling replaces it.",
    },
    correct="Its value at the samples drawn",
)
quiz(
    "All rewards are positive. Does every word become likelier, on average over what is drawn?",
    {
        "Yes, each sample is pushed up": "Each is pushed up when it is drawn, but the others are pushed down then, and "
        "the better ones push harder.",
        "No: on average, only those better than the policy's average": "That is the bracket of section 1. On average "
        "over draws, a common shift of all rewards does nothing.",
        "No, positive rewards do nothing": "A shift does nothing on average; differences between rewards do.",
    },
    correct="No: on average, only those better than the policy's average",
)

# %%
quiz(
    "γ = 1, one score at the end. Someone replaces the one-step gradient by the token-level one, with each word's "
    "return to follow. What happens to the variance?",
    {
        "It falls: credit is finer": "Each word's return to follow is the same number, the score.",
        "Nothing: each sample's gradient is the same": "Difference exactly 0, section 5.",
        "It rises: there are more actions": "There are more factors in one log-probability, the same sum.",
    },
    correct="Nothing: each sample's gradient is the same",
)
quiz(
    "A text MDP with an end token is trained at γ = 0.9, with a score at the end. What does the discount do?",
    {
        "It only makes the gradient shorter": "That is so where the payday is fixed. Here the text decides its T.",
        "It rewards short good texts and long bad ones": "Each text gets γ^(T−1): the mean turns towards length.",
        "It makes early words count more": "With a score at the end every word of a text has the same share in it.",
    },
    correct="It rewards short good texts and long bad ones",
)

# %% [markdown]
# **Next:** [04 · The policy gradient theorem and REINFORCE](04_policy_gradient_and_reinforce.ipynb). The words of a
# text, one by one: what is each of them worth, and what happens when this gradient meets a real language model?
