# %% [markdown]
# # 00 · Welcome: all of RLHF in about a minute
#
# **The question.** A language model can write a film review. How do you make it write what *people* want, when nobody
# can write down a formula for what people want?
#
# The answer has a name, **reinforcement learning from human feedback**, RLHF for short. This lesson runs all of it
# once, quickly; the others take it apart and explain every line. So here you need not understand the code: run it,
# look at what comes out, and guess before you look.
#
# - **You will** run the whole pipeline once, from demonstrations and preferences to a reward model and reinforcement
#   learning; steer a language model with a slider; and see why the score that steers it may be anything.
# - **You need** some Python, and to have met a neural network and a gradient. No reinforcement learning.
# - **Time:** 25 minutes to read, half an hour for the exercises. All cells run in about a minute on 2 CPU cores, once
#   what the first run trains is on your disk (half a minute more). A GPU makes it faster and changes nothing else.
#
# Run a cell with **Shift + Enter**, or all of them with *Run → Run All Cells*. Nothing waits for you: every click and
# every exercise can be left out, and the lesson still runs to its end.

# %%
from rlhf_lib.course.lesson import *

# %% [markdown]
# ## One task, all the way through
#
# The lecture behind this course opens with a request:
#
# > *I want you to make as positive a movie review as possible for me, no matter how negatively it starts.*
#
# and with a start that is not easy to rescue: *“I loved the book but really hated the movie”*. Here are the three
# endings that the lecture shows. One of them misses the point.
#
# **Predict before you run.** VADER is a sentiment lexicon: a list of 7,500 words with the feeling people find in
# them, and a few rules for “not”, “very” and “but”. It scores a text from −1 to 1. In which order will it put the
# endings, and on which side of the bare opening?

# %%
opening = reviews.LECTURE_OPENING
endings = [f" {text}" for kind in ("bad", "good") for text in reviews.LECTURE_COMPLETIONS[kind]]
tiny = models.load_model("tiny")
written = rollout.from_texts(tiny, [(opening, ending) for ending in ["", *endings]])
lexicon = rewards.vader()(written).tolist()
show.table(list(zip(["(nothing)", *endings], lexicon, strict=True)), ["ending", "VADER, opening included"])
assert lexicon[1] < lexicon[0] < min(lexicon[2:])

# %% [markdown]
# A list of words gets the order right. It also thinks that all four texts are rather negative, because “hated” is in
# them all; a person who reads “I warmed slowly as I watched” knows better. That is the lecture's theme: **fix such
# errors by learning from human preferences**, and then train the model on what was learnt.
#
# ## Three scales
#
# The same task runs through all lessons, at three sizes. The code is the same; what changes is what can be known.
#
# **micro**: a language of ten words; a review is “awful” and up to four words more. So small that every review can be
# listed and scored by a few rules like VADER's, and the right answer to every question is known exactly.

# %%
micro = reviews.micro_mdp()
words, mask = mdp.enumerate_episodes(micro)
scores = micro.reward(words, mask)
texts = [" ".join(micro.actions[w] for w in row[keep]) for row, keep in zip(words, mask, strict=True)]
order = scores.argsort(descending=True)
some = [0, 1, len(order) // 2, len(order) - 1]
show.table([("awful " + texts[order[i]], scores[order[i]].item()) for i in some], ["review", "score, −4 to 4"])
average = mdp.exact_objective(micro, models.TablePolicy(micro)).item()
print(f"{len(texts):,} reviews; whoever picks words blindly scores {average:.3f} on average, exactly")
assert len(texts) == 7381 and texts[order[0]] == "but very very great"

# %% [markdown]
# **tiny**: a language model of 5 million parameters that learnt to write from film reviews. It lives in this
# repository and is small enough to train with reinforcement learning while you watch. The price: it has the tone of a
# film critic, and little of the sense. Expect made-up words, also further down.

# %%
said = rollout.sample(tiny, [opening], max_new_tokens=24, samples_per_prompt=3, generator=runs.generator(0))
print(f"{sum(p.numel() for p in tiny.parameters()):,} parameters")
show.text_samples([opening], {f"tiny, try {i + 1}": [text] for i, text in enumerate(said.completions())})

# %% [markdown]
# **smol**: SmolLM2, a real chat model with 135 million parameters. It takes 540 MB on your disk, so nothing here
# downloads it; if you have fetched it, the next cell lets it speak.

# %%
if assets.is_cached("smollm2"):
    smol = models.load_model("smol")
    said = rollout.sample(smol, [opening], max_new_tokens=16, samples_per_prompt=3, generator=runs.generator(0))
    show.text_samples([opening], {f"smol, try {i + 1}": [text] for i, text in enumerate(said.completions())})
    del smol
else:
    print("SmolLM2 is not on this machine, and only a few optional cells need it. To fetch it: rlhf fetch smollm2")

# %% [markdown]
# ## What can your machine do?
#
# Reinforcement learning spends most of its time writing: each step samples a batch of texts, here 64 of up to 24
# tokens (a token is a word or a piece of one). So one number tells how long the lessons will take you: tokens a
# second.

# %%
COURSE_SPEED = 4000  # tokens a second on the two idle CPU cores on which the lessons' times were measured
began = time.perf_counter()
batch = rollout.sample(tiny, [opening], max_new_tokens=24, samples_per_prompt=64, generator=runs.generator(1))
speed = int(batch.mask.sum()) / (time.perf_counter() - began)
show.table(
    [
        ("CPU threads that torch uses", str(torch.get_num_threads())),
        ("device of the models", torch.cuda.get_device_name() if tiny.device.type == "cuda" else str(tiny.device)),
        ("tokens a second, tiny", f"{speed:,.0f}"),
        ("the lessons will take you", f"{COURSE_SPEED / speed:.1f} × the seconds they state"),
    ],
    ["this machine", ""],
)
if tiny.device.type == "cuda":
    print("With a GPU, the lessons on SmolLM2 run at full size too.")
elif speed > COURSE_SPEED / 2:
    print("Everything at micro and tiny scale is made for a machine like this one. SmolLM2 takes seconds a step here.")
else:
    print("All lessons will run, only slowly. Is something else busy? Close it, and try this cell again.")

# %% [markdown]
# ## How exercises work
#
# Each exercise says what kind it is, how hard (●●○○○), how important, and how many minutes it takes. You replace the
# dots, run the cell, and run the check below it. The check tries your function on fresh inputs. If you are wrong it
# tries to **name your mistake** instead of showing the answer. Right, wrong or left out: afterwards the name holds a
# version that works, so the rest of the lesson always runs.
#
# Try it on something silly: your editor wants snappy sentences, stuffed with words in s. Further down, your function
# steers a language model.

# %% [markdown]
# **Exercise 00.1 · A score of your own** (implement · difficulty ●○○○○ · importance ●●●○○ · 5 min)
#
# Score each completion by the **number of its words that begin with an s**, small or capital. Words are what stands
# between spaces. You get two lists of strings, the openings and the completions, and return a list with one number
# for each completion; only what was written after the opening counts. `(["So"], [" slow and Sad, sis"])` gives
# `[3.0]`.


# %% tags=["exercise"]
def alliteration(prompts, completions):
    """How many words of each completion begin with s or S: a list of floats."""
    ### BEGIN SOLUTION
    return [float(sum(word.lower().startswith("s") for word in text.split())) for text in completions]
    ### END SOLUTION


# %%
alliteration = check("00.1", alliteration)

# %% [markdown]
# ## The whole pipeline, step by step
#
# | | the lecture's pipeline | what you get |
# |---|---|---|
# | 1 | pre-training, then **supervised fine-tuning** on demonstrations | a policy whose texts are reasonable |
# | 2 | it writes several answers; **people say which they prefer** | labels |
# | 3 | a **reward model** learns to predict those labels | a score for any text |
# | 4 | **reinforcement learning** raises the score | a better policy |
#
# A *policy* is a rule that picks the next word, given the words so far. A language model is one: it gives every next
# word a probability, and draws.
#
# ### 1 · Demonstrations
#
# `tiny` has seen good and bad reviews alike. Shown only the good ones for a few seconds more, it leans towards them.
# This is *supervised fine-tuning*, SFT (lesson 07). The first use trains it, and from then on it is kept on your
# disk. We call the result the **reference**: whatever comes later is compared with it.
#
# The openings below are the first five words of real negative sentences. What follows is the reference's, two tries
# each. (They are drawn at *temperature* 0.7: likely words come even more often than the model means them to. That
# spares you some of the babble; training and measuring below use the model as it is.)

# %%
reference = stages.sft_policy()
negative = reviews.openings("validation", limit=8)
how = {"max_new_tokens": 24, "temperature": 0.7}
pair = rollout.sample(reference, negative, samples_per_prompt=2, generator=runs.generator(2), **how)
left, right = pair.completions()[0::2], pair.completions()[1::2]
show.text_samples(negative[:4], {"one try": left[:4], "another try": right[:4]})

# %% [markdown]
# ### 2 · Preferences
#
# Writing demonstrations is slow and dear: the lecture quotes 200 dollars a turn. Saying which of two texts is better is
# quick, 20 dollars a turn. So now **you are the human in “human feedback”**: which of the two is the more positive?
#
# Each answer is on your disk before the next pair appears (`workspace/labels.jsonl`), and lesson 09 trains a reward
# model on yours. A tie is an answer too. No time to click? Go on; strangers have labelled enough for all of us.
# (If you come back and click later, run the lesson again from the cell below the buttons.)

# %%
pairs = [(a + b, a + c) for a, b, c in zip(negative, left, right, strict=True) if b != c]
show.PairLabeler(pairs, prompt="Which is the more positive?", path=stages.labels_file())

# %% [markdown]
# The strangers are real. Hutto and Gilbert (2014) had 10,605 sentences from film reviews (collected by Pang and Lee)
# rated by 15 to 29 people each, from −4 to 4. Two sentences with one person's number each make a preference: the
# higher number wins, equal numbers are a tie.

# %%
yours, problems = labels.read_labels(stages.labels_file())
print("\n".join([f"labels of yours: {len(yours)}", *problems]))
train = reviews.load().subset("train")
stored = preferences.rankings_from_ratings(train.texts, train.ratings, 2, runs.generator(0), rater="random")[:800]
show.table([(*ranking.texts, str(ranking.ranks)) for ranking in stored[:4]], ["left", "right", "ranks, 0 is better"])

# %% [markdown]
# **Exercise 00.2 · How many people must you ask?** (experiment · difficulty ●○○○○ · importance ●●●●○ · 6 min)
#
# People disagree. Let a few of a panel vote on two sentences, and compare the vote with what the rest of the panel
# prefers on average. How many people do you need to agree with the rest **82 % of the time**? At 20 dollars a vote you
# want the smallest number that is *safely* above: the whole 95 % interval, over several random draws. Turn the knob
# `people` below, then answer. How confident are you?

# %%
from rlhf_lib.course.exercises.lesson_00 import agreement

people = 1
draws = [agreement(people, seed) for seed in range(6)]
print(f"{people} asked: agreement {{:.1%}}, 95 % interval {{:.1%}} to {{:.1%}}".format(*runs.mean_interval(draws)))

# %% tags=["exercise"]
smallest_number = (
    ### BEGIN SOLUTION
    5
    ### END SOLUTION
)

# %%
smallest_number = check("00.2", smallest_number)

# %% [markdown]
# **Exercise 00.3 · The undecided voter** (find the bug · difficulty ●●○○○ · importance ●●●●○ · 6 min)
#
# Before a reward model can learn from clicks, each must become a pair (better, worse). The version below runs without
# an error, and is silently wrong. Find out where, by trying it, and write a version that is right.


# %%
def pairs_from_clicks(pairs, choices):
    """(better, worse) for each decided pair. A choice is "left", "right", "tie" or "skip"."""
    found = []
    for (left, right), choice in zip(pairs, choices, strict=True):
        better, worse = (left, right) if choice == "left" else (right, left)
        found.append((better, worse))
    return found


pairs_from_clicks([("a gem", "a bore"), ("awful", "superb")], ["left", "right"])


# %% tags=["exercise"]
def repaired(pairs, choices):
    """The same, repaired."""
    ### BEGIN SOLUTION
    found = []
    for (left, right), choice in zip(pairs, choices, strict=True):
        if choice in ("left", "right"):
            found.append((left, right) if choice == "left" else (right, left))
    return found
    ### END SOLUTION


# %%
repaired = check("00.3", repaired)

# %% [markdown]
# ### 3 · A reward model
#
# “Can't ask a human every single time to label!”, says the lecture, and reinforcement learning will want scores for
# thousands of texts. So a second copy of `tiny` learns to give each text $y$ a number $r(y)$, such that the
# differences predict which of two texts A and B wins:
#
# $$P(\text{A is preferred to B}) = \sigma\big(r(A) - r(B)\big), \qquad \sigma(x) = \frac{1}{1 + e^{-x}}$$
#
# That is Bradley and Terry's model of 1952 (lesson 09). It learns from the stored labels and from yours alike.
#
# **Predict before you run.** A coin is right on half of the pairs; one person agrees with another on most, and not on
# all. Where between the two will 800 labels and a quarter of a minute of training take us?

# %%
reward = models.load_reward_model("tiny")
run = reward_model.train(reward, stored + yours, reward_model.Config(epochs=1, batch_size=32, lr=3e-4))
held_out = reviews.load().subset("validation")  # sentences it has not seen, rated by people it has not met
held_out = reviews.Reviews(held_out.texts[::4], held_out.ratings[::4], held_out.block[::4])  # a quarter, to save time
duels = preferences.cross_block_pairs(held_out.ratings, held_out.block, 4000, runs.generator(3))
hit, low, high = preferences.pairwise_accuracy(reward.score_texts(held_out.texts), duels)
human = preferences.human_ceiling(held_out.ratings, held_out.block, "across", runs.generator(3), n=4000).two_people
print(f"the reward model is right on {hit:.0%} of new pairs (95 % interval {low:.0%} to {high:.0%})")
print(f"two people who both decide agree on {human.value:.0%}")
print(f"{len(stored):,} labels at $20 each are ${20 * len(stored):,}")
assert 0.55 < hit < human.value

# %% [markdown]
# That is a usable critic and a poor one: it has seen each pair once. If you clicked, your labels are in there too, a
# few among many. Only differences of scores were learnt, so we choose where 0 lies: at what the
# reference policy writes on average.

# %%
written = rollout.sample(
    reference, reviews.openings("validation", limit=64), max_new_tokens=24, generator=runs.generator(4)
)
reward.centre([a + b for a, b in zip(written.prompts(), written.completions(), strict=True)])
right = []
for ranking in yours:
    found = reward.score_texts(list(ranking.texts))
    better, worse = preferences.ordered_pairs(torch.tensor([ranking.ranks]))
    right += (found[better] > found[worse]).tolist()
if right:
    print(f"on the pairs that you decided, it agrees with you on {sum(right)} of {len(right)}")
praise, blame = " and it is a wonderful, moving film.", " and it is a dull, lifeless film."
show.table(
    [(text, reward.score_texts([opening + text]).item()) for text in (*endings, praise, blame)], ["ending", "reward"]
)

# %% [markdown]
# Would you have put them in this order? So few labels teach a taste with odd gaps in it. Remember them: from here on
# the policy tries to please *this* critic, gaps and all.
#
# ### 4 · Reinforcement learning
#
# Now the policy writes four endings for each opening, the reward model scores them, and what scored better than its
# siblings is made likelier: **sample, score, reinforce**, a dozen times.
#
# A policy that may do anything for its score ends in gibberish that happens to score well. So drifting away from the
# reference costs something. The drift is measured by the Kullback–Leibler divergence, the average of
# $\log \frac{\pi(y)}{\pi_{\text{ref}}(y)}$ over what the policy $\pi$ writes: 0 while the two are the same. Its unit is
# the *nat*, and each nat costs $\beta$:
#
# $$\max_\pi \;\; \mathbb{E}_{y \sim \pi}\big[r(y)\big] \; - \; \beta \, \mathrm{KL}(\pi \,\|\, \pi_{\text{ref}})$$
#
# The algorithm is REINFORCE, a page of code in `rlhf_lib/algorithms/reinforce.py`; lessons 03 to 06 take it apart,
# lesson 10 puts it back together.

# %%
policy = stages.sft_policy()  # a second copy, to be trained; `reference` stays as it is
config = reinforce.Config(steps=12, prompts_per_step=8, beta=0.1, lr=3e-4)
run = reinforce.train(policy, reviews.openings("train"), reward, config, reference=reference)
fig = show.curves({"reward": run.column("reward"), "KL (nats)": run.column("kl")}, "step", "mean over 32 completions")
show.figure(fig, alt="Reward and KL over 12 steps of reinforcement learning: both rise from about 0.")

# %% [markdown]
# The reward is bought with drift: both rise.
#
# ### Before and after
#
# A few texts prove nothing, but they are what we came for. Same openings, same random numbers; in brackets the score of
# a **judge**: a second reward model, trained on other people's ratings of other sentences. Nothing above has learnt
# from those ratings.

# %%
starts = [opening, *reviews.openings("validation", limit=3)]
judge, texts, verdicts = stages.judge(), {}, {}
for name, model in {"before": reference, "after": policy}.items():
    said = rollout.sample(model, starts, generator=runs.generator(5), **how)
    texts[name], verdicts[name] = said.completions(), judge(said).tolist()
show.text_samples(starts, texts, verdicts)

# %% [markdown]
# Four texts are an anecdote. So take 64 openings that neither model was trained on, four completions each.
#
# **Predict before you run.** Whom will the change please more: the reward model that the policy was trained to
# please, or the judge?


# %%
def scores_of(model):
    """Scores [2, 64] by the reward model and by the judge, a mean over 4 completions for each opening."""
    starts = reviews.openings("validation", limit=64)
    said = rollout.sample(model, starts, max_new_tokens=24, samples_per_prompt=4, generator=runs.generator(6))
    with torch.no_grad():
        return torch.stack([reward(said), judge(said)]).view(2, 64, 4).mean(2).cpu()


before, after = scores_of(reference), scores_of(policy)
gains = [runs.paired_interval(after[i].tolist(), before[i].tolist()) for i in range(2)]
rows = [
    (name, before[i].mean().item(), after[i].mean().item(), "{:+.2f} ({:+.2f} to {:+.2f})".format(*gains[i]))
    for i, name in enumerate(["the reward model, trained on", "the judge, never seen"])
]
show.table(rows, ["score by", "before", "after", "gain (95 % interval)"], formats={"before": ".2f", "after": ".2f"})
assert gains[0][0] > 0

# %% [markdown]
# What may one say? The **reward went up**: that is what was asked for, and a dozen steps are enough to measure it.
# Does the judge's interval lie above 0 too? (The two scores have scales of their own: compare signs and intervals, not
# sizes.) It need not, because our reward model is only a rough copy of people's taste, and whatever pleases the copy
# alone is lost on everyone else.
#
# And the texts are still those of a very small model: in a dozen steps reinforcement learning makes what the model
# could already say likelier; it does not teach it to write. Real runs take thousands of steps, and much of this course
# is about how to take them without fooling oneself.
#
# ## The slider
#
# Was all that training needed? Here is steering without any. Take 256 endings that the reference wrote, and a score
# for each. To draw the good ones more often, give sample $i$ the weight
#
# $$w_i = \frac{e^{r_i/\beta}}{\sum_j e^{r_j/\beta}}$$
#
# instead of $\tfrac{1}{256}$. The $\beta$ is the price from step 4 again. Large, it makes steering dear: all weights
# stay nearly equal. Small, it makes steering cheap: the better samples take over.
#
# **Exercise 00.4 · Who wins when steering is free?** (predict · difficulty ●○○○○ · importance ●●●●● · 3 min)
#
# A policy can say four things:
#
# | | ending | probability $\pi_{\text{ref}}$ | reward $r$ |
# |---|---|---|---|
# | A | “is fine.” | 0.50 | 0.0 |
# | B | “is good.” | 0.40 | 1.0 |
# | C | “is a small masterpiece.” | 0.09 | 2.0 |
# | D | “great great great great” | 0.01 | 2.2 |
#
# Its probabilities are multiplied by $e^{r/\beta}$ and made to add up to 1. Which of the four has nearly all of the
# probability as $\beta \to 0$?

# %% tags=["exercise"]
winner = (
    ### BEGIN SOLUTION
    "D"
    ### END SOLUTION
)

# %%
winner = check("00.4", winner)  # "A", "B", "C" or "D"

# %%
prior, gain = torch.tensor([0.50, 0.40, 0.09, 0.01]), torch.tensor([0.0, 1.0, 2.0, 2.2])
prices = [100.0, 10.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02]
chance = [(prior.log() + gain / beta).softmax(0) for beta in prices]
rows = [(f"{beta:g}", *p.tolist()) for beta, p in zip(prices, chance, strict=True)]
show.table(rows, ["β", *"ABCD"], formats=dict.fromkeys("ABCD", ".3f"))
assert "ABCD"[chance[0].argmax()] == "A" and "ABCD"[chance[-1].argmax()] == winner

# %% [markdown]
# Read the table from top to bottom: first the likeliest leads, then a compromise, then the ending most of us would
# want, and at last gibberish that the score happens to like a little better. *How far to trust the score* is what
# $\beta$ says.

# %% [markdown]
# **Exercise 00.5 · The weights** (implement · difficulty ●●○○○ · importance ●●●●● · 8 min)
#
# Compute the weights $w_i$ from `rewards`, a tensor of $N$ numbers, and `beta`. For example rewards $(0, 1)$ at
# $\beta = 1$ give $(0.269, 0.731)$. The rewards may be large (the check's are scores out of 100), and the weights
# still have to come out right.


# %% tags=["exercise"]
def weights(rewards, beta):
    """exp(rewards / beta), made to add up to 1. [N] -> [N]"""
    ### BEGIN SOLUTION
    return (rewards / beta).softmax(0)
    ### END SOLUTION


# %%
weights = check("00.5", weights)

# %% [markdown]
# ### Any score will do
#
# “Reinforcement learning is a very natural way of optimizing for **arbitrary non-differentiable scores**”, says the
# lecture. Supervised training needs a loss that it can differentiate. Your score of exercise 00.1 counts letters in
# Python: it has no gradient at all. But the derivative of an *expected* score does not need one, because
# $\nabla \pi = \pi \, \nabla \log \pi$:
#
# $$\nabla_\theta \, \mathbb{E}_{y\sim\pi_\theta}[r(y)] = \sum_y r(y)\, \nabla_\theta \pi_\theta(y)
# = \mathbb{E}_{y\sim\pi_\theta}\big[r(y)\, \nabla_\theta \log \pi_\theta(y)\big]$$
#
# Only $\pi_\theta$ is differentiated; $r$ is a number that multiplies. See for yourself, with three scores: none has a
# gradient, and each gives the policy one.

# %%
samples = rollout.sample(reference, [opening], max_new_tokens=24, samples_per_prompt=256, generator=runs.generator(7))
with torch.no_grad():
    scores = {"reward model": reward(samples), "VADER": rewards.vader()(samples)}
scores["words in s"] = rewards.text_reward(alliteration)(samples)
few = samples[:32]
for name, r in scores.items():
    logprobs = rollout.score(reference, few).logprobs
    centred = (r[:32] - r.mean())[:, None].expand_as(logprobs)
    losses.policy_gradient_loss(logprobs, centred, few.mask).backward()
    size = torch.nn.utils.clip_grad_norm_(reference.parameters(), math.inf)
    reference.zero_grad()
    print(f"{name:13} gradient through the score: {r.requires_grad}; norm of the policy gradient: {size:.2f}")
    assert not r.requires_grad and size > 0

# %% [markdown]
# Now move the sliders. The bars are the probabilities of the eight likeliest endings, after reweighting. Above them:
# the expected score, the KL from the reference, $\sum_i w_i \log (w_i / \tfrac1N)$ with $N = 256$, and the *effective
# sample size*, $1/\sum_i w_i^2$: how many of the 256 still have a say.
#
# **Predict before you move.** What are the last two at $\beta = \infty$? And when a single ending has all of the
# weight?


# %%
def measures(r, beta):
    """Weights [N], expected score, KL from the reference and effective sample size."""
    w = weights(r, beta)
    return w, (w * r).sum().item(), torch.xlogy(w, len(w) * w).sum().item(), (1 / w.square().sum()).item()


def steer(score, beta):
    """The likeliest endings after reweighting by exp(score / beta)."""
    w, mean, kl, effective = measures(scores[score].double().cpu(), beta)
    chance = {}
    for text, p in zip(samples.completions(), w.tolist(), strict=True):
        name = text.strip()[:64] or "(nothing)"
        chance[name] = chance.get(name, 0) + p  # the same text may be drawn twice
    top = dict(sorted(chance.items(), key=lambda item: -item[1])[:8])
    title = f"expected score {mean:.2f} · KL {kl:.2f} nats · effective samples {effective:.0f} of {len(w)}"
    return show.bars(top, "probability", title, horizontal=True, size=(10, 3.8))


betas = [math.inf, 10.0, 3.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01]
show.slider_figure(
    steer, "The eight likeliest endings and their probabilities.", {"beta": "β"}, score=list(scores), beta=betas
)

# %% [markdown]
# Pull β down: nothing was trained, and whatever the score likes comes to the top, be it praise or words in s. What
# you see is the **exact solution** of the problem in step 4: among all policies, the one that maximises
# $\mathbb{E}_\pi[r] - \beta\,\mathrm{KL}(\pi\|\pi_{\text{ref}})$ is
#
# $$\pi^*(y) \propto \pi_{\text{ref}}(y)\, e^{r(y)/\beta}$$
#
# (lesson 10 proves it), and reweighted samples of $\pi_{\text{ref}}$ stand for samples of $\pi^*$. Check it on our 256:
# no other weights should do better, and the best value should be $\beta \log \tfrac1N \sum_i e^{r_i/\beta}$.

# %%
r, beta = scores["reward model"].double().cpu(), 0.5
w, mean, kl, _ = measures(r, beta)
best = mean - beta * kl
rivals = torch.randn(1000, len(r), generator=runs.generator(8), dtype=torch.float64).mul(0.3).add(w.log()).softmax(1)
others = rivals @ r - beta * torch.xlogy(rivals, len(r) * rivals).sum(1)
formula = beta * ((r / beta).logsumexp(0).item() - math.log(len(r)))
print(f"these weights {best:.4f}, the formula {formula:.4f}, the best of 1,000 rivals {others.max():.4f}")
assert abs(best - formula) < 1e-6 and others.max() < best

# %% [markdown]
# So why train? Because reweighting only chooses among texts that are already written. To use $\pi^*$ you would have
# to write 256 texts and keep one, each time anew; and if no good text is among them, no weight will help. RL moves
# the *policy* towards $\pi^*$, so that it writes such texts itself, for every opening. Compare: the curve shows the
# best expected reward for each KL, and the points show where the policy was before and after your dozen steps.

# %%
with torch.no_grad():
    trained = rollout.sample(policy, [opening], max_new_tokens=24, samples_per_prompt=256, generator=runs.generator(9))
    drift = (trained.logprobs - rollout.score(reference, trained).logprobs).sum(1).mean().item()
    point = (drift, reward(trained).mean().item())
curve = [measures(r, 10 ** (1 - k / 20))[1:3] for k in range(61)]


# %%
@show.style()
def frontier(curve, points):
    fig, ax = show.new_figure("KL from the reference (nats)", "expected reward")
    blue, red, green, *_ = show.plots.PALETTE
    ax.plot([kl for _, kl in curve], [mean for mean, _ in curve], color=blue, label="reweighting, every β")
    for (name, (x, y)), marker, colour in zip(points.items(), "os", (red, green), strict=True):
        ax.plot(x, y, marker, color=colour, markersize=9, label=name)
    ax.legend()
    return fig


fig = frontier(curve, {"reference": (0.0, r.mean().item()), "after RL": point})
show.figure(fig, alt="Expected reward against KL: a curve that rises and flattens; the trained policy lies below it.")
assert all(later >= sooner - 1e-9 for (sooner, _), (later, _) in zip(curve, curve[1:], strict=False))

# %% [markdown]
# The trained policy has gained reward, and lies below the curve: it paid more nats than it had to. That is no wonder
# after a dozen noisy steps, taken for *all* openings at once, while the curve was made for this one. The curve itself
# ends where a single sample has all of the weight. Where is that?
#
# **Exercise 00.6 · How far can reweighting go?** (derive · difficulty ●●○○○ · importance ●●●○○ · 5 min)
#
# With $N$ different samples, what is the largest value that $\sum_{i=1}^N w_i \log \frac{w_i}{1/N}$ can take? Work it
# out on paper, then write it as a function of $N$.


# %% tags=["exercise"]
def largest_kl(n):
    """The largest KL, in nats, from equal weights of n samples to any other weights."""
    ### BEGIN SOLUTION
    return math.log(n)
    ### END SOLUTION


# %%
largest_kl = check("00.6", largest_kl)
for n in (2, 16, 256):
    _, _, kl, effective = measures(torch.linspace(0, 1, n, dtype=torch.float64), 1e-5)
    print(f"{n:3} samples at β → 0: KL {kl:.3f}, the formula {largest_kl(n):.3f}, effective samples {effective:.1f}")
    assert abs(kl - largest_kl(n)) < 1e-6

# %% [markdown]
# <details><summary><b>Optional: what changes with your own labels</b></summary>
#
# Click through the eight pairs above and run the lesson again from step 3. Your eight labels are among 800, so the
# table of rewards will hardly move. Now train on yours alone, `reward_model.train(reward, yours)`, and look at it
# again: the model agrees with you on your pairs, and talks nonsense elsewhere. Between the two lies the art:
# `stages.your_reward_model()` starts from what the panel taught and is then trained on what *you* think (lesson 09).
#
# </details>
#
# ## Recap
#
# - The task: as positive a review as possible, however it starts. The score: anything that can tell better from
#   worse.
# - The pipeline: demonstrations make a policy whose texts can be compared; people compare; a reward model learns to
#   predict them; reinforcement learning raises its score, at a price for drifting away.
# - A score needs no gradient: the policy's log-probability is what is differentiated.
# - The ideal is known: $\pi^* \propto \pi_{\text{ref}}\, e^{r/\beta}$. Reweighting reaches it on a handful of
#   samples, RL approximates it in the policy itself.
# - Judge by someone who was not trained on. Report an interval. Say so when it includes 0.

# %%
quiz(
    "Your score is a Python function that counts words. What does reinforcement learning need of it?",
    {
        "Its gradient with respect to the text": "Words are discrete: there is no such gradient, and none is used.",
        "Nothing but its value for texts the policy wrote": "Each value multiplies the gradient of a log-probability.",
        "That it lies between 0 and 1": "Any finite number will do. Its scale matters only together with β.",
    },
    correct="Nothing but its value for texts the policy wrote",
)
quiz(
    "The slider stands at β = 0.01, and one ending has nearly all of the probability. What did you gain, and lose?",
    {
        "The highest score among the samples, and all variety": "The KL is then log 256, the effective sample size 1.",
        "The best review that the model could ever write": "Only the best of these 256, and best by this score alone.",
        "Nothing: the expected score stays the same": "It rises as β falls, up to that of the best sample.",
    },
    correct="The highest score among the samples, and all variety",
)
quiz(
    "After RL the reward model's score is up, and the judge's is not. What is the likeliest reason?",
    {
        "The judge is broken": "Possible, but it was trained like the reward model, and on more ratings.",
        "The policy found what pleases its own reward model only": "A reward model is a copy of people's taste, with "
        "flaws of its own, and RL finds them (lesson 14).",
        "The learning rate was too small": "Then neither score would have moved.",
    },
    correct="The policy found what pleases its own reward model only",
)

# %% [markdown]
# **Next:** [01 · Language is a token-level MDP](01_language_is_an_mdp.ipynb) makes precise what happened here: what
# is the state, what is an action, and what is it that $\mathbb{E}_\pi[\dots]$ averages over?
