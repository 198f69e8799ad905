# %% [markdown]
# # 15 · Language agents
#
# **The question.** So far the world was the text itself: a word was appended, nothing answered. An *agent* writes a
# command, something happens, and the world writes back. What changes for RL when half of the text in an episode was
# written by somebody else?
#
# **You will** play a text game and see it as a decision problem in turns; count its buttons, from verbs times
# nouns to the few commands that are admissible; compute exactly what chance, greed and the best player score; let
# our language model play, check its policy gradient against the exact one, and watch it learn; then forget
# one mask, and see what is learnt instead.
#
# | | |
# |---|---|
# | You need | lessons 04 (REINFORCE), 05 (leave-one-out) and 12 (policies under a mask) |
# | Reading | 40 minutes, and 65 for the exercises |
# | Run time | about 30 s on 2 cores |
# | A GPU | shortens the one live run; the others are stored |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · A game in turns
#
# **TextWorld** (Côté et al. 2018) makes text games: rooms, things, doors, a quest, and a parser that understands simple
# sentences. Ours were *recorded*: a script played every command in every state of the real game and wrote the answers
# down (`course/record_games.py`), so they run here without TextWorld, and being finite, they can be solved. The game
# below is one that TextWorld's own generator made.
#
# <details><summary>Make and record a game of your own (needs TextWorld)</summary>
#
# On Linux or macOS, with a C compiler: `pip install -e .[games]`. Then `tw-make custom --world-size 2 --nb-objects 3
# --quest-length 4 --seed 7 --output mine.z8` makes a game, `games.record("mine.z8", "mine", made={})` records it, and
# everything in this lesson works with what that returns. The games here come from
# `python -m rlhf_lib.course.record_games`.
#
# </details>
#
# **Touch it.** You are in the shower, and there is a butterfly somewhere. You have eight turns.

# %%
butterfly = games.load("butterfly")
show.GamePlayer(butterfly, horizon=8)

# %% [markdown]
# In the language of lesson 01:
#
# | | one text (lessons 01 to 14) | a game |
# |---|---|---|
# | state $s$ | the words so far | where everything is: 9 states in this game, which the player does not see |
# | observation $o$ | the state itself | the game's answer, a text |
# | action $a$ | a token | a command, several tokens |
# | transition | append | the world's rules; then the answer is appended |
# | reward $r$ | at the end | points, in the turn that earns them |
# | time $t$, horizon $K$ | tokens | turns |

# %%
state, points = 0, 0.0
for command in ("go north", "take butterfly from bookshelf", "go south", "drop butterfly"):
    step = butterfly.step(state, command)
    print(f"in state {state}: > {command}\n    {step.text}\n    reward {step.reward:g}")
    state, points = step.state, points + step.reward
alike = [s for s in range(9) if "look" in butterfly.admissible(s) and "Shower" in butterfly.step(s, "look").text]
print("states in which the player looks round in the shower:", alike)
assert step.done and points == 1 and len(butterfly) == 9
assert len({butterfly.step(s, "look").text for s in alike}) == 1 < len(alike)

# %% [markdown]
# Nothing here is drawn at random, and in a given state a command always does the same. The game is a finite MDP; it is
# the *player's view* of it that is not complete: in the shower four states look alike. Where did you leave the
# butterfly?
#
# ## 2 · Which buttons are there?
#
# The lecture's picture of a controller with too many buttons was a text game: a table of verbs, nouns and prepositions.
# There are four ways to count what may be typed; the last one is a privilege that TextWorld grants.
#
# > **Predict before you run.** In the kitchen, which the rest of this lesson is about (an apple in a fridge, to be put
# > into the oven), how many commands does the table span, how many fit one of the parser's templates, and how many
# > can be carried out in a typical state?

# %%
import re
from dataclasses import replace
from itertools import product

kitchen = games.load("kitchen")
things = [name for name in kitchen.entities if name not in ("north", "south", "east", "west")]
links = sorted({word for t in kitchen.templates for word in t.split() if word in ("with", "into", "on", "from")})
spanned = len(kitchen.verbs) * (1 + len(things) + len(things) * len(links) * len(things))


def filled(template):
    """Every way to put things into a template's slots."""
    parts = re.split(r"{\w}", template)  # what stands between the slots
    choices = product(things, repeat=len(parts) - 1)
    return {"".join(a + b for a, b in zip(parts, (*chosen, ""), strict=True)) for chosen in choices}


# %%
fits = set().union(*(filled(template) for template in kitchen.templates))
sizes = [len(kitchen.admissible(state)) for state in range(len(kitchen)) if kitchen.admissible(state)]
lm = stages.base_model()
writer = games.Writer(lm.tokenizer)
longest = max(len(writer.command(text)) for text in fits)
rows = [
    (f"any {longest} tokens of the LM", f"10^{longest * math.log10(lm.vocabulary):.0f}"),
    (f"verb × thing × preposition × thing ({len(kitchen.verbs)}, {len(things)}, {len(links)})", f"{spanned:,}"),
    (f"the parser's {len(kitchen.templates)} templates, filled with things", f"{len(fits):,}"),
    ("admissible in a state: fewest, mean, most", f"{min(sizes)}, {sum(sizes) / len(sizes):.1f}, {max(sizes)}"),
]
show.table(rows, ["what may be typed in the kitchen", "how many"])
assert all(set(kitchen.admissible(state)) <= fits for state in range(len(kitchen))) and max(sizes) < len(fits) < spanned

# %% [markdown]
# With three things (apple, fridge, oven) the table is small; the lecture's has 7,920 entries. The order is the same
# everywhere: *strings ≫ table > templates > admissible*. And our player?
# It is the model of 5 million weights that was trained on film reviews; it has never seen a kitchen. Let it type
# freely, and ask how often the parser would understand it.

# %%
once = games.all_episodes(lm, kitchen, horizon=1)  # every admissible first command, with its tokens
options = {"max_new_tokens": 8, "samples_per_prompt": 256, "generator": runs.generator(1)}
with torch.no_grad():
    typed = [
        text.split("\n")[0].strip() for text in rollout.sample(lm, [writer.prompt(kitchen)], **options).completions()
    ]
    free = rollout.score(lm, replace(once.rollout, allowed=None)).logprobs.sum(1).exp()
    masked = rollout.score(lm, once.rollout).logprobs.sum(1).exp()
print("it types:", "; ".join(repr(text) for text in typed[:4]))
understood = sum(text in fits for text in typed) / len(typed)
print(f"fits a template: {understood:.1%} of 256; admissible here, exactly: {free.sum():.1e} of the probability")
rows = [(c[0], f, m) for c, f, m in zip(once.commands, free.tolist(), masked.tolist(), strict=True)]
show.table(rows, ["first command", "as the LM writes", "among the admissible"], formats={"as the LM writes": ".1e"})
assert understood < 0.1 and free.sum() < 0.02 and abs(masked.sum() - 1) < 1e-5

# %% [markdown]
# Left alone it would hardly ever give a command. So the policy is lesson 12's masked one: in each state the admissible
# commands form a tree (a *trie*), each token must continue one of them, and the probabilities are renormalised to those
# that do: the last column. (It likes to look. Looking changes nothing in the world, so from here on the buttons that
# only look, `look`, `inventory` and `examine`, are taken away, to save time.)
#
# **Exercise 15.1 · What may be written next** (implement · difficulty ●●○○○ · importance ●●●●● · 10 min)
#
# `commands`: the admissible ones as lists of token ids, each closed by the end token 0. `written`: the tokens of the
# command so far. Return the ids that may come next, as a sorted tuple. By hand: commands `[3, 5, 0]`, `[3, 5, 2, 0]`
# and `[4, 5, 0]`, written `[3, 5]`, give `(0, 2)`.


# %% tags=["exercise"]
def my_next_tokens(commands, written):
    """A sorted tuple of the tokens that continue `written` to one of `commands`."""
    ### BEGIN SOLUTION
    n = len(written)
    return tuple(sorted({command[n] for command in commands if command[:n] == written}))
    ### END SOLUTION


# %%
my_next_tokens = check("15.1", my_next_tokens)
commands = kitchen.admissible(0)
ids = [writer.command(text) for text in commands]
first = my_next_tokens(ids, [])
print("first tokens:", [lm.tokenizer.decode(i) for i in first])
opening = writer.command("open fridge")[:1]
print("after ' open':", [lm.tokenizer.decode(i) for i in my_next_tokens(ids, opening)])
node = writer.tree(commands)
assert set(node) == set(first) and set(node[opening[0]]) == set(my_next_tokens(ids, opening))

# %% [markdown]
# Here that is `games.Writer.tree`. The end token (a line break) matters: without it `take apple` would be the beginning
# of `take apple from fridge`, and could never be given.
#
# ## 3 · Chance, greed, and the best
#
# Who would be a fair opponent? **Chance** takes each admissible command alike. **Greed** knows what each command
# scores *at once* and takes the most, drawing lots where commands tie. The **best** player knows the whole game. As the
# states are few, what each can expect in $K$ turns is a sum. For the best, with $k$ turns left,
#
# $$V_k(s) = \max_a \big[ R(s, a) + V_{k-1}(s') \big], \qquad V_0 = 0.$$
#
# **Exercise 15.2 · What chance scores** (implement · difficulty ●●●○○ · importance ●●●●○ · 15 min)
#
# `moves[s]` lists the next states of state $s$, one for each command, and `points[s]` what each command scores; a state
# without commands is the end. Return the expected score of chance, from state 0, in at most `turns` turns. By hand:
# moves `[[1, 1], [0], ...]`, points `[[1, 3], [2], ...]`, two turns: $2 + 2 = 4$.


# %% tags=["exercise"]
def my_chance(moves, points, turns):
    """Expected score of the player who takes every command alike: a sum, no sampling."""
    ### BEGIN SOLUTION
    chance, score = {0: 1.0}, 0.0
    for _ in range(turns):
        after = {}
        for state, p in chance.items():
            for to, gain in zip(moves[state], points[state], strict=True):
                score += p * gain / len(moves[state])
                after[to] = after.get(to, 0.0) + p / len(moves[state])
        chance = after
    return score
    ### END SOLUTION


# %%
my_chance = check("15.2", my_chance)

kitchen, snack = (experiments.lesson_15.buttons(name) for name in ("kitchen", "snack"))  # without looking
worlds = [("snack", snack, 3), ("snack", snack, 8), ("kitchen", kitchen, 6), ("butterfly", butterfly, 8)]
rows = []
for name, game, turns in worlds:
    chance, greed = (games.exact_outcome(game, player, turns) for player in (games.at_random, games.greedy))
    best = games.best_scores(game, turns)[turns][0]
    rows.append((name, turns, chance.score, greed.score, best, f"{chance.won:.1%}", f"{greed.won:.1%}"))
    moves = [[to for to, _ in here.values()] for here in game.moves]
    gains = [[game.scores[to] - game.scores[s] for to in here] for s, here in enumerate(moves)]
    assert abs(my_chance(moves, gains, turns) - chance.score) < 1e-9
show.table(rows, ["game", "turns K", "chance", "greed", "best", "chance wins", "greed wins"], "Expected score, exactly")
assert rows[0][2] < rows[0][3] == 1 < rows[0][4] == 2 and rows[0][6] == "0.0%"
assert rows[1][2] > rows[1][3]  # with time, chance overtakes greed

# %% [markdown]
# *Snack* is the end of *kitchen*: the apple is in hand, the oven is closed. Greed eats it: one point at once, where two
# were to be had by waiting a turn; given eight turns, even chance scores more. And the rules say the kitchen has 3
# points, though no player can have more than 2, since an apple that is eaten cannot be warmed. What a game calls its
# maximum need not be its optimum.
#
# *What does time do?* With more turns chance does better, slowly; with a longer task, much worse.


# %%
def wins(player, game, turns):
    return [games.exact_outcome(game, player, k).won for k in turns]


turns = list(range(3, 41))
whole = games.load("kitchen")  # with the commands that only look
lines = {
    "chance, kitchen": (turns, wins(games.at_random, kitchen, turns)),
    "greed, kitchen": (turns, wins(games.greedy, kitchen, turns)),
    "chance, kitchen with looking": (turns, wins(games.at_random, whole, turns)),
    "chance, butterfly": (turns, wins(games.at_random, butterfly, turns)),
}
fig = show.curves(lines, "turns K", "probability to win", size=(8, 3.6))
show.figure(fig, alt="All curves rise with K; the kitchen's level off below one half, since the apple gets eaten.")
assert all(y == sorted(y) for _, y in lines.values()) and max(lines["chance, kitchen"][1]) < 0.5

# %% [markdown]
# ## 4 · One sequence, two authors
#
# A language model plays by writing. The whole episode is **one** token sequence: the introduction, then a command, an
# answer, a command, an answer. The state of the LM is all of it, so it remembers everything it has read. One episode,
# the model's own tokens in brackets:

# %%
played = games.play(lm, [kitchen], horizon=4, episodes=4, generator=runs.generator(0))
row = played.rollout[0]
print(kitchen.intro + "\n>", end="")
for token, own in zip(row.tokens[row.real].tolist(), row.mask[row.real].tolist(), strict=True):
    piece = lm.tokenizer.decode(token)
    print(f"[{piece}]".replace("\n", "↵") if own else piece, end="\n" if own and piece == "\n" else "")
print(f"\ntokens: {row.real.sum()}, of them the policy's: {row.mask.sum()}; points: {played.rewards[0].tolist()}")
again = rollout.score(lm, played.rollout).logprobs
assert torch.allclose(again.detach(), played.rollout.logprobs, atol=1e-4)  # sampler = teacher-forced, under the tree

# %% [markdown]
# So `mask` has **gaps**: True on the tokens of the commands, False on the answers, which were read and not drawn
# (`rollout.observed`). The attention sees both; the loss must see the first only. The probability of an episode is
#
# $$\underbrace{\prod_t \pi_\theta(a_t \mid o_0 a_0 \dots o_t)}_{\text{commands: token by token}}
#   \cdot \underbrace{\prod_t P(o_{t+1} \mid s_t, a_t)}_{\text{the world: no } \theta},$$
#
# and $\nabla\log$ of it is the sum over *commands*. The world's words may be improbable or certain to the model: they
# are not its doing. A second matter is **time**. Points come by the turn, and a turn has as many tokens as it has.
#
# **Exercise 15.3 · Discounted too much** (find the bug · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# `turn` `[B, T]` says which turn a token belongs to (−1: padding), `mask` which tokens are the policy's, `rewards`
# `[B, K]` the points of each turn. Wanted: on each of the policy's tokens the return of its turn, discounted by
# $\gamma$ a *turn*; 0 elsewhere. This version has a reward-to-go that handles gaps, and is wrong. Repair it.


# %%
def returns_as_given(turn, mask, rewards, gamma):
    """Reward-to-go of every token of a command."""
    by_token = torch.zeros(mask.shape)
    for b, k in product(range(len(turn)), range(rewards.shape[1])):
        own = ((turn[b] == k) & mask[b]).nonzero().flatten()
        if len(own):
            by_token[b, own[-1]] = rewards[b, k]  # on the command's last token
    return estimators.reward_to_go(by_token, mask, gamma)


# %% tags=["exercise"]
def my_returns(turn, mask, rewards, gamma):
    """The same, repaired: time advances by turns."""
    ### BEGIN SOLUTION
    taken = torch.ones_like(rewards, dtype=torch.bool)
    to_go = estimators.reward_to_go(rewards, taken, gamma)  # [B, K]
    return to_go.gather(1, turn.clamp(min=0)) * mask
    ### END SOLUTION


# %%
my_returns = check("15.3", my_returns)
for text in ("eat apple", "insert apple into oven"):
    n = len(writer.command(text))
    print(f"{text!r} has {n} tokens: at γ = 0.9 a token, 2 points after it are worth {2 * 0.9**n:.2f} at its first")

# %% [markdown]
# Discounted by tokens, a player learns to use short words. (In the library: `Played.per_token` of the turns'
# returns.)
#
# ## 5 · The gradient, exactly
#
# *Snack* in three turns has 13 episodes. The LM can score all of them, and so, for 5 million weights,
# $J(\theta) = \sum_\tau \pi_\theta(\tau) R(\tau)$ is a sum, and $\nabla J$ one backward pass.

# %%
every = games.all_episodes(lm, snack, horizon=3)
logprobs = rollout.score(lm, every.rollout).logprobs  # [13, T], 0 on the answers
p = logprobs.sum(1).exp()
J = p @ every.scores
parameters = [x for x in lm.parameters() if x.requires_grad]


def gradient(objective):
    return torch.cat([g.flatten() for g in torch.autograd.grad(objective, parameters, retain_graph=True)]).double()


exact = gradient(J)
rows = [(" · ".join(c), q, r) for c, q, r in zip(every.commands, p.tolist(), every.scores.tolist(), strict=True)]
show.table(sorted(rows, key=lambda r: -r[1]), ["episode", "probability", "score"])
print(f"Σ probability = {p.sum():.6f}   J = {J:.4f}   ‖∇J‖ = {exact.norm():.3f}, {len(exact):,} numbers")
assert abs(p.sum() - 1) < 1e-5 and len(every) == 13

# %% [markdown]
# Now the estimator: each command's log-probability, times the reward-to-go of its turn, minus a baseline that knows
# nothing of this episode: the mean reward-to-go of the *other* episodes at that turn (lesson 05). Its expectation over
# all episodes, with the others' mean at its expectation:

# %%
to_go = estimators.reward_to_go(every.rewards, every.taken)  # [13, K]
baseline = p.detach() @ to_go  # what the others earn from each turn on, on average
weights = every.per_token(to_go - baseline)
likely = p.detach()[:, None]
found = gradient((likely * weights * logprobs).sum())
print(f"‖E[estimate] − ∇J‖ / ‖∇J‖ = {(found - exact).norm() / exact.norm():.1e}")
assert (found - exact).norm() < 1e-3 * exact.norm()

# %% [markdown]
# No bias. And the noise? Draw $N$ episodes, use `agent.turn_advantages` (leave one out, turn by turn), and see how far
# the estimate is off. To make it quick we watch 256 of the weights only (those of the last layer norm), whose gradient
# is computed once for every turn of every episode.

# %%
watched = parameters[-1]
turn_logprobs = [[logprobs[e][every.turn[e] == k].sum() for k in range(3)] for e in range(len(every))]


def slope(x):
    return torch.autograd.grad(x, watched, retain_graph=True)[0].flatten()


G = torch.stack([torch.stack([slope(x) for x in one]) for one in turn_logprobs])  # [13, K, 256]
truth = slope(J)


# %%
def error(n, seed):
    """Relative error of the leave-one-out estimate from n sampled episodes."""
    drawn = torch.multinomial(p.detach(), n, replacement=True, generator=runs.generator(seed, n))
    w = agent.turn_advantages(every.rewards[drawn], every.taken[drawn], n)
    return ((w[..., None] * G[drawn]).sum((0, 1)) / n - truth).norm().item() / truth.norm().item()


sizes = [8, 32, 128, 512, 2048, 8192]
errors = [sum(error(n, seed) for seed in range(16)) / 16 for n in sizes]
fig = show.loglog({"leave one out": (sizes, errors)}, "episodes N", "error / ‖∇J‖", slope=-0.5)
show.figure(fig, alt="The relative error of the sampled gradient falls along a line of slope minus one half.")
assert errors[0] > 8 * errors[3] > 16 * errors[5]

# %% [markdown]
# ## 6 · It learns to cook
#
# All of it together is `algorithms/agent.py`: play, compare with the other episodes of the same game, push. Its core:
#
# ```python
# played = games.play(policy, [kitchen], horizon=6, episodes=24, generator=...)
# advantages = agent.turn_advantages(played.rewards, played.taken, 24)                    # [B, K]
# logprobs = rollout.score(policy, played.rollout).logprobs                               # [B, T]
# loss = losses.policy_gradient_loss(logprobs, played.per_token(advantages), played.rollout.mask)
# loss.backward(); optimizer.step()
# ```
#
# First without the LM, so that it is quick: the policy is a table of logits, a row for each state of the kitchen, and
# it learns in the same way for 60 updates of 8 episodes.

# %%
from rlhf_lib.course.exercises.lesson_15 import table_run

print(f"one run, learning rate 0.03, seed 0: its exact score is then {table_run(0.03, 0):.2f}")

# %% [markdown]
# **Exercise 15.4 · A hasty learner eats** (experiment · difficulty ●●○○○ · importance ●●●●○ · 10 min)
#
# Choose Adam's learning rate so that the exact score, over seeds, is surely above 1.7. What goes wrong at rates that
# are far too small, and at rates that are far too large? Look at single runs.

# %% tags=["exercise"]
my_rate = (
    ### BEGIN SOLUTION
    0.2
    ### END SOLUTION
)

# %%
my_rate = check("15.4", my_rate)
rows = [(rate, *[table_run(rate, seed) for seed in range(4)]) for rate in (0.02, 0.2, 3.0)]
show.table(rows, ["learning rate", *[f"seed {seed}" for seed in range(4)]], "Exact score after 60 updates")

# %% [markdown]
# A point is a point: who eats first in the early, lucky episodes is rewarded for it, and a hasty learner stops looking.
# That is the local optimum that greed walks into. Now the language model: one run live, a few updates, over four
# stored ones of twelve.

# %%
stored = results.load("15_agents")
policy, config = stages.base_model(), replace(experiments.lesson_15.AGENT, steps=4)
run = agent.train(policy, [kitchen], config)
chance, greed = (games.exact_outcome(kitchen, player, 6).score for player in (games.at_random, games.greedy))
levels = {"chance": chance, "greed": greed}
lines = {
    "LM, 4 stored runs": (list(range(12)), stored["commands"]["score"]),
    "LM, live": (list(range(len(run.history))), run.column("score")),
}
fig = show.curves(
    lines, "update (24 episodes each)", "score of its episodes", exact=levels | {"best": 2.0}, size=(8, 3.8)
)
show.figure(
    fig, alt="The score rises from chance's level past greed's to the best player's 2 points in a dozen updates."
)


# %%
before, after = stored["before"], stored["commands"]
rows = [
    ("chance", f"{levels['chance']:.2f}", ""),
    ("greed", f"{levels['greed']:.2f}", ""),
    ("LM, untrained", show.interval(before["sampled"]), f"{before['greedy'][0]:.0f}"),
    ("LM, 12 updates", show.interval(after["sampled"]), ", ".join(f"{x:.0f}" for x in after["greedy"])),
    ("best", "2", ""),
]
show.table(rows, ["player of the kitchen, 6 turns", "score (95 %)", "if it always takes the likeliest token"])
assert runs.mean_interval(after["sampled"])[1] > levels["greed"] > runs.mean_interval(before["sampled"])[0]

# %% [markdown]
# From 288 episodes, without having been told a rule, and with a model that knows nothing of ovens. Not by
# understanding: the tree leaves two to six choices a turn, and the sequence tells one situation from another. That is
# all a policy gradient needs. (Section 8 asks what it understood.)
#
# ## 7 · Forget the mask
#
# Now the mistake. A training loop made for single answers takes everything after the prompt for the policy's own:
# `mask` is True on the answers, too, and each answer is pushed by its turn's advantage. Nothing crashes, the loss looks
# as it always does, and the model does get the answers' log-probabilities right.
#
# **Exercise 15.5 · What a forgotten mask learns** (predict · difficulty ●●●○○ · importance ●●●●● · 4 min)
#
# What does the extra term, $\sum$ advantage · $\nabla\log p_\theta(\text{answer})$, teach on average?
# `"nothing: its mean is zero"`, `"to expect all answers"`, or
# `"to expect the answers of good episodes, and not those of bad ones"`?

# %% tags=["exercise"]
forgotten = (
    ### BEGIN SOLUTION
    "to expect the answers of good episodes, and not those of bad ones"
    ### END SOLUTION
)

# %%
forgotten = check("15.5", forgotten)

# %% [markdown]
# In *snack* we can list it: the same exact expectation, once with the mask and once without; with the baseline, and
# with the bare returns.

# %%
everything = agent.everything(every)  # the mask is True on the answers, too
both = rollout.score(lm, everything).logprobs
rows = []
for name, mask in {"commands only": every.rollout.mask, "answers, too": everything.mask}.items():
    for kind, w in {"advantages": weights, "bare returns": every.per_token(to_go)}.items():
        g = gradient((likely * torch.where(mask, w * both, 0.0)).sum())
        bias, cosine = (g - exact).norm() / exact.norm(), torch.cosine_similarity(g, exact, dim=0)
        rows.append((f"{name}, {kind}", (g.norm() / exact.norm()).item(), bias.item(), cosine.item()))
show.table(rows, ["learnt from", "length / ‖∇J‖", "bias / ‖∇J‖", "cosine with ∇J"], formats={"bias / ‖∇J‖": ".1e"})
assert max(rows[0][2], rows[1][2]) < 1e-3 and min(rows[2][2], rows[3][2]) > 1
assert rows[0][3] > 0.99 and rows[2][3] < 0.7

# %% [markdown]
# Not noise: a bias, several times as long as the gradient it drowns. The exact gradient has no term for the answers
# because $P(o|s,a)$ has no $\theta$. The LM's own guess of the answer has one, but nobody samples from it, so the
# identity $\mathbb{E}[\nabla\log p] = 0$, on which baselines rest, does not hold for it.
#
# **Exercise 15.6 · One turn, one answer** (derive · difficulty ●●●●○ · importance ●●●●○ · 15 min)
#
# One turn, two commands. The policy takes the first with probability $p = \sigma(\theta)$; they earn $r_1$ and $r_2$.
# The same weight $\theta$ also moves the model's guess of the answers: $\nabla_\theta\log q$ is $a$ for the first
# command's answer, $b$ for the second's. The baseline is $J = p r_1 + (1-p) r_2$. Derive the **bias**: the mean of
# $(R - J)\,(\nabla\log\pi + \nabla\log q)$, minus $\nabla J$.


# %% tags=["exercise"]
def my_bias(p, r1, r2, a, b):
    """How far the estimate that counts the answer as an action is off, on average."""
    ### BEGIN SOLUTION
    return p * (1 - p) * (r1 - r2) * (a - b)
    ### END SOLUTION


# %%
my_bias = check("15.6", my_bias)

theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
slopes, earned = torch.tensor([1.5, -0.5]).double(), torch.tensor([2.0, 1.0]).double()
log_pi = torch.stack([theta, torch.zeros_like(theta)]).log_softmax(0)
log_q = slopes * theta  # the model's guess of each answer, near this θ
objective = log_pi.exp() @ earned
estimate = (log_pi.exp().detach() * (earned - objective.detach()) * (log_pi + log_q)).sum()
found, right = (torch.autograd.grad(x, theta, retain_graph=True)[0] for x in (estimate, objective))
formula = my_bias(theta.sigmoid().item(), 2.0, 1.0, 1.5, -0.5)
print(f"bias by listing: {found - right:.6f}   by your formula: {formula:.6f}")
assert abs(found - right - formula) < 1e-9

# %% [markdown]
# A covariance: the bias vanishes only if the answers look alike whatever one does, or all commands earn the same.
# **What is learnt instead is a forecast**: answers that come in good episodes are made likelier, those of bad episodes
# less likely, as if wishing for "You put the apple into the oven" could put it there. How much does it cost? In the
# kitchen, at the same learning rate, from the same first episodes:

# %%
kinds = {"commands only": stored["commands"], "answers, too": stored["everything"]}
updates = list(range(12))
lines = {name: (updates, one["score"]) for name, one in kinds.items()}
fig = show.curves(lines, "update", "score", exact=levels | {"best": 2.0}, size=(8, 3.6))
show.figure(fig, alt="With the mask all runs reach 2 points; without it they rise later and more slowly.")
lines = {name: (updates, [[-x for x in seed] for seed in one["answers"]]) for name, one in kinds.items()}
fig = show.curves(lines, "update", "log p of answers, nats a token", size=(8, 3.8))
show.figure(fig, alt="The log-probability of the answers keeps rising without the mask, and levels off with it.")

# %%
measures = {
    "score at the end": lambda one: one["sampled"],
    "won, of all episodes": lambda one: [sum(seed) / 12 for seed in one["won"]],
    "log p of answers": lambda one: [-sum(seed[-3:]) / 3 for seed in one["answers"]],
    "−log π of commands": lambda one: [sum(seed[-3:]) / 3 for seed in one["entropy"]],
}
rows = []
for name, measure in measures.items():
    with_mask, without = (measure(one) for one in kinds.values())
    mean, low, high = runs.paired_interval(without, with_mask)
    verdict = "lower" if high < 0 else "higher" if low > 0 else "no clear difference"
    gap = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")
    rows.append((name, show.interval(with_mask), show.interval(without), gap, verdict))
show.table(
    rows,
    ["", *kinds, "difference", "which is"],
    "4 seeds, 95 %; nats a token, nats a turn: means of the last three updates",
)
assert rows[1][4] == "lower" and rows[2][4] == "higher" and rows[3][4] == "higher"

# %%
parts = stored["gradient"]  # before the first update, from 48 episodes
print("at the start, length of the gradient from commands:", show.interval(parts["commands"]))
print("                                     from answers: ", show.interval(parts["answers"]))
print("cosine between the two:                            ", show.interval(parts["cosine"]))
print("at the end, score if the likeliest token is taken:", {name: one["greedy"] for name, one in kinds.items()})
assert min(parts["answers"]) > 2 * max(parts["commands"])

# %% [markdown]
# Without the mask the agent learns, too (the true gradient is in there), but more slowly: it won far fewer of its games
# on the way, and after twelve updates its commands are still far from sure; its score by then is lower, with an
# interval that just misses 0. (Let both take their likeliest tokens, and both play the whole plan in all four seeds.)
# Most of the gradient is the forecast's, as the last lines say. That is what the log-probability of the answers shows
# rising, and it wins nothing. With the mask nobody asks for a forecast; log p moves less, because shared weights move
# and other answers are heard.
#
# An honest limit: this is one game, one small model, and Adam, which rescales whatever it is given. How much a
# forgotten mask costs will differ elsewhere. That it pushes in a direction which is not $\nabla J$ will not.
#
# ## 8 · Somebody else's kitchen
#
# What has it understood? Train on one kitchen, or on four (apple or potato, in the fridge or the cupboard, for the oven
# or the toaster; a quarter of the episodes in each), and play two that were never trained on: one combines known words
# anew (an apple in the fridge, for the toaster), the other has an egg. And a trap: the first of them once more, with an
# introduction that orders the apple *into the fridge*, while points are still given for the toaster. Who reads orders
# will do badly there.

# %%
rows, unseen = [], experiments.lesson_15.held_out_games()
for what, game in unseen.items():
    exactly = [games.exact_outcome(game, player, 6).score for player in (games.at_random, games.greedy)]
    scores = {trained: one[what] for trained, one in stored["held out"].items()}
    rows.append((what, *exactly, *[show.interval(x) for x in scores.values()]))
show.table(rows, ["held-out kitchen", "chance", "greed", *stored["held out"]], "Score in 6 turns; LM: 4 seeds, 95 %")
for a, b in (("one kitchen", "untrained"), ("four kitchens", "untrained"), ("four kitchens", "one kitchen")):
    for what in unseen:
        one, other = (stored["held out"][trained][what] for trained in (a, b))
        mean, low, high = runs.paired_interval(one, other)
        verdict = "worse" if high < 0 else "better" if low > 0 else "no clear difference"
        gap = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})".replace("-", "−")
        print(f"{what}: {a} minus {b}: {gap}, {verdict}")

# %% [markdown]
# The skill carries over: both held-out kitchens are played about as well as the one trained on, whether one kitchen was
# seen or four (no clear difference: there was little left to gain). And it was **not** carried by the order: told to do
# the opposite, the policies do as before. Four kitchens with one plan between them, *open, take, open, insert*, do not
# reward reading. A benchmark that means to test understanding has to make reading pay, and to check that it does.
#
# ## 9 · What a real benchmark adds
#
# Games of this size hide three things that make agents hard.
#
# **Long horizons.** Section 3's curves: one more room, one more command in the plan, and chance finds the first reward
# a factor less often. Where nobody ever wins, all advantages are 0 and nothing is learnt. (With 24 episodes a step
# our kitchen is near that limit: chance wins one in sixteen.)
#
# **Credit across turns.** Every turn of a winning episode is praised, the pointless ones too. A critic or reward-to-go
# helps a little; many turns need many episodes.
#
# **Partial observability.** A pair of games: in a hall hangs a sign, beyond it are a red and a blue box, and the wrong
# one ends the game. The two worlds differ in what the sign says and in nothing else, so whoever wants to win must
# read, walk, and *remember*. What the best player can score who knows only what was said, for two worlds alike in
# probability, is again a sum, over sets of worlds that have answered alike:


# %%
def best_from(possible, turns):
    """Most points to be expected from worlds [(probability, game, state)] that nothing so far has told apart."""
    offered = set.intersection(*(set(game.admissible(state)) for _, game, state in possible))
    best = 0.0
    for command in offered if turns else ():
        value, heard = 0.0, {}
        for p, game, state in possible:
            step = game.step(state, command)
            value += p * step.reward
            heard.setdefault(step.text, []).append((p, game, step.state))
        best = max(best, value + sum(best_from(alike, turns - 1) for alike in heard.values()))
    return best


signs = [games.load(f"sign-{colour}").without("look", "inventory") for colour in ("red", "blue")]
print("read first:", signs[0].step(0, "examine sign").text, "|", signs[1].step(0, "examine sign").text)
remembers = {turns: best_from([(0.5, game, 0) for game in signs], turns) for turns in (1, 2, 3, 4, 5)}
print("the best with memory:", remembers)
assert remembers[2] == 0.5 and remembers[3] == remembers[5] == 1

# %% [markdown]
# **Exercise 15.7 · Without memory** (predict · difficulty ●●○○○ · importance ●●●●○ · 3 min)
#
# Another player sees the last answer only, as an LM does whose context is cut to it. It may read the sign, too. What is
# the most that it can expect in four turns?

# %% tags=["exercise"]
forgetful = (
    ### BEGIN SOLUTION
    0.5
    ### END SOLUTION
)

# %%
forgetful = check("15.7", forgetful)


def heard_in(game, turns):
    """What may be read last: text -> the commands offered then."""
    texts, states = {game.intro: game.admissible(0)}, {0}
    for _ in range(turns):
        steps = [game.step(s, command) for s in states for command in game.admissible(s)]
        texts |= {step.text: game.admissible(step.state) for step in steps if not step.done}
        states |= {step.state for step in steps}
    return texts


def follow(rule, game, turns):
    state, text, score = 0, game.intro, 0.0
    for _ in range(turns):
        if game.admissible(state):
            text, reward, state, _ = game.step(state, rule[text])
            score += reward
    return score


texts = heard_in(signs[0], 4) | heard_in(signs[1], 4)
rules = [dict(zip(texts, chosen, strict=True)) for chosen in product(*texts.values())]
forgets = max(sum(follow(rule, game, 4) for game in signs) / 2 for rule in rules)
print(f"{len(rules):,} rules that go by the last answer; the best of them scores {forgets}")
assert forgets == forgetful == 0.5 < remembers[4]

# %% [markdown]
# That is why the episode is one sequence: a language model's context *is* the agent's memory, and the reason why
# long episodes are dear. Games people play (*Zork*), web pages and programmers' tools have all three at once, hundreds
# of turns, and no list of admissible commands.
#
# ## Recap
#
# - An agent's episode has two authors. Actions are the tokens of the commands, in *turns*; answers are read.
# - Buttons: strings ≫ table > templates > admissible. A trie over the admissible commands turns any LM into a policy
#   over them, renormalised.
# - A recorded game is a finite MDP: chance, greed and the best are sums. Greed can lose to patience.
# - The policy gradient is that of the commands; where all episodes can be listed, the estimate's mean equals
#   $\nabla J$ in all 5 million weights.
# - With the answers in the mask the gradient has a bias: it learns a forecast of good episodes.
# - Time is turns: discount a turn, not a token.
#
# | equation | cell |
# |---|---|
# | $P(\tau) = \prod \pi_\theta(a_t \mid \text{history}) \prod P(o_{t+1} \mid s_t, a_t)$ | sections 4, 5 |
# | $\nabla J = \mathbb{E}\big[\sum_t (G_t - b_t)\, \nabla\log\pi_\theta(a_t)\big]$, $b_t$: the others | section 5 |
# | bias without the mask $= \operatorname{Cov}\big(R, \nabla\log p_\theta(o)\big)$ | section 7, listed; exercise 15.6 |
# | $V_k(s) = \max_a [R + V_{k-1}(s')]$ | section 3 |
# | the lecture's verbs × nouns × prepositions | section 2 |

# %%
quiz(
    "The log-probability of the game's answers rises during training. What do you check first?",
    {
        "Whether the answers' tokens are in the loss": "With the mask on, nothing pushes them: they may drift, but "
        "no gradient is theirs.",
        "The learning rate": "It scales what is learnt. The question is from which tokens.",
        "The game": "It always gives the same answers.",
    },
    correct="Whether the answers' tokens are in the loss",
)
quiz(
    "When does greed score less than chance?",
    {
        "When points taken at once spoil larger ones later": "As with the apple. Looking one command ahead is no plan.",
        "When the horizon is too short": "Then greed loses least: nothing comes later.",
        "Never": "In snack, with eight turns, it does.",
    },
    correct="When points taken at once spoil larger ones later",
)
quiz(
    "Supervised training on whole transcripts of expert play, answers included, helped an agent. A contradiction?",
    {
        "No: a forecast learnt from all answers is a world model": "Weights are positive there, and the answers are "
        "data. Here they were pushed up and down by luck, and called the policy gradient.",
        "Yes: the answers must never be learnt": "They must not be taken for actions. To predict them is another task, "
        "and can be a useful one.",
    },
    correct="No: a forecast learnt from all answers is a world model",
)

# %% [markdown]
# **Next:** lesson 16, *Scaling up*: the same code with a model of 135 million weights.
