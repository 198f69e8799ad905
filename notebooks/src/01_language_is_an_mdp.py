# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     name: python3
# ---

# %% [markdown]
# # 01 · Language is a token-level MDP
#
# **What exactly is the decision problem that a language model solves when it writes, and how big is it?**
#
# Reinforcement learning (RL) is about an agent that takes actions in an environment. Where are these when a model
# writes a film review? This lesson takes the lecture's 6-tuple apart on real text, computes its objective exactly and
# by sampling, and counts the buttons on the controller.
#
# After it you can
# - name states, actions, transitions, reward, discount and horizon of any text task, and step through one by hand;
# - compute the expected return $J$ by listing every episode, estimate it by sampling, and say how far off you may be;
# - say what $\gamma$ and $K$ do to the reviews that win;
# - count actions and episodes, and measure how many of its buttons a policy really considers.
#
# | | |
# |---|---|
# | Before this | lesson 00, or the course installed; Python and a little probability |
# | Reading | about 40 minutes, with the exercises about 90 |
# | Run time | about 20 seconds on 2 cores |
# | With a GPU | nothing changes: all of this is small |

# %%
from rlhf_lib.course.lesson import *

policy = models.load_model("tiny")  # a small language model that has read film reviews, and nothing more
tokenizer = policy.tokenizer
print(f"{sum(p.numel() for p in policy.parameters()):,} weights; {policy.vocabulary:,} tokens")

# %% [markdown]
# ## 1 · Six things make an MDP
#
# The lecture: *language generation is a token-level Markov decision process, a 6-tuple*
# $\langle S, A, T, R, \gamma, K \rangle$. We use its running task: *make as positive a movie review as possible, no
# matter how negatively it starts.*
#
# | | the lecture says | here |
# |---|---|---|
# | $S$ | states = sentence so far | the opening and the tokens written since |
# | $A$ | words = vocab | the model's 8,192 tokens, one of which means *the end* |
# | $T$ | append action $A_t$ to $S$ | `[*state, action]` |
# | $R$ | reward function | how positive the finished text is |
# | $\gamma$ | discount factor | how much less a reward counts one word later |
# | $K$ | max sentence length | the most tokens that may be written |
#
# ### $A$: the buttons
#
# *Predict: is every button a word?*

# %%
print("some of them:", [tokenizer.decode([i]) for i in range(400, 8192, 411)])
for word in ["movie", "hated", "unwatchable", "Ammanabrolu"]:
    pieces = [tokenizer.decode([i]) for i in tokenizer(f" {word}", add_special_tokens=False)["input_ids"]]
    print(f"{word:12} {len(pieces)} action(s): {pieces}")

END = tokenizer.eos_token_id
assert policy.vocabulary == len(tokenizer) == 8192 and END in range(8192)
assert len(tokenizer(" movie", add_special_tokens=False)["input_ids"]) == 1 < len(pieces)

# %% [markdown]
# A button is a *token*: a frequent word with the space before it, or a piece of a rare one. So a rare word is a
# sequence of decisions. The lecture says "words"; read "tokens". Ending the text is a button like any other.
#
# ### $S$ and $T$: append, and nothing else
#
# A state is a list of tokens and a transition appends one. An *episode* is one text, from the opening until it is over.
# No dice are rolled by this environment: all the chance is in the *policy*, the agent's way of choosing its actions.
# Here the policy is the language model.

# %%
START = models.encode_prompt(tokenizer, reviews.LECTURE_OPENING)
K = 16


def transition(state, action):
    return [*state, action]


def over(state):
    return state[-1] == END or len(state) - len(START) == K


def text(state):
    return tokenizer.decode(state, skip_special_tokens=True)


dot = tokenizer(".", add_special_tokens=False)["input_ids"][0]
print(text(START), "→", text(transition(START, dot)))
assert transition(START, dot)[:-1] == START and not over(START) and over(transition(START, END))

# %% [markdown]
# ### Why *Markov*?
#
# Markov means: the state alone decides what can happen next, the past adds nothing. Text has a long memory, so how
# can it be Markov? *Predict: let the state be the last word only. Would that do?*


# %%
@torch.no_grad()
def pi(state):
    """π(·|s): the probability of each of the 8,192 actions."""
    ids = torch.tensor([state])
    logits, _ = policy(ids, torch.ones_like(ids), last=1)
    return logits[0, -1].softmax(-1)


last_word_only = [tokenizer.bos_token_id, START[-1]]
distance = 0.5 * (pi(START) - pi(last_word_only)).abs().sum().item()  # total variation: 0 the same, 1 disjoint
print(f"after {text(START)!r} and after {text(last_word_only)!r}: {distance:.0%} of the probability sits elsewhere")
assert distance > 0.1

# %% [markdown]
# The last word alone will not do: what comes next depends on what came before it. Text is Markov because the state is
# *everything so far*. That is free, since appending forgets nothing; the price is that no state is ever visited twice
# in an episode, and hardly any twice in a lifetime. That is why lesson 02 has to talk about values of states never
# seen.
#
# ### $\pi$: a distribution, not a choice
#
# > **A slip on the slide.** It says "find policy $\pi_\theta : S \to A$". A function to $A$ names *one* action for
# > each state. What a language model has is a *distribution* over actions, $\pi_\theta(a \mid s)$, where $\theta$ are
# > its weights. It is what we sample from, and what policy gradients (lesson 03) differentiate.
#
# *Predict: four texts from the function "take the likeliest token", and four from the distribution. How many differ?*

# %%
greedy = rollout.sample(policy, [reviews.LECTURE_OPENING], max_new_tokens=K, samples_per_prompt=4, temperature=0)
drawn = rollout.sample(
    policy,
    [reviews.LECTURE_OPENING],
    max_new_tokens=K,
    samples_per_prompt=4,
    generator=torch.Generator().manual_seed(0),
)
rows = zip(greedy.completions(), drawn.completions(), strict=True)
show.table([(i + 1, a, b) for i, (a, b) in enumerate(rows)], ["", "S → A (greedy)", "a distribution (sampled)"])

assert abs(pi(START).sum().item() - 1) < 1e-4 and pi(START).min() > 0
assert len(set(greedy.completions())) == 1 and len(set(drawn.completions())) > 1

# %% [markdown]
# The function tells you one thing four times (here: stop). Learning from one's own attempts needs attempts that
# differ, so exploration comes with the distribution.
#
# ### $R$: somebody has to judge
#
# Lesson 09 trains a reward model on people's preferences. Today a cruder judge will do, made of the same people's
# ratings, −4 to +4, of 6,345 sentences: a word's *opinion* is the mean rating of the sentences that contain it, and a
# text's score adds up the opinions of its words. (It is divided by the square root of their number, so that length
# alone does not decide.)
#
# *Predict: will it notice the difference between the lecture's bad completion and its good ones?*


# %%
def words_of(text):
    return [word.strip(".,;:!?\"'()") for word in text.lower().split()]


train, total, count = reviews.load().subset("train"), {}, {}
for row, sentence in enumerate(train.texts):
    for word in set(words_of(sentence)):
        total[word] = total.get(word, 0.0) + train.mean(row)
        count[word] = count.get(word, 0) + 1
opinion = {word: total[word] / (count[word] + 2) for word in total}  # "+ 2" draws rare words towards 0


def score(text):
    words = words_of(text)
    return sum(opinion.get(word, 0.0) for word in words) / max(1, len(words)) ** 0.5


# %%
endings = [("", "the opening"), *((c, kind) for kind, cs in reviews.LECTURE_COMPLETIONS.items() for c in cs)]
show.table(
    [(kind, c or reviews.LECTURE_OPENING, score(f"{reviews.LECTURE_OPENING}. {c}")) for c, kind in endings],
    ["", "text", "score"],
    formats={"score": "+.2f"},
)
judged = {
    kind: [score(f"{reviews.LECTURE_OPENING}. {c}") for c in cs] for kind, cs in reviews.LECTURE_COMPLETIONS.items()
}
assert max(judged["bad"]) < min(judged["good"]) < max(judged["good"]) < score(reviews.LECTURE_OPENING)

# %% [markdown]
# It does: the bad completion comes last. But the good ones lose points too against the opening alone, for this judge
# only counts words. It cannot even tell "not good" from "good". Does it agree with people at all? We ask on sentences
# whose ratings it has not seen.

# %%
held_out = reviews.load().subset("validation")
pairs = torch.tensor([(score(t), held_out.mean(i)) for i, t in enumerate(held_out.texts)])
agreement = torch.corrcoef(pairs.T)[0, 1].item()
print(f"correlation with the panels' mean ratings of {len(pairs)} held-out sentences: {agreement:.2f}")
assert 0.6 < agreement < 0.8  # nothing here is drawn at random

# %% [markdown]
# Good enough to play with. Note what it is *not*: a smooth function of the model's weights. Nothing can be
# back-propagated through counting words, and that is why this is a task for reinforcement learning.
#
# ### One episode, step by step
#
# The reward of an action is 0 until the text is over; then it is the score of the whole text. Read the loop: there is
# no more to "an agent acts in an environment".


# %%
def reward(state, action):
    after = transition(state, action)
    return score(text(after)) if over(after) else 0.0


torch.manual_seed(1)
state, episode = START, []
while not over(state):
    chances = pi(state)
    action = torch.multinomial(chances, 1).item()
    shown = "<end>" if action == END else tokenizer.decode([action])
    episode.append((len(episode), "…" + text(state)[-34:], shown, chances[action].item(), reward(state, action)))
    state = transition(state, action)

show.table(episode, ["t", "state s_t (its end)", "action a_t", "π(a_t|s_t)", "r_t"], formats={"r_t": "+.2f"})
rewards_seen = [row[-1] for row in episode]
assert all(r == 0 for r in rewards_seen[:-1]) and len(episode) <= K

# %% [markdown]
# ### Your turn: be the policy
#
# The buttons are the policy's favourites at this point, with its probabilities; any other word can be typed (a word
# of several tokens is several actions to the model; here it is one click). Ending is a button too. *Can you finish
# above +1? How improbable was your text to the model?*


# %%
def next_words(text, shown=8):
    chances, actions = pi(models.encode_prompt(tokenizer, text)).topk(shown)
    words = ["<end>" if a == END else tokenizer.decode([a]) for a in actions]
    return list(zip(words, chances.tolist(), strict=True))


stepper = show.Stepper(
    next_words, lambda text: score(text.removesuffix("<end>")), reviews.LECTURE_OPENING, horizon=K, end="<end>"
)
assert 0 < sum(chance for _, chance in next_words(stepper.text)) <= 1 and stepper.value is None
stepper

# %% [markdown]
# <details><summary>Optional: a better judge, lesson 09's reward model</summary>
#
# `rm = stages.panel_reward_model()` trains it on first use (a few minutes on a slow machine) and keeps it. Then pass
# `lambda text: rm.score_texts([text.removesuffix("<end>")]).item()` as the stepper's score. It reads word order, so
# "not good" costs you.
#
# </details>
#
# ## 2 · The return
#
# What an episode is worth is its *return*, the rewards $r_t = R(s_t, a_t)$ added up, each discounted by how late it
# comes:
#
# $$G = \sum_{t=0}^{T-1} \gamma^t\, r_t , \qquad T \le K \text{ the number of actions.}$$
#
# (From here on $T$ is this number. The transition needs no letter any more: it appends.)
#
# > **A slip on the slide.** It sums from $t=0$ to $K$. That is $K+1$ terms, an action more than "max sentence length
# > $K$" allows. With $K$ actions the last one is taken at $t = K-1$.

# %%
gamma = 0.9
G = sum(gamma**t * r for t, r in enumerate(rewards_seen))
T = len(rewards_seen)
print(f"{T} actions, t = 0 … {T - 1}; score {rewards_seen[-1]:+.3f}; return {G:+.3f} = γ^{T - 1} · score")
assert math.isclose(G, gamma ** (T - 1) * rewards_seen[-1], abs_tol=1e-9)
assert len(range(0, K + 1)) == K + 1 and len(range(0, K)) == K  # the slide's sum, and the right one

# %% [markdown]
# With one reward at the end, $G = \gamma^{T-1} R$. Remember this line for section 5.
#
# In batches, episodes of different lengths share a table `[batch, time]`, and `mask` is True where an action was
# taken. What stands elsewhere is padding and may be anything.
#
# **Exercise 01.1 · The discounted return** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# Return $G$ of every row, shape `[B]`, from `rewards [B, T]`, `mask [B, T]` and `gamma`. By hand: rewards
# `[0, 0, 2, 7]`, mask `[1, 1, 1, 0]`, $\gamma = 0.5$ give $0.5^2 \cdot 2 = 0.5$; the 7 is padding.


# %% tags=["exercise"]
def my_returns(rewards, mask, gamma=1.0):
    """Σ_t γ^t r_t over the actions of each row: [B, T], [B, T], number -> [B]."""
    ### BEGIN SOLUTION
    powers = gamma ** torch.arange(rewards.shape[1])
    return torch.where(mask, powers * rewards, 0.0).sum(1)
    ### END SOLUTION


# %%
my_returns = check("01.1", my_returns)

# %% [markdown]
# **Exercise 01.2 · Short reviews earn nothing** (find the bug · difficulty ●●○○○ · importance ●●●●● · 8 min)
#
# `place_scores` turns a score a review into a table of rewards, for `my_returns` to add up. All three reviews below
# have the score 2, and $\gamma = 1$. Run the cell, look at the returns, find out what is wrong by trying other masks,
# and mend it.


# %% tags=["exercise"]
def place_scores(scores, mask):
    """The score of each review as the reward of its last action: [B], [B, T] -> [B, T], 0 everywhere else."""
    rewards = torch.zeros(mask.shape)
    rewards[:, -1] = scores
    ### BEGIN SOLUTION
    rewards = torch.zeros(mask.shape)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] = scores
    ### END SOLUTION
    return rewards


three = torch.arange(5) < torch.tensor([[2], [4], [5]])  # reviews of 2, 4 and 5 actions
print("returns:", my_returns(place_scores(torch.tensor([2.0, 2.0, 2.0]), three), three).tolist())

# %%
place_scores = check("01.2", place_scores)
assert my_returns(place_scores(torch.tensor([2.0, 2.0, 2.0]), three), three).tolist() == [2.0, 2.0, 2.0]

# %% [markdown]
# ## 3 · The objective, exactly
#
# The lecture: find the policy that maximises the *expected* return,
#
# $$J(\theta) = \mathbb{E}_{\pi_\theta}\Big[\sum_{t=0}^{T-1} \gamma^t R(s_t, a_t)\Big]
#   = \sum_{\text{episodes } y} p_\theta(y)\, G(y), \qquad p_\theta(y) = \prod_{t=0}^{T-1} \pi_\theta(a_t \mid s_t).$$
#
# The second form says how to compute it: list every episode, multiply, add. For real text that is hopeless (section 7
# says how hopeless). So the course keeps a second world, small enough to be exact: a review language of ten words.
# "." ends a text, and a small grammar rates it: the mean of its words' values, where "not" turns a word round, "very"
# strengthens it, and what comes after "but" counts most.

# %%
micro = reviews.micro_mdp(horizon=4)  # complete "awful" in at most 4 words
tokens, mask = mdp.enumerate_episodes(micro)
length, scores = mask.sum(1), micro.reward(tokens, mask)
print("actions:", *micro.actions, f"   episodes: {len(tokens):,}")


def micro_text(i):
    return "awful " + " ".join(micro.actions[a] for a in tokens[i][mask[i]])


order = scores.argsort(descending=True).tolist()
some = [order[k] for k in (0, 5, 40, 700, 3000, 6000, -1)]
show.table(
    [(micro_text(i), length[i].item(), scores[i].item()) for i in some],
    ["text", "T", "score"],
    formats={"score": "+.2f"},
)

# %% [markdown]
# Let the policy press each of the ten buttons with probability 1/10. *Predict the sign of its $J$. (The values are
# great +3, good +2, dull −1, bad −2, awful −3; the other five have none.)*

# %%
probability = (1 / 10) ** length.double()
returns = micro.gamma ** (length - 1) * scores.double()
J = (probability * returns).sum()
print(f"probabilities add up to {probability.sum():.6f};  J of the uniform policy = {J:.4f}")

uniform = models.TablePolicy(micro).double()  # a softmax table over all states; it starts uniform
assert torch.isclose(probability.sum(), torch.tensor(1.0).double())
assert torch.isclose(J, mdp.exact_objective(micro, uniform))

# %% [markdown]
# Negative: it starts with "awful", and blind words rarely repair that. These lines are
# `mdp.exact_objective(mdp, policy)`, which works for any policy, so for our language model too, if it is confined to
# the ten words. *Predict: is it better than blind?*

# %%
confined = models.as_policy(policy, "awful", micro)  # its next-token distribution, renormalised to ten tokens
with torch.no_grad():
    J_exact = {
        "uniform": mdp.exact_objective(micro, uniform).item(),
        "tiny LM, confined": mdp.exact_objective(micro, confined).item(),
        "the best there is": returns.max().item(),
    }
show.figure(
    show.bars(J_exact, "J, the exact expected return", horizontal=True, size=(7, 2.4)),
    alt="Three bars of J: the uniform policy and the tiny language model are below 0, the best policy is at about 3.",
)
assert J_exact["uniform"] < 0 and max(list(J_exact.values())[:2]) < 1 < 3 < J_exact["the best there is"]

# %% [markdown]
# The language model has learnt to sound like a review; nobody has told it to be positive, and its $J$ shows it. All
# the room to the third bar is what reinforcement learning is for. (Why is the best policy's $J$ simply the best
# return? Transitions hold no chance, so a policy can write the best text with certainty.)
#
# ## 4 · The objective, by sampling
#
# Where episodes cannot be listed they can be drawn: let the policy write $N$ of them and take the mean return. How
# far off may that be? The standard error of a mean is $\sigma/\sqrt N$, and 1.96 of them to either side hold the
# truth in about 95 of 100 repetitions.
#
# *Predict: how wide is the interval at $N = 100$, and at 10,000?*

# %%
drawn_tokens, drawn_mask = mdp.sample_episodes(micro, uniform, 20_000, torch.Generator().manual_seed(0))
G = mdp.episode_returns(micro, drawn_tokens, drawn_mask)
sizes = [round(10 * 2000 ** (k / 30)) for k in range(31)]
mean = torch.tensor([G[:n].mean() for n in sizes])
half = torch.tensor([1.96 * G[:n].std() / n**0.5 for n in sizes])


@show.style()
def draw_estimate():
    fig, ax = show.new_figure("episodes N", "estimate of J")
    ax.fill_between(sizes, mean - half, mean + half, color="#2b7fbf", alpha=0.25, label="95 % interval")
    ax.plot(sizes, mean, color="#2b7fbf", label="mean return of N samples")
    ax.axhline(J.item(), color="#000000", linestyle="--", linewidth=1.2, label="exact J")
    ax.set_xscale("log")
    ax.legend()
    return fig


# %%
show.figure(
    draw_estimate(), alt="The mean of N sampled returns closes in on the exact J; the interval narrows as 1/√N."
)
for n in (100, 10_000):
    print(f"N = {n:6,}: {G[:n].mean():+.3f} ± {1.96 * G[:n].std() / n**0.5:.3f}    exact {J:+.3f}")
assert abs(G.mean() - J) < 5 * G.std() / len(G) ** 0.5

# %% [markdown]
# A hundred times the episodes, a tenth of the width. And does the interval keep its promise? We draw 500 of them and
# count.

# %%
drawn = mdp.sample_episodes(micro, uniform, 500 * 400, torch.Generator().manual_seed(1))
G = mdp.episode_returns(micro, *drawn).view(500, 400)  # 500 experiments of 400 episodes
holds = ((G.mean(1) - J).abs() <= 1.96 * G.std(1) / 20).double().mean().item()
print(f"{holds:.1%} of 500 intervals hold the exact J")
assert 0.90 < holds < 0.99

# %% [markdown]
# Exact and sampled values agree. From here on the course never shows an estimator without its exact value beside it,
# where one can be had.
#
# **Exercise 01.3 · How many episodes?** (experiment · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# Find an $N$ at which the 95 % interval of $J$ (uniform policy, `micro`) reaches at most 0.05 to either side, on at
# least 19 of 20 new seeds, but no more than twice what is needed. On how many of the 20 will the exact $J$ be inside?
# Guess before you ask. Try things in a cell of your own; `G.std()` is at hand.

# %%
N_needed = check("01.3", ...)

# %% [markdown]
# ## 5 · What $\gamma$ and $K$ do
#
# **Exercise 01.4 · What a discount rewards** (predict · difficulty ●●○○○ · importance ●●●●● · 4 min)
#
# Four reviews get their score at the end, and $\gamma = 0.9$: *short good* (2 words, score +2), *long good* (5 words,
# +2), *short bad* (2 words, −2), *long bad* (5 words, −2). Order them by return, the best first. One of
#
# - `"short good, long good, long bad, short bad"`
# - `"short good, long good, short bad, long bad"`
# - `"long good, short good, long bad, short bad"`
# - `"the good ones tie, and so do the bad ones"`

# %%
prediction = check("01.4", ...)

# %% [markdown]
# Now move the sliders. Each grey bar spans the returns of all texts of that length, from the worst to the best; the
# star is the best text of all. *Before you do: at which $\gamma$ will the winner stop being the longest text?*

# %%
listed = {}
for horizon in range(1, 6):
    m = reviews.micro_mdp(horizon=horizon)
    every, taken = mdp.enumerate_episodes(m)
    listed[horizon] = m, every, taken, taken.sum(1), m.reward(every, taken)


def best(gamma, K):
    m, every, taken, length, score = listed[K]
    returns = gamma ** (length - 1) * score
    i = returns.argmax()
    return returns, " ".join(m.actions[a] for a in every[i][taken[i]]), length[i].item(), returns[i].item()


def exact_J(gamma, K):  # of the uniform policy
    return (0.1 ** listed[K][3].double() @ best(gamma, K)[0].double()).item()


# %%
@show.style()
def draw_returns(gamma, K):
    returns, words, T, top = best(gamma, K)
    fig, ax = show.new_figure("words written, T", "return", f"best: awful {words}   ({top:+.2f})")
    for t in range(1, K + 1):
        of = returns[listed[K][3] == t]
        ax.plot([t, t], [of.min(), of.max()], "s-", color="#888888", linewidth=6, markersize=6, markeredgewidth=0)
    ax.plot([T], [top], "*", color="#d55e00", markersize=16, label="best text")
    ax.axhline(exact_J(gamma, K), color="#2b7fbf", linestyle="--", label="J of the uniform policy")
    ax.set(xlim=(0.5, 5.5), ylim=(-4.3, 4.3), xticks=range(1, 6))
    ax.legend(loc="upper left")
    return fig


# %%
show.slider_figure(
    draw_returns,
    alt=lambda gamma, K: f"Returns by length at γ = {gamma:g} and K = {K}; the best text is awful {best(gamma, K)[1]}.",
    labels={"gamma": "γ", "K": "K"},
    gamma=[1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3],
    K=(1, 5, 1, 5),
)

# %%
columns = ["γ", *(f"best text, K = {K}" for K in (2, 4, 5)), "J of uniform, K = 5"]
show.table(
    [(f"{g}", *(best(g, K)[1] for K in (2, 4, 5)), exact_J(g, 5)) for g in (1.0, 0.8, 0.6, 0.3)],
    columns,
    caption='What to say after "awful"',
    formats={columns[-1]: "+.2f"},
)

grid = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]
lengths = [best(g, 5)[2] for g in grid]
assert lengths == sorted(lengths, reverse=True) and lengths[0] == 5 > lengths[-1]  # less patience, shorter winners
tops = [best(1.0, K)[3] for K in range(1, 6)]
assert tops == sorted(tops) and abs(exact_J(1.0, 4) - J.item()) < 1e-4  # more room never hurts the best, at γ = 1

# %% [markdown]
# $\gamma$ is patience. As it falls, the long text with the higher score loses to a short one with a lower score. Look
# at the column of $J$: it *rises* as $\gamma$ falls, though no word has changed. A discounted failure hurts less, and
# an agent can use that: with a bad ending ahead, it pays to keep talking.
#
# $K$ is room. At $K = 1$ nothing can be repaired. With real text $K$ is `max_new_tokens`, and it cuts texts off.
# *Predict: what share of the tiny model's reviews is finished after 8 tokens, after 16, after 32?*

# %%
written = rollout.sample(
    policy,
    [reviews.LECTURE_OPENING],
    max_new_tokens=48,
    samples_per_prompt=64,
    generator=torch.Generator().manual_seed(0),
)
limits = list(range(1, 49))
finished = [(written.finished & (written.lengths <= limit)).double().mean().item() for limit in limits]
show.figure(
    show.curves({"finished": (limits, finished)}, "K, tokens allowed", "share finished", size=(7, 2.8)),
    alt="The share of sampled reviews that have ended by themselves rises with the number of tokens allowed.",
)
for limit in (8, 16, 32):
    print(f"K = {limit:2}: {finished[limit - 1]:.0%} finished")
assert finished == sorted(finished) and finished[7] < finished[-1]

# %% [markdown]
# What is cut off is judged as it stands, in the middle of a sentence, and so is what the policy learns from. RLHF on
# text mostly takes $\gamma = 1$ (there is one reward, at the end; why blur it?) and a $K$ that seldom bites. Lesson
# 03 shows where $\gamma = 1$ matters for the gradient.
#
# ## 6 · How many buttons?
#
# The lecture: *"Imagine a controller with ~100,000 buttons. How to scale RL? (Game of Go ~250, Chess ~35)"*. Its
# picture is a text game, with a table of words: a command takes one from each column.
#
# *Predict: how many commands does the table span? A hundred, ten thousand, a million?*

# %%
verbs = "Open Go Examine The Shout Carry Show Mount Cross Shred Adjust".split()
nouns = "mailbox north house my four shoulder movie bottom box Bozbar".split()
links = "with in on above below until was over under".split()
objects = "colleague comma magic amazing scrolls some bronze cyclops".split()
table = [verbs, nouns, links, objects]
full = math.prod(len(column) for column in table)
shorter = len(verbs) + len(verbs) * len(nouns)  # "Shout", "Open mailbox"
print(
    " × ".join(str(len(column)) for column in table), f"= {full:,} commands, {full + shorter:,} with the shorter ones"
)
print(f"any four of the {sum(map(len, table))} words in any order: {sum(map(len, table)) ** 4:,}")

g = torch.Generator().manual_seed(3)
for _ in range(4):
    print("   ", *(column[torch.randint(len(column), (1,), generator=g)] for column in table))
assert full == 11 * 10 * 9 * 8 == 7920 and sum(map(len, table)) == 38

# %% [markdown]
# Thirty-eight words, and already thousands of commands, nearly all of them nonsense. (Even the slide's columns are
# not clean: "The" is no verb, "my" and "four" are no nouns. Buttons are there whether they make sense or not.)
#
# In chess and Go the *rules* say which moves are legal, before the player thinks. Go's number can be checked on the
# back of an envelope: 361 points, less one for each stone placed so far.

# %%
go = sum(361 - t for t in range(220)) / 220  # ignoring captures and the few forbidden points, in a game of 220 moves
print(f"Go, mean number of empty points: {go:.0f}   (the lecture: ~250)")
assert abs(go - 250) < 10

# %%
ACTIONS = {
    "chess, legal moves": 35,
    "Go, legal moves": 250,
    "text game, the lecture's table": full,
    "tiny LM (this course)": policy.vocabulary,
    "SmolLM2 (this course)": 49_152,
    "the lecture's controller": 100_000,
}


@show.style()
def draw_actions():
    fig, ax = show.new_figure("actions in each state (each line: ten times more)", size=(7.5, 3.2))
    drawn = ax.barh(list(ACTIONS), list(ACTIONS.values()), color="#2b7fbf")
    ax.bar_label(drawn, [f"{n:,}" for n in ACTIONS.values()], padding=4)
    ax.set(xscale="log", xlim=(1, 1e6))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return fig


show.figure(
    draw_actions(), alt="Bars on a log axis: chess 35, Go 250, a text game 7,920, language models 8,192 to 100,000."
)

# %% [markdown]
# From chess to a language model the choice grows by a factor of hundreds to thousands. (Chess's 35 is an average over
# experts' games, quoted from Allis 1994; it cannot be computed in a line. Current models have 32,000 to 260,000
# tokens.) And in language nothing is illegal: every button can be pressed in every state.
#
# ## 7 · How many episodes?
#
# One state offers $A$ actions ($A$ is their number now); how many texts are there? If every text has exactly $K$
# tokens, $A$ choices are made $K$ times: $A^K$. With an end token it takes some thought.
#
# **Exercise 01.5 · The number of episodes** (derive · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# One of $A$ actions ends the episode, and after $K$ actions it is over in any case. How many different episodes are
# there? Derive a formula on paper: how many end by themselves with exactly $t$ actions, and how many are cut off?
# Then write it down. By hand, $A = 2$ (a word and the end): $K = 1$ gives 2, $K = 2$ gives 3.


# %% tags=["exercise"]
def number_of_episodes(actions, horizon):
    """How many episodes have `actions` buttons, one of them the end, and at most `horizon` actions? A whole number."""
    ### BEGIN SOLUTION
    others = actions - 1
    ended = sum(others ** (t - 1) for t in range(1, horizon + 1))  # t − 1 words, then the end
    cut_off = others**horizon
    return ended + cut_off
    ### END SOLUTION


# %%
number_of_episodes = check("01.5", number_of_episodes)

# %% [markdown]
# The next cell confirms the formula by listing.

# %%
rows = []
for horizon in range(1, 6):
    with_end = len(mdp.enumerate_episodes(reviews.micro_mdp(horizon=horizon))[0])
    no_end = mdp.TokenMDP(micro.actions, horizon, lambda tokens, mask: torch.zeros(len(tokens)), eos=None)
    without = len(mdp.enumerate_episodes(no_end)[0])
    rows.append((horizon, without, 10**horizon, with_end, number_of_episodes(10, horizon)))
    assert without == 10**horizon and with_end == number_of_episodes(10, horizon)
show.table(rows, ["K", "listed, no end", "A^K", "listed, with an end", "your formula (or ours)"], caption="Ten words")

# %% [markdown]
# <details><summary>The derivation</summary>
#
# An episode that ends by itself with $t$ actions is $t-1$ words and the end: $(A-1)^{t-1}$ of them, for
# $t = 1 \dots K$. One that is cut off is $K$ words: $(A-1)^K$. Together
#
# $$\sum_{t=1}^{K} (A-1)^{t-1} + (A-1)^K = \sum_{t=0}^{K} (A-1)^t = \frac{(A-1)^{K+1} - 1}{A - 2} \quad (A > 2).$$
#
# This is a *little less* than $A^K$: a text that has ended leaves no choices.
#
# </details>
#
# *Predict: how many tokens must a text have before there are more texts than atoms in the universe, about*
# $10^{80}$*?*

# %%
ATOMS = 80  # log10
rows = [("chess, 80 moves", 35, 80, 80 * math.log10(35)), ("Go, 150 moves", 250, 150, 150 * math.log10(250))]
for name, actions in (("micro", 10), ("tiny LM", 8_192), ("SmolLM2", 49_152), ("the lecture's controller", 100_000)):
    for horizon in (4,) if name == "micro" else (K, 100):
        rows.append((name, actions, horizon, math.log10(number_of_episodes(actions, horizon))))
show.table(
    [(*row, math.ceil(ATOMS / math.log10(row[1]))) for row in rows],
    ["", "actions", "K", "log10(episodes)", "steps until 10^80"],
    formats={"log10(episodes)": ".1f"},
)

assert 16 * math.log10(8192) - 0.01 < rows[3][3] < 16 * math.log10(8192)  # a little less than A^K
assert math.ceil(ATOMS / math.log10(100_000)) == 16

# %% [markdown]
# Sixteen presses of the lecture's controller. No search, table or list will ever cover that. Chess and Go are no
# smaller in the end, but they take a whole game to get there; a language model is there after one line of text. So
# how can RL on language work at all?
#
# ## 8 · How many buttons does the policy *really* consider?
#
# A button that is pressed once in a billion times is there only in name. To count the buttons that are in play, take
# the *entropy* of the policy in a state, the doubt about the next token:
#
# $$H\big(\pi(\cdot \mid s)\big) = -\sum_a \pi(a \mid s) \log \pi(a \mid s).$$
#
# (Logarithms are natural ones.) With $n$ equally likely buttons $H = \log n$. Turn this round: $e^{H}$ is the number of
# equally likely buttons that would leave the same doubt. A sure choice is 1 button, complete ignorance is all 8,192.
#
# **Exercise 01.6 · How many buttons are in play** (implement · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# Return $e^H$ for each row of `logprobs [N, A]`, shape `[N]`. Some buttons have probability 0, so their
# log-probability is $-\infty$; they add nothing.


# %% tags=["exercise"]
def buttons_considered(logprobs):
    """exp of the entropy (in nats) of each row: log-probabilities [N, A] -> [N]."""
    ### BEGIN SOLUTION
    probs = logprobs.exp()
    terms = torch.where(probs > 0, probs * logprobs, 0.0)
    return (-terms.sum(-1)).exp()
    ### END SOLUTION


# %%
buttons_considered = check("01.6", buttons_considered)

# %% [markdown]
# Now the tiny model reads the lecture's opening. Before each word: of 8,192 buttons, how many did it consider?
#
# *Predict: where along* "I loved the book but really hated the movie." *is the model most in doubt, and where is it
# nearly sure?*

# %%
ids = torch.tensor([models.encode_prompt(tokenizer, reviews.LECTURE_OPENING + ".")])
with torch.no_grad():
    logits, _ = policy(ids, torch.ones_like(ids), last=ids.shape[1])  # in each state, of each button
considered = buttons_considered(logits[0].log_softmax(-1))
pieces = [tokenizer.decode([i]) for i in ids[0, 1:]] + ["<end>"]

show.figure(
    show.words_under_sentence(pieces, considered.tolist(), "buttons considered", spec=",.0f", log=True),
    alt="Under each token the number of buttons the tiny model considered before it: "
    + ", ".join(f"{piece.strip()} {n:.0f}" for piece, n in zip(pieces, considered.tolist(), strict=True)),
)
assert (considered > 1).all() and (considered < 8192).all()

# %% [markdown]
# The bar on a word is the doubt *before* it was written. After "the" almost any noun may come; after the full stop
# the model knows that its sentences end. The vocabulary is the same at every step, the choice is not.
#
# The policy's *temperature* divides the logits before the softmax: below 1 the policy becomes surer, above 1 more
# even. *At which temperature does it consider half of all buttons?*


# %%
def draw_buttons(temperature):
    n = buttons_considered((logits[0] / temperature).log_softmax(-1))
    typical = n.log().mean().exp().item()
    title = f"temperature {temperature:g}: typically {typical:,.0f} of 8,192"
    return show.words_under_sentence(pieces, n.tolist(), "buttons considered", title=title, spec=",.0f", log=True)


show.slider_figure(
    draw_buttons,
    alt=lambda temperature: f"Buttons considered before each token at temperature {temperature:g}.",
    temperature=(0.2, 3.0, 0.1, 1.0),
)

# %% [markdown]
# One sentence is an anecdote. So here are 50 held-out sentences and three models: ours, one of the same shape with
# random weights, and SmolLM2, a model of 135 million weights with 49,152 buttons (its numbers are stored: it takes a
# while). "Typical" is the geometric mean, $\exp$ of the mean entropy. *Predict its order of magnitude for each model.*

# %%
every = reviews.load().subset("test").texts
some = [every[i * len(every) // 50] for i in range(50)]
torch.manual_seed(0)
untrained = models.Policy(type(policy.lm)(policy.lm.config), tokenizer, name="untrained")

stored = results.load("01_buttons")  # SmolLM2 on four other draws of 50 test sentences
keys = ("typical", "tenth", "ninetieth")
smol = {key: runs.mean_interval(stored[key]) for key in keys}
found = {
    "tiny LM, random weights": (8192, *metrics.buttons_considered(untrained, some).values()),
    "tiny LM": (8192, *metrics.buttons_considered(policy, some).values()),
    "SmolLM2": (stored["actions"][0], *(smol[key][0] for key in keys)),
}
rows = [(name, *row, row[1] / row[0]) for name, row in found.items()]
columns = ["policy", "buttons", "typically considered", "10 % of states below", "10 % above", "share"]
show.table(rows, columns, formats={**dict.fromkeys(columns[2:5], ",.0f"), "share": ".1%"})
print("SmolLM2, typically: {:.0f} (95 % interval over 4 draws of sentences {:.0f} to {:.0f})".format(*smol["typical"]))
assert found["tiny LM, random weights"][1] > 0.9 * 8192
assert smol["typical"][2] < found["tiny LM"][1] < 0.02 * 8192  # even at the interval's upper end

# %% [markdown]
# **This is the answer to "how to scale RL?"** A policy with random weights has the whole controller in its hands.
# Pre-training takes nearly all of the buttons out of play before the first reward is seen. And the size of the
# controller hardly matters: SmolLM2 has six times as many buttons as our model, and considers fewer. (Don't
# read more into the comparison. Its tokens are others, and it has not been brought up on film reviews.) RL then only
# has to choose among what is left. Where the lecture calls pre-training "weight initialization", this is what the
# initialisation buys.
#
# The other side of it: what the policy does not consider it will not try, and what it does not try RL cannot reward.
#
# ### How many reviews, then?
#
# Entropies of steps add up to the entropy of whole episodes (the chain rule), so $e^H$ of an episode counts the
# reviews in play. At `micro` that is exact; on the tiny model it is a mean of $-\log p(y)$ over the 64 reviews that
# we drew in section 5. *Predict: still more than atoms?*

# %%
states = mdp.exact_values(micro, uniform).states  # the 820 partial texts, in the order of a table's rows
lengths = torch.tensor([len(s) for s in states])
padded = torch.tensor([[*s, *[0] * (micro.horizon - len(s))] for s in states])
with torch.no_grad():
    rows = confined(padded)[torch.arange(len(states)), lengths]  # log-probabilities of the ten words in each state
    as_table = models.TablePolicy(micro)
    as_table.logits.copy_(rows)
    log_p = mdp.action_logprobs(micro, as_table, tokens, mask).sum(1)
    whole = -(log_p.exp() @ log_p)  # the entropy of whole episodes
    step_by_step = mdp.state_distribution(micro, as_table) @ buttons_considered(rows).log()
print(f"micro: {len(tokens):,} reviews, {whole.exp():.1f} of them in play")
assert torch.isclose(whole, step_by_step, atol=1e-4)

surprise = -written.logprobs.sum(1) / math.log(10)
middle, low, high = runs.mean_interval(surprise.tolist())
possible = math.log10(number_of_episodes(8192, 48))
print(
    f"tiny LM, K = 48: 10^{possible:.0f} reviews, about 10^{middle:.0f} in play (95 %: 10^{low:.0f} to 10^{high:.0f})"
)
assert high < 0.6 * possible

# %% [markdown]
# Fewer than atoms, yet out of reach of any list; and a vanishing part of what could be typed. From here on, learning
# means: draw a few of them, score them, and make the better ones likelier.
#
# ## What to take along
#
# - Text is an MDP with a trivial transition (append), a huge action space and one late reward. The state is
#   everything so far, so it is Markov for free.
# - A policy is a distribution, $\pi_\theta(a \mid s)$. $J(\theta) = \sum_y p_\theta(y)\,G(y)$: exact where episodes
#   can be listed, a sample mean with an interval of $\pm 1.96\,\sigma/\sqrt N$ everywhere else.
# - A horizon of $K$ has the terms $t = 0 \dots K-1$. With a reward at the end, $G = \gamma^{T-1}R$: $\gamma < 1$
#   shortens good texts and draws out bad ones.
# - 35, 250, 8,192, 100,000 actions; $\sum_{t \le K} (A-1)^t$ episodes. What counts is how many are in play: $e^H$.

# %%
quiz(
    "A review gets its score at the end, and γ = 1. Which word gets the reward r_t = score?",
    {
        "Each of its words": "No: then a review of ten words would be worth ten times its score.",
        "The last action, often the end token": "Its action completes the text; all others get r_t = 0. How the "
        "earlier words nevertheless learn of it is the subject of lessons 03 to 06.",
        "The word that made it positive": "Nobody knows which that was. To find out is the critic's job (lesson 06); "
        "the reward itself does not say.",
    },
    correct="The last action, often the end token",
)

# %%
quiz(
    "Why is text Markov, although words refer far back?",
    {
        "Because language models look at a few words only": "No: ours reads everything from the opening on, and "
        "section 1 measured how much that matters.",
        "Because the state is the whole text so far": "The state holds its own history. Nothing older is left that "
        "could add anything.",
        "It is not; we pretend": "With 'the last word' as the state we would be pretending. With all of the text we "
        "are not.",
    },
    correct="Because the state is the whole text so far",
)

# %%
quiz(
    "A policy's entropy in some state is log 20. What do you know?",
    {
        "20 tokens have a probability above 0": "No: all of them have. It says how the probability is spread.",
        "Its doubt is that of 20 equally likely tokens": "That is what exp(entropy) counts; there may be one "
        "favourite and a long tail.",
        "The likeliest token has probability 1/20": "Only if the 20 are equally likely. In general the favourite has "
        "more.",
    },
    correct="Its doubt is that of 20 equally likely tokens",
)

# %%
quiz(
    "A sampled J has the interval ±0.4 from 100 episodes. You need ±0.04. How many episodes?",
    {
        "1,000": "That gives 0.4/√10, about 0.13.",
        "10,000": "Width falls as 1/√N: a tenth of it costs a hundred times the episodes.",
        "1,000,000": "That would give ±0.004.",
    },
    correct="10,000",
)

# %% [markdown]
# **Next:** [02 · Values, policies, actor-critics](02_values_policies_actor_critics.ipynb). The score comes at the
# end; how good is a sentence that is not finished? Or go straight on to [04 · The policy gradient theorem and
# REINFORCE](04_policy_gradient_and_reinforce.ipynb), where the policy begins to learn.
