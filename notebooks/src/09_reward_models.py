# %% [markdown]
# # 09 · Reward models: you can't ask a human every time
#
# **The question.** People can say which of two texts is better. Reinforcement learning wants a number for every text
# that it will ever write. How do you get from the one to the other, and how far can you trust the number?
#
# **You will** derive the two losses that turn preferences into scores (Bradley–Terry, Plackett–Luce) and see what ties
# do to them; measure a reward model of real raters against the best that people do themselves; check whether it knows
# how sure it may be; price it in labels and dollars; compare it with *your* labels; and catch the mistake of reading it
# as a value function.
#
# | | |
# |---|---|
# | You need | lessons 00 and 01; 02 for the word "value"; 03 to 05 for one table of section 8 |
# | Reading | 45 minutes, and an hour for the exercises |
# | Run time | about 50 s on 2 cores, once the reward model and the SFT policy are there (90 s more if not) |
# | A GPU | shortens the training only |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · From a comparison to a probability
#
# The lecture: *"Train a new metric, a reward function: human judgment proxy. Trained via (variant of) a ranking loss."*
# No person ever writes down a score there. People compare, and disagree. So we need a model of how a comparison comes
# out.
#
# Say that text $i$ has a score $s_i$, and that a reader's impression of it is $s_i + g_i$: the score and some noise of
# this reader and this moment. The reader prefers the text with the better impression. If the noise follows Gumbel's
# distribution ($g = -\log(-\log u)$, with $u$ uniform between 0 and 1), the difference of two noises follows the
# logistic one, and
#
# $$P(i \succ j) = P(s_i + g_i > s_j + g_j) = \frac{e^{s_i}}{e^{s_i} + e^{s_j}} = \sigma(s_i - s_j).$$
#
# That is Bradley and Terry's model (1952). A score of 1 more means odds of $e$ to 1, whatever the texts.
#
# > **Predict before you run.** Text A has score 1, text B score 0. In 100 comparisons, how often does B win?


# %%
def impressions(s, n, seed=0):
    """Noisy impressions [n, len(s)]: scores plus Gumbel noise, drawn anew for each reader."""
    uniform = torch.rand(n, len(s), generator=runs.generator(seed), dtype=torch.float64)
    return s - (-uniform.log()).log()


s = torch.tensor([1.0, 0.0], dtype=torch.float64)
felt = impressions(s, 200_000)
b_wins = (felt[:, 1] > felt[:, 0]).double().mean().item()
print(f"B wins {b_wins:.4f} of 200,000 comparisons; σ(0 − 1) = {torch.sigmoid(s[1] - s[0]):.4f}")
assert abs(b_wins - torch.sigmoid(s[1] - s[0]).item()) < 0.006  # five standard errors

# %% [markdown]
# More than a quarter of the time: people who disagree are no mistake in the data, they are what it measures.
#
# Maximum likelihood does the rest. Over labelled pairs, with the model's scores $r$ in place of the unknown $s$,
#
# $$-\log \prod_{\text{pairs}} P(\text{chosen} \succ \text{rejected}) = \sum_{\text{pairs}}
# -\log \sigma\big(r_\text{chosen} - r_\text{rejected}\big).$$
#
# The mean of it is the **Bradley–Terry loss**. Some ask for a lead, and subtract a *margin* inside: Llama 2 used larger
# margins where raters were surer.

# %% [markdown]
# **Exercise 09.1 · The loss of a labelled pair** (implement · difficulty ●●○○○ · importance ●●●●● · 12 min)
#
# `scores` and `ranks` are `[N, 2]`: the model's scores of the two texts of each pair, and what the person said: rank 0
# is better, `[0, 1]` prefers the first, `[0, 0]` is a tie. A tie says nothing about which is better: leave it out, of
# the sum and of the count. Return the mean of $-\log\sigma(r_\text{chosen} - r_\text{rejected} - \text{margin})$.
#
# By hand: scores `[[1., 0.], [3., 9.]]`, ranks `[[1, 0], [0, 0]]`, margin 0 give $-\log\sigma(0 - 1) = 1.3133$.


# %% tags=["exercise"]
def my_pair_loss(scores, ranks, margin):
    """Mean Bradley–Terry loss of the decided pairs: scores [N, 2], ranks [N, 2] -> scalar."""
    ### BEGIN SOLUTION
    first_is_better = ranks[:, 0] < ranks[:, 1]
    decided = ranks[:, 0] != ranks[:, 1]
    lead = torch.where(first_is_better, scores[:, 0] - scores[:, 1], scores[:, 1] - scores[:, 0])
    return -torch.nn.functional.logsigmoid(lead[decided] - margin).mean()
    ### END SOLUTION


# %%
my_pair_loss = check("09.1", my_pair_loss)

# %% [markdown]
# (`logsigmoid` rather than `log(sigmoid(...))`: at a lead of −110 the sigmoid is 0 in float32, and its log is −∞.)
#
# Does minimising this find the scores that made the comparisons? At micro scale we know them. Six reviews, readers who
# follow the model above, and the *exact* expected loss, in which every possible comparison counts with its probability;
# beside it what 2,000 sampled comparisons give.


# %%
def fit(loss, n):
    """The n scores with the least loss(scores), starting from 0."""
    r = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([r], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure():
        optimizer.zero_grad()
        value = loss(r)
        value.backward()
        return value

    optimizer.step(closure)
    return r.detach()


def R(words):
    """The score of a micro review."""
    words = torch.tensor([reviews.micro_ids(words)])
    return reviews.micro_score(words, torch.ones_like(words, dtype=torch.bool)).item()


# %%
logsigmoid = torch.nn.functional.logsigmoid
texts = ["awful", "awful but good", "dull", "not bad", "good", "very great"]
true = torch.tensor([R(text.split()) for text in texts], dtype=torch.float64)
i, j = torch.combinations(torch.arange(6)).T  # 15 pairs
wins = torch.sigmoid(true[i] - true[j])  # how often the first of each pair wins, exactly ...
share = torch.binomial(torch.full_like(wins, 133), wins, generator=runs.generator(1)) / 133  # ... and in 1,995 labels

columns = {"true score": true}
for name, p in (("fitted, exact loss", wins), ("fitted, 1,995 labels", share)):
    columns[name] = fit(lambda r, p=p: -(p * logsigmoid(r[i] - r[j]) + (1 - p) * logsigmoid(r[j] - r[i])).mean(), 6)
columns["exact fit, shifted"] = columns["fitted, exact loss"] - columns["fitted, exact loss"].mean() + true.mean()
show.table(list(zip(texts, *(c.tolist() for c in columns.values()), strict=True)), ["review", *columns])
assert torch.allclose(columns["exact fit, shifted"], true, atol=1e-3)
assert abs(columns["fitted, exact loss"].mean()) < 1e-6  # started at 0, and nothing ever moved the mean

# %% [markdown]
# The scores come back, up to one number: the **mean**. A comparison knows only differences, so the loss cannot see a
# constant added to all scores, and the gradient over the scores adds up to zero. Remember it: section 8 pays for it.

# %%
torch.manual_seed(0)
r = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
ranks = torch.tensor([[0, 1]] * 5 + [[1, 0]] * 3)
loss = my_pair_loss(r, ranks, 0.0)
(gradient,) = torch.autograd.grad(loss, r)
print(
    f"loss {loss.item():.6f}; after adding 100 to every score {my_pair_loss(r + 100, ranks, 0.0).item():.6f}; "
    f"sum of the gradient {gradient.sum().item():.1e}"
)
assert abs(my_pair_loss(r + 100, ranks, 0.0) - loss) < 1e-9 and abs(gradient.sum()) < 1e-12

# %% [markdown]
# ## 2 · Ranking K texts at once
#
# Reading is the expensive part of labelling. Whoever has read $K$ answers can rank them, and a ranking of 16 holds 120
# comparisons. The same story gives its probability: impressions $s_i + g_i$, sorted. The best of all is $i$ with
# probability $e^{s_i} / \sum_j e^{s_j}$; take it away, and the best of the rest is chosen in the same way.
#
# **Exercise 09.2 · The probability of a ranking** (derive · difficulty ●●●○○ · importance ●●●●○ · 8 min)
#
# Three texts with scores $a$, $b$, $c$. Work out $P(A \succ B \succ C)$ on paper, then write it down as a function. For
# $a = \log 3$, $b = \log 2$, $c = 0$ it is a simple fraction.


# %% tags=["exercise"]
def ranking_probability(a, b, c):
    """P(A first, B second, C third)."""
    ### BEGIN SOLUTION
    first = math.exp(a) / (math.exp(a) + math.exp(b) + math.exp(c))
    second = math.exp(b) / (math.exp(b) + math.exp(c))
    return first * second
    ### END SOLUTION


# %%
ranking_probability = check("09.2", ranking_probability)

# %% [markdown]
# Confirm it: 200,000 readers sort their impressions, and the six orders are counted.

# %%
import itertools

s3 = torch.tensor([math.log(3), math.log(2), 0.0], dtype=torch.float64)
sorted_by_readers = impressions(s3, 200_000, seed=2).argsort(1, descending=True)
orders = list(itertools.permutations(range(3)))
counted = [(sorted_by_readers == torch.tensor(order)).all(1).double().mean().item() for order in orders]
formula = [ranking_probability(*s3[list(order)].tolist()) for order in orders]
show.table(
    [(" > ".join("ABC"[k] for k in order), p, q) for order, p, q in zip(orders, counted, formula, strict=True)],
    ["ranking", "share of 200,000", "formula"],
    formats={"share of 200,000": ".4f", "formula": ".4f"},
)
assert abs(sum(formula) - 1) < 1e-9 and abs(formula[0] - 1 / 3) < 1e-9
assert max(abs(p - q) for p, q in zip(counted, formula, strict=True)) < 0.006

# %% [markdown]
# This is the model of Luce (1959) and Plackett (1975). Its negative log-likelihood is the **K-wise loss**: each item
# against itself and all that are worse,
#
# $$\mathcal{L}_\text{PL} = \sum_i -\log \frac{e^{r_i}}{e^{r_i} + \sum_{j\,\text{worse than}\,i} e^{r_j}}.$$
#
# What about ties? The lecture's ranking of the four answers about the atmosphere is B > C = D > A. The sum above still
# makes sense if tied items simply do not compete with each other. It is then no longer the probability of anything, but
# a *composite likelihood*: a product of terms each of which is sensible on its own.

# %% [markdown]
# **Exercise 09.3 · The loss of a ranking** (implement · difficulty ●●●○○ · importance ●●●●○ · 15 min)
#
# `scores` and `ranks` are `[N, K]`, a row a prompt; 0 is best, equal ranks are a tie. For each item, its share among
# itself and the *strictly worse* items of its own row; sum over the items, mean over rows. By hand: scores `[[0., 0.,
# 0.]]` with ranks `[[0, 1, 2]]` give $\log 3 + \log 2 + 0 = 1.7918$, and with ranks `[[0, 1, 1]]` $\log 3 = 1.0986$. (A
# mask `[N, K, K]` saves three loops.)


# %% tags=["exercise"]
def my_ranking_loss(scores, ranks):
    """Plackett–Luce loss of rankings with ties: scores [N, K], ranks [N, K] -> scalar."""
    ### BEGIN SOLUTION
    competes = ranks[:, :, None] < ranks[:, None, :]  # [n, i, j]: j is strictly worse than i
    competes = competes | torch.eye(ranks.shape[1], dtype=torch.bool)
    rivals = scores[:, None, :].expand(competes.shape).masked_fill(~competes, -math.inf)
    return (rivals.logsumexp(-1) - scores).sum(1).mean()
    ### END SOLUTION


# %%
my_ranking_loss = check("09.3", my_ranking_loss)

# %%
pair_scores = torch.randn(50, 2, generator=runs.generator(3), dtype=torch.float64)
ranks = torch.tensor([[0, 1]]).expand(50, 2)
assert abs(my_ranking_loss(pair_scores, ranks) - my_pair_loss(pair_scores, ranks, 0.0)) < 1e-6  # two items: the same
assert abs(my_ranking_loss(pair_scores + 7, ranks) - my_ranking_loss(pair_scores, ranks)) < 1e-6  # shift: the same

atmosphere = torch.tensor([[-0.4, 1.1, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)  # scores of A, B, C, D
loss = my_ranking_loss(atmosphere, torch.tensor([[2, 0, 1, 1]]))  # B > C = D > A
(pull,) = torch.autograd.grad(-loss, atmosphere)
print("pull on A, B, C, D:", [round(x, 3) for x in pull[0].tolist()], f" sum {abs(pull.sum().item()):.6f}")
assert pull[0, 1] > 0 > pull[0, 0]

# %% [markdown]
# B is pulled up, A down, and C and D, though tied, are both pulled away from A. One ranking gave five comparisons of
# six possible; the sixth, C against D, stays open.

# %% [markdown]
# ## 3 · What a tie does
#
# A third of the pairs that one person compares within a block of our data are ties. There is a model in which a tie has
# a probability of its own, Davidson's (1970). With $d = s_i - s_j$:
#
# $$P(i \succ j) : P(\text{tie}) : P(j \succ i) \;=\; e^{d/2} : \nu : e^{-d/2}.$$
#
# The larger $\nu$, the more readily people call a tie; at $\nu = 0$ they never do, and Bradley–Terry is left.
# So we can ask exactly: when people behave like this, what do different ways of treating ties find, with as many labels
# as you like?
#
# > **Predict before you run.** Three ways: leave ties out; count a tie as half a win for each; count it as a win for
# > the text on the left. Which of them recover $d$?


# %%
def davidson(d, nu=1.0):
    """Probabilities of win, tie and loss."""
    weights = torch.stack([(d / 2).exp(), nu * torch.ones_like(d), (-d / 2).exp()])
    return weights / weights.sum(0)


def information(p, d):
    """Fisher information about d of one answer with probabilities p(d): Σ p (d log p / dd)²."""
    return sum(q * torch.autograd.grad(q.log(), d, retain_graph=True)[0] ** 2 for q in p).item()


# %%
rows = []
for true_d in (0.0, 0.5, 1.0, 2.0, 3.0):
    d = torch.tensor(true_d, dtype=torch.float64, requires_grad=True)
    win, tie, loss = davidson(d)
    left_out, half, left = (win / (win + loss)).logit(), (win + tie / 2).logit(), (win + tie).logit()
    bt = torch.stack([win / (win + loss), loss / (win + loss)])
    kept = (win + loss).item() * information(bt, d) / information(davidson(d), d)
    rows.append((true_d, tie.item(), left_out.item(), half.item(), left.item(), kept))
    assert abs(left_out - d) < 1e-9 and (true_d == 0 or 0 < half < d) and left > d and kept <= 1 + 1e-9
show.table(
    rows,
    ["true d", "P(tie)", "ties left out", "half a win each", "a win for the left", "information kept"],
    caption="What Bradley–Terry finds when people answer by Davidson's model with ν = 1, exactly",
    formats={"true d": ".1f"},
)

# %% [markdown]
# - **Left out** is exactly right: given that somebody decides, Davidson's odds are $e^{d}$ to 1, Bradley–Terry's. What
#   is lost is some precision (last column, against a fit that uses the ties), most where one text is clearly better:
#   there "no tie" is news.
# - **Half a win each** pulls everything together: the better text looks less good than it is.
# - **A win for the left** invents a preference for the left where there is none (first row).
#
# ### Optional: three texts
#
# With three or more texts leaving ties out is no longer exact, only sensible. How far off is it? Davidson's model
# extends to rankings: the best *set* is chosen first, a set of $k$ tied texts with weight $\nu^{k-1} e^{\text{mean
# score}}$, then the next from the rest (Firth, Kosmidis and Turner 2019). Three texts have 13 rankings with ties, so
# the expected K-wise loss is exact.


# %%
def chance(ranks, s, nu):
    """Probability of a ranking with ties, such as (0, 1, 1), of texts with scores s."""
    left, p = list(range(len(s))), 1.0
    for level in range(max(ranks) + 1):
        sets = [c for k in range(1, len(left) + 1) for c in itertools.combinations(left, k)]
        weights = {c: nu ** (len(c) - 1) * math.exp(sum(s[i] for i in c) / len(c)) for c in sets}
        p *= weights[tuple(i for i in left if ranks[i] == level)] / sum(weights.values())
        left = [i for i in left if ranks[i] != level]
    return p


rankings = [ranks for ranks in itertools.product(range(3), repeat=3) if set(ranks) == set(range(max(ranks) + 1))]
rows, table = [], torch.tensor(rankings)
for nu in (0.0, 0.3, 1.0):
    p = [chance(ranks, (0.0, 0.5, 1.2), nu) for ranks in rankings]
    expected = fit(lambda r, p=p: sum(q * my_ranking_loss(r[None], k[None]) for q, k in zip(p, table, strict=True)), 3)
    tied = sum(q for q, ranks in zip(p, rankings, strict=True) if len(set(ranks)) < 3)
    found = (expected - expected[0]).tolist()
    rows.append((nu, tied, *found))
    assert len(rankings) == 13 and abs(sum(p) - 1) < 1e-9 and 0 < found[1] < found[2] < 1.2001
    assert nu > 0 or abs(found[2] - 1.2) < 1e-4
show.table(rows, ["ν", "share of rankings with ties", "A (true 0)", "B (true 0.5)", "C (true 1.2)"])

# %% [markdown]
# Without ties the scores come back; with many ties they are pulled together somewhat, and the order stays right. That
# is the price of the composite likelihood, and a small one next to calling ties wins.

# %% [markdown]
# ## 4 · A reward model of real people
#
# Now the real thing. Hutto and Gilbert had every sentence rated by 15 to 29 people. The sentences of the train blocks
# are dealt into rankings, in each of which a sentence carries the rating of *one* of its raters, drawn at random; equal
# ratings tie. The model is the tiny language model with a new head: one linear map from the hidden state of the
# **last** token, which alone has seen the whole text, to a number. It keeps three of the four layers: a reward model
# may be smaller than the policy (InstructGPT's had 6 billion weights, its largest policy 175 billion). The loss is
# Bradley–Terry's on all pairs of a ranking, and the loop an ordinary one, short enough to read:
# `rlhf_lib/algorithms/reward_model.py`.

# %%
rm = stages.panel_reward_model()
print(f"{sum(p.numel() for p in rm.parameters()):,} weights, {rm.head.weight.numel() + 1} of them new")
for text in ("a wonderful , moving film .", "a film .", "a dull , lifeless film .", reviews.LECTURE_OPENING):
    print(f"{rm.score_texts([text]).item():+.2f}  {text}")

# %% [markdown]
# ### How good can it be?
#
# Not 100 %. Somebody who read both sentences disagrees with somebody else who did. That **ceiling** can be measured,
# and it differs by kind of pair. *Across* blocks one sentence is often praise and the other blame. *Within* a block all
# sentences are of one kind, and people are divided.
#
# Beside the model stand two baselines. VADER is a lexicon with rules. A **bag of words** has one weight a word (and one
# for each pair of neighbours) and adds up: it cannot know what a "not" three words away belongs to. Because
# `reward_model.train` only asks for `encode` and `score_ids`, the same loop trains it.


# %%
class BagOfWords(torch.nn.Module):
    """The score of a text is the sum of the weights of its words and word pairs."""

    def __init__(self, texts):
        super().__init__()
        self.index = {gram: k for k, gram in enumerate(sorted({g for text in texts for g in self.grams(text)}))}
        self.weight = torch.nn.EmbeddingBag(len(self.index), 1, mode="sum")
        torch.nn.init.zeros_(self.weight.weight)

    @staticmethod
    def grams(text):
        words = text.lower().split()
        return [*words, *map(" ".join, zip(words, words[1:], strict=False))]

    def encode(self, texts):
        return [[self.index[g] for g in self.grams(text) if g in self.index] for text in texts]

    def score_ids(self, rows):
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0)[:-1]
        return self.weight(torch.tensor([k for row in rows for k in row], dtype=torch.long), starts).squeeze(1)


# %%
train, test = reviews.load().subset("train"), reviews.load().subset("test")
bag = BagOfWords(train.texts)
reward_model.train(bag, stages.rankings("train", 4), reward_model.Config(lr=0.01, dropout=0.0))

halves = [(t[: len(t) // 2], t[len(t) // 2 :]) for t in test.texts]  # rewards read prompt + completion
scores = {
    "VADER": rewards.vader()(rollout.from_texts(models.load_model("tiny"), halves)),
    "bag of words": bag.score_ids(bag.encode(test.texts)).detach(),
    "reward model": rm.score_texts(test.texts),
}
kinds = {"across": preferences.cross_block_pairs, "within": preferences.within_block_pairs}
pairs = {kind: draw(test.ratings, test.block, 30_000, runs.generator(1)) for kind, draw in kinds.items()}

# %% [markdown]
# > **Predict before you run.** Across blocks two people agree on nearly nine pairs in ten. Where will the three
# > models come out, and by how much will they drop within a block?

# %%
accuracy = {kind: {name: preferences.pairwise_accuracy(s, pairs[kind]) for name, s in scores.items()} for kind in pairs}
for kind in pairs:
    ceiling = preferences.human_ceiling(test.ratings, test.block, kind, runs.generator(2), n=30_000)
    accuracy[kind] |= {"a second person": ceiling.two_people, "the mean of the others": ceiling.person_and_rest}
    fig = show.bars(
        accuracy[kind], f"share right, pairs {kind} blocks", exact={"coin": 0.5}, horizontal=True, size=(7, 2.6)
    )
    fig.axes[0].set_xlim(0, 1)  # the same for both
    show.figure(
        fig,
        alt=f"Accuracy on test pairs {kind} blocks, from VADER to the mean of the other people, with intervals.",
    )
    print(f"{kind}: " + ", ".join(f"{name} {a.value:.3f}" for name, a in accuracy[kind].items()))
    print(f"({pairs[kind].tie_share:.0%} of the pairs were ties, and are left out)")
across, within = accuracy["across"], accuracy["within"]
assert across["VADER"].value < across["bag of words"].value < across["reward model"].value
assert across["reward model"].high < across["the mean of the others"].value
assert within["reward model"].value < within["the mean of the others"].value < across["the mean of the others"].value

# %% [markdown]
# Read each number beside its own ceiling: the last bar, what the mean of all others says of one person. (A second
# person is noisy too; a mean is hardly so.) Across blocks the reward model beats the counting of words, and stays well
# below people. Within a block all of them drop, the people too.
#
# The whiskers are 95 % intervals, bootstrapped by **block**: the sentences of a block share their raters, so 30,000
# pairs are far from 30,000 independent facts, and an interval that pretends so would be much too narrow. For the same
# reason the test set is made of whole blocks. Had we split by *pair*, the model would have met the test sentences in
# training.

# %% [markdown]
# ## 5 · Does it know how sure it may be?
#
# The model claims more than an order: it says that the first text wins with probability $\sigma(r_i - r_j)$. Of the
# pairs to which it gives 0.8, eight in ten should come out that way. Take each pair in random order (if the better text
# always came first, every outcome would be 1), and compare.


# %%
def claims(scores, pairs, seed=3):
    """Probability that the first text wins, and whether it did, each pair in random order."""
    gap = scores[pairs.better] - scores[pairs.worse]
    turned = torch.rand(len(gap), generator=runs.generator(seed)) < 0.5
    return torch.where(turned, -gap, gap).sigmoid(), (~turned).double()


claimed, happened = claims(scores["reward model"], pairs["across"])
error = preferences.expected_calibration_error(claimed, happened)
show.figure(
    show.reliability(claimed, happened), alt="Reliability diagram: the measured shares lie close to the diagonal."
)
print(
    f"expected calibration error {error:.3f}; mean confidence {torch.maximum(claimed, 1 - claimed).mean():.3f}, "
    f"accuracy {across['reward model'].value:.3f}"
)
assert error <= 0.05

# %% [markdown]
# The **expected calibration error** is the mean distance from the diagonal, each bin weighted by its pairs. A
# calibrated model is as sure, on average, as it is right. Why it matters: the *size* of reward differences is what RL
# trades against its KL price. A model twice too sure of itself acts like a $\beta$ (lesson 00) twice too small.
#
# Reward models become too sure by training too long on the same labels. The order of the texts may still be right;
# then one number repairs them: divide all scores by a *temperature*.
#
# **Exercise 09.4 · A thermometer for confidence** (experiment · difficulty ●●○○○ · importance ●●●○○ · 8 min)
#
# Here is such a model (made up, so that there is a right answer). Turn the knob until the calibration error is safely
# below 0.025: the whole interval, over seeds that you have not seen. Then answer with your temperature.

# %%
from rlhf_lib.course.exercises.lesson_09 import calibration_error

temperature = 1.0
errors = [calibration_error(temperature, seed) for seed in range(6)]
print(
    f"temperature {temperature}: error {{:.3f}}, 95 % interval {{:.3f}} to {{:.3f}}".format(*runs.mean_interval(errors))
)

# %% tags=["exercise"]
my_temperature = (
    ### BEGIN SOLUTION
    2.5
    ### END SOLUTION
)

# %%
my_temperature = check("09.4", my_temperature)

# %% [markdown]
# ## 6 · What does a label buy?
#
# The lecture prices a preference at 20 dollars a turn ("relatively cheap": a demonstration is 200). So an accuracy has
# a price tag. Two ways to spend the money:
#
# - **one person a pair**: every label is a new pair of sentences, decided by one random person's numbers;
# - **the whole panel**: fewer pairs, each decided by the mean of some 19 people, and paid for 19 times.
#
# > **Predict before you run.** A panel's label is right far more often than one person's. For the same money, which of
# > the two makes the better reward model?

# %%
stored = results.load("09_learning_curve")
people = sum(map(len, train.ratings)) / len(train)  # a panel's size
live = {n: experiments.lesson_09.learning_point(n, "random", seed=8) for n in (100,)}  # one more seed, now
PRICE = 20


# %%
@show.style()
def price_list(stored, live):
    fig, ax = show.new_figure("dollars spent on labels", "accuracy on new people and sentences", size=(7.5, 4))
    for name, style, cost in (("one person", "o-", PRICE), ("the panel", "s--", PRICE * people)):
        v, below, above = torch.tensor([runs.mean_interval(values) for values in stored[name].values()]).T
        x = [int(n) * cost for n in stored[name]]
        ax.errorbar(x, v, [(v - below).tolist(), (above - v).tolist()], fmt=style, capsize=4, label=f"{name} a label")
    ax.plot([n * PRICE for n in live], list(live.values()), "x", color="black", markersize=10, label="this run")
    ax.axhline(across["the mean of the others"].value, linestyle=":", color="black", label="human ceiling")
    ax.set_xscale("log")
    asked = ax.secondary_xaxis("top", functions=(lambda x: x / PRICE, lambda x: x * PRICE))
    asked.set_xlabel("people asked, a pair each")
    asked.xaxis.set_major_formatter(lambda n, _: f"{n:,.0f}")
    ax.xaxis.set_major_formatter(lambda dollars, _: f"{dollars:,.0f}")
    ax.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
    return fig


show.figure(
    price_list(stored, live),
    alt="Accuracy against dollars: it rises and then flattens, far below the human ceiling. At the same price, single "
    "people's labels lie above the panel's.",
)

# %%
rows = [
    (name, int(n), int(n) * (PRICE if name == "one person" else round(PRICE * people)), *runs.mean_interval(values))
    for name in ("one person", "the panel")
    for n, values in stored[name].items()
]
show.table(
    rows,
    ["decided by", "labelled pairs", "dollars", "accuracy", "95 % from", "to"],
    caption=f"Eight stored seeds: {stored['made']['command']}",
    formats={"dollars": ",d"},
)
one, panel = stored["one person"], stored["the panel"]
assert runs.paired_interval(one["2000"], one["100"])[1] > 0  # more labels help
half_price = runs.paired_interval(one["1000"], panel["100"])
print("1,000 single opinions minus 100 of a panel: {:+.3f} ({:+.3f} to {:+.3f})".format(*half_price))
assert half_price[1] > 0

# %% [markdown]
# **Noise averages out over sentences as well as over people**: single opinions on 1,000 pairs, 20,000 dollars, teach
# more than a panel's verdict on 100, at almost twice the price (the interval of the difference, seed by seed, lies
# above 0). At the same *number* of pairs the panel's cleaner labels are, by the means, worth more, for nineteen times
# the price.
#
# And money alone does not do it. Accuracy climbs up to a thousand labels; twice as many bring next to nothing, and the
# ceiling is far away. Here each sentence stands in one pair and is compared once. Section 4's model learnt from the
# same train blocks and got much further, because there each sentence stood in rankings with 31 others, by eight people.
# **What a reading is worth depends on what you ask the reader.**
#
# The same noise sits on the other side of the test. A model is right more often about the panel's mean than about one
# person, whose mood of the day nobody can predict. Take the same pairs, and let either decide.

# %%
duels, mean = pairs["across"], torch.tensor([test.mean(k) for k in range(len(test))])
ahead = mean[duels.better] - mean[duels.worse]  # of the text that one person preferred, by the panel's mean
gap = scores["reward model"][duels.better] - scores["reward model"][duels.worse]
against_panel = (gap * ahead > 0)[ahead != 0].double().mean().item()
print(
    f"the reward model agrees with one person on {across['reward model'].value:.1%} of pairs, "
    f"with the mean of the panels on {against_panel:.1%} of the same pairs"
)
assert against_panel > across["reward model"].value

# %% [markdown]
# ## 7 · What has it learnt?
#
# Watch the score while a sentence grows. Each bar is the score of the words up to there, as if the text ended after
# them.

# %%
words = reviews.LECTURE_OPENING.split()
grown = rm.score_texts([" ".join(words[: k + 1]) for k in range(len(words))])
change = torch.cat([grown[:1], grown.diff()])
show.figure(
    show.words_under_sentence(words, {"score so far": grown, "change": change}),
    alt="The score of the lecture's opening as it grows: up at loved, down at hated.",
)
by_word = dict(zip(words, change.tolist(), strict=True))
assert by_word["loved"] > 0 > by_word["hated"]

# %% [markdown]
# > **Predict before you run.** Which of these changes does it get right: a "not", a "never", a stronger word, a
# > "very", the order of praise and blame, and what it is that a film fails to do?

# %%
probes = [
    ("it is good .", "it is not good ."),
    ("a film to remember .", "never a film to remember ."),
    ("a good film .", "a superb film ."),
    ("a dull film .", "a very dull film ."),
    ("good , but too long .", "too long , but good ."),
    ("it fails to bore .", "it fails to move ."),
]
people_say = [-1, -1, +1, -1, +1, -1]  # what a reader would expect of the change
before, after = (rm.score_texts([pair[k] for pair in probes]) for k in (0, 1))
moved = (after - before).tolist()
show.table(
    [
        (a, b, x, "as expected" if x * sign > 0 else "the wrong way")
        for (a, b), x, sign in zip(probes, moved, people_say, strict=True)
    ],
    ["from", "to", "change of score", "direction"],
    formats={"change of score": "+.2f"},
)

# %% [markdown]
# Count the wrong ones. It has learnt the feeling of many common words, and a little of what words do to each other.
# Where it is wrong, it does not say so: the scores move there as they do elsewhere. A policy that is trained against it
# will find such places (lesson 14).
#
# **Exercise 09.5 · Half the sentence** (find the bug · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# A colleague has rewritten how the score is read from the hidden states, "without the clumsy indexing". A text scored
# on its own gets the right number, so the colleague's test passes. The accuracy on the test blocks says otherwise. Find
# out what is wrong by experiment: the cell below scores any texts that you like, together, with the colleague's
# version.


# %%
@torch.no_grad()
def hidden_states(texts):
    """Last hidden states [B, T, H] of texts, right-padded, and their mask [B, T]."""
    rows = [torch.tensor([*row, rm.tokenizer.eos_token_id]) for row in rm.encode(texts)]
    mask = torch.arange(max(map(len, rows))) < torch.tensor([len(row) for row in rows])[:, None]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(rm.device)
    return rm.lm.get_decoder()(input_ids=ids, attention_mask=mask.long().to(rm.device)).last_hidden_state.cpu(), mask


def read_out_as_given(hidden, mask, head):
    """Scores [B] from hidden states [B, T, H], mask [B, T] and the reward head [H]."""
    last = mask.sum(1).min() - 1
    return hidden[:, last] @ head


# %%
head, bias = rm.head.weight[0].detach().cpu(), rm.head.bias.item()
alone = torch.cat([read_out_as_given(*hidden_states([text]), head) for text in test.texts[:20]]) + bias
assert torch.allclose(alone, scores["reward model"][:20], atol=1e-3)  # the colleague's test

some = preferences.cross_block_pairs(test.ratings[::5], test.block[::5], 10_000, runs.generator(5))
together = torch.cat(
    [read_out_as_given(*hidden_states(test.texts[k : k + 160 : 5]), head) for k in range(0, 1260, 160)]
)
wrong, right = (preferences.pairwise_accuracy(x, some).value for x in (together, scores["reward model"][::5]))
print(f"accuracy on every fifth test sentence: {wrong:.3f} in batches of 32, {right:.3f} by score_texts")
assert wrong < right

# %%
mine = [
    "a film .",
    "a slow and quiet film that , in the end , is wonderful .",
    "a slow and quiet film that , in the end , fails .",
]
print([round(x, 2) for x in (read_out_as_given(*hidden_states(mine), head) + bias).tolist()])


# %% tags=["exercise"]
def read_out(hidden, mask, head):
    """Scores [B] from hidden states [B, T, H], mask [B, T] (right-padded) and the reward head [H]."""
    ### BEGIN SOLUTION
    last = mask.sum(1) - 1
    return hidden[torch.arange(len(mask)), last] @ head
    ### END SOLUTION


# %%
read_out = check("09.5", read_out)
repaired = read_out(*hidden_states(test.texts[:32]), head) + bias
assert torch.allclose(repaired, scores["reward model"][:32], atol=1e-3)

# %% [markdown]
# A reward model with such a bug still trains, still scores well above chance, and is still optimised by RL, which then
# learns that endings do not matter. Scores must not depend on what a text is batched with: that is a one-line test.
#
# ## 8 · Where is zero?
#
# **Exercise 09.6 · Ten more for everyone** (predict · difficulty ●○○○○ · importance ●●●●○ · 3 min)
#
# Add 10 to every score of the reward model. What changes? Answer `"accuracy"`, `"loss"`, `"calibration"` or
# `"none of them"`.

# %% tags=["exercise"]
prediction = (
    ### BEGIN SOLUTION
    "none of them"
    ### END SOLUTION
)

# %%
prediction = check("09.6", prediction)

# %% [markdown]
# Then why does `stages.panel_reward_model()` end with `rm.centre(...)`, which shifts the scores so that the SFT
# policy's own completions average 0? Because RL, unlike everything so far, sees the number itself. Take three answers
# and a policy. The exact policy gradient does not care about a shift either. One sample of it, without a baseline,
# does:

# %%
policy_logits = torch.tensor([0.2, -0.1, 0.4], dtype=torch.float64)
pi = policy_logits.softmax(0)
grad_log = torch.eye(3, dtype=torch.float64) - pi  # row a: ∇ log π(a)
rows = []
for shift in (0.0, 1.0, 10.0):
    reward = torch.tensor([-0.5, 0.2, 0.3], dtype=torch.float64) + shift
    one_sample = reward[:, None] * grad_log
    mean = pi @ one_sample
    rows.append((shift, *mean.tolist(), (pi @ (one_sample - mean) ** 2).sum().sqrt().item()))
    assert torch.allclose(mean, pi @ (reward[:, None] - shift).mul(grad_log), atol=1e-12)
show.table(
    rows,
    ["shift", "∇₁J", "∇₂J", "∇₃J", "standard deviation of one sample"],
    caption="The same expected gradient, and more and more noise around it",
    formats={"shift": ".0f"},
)
assert rows[2][-1] > 5 * rows[0][-1]

# %% [markdown]
# Zero matters in three more places: a critic that starts at $V = 0$ is right on average from the first step; a fixed
# penalty ("−1 if the text was cut off") means the same for every reward model; and "0 = what the policy writes today"
# can be read off a training curve. So centre on samples of the policy that RL starts from. Is it centred? These are
# fresh samples.

# %%
sft_policy = stages.sft_policy()
written = rollout.sample(
    sft_policy,
    reviews.openings("validation", limit=64),
    max_new_tokens=24,
    samples_per_prompt=2,
    generator=runs.generator(6),
)
with torch.no_grad():
    own = rm(written).cpu()
mean, low, high = runs.mean_interval(own.tolist())
show.figure(
    show.histogram({"SFT policy's completions": own, "test sentences": scores["reward model"]}, "score"),
    alt="Scores of the SFT policy's completions of negative openings centre on 0; people's sentences spread wider.",
)
print(f"mean score of the SFT policy's completions {mean:+.2f} (95 % interval {low:+.2f} to {high:+.2f})")
assert abs(mean) < 3 * (high - low) / 2

# %% [markdown]
# ## 9 · A reward model is not a value function
#
# Both map a text to a number, and both are a language model with one number on top. For a *finished* text they agree.
# For an unfinished one they answer different questions:
#
# $$\mathrm{RM}(s) = \text{the score, if the text ended here}$$
#
# $$V^\pi(s) = \mathbb{E}_{y \sim \pi(\cdot\mid s)}\big[\mathrm{RM}(s\,y)\big] = \text{the mean score, once } \pi
# \text{ has finished it}$$
#
# **Exercise 09.7 · Who looks ahead?** (predict · difficulty ●●●○○ · importance ●●●●● · 5 min)
#
# In the micro language, where the true score $R$ stands in for RM, a policy picks each word blindly, all ten alike. One
# of the two functions always equals the mean of itself over the next word, $f(s) = \frac1{10}\sum_a f(s\,a)$, whatever
# the (unfinished) sentence. Which? Answer `"R"`, `"V"`, `"both"` or `"neither"`.

# %% tags=["exercise"]
who = (
    ### BEGIN SOLUTION
    "V"
    ### END SOLUTION
)

# %%
who = check("09.7", who)


# %%
def V(words, longest=5):
    """The exact value under the blind policy: R, if the review is over, else the mean over all endings."""
    if words[-1] == "." or len(words) == longest:
        return R(words)
    rest = reviews.micro_mdp(longest - len(words), opening=words)
    return mdp.exact_objective(rest, models.TablePolicy(rest)).item()


review, rows = ("awful", "but", "great", "and", "good"), []
for n in range(1, 5):
    prefix = review[:n]
    rest = reviews.micro_mdp(5 - n, opening=prefix)
    ends = mdp.sample_episodes(rest, models.TablePolicy(rest), 400, runs.generator(7, n))
    estimate, low, high = runs.mean_interval(mdp.episode_returns(rest, *ends).tolist())
    ahead = [sum(f((*prefix, word)) for word in reviews.MICRO_WORDS) / 10 for f in (R, V)]
    rows.append((" ".join(prefix), R(prefix), ahead[0], V(prefix), ahead[1], estimate, f"{low:.2f} to {high:.2f}"))
    assert abs(V(prefix) - ahead[1]) < 1e-5 and abs(R(prefix) - ahead[0]) > 0.05
show.table(
    rows,
    ["so far", "R", "mean R one word on", "V", "mean V one word on", "V by 400 samples", "95 %"],
    formats=dict.fromkeys(["R", "mean R one word on", "V", "mean V one word on", "V by 400 samples"], ".3f"),
)

# %% [markdown]
# $V$ is the mean of itself one word on, exactly. $R$ is not: "awful but" is as bad as "awful", and has a better future;
# "awful but great" is good, and blind words will spoil it.
#
# Now the same with the tiny models. A sentence that turns; at each word we let the SFT policy finish it 64 times and
# average the final scores: $V$, by sampling, with its interval. Beside it the reward model's own opinion of the prefix.
#
# > **Predict before you run.** At "slow and dull", which of the two is lower? And at the last word?

# %%
sentence = "slow and dull at first , but finally a triumph".split()
prefixes = [" ".join(sentence[: k + 1]) for k in range(len(sentence))]
finished = rollout.sample(sft_policy, prefixes, max_new_tokens=24, samples_per_prompt=64, generator=runs.generator(8))
with torch.no_grad():
    final = rm(finished).cpu().view(len(prefixes), 64)
read = rm.score_texts(prefixes).tolist()
value, low, high = zip(*(runs.mean_interval(row.tolist()) for row in final), strict=True)


# %%
@show.style()
def reward_and_value():
    fig, ax = show.new_figure("", "score", size=(8.5, 3.8))
    x, (v, below, above) = range(len(sentence)), torch.tensor([value, low, high])
    ax.plot(x, read, "o-", label="RM(prefix): if it ended here")
    ax.errorbar(x, v, [(v - below).tolist(), (above - v).tolist()], fmt="s--", capsize=4, label="V(prefix), 95 %")
    ax.set_xticks(x, sentence)
    ax.legend()
    return fig


show.figure(reward_and_value(), alt="The reward model's score swings with the words; the value swings less.")
outside = [not a <= r <= b for r, a, b in zip(read, low, high, strict=True)]
print(f"RM(prefix) lies outside the 95 % interval of V(prefix) at {sum(outside)} of {len(sentence)} words")
assert sum(outside) >= len(sentence) / 2

# %% [markdown]
# They differ at nearly every word. The reward model judges what is there: it swings with "dull" and "triumph". The
# value asks what is likely to come as well: "dull" pulls it down too, since the word stays in the text, but what the
# policy adds pulls it towards the policy's average, about 0. Look at a single prefix:


# %%
def endings(words):
    """The final scores of the 64 endings of the first `words` words."""
    k = words - 1
    spread = final[k].std().item()
    fig = show.histogram(
        {"final scores of 64 endings": final[k]}, "score", f"“{prefixes[k]}” …   spread {spread:.2f}", bins=16
    )
    axes = fig.axes[0]
    axes.axvline(read[k], color="black", label="RM(prefix)")
    axes.axvline(value[k], color="black", linestyle="--", label="V(prefix)")
    axes.set_xlim(min(final.min().item(), *read) - 0.5, max(final.max().item(), *read) + 0.5)
    axes.legend(frameon=False)
    return fig


show.slider_figure(
    endings,
    alt="Histogram of the final scores of 64 endings, with RM(prefix) and V(prefix) marked.",
    words=(1, len(sentence), 1, 3),
)

# %% [markdown]
# So never use a reward model's reading of half a text as if it were the value of having got there: as a baseline, as a
# critic, to prune a search. A value belongs to a policy, and must be learnt for it (lesson 06), perhaps *starting* from
# the reward model's weights, as PPO's critic often does (lesson 11).

# %% [markdown]
# ## 10 · Your labels and the panel's
#
# Whose judgment is the proxy a proxy of? If you labelled texts in lesson 00 or 08, the next cell takes your labels. If
# not, a real person stands in for you: one rater of a validation block, whose 30 ratings make two rankings of 15
# sentences.

# %%
yours, problems = labels.read_labels(stages.labels_file())
print("\n".join([f"labels of yours: {len(yours)}", *problems]))
if len(yours) < 4:
    block = reviews.load().subset("validation")
    one_person = [panel[:1] for panel in block.ratings[:30]]
    yours = preferences.rankings_from_ratings(block.texts[:30], one_person, 15, runs.generator(9))
    print("too few to train on: a stranger's labels take their place")

mine = stages.panel_reward_model()
taught, asked = yours[::2], yours[1::2]  # teach it half of the labels, ask it about the other half
run = reward_model.train(mine, taught, stages.YOURS, runs.Run(progress=False))


# %%
def agrees(model, rankings):
    """How many of the decided pairs the model orders as the labeller did."""
    duels = preferences.text_pairs(rankings)
    if not duels:
        return "0 of 0"
    better, worse = (model.score_texts([pair[k] for pair in duels]) for k in (0, 1))
    return f"{int((better > worse).sum())} of {len(duels)}"


show.table(
    [
        (name, agrees(model, taught), agrees(model, asked))
        for name, model in (("the panel's model", rm), ("the panel's, then taught by you", mine))
    ],
    ["reward model", "agrees on the labels taught", "on the labels held back"],
)
scores["taught by you"] = mine.score_texts(test.texts)
moved = (scores["taught by you"] - scores["reward model"]).std().item()
after = preferences.pairwise_accuracy(scores["taught by you"], pairs["across"]).value
print(
    f"the labels moved the scores of test sentences by {moved:.2f} (standard deviation); agreement with "
    f"the panel {across['reward model'].value:.3f} before, {after:.3f} after"
)

# %% [markdown]
# A handful of labels cannot say whether the second model is *better* for you: with, say, 7 pairs held back, 5 right and
# 7 right are the same thing. It does say who is in charge. A few updates move every score, if only a little, and what a
# reward model rewards is decided by whoever happened to be asked. `stages.your_reward_model()` is this cell, trained on
# all of your labels, centred again and kept; lesson 10 optimises it.
#
# <details><summary><b>Optional: why the last token, and why a fresh head?</b></summary>
#
# In a causal model the hidden state at position $t$ has seen the tokens up to $t$ and nothing else, so only the last
# one can judge the text. It is the end token, which `score_ids` appends: "this text is over" is what the head learns to
# read. Read the pad after it, or the last *word*, and training and use no longer match. The head starts with standard
# deviation $1/\sqrt{H+1}$, so that first scores are of size 1 and $\sigma$ is not saturated.
# </details>
#
# <details><summary><b>Optional: all pairs of a ranking, or Plackett–Luce?</b></summary>
#
# `reward_model.Config(loss=...)` offers both. All 120 pairs of a ranking of 16 cost 16 forward passes, as long as they
# stay in one batch. Shuffled into separate batches they cost 240, and each text is seen 15 times an epoch: InstructGPT
# (Ouyang et al. 2022) overfitted within one epoch that way. Plackett–Luce gives the top of a ranking more weight: its
# first factor picks one of sixteen, its last one of two. All pairs count alike in the other.
# </details>
#
# ## Recap
#
# - Bradley–Terry: $P(i \succ j) = \sigma(s_i - s_j)$, by noisy impressions. Its negative log-likelihood is the loss;
#   Plackett–Luce is the same for rankings, and with two items the same number.
# - Leave ties out of the comparison: for pairs that is exactly right under Davidson's model, for rankings a slight
#   shrinkage. Never call a tie a win.
# - Measure accuracy on held-out **blocks** of raters, within and across blocks apart, beside the human ceiling; and
#   measure calibration too.
# - A label costs 20 dollars: spend it on new sentences rather than on second opinions, and ask for rankings rather than
#   pairs.
# - Only differences are learnt. Centre on the policy's own samples before RL sees the number.
# - RM(prefix) is not V(prefix).

# %%
quiz(
    "Two people agree on 88 % of the pairs that both decide; the mean of all others predicts one person's decision "
    "on 89 %. How often can a reward model be right about one random person?",
    {
        "100 %, with enough labels": "The outcomes are single people's decisions, and people disagree.",
        "88 %, as a second person is": "A second person is noisy too. A model may learn the mean, which is not.",
        "About 89 %": "Who knows nothing of this one person can hardly do better than the mean of many others.",
    },
    correct="About 89 %",
)
quiz(
    "Ties were counted as wins for the text shown on the left. What does the reward model learn?",
    {
        "Nothing wrong: ties average out": "Each tie asks for a difference now, where people saw none.",
        "To prefer whatever tends to stand on the left": "If that is, say, always the first sample, first samples look "
        "better than they are; and if sides are drawn by chance, the scores are pulled together.",
        "That the two texts score the same": "For that the loss would have to ask for a difference of 0.",
    },
    correct="To prefer whatever tends to stand on the left",
)
quiz(
    "To save time, a search keeps the ten five-word openings with the highest reward-model score. What goes wrong?",
    {
        "Nothing: a good start is a good text": "“awful but” has a better future than “awful and”, at the same score.",
        "Openings are judged as if they ended there": "That is R(s). The search needs V(s), which depends on what the "
        "policy will write next.",
        "The reward model cannot score five words": "It can, and that is why nobody notices.",
    },
    correct="Openings are judged as if they ended there",
)

# %% [markdown]
# **Next:** [10 · RL against the reward model](10_rl_against_the_reward_model.ipynb). The number exists, it is
# calibrated and centred. Now a policy is trained to raise it, and will look for every way of doing so.
