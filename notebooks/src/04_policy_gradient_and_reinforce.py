# %% [markdown]
# # 04 · The policy gradient theorem and REINFORCE
#
# **The question.** A review has many words and earns one score. Which of its words should become likelier, and by how
# much?
#
# **You will** check the policy gradient theorem number for number; write REINFORCE and find out what is exact about
# it and what is not; measure why a word should not be paid for what came before it; let REINFORCE loose on a language
# model until gibberish wins; and see what becomes of a policy that is paid by the word.
#
# | | |
# |---|---|
# | You need | lessons 01 (states, actions, returns), 02 ($V$ and $Q$) and 03 ($\nabla\log\pi$, the likelihood ratio) |
# | Reading | 40 minutes, and 50 for the exercises |
# | Run time | about 50 s on 2 cores, most of them for section 5; the first time 25 s more, to train the SFT policy |
# | A GPU | shortens section 5 only |

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# ## 1 · From one word to many
#
# With one word and one reward, lesson 03 found $\nabla J = \mathbb{E}[\nabla\log\pi(a)\, r]$. With many words, θ
# decides three things at once: each word, all the words that follow it, and which partial texts are ever reached.
# Differentiate through all that? The **policy gradient theorem** (Sutton et al. 2000) says that one change is enough:
# put the long-term value $Q$ where the reward was.
#
# $$\nabla J(\theta) = \sum_s d(s) \sum_a \pi(a \mid s)\, \nabla\log\pi(a \mid s)\, Q(s, a),
# \qquad d(s) = \gamma^{|s|}\, P(s)$$
#
# A state $s$ is the text so far and $|s|$ its number of words; $P(s)$ is the probability that an episode passes
# through it; $Q(s, a)$ is the expected return from there on, after word $a$, and $V(s)$ the same before a word is
# chosen. This is for the **start-state objective** $J = V(s_0)$, the one that we use for language.
#
# > **Predict before you run.** On the right, only $\log\pi$ is differentiated. But $d$ and $Q$ depend on θ too. Is
# > something missing?

# %% [markdown]
# **Why it holds.** Take $V(s) = \sum_a \pi(a|s)\, Q(s,a)$ with $Q(s,a) = r(s,a) + \gamma V(s{\cdot}a)$, where
# $s{\cdot}a$ is the text with one more word. The product rule gives
#
# $$\nabla V(s) = \sum_a \nabla\pi(a|s)\, Q(s,a) \;+\; \gamma \sum_a \pi(a|s)\, \nabla V(s{\cdot}a).$$
#
# The last term is the left-hand side again, one word later. Put the formula into itself until the texts end: text
# $s$ comes up with probability $P(s)$ and, $|s|$ words after the start, with a factor $\gamma^{|s|}$. So
# $\nabla J = \nabla V(s_0) = \sum_s \gamma^{|s|} P(s) \sum_a \nabla\pi(a|s)\, Q(s,a)$, and
# $\nabla\pi = \pi\,\nabla\log\pi$. Nothing is missing: how θ moves $d$ and $Q$ is what the recursion has collected.
#
# Two policies for the micro language will confirm it. One is a table with its own row of numbers for each partial
# text; the other is a one-layer transformer, in which all partial texts share their weights.

# %%
torch.manual_seed(0)
task = reviews.micro_mdp(horizon=4)  # ten words, go on from "awful" with at most 4 of them
table = models.TablePolicy(task).double()
torch.nn.init.normal_(table.logits)
network = models.load_model("micro", dtype=torch.float64)
policies = {
    "table": (table, [table.logits]),
    "transformer": (models.as_policy(network, "awful", task), list(network.parameters())),
}

# %% [markdown]
# The right-hand side of the theorem, written down as it stands:


# %%
def theorem(task, policy, weights, gamma_to_the_t=True):
    """Σ_s d(s) Σ_a π(a|s) ∇log π(a|s) Q(s, a), all weights' gradients in one vector."""
    values = mdp.exact_values(task, policy)
    q, states = values.q, values.states
    lengths = torch.tensor([len(s) for s in states])
    texts = torch.tensor([s + (0,) * (task.horizon - len(s)) for s in states])
    log_pi = policy(texts)[torch.arange(len(states)), lengths]  # log π(·|s) of every state, [S, A]
    d = mdp.state_distribution(task, policy)  # P(s)
    if gamma_to_the_t:
        d = task.gamma ** lengths.double() * d
    held_fixed = (d[:, None] * log_pi.exp() * q).detach()  # d, π and Q: numbers, not functions of θ
    return torch.cat([g.flatten() for g in torch.autograd.grad((held_fixed * log_pi).sum(), weights)])


# %% [markdown]
# And the left-hand side: `mdp.exact_objective` adds up probability times return over all 7,381 texts, and
# automatic differentiation goes through everything. The last column leaves $\gamma^{|s|}$ out of $d$.

# %%
rows = []
for gamma in (1.0, 0.5):
    task = reviews.micro_mdp(horizon=4, gamma=gamma)
    for name, (policy, weights) in policies.items():
        exact = torch.autograd.grad(mdp.exact_objective(task, policy), weights)
        exact = torch.cat([g.flatten() for g in exact])
        gap = (theorem(task, policy, weights) - exact).abs().max().item()
        without = ((theorem(task, policy, weights, gamma_to_the_t=False) - exact).norm() / exact.norm()).item()
        rows.append((name, gamma, len(exact), exact.norm().item(), gap, without))
        assert gap < (1e-9 if name == "table" else 1e-6)  # Hugging Face's norm layers compute in float32
        assert without < 1e-6 if gamma == 1 else without > 0.01
columns = ["policy", "γ", "parameters", "length of ∇J", "largest difference", "error without γ^|s|"]
show.table(rows, columns, formats={"γ": "g", "largest difference": ".1e", "error without γ^|s|": ".0%"})

# %% [markdown]
# Equal to rounding error, for thousands of parameters (float64 in the table; the transformer's layers round to
# float32 on the way). And $\gamma^{|s|}$ is no decoration: at γ < 1 a direction
# without it is not $\nabla J$. Keep that in mind for the next section.

# %% [markdown]
# ## 2 · REINFORCE
#
# Nobody can list all texts of a real language model. But the theorem is a sum over states weighted by the probability
# to visit them, and over actions weighted by the probability to take them: an **expectation**, so sample it. And $Q$?
# The return that followed, $v_t = \sum_{k \ge t} \gamma^{k-t} r_k$, has mean $Q(s_t, a_t)$: an unbiased sample. That is
# Monte Carlo policy gradient, **REINFORCE** (Williams 1992). The lecture's slide:
#
# > Initialise θ arbitrarily<br>
# > for each episode $\{s_1, a_1, r_2, \dots, s_{T-1}, a_{T-1}, r_T\} \sim \pi_\theta$ do<br>
# > &emsp; for $t = 1$ to $T-1$ do<br>
# > &emsp;&emsp; $\theta \leftarrow \theta + \alpha\, \nabla_\theta \log\pi_\theta(s_t, a_t)\, v_t$
#
# (The slide counts from 1, and $r_{t+1}$ is what $a_t$ earns. Here $t$ starts at 0, and $a_t$ earns $r_t$.)
# First you need $v_t$, the **reward-to-go**.

# %% [markdown]
# **Exercise 04.1 · Reward-to-go** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# Given `rewards` and `mask` `[B, T]`, return $v_t = \sum_{k \ge t} \gamma^{k-t} r_k$ for every word, `[B, T]`. Episodes
# are right-padded: where `mask` is False there is no word, `rewards` may hold anything, and the result is 0. By hand,
# at γ = 0.5: rewards `[1, 0, 4]`, all words, give `[2, 2, 4]`.


# %% tags=["exercise"]
def my_reward_to_go(rewards, mask, gamma):
    """What each word was followed by, its own reward included: [B, T]."""
    ### BEGIN SOLUTION
    rewards, returns = torch.where(mask, rewards, 0.0), torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        running = rewards[:, t] + gamma * running
        returns[:, t] = running
    return torch.where(mask, returns, 0.0)
    ### END SOLUTION


# %%
my_reward_to_go = check("04.1", my_reward_to_go)

# %% [markdown]
# (The library's is `estimators.reward_to_go`.)
#
# **Is the slide's update the gradient?** Compare it with $\nabla J$ exactly, over all texts. The policy is the
# simplest with shared weights: *one* softmax over the ten words, the same at every position. It has learnt to like
# "great", and to stop; the review starts from nothing, and γ = 0.5. Three candidates for the weight of
# $\nabla\log\pi(a_t|s_t)$:
#
# 1. $\gamma^t v_t$, which is what the theorem says,
# 2. $v_t$, as on the slide,
# 3. the whole discounted return $\sum_k \gamma^k r_k$, the same for every word of a text.
#
# > **Predict before you run.** Which of the three have $\nabla J$ as their mean?

# %%
task = reviews.micro_mdp(horizon=4, gamma=0.5, opening=())
words, mask = mdp.enumerate_episodes(task)
r = mdp.episode_rewards(task, words, mask, torch.float64)
v = my_reward_to_go(r, mask, task.gamma)
discount = task.gamma ** torch.arange(4, dtype=torch.float64)  # γ^t
candidates = {"γ^t · v_t": discount * v, "v_t (slide)": v, "whole return": (discount * r).sum(1)[:, None] * mask}


def one_softmax(theta):
    """The policy that draws every word from the same ten numbers."""
    return lambda texts: theta.log_softmax(-1).expand(*texts.shape, -1)


def score(theta, words, mask):
    """∇log π(a_t) for every word of every text, [N, T, 10]: 1 for the word drawn, minus its probability."""
    return (torch.nn.functional.one_hot(words, 10) - theta.softmax(-1)) * mask[..., None]


# %%
blind = torch.zeros(10, dtype=torch.float64)
theta = blind.clone()
theta[0], theta[task.eos] = 3.0, 2.3  # half of its words are "great", a quarter full stops
free = theta.clone().requires_grad_()
(exact,) = torch.autograd.grad(mdp.exact_objective(task, one_softmax(free)), free)
p = mdp.action_logprobs(task, one_softmax(theta), words, mask).sum(1).exp()  # probability of each text

rows, cosine = [], torch.nn.functional.cosine_similarity
for name, weight in candidates.items():
    mean = p @ (weight[..., None] * score(theta, words, mask)).sum(1)  # Σ_texts p · Σ_t weight · ∇log π
    rows.append((name, ((mean - exact).norm() / exact.norm()).item(), cosine(mean, exact, dim=0).item()))
show.table(rows, ["weight", "error of the mean, relative to ∇J", "cosine with ∇J"], formats={"cosine with ∇J": ".3f"})
errors = [error for _, error, _ in rows]
assert errors[0] < 1e-9 and errors[2] < 1e-9 and errors[1] > 1 and rows[1][2] < 0.7

# %% [markdown]
# Two are exact; the slide's is not: it **leaves out $\gamma^t$**, and is wrong in length and in direction. (For a
# policy that draws blindly it is too long, but nearly right in direction: try `blind` in place of `theta`.) Sampling
# cannot repair that. Draw more and more episodes: the error of an unbiased estimate falls as $1/\sqrt N$ for ever, that
# of a biased one gets stuck at its bias.


# %%
def sampled_error(name, n, seed):
    """Relative error of the mean over n sampled episodes."""
    texts, taken = mdp.sample_episodes(task, one_softmax(theta), n, runs.generator(seed, n))
    returns = estimators.reward_to_go(mdp.episode_rewards(task, texts, taken, torch.float64), taken, task.gamma)
    weight = returns * discount if name == "γ^t · v_t" else returns
    mean = (weight[..., None] * score(theta, texts, taken)).sum(1).mean(0)
    return ((mean - exact).norm() / exact.norm()).item()


sizes, both = [100, 1_000, 10_000, 30_000], ("γ^t · v_t", "v_t (slide)")
lines = {name: (sizes, [[sampled_error(name, n, seed) for n in sizes] for seed in range(8)]) for name in both}
fig = show.loglog(lines, "episodes N", "relative error", slope=-0.5)
show.figure(fig, alt="With γ^t the error falls with slope −1/2; without it, it stays at its bias, above 1.")
last = {name: torch.tensor(curves).mean(0)[-1].item() for name, (_, curves) in lines.items()}
assert last["γ^t · v_t"] < 0.1 < 0.5 < last["v_t (slide)"]

# %% [markdown]
# So what does the slide's version prefer? Work out the weights for one text.

# %% [markdown]
# **Exercise 04.2 · Who gets the credit?** (predict · difficulty ●●○○○ · importance ●●●●○ · 5 min)
#
# A review of three words earns 1 with its third word and nothing before. γ = 0.5. Which weights does the slide's
# REINFORCE give the three words? Answer with three numbers, `(first, second, third)`.

# %% tags=["exercise"]
credit = (
    ### BEGIN SOLUTION
    0.25,
    0.5,
    1.0,
    ### END SOLUTION
)

# %%
credit = check("04.2", credit)


# %% [markdown]
# Now move γ. The text is the best answer to "awful"; both rows are shares of its final score.


# %%
def credit_figure(gamma):
    text = ["but", "very", "very", "great"]
    slide = [gamma ** (len(text) - 1 - t) for t in range(len(text))]
    exact = [gamma**t * share for t, share in enumerate(slide)]
    return show.words_under_sentence(text, {"v_t (slide)": slide, "γ^t · v_t": exact})


show.slider_figure(
    credit_figure,
    alt=lambda gamma: f"At γ = {gamma:g} the slide favours the last words; with γ^t all words get the same credit.",
    labels={"gamma": "γ"},
    gamma=(0.3, 1.0, 0.1, 0.6),
)

# %% [markdown]
# A score at the end belongs to all words alike: to the start of the episode it is worth $\gamma^{T-1}$, whichever word
# earned it. The slide's $v_t$ discounts from each word's own place, and so **favours the last words**.
#
# Does that matter? In a table it only makes the steps uneven, since every partial text has its own row. Where weights
# are shared, early and late words must compromise, and the late ones then win. Climb with both from the blind policy,
# exactly; and, third, start the slide's version from the best that the exact one found.


# %%
def climb(theta, weight, steps, alpha=1.0):
    """J before each of `steps` updates along the mean of weight · ∇log π, and the final θ."""
    js = []
    for _ in range(steps):
        p = mdp.action_logprobs(task, one_softmax(theta), words, mask).sum(1).exp()
        js.append((p @ candidates["whole return"][:, 0]).item())
        theta = theta + alpha * (p @ (weight[..., None] * score(theta, words, mask)).sum(1))
    return js, theta


right, best = climb(blind, candidates["γ^t · v_t"], 150)
slide, _ = climb(blind, candidates["v_t (slide)"], 150)
left, _ = climb(best, candidates["v_t (slide)"], 75)
fig = show.curves(
    {"γ^t · v_t": right, "v_t (slide)": slide, "v_t, from the best": (range(150, 225), left)}, "update", "J"
)
show.figure(
    fig,
    alt="With γ^t, J climbs highest. The slide's version is quicker at first and stops lower; started "
    "from the best policy, it walks down to the same lower level.",
)
assert right[-1] > slide[-1] + 0.05 and left[-1] < left[0] - 0.05

# %% [markdown]
# The slide's update is quick (its steps are longer), stops too low, and **walks downhill from the best policy**: it
# does not follow the gradient of $J$. The late words ask for a full stop as soon as something good has been said, and
# count too much; but the same softmax must write the first word too, where a full stop earns nothing.
#
# In practice, RL for language uses γ = 1, where the question disappears. At γ < 1 nearly all code leaves $\gamma^t$
# out, ours too (`algorithms/reinforce.py`), to spare late words tiny steps. It is a choice; know that you make it.
#
# **The other slip: θ changes in the middle of the episode.** The slide updates after every word. From the second word
# on, $\nabla\log\pi$ is taken at a θ that did not write the text. How wrong is the mean of the whole episode's update?
#
# > **Predict before you run.** Halve the step size α. What happens to the relative error?

# %%
alphas, gaps = [1.0, 0.5, 0.25, 0.125, 0.0625], []
for alpha in alphas:
    moved = theta.expand(len(words), -1).clone()  # a θ of its own for each of the texts
    for t in range(task.horizon):
        moved += alpha * candidates["γ^t · v_t"][:, t, None] * score(moved, words[:, t], mask[:, t])
    mean_step = p @ (moved - theta)
    gaps.append(((mean_step / alpha - exact).norm() / exact.norm()).item())
show.table(list(zip(alphas, gaps, strict=True)), ["α", "relative error of the mean update"], formats={"α": "g"})
assert all(0.4 < small / large < 0.6 for large, small in zip(gaps, gaps[1:], strict=False))

# %% [markdown]
# A bias in proportion to α: it vanishes with the step size, and is large at a large one. There is no reason to have it:
# **finish a batch of episodes, then take one step**. Every implementation does.

# %% [markdown]
# ## 3 · Do not pay a word for the past
#
# The whole return was exact too. Why the trouble with reward-to-go? A word cannot change what was earned before it:
# those rewards add nothing to the mean of its $\nabla\log\pi$, only **noise**.
#
# With a single score at the end and γ = 1 there is nothing before the end: both weights are the same number. So pay
# on the way: put a meter on the wall that shows the score of the text so far, and pay each word the change it makes.
# A whole text then earns its score minus that of the opening, which is the same for all texts and so leaves $\nabla J$
# as it was. The policy is still `theta`; the opening is "awful" again, and γ = 1.
#
# > **Predict before you run.** The variance of the sampled gradient with reward-to-go: a little smaller than with the
# > whole return, about half of it, or a quarter?


# %%
def meter(tokens, mask):
    """The change of the score with each word, [N, K]."""
    so_far = [reviews.micro_score(tokens, mask & (torch.arange(4) < k), ("awful",)) for k in range(5)]
    return torch.stack(so_far, 1).diff(dim=1)


task = mdp.TokenMDP(reviews.MICRO_WORDS, horizon=4, reward=meter, eos=reviews.MICRO_WORDS.index("."))


def gradients(texts, taken):
    """One gradient a text [N, 10], with reward-to-go and with the whole return."""
    r = mdp.episode_rewards(task, texts, taken, torch.float64)
    to_go, ascent = estimators.reward_to_go(r, taken), score(theta, texts, taken)
    return {"reward-to-go": (to_go[..., None] * ascent).sum(1), "whole return": to_go[:, :1] * ascent.sum(1)}


means, variances = {}, {}
for name, g in gradients(words, mask).items():  # exactly, over all texts
    means[name] = p @ g
    variances[name] = (p @ (g - means[name]).square().sum(1)).item()
torch.testing.assert_close(means["reward-to-go"], means["whole return"], rtol=0, atol=1e-9)
assert variances["reward-to-go"] < 0.3 * variances["whole return"]

# %%
measured = {name: [] for name in variances}
for seed in range(8):
    texts, taken = mdp.sample_episodes(task, one_softmax(theta), 2_000, runs.generator(seed))
    for name, g in gradients(texts, taken).items():
        measured[name].append(g.var(0).sum().item())
fig = show.bars(measured, "variance of one text's gradient", exact={f"{n}, exact": v for n, v in variances.items()})
show.figure(
    fig,
    alt="Measured on 8 × 2,000 texts, reward-to-go has about a quarter of the variance; both bars meet the exact "
    "values.",
)
ratio = variances["reward-to-go"] / variances["whole return"]
print(f"the same mean; variance with reward-to-go: {ratio:.0%} of that with the whole return")
for name, values in measured.items():
    assert abs(sum(values) / 8 / variances[name] - 1) < 0.1

# %% [markdown]
# A quarter of the variance: a quarter of the episodes for the same error. (How much it is depends on policy and reward:
# with the blind policy, half.) It costs nothing but a sum taken from the right end.
#
# **Up or down?** The lecture introduces all this as "gradient *descent* according to the policy gradient". One step
# each way settles it.

# %%
g = means["reward-to-go"]
for name, moved in [("θ", theta), ("θ + 0.5 ∇J", theta + 0.5 * g), ("θ − 0.5 ∇J", theta - 0.5 * g)]:
    print(f"J at {name}: {mdp.exact_objective(task, one_softmax(moved)):.3f}")

# %% [markdown]
# It is gradient **ascent**. Optimisers minimise, so code hands them $-J$'s stand-in, a *loss* whose gradient is minus
# the estimate: `losses.policy_gradient_loss(logprobs, weights, mask)`. Its value means nothing; its gradient does.

# %% [markdown]
# **Exercise 04.3 · Long reviews lose their say** (find the bug · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# Here is such a loss. It trains, J goes up, and yet it is wrong. Find out by experiment how: two texts, one of a single
# word, one of four, both with the return 1. How hard is each word pushed, and how hard should it be? Then repair it.
# `logprobs`, `weights`, `mask` are `[B, T]`; what comes out is a scalar to minimise, whose gradient is minus the
# estimate of $\nabla J$.


# %%
def given_loss(logprobs, weights, mask):
    """Looks right, is not."""
    return -((weights * logprobs * mask).sum(1) / mask.sum(1)).mean()


def pushes(loss):
    """−∂loss/∂log π of each word."""
    two = torch.tensor([[True, False, False, False], [True, True, True, True]])
    logprobs = torch.full((2, 4), -1.0, requires_grad=True)
    loss(logprobs, torch.ones(2, 4), two).backward()
    return [
        tuple(-push if there else None for push, there in zip(*row, strict=True))
        for row in zip(logprobs.grad.tolist(), two.tolist(), strict=True)
    ]


show.table(
    [("one word", *pushes(given_loss)[0]), ("four words", *pushes(given_loss)[1])],
    ["text", "word 1", "word 2", "word 3", "word 4"],
    caption="How hard the given loss pushes",
)


# %% tags=["exercise"]
def my_loss(logprobs, weights, mask):
    """A scalar whose gradient is minus the policy gradient estimate, a mean over episodes."""
    ### BEGIN SOLUTION
    return -torch.where(mask, weights * logprobs, 0.0).sum(1).mean()
    ### END SOLUTION


# %%
my_loss = check("04.3", my_loss)

# %% [markdown]
# What does the given loss climb, if not J? With one score $R$ at the end, each text's update is
# $\tfrac{R}{T} \nabla\log\pi(\text{text})$: the gradient of $\mathbb{E}[R/T]$, the score **per word**. Section 6
# shows what that leads to; in lesson 13 you will meet a famous algorithm that divides by the length in this way.

# %%
task = reviews.micro_mdp(horizon=4)
per_word = mdp.TokenMDP(task.actions, 4, lambda texts, taken: task.reward(texts, taken) / taken.sum(1), eos=task.eos)
free = theta.clone().requires_grad_()
climbs = {
    name: torch.autograd.grad(mdp.exact_objective(each, one_softmax(free)), free)[0]
    for name, each in {"∇J": task, "∇E[R/T]": per_word}.items()
}
to_go = estimators.reward_to_go(mdp.episode_rewards(task, words, mask, torch.float64), mask)
rows = []
for name, loss in {"given loss": given_loss, "repaired": my_loss}.items():
    logprobs = mdp.action_logprobs(task, one_softmax(free), words, mask)
    each_as_likely_as_it_is = to_go * (len(p) * p)[:, None]  # so that a plain mean over all texts is the exact mean
    (g,) = torch.autograd.grad(-loss(logprobs, each_as_likely_as_it_is, mask), free)
    rows.append((name, *((g - exact).norm().item() for exact in climbs.values())))
show.table(rows, ["expected step", *[f"distance from {name}" for name in climbs]])
assert rows[0][2] < 1e-9 < rows[0][1] and rows[1][1] < 1e-9

# %% [markdown]
# Each loss climbs its own objective, exactly, and not the other's.
#
# ## 4 · The smallest complete REINFORCE
#
# One word to choose out of five, worth −1 to 1; two samples a step, a hundred steps. Everything that makes REINFORCE
# delicate is there: the policy decides what it gets to see.


# %%
def final_objectives(learning_rate, seeds=range(8), steps=100, batch=2):
    """J after REINFORCE from the uniform policy, one number a seed."""
    worth, finals = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), []
    for seed in seeds:
        generator, logits = torch.Generator().manual_seed(seed), torch.zeros(5)
        for _ in range(steps):
            probs = logits.softmax(0)
            drawn = torch.multinomial(probs, batch, replacement=True, generator=generator)
            ascent = torch.nn.functional.one_hot(drawn, 5) - probs  # ∇ log π of what was drawn
            logits = logits + learning_rate * (worth[drawn, None] * ascent).mean(0)
        finals.append((logits.softmax(0) @ worth).item())
    return finals


for rate in (0.01, 20.0):
    print(f"learning rate {rate:5}: J after 100 steps {' '.join(f'{j:6.2f}' for j in final_objectives(rate))}")

# %% [markdown]
# Too small a step hardly gets anywhere. Too large a step can settle on whatever came up early: then the policy hardly
# ever tries anything else, and no gradient can tell it what it misses.

# %% [markdown]
# **Exercise 04.4 · A step that is neither timid nor rash** (experiment · difficulty ●●○○○ · importance ●●●○○ · 10 min)
#
# Find a learning rate with which the mean of J after 100 steps is above **0.93**, by the lower end of its 95 %
# interval. The check judges it on 16 seeds of its own. How confident are you before you ask it?

# %% tags=["exercise"]
learning_rate = (
    ### BEGIN SOLUTION
    0.5
    ### END SOLUTION
)

# %%
learning_rate = check("04.4", learning_rate)
mean, low, high = runs.mean_interval(final_objectives(learning_rate, seeds=range(16)))
print(f"learning rate {learning_rate}: J = {mean:.3f}, 95 % interval {low:.3f} to {high:.3f} (16 other seeds)")

# %% [markdown]
# ## 5 · REINFORCE on real text, before 2018
#
# The lecture: until about 2018, almost all "RL" in language processing was Monte Carlo policy gradient with the whole
# text as **one action**: one score, the same weight for every token, and no price on straying from where it began. Do
# that. The policy is the tiny language model after supervised fine-tuning, SFT: it was trained further on positive
# reviews (lesson 07). The prompts are openings of negative ones; the score is VADER's, a lexicon that adds up good and
# bad words, from −1 to 1. The learning rate is high, as impatience suggests.
#
# > **Predict before you run.** The score will rise. Two more gauges: the **perplexity** of the new texts under the
# > policy that training started from, $e$ to the mean of $-\log\pi_{\text{start}}$ per token (high: it would hardly
# > have written them), and **distinct-2**, the share of word pairs that are not repeats. Where will they go?

# %%
policy, start = stages.sft_policy(), stages.sft_policy()
vader, diary = rewards.vader(), []  # diary: what was written at each step, and its scores


def score_and_remember(texts):
    """VADER's score of each text; keeps the texts."""
    diary.append((texts, vader(texts)))
    return diary[-1][1]


config = reinforce.Config(steps=20, lr=1e-3, seed=4)  # 16 prompts a step, 4 texts for each, at most 24 tokens
reinforce.train(policy, reviews.openings("train"), score_and_remember, config, baseline=reinforce.no_baseline)
print(f"{len(diary)} steps, {sum(len(texts) for texts, _ in diary):,} texts")

# %% [markdown]
# `reinforce.train` is the loop of this lesson and nothing else: sample, score, reward-to-go, loss, step (read it in
# `rlhf_lib/algorithms/reinforce.py`). Here are three texts at four times of the run. Our model is small, and no great
# writer at step 0 either. Watch what becomes of the grammar that it has.

# %%
times = [0, config.steps // 3, 2 * config.steps // 3, config.steps - 1]
for step in times:
    texts, scores = diary[step]
    column, picked = f"step {step}", slice(0, 9, 4)
    show.text_samples(texts.prompts()[picked], {column: texts.completions()[picked]}, {column: scores[picked].tolist()})

# %% [markdown]
# One run is an anecdote. Four more, with other seeds and ten steps longer, are stored
# (`python -m rlhf_lib.course.results 04` made them). Here is yours, thick, among them.

# %%
stored, yours = results.load("04_reinforce"), experiments.lesson_04.gauges(diary, start)
fig, axes = show.new_figure("step", panels=3, size=(10.5, 3.2))
for ax, (name, curve) in zip(axes, yours.items(), strict=True):
    for other in stored[name]:
        ax.plot(other, color="#888888", linewidth=1.2)
    ax.plot(curve, color="#d55e00", linewidth=3)
    ax.set_title(name, loc="left")
axes[1].set_yscale("log")
show.figure(
    fig,
    alt="Five runs. The score rises from near 0 towards 1, the perplexity to a multiple of where it began; "
    "distinct-2 falls from nearly 1, in every run.",
)
assert max(yours["score"]) > 0.7 and min(yours["distinct-2"]) < 0.85 * yours["distinct-2"][0]

# %%
changes = {
    "score: last 5 steps minus first": [sum(run[-5:]) / 5 - run[0] for run in stored["score"]],
    "perplexity: last 5 steps over first": [sum(run[-5:]) / 5 / run[0] for run in stored["perplexity"]],
    "distinct-2: last 5 steps over first": [sum(run[-5:]) / 5 / run[0] for run in stored["distinct-2"]],
}
rows = []
for name, values in changes.items():
    if " over " in name:  # ratios are averaged as logarithms: half and double cancel
        interval = [math.exp(x) for x in runs.mean_interval([math.log(value) for value in values])]
    else:
        interval = runs.mean_interval(values)
    rows.append((name, *interval, min(values), max(values)))
show.table(rows, ["four stored runs", "mean", "95 % from", "to", "smallest", "largest"])
assert rows[0][2] > 0 and rows[1][2] > 1 and rows[2][3] < 1

# %% [markdown]
# (An interval from four runs is wide. The mean of the two ratios is the geometric one.)
#
# The score gets near its maximum, and nobody would read this. The perplexity is a multiple of what it was: the policy
# writes what the start would hardly ever have written. distinct-2 falls: the same few words come again and again. Look
# at both gauges, because either can be fooled: a phrase said over and over is easy to foresee once begun, and pulls the
# perplexity **down** again. A perplexity near the start's is no proof of text.
#
# Nothing went wrong in the optimisation: REINFORCE did what it was told, and found texts that the lexicon loves and no
# person wrote. What the score cannot see is free to collapse. **We leave it there**: lesson 09 builds a better score,
# and lesson 10 charges a price for moving away from the start.
#
# The lecture adds that REINFORCE on the one-action view "can be made much better with more granular formulations":
# baselines (lesson 05), and a critic that tells the words apart (06).

# %% [markdown]
# ## 6 · Paid by the word
#
# A served language model never stops: after each end of text comes the next prompt. Chain the episodes, **restart after
# every end token**, and look at the endless stream of words. Its **average reward per step** is, in the long run,
#
# $$J_{avR} = \frac{\mathbb{E}[R]}{\mathbb{E}[T]} = \frac{J}{\mathbb{E}[T]}$$
#
# with $R$ a text's score and $T$ its number of words, the full stop included. (The renewal theorem: in $n$ texts the
# stream earns about $n\,\mathbb{E}[R]$ and takes about $n\,\mathbb{E}[T]$ steps.) See it happen, with a policy that
# draws words blindly after the opening "good".

# %%
task = reviews.micro_mdp(horizon=4, opening=("good",))
uniform = models.TablePolicy(task).double()  # all logits 0
J, length = mdp.exact_objective(task, uniform), mdp.state_distribution(task, uniform).sum()  # Σ_s P(s) = E[T]
texts, taken = mdp.sample_episodes(task, uniform, 4_000, runs.generator(0))
earned = mdp.episode_returns(task, texts, taken).cumsum(0)
steps = taken.sum(1).cumsum(0)
fig = show.curves(
    {"earned so far / words so far": (steps, earned / steps)},
    "words in the stream",
    "score per word",
    exact={"J / E[T]": (J / length).item()},
)
fig.axes[0].set_xscale("log")
show.figure(fig, alt="The running score per word settles at J divided by E[T].")
print(f"J = {J:.3f}, E[T] = {length:.3f}, J / E[T] = {J / length:.4f}; the stream: {earned[-1] / steps[-1]:.4f}")
assert abs(earned[-1] / steps[-1] - J / length) < 0.06  # five standard errors

# %% [markdown]
# Two objectives, then: score per text, $J$, and score per word, $J/\mathbb{E}[T]$. Do they want the same policy?
#
# After "good", a full stop at once scores 2. "good great." scores 2.5. The best texts, such as "good but very very
# great", score 4, the top of the scale, in four words.

# %% [markdown]
# **Exercise 04.5 · Paid by the word** (predict · difficulty ●●○○○ · importance ●●●○○ · 4 min)
#
# A policy is trained on $J/\mathbb{E}[T]$ until nothing improves any more. What does it write after "good"? Answer
# with one of `"it ends at once"`, `"one good word, then the end"`, `"the longest text"`.

# %% tags=["exercise"]
per_word_policy = (
    ### BEGIN SOLUTION
    "it ends at once"
    ### END SOLUTION
)

# %%
per_word_policy = check("04.5", per_word_policy)

# %% [markdown]
# Now climb both, by exact gradients (Adam takes the steps, so that rarely visited texts learn too).


# %%
def climb_exactly(objective, updates=80):
    """Follow objective(J, E[T]) from the uniform policy: the history of (J, E[T]), and the policy."""
    policy, history = models.TablePolicy(task).double(), []
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.2)
    for _ in range(updates):
        J, length = mdp.exact_objective(task, policy), mdp.state_distribution(task, policy).sum()
        history.append((J.item(), length.item()))
        optimizer.zero_grad()
        (-objective(J, length)).backward()
        optimizer.step()
    return history, policy


objectives = {"J": lambda J, length: J, "J / E[T]": lambda J, length: J / length}
climbed = {name: climb_exactly(objective) for name, objective in objectives.items()}
fig = show.curves(
    {f"trained on {n}": [length for _, length in history] for n, (history, _) in climbed.items()},
    "update",
    "mean length E[T]",
)
show.figure(
    fig, alt="From a common start, the mean length climbs to 4 words when trained on J, falls to 1 on J / E[T]."
)

# %%
rows = []
for name, (history, policy) in climbed.items():
    likeliest = mdp.action_logprobs(task, policy, words, mask).sum(1).argmax()
    text = " ".join(["good", *(task.actions[w] for w in words[likeliest][mask[likeliest]])])
    J, length = history[-1]
    rows.append((name, text, J, length, J / length))
show.table(rows, ["trained on", "likeliest text", "J", "E[T]", "J / E[T]"])
assert rows[0][3] > 3.9 and rows[1][3] < 1.1 and rows[0][2] > rows[1][2] and rows[0][4] < rows[1][4]

# %% [markdown]
# Each is best by its own measure, and they could not be further apart: one writes as long as it may, the other has
# learnt **to be silent while it is ahead**. Neither is wrong; they answer different questions. Dividing by a length
# anywhere in a pipeline is such a choice, and exercise 04.3 made it by accident.
#
# Every dot below is a text. Training on $J$ wants the highest dot. Training on $J/\mathbb{E}[T]$ wants the dot seen
# at the steepest angle from 0: turn the line up until only one text is left above it.

# %%
lengths, returns = mask.sum(1), mdp.episode_returns(task, words, mask)
dots = torch.stack([lengths.double(), returns.double()], 1).unique(dim=0)


def ray(rate):
    above = int((returns > rate * lengths + 1e-6).sum())
    fig = show.scatter({"a text": dots.T}, "words T", "score R", f"{above:,} of {len(returns):,} texts above the line")
    ends = torch.tensor([0.0, min(4.2, 4.4 / max(rate, 0.1))])
    fig.axes[0].plot(ends, rate * ends, color="#000000", label=f"R = {rate:.1f} · T")
    fig.axes[0].legend(loc="lower left", frameon=False)
    return fig


show.slider_figure(
    ray,
    alt=lambda rate: f"Scores of all texts against their lengths, with the line of {rate:.1f} a word.",
    labels={"rate": "score per word"},
    rate=(0.0, 2.2, 0.1, 1.0),
)

# %% [markdown]
# **Exercise 04.6 · What a word costs** (derive · difficulty ●●●○○ · importance ●●●○○ · 10 min)
#
# A policy knows two endings. With probability $p = \sigma(\theta)$ it writes the long one, with score `r_long` and
# `t_long` words, else the short one (`r_short`, `t_short`). Derive $\dfrac{d}{d\theta}\, J_{avR}$ on paper, and write
# the result as a function.


# %% tags=["exercise"]
def rate_slope(theta, r_long, t_long, r_short, t_short):
    """dJ_avR/dθ of the two endings; σ(θ) = 1 / (1 + exp(−θ))."""
    ### BEGIN SOLUTION
    p = 1 / (1 + math.exp(-theta))
    length = p * t_long + (1 - p) * t_short
    return p * (1 - p) * (r_long * t_short - r_short * t_long) / length**2
    ### END SOLUTION


# %%
rate_slope = check("04.6", rate_slope)
for r_long, t_long in [(4.0, 4), (9.0, 4)]:
    slope = rate_slope(0.0, r_long, t_long, 2.0, 1)
    print(f"long: {r_long:g} in {t_long} words, short: 2 in 1. dJ_avR/dθ = {slope:+.3f}")

# %% [markdown]
# The general rule behind it: with $\rho = J_{avR}$ held fixed,
#
# $$\nabla \frac{J}{\mathbb{E}[T]} = \frac{\nabla J - \rho\,\nabla\mathbb{E}[T]}{\mathbb{E}[T]}.$$
#
# **Training on the average reward is training on $J$ with every word charged $\rho$**, what a word earns on average. A
# policy that earns much is charged much, and grows terse. While $\rho$ is negative, words are paid for.

# %%
rows = []
for opening in ("good", "awful"):
    task = reviews.micro_mdp(horizon=4, opening=(opening,))
    J, length = mdp.exact_objective(task, uniform), mdp.state_distribution(task, uniform).sum()
    rho = (J / length).detach()
    (left,) = torch.autograd.grad(J / length, uniform.logits, retain_graph=True)
    (right,) = torch.autograd.grad((J - rho * length) / length.detach(), uniform.logits, retain_graph=True)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    (longer,) = torch.autograd.grad(length, uniform.logits)
    rows.append((opening, rho.item(), (-rho / length * longer.square().sum()).item()))
show.table(rows, ["opening", "charge per word ρ", "what the charge does to E[T], per unit of step"])
assert rows[0][2] < 0 < rows[1][2]

# %% [markdown] jp-MarkdownHeadingCollapsed=true
# ## Optional · The theorem for average reward and average value
#
# *Skip this section if you like; nothing later needs it. (If its cells are hidden, click the arrow beside the title.)*
#
# The slide claims the theorem for three objectives, "$J = J_1, J_{avR}$, or $\frac{1}{1-\gamma} J_{avV}$". The first is
# section 1's. The other two belong to a process that never ends and forgets where it began (*ergodic*), and the stream
# of restarted texts is one. Its states are the partial texts; after an end it is back at the opening. Let $d(s)$ be the
# **stationary distribution**, the share of time that the stream spends in $s$:
#
# $$J_{avR} = \sum_s d(s) \sum_a \pi(a|s)\, r(s,a), \qquad J_{avV} = \sum_s d(s)\, V_\gamma(s).$$

# %%
task = reviews.micro_mdp(horizon=3, opening=("good",))
table = models.TablePolicy(task).double()
torch.nn.init.normal_(table.logits, generator=runs.generator(0))
states = mdp.exact_values(task, table).states  # 91 partial texts
index, end = {s: i for i, s in enumerate(states)}, task.eos
after = torch.tensor([[index.get((*s, a), 0) for a in range(10)] for s in states])  # a finished text: back to the start
one_more = torch.tensor([[*s, a] + [end] * (2 - len(s)) for s in states for a in range(10)])
taken = torch.arange(3) <= torch.tensor([len(s) for s in states]).repeat_interleave(10)[:, None]
pay = torch.where(after == 0, task.reward(one_more, taken).view(91, 10), 0.0).double()  # scores are paid at the end

# %% [markdown]
# Which text follows which, and what is paid, is now in two tables. With a policy they become a Markov chain:


# %%
def stream(logits):
    """π [S, A], transitions [S, S], mean reward [S] and stationary distribution [S], all differentiable."""
    pi = logits.softmax(1)
    move = (pi[..., None] * torch.nn.functional.one_hot(after, len(states))).sum(1)
    ones = torch.ones_like(move)
    d = torch.linalg.solve((torch.eye(len(states)) - move + ones).T, ones[0])  # d·move = d, Σ d = 1
    return pi, move, (pi * pay).sum(1), d


pi, move, mean_pay, d = stream(table.logits)
J, reach = mdp.exact_objective(task, table), mdp.state_distribution(task, table)
torch.testing.assert_close(d @ move, d, rtol=0, atol=1e-12)
torch.testing.assert_close(d, reach / reach.sum(), rtol=0, atol=1e-9)  # visits a text, over words a text
torch.testing.assert_close(d @ mean_pay, J / reach.sum(), rtol=0, atol=1e-9)  # J_avR = J / E[T]
print(f"J_avR = {d @ mean_pay:.6f} = J / E[T] = {J / reach.sum():.6f}")

# %% [markdown]
# The stream never ends, and plain sums of rewards would grow without end. **Differential** values count only what is
# earned above average: $Q(s,a) = r(s,a) - J_{avR} + V(s')$, with $s'$ the next state and $V = \sum_a \pi Q$. With
# them the theorem holds for $J_{avR}$, word for word:

# %%
eye, rho = torch.eye(len(states), dtype=torch.float64), d @ mean_pay
v = torch.linalg.solve(eye - move + d.expand_as(move), mean_pay - rho)  # differential V, with d·V = 0
q = pay - rho + v[after]


def theorem_for_streams(q):
    """Σ_s d(s) Σ_a π(a|s) ∇log π(a|s) Q(s, a) for the table."""
    held_fixed = (d[:, None] * pi * q).detach()
    return torch.autograd.grad((held_fixed * table.logits.log_softmax(1)).sum(), table.logits)[0]


(exact_average,) = torch.autograd.grad(rho, table.logits, retain_graph=True)
print(f"largest difference from ∇J_avR: {(theorem_for_streams(q) - exact_average).abs().max():.1e}")
torch.testing.assert_close(theorem_for_streams(q), exact_average, rtol=0, atol=1e-9)

# %% [markdown]
# And $J_{avV}$? From the stationary distribution the expected reward is $J_{avR}$ at every step, so $J_{avV} = \sum_k
# \gamma^k J_{avR} = J_{avR} / (1-\gamma)$. The slide's factor is upside down: not $\frac{1}{1-\gamma} J_{avV}$ but
# **$(1-\gamma)\, J_{avV} = J_{avR}$**. The two are one objective up to a constant, with one gradient. The discounted
# $Q_\gamma$ in its place does *not* give that gradient exactly; it does as γ → 1.

# %%
rows = []
for gamma in (0.5, 0.9, 0.99, 0.999):
    v_gamma = torch.linalg.solve(eye - gamma * move, mean_pay)
    average_value = d @ v_gamma
    torch.testing.assert_close((1 - gamma) * average_value, rho, rtol=0, atol=1e-9)
    (g,) = torch.autograd.grad((1 - gamma) * average_value, table.logits, retain_graph=True)
    torch.testing.assert_close(g, exact_average, rtol=0, atol=1e-9)
    error = (theorem_for_streams(pay + gamma * v_gamma[after]) - exact_average).norm() / exact_average.norm()
    rows.append((gamma, average_value.item(), ((1 - gamma) * average_value).item(), error.item()))
show.table(rows, ["γ", "J_avV", "(1 − γ) J_avV", "error of the gradient with Q_γ"], formats={"γ": "g"})
assert all(later[3] < earlier[3] for earlier, later in zip(rows, rows[1:], strict=False)) and rows[-1][3] < 0.01

# %% [markdown]
# ## Recap
#
# - **Theorem.** $\nabla J = \sum_s d(s) \sum_a \pi\, \nabla\log\pi\; Q$ with $d(s) = \gamma^{|s|} P(s)$: exact for any
#   differentiable policy, without a derivative of $d$ or $Q$.
# - **REINFORCE** samples it: $\gamma^t v_t$ has the right mean. The slide's $v_t$ leaves out $\gamma^t$ and favours
#   last words at γ < 1; updating in the middle of the episode adds a bias in proportion to the step. And it is ascent.
# - **Reward-to-go** has the same mean as the whole return; here, with rewards on the way, a quarter of its variance.
# - Sum over a text's words, mean over texts. Dividing each text by its length trains for score per word.
# - A score alone, followed hard enough, ends in **gibberish**. REINFORCE does what the score says, not what it means.
# - Score per text and score per word, $J$ and $J/\mathbb{E}[T]$, can want opposite lengths: each word costs $\rho$.

# %%
quiz(
    "Why may the policy gradient theorem hold Q fixed, although Q depends on θ?",
    {
        "Because Q changes slowly": "The theorem is exact, for any speed.",
        "Because later states have terms of their own in the sum": "What θ changes in Q is what it changes at later "
        "words, and each of those has its own term.",
        "Because the reward does not depend on θ": "True, but Q is an average over later words, which do.",
    },
    correct="Because later states have terms of their own in the sum",
)
quiz(
    "One score at the end, γ = 1. What does reward-to-go gain over the whole return?",
    {
        "Three quarters of the variance go": "That was with rewards on the way. Here nothing comes before the end.",
        "Nothing: they are the same number at every word": "No word has a past reward to drop.",
        "It removes a bias": "Neither is biased.",
    },
    correct="Nothing: they are the same number at every word",
)
quiz(
    "VADER's score rose, and the texts are gibberish. What went wrong?",
    {
        "REINFORCE is biased": "Its estimate has the right mean here, and the score did rise.",
        "The learning rate": "It decides how soon, not where the score leads.",
        "Nothing but the objective: the score does not see what we care about": "So a price for leaving real text, "
        "and a better score, must become part of it.",
    },
    correct="Nothing but the objective: the score does not see what we care about",
)

# %% [markdown]
# **Next:** [05 · Baselines](05_baselines.ipynb), the same gradient with a fraction of the noise. The gibberish waits
# for [lesson 10](10_rl_against_the_reward_model.ipynb), with a better score ([lesson 09](09_reward_models.ipynb)) and
# a price on leaving the policy that training started from.
