# %% [markdown]
# # 08 · Synthetic data and human preferences
#
# **The question.** Before a reward model can learn what people prefer, somebody has to write texts to compare, and
# somebody has to compare them. Who writes? Who compares, and do they agree? And what does it all cost?
#
# **You will** let a policy answer the same prompt several times; turn the lecture's ranking B > C = D > A into
# pairs; **label** pairs and rankings yourself, by mouse or keyboard, for *your* reward model in lesson 09;
# measure how far real people agree, with an interval that deserves the name; test the claim that fine-tuning must
# come first; and price an RL run in which people judge every sample.
#
# | | |
# |---|---|
# | You need | lessons 00 and 01 |
# | Reading | 35 minutes, 10 for labelling, and 55 for the exercises |
# | Run time | about 50 s on 2 cores, once the SFT policy and the two reward models are there |
# | A GPU | shortens the sampling and the one training run |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · Several answers to one prompt
#
# The lecture's first step: *"Generate lots of 'synthetic' data"*. Nobody writes texts for people to compare; the
# policy does, $K$ for each prompt: *"agent explores multiple ways of doing a task"*. For our task:

# %%
writers = experiments.shared.writers()  # the tiny model: with random weights, pre-trained, fine-tuned (SFT)
policy, judge = writers["SFT"], stages.judge()
openings = reviews.openings("validation", limit=32)
K = 4
four = rollout.sample(policy, openings[:4], max_new_tokens=24, samples_per_prompt=K, generator=runs.generator(4))
said = [four.completions()[k::K] for k in range(K)]
show.text_samples(openings[:4], {name: texts for name, texts in zip("ABCD", said, strict=True)})

# %% [markdown]
# Some are better than others: that is all we need. A preference is information only if the answers *differ*. How
# different they are is decided by the **temperature** of sampling. Scores below are those of the *judge*, a
# reward model of real raters' opinions (lesson 00); read them as "how positive people would find this".
#
# > **Predict before you run.** At temperature 0 the policy always takes its likeliest word. What can people compare?


# %%
def scored(policy, temperature=1.0, seed=1):
    """The judge's scores [32, K] of K answers to each opening, and the answers."""
    how = {"samples_per_prompt": K, "temperature": temperature, "generator": runs.generator(seed)}
    texts = rollout.sample(policy, openings, max_new_tokens=24, **how)
    with torch.no_grad():
        return judge(texts).view(len(openings), K).cpu(), texts


rows, by_writer = [], {"SFT": scored(policy)}
for temperature in (0.0, 0.5, 1.0, 1.5):
    s, texts = by_writer["SFT"] if temperature == 1 else scored(policy, temperature)
    different = len(set(zip(texts.prompts(), texts.completions(), strict=True))) / len(openings)
    rows.append((temperature, different, s.std(1).mean().item(), s.mean().item(), s.max(1).values.mean().item()))
columns = ["temperature", f"different answers of {K}", "spread within a prompt", "mean score", f"best of {K}"]
show.table(rows, columns, formats={"temperature": ".1f", **{name: ".2f" for name in columns[1:]}})
assert rows[0][1] == 1 and rows[0][2] < 1e-6 and rows[2][1] > 3 and rows[2][2] > 0.1

# %% [markdown]
# At temperature 0 nothing: one answer, four times. Exploration is what there is to prefer. It is also what there
# is to gain: *best of 4* is above the mean exactly because the answers differ (lesson 10 begins with it). But
# different *words* are not yet different *quality*: once hardly two answers are alike, does the spread go on growing?
# And what becomes of the mean?

# %% [markdown]
# ## 2 · B > C = D > A
#
# The lecture's example. *"What are the 3 most common gasses in earth's atmosphere?"* Its slide shows only how
# four answers begin; here they are, finished for this course. Which do you prefer? Rank them, best first. Click
# the letters in order, or click into the field and type, such as `dc=ab`. (This one is for practice and is not
# saved. As everywhere in this course, you may also just go on.)

# %%
question = "What are the 3 most common gasses in earth's atmosphere?"
answers = {
    "A": "The atmosphere of Earth is a layer of gases retained by Earth's gravity. It protects life on Earth.",
    "B": "The atmosphere is commonly known as air. The top gases by volume that dry air contains are nitrogen (78 %), "
    "oxygen (21 %) and argon (0.9 %).",
    "C": "The air that surrounds the planet Earth contains various gases. Nitrogen and oxygen are the most common.",
    "D": "The atmosphere of Earth is the layer of gases, generally known as air: mostly nitrogen, then oxygen.",
}
show.RankingLabeler([tuple(answers.values())], prompt=question)

# %% [markdown]
# The lecture's labeller says **B > C = D > A**: B names all three, C and D two each, A none. As *ranks*, 0 is
# best and equals share a number: A 2, B 0, C 1, D 1. To learn from it we need pairs, (better, worse).
#
# **Exercise 08.1 · From a ranking to pairs** (implement · difficulty ●●○○○ · importance ●●●●● · 8 min)
#
# `ranks` is a list, one number an answer. Return all decided pairs as a list of tuples `(better, worse)` of
# positions, sorted. A tie decides nothing: it gives no pair. For example `[1, 0, 1]` gives `[(1, 0), (1, 2)]`.


# %% tags=["exercise"]
def my_pairs(ranks):
    """(better, worse) positions of every pair that the ranks decide."""
    ### BEGIN SOLUTION
    n = len(ranks)
    return [(i, j) for i in range(n) for j in range(n) if ranks[i] < ranks[j]]
    ### END SOLUTION


# %%
my_pairs = check("08.1", my_pairs)

# %%
lecture = preferences.Ranking(tuple(answers.values()), (2, 0, 1, 1))
print("B > C = D > A decides:", ", ".join(f"{'ABCD'[i]} > {'ABCD'[j]}" for i, j in my_pairs(lecture.ranks)))
pairs = [(lecture.texts[i], lecture.texts[j]) for i, j in my_pairs(lecture.ranks)]
assert pairs == preferences.text_pairs([lecture])  # the library's version, for any number of rankings
chosen, rejected = preferences.ordered_pairs(torch.tensor([lecture.ranks]))
assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == my_pairs(lecture.ranks)

# %% [markdown]
# Five pairs for the price of reading four texts. That is why one ranks: InstructGPT's labellers ranked 4 to 9
# answers at a time (Ouyang et al. 2022). But count what you get.
#
# **Exercise 08.2 · What one ranking is worth** (derive · difficulty ●●○○○ · importance ●●●○○ · 6 min)
#
# A ranking of $K$ answers falls into groups of equals, of sizes $g_1, g_2, \dots$ from best to worst: B > C = D >
# A has sizes 1, 2, 1. How many pairs does it decide? On paper first, then as a function of the list of sizes.


# %% tags=["exercise"]
def decided(sizes):
    """The number of decided pairs of a ranking whose groups of equals have these sizes."""
    ### BEGIN SOLUTION
    K = sum(sizes)
    return K * (K - 1) // 2 - sum(g * (g - 1) // 2 for g in sizes)
    ### END SOLUTION


# %%
decided = check("08.2", decided)

# %% [markdown]
# Confirm it on every possible ranking of four answers. (There are 75: for each way to hand out ranks, squeeze out the
# gaps.)

# %%
import itertools

dense = {tuple(sorted(set(r)).index(x) for x in r) for r in itertools.product(range(4), repeat=4)}
for ranks in dense:
    assert len(my_pairs(ranks)) == decided([ranks.count(level) for level in range(max(ranks) + 1)])
histogram = torch.tensor([len(my_pairs(ranks)) for ranks in dense]).bincount()
print(len(dense), "rankings; by number of decided pairs, 0 to 6:", histogram.tolist())
assert len(dense) == 75 and decided([1, 2, 1]) == 5

# %% [markdown]
# ## 3 · Two prompts at once
#
# **Exercise 08.3 · Too many labels** (find the bug · difficulty ●●○○○ · importance ●●●●● · 8 min)
#
# Answers to several prompts stand in one long list, because a model scores them in one go. The function below
# gets the ranks prompt by prompt and returns pairs of *places in that list*. It never fails, and the reward model
# that learns from it gets "more data". Find out by experiment what is wrong, and repair it.


# %%
def given_pairs(rankings):
    """(better, worse) places in the list of all answers, from the ranks of each prompt's answers."""
    ranks = [rank for ranking in rankings for rank in ranking]
    return [(i, j) for i in range(len(ranks)) for j in range(len(ranks)) if ranks[i] < ranks[j]]


given_pairs([[0, 1], [1, 0]])  # two prompts, two answers each: places 0 and 1, 2 and 3


# %% tags=["exercise"]
def repaired_pairs(rankings):
    """The same, repaired; sorted by the better answer's place, then the worse one's."""
    ### BEGIN SOLUTION
    found, start = [], 0
    for ranks in rankings:
        found += [(start + i, start + j) for i, j in my_pairs(ranks)]
        start += len(ranks)
    return found
    ### END SOLUTION


# %%
repaired_pairs = check("08.3", repaired_pairs)

# %% [markdown]
# ## 4 · Your turn
#
# Twelve pairs, each two answers of the policy to one negative opening. **Which is the more positive?** By mouse,
# or click into the field and type: `a` or `b` for the better one, `=` for a tie, `s` to skip, `u` or Backspace to
# take back. The part that both share is pale.
#
# Every answer is on the disk (`workspace/labels.jsonl`, shared with lesson 00) before the next pair appears:
# close the notebook, kill the kernel, and you go on where you were. What you say here trains *your* reward model
# in lesson 09.

# %%
two = rollout.sample(policy, openings[8:24], max_new_tokens=24, samples_per_prompt=2, generator=runs.generator(5))
whole = [p + c for p, c in zip(two.prompts(), two.completions(), strict=True)]
to_compare = [(a, b) for a, b in zip(whole[0::2], whole[1::2], strict=True) if a != b][:12]
show.PairLabeler(to_compare, prompt="Which is the more positive?", path=stages.labels_file())

# %% [markdown]
# And the same with four at a time. Mind how long a ranking takes, compared with a pair.

# %%
texts = [p + c for p, c in zip(four.prompts(), four.completions(), strict=True)]
to_rank = [tuple(texts[K * i : K * (i + 1)]) for i in range(3)]
show.RankingLabeler(to_rank, prompt="Put them in order, the most positive first.", path=stages.labels_file())

# %% [markdown]
# What did you say? (Labelled some after running this cell? Run it again.)

# %%
yours, problems = labels.read_labels(stages.labels_file())
duels = preferences.text_pairs(yours)
print(f"labels of yours: {len(yours)}; pairs that they decide: {len(duels)}", *problems, sep="\n")
if duels:
    better, worse = (judge.score_texts([pair[side] for pair in duels]) for side in (0, 1))
    print(f"the judge, a model of other people, agrees with you on {int((better > worse).sum())} of them")

# %% [markdown]
# It was not easy, was it? These are texts of a small model, and often neither is positive. Ties and skips are honest
# answers; a forced choice would have been noise. Remember the feeling for section 6.

# %% [markdown]
# ## 5 · Do people agree?
#
# You have been one person. Our data have many: 10,605 sentences of film reviews, each rated from −4 to 4 by 15 to 29
# people (Hutto and Gilbert 2014). A panel rated a *block* of 30 sentences; here is a corner of one block.

# %%
rated = reviews.load()
table = preferences.rating_matrix(rated.ratings)  # [10605, 29], NaN where nobody rated
block = torch.tensor(rated.block)
shown = [row for row in range(30 * 200, 30 * 201) if len(rated.texts[row]) < 60][:5]
fig = show.heat_map(
    table[shown, :10], [rated.texts[r] for r in shown], [f"#{j}" for j in range(1, 11)], "Ten raters", spec=".0f"
)
show.figure(fig, alt="Ratings of five sentences by ten people: rows differ, but so do people within a row.")

# %% [markdown]
# ### Why compare, if one can rate?
#
# Some people are mild, some harsh: look down the columns. A *comparison by one person* does not care, a
# comparison of two people's ratings does. How much does it matter? Take two sentences of a block. Who decides
# which is better: one person, or one person's rating of the first against **another** person's rating of the
# second? Both are measured against the mean of everybody else on the panel.
#
# > **Predict before you run.** Which of the two decides more often? Which is right more often?


# %%
def compared(x, same):
    """(share decided, share right of those, right with ties as half) in one block's ratings x [30, P]."""
    x = x[:, ~x.isnan().any(0)]  # people who rated all of the block
    i, j = torch.combinations(torch.arange(len(x))).T
    next_person = x.roll(-1, 1)
    decision = (x[i] - (x if same else next_person)[j]).sign()  # [pairs, P]
    others = x.sum(1, keepdim=True) - x - next_person  # whoever takes part is left out, in both cases
    truth = (others[i] - others[j]).sign()
    right, made = 0.5 + 0.5 * decision * truth, decision != 0
    return [made.double().mean().item(), right[made].mean().item(), right.mean().item()]


# %%
blocks = [table[block == b] for b in range(354)]
columns = ["share decided", "right, of those decided", "right, ties as half"]
rows, gain = [], {}
for who, same in {"one person compares": True, "two people's ratings": False}.items():
    found = list(zip(*(compared(x, same) for x in blocks), strict=True))
    gain[who] = found[2]
    rows.append((who, *("{:.3f} ({:.3f}–{:.3f})".format(*runs.mean_interval(values)) for values in found)))
show.table(rows, ["who decides", *columns], caption="Means over 354 blocks, 95 % intervals")
assert runs.paired_interval(*gain.values())[1] > 0

# %% [markdown]
# Two people's ratings decide more often, and part of what they decide is only who happened to rate which. **Ask one
# person to compare**: more pairs end in an honest tie, and the rest are more reliable. That is one reason why
# preferences are collected as comparisons.
#
# ### Pairwise agreement
#
# How often do two people who both decide agree? And one person with the mean of the rest? The two kinds of pair
# differ: *within* a block (same panel) and *across* blocks. The intervals come from resampling blocks, as the
# end of this section explains.

# %%
rows = []
for kind in ("within", "across"):
    people = preferences.human_ceiling(rated.ratings, rated.block, kind, runs.generator(0), n=50_000)
    shares = ["{:.3f} ({:.3f}–{:.3f})".format(*share) for share in people[:2]]
    rows.append((kind, people.tie_share, *shares))
    assert 0.7 < people.two_people.value < people.person_and_rest.value < 0.95
show.table(rows, ["pairs", "ties", "two people agree", "one person and the rest agree"])

# %% [markdown]
# Within a block, about four times in five. The last column is the best that a reward model can hope for: who knows
# nothing of this one person can hardly do better than the mean of all others (lesson 09 measures a reward model
# against this *ceiling*). Across blocks people agree more only because the sentences are farther apart: the file's
# first half is positive, the second negative.
#
# ### Krippendorff's α
#
# Agreement in per cent depends on how many ties and how many steps the scale has. The usual remedy compares the
# disagreement *observed* within a text, $D_o$, with the one to *expect* if ratings were dealt out by chance, $D_e$.
# With the squared difference as the disagreement of two ratings (the *interval* metric),
#
# $$\alpha = 1 - \frac{D_o}{D_e}, \qquad
# D_o = \sum_u \frac{n_u}{n} \underbrace{\frac{\sum_{i \neq j} (x_{ui} - x_{uj})^2}{n_u (n_u - 1)}}_{\text{in text }u},
# \qquad D_e = \underbrace{\frac{\sum_{k \neq l} (x_k - x_l)^2}{n (n - 1)}}_{\text{any two ratings}} .$$
#
# $x_{ui}$ are the $n_u$ ratings of text $u$, and $n = \sum_u n_u$. It is 1 if all agree, 0 if the ratings of a text are
# no closer to each other than any others, and below 0 if they are farther apart. Texts with fewer than two ratings are
# left out, everywhere.
#
# **Exercise 08.4 · Krippendorff's α** (implement · difficulty ●●●●○ · importance ●●●●○ · 18 min)
#
# `table` is `[texts, raters]`, NaN where a rating is missing. Return α as a float. By hand: `[[1, 3], [2, 2]]` has
# $D_o = \frac{2}{4}\cdot 4 + \frac{2}{4}\cdot 0 = 2$ and $D_e = 16/12$, so $\alpha = -0.5$.


# %% tags=["exercise"]
def my_alpha(table):
    """Krippendorff's α, interval metric: table [texts, raters] with NaN for missing ratings -> float."""
    ### BEGIN SOLUTION
    texts = [row[~row.isnan()] for row in table.double()]
    texts = [x for x in texts if len(x) > 1]

    def mean_square(x):
        return ((x[:, None] - x[None]) ** 2).sum() / (len(x) * (len(x) - 1))

    pool = torch.cat(texts)
    observed = sum(len(x) / len(pool) * mean_square(x) for x in texts)
    return float(1 - observed / mean_square(pool))
    ### END SOLUTION


# %%
my_alpha = check("08.4", my_alpha)

# %% [markdown]
# Is it right? Krippendorff (2011) works an example by hand: 12 units, 4 observers, gaps; the interval α is 0.849.

# %%
nan = math.nan
published = torch.tensor(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
).T
everyone = preferences.krippendorff_alpha(table)  # the same by sums of squares, for tables of any size
assert abs(my_alpha(blocks[0]) - preferences.krippendorff_alpha(blocks[0])) < 1e-3
print(f"published example: {my_alpha(published):.3f}; all 10,605 sentences: {everyone:.3f}")
assert round(my_alpha(published), 3) == 0.849 and abs(everyone - 0.798) < 0.001

# %% [markdown]
# **Exercise 08.5 · The same people, half the film reviews** (predict · difficulty ●●●○○ · importance ●●●●○ · 4 min)
#
# α of all sentences is 0.80. Now compute it for the positive half of the file alone: the same people, the same way of
# rating. Answer `"it rises"`, `"it stays"` or `"it falls"`.

# %% tags=["exercise"]
half_alpha = (
    ### BEGIN SOLUTION
    "it falls"
    ### END SOLUTION
)

# %%
half_alpha = check("08.5", half_alpha)

# %%
alphas = [preferences.krippendorff_alpha(x) for x in blocks]
halves = {"positive": torch.cat(blocks[:177]), "negative": torch.cat(blocks[177:])}
levels = {"all": everyone} | {f"{name} half": preferences.krippendorff_alpha(x) for name, x in halves.items()}
fig = show.histogram({"354 blocks": alphas}, "Krippendorff's α", bins=24)
for i, (name, level) in enumerate(levels.items()):
    fig.axes[0].axvline(level, color="#000000", linestyle=show.plots.DASHES[i], label=f"{name}: {level:.2f}")
fig.axes[0].legend(frameon=False)
show.figure(fig, alt="α of single blocks spreads around 0.4; the halves reach about 0.5, the whole file 0.8.")
assert everyone > 0.75 and max(list(levels.values())[1:]) < 0.65 and sum(alphas) / 354 < min(list(levels.values())[1:])

# %% [markdown]
# The raters did not change; the *material* did. Telling a good film from a bad one is easy, telling two good ones
# apart is not. And an RL policy, once it is any good, asks its reward model the hard question only.
#
# ### An interval that deserves the name
#
# How sure are we of 0.80? Bootstrap: draw the data again with replacement, compute α, repeat. But draw **what**?
# Sentences of a block share their raters, and one harsh person moves all 30 of them.
#
# > **Predict before you run.** Which interval is wider: drawing 10,605 sentences, or drawing 354 blocks?


# %%
def bootstrap(units, repeats=150):
    """95 % percentile interval of α, drawing units [U, sentences, raters] with replacement."""
    found = []
    for r in range(repeats):
        drawn = torch.randint(len(units), (len(units),), generator=runs.generator(3, r))
        found.append(preferences.krippendorff_alpha(units[drawn].flatten(0, 1)))
    return torch.tensor(found).quantile(torch.tensor([0.025, 0.975])).tolist()


rows, whole_blocks = [], torch.stack(blocks[:353])  # the last block is a short one
for name, x in {"all": whole_blocks, "positive half": whole_blocks[:177]}.items():
    rows.append((name, levels[name], *bootstrap(x.flatten(0, 1)[:, None]), *bootstrap(x)))
columns = ["sentences", "α", "drawing sentences: from", "to", "drawing blocks: from", "to "]
show.table(rows, columns)
widths = [(row[3] - row[2], row[5] - row[4]) for row in rows]
print("the blocks' interval is wider by a factor of", " and ".join(f"{wide / narrow:.1f}" for narrow, wide in widths))
assert all(1.6 * narrow < wide for narrow, wide in widths)

# %% [markdown]
# The first interval is far too sure of itself. The same holds for everything in this course: intervals, and the
# split into train and test, go by **blocks**. Whoever splits *pairs* at random tests on the panels that were
# trained on.

# %% [markdown]
# **Exercise 08.6 · How coarse may the scale be?** (experiment · difficulty ●●○○○ · importance ●●●○○ · 8 min)
#
# A thumb up or down is quicker to give than a number. Let the raters' scale have only 2, 3, … 9 equal steps,
# compare two sentences of a block by one person's ratings, and ask how much of the others' preference is
# recovered (1 if right, ½ for a tie). What is the **smallest** number of steps that recovers *safely* more than
# 0.66: the whole 95 % interval, over new draws? Turn the knob, then answer. How confident are you?

# %%
from rlhf_lib.course.exercises.lesson_08 import recovered

steps = 3
draws = [recovered(steps, seed) for seed in range(6)]
print(f"{steps} steps recover {{:.4f}}, 95 % interval {{:.4f}} to {{:.4f}}".format(*runs.mean_interval(draws)))

# %% tags=["exercise"]
smallest = (
    ### BEGIN SOLUTION
    5
    ### END SOLUTION
)

# %%
smallest = check("08.6", smallest)

# %% [markdown]
# ## 6 · Why supervised fine-tuning comes first
#
# *"Reason 1 why we need Pre-training+SFT. The outputs of the initial model need to already be somewhat reasonable for
# humans to provide effective feedback."* Is that so? Let three models write: one with **random weights**, one
# **pre-trained**, one after **SFT**. Would you like to compare these?

# %%
for name in ("random weights", "pre-trained"):
    by_writer[name] = scored(writers[name])
by_writer = {name: by_writer[name] for name in writers}  # in the order of their education
show.text_samples(openings[:3], {name: texts.completions()[0 : 3 * K : K] for name, (_, texts) in by_writer.items()})

# %% [markdown]
# We cannot ask the raters about new texts. But we have two models of *disjoint* groups of real raters, the judge
# and the panel's reward model. Two questions about every pair of answers to one prompt:
#
# - do the two models order it alike? (½ would be chance)
# - one person prefers the first with probability $p = \sigma(\text{judge's gap})$; two agree with $p^2 + (1 - p)^2$.
#
# > **Predict before you run.** Put the three writers in order, for both questions.

# %%
panel, (one, other) = stages.panel_reward_model(), torch.combinations(torch.arange(K)).T
rows = []
for name, (s, texts) in by_writer.items():
    with torch.no_grad():
        second = panel(texts).view(s.shape).cpu()
    gap, second_gap = s[:, one] - s[:, other], second[:, one] - second[:, other]
    alike = 0.5 + 0.5 * (gap * second_gap).sign().mean(1)
    agree = (gap.sigmoid() ** 2 + (-gap).sigmoid() ** 2).mean(1)
    told = ["{:.3f} ({:.3f}–{:.3f})".format(*runs.mean_interval(x.tolist())) for x in (alike, agree)]
    rows.append((name, s.mean().item(), s.max(1).values.mean().item(), *told))
show.table(rows, ["writer", "mean score", f"best of {K}", "two models order alike", "two people would agree"])

# %% [markdown]
# Look at the intervals before you name a winner; and a few points do not look like much anyway. (A caveat, too: a
# reward model has an opinion on anything, even on word salad, where a person would shrug.) So ask the question that
# matters: **what do the labels teach?** Buy 300 labelled pairs of each writer's texts from a simulated person, who
# prefers the first with probability $\sigma(\text{gap})$ of the judge. Train a reward model on each. Then test it where
# it will be used: on texts of the SFT policy, against the judge; and on real people's comparisons of real sentences.
# Eight stored runs with new seeds each, and a live one.

# %%
stored = results.load("08_feedback")
live = experiments.lesson_08.feedback_point(writers["SFT"], seed=8)
tests = {"people": "real people, real sentences", "SFT texts": "the judge, the SFT policy's texts"}
told = "{:+.3f} ({:+.3f} to {:+.3f})".format
rows = []
for name in writers:
    means = [f"{runs.mean_interval(stored[name][test])[0]:.3f}" for test in tests]
    more = [runs.paired_interval(stored[name][test], stored["random weights"][test]) for test in tests]
    more = [told(*gain) if name != "random weights" else "" for gain in more]
    rows.append((name, means[0], more[0], means[1], more[1]))
rows.append(("SFT, this run", f"{live['people']:.3f}", "", f"{live['SFT texts']:.3f}", ""))
less = "more than random weights"
show.table(
    rows,
    ["300 labelled pairs of texts by", tests["people"], less, tests["SFT texts"], less + " "],
    caption="Share of pairs ordered right after training (chance: 0.5); stored runs, paired 95 % intervals",
)
assert all(live[test] > 0.45 for test in tests)
own = runs.paired_interval(stored["SFT"]["SFT texts"], stored["pre-trained"]["SFT texts"])
print("on the SFT policy's texts: labels on its own minus labels on pre-trained texts", told(*own))
for test in tests:
    assert runs.paired_interval(stored["SFT"][test], stored["random weights"][test])[1] > 0
    assert runs.paired_interval(stored["pre-trained"][test], stored["random weights"][test])[0] > 0  # the mean only

# %% [markdown]
# What word salad teaches is little, but not nothing: it is full of "awful" and "charming", and a simulated person who
# cannot shrug reads them. The same money, spent on the SFT policy's texts, teaches more, about real sentences and about
# texts of its own kind: both intervals lie above 0, by a few pairs in a hundred. The pre-trained model's texts stand
# between the two by their means, and eight runs tell them apart from neither. The last row shows how far one run may
# lie from a mean. An earlier edition of this table, of four runs, had on the right a "clear" gain of SFT's labels over
# the pre-trained model's; these eight do not confirm it.
#
# SFT does another thing, in the first table: its texts *start* higher, and so do the best of four. That is where
# reinforcement learning begins, and what it can reach by choosing among its own samples. The lecture's claim holds
# here: the direction is right, and the size is not what one would wish to build a budget on.
#
# ## 7 · The price of not having a reward model
#
# The lecture's figures. A demonstration is 200 dollars a turn: 10,000 are 2 million. A preference is 20 dollars,
# *"relatively cheap"*: 100,000 of them are 2 million. Llama 2 spent 25 million and more on 1.4 million samples; GPT 4,
# Claude 3 and Llama 3 in the order of 100 million each on data. And even so: *"can't ask a human every single time to
# label!"*

# %%
DEMONSTRATION, PREFERENCE = 200, 20  # dollars a turn
assert 10_000 * DEMONSTRATION == 100_000 * PREFERENCE == 2_000_000
print(f"Llama 2: ${25e6 / 1.4e6:.1f} a label; at the lecture's price ${1.4e6 * PREFERENCE / 1e6:.0f} M")
config = experiments.shared.RLHF  # lesson 10's RLHF run on the tiny model
samples = config.steps * config.prompts_per_step * config.samples_per_prompt
print(f"lesson 10's run: {samples:,} texts; judged by people ${samples * PREFERENCE:,}, for one seed of a tiny model")

# %% [markdown]
# **Exercise 08.7 · The price of one run** (predict · difficulty ●○○○○ · importance ●●●●● · 3 min)
#
# InstructGPT's RL phase took 256,000 episodes (Ouyang et al. 2022): as many answers, each scored once by the
# reward model. What if people had judged each of them, at 20 dollars? Commit to a number before you move the
# sliders.

# %% tags=["exercise"]
price = (
    ### BEGIN SOLUTION
    256_000 * 20
    ### END SOLUTION
)

# %%
price = check("08.7", price)


# %%
@show.style()
def bill(steps, prompts, samples, repeats):
    """What it costs to have people judge every sample of RL runs."""
    turns = steps * prompts * samples * repeats
    costs = {"this, by hand": turns, "reward model's labels, once": 100_000, "Llama 2's labels": 1_400_000}
    fig, ax = show.new_figure("dollars at $20 a turn (logarithmic)", size=(8.5, 2.6))
    drawn = ax.barh(list(costs), [n * PREFERENCE for n in costs.values()], color=show.plots.PALETTE[:3])
    ax.bar_label(drawn, [f"${n * PREFERENCE:,}" for n in costs.values()], padding=4)
    ax.set(xscale="log", xlim=(1e3, 1e11), title=f"{turns:,} judgements: {turns / 60:,.0f} hours at a minute each")
    ax.grid(False)  # its lines would run through the dollars
    ax.invert_yaxis()
    return fig


show.slider_figure(
    bill,
    alt=lambda **knobs: (
        f"{math.prod(knobs.values()) * PREFERENCE:,} dollars by hand; the reward model's labels cost 2 M."
    ),
    labels={"prompts": "prompts a step", "samples": "samples a prompt", "repeats": "runs (seeds, settings)"},
    steps=[20, 100, 500, 1000, 5000],
    prompts=[16, 64, 128, 512, 1024],
    samples=[1, 4, 8, 16, 64],
    repeats=[1, 4, 10, 30, 100],
)

# %% [markdown]
# Set 500 steps of 512 prompts for InstructGPT's size. **One such run by hand costs more than twice the labels of the
# reward model**, which can then judge every run for nothing; group methods (lesson 13) with 64 samples a prompt, or
# a search over settings, multiply it. And money is the smaller trouble: each step waits until 512 people have
# answered.
#
# The saving has a price of its own: from now on the policy pleases a *model* of people (lessons 10 and 14), and
# the model knows the texts it was asked about, not those that the policy will write after it has changed. Llama 2
# collected preferences in weekly batches, on its newest models' texts, for that reason.
#
# ## 8 · The papers that began it
#
# The slide names three. Read beside this lesson they look familiar:

# %%
papers = {
    "Nguyen, Daumé III and Boyd-Graber 2017 (EMNLP)": (
        "machine translation",
        "simulated ratings, made like people's: coarse, noisy and skewed (see exercise 08.6)",
        "advantage actor-critic (lesson 06)",
    ),
    "Martin, Ammanabrolu et al. 2018 (AAAI)": (
        "stories, told event by event",
        "none in training: how should a story be represented, between words and sentences?",
        "supervised: predict the next event, then its sentence",
    ),
    "Ziegler et al. 2019 (arXiv 1909.08593)": (
        "continue a text positively, or vividly; summarise",
        "people chose the best of 4 samples of GPT-2: 5,000 comparisons for style, 60,000 for summaries",
        "PPO with a KL penalty (lessons 10 and 11)",
    ),
}
show.table([(paper, *what) for paper, what in papers.items()], ["paper", "task", "feedback", "method"])
best_of_four = [pair for pair in my_pairs([0, 1, 2, 3]) if pair[0] == 0]
print(f"the best of 4 decides {len(best_of_four)} pairs, a full ranking {len(my_pairs([0, 1, 2, 3]))}")
assert (len(best_of_four), decided([1, 1, 1, 1])) == (3, 6)

# %% [markdown]
# Ziegler's first task is ours: start anywhere, and end well.
#
# ## Recap
#
# - The policy writes its own training data: several answers a prompt, and their **differences** are what people
#   can judge.
# - A **ranking** of $K$ answers decides $\binom{K}{2} - \sum \binom{g}{2}$ pairs. A tie gives none, and answers
#   to different prompts were never compared.
# - **Ask one person to compare** rather than two to rate. Within a block people agree about four times in five, and
#   a reward model can hope for little more.
# - **Krippendorff's α** is 0.80 over the whole file and about 0.4 within a block: it measures the material as well.
# - **Bootstrap and split by blocks**, by whatever shares its raters.
# - Labels on word salad teach less than labels on an SFT policy's texts: *reasonable* comes first, by a little. How
#   little takes more than four runs to see.
# - A single RL run judged by hand costs more than the reward model that judges all of them.
#
# | in the lecture | here | note |
# |---|---|---|
# | "explores multiple ways of answering" | section 1 | nothing to compare at temperature 0 |
# | B > C = D > A | sections 2 and 3 | five pairs; C against D stays open |
# | "outputs … already somewhat reasonable" | section 6 | measured by what 300 labels teach |
# | 20 dollars a turn; Llama 2: 25 M+ for 1.4 M samples | section 7 | 18 dollars a label |
# | "can't ask a human every single time" | section 7 | one run: 5 M dollars |

# %%
quiz(
    "A labeller ranks four answers: B > C = D > A. Your code makes six pairs of it. What happened?",
    {
        "The labeller was careless": "The ranking is fine; it leaves one pair open, and may.",
        "The tie became a win for C or for D": "C against D was not decided. The sixth pair is a coin that your loader "
        "tossed.",
        "Nothing: four answers have six pairs": "Six pairs, five of them decided.",
    },
    correct="The tie became a win for C or for D",
)
quiz(
    "Your raters reach α = 0.45 on answers of your best model, and 0.8 on a mix of good and terrible ones. So:",
    {
        "They became careless": "The same people may do both. D_e is smaller where all answers are good.",
        "The first task is harder: α depends on the material": "D_o may be the same; what shrank is the spread of what "
        "they were given.",
        "The first α is wrong": "Both are right, and they cannot be compared.",
    },
    correct="The first task is harder: α depends on the material",
)
quiz(
    "Your reward model orders 90 % of held-out pairs as people did; two people agree on 80 %. What do you check first?",
    {
        "Whether pairs of one block are in both parts": "A split by pairs leaks the panel, and its sentences, into the "
        "test set. People's agreement is a ceiling for a reason.",
        "Whether the learning rate is too small": "That would not make it better than people.",
        "Nothing, it is simply good": "Better than people at predicting people? Only if these pairs are easier "
        "than those on which people were compared.",
    },
    correct="Whether pairs of one block are in both parts",
)

# %% [markdown]
# **Next:** [lesson 09](09_reward_models.ipynb), *Reward models: you can't ask a human every time*: a score for
# any text, from the pairs of this lesson, yours among them.
