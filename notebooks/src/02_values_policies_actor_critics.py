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
# # 02 · Values, policies, actor-critics
#
# **How good is a sentence that is not finished, and what can an agent do with the answer?**
#
# The score comes when the text is over. An agent has to choose words before that, so it needs an opinion about half a
# sentence, or else a way to do without one. The lecture sorts all of RL by this choice: learn *values*, learn a
# *policy*, or learn both. This lesson does each on the same small task, and measures every advantage and disadvantage
# that the slide claims.
#
# After it you can
# - define $V$, $Q$ and $A$ for partial sentences, compute them exactly, and get one from the other;
# - say why values of partial sentences are hard to judge, in numbers;
# - write a value-based, a policy-based and an actor-critic learner, three to six lines each, and tell them apart;
# - say when only a mixed policy is best, when policy gradients get stuck, and what their estimates cost.
#
# | | |
# |---|---|
# | Before this | lesson 01: states, actions, returns, $J$ |
# | Reading | about 45 minutes, with the exercises about 100 |
# | Run time | about 20 seconds on 2 cores; the first time half a minute more, to train the SFT policy of section 3 |
# | With a GPU | nothing changes: all of this is small |

# %%
from rlhf_lib.course.lesson import *

task = reviews.micro_mdp(horizon=3)  # ten words; go on from "awful" with at most 3 of them
K, WORDS = task.horizon, task.actions
tokens, mask = mdp.enumerate_episodes(task)  # every way to go on
score = task.reward(tokens, mask).double()
print(*WORDS, f"  {len(tokens)} reviews, the best: awful", *(WORDS[w] for w in tokens[score.argmax()]))

# %% [markdown]
# ## 1 · Three numbers for an unfinished review
#
# Our world is lesson 01's review language with three words to write. (What comes after "but" counts three times as
# much as what came before, so it pays to turn a text round.) The writer, for a start, is **blind**: it presses each of
# the ten buttons with probability 1/10.
#
# *Predict: it has written "awful great". What score should you expect in the end? And after "awful but"?*
#
# Take all reviews that begin so, weight each by how likely the writer is to end there, and average. That is the
# **value** $V^\pi(s)$ of the partial sentence $s$:

# %%
chance = 0.1 ** mask.sum(1).double()  # the blind writer's probability of each review


def value_of(*words):
    """V of "awful" and these words: the mean score of all reviews that begin so."""
    begins = (tokens[:, : len(words)] == torch.tensor(reviews.micro_ids(words), dtype=torch.long)).all(1)
    return (chance[begins] @ score[begins] / chance[begins].sum()).item()


for words in ((), ("great",), ("but",), ("but", "very"), ("great", "great"), ("not",)):
    print(f"V(awful {' '.join(words):10}) = {value_of(*words):+.2f}")
assert abs(value_of("great") + 0.06) < 0.005 and value_of("but") < -1.5  # all of this is exact

# %% [markdown]
# "awful but" looks promising to you, since you know what to say next. The blind writer does not, and ends below −1.5
# on average. A value belongs to a sentence *and to a writer*.
#
# In general, with rewards on the way and a discount, the value of $s_t$ is the expected return from there on:
#
# $$V^\pi(s_t) = \mathbb{E}_{a_t, a_{t+1}, \dots \sim \pi}\Big[\sum_{\tau=t}^{T-1} \gamma^{\tau-t} R(s_\tau, a_\tau)
# \;\Big|\; s_t\Big].$$
#
# > **Slips on the slide.** It has
# > $V_t^\pi = \mathbb{E}_{a_t\sim\pi}\big[\sum_{\tau=t}^{K} \gamma R(s_\tau, a_\tau)\big]$.
# > The exponent $\tau - t$ is missing: as it stands, a reward is discounted once, whenever it comes. The sum to $K$
# > allows one action too many. And, given $s_t$, the expectation is over *all* the actions to come.
#
# *Predict: by how much do the first two change* $V(\text{awful})$ *at* $\gamma = 0.5$*?*

# %%
gamma, steps = 0.5, mask.sum(1) - 1  # steps: τ − t of the one reward, at the last word
longer = reviews.micro_mdp(horizon=4, gamma=gamma)
V_awful = {
    "right": (chance @ (gamma**steps * score)).item(),
    "exponent missing": (chance @ (gamma * score)).item(),
    "one action too many": mdp.exact_objective(longer, models.TablePolicy(longer).double()).item(),
}
show.table(list(V_awful.items()), ["V(awful) at γ = 0.5", "value"])

library = mdp.exact_values(reviews.micro_mdp(horizon=3, gamma=gamma), models.TablePolicy(task).double())
assert abs(V_awful["right"] - library.v[0].item()) < 1e-12
assert V_awful["exponent missing"] + 0.1 < V_awful["right"] < V_awful["one action too many"] - 0.1

# %% [markdown]
# Either slip moves the value by more than a tenth, one down, the other up.
#
# The library's `mdp.exact_values(task, policy)` does this for every partial sentence. It also gives two numbers for
# each word that could come next:
#
# - the **Q-value** $Q^\pi(s, a)$: the expected return when $a$ comes next and the policy goes on from there. The
#   lecture: *utility of performing an action in the current state*.
# - the **advantage** $A^\pi(s, a) = Q^\pi(s, a) - V^\pi(s)$: how much better $a$ is than what the policy does on
#   average.
#
# $V$ is the policy's own average of $Q$, so advantages average to zero: $\sum_a \pi(a|s)\, A^\pi(s,a) = 0$. And the
# value of the very beginning, $V(\text{awful})$, is lesson 01's $J$.

# %%
blind = models.TablePolicy(task).double()  # a softmax table over partial sentences; it starts uniform
with torch.no_grad():
    V, Q, A, states = mdp.exact_values(task, blind)
index = {state: row for row, state in enumerate(states)}
print(f"{len(states)} partial sentences, {Q.numel()} Q-values;  V(awful) = {V[0]:.4f} = J")

assert abs(V[0] - value_of()) < 1e-12 and abs(V[index[tuple(reviews.micro_ids(["but"]))]] - value_of("but")) < 1e-12
torch.testing.assert_close((0.1 * Q).sum(1), V, rtol=0, atol=1e-12)
torch.testing.assert_close((0.1 * A).sum(1), torch.zeros_like(V), rtol=0, atol=1e-12)

# %% [markdown]
# ### The tree of partial sentences
#
# Each column offers the ten words that may come next, with their Q. Blue is better than the writer's average (A > 0),
# orange worse. The sliders choose the first two words. *Where does the number in a chosen box turn up again?*


# %%
@show.style()
def draw_tree(first, second):
    path, names = reviews.micro_ids([first, second]), ["awful", f"awful {first}", f"awful {first} {second}"]
    fig, ax = show.new_figure(size=(9.2, 5.2))
    ax.text(-0.8, -4.5, "awful", ha="center", va="center", weight="bold")
    for column in range(K):
        here, x = index[tuple(path[:column])], 2.7 * column + 1.5
        ax.text(x, 1.0, f"after “{names[column]}”\nV = {V[here]:+.2f}", ha="center", weight="bold")
        start = (x - 2.0, -path[column - 1]) if column else (-0.3, -4.5)
        for a, word in enumerate(WORDS):
            chosen, strength = path[column : column + 1] == [a], min(abs(A[here, a].item()) / 2.5, 1.0)
            full = (0.45, 0.75, 1.0) if A[here, a] > 0 else (1.0, 0.72, 0.4)
            box = {"facecolor": [1 - strength * (1 - c) for c in full], "edgecolor": "#d55e00" if chosen else "#888888"}
            label = f"{word:<6}{Q[here, a]:+.2f}"
            style = {"family": "monospace", "fontsize": 11, "color": "#111111"}
            ax.text(x, -a, label, ha="center", va="center", bbox=box | {"linewidth": 3 if chosen else 0.5}, **style)
            ax.plot([start[0], x - 0.75], [start[1], -a], color="#888888", lw=0.7, zorder=0)
    ax.set(xlim=(-1.3, 7.9), ylim=(-9.6, 2.0))
    ax.axis("off")
    return fig


# %%
goes_on = ["great", "good", "dull", "bad", "awful", "very", "not", "and", "but"]
show.slider_figure(
    draw_tree,
    alt=lambda first, second: (
        f"Q of the ten next words after awful, after awful {first}, and after awful {first} "
        f"{second}. The Q of a chosen word is the V of the column that it opens."
    ),
    labels={"first": "first word", "second": "second word"},
    first=goes_on,
    second=["but", *goes_on[:-1]],
)

# %% [markdown]
# The Q of a chosen box is the V above the column that it opens. Section 2 makes that exact.
#
# **Exercise 02.1 · The advantage of a habit** (predict · difficulty ●●○○○ · importance ●●●●○ · 4 min)
#
# A writer has learnt that "great" is the best word after "awful", and now writes it there 99 times in 100. (After that
# it is as blind as before.) What is $A^\pi(\text{awful}, \text{great})$ for this writer? One of `"large and positive"`,
# `"near 0"`, `"negative"`.

# %% tags=["exercise"]
habit = (
    ### BEGIN SOLUTION
    "near 0"
    ### END SOLUTION
)

# %%
habit = check("02.1", habit)

# %%
rows, great = [], WORDS.index("great")
for probability in (0.1, 0.5, 0.9, 0.99):
    writer = models.TablePolicy(task).double()
    writer.logits.data[0, great] = math.log(9 * probability / (1 - probability))  # after "awful" only
    v, q, a, _ = mdp.exact_values(task, writer)
    rows.append((probability, q[0, great].item(), v[0].item(), a[0, great].item()))
show.table(
    rows, ["π(great|awful)", "Q(awful, great)", "V(awful)", "A(awful, great)"], formats={"π(great|awful)": ".2f"}
)
assert all(abs(row[1] - rows[0][1]) < 1e-12 for row in rows) and rows[0][3] > 1.5 > 0.02 > rows[-1][3] > 0

# %% [markdown]
# Q does not care how often the word is written; A does. An advantage fades as its lesson is learnt.
#
# ## 2 · For text, Q is V shifted by a word
#
# The lecture defines Q by a step and then V:
#
# $$Q^\pi(s_t, a_t) = R(s_t, a_t) + \gamma\, \mathbb{E}_{s_{t+1} \sim P}\big[V^\pi(s_{t+1})\big].$$
#
# > **A slip on the slide.** It calls this $P_t^\pi(s_t, a_t)$, and $P$ is also what $s_{t+1}$ is drawn from. The left
# > one is $Q$. The right one is the transition function, which the slide with the 6-tuple calls $T$.
#
# In general that is an average over where the action may lead. In text it leads to one place: $s_{t+1}$ is the
# sentence with the word appended, $s{\cdot}a$. So the expectation goes, and
#
# $$Q^\pi(s, a) = r(s, a) + \gamma\, V^\pi(s{\cdot}a), \qquad V^\pi(\text{finished}) = 0.$$
#
# *Predict: at how many of the 910 pairs does it hold, at γ = 0.5, for a policy with random numbers in its table?*

# %%
before = torch.tensor([[*s, a] + [task.eos] * (K - 1 - len(s)) for s in states for a in range(10)])
length = torch.tensor([len(s) for s in states])
taken = torch.arange(K) <= length.repeat_interleave(10)[:, None]
after = torch.tensor([[index.get((*s, a), -1) for a in range(10)] for s in states])  # the row of s·a
over = after < 0  # s·a is a finished text
pay = torch.where(over, task.reward(before, taken).view(-1, 10), 0.0).double()  # r(s, a): the score, at the end

for gamma in (1.0, 0.5):
    writer = models.TablePolicy(task).double()
    torch.nn.init.normal_(writer.logits, generator=runs.generator(2))
    v, q, _, _ = mdp.exact_values(reviews.micro_mdp(horizon=3, gamma=gamma), writer)  # from lists of whole reviews
    gap = (q - (pay + gamma * torch.where(over, 0.0, v[after]))).abs()
    print(f"γ = {gamma}: Q and r + γV(s·a) agree at {(gap < 1e-12).sum()} of {gap.numel()} pairs")
    assert gap.max() < 1e-12

# %% [markdown]
# At every one, to rounding. Along a sentence, **one is the other shifted by a word**. Look at it under a review (at
# γ = 1, for the blind writer): the bar of $Q$ under a word is the bar of $V$ under the next.

# %%
review = ["great", "but", "great"]
path = reviews.micro_ids(review)
rows = [index[tuple(path[:t])] for t in range(K)]
show.figure(
    show.words_under_sentence(
        review,
        {
            "V before it": V[rows].tolist(),
            "Q of it": Q[rows, path].tolist(),
            "A of it": A[rows, path].tolist(),
        },
        spec="+.3f",
    ),
    alt="Under great, but, great: V before each word, its Q, and its A. Each Q is the next word's V; the last Q is the "
    "score.",
)
assert torch.allclose(Q[rows[:-1], path[:-1]], V[rows[1:]]) and abs(Q[rows[-1], path[-1]] - 2.25) < 1e-6

# %% [markdown]
# So a *critic* for language, a learnt judge of the words as they are written (section 4), needs one number a position,
# $V$, and gets Q for every word *that was written* for free. To *choose* a word by V is another matter: V must be asked
# about $s{\cdot}a$ for each $a$, with our tiny model 8,192 sentences a step.
#
# **Exercise 02.2 · One word on** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# A batch of sentences: `rewards[b, t]` came with word t, `values[b, t]` is $V(s_t)$, the value *before* word t. Return
# $Q(s_t, a_t)$, `[B, T]`. Sentences are right-padded: where `mask` is False there is no word, the inputs may hold
# anything, and the result is 0. By hand, γ = 0.5: rewards `[0, 0, 4]`, values `[1, 2, 3]` give `[1, 1.5, 4]`.


# %% tags=["exercise"]
def q_along(rewards, values, mask, gamma):
    """Q of each word written, from the values along the sentence: [B, T]."""
    ### BEGIN SOLUTION
    values = torch.where(mask, values, 0.0)  # no future after the last word
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    return torch.where(mask, rewards + gamma * following, 0.0)
    ### END SOLUTION


# %%
q_along = check("02.2", q_along)
on_the_way = torch.zeros(1, K).double()
on_the_way[0, -1] = 2.25
assert torch.allclose(q_along(on_the_way, V[rows][None], torch.ones(1, K).bool(), 1.0), Q[rows, path][None])

# %% [markdown]
# ### Backwards through the tree
#
# The same identity computes all values without listing a single review: begin with the longest sentences, whose words
# end the text, and go back. `pi` is a policy as a table of probabilities, `[R, S, A]`: agents, states, words. There is
# room for several agents, since we shall soon train 32 side by side.


# %%
def backwards(pi, gamma=1.0):
    """V [R, S] and Q [R, S, A] of policies pi [R, S, A]."""
    v, q = pi.new_zeros(pi.shape[:2]), torch.zeros_like(pi)
    for t in reversed(range(K)):
        here = length == t
        q[:, here] = pay[here] + gamma * torch.where(over[here], 0.0, v[:, after[here]])
        v[:, here] = (pi[:, here] * q[:, here]).sum(-1)
    return v, q


v, q = backwards(torch.full((1, len(states), 10), 0.1, dtype=torch.float64))
torch.testing.assert_close(v[0], V, rtol=0, atol=1e-12)
torch.testing.assert_close(q[0], Q, rtol=0, atol=1e-12)

# %% [markdown]
# And it *improves* policies: ask for Q, take the best word everywhere, evaluate again. Each round settles at least one
# more word from the end, so after three rounds at most we have the best writer there is. Its policy is **implicit**:
# "the word with the highest Q".


# %%
def best_word(q):
    """The greedy policy of a Q-table, as probabilities."""
    return torch.nn.functional.one_hot(q.argmax(-1), 10).to(q.dtype)


pi = torch.full((1, len(states), 10), 0.1, dtype=torch.float64)
for round_ in range(K):
    v, q = backwards(pi)
    pi = best_word(q)
    print(f"round {round_ + 1}: V(awful) = {v[0, 0]:+.3f}, then {backwards(pi)[0][0, 0]:+.3f} by the words of best Q")
V_best, Q_best = (x[0] for x in backwards(pi))
assert abs(V_best[0] - score.max()) < 1e-6 and (V_best >= V - 1e-12).all()

# %% [markdown]
# ## 3 · Why values of partial sentences are hard to judge
#
# The slide, on value-based methods: *values / rewards of partial sentences hard to judge*. Three reasons.
#
# ### The score so far is not the value
#
# *Predict: order the seven `beginnings` in the next cell by score so far, then by value for the best writer.*

# %%
stands = torch.tensor([[*s, *[task.eos] * (K - len(s))] for s in states])
so_far = task.reward(stands, torch.arange(K) < length[:, None]).double()  # judged as if it ended here
beginnings = [[], ["great"], ["but"], ["and"], ["great", "great"], ["great", "but"], ["but", "very"]]
rows = []
for words in beginnings:
    i = index[tuple(reviews.micro_ids(words))]
    rows.append((" ".join(["awful", *words]), so_far[i].item(), V[i].item(), V_best[i].item()))
columns = ["beginning", "score so far", "V, blind writer", "V, best writer"]
show.table(rows, columns, formats=dict.fromkeys(columns[1:], "+.2f"))
assert so_far[index[tuple(reviews.micro_ids(["but", "very"]))]] == -3 and rows[6][3] > 2 > rows[4][3] > rows[4][1]

# %% [markdown]
# "awful but very" scores no better than plain "awful" if you stop there, and is worth more than "awful great great" to
# those who can finish it. What stands there says nothing about who is going to write the rest. So a model that judges
# *finished* reviews is no value function; lesson 09 measures that on a real one.
#
# ### From one beginning, many endings
#
# A value is a mean of final scores, and these differ a lot. In this picture of the tree the height is the value:
# each line adds a word, and the dots on the right are finished reviews. *Predict: after two of three words, how much
# of the final score is decided?*


# %%
@show.style()
def draw_heights():
    fig, ax = show.new_figure("words written", "V, in the end the score", size=(8, 4.4))
    x, y, ends = [], [], []
    for i, state in enumerate(states):
        for a in range(10):
            x += [len(state), len(state) + 1, math.nan]
            y += [V[i].item(), Q[i, a].item(), math.nan]
            ends += [(len(state) + 1, Q[i, a].item())] * bool(over[i, a])
    ax.plot(x, y, color="#888888", linewidth=0.5, alpha=0.6)
    ax.plot(*zip(*ends, strict=True), ".", color="#2b7fbf", markersize=5, alpha=0.7, label="finished reviews")
    for words in (["great", "but", "great"], ["but", "very", "great"]):
        ids = reviews.micro_ids(words)
        heights = [V[index[tuple(ids[:t])]].item() for t in range(K)] + [Q[index[tuple(ids[:2])], ids[2]].item()]
        marker, colour = ("o-", "#d55e00") if words[0] == "great" else ("s--", "#009e73")
        ax.plot(range(K + 1), heights, marker, color=colour, label="awful " + " ".join(words))
    ax.set(xticks=range(K + 1), xlim=(-0.1, 3.15))
    ax.legend(loc="lower left")
    return fig


show.figure(
    draw_heights(),
    alt="The tree with V as height fans out from −1.6 to final scores between −4 and +2.3. The path of awful but very "
    "great falls to −2 after two words and then jumps to the top.",
)

# %% [markdown]
# The more words are written, the further apart are the values $V(s_t)$ of what may stand there after $t$ words, and the
# less is left open. The variances of both add up to that of the final score $G$ (the law of total variance):
#
# $$\mathrm{Var}(G) = \underbrace{\mathrm{Var}\big(V(s_t)\big)}_{\text{decided}}
# + \underbrace{\mathbb{E}\big[\mathrm{Var}(G \mid s_t)\big]}_{\text{left open}}.$$

# %%
total = chance @ (score - V[0]) ** 2
decided = []
for t in range(K + 1):
    beginning = torch.where(torch.arange(K) < t, tokens, -1)
    _, group = beginning.unique(dim=0, return_inverse=True)
    weight = torch.zeros(int(group.max()) + 1).double().index_add(0, group, chance)
    value = torch.zeros_like(weight).index_add(0, group, chance * score) / weight
    left_open = chance @ (score - value[group]) ** 2
    torch.testing.assert_close(weight @ (value - V[0]) ** 2 + left_open, total)
    decided.append((t, 1 - (left_open / total).item(), left_open.sqrt().item()))
show.table(
    decided,
    ["words written", "share of Var(G) decided", "standard deviation left"],
    formats={"share of Var(G) decided": ".0%", "standard deviation left": ".2f"},
)
assert 0.36 < decided[1][1] < 0.37 and 0.66 < decided[2][1] < 0.67

# %% [markdown]
# After two words of three, a third is still open.
#
# Now real text: the tiny language model after supervised fine-tuning (SFT; lesson 07 makes it) finishes beginnings of a
# review in the lecture's manner, 48 times each. Each such ending is a **roll-out**. VADER, a word list with a feeling
# for each word and a few rules, scores the whole text from −1 to +1. *Predict: where along the review is the end
# decided? Does the score so far foretell it?*

# %%
policy, vader = stages.sft_policy(), rewards.vader()
review = "I loved the book but really hated the movie at first, but I warmed slowly as I watched"
words = review.split()
cuts = (2, 4, 7, 9, 12, len(words))
beginnings = [" ".join(words[:n]) for n in cuts]
written = rollout.sample(
    policy, beginnings, max_new_tokens=24, samples_per_prompt=48, generator=torch.Generator().manual_seed(0)
)
final = vader(written).view(len(cuts), 48)
as_it_stands = vader(rollout.from_texts(policy, [(words[0], " " + " ".join(words[1:n])) for n in cuts])).tolist()
show.text_samples(beginnings[:4], {f"ending {k + 1}": written.completions()[k::48][:4] for k in range(3)})


# %%
@show.style()
def draw_spread():
    fig, ax = show.new_figure("VADER's score of the whole text", size=(8, 4.2))
    names = ["one roll-out", "their mean, an estimate of V", "score so far"]
    thick = {"fmt": "o", "color": "#d55e00", "capsize": 4, "ms": 8, "lw": 3}
    for row, scores in enumerate(final.tolist()):
        lift = [row + 0.5 * ((k * 0.618) % 1 - 0.5) for k in range(len(scores))]  # so that dots do not hide each other
        mean, low, high = runs.mean_interval(scores)
        ax.plot(scores, lift, ".", color="#2b7fbf", alpha=0.7, label=names[0])
        ax.errorbar(mean, row, xerr=[[mean - low], [high - mean]], label=names[1], **thick)
        ax.plot(as_it_stands[row], row, "D", mfc="none", mec="#000000", ms=10, label=names[2])
        names = ["_", "_", "_"]  # one entry each in the legend
    ax.set_yticks(range(len(cuts)), ["… " + " ".join(words[max(0, n - 3) : n]) for n in cuts])
    ax.invert_yaxis()
    fig.legend(loc="outside upper center", ncols=3)
    return fig


# %%
show.figure(
    draw_spread(),
    alt="Final scores of 48 roll-outs from each of six beginnings of a review, with their mean and the score so far: "
    "the dots spread widely, wherever the review is cut.",
)
spread = final.std(1)
needed = [math.ceil((1.96 * sd / 0.1) ** 2) for sd in spread.tolist()]
rows = list(zip(beginnings, as_it_stands, final.mean(1).tolist(), spread.tolist(), needed, strict=True))
columns = ["beginning", "score so far", "V, estimated", "standard deviation", "roll-outs for V ± 0.1"]
show.table(rows, columns, formats=dict.fromkeys(columns[1:4], ".2f"))
assert spread.mean() > 0.2 and (final.amax(1) - final.amin(1)).mean() > 1
assert final[2:5].mean() > as_it_stands[2] + 0.05  # the three cuts after "hated"

# %% [markdown]
# Nowhere along this review is the end decided: from each beginning the scores cover a good part of the scale, and one
# roll-out says little about their mean. From "hated" on, the mean lies above the score so far, since this model,
# brought up on positive reviews, still turns some of its texts. (And VADER is a kind judge: it adds up words, so what
# is written stays written. A judge that reads for sense makes it harder.) To know the value of *one* beginning to a
# tenth takes the roll-outs in the last column, and every word of every text is a new beginning.
#
# ### Most sentences are never seen
#
# So values must be *learnt*: guess what is new from what was seen before. Let the blind writer make 100 reviews, and
# learn V from them in two ways. A **table** keeps the mean return of each beginning. A **value function** with 22
# weights knows only which words occur and which comes last, and is fitted to the same returns by least squares.
#
# *Predict: which is better where the table has something to say?* (The bars are means over 8 draws of 100 reviews, with
# 95 % intervals.)


# %%
def features(state):
    """1, the number of words, how often each of the ten occurs, and which is the last: 22 numbers."""
    x = torch.zeros(22, dtype=torch.float64)
    x[0], x[1] = 1, len(state)
    for word in state:
        x[2 + word] += 1
    if state:
        x[12 + state[-1]] = 1
    return x


X = torch.stack([features(state) for state in states])


# %%
def learn_values(seed, reviews_seen=100):
    """RMS errors (table seen, table unseen, function seen, function unseen) against the exact V."""
    drawn, used = mdp.sample_episodes(task, blind, reviews_seen, runs.generator(seed))
    G = mdp.episode_returns(task, drawn, used).double()
    at = [(index[tuple(drawn[n, :t].tolist())], n) for t in range(K) for n in used[:, t].nonzero().flatten().tolist()]
    visited, episode = torch.tensor(at).T
    count = torch.bincount(visited, minlength=len(states))
    table = torch.zeros(len(states)).double().index_add(0, visited, G[episode]) / count.clamp(min=1)
    seen, x = X[visited], torch.eye(22).double()
    weights = torch.linalg.solve(seen.T @ seen + x, seen.T @ G[episode])  # least squares, held a little towards 0
    errors = [(guess - V).square() for guess in (table, X @ weights)]
    return [e[rows].mean().sqrt().item() for e in errors for rows in (count > 0, count == 0)]


# %%
found = torch.tensor([learn_values(seed) for seed in range(8)]).T.tolist()
names = ["table, seen", "table, never seen", "function, seen", "function, never seen"]
fig = show.bars(dict(zip(names, found, strict=True)), "RMS error of V", horizontal=True, size=(8, 2.8))
show.figure(fig, alt="The learnt function is nearer the exact values than the table, also where the table has data.")
table_seen, table_new, seen, new = (sum(errors) / 8 for errors in found)
assert seen < table_seen < table_new and new < 0.7 * table_new

# %% [markdown]
# The function is better even where the table has data, because a mean of one or two returns is noise, and words that
# recur tell about each other. It is also wrong in a way that no amount of data repairs: 22 weights cannot say what
# "not" does. This is the trade of every **learnt value function**. In an LM the features are the network's own.
#
# ## 4 · Three kinds of agent
#
# The lecture's picture: two circles that overlap.
#
# | | learnt value | learnt policy | how it acts |
# |---|---|---|---|
# | **value-based** | Q (or V) | none | implicitly: the word of highest Q, now and then any word (ε-greedy) |
# | **policy-based** | none | π | draws from π |
# | **actor-critic** | V, the critic | π, the actor | draws from π |
#
# All three learn our task from episodes alone, in tables, with 32 copies side by side that differ in luck only. First
# what they share. An episode is a list of steps: state, word, reward, next state, `over` (does this word end the text?)
# and `alive` (1 while the text was still going on, 0 afterwards).

# %%
COPIES = torch.arange(32)


def epsilon_greedy(q, epsilon=0.2):
    """The implicit policy: the best word with 1 − ε, else any of the ten."""
    return (1 - epsilon) * best_word(q) + epsilon / 10


def softmax(logits):
    return logits.softmax(-1)


# %%
def live(learn, act, episodes=1000, every=50, seed=0):
    """32 agents learn. Exact J of the policies they act by and of their favourite words [2, points, 32]; the tables."""
    g, history = runs.generator(seed), []
    table = 1e-3 * torch.randn(32, len(states), 10, generator=g).double()  # Q or logits; a little noise against ties
    critic = torch.zeros(32, len(states)).double()  # V, for those who want one
    for episode in range(episodes + 1):
        if episode % every == 0:
            history.append(torch.stack([backwards(pi)[0][:, 0] for pi in (act(table), best_word(table))]))
        s, alive, steps = torch.zeros(32, dtype=torch.long), torch.ones(32).double(), []
        for _ in range(K):
            a = torch.multinomial(act(table[COPIES, s]), 1, generator=g).squeeze(1)
            steps.append((s, a, pay[s, a], after[s, a], over[s, a], alive))
            alive, s = alive * ~over[s, a], after[s, a]
        learn(table, critic, steps)
    return torch.stack(history, 1), table, critic


# %% [markdown]
# ### Value-based: Q-learning
#
# Watkins (1989): move $Q(s,a)$ a part $\alpha$ of the way, the *step size*, towards what the step has shown it to be,
# supposing the *best* word next:
#
# $$Q(s,a) \leftarrow Q(s,a) + \alpha\,\big[\,r + \gamma \max_{a'} Q(s{\cdot}a, a') - Q(s,a)\,\big].$$


# %%
def given_target(rewards, q_next, over, gamma):
    """What Q-learning learns towards: [N], [N, A], [N] -> [N]. It has a bug."""
    return rewards + gamma * q_next.amax(-1)


def update_q(table, critic, steps, target=given_target):
    for s, a, r, next_s, over, alive in steps:
        error = target(r, table[COPIES, next_s], over, 1.0) - table[COPIES, s, a]
        table[COPIES, s, a] += 0.5 * alive * error


for episodes in (250, 500, 1000):
    history, table, _ = live(update_q, epsilon_greedy, episodes, every=episodes)
    print(
        f"after {episodes:4} episodes: highest Q {table.max():6.1f}, favourite words earn {history[1, -1].mean():+.2f}"
    )
print(f"the best review there is earns {score.max():.2f}")

# %% [markdown]
# **Exercise 02.3 · Great expectations** (find the bug · difficulty ●●●○○ · importance ●●●●● · 10 min)
#
# No review earns more than 2.25, yet this Q-learner expects ever more. `over` is True where the word ended the text;
# `q_next` are the Q-values of the next state, and where there is none, those of some other row of the table. Find the
# bug and mend it: return the targets `[N]` for `rewards [N]`, `q_next [N, A]`, `over [N]` and `gamma`.


# %% tags=["exercise"]
def td_target(rewards, q_next, over, gamma):
    """r + γ max Q of what comes next: [N], [N, A], [N] -> [N]."""
    ### BEGIN SOLUTION
    return rewards + gamma * torch.where(over, 0.0, q_next.amax(-1))
    ### END SOLUTION


# %%
td_target = check("02.3", td_target)


def value_based(table, critic, steps):
    update_q(table, critic, steps, td_target)


# %% [markdown]
# This is `rlhf_lib.algorithms.q_learning`, which takes any language that is small enough. What does it expect of the
# blank page, if it may explore everything? (With α = 1, since in this world the same step always shows the same.)

# %%
learner = q_learning.EpsilonGreedy(task, epsilon=1.0).double()
config = q_learning.Config(steps=400, episodes_per_step=32, alpha=1.0)
q_learning.train(learner, task, config, runs.Run(progress=False))
print(f"highest Q before the first word {learner.q[0].max():.4f}; the best review there is earns {score.max():.4f}")
assert abs(learner.q[0].max() - score.max()) < 1e-6

# %% [markdown]
# ### Policy-based, and actor-critic
#
# Without values: draw a review, and make all of its words likelier in proportion to the score. That is REINFORCE;
# lessons 03 and 04 derive it. To make a word likelier, go up the gradient of its log-probability,
# $\nabla \log \pi(a|s)$. For a row of softmax logits this is 1 for the word written and 0 for the others, minus the
# probabilities.
#
# With both: the critic learns V, and tells the actor after each word whether things got better or worse than it had
# expected, $\delta = r + \gamma V(s{\cdot}a) - V(s)$. That is exercise 02.2's Q minus V: with the true V it would be
# the advantage itself, with a learnt one it is an estimate. Lesson 06 is about it.


# %%
def policy_based(table, critic, steps):
    G = sum(r * alive for _, _, r, _, _, alive in steps)
    for s, a, _, _, _, alive in steps:
        ascent = torch.nn.functional.one_hot(a, 10) - softmax(table[COPIES, s])  # ∇ log π(a|s)
        table[COPIES, s] += 0.1 * (alive * G)[:, None] * ascent


def actor_critic(table, critic, steps):
    for s, a, r, next_s, over, alive in steps:
        surprise = r + torch.where(over, 0.0, critic[COPIES, next_s]) - critic[COPIES, s]
        critic[COPIES, s] += 0.2 * alive * surprise
        ascent = torch.nn.functional.one_hot(a, 10) - softmax(table[COPIES, s])
        table[COPIES, s] += 0.2 * (alive * surprise)[:, None] * ascent


# %% [markdown]
# *Predict: which of the three finds the best words after 1,000 episodes? (Step sizes were tried out by hand, a few for
# each.)*

# %%
agents = {"value-based": (value_based, epsilon_greedy), "policy-based": (policy_based, softmax)}
agents["actor-critic"] = (actor_critic, softmax)
lives = {name: live(*agent, every=10) for name, agent in agents.items()}
x = list(range(0, 1001, 10))
lines = {f"{name}, as it acts": (x, history[0].T.tolist()) for name, (history, _, _) in lives.items()}
lines["value-based, favourite words"] = (x, lives["value-based"][0][1].T.tolist())
fig = show.curves(lines, "episodes", "J, exactly", exact={"best": score.max().item()}, size=(9, 4))
show.figure(
    fig,
    alt="J of four policies over 1,000 episodes, with 95 % intervals. Acting ε-greedily, Q-learning stays below the "
    "others; its favourite words, without exploring, end highest. Policy-based and actor-critic end near 1.5.",
)

# %%
rows = [
    (name, *runs.mean_interval(history[0, -1]), *runs.mean_interval(history[1, -1]), history[1, -1].max().item())
    for name, (history, _, _) in lives.items()
]
columns = ["32 agents each", "J as it acts", "95 % from", "to", "J of favourite words", "from", "to", "best agent"]
show.table(rows, columns, formats=dict.fromkeys(columns[1:], ".2f"))
favourites = {name: history[1, -1].mean().item() for name, (history, _, _) in lives.items()}
assert favourites["value-based"] > max(favourites["policy-based"], favourites["actor-critic"])

# %% [markdown]
# An honest verdict: on 91 states with ten words, the value-based learner finds the best words. (As it acts, a fifth of
# its words are still blind.) The other two mostly settle near 1.5. What do they write?

# %%
rows = []
for name, (_, table, _) in lives.items():
    state, favourite = torch.zeros(32, dtype=torch.long), [[] for _ in COPIES]
    for agent in range(32):
        row, done = 0, False
        while not done:
            word = table[agent, row].argmax().item()
            favourite[agent].append(WORDS[word])
            row, done = after[row, word].item(), over[row, word].item()
    texts = [" ".join(words) for words in favourite]
    counts = sorted({text: texts.count(text) for text in texts}.items(), key=lambda item: -item[1])
    rows.append((name, "\n".join(f"{n} × awful {text}" for text, n in counts[:4])))
show.table(rows, ["agent", "favourite reviews of its 32 copies, the most frequent"])

# %% [markdown]
# These two praise and praise ("great great great", 1.5) and rarely turn with "but". Why? To a writer that is still half
# blind, "but" is *no good*: what it writes afterwards is too often bad. (In section 1's tree, after "awful great":
# compare the Q of "but" with that of "great".) A policy gradient follows the values of *its own* policy. Q-learning's
# $\max$ asks what "but" is worth to those who go on well. Which brings us to the slide's list.
#
# ## 5 · Advantages and disadvantages, each measured once
#
# ### "Better convergence properties"
#
# *Predict: follow six single agents of each kind, by the policy that they have learnt. Which kind jumps?*

# %%
learnt = {
    "value-based: the words of highest Q": lives["value-based"][0][1],
    "policy-based: π": lives["policy-based"][0][0],
}


@show.style()
def draw_single_agents():
    fig, axes = show.new_figure("episodes", panels=2, size=(9.5, 3.6))
    for ax, (name, J), colour in zip(axes, learnt.items(), ("#2b7fbf", "#d55e00"), strict=True):
        for agent in range(6):
            ax.plot(x, J[:, agent], color=colour, linestyle=show.plots.DASHES[agent], linewidth=1.4)
        ax.set_title(name, loc="left", fontsize=12)
        ax.set(ylim=(-3.2, 2.6))
    axes[0].set_ylabel("J of six agents")
    return fig


show.figure(
    draw_single_agents(),
    alt="Left, J of six value-based agents moves in jumps, up and down; right, J of six "
    "policy-based agents climbs smoothly.",
)
# %%
rows = []
for name, J in learnt.items():
    jumps, falls = J.diff(dim=0).abs().amax(0), (-J.diff(dim=0)).amax(0).clamp(min=0)
    rows.append((name, jumps.mean().item(), falls.mean().item()))
columns = ["mean over 32 agents", "largest change of J in 10 episodes", "largest fall"]
show.table(rows, columns, formats=dict.fromkeys(columns[1:], ".2f"))
jump = {"value-based": rows[0][1], "policy-based": rows[1][1]}
assert jump["value-based"] > 4 * jump["policy-based"] and rows[0][2] > rows[1][2]

# %% [markdown]
# An implicit policy jumps: a small change of Q can change *which* word is the best, and with it everything. A softmax
# policy moves a little when its parameters move a little. With a table Q-learning gets over its jumps: it is proved to
# converge if it tries everything again and again, in shrinking steps (Watkins and Dayan 1992).
#
# With shared weights nothing is promised. Here is the smallest case, after Tsitsiklis and Van Roy (1997). A critic with
# a single weight: *the value of a text is $w$ times its number of words*. It learns, again and again, from a logged
# step from "awful" (1 word) to "awful and" (2 words), reward 0. In this log nothing is ever earned, so $w$ should go to
# 0.
#
# $$w \leftarrow w + \alpha\,(\underbrace{0 + \gamma \cdot 2w}_{\text{target}} - \underbrace{1\cdot w}_{V(s)})\cdot 1$$
#
# (The last factor, 1, is by how much $V(s)$ grows with $w$.) *Predict: for which γ does $w$ go to 0?*


# %%
def follow(gamma, to_the_end=False, updates=40, alpha=0.1):
    """w after each update; `to_the_end`: the step from "awful and" to the end is learnt from as well."""
    w = [1.0]
    for _ in range(updates):
        change = (gamma * 2 * w[-1] - w[-1]) * 1
        change += (0 - 2 * w[-1]) * 2 * to_the_end
        w.append(w[-1] + alpha * change)
    return w


# %%
def draw_divergence(gamma):
    lines = {"the logged step alone": follow(gamma), "the next step too": follow(gamma, to_the_end=True)}
    return show.curves(lines, "updates", "w (should be 0)", f"γ = {gamma:g}", size=(7, 2.8))


assert follow(0.4)[-1] < 0.5 and follow(0.5)[-1] == 1 and follow(1.0)[-1] > 40 and follow(1.0, True)[-1] < 1e-3
fate = {True: "shrinks", False: "grows without end"}
show.slider_figure(
    draw_divergence,
    alt=lambda gamma: (
        f"At γ = {gamma:g} w {'stays' if gamma == 0.5 else fate[gamma < 0.5]}; with the next step too, it shrinks."
    ),
    labels={"gamma": "γ"},
    gamma=[1.0, 0.9, 0.7, 0.6, 0.5, 0.4, 0.2, 0.0],
)

# %% [markdown]
# Raising $w$ by 1 raises the value by 1 and its own target by 2γ. Above γ = 1/2 the target runs away. It takes three
# together: *shared weights*, *bootstrapping* (a target made of one's own estimates) and *data from elsewhere*. (The
# agent's own texts would go on to the end, and that step pulls $w$ back: the other line.) Sutton and Barto call it the
# deadly triad; Q-learning with a network, from logged texts, has all three.
#
# Policy gradient has no target of its own making. Its exact gradient, in small steps, never lets J fall:

# %%
climber, gained = models.TablePolicy(task).double(), []
for _ in range(121):
    log_p = mdp.action_logprobs(task, climber, tokens, mask).sum(1)
    J = log_p.exp() @ score
    gained.append((J.item(), log_p.detach().exp()))
    (g,) = torch.autograd.grad(J, climber.logits)
    climber.logits.data += 2.0 * g
climb = torch.tensor([J for J, _ in gained])
print(f"J from {climb[0]:.2f} to {climb[-1]:.2f} in 120 exact steps; smallest gain of a step {climb.diff().min():.1e}")
assert (climb.diff() > 0).all() and 1.4 < climb[-1] < 1.55

# %% [markdown]
# Smooth; and without any noise it comes to rest where the sampled ones did: near 1.5, not at 2.25. Converging well is
# not converging to the best.
#
# ### "Effective in high-dimensional or continuous action spaces"
#
# Q-learning needs a maximum over all actions, and an opinion about each. With continuous actions (a robot's joints)
# that maximum is itself a search; a policy just draws. With a vocabulary the maximum is no problem, but the opinions
# are: each must be earned by trying.
#
# <details><summary><b>Optional: what 10 → 10,000 words cost</b> (with the next two cells)</summary>
#
# One word to write, out of $n$; one of them earns 1, the others 0. How many episodes until it is the favourite?
# Q-learning starts from nothing and finds the word by its ε = 20 % of blind tries. The policy gradient starts twice:
# from nothing, and from a policy that, as after pre-training, considers ten words, the good one among them, and gives
# the rest a tenth of its probability, however large the vocabulary.
#
# </details>


# %%
def episodes_until_found(kind, n, seed):
    """Episodes until the good word (number n // 2) is the favourite, counted in batches of 10 (or a hundredth of n)."""
    g, good, table, batch = runs.generator(seed), n // 2, torch.zeros(n), max(10, n // 100)
    if kind == "policy gradient, pre-trained" and n > 10:
        batch, table = 10, torch.full((n,), math.log(0.1 / (n - 10)))
        table[good - 5 : good + 5] = math.log(0.9 / 10)
    for count in range(batch, 10**7, batch):
        if kind == "Q-learning":
            blindly = torch.rand(batch, generator=g) < 0.2
            a = torch.where(blindly, torch.randint(n, (batch,), generator=g), table.argmax())
            table[a] += 0.5 * ((a == good).float() - table[a])
        else:
            pi = table.softmax(0)
            a = torch.multinomial(pi, batch, replacement=True, generator=g)
            hits = (a == good).sum()
            table += 0.5 * hits * ((torch.arange(n) == good).float() - pi)
        if table.argmax() == good and table[good] > table[good - 1]:
            return count


# %%
sizes = [10, 100, 1_000, 10_000]
kinds = ("Q-learning", "policy gradient, blind", "policy gradient, pre-trained")
cost = {kind: (sizes, [[episodes_until_found(kind, n, seed) for n in sizes] for seed in range(8)]) for kind in kinds}
fig = show.loglog(cost, "words", "episodes until found", slope=1)
show.figure(
    fig, alt="Q-learning's and a blind policy's cost grow in proportion to the words; a pre-trained one's stays."
)
mean = {kind: torch.tensor(counts).double().mean(0).tolist() for kind, (_, counts) in cost.items()}
assert mean["Q-learning"][3] > 100 * mean["Q-learning"][0] and mean["policy gradient, pre-trained"][3] < 200

# %% [markdown]
# So it is not the policy gradient as such: a blind one pays by the word as well, and less than Q-learning only
# because all of its tries are blind, not one in five. What makes 10,000 words affordable is a policy to start from.
# **A pre-trained language model is a policy**: its numbers are log-probabilities of words, ready to draw from. It is
# not a table of values, and pre-training does not make it one. That is the strongest reason why RL on language is
# policy-based.
#
# ### "Can learn stochastic policies"
#
# A writer without memory: it writes two words, "good" or "great", and does not know what it has written (nor that it
# has). Repetition is dull: the review earns 1 if its words differ. It can only have a habit: "good" with probability
# $p$, each time. Then $J(p) = 2p(1-p)$.
#
# *Predict: what do the pure habits earn? And Q-learning, which always writes the word it likes best?*

# %%
differ = mdp.TokenMDP(("good", "great"), horizon=2, reward=lambda t, m: (t[:, 0] != t[:, 1]).double())


def memoryless(logits):
    """A policy that writes every word from the same two numbers."""
    return lambda texts: logits.log_softmax(-1).expand(*texts.shape, -1)


def ascend(task, p, steps=80, alpha=3.0):
    """Exact policy gradient from the habit p: p and J along the way."""
    logits, way = torch.tensor([math.log(p / (1 - p)), 0.0], dtype=torch.float64), []
    for _ in range(steps):
        logits.requires_grad_()
        J = mdp.exact_objective(task, memoryless(logits))
        (g,) = torch.autograd.grad(J, logits)
        way.append((logits.softmax(-1)[0].item(), J.item()))
        logits = (logits + alpha * g).detach()
    return way


# %%
habits = {"always good": 1.0, "ε-greedy, ε = 0.2": 0.9, "always great": 0.0}
rows = [(name, p, 2 * p * (1 - p)) for name, p in habits.items()]
rows += [("policy gradient from 0.9", *ascend(differ, 0.9)[-1]), ("policy gradient from 0.1", *ascend(differ, 0.1)[-1])]
memory = models.TablePolicy(differ).double()  # rows: nothing written, "good", "great"
memory.logits.data = torch.tensor([[99.0, 0.0], [0.0, 99.0], [99.0, 0.0]]).double()
rows += [("with memory: good, then the other word", None, mdp.exact_objective(differ, memory).item())]
show.table(rows, ["writer", "p", "J"])
for p in (0.1, 0.5, 0.7):
    habit = memoryless(torch.tensor([math.log(p / (1 - p)), 0.0], dtype=torch.float64))
    assert abs(mdp.exact_objective(differ, habit).item() - 2 * p * (1 - p)) < 1e-12
assert all(abs(row[1] - 0.5) < 1e-6 and abs(row[2] - 0.5) < 1e-6 for row in rows[3:5]) and abs(rows[5][2] - 1) < 1e-12

# %% [markdown]
# Only the mixed habit $p = 1/2$ is best; every deterministic one earns nothing, and an ε-greedy one little. Note what
# it takes: the writer cannot see its state. With the whole text as the state, as a language model has it, some
# deterministic policy is always among the best (the last row). Then randomness is not the goal;
# it is what *learning* needs, to have something to compare.
#
# **Exercise 02.4 · One habit for two words** (derive · difficulty ●●●●○ · importance ●●●○○ · 15 min)
#
# Now the review earns `a` for two times "good", `c` for two times "great", and its two mixed orders earn `b` *in
# sum*, so that $J(p) = a\,p^2 + b\,p(1-p) + c\,(1-p)^2$. Derive the best habit $p \in [0, 1]$, and write it as a
# function. By hand: `(0, 2, 0)` gives 0.5, and `(1, 0, 2)` gives 0.


# %% tags=["exercise"]
def best_habit(a, b, c):
    """The p in [0, 1] that maximises a p² + b p (1 − p) + c (1 − p)²."""
    ### BEGIN SOLUTION
    curvature = a - b + c  # J = curvature · p² + (b − 2c) p + c
    if curvature < 0 and 0 < (p := (2 * c - b) / (2 * curvature)) < 1:
        return p
    return 1.0 if a > c else 0.0
    ### END SOLUTION


# %%
best_habit = check("02.4", best_habit)
for a, b, c in ((0, 2, 0), (1, 3, 2), (1, 0, 2)):
    fine = torch.linspace(0, 1, 10_001).double()
    tried = fine[(a * fine**2 + b * fine * (1 - fine) + c * (1 - fine) ** 2).argmax()].item()
    print(f"a, b, c = {a}, {b}, {c}: best habit {best_habit(a, b, c):.4f}; the best of 10,001 tried {tried:.4f}")
    assert abs(best_habit(a, b, c) - tried) < 1e-3

# %% [markdown]
# ### "Typically converge to a local rather than global optimum"
#
# Another reader: two times "good" earns 1, two times "great" earns 2, and mixed reviews nothing. For the writer
# without memory $J(p) = p^2 + 2(1-p)^2$.
#
# **Exercise 02.5 · The watershed** (predict · difficulty ●●○○○ · importance ●●●●○ · 4 min)
#
# Policy gradient that starts from $p = 0.6$ climbs towards $J = 2$, from $p = 0.7$ towards $J = 1$. At which $p$ does
# it tip over?

# %% tags=["exercise"]
watershed = (
    ### BEGIN SOLUTION
    2 / 3
    ### END SOLUTION
)

# %%
watershed = check("02.5", watershed)

# %%
agree = mdp.TokenMDP(
    ("good", "great"), 2, lambda t, m: torch.where(t[:, 0] != t[:, 1], 0.0, 1.0 + (t[:, 0] == 1).double())
)
ways = {p: ascend(agree, p, alpha=1.0) for p in (0.3, 0.5, 0.6, 0.65, 0.67, 0.7, 0.9)}


@show.style()
def draw_watershed(start):
    fig, ax = show.new_figure("p, the habit of writing “good”", "J", size=(9, 3.4))
    p = torch.linspace(0, 1, 101)
    ax.plot(p, p**2 + 2 * (1 - p) ** 2, color="#888888", label="J(p)")
    ax.axvline(watershed, color="#000000", linewidth=1, linestyle="--", label=f"watershed, p = {watershed:.2f}")
    ax.plot(*zip(*ways[start], strict=True), ".", color="#2b7fbf", markersize=7, label="policy gradient")
    ax.plot(*ways[start][0], "o", color="#d55e00", markersize=11, label=f"start, p = {start:g}")
    ax.plot(*ways[start][-1], "*", color="#d55e00", markersize=16, label=f"end, J = {ways[start][-1][1]:.2f}")
    fig.legend(loc="outside right upper")
    return fig


# %%
assert abs(ways[0.6][-1][1] - 2) < 0.01 and abs(ways[0.7][-1][1] - 1) < 0.01
assert all((way[-1][0] > 0.9) == (start > 2 / 3) for start, way in ways.items())
show.slider_figure(
    draw_watershed,
    alt=lambda start: f"From p = {start:g} the ascent ends at J = {ways[start][-1][1]:.2f}.",
    start=[0.6, 0.7, 0.3, 0.5, 0.65, 0.67, 0.9],
)

# %% [markdown]
# Every step went uphill, and right of the watershed every path leads to half of what there is. Does memory help? Give
# the writer a table with a row of its own for each beginning:

# %%
rows = []
for p in (0.6, 0.7, 0.9):
    writer, Js = models.TablePolicy(agree).double(), []
    writer.logits.data[:, 0] = math.log(p / (1 - p))  # the same start, but now each row can move on its own
    for _ in range(80):
        J = mdp.exact_objective(agree, writer)
        (g,) = torch.autograd.grad(J, writer.logits)
        writer.logits.data += 3.0 * g
        Js.append(J.item())
    rows.append((p, ascend(agree, p)[-1][1], Js[-1]))
show.table(rows, ["start p", "J without memory", "J with memory"], formats={"start p": "g"})
assert rows[0][2] > 1.98 and rows[1][1] < 1.01 and rows[1][2] > 1.98 and rows[2][2] < 1.01

# %% [markdown]
# From 0.7 memory leads out of the trap. From 0.9 it has not, in 80 steps: what was a local optimum is now a plateau.
# "great" is hardly ever tried, so its gradient is hardly there. The writers of section 4 sat on such a plateau at 1.5.
# More parameters remove traps; a better start, and exploring, get you off plateaus.
#
# ### "Evaluating a policy is typically inefficient and high variance"
#
# *High variance.* Take the exact climb from above. Each step gains something; could you have seen it by sampling?
# With a standard deviation σ of one return and a gain Δ, two policies can be told apart (two standard errors) from
# about $n = 2\,(1.96\,\sigma/\Delta)^2$ episodes each.
#
# *Inefficient.* After the step the old episodes come from the wrong policy. Reweighting each by $w = p_\text{new}(y) /
# p_\text{old}(y)$ is exact on average, but uneven weights waste: 1,000 old episodes are worth $1000 / \mathbb{E}[w^2]$
# new ones. *Predict: how many of the blind writer's 1,000 are left after 10 steps? After 30?*

# %%
rows, first = [], gained[0][1]
for update in (1, 5, 10, 20, 30, 60):
    (J, p), (previous, _) = gained[update], gained[update - 1]
    sigma = (p @ (score - J) ** 2).sqrt().item()
    needed = 2 * (1.96 * sigma / (J - previous)) ** 2
    worth = 1000 / (p**2 / first).sum().item()  # E[w²] under the old policy is Σ p_new² / p_old
    rows.append((update, J, sigma, J - previous, round(needed), worth))
columns = ["step", "J", "σ of one return", "gain of the step", "episodes to see it", "worth of 1,000 blind episodes"]
show.table(rows, columns, formats={columns[1]: ".2f", columns[2]: ".2f", columns[5]: ",.0f"})
assert rows[0][4] > 100 and rows[-1][4] > 100_000 and rows[3][5] < 10

# %% [markdown]
# Near the end a step's gain drowns in noise, and the blind writer's thousand episodes have shrunk to one. Policy
# gradients throw their data away after (nearly) every step. Value-based learners need not: Q-learning's target holds
# whoever chose the words. It can learn from the blind writer's episodes alone:

# %%
history, _, _ = live(value_based, lambda q: torch.full_like(q, 0.1), every=1000)
print(
    "favourite words after 1,000 blind episodes: J = {:.2f}, 95 % {:.2f} to {:.2f}".format(
        *runs.mean_interval(history[1, -1])
    )
)
assert history[1, -1].mean() > 1.0 > history[0, -1].mean()

# %% [markdown]
# Noise is not only a problem of policies. To pick one word by roll-outs, ten values must be told apart:
#
# **Exercise 02.6 · Ten words, one decision** (experiment · difficulty ●●●○○ · importance ●●●●○ · 10 min)
#
# After "awful", the blind writer finishes the review $n$ times for each of the ten next words, and the word with the
# best mean wins. How large must $n$ be for the truly best word ("great") to win in more than 95 % of trials? The check
# draws 4,000 new trials, wants the lower end of the 95 % interval above 0.95, and no more than three times the $n$
# that is needed. How confident are you, before you ask it?


# %%
def found_share(n, trials=1000, seed=0):
    """How often the word with the best mean of n roll-outs is the one with the highest Q."""
    means = []
    for word in range(10):
        these = tokens[:, 0] == word
        drawn = torch.multinomial(chance[these], trials * n, replacement=True, generator=runs.generator(seed, word))
        means.append(score[these][drawn].view(trials, n).mean(1))
    return (torch.stack(means).argmax(0) == Q[0].argmax()).double().mean().item()


for n in (1, 3, 10):
    print(f"{n:3} roll-outs a word: the best word wins in {found_share(n):.0%} of 1,000 trials")

# %% tags=["exercise"]
roll_outs = (
    ### BEGIN SOLUTION
    40
    ### END SOLUTION
)

# %%
roll_outs = check("02.6", roll_outs)

# %% [markdown]
# ### The score sheet

# %%
show.table(
    [
        (
            "better convergence",
            f"largest change of J in 10 episodes: {jump['value-based']:.2f} against {jump['policy-based']:.2f}; "
            "a critic with one weight explodes",
            "smooth; not to the best",
        ),
        (
            "large action spaces",
            "Q must try every word; a pre-trained policy need not (optional cells)",
            "because of the start, not of the gradient",
        ),
        ("stochastic policies", "without memory: J = 0.5 against 0", "needed only where the state is hidden"),
        ("local optimum", "start 0.6 → 2, 0.7 → 1; on the review task 1.5 of 2.25", "true; plateaus are as bad"),
        (
            "inefficient, noisy evaluation",
            f"episodes to see a step's gain: {rows[0][4]:,} at first, {rows[-1][4]:,} late",
            "true",
        ),
    ],
    ["the slide says", "measured here", "verdict"],
)

# %% [markdown]
# And actor-critics? They keep the policy, and with it its convergence and its start in pre-training, and learn a
# critic to make evaluation cheaper: one word's surprise instead of a whole review's score. What the critic's errors do
# to the gradient, and how to dial between the two, is lesson 06. PPO, long the standard for language (lesson 11), is
# one.
#
# ## What to take along
#
# - $V^\pi(s)$, $Q^\pi(s,a)$, $A^\pi = Q^\pi - V^\pi$ belong to a sentence *and* a policy. $\sum_a \pi A = 0$, and an
#   advantage fades as it is learnt.
# - For text, $Q(s,a) = r + \gamma V(s{\cdot}a)$ exactly: one is the other shifted by a word. Nothing follows the end.
# - Values of partial sentences are hard to judge: the score so far is not the value, final scores from one beginning
#   spread widely, and most beginnings are never seen, so a value function must generalise.
# - Value-based: learnt Q, implicit policy. Policy-based: learnt π. Actor-critic: both.
# - Policy gradients converge smoothly, to a local optimum or onto a plateau; they can mix; their evaluation is noisy
#   and their data go stale. Language uses them because a pre-trained model *is* a policy.
#
# | the lecture's equation or claim | computed in |
# |---|---|
# | $V_t^\pi$ (right: $\gamma^{\tau-t}$, to $T-1$, given $s_t$) | section 1, "Slips on the slide" |
# | "$P_t^\pi$" $= Q_t^\pi = R + \gamma\,\mathbb{E}[V]$ | section 2, first cell; exercise 02.2 |
# | $A_t^\pi = Q_t^\pi - V_t^\pi$ | section 1; exercise 02.1 |
# | values of partial sentences hard to judge | section 3 |
# | value-based, implicit policy; policy-based; actor-critic | section 4 |
# | advantages and disadvantages of policy-based RL | section 5 and its score sheet |

# %%
quiz(
    "A writer's Q(awful, but) is −1.5, the best writer's is above 2. Which is right?",
    {
        "The higher one: a value is what can be reached": "That is the best writer's value. A blind one does not get "
        "there.",
        "Both: each is the value for its own policy": "Q supposes that the policy itself goes on after the word.",
        "Neither: the text “awful but” scores −3": "That is the score so far, which is no value at all.",
    },
    correct="Both: each is the value for its own policy",
)

# %%
quiz(
    "Why does a critic for language models need V only, where others learn Q?",
    {
        "Because rewards come at the end": "True here, but with rewards on the way it would be the same.",
        "Because the next state is the sentence with the word appended": "No dice are rolled after the word is chosen, "
        "so Q(s, a) is r + γV(s·a): V read one word later.",
        "Because Q needs 100,000 outputs": "A Q with one output a word exists, it is a language model's shape. But to "
        "judge the word that was written, V at the next position is enough.",
    },
    correct="Because the next state is the sentence with the word appended",
)

# %%
quiz(
    "The sampled agents and the noiseless climb end at 1.5, and 2.25 is possible. What would help?",
    {
        "More episodes": "The exact gradient has, in effect, all of them, and ends there too.",
        "A smaller step": "The path is uphill already; it leads to the wrong place.",
        "A start that already goes on well after “but”": "Then “but” has a good value from the first step. This is "
        "what supervised fine-tuning does for RLHF.",
    },
    correct="A start that already goes on well after “but”",
)

# %%
quiz(
    "When is a mixed policy strictly better than every deterministic one?",
    {
        "Whenever rewards are noisy": "A mean is a mean: noise alone does not make mixing pay.",
        "When the policy cannot see its state": "As in 2p(1 − p). With the full text as the state, a deterministic "
        "policy is always among the best.",
        "Always, because it explores": "Exploring helps while learning. The best final policy is another question.",
    },
    correct="When the policy cannot see its state",
)

# %% [markdown]
# **Next:** [03 · The policy gradient and one-step MDPs](03_the_policy_gradient.ipynb). Policies that learn need a
# gradient of $J$, and $J$ is an average over texts drawn from the very policy that is to change.
