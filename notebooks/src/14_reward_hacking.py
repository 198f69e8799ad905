# %% [markdown]
# # 14 · Reward hacking
#
# **The question.** You optimise a number that was learnt from people. When does more of the number stop being more of
# what they meant? And could you have known?
#
# **You will** fit a reward model to a few labels and follow it, exactly, until it leads you astray; derive at which
# point that happens; compare best-of-n with RL at the same distance from the start; see which mistakes an ensemble of
# reward models cures and which it does not; pay for stopping early; and push the tiny language model as far as its
# reward model goes.
#
# | | |
# |---|---|
# | You need | lessons 09 (Bradley–Terry) and 10 (best-of-n, the price of KL, $\pi_\text{ref}\,e^{R/\beta}/Z$) |
# | Reading | 40 minutes, and an hour for the exercises |
# | Run time | about 40 s on 2 cores; if lesson 09 has not run yet, a minute and a half more, once |
# | A GPU | shortens section 7 only |

# %%
from rlhf_lib.course.lesson import *

stages.SCALE = "tiny"  # "smol" runs the same cells on SmolLM2; better on a GPU

# %% [markdown]
# ## 1 · What they meant, and what was learnt
#
# *"When a measure becomes a target, it ceases to be a good measure"* is how Marilyn Strathern put Goodhart's law. To
# watch it happen one needs both: the measure and what it was meant to measure. People cannot score every text along the
# way, so Gao, Schulman and Hilton (2022) let a model stand in for them. A large **gold** reward model labels pairs;
# a **proxy** is trained on the labels; the policy is trained on the proxy; and gold looks on. We do the same: here with
# a gold that is a formula, in section 7 with a language model.
#
# In the micro language, a person likes positive words (the score of earlier lessons) and minds being told the same
# thing twice: each word said again costs a point. That is the gold score of the 820 texts. The reference picks its
# words blindly.

# %%
world = reviews.micro_mdp(horizon=3)
words, mask = mdp.enumerate_episodes(world)  # all texts that begin with "awful", [820, 3]
counts = (torch.nn.functional.one_hot(words, 10) * mask[..., None]).sum(1).double()  # of each word, [820, 10]
repeats = (counts[:, :-1] - 1).clamp(min=0).sum(1)  # words said again
gold = mdp.episode_returns(world, words, mask, torch.float64) - repeats
ref = mdp.action_logprobs(world, models.TablePolicy(world).double(), words, mask).sum(1).exp().detach()
texts = [" ".join(["awful", *(world.actions[w] for w in text[m])]) for text, m in zip(words, mask, strict=True)]

best = gold.argsort(descending=True)[:4].tolist()
show.table([(texts[i], gold[i].item()) for i in best], ["the texts they would like best", "gold"])
print(f"expected gold of the reference {ref @ gold:.2f}")

# %% [markdown]
# The proxy is the simplest reward model there is: a score $w$ for each word, added up over the text (a *bag of words*).
# Nobody tells it the gold scores. It sees pairs of the reference's texts, each with the answer of a person who follows
# Bradley–Terry: prefers the first with probability $\sigma(\text{gap of gold})$. Then it is fitted as in lesson 09.


# %%
def labelled(pairs, *seed, weight=ref):
    """Counts of the preferred text minus counts of the other, [pairs, 10], for pairs drawn from the reference."""
    generator = runs.generator(*seed)
    i, j = torch.multinomial(weight, 2 * pairs, replacement=True, generator=generator).view(2, -1)
    wins = torch.rand(pairs, generator=generator, dtype=torch.float64) < (gold[i] - gold[j]).sigmoid()
    return torch.where(wins[:, None], counts[i] - counts[j], counts[j] - counts[i])


def fit(differences, start=0.0, ridge=0.1):
    """Word scores [..., 10] with the least Bradley–Terry loss, held near `start` by a small ridge (Newton's method)."""
    start = torch.zeros(10, dtype=torch.float64) + start
    w, eye = start.expand(*differences.shape[:-2], 10), torch.eye(10, dtype=torch.float64)
    for _ in range(12):
        p = (differences @ w[..., None]).sigmoid()
        slope = (differences * (1 - p)).sum(-2) - ridge * (w - start)
        bend = (differences * p * (1 - p)).mT @ differences + ridge * eye
        w = w + torch.linalg.solve(bend, slope)
    return w


def scored(w):
    """Proxy scores of all texts [..., 820]; 0 is the reference's mean, for only differences were learnt."""
    scores = w @ counts.T
    return scores - (scores @ ref)[..., None]


# %%
many, few = (fit(labelled(pairs, 6, pairs)) for pairs in (5000, 20))
show.table(
    [("5,000 pairs", *many.tolist()), ("20 pairs", *few.tolist())],
    ["score of", *world.actions],
    caption="What a bag of words learns",
    formats=dict.fromkeys(world.actions, ".1f"),
)


def right(proxy):
    """Share of the reference's pairs that a proxy orders as gold does (half for a tie), exactly."""
    gap = gold[:, None] - gold
    agrees = 0.5 + 0.5 * ((proxy[:, None] - proxy) * gap).sign()
    chance = ref[:, None] * ref * (gap != 0)
    return ((chance * agrees).sum() / chance.sum()).item()


for name, w in {"5,000 pairs": many, "20 pairs": few}.items():
    print(f"{name}: orders {right(scored(w)):.0%} of the reference's pairs as gold does")
assert right(scored(many)) > right(scored(few)) > 0.5

# %% [markdown]
# With many labels the words come in a sensible order. Two kinds of mistake are here. With few labels the scores are
# **noisy**: look at "dull". And with any number of labels a bag of words **cannot see** order, "not very good", or
# that a word was said before: it thinks that three times "great" is three times as great.
#
# As judges of the reference's own texts both are better than a coin. Is that good enough to optimise?

# %% [markdown]
# ## 2 · The curve nobody should forget
#
# Lesson 10 showed where RL with a KL price arrives, without training anything: at the Gibbs policy
#
# $$\pi_\beta(y) = \frac{\pi_\text{ref}(y)\, e^{\text{proxy}(y)/\beta}}{Z}.$$
#
# So we can follow RL from dear KL to cheap KL and look up, exactly, what the proxy thinks, what gold thinks, and how
# far we are from the reference. Gao et al. draw this over $\sqrt{\mathrm{KL}}$, and so do we: for a small step KL is
# quadratic in the step, and its root is something like a distance.
#
# > **Predict before you run.** Gold starts at the reference's value. Does it keep rising, level off, or fall again?
# > Does it end above where it began?


# %%
def tilted(proxy, t):
    """log π of the Gibbs family at t = 1/β: proxy [..., 820], t [..., T] -> [..., T, 820]."""
    return (ref.log() + t[..., None] * proxy[..., None, :]).log_softmax(-1)


def kl(log_q):
    """KL to the reference of distributions over the texts, given as log-probabilities [..., 820]."""
    return (log_q.exp() * (log_q - ref.log()).nan_to_num(neginf=0.0)).sum(-1).clamp(min=0)


t = torch.cat([torch.zeros(1), torch.logspace(-1.5, 1.5, 60)]).double()  # 1/β, from 0 to 30
proxy_world = mdp.TokenMDP(world.actions, 3, lambda text, taken: scored(few), eos=world.eos)
optimum, _ = mdp.gibbs(proxy_world, models.TablePolicy(world).double(), beta=0.5)
torch.testing.assert_close(tilted(scored(few), torch.tensor([2.0]).double())[0], optimum, rtol=0, atol=1e-9)


# %%
@show.style()
def astray(pairs, beta):
    proxy = scored(fit(labelled(pairs, 6, pairs)))
    family, here = tilted(proxy, t), tilted(proxy, torch.tensor([1 / beta]).double())[0]
    fig, (ax, bars) = show.new_figure(size=(10.5, 3.8), panels=2)
    for values, name, dashes in ((proxy, "proxy", "--"), (gold - ref @ gold, "gold", "-")):
        (line,) = ax.plot(kl(family).sqrt(), family.exp() @ values, dashes, label=name)
        ax.plot(kl(here).sqrt(), here.exp() @ values, "o", color=line.get_color(), ms=9)
    ax.axhline(0, color="#000000", linewidth=0.8)
    ax.set(xlabel="√KL", ylabel="gain over the reference")
    ax.legend()
    top = here.argsort(descending=True)[:6].tolist()
    names = [f"{texts[i].removeprefix('awful ')}   {gold[i]:+.1f}".replace("-", "−") for i in top]
    bars.barh(names, here[top].exp(), color=show.plots.PALETTE[2])
    bars.invert_yaxis()
    bars.set(xlabel="probability")
    bars.set_title("awful …, and its gold", loc="left")
    return fig


show.slider_figure(
    astray,
    alt=lambda pairs, beta: (
        f"Proxy and gold over root KL for {pairs} labelled pairs, with a dot at beta = {beta:g}, and the six likeliest "
        "texts there: the proxy rises all the way, gold rises, turns and falls."
    ),
    labels={"pairs": "labelled pairs", "beta": "β"},
    pairs=[20, 40, 80, 320, 1280],
    beta=[4.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1],
)

# %% [markdown]
# Move β down slowly and read the right-hand side. For a while gold comes along: "great" becomes more frequent too. Then
# the policy finds what the proxy scores highest of all, which is one word three times over, the fluke of twenty labels.
# The proxy never stops rising; gold turns, and here it ends below where it began. That is **reward hacking**, or
# overoptimisation, and no bug in the RL: this *is* the optimum that was asked for.
#
# Now give it more pairs. The word becomes "great", which is better and still not it: to these people "great great
# great" is worth less than nothing. (It was an unlucky set of twenty labels. We shall soon draw sixteen sets.)

# %%
proxy = scored(few)
family = tilted(proxy, t)
gain, peak = family.exp() @ gold, int((family.exp() @ gold).argmax())
for name, i in {"reference": 0, "best β": peak, "smallest β": -1}.items():
    beta, thinks = "∞" if i == 0 else f"{1 / t[i]:.2f}", family[i].exp() @ proxy + 1e-9
    print(f"{name:10} β = {beta:>5}   KL {kl(family[i]):.2f}   proxy {thinks:+.2f}   gold {gain[i]:+.2f}")
assert ((family.exp() @ proxy).diff() > 0).all() and 0 < peak < 60 and gain[-1] < gain[peak] - 0.3

# %% [markdown]
# **Exercise 14.1 · Twice as sure of itself** (predict · difficulty ●●○○○ · importance ●●●●○ · 4 min)
#
# A colleague's proxy is exactly $2 \cdot \text{proxy} + 7$. You both follow the Gibbs family, and both draw gold over
# $\sqrt{\mathrm{KL}}$. How does the colleague's curve look? Answer with one of `"the same curve"`, `"a higher curve"`,
# `"a curve that turns at half the KL"`, `"a curve that turns at twice the KL"`.

# %% tags=["exercise"]
curve = (
    ### BEGIN SOLUTION
    "the same curve"
    ### END SOLUTION
)

# %%
curve = check("14.1", curve)
for ours, theirs in ((1.0, 2.0), (0.3, 0.6)):
    log_q = [tilted(s, torch.tensor([1 / b]).double())[0] for s, b in ((proxy, ours), (2 * proxy + 7, theirs))]
    print(f"β = {ours} on ours, β = {theirs} on theirs: KL {kl(log_q[0]):.4f} and {kl(log_q[1]):.4f}")
    torch.testing.assert_close(*log_q)

# %% [markdown]
# ### Sixteen draws of the labels
#
# One set of 20 labels is luck. To average over several we compare them at equal KL, so we need the member of each
# family at a given KL: search for its $1/\beta$ by halving. (A proxy that runs out of room before, with all
# probability on its favourite text, stays there.)


# %%
def at_kl(proxy, nats):
    """log π of the Gibbs family at these KLs: proxy [..., 820], nats [..., T] -> [..., T, 820]."""
    low = torch.full((*proxy.shape[:-1], nats.shape[-1]), -7.0, dtype=torch.float64)  # log(1/β)
    high = -low
    for _ in range(40):
        middle = (low + high) / 2
        too_near = kl(tilted(proxy, middle.exp())) < nats
        low, high = torch.where(too_near, middle, low), torch.where(too_near, high, middle)
    return tilted(proxy, high.exp())


DRAWS, distance = 16, torch.linspace(0.1, 2.3, 12).double()  # sets of labels; √KL
proxies = {m: scored(fit(torch.stack([labelled(m, s, m) for s in range(DRAWS)]))) for m in (10, 20, 80, 320)}
followed = {m: at_kl(some, distance**2).exp() @ gold for m, some in proxies.items()}  # [16, 12] each
show.figure(
    show.curves(
        {f"{m} pairs": (distance, gold_at.tolist()) for m, gold_at in followed.items()},
        "√KL of the Gibbs policy",
        "gold",
        "Mean of 16 sets of labels, 95 % intervals",
        exact={"reference": (ref @ gold).item()},
        size=(8.5, 3.8),
    ),
    alt="Gold over root KL for proxies of 10, 20, 80 and 320 pairs: each rises, turns and falls; more pairs, higher.",
)

# %%
rows = []
for m, gold_at in followed.items():
    turn = gold_at.argmax(1)
    fall = gold_at.max(1).values - gold_at[:, -1]
    cells = [runs.mean_interval(v.tolist()) for v in (distance[turn], gold_at.max(1).values, fall)]
    rows.append((f"{m} pairs", *["{:.2f} ({:.2f} to {:.2f})".format(*cell) for cell in cells]))
    assert cells[2][1] > 0  # it falls, at every number of labels
show.table(rows, ["proxy", "√KL where gold turns", "gold there", "fall by the end"], "Means of 16, 95 % intervals")

# %% [markdown]
# More labels buy a higher peak. They do not abolish the fall: noise is averaged away, but what a bag of words cannot
# see it cannot see in 5,000 pairs either. Gao et al. found that larger proxies and more labels bought more gold, and
# that gold turned all the same. (They fit RL's gold by $d\,(\alpha - \beta \log d)$ and best-of-n's by
# $d\,(\alpha - \beta d)$, with $d = \sqrt{\mathrm{KL}}$: empirical formulas, and that β is no KL price.)

# %% [markdown]
# ## 3 · Where it turns, and why
#
# Let $t = 1/\beta$ grow a little. How does the expected value of *any* score change along $\pi_t \propto
# \pi_\text{ref}\,e^{t\,\text{proxy}}$? Start from
#
# $$\frac{d}{dt} \log \pi_t(y) = \text{proxy}(y) - \frac{d}{dt}\log Z(t).$$
#
# **Exercise 14.2 · The slope of gold** (derive · difficulty ●●●○○ · importance ●●●●● · 12 min)
#
# Work out $\frac{d}{dt}\log Z$, and then $\frac{d}{dt}\,\mathbb{E}_{\pi_t}[\text{gold}]$, on paper. Write the result as
# a function of the present probabilities `p` `[N]`, `proxy` `[N]` and `gold` `[N]`.


# %% tags=["exercise"]
def gold_slope(p, proxy, gold):
    """d E[gold] / d(1/β) at the policy p, a number."""
    ### BEGIN SOLUTION
    return p @ (gold * (proxy - p @ proxy))
    ### END SOLUTION


# %%
gold_slope = check("14.2", gold_slope)

# %% [markdown]
# Check it all along the family, against automatic differentiation.

# %%
x = t.clone().requires_grad_()
along = tilted(proxy, x).exp()
(automatic,) = torch.autograd.grad((along @ gold).sum(), x)
slopes = torch.stack([gold_slope(p, proxy, gold) for p in along.detach()])
torch.testing.assert_close(automatic, slopes, rtol=0, atol=1e-9)
own = torch.stack([gold_slope(p, proxy, proxy) for p in along.detach()])
(automatic,) = torch.autograd.grad((tilted(proxy, x).exp() @ proxy).sum(), x)
torch.testing.assert_close(automatic, own, rtol=0, atol=1e-9)
assert (own >= 0).all()
print(f"largest difference: {(automatic - own).abs().max():.1e}")

# %% [markdown]
# $$\boxed{\;\frac{d}{d(1/\beta)}\,\mathbb{E}_{\pi_\beta}[\text{gold}] =
# \operatorname{Cov}_{\pi_\beta}(\text{gold}, \text{proxy})\;}$$
#
# Three things follow.
#
# - With gold = proxy the slope is the variance: the proxy *never* falls. Watching it tells nothing.
# - **Hacking begins exactly where gold and proxy become negatively correlated under the present policy.** Not under the
#   reference, on whose texts the proxy was trained and tested.
# - The first stretch depends on one number only. Near the reference $\mathrm{KL} \approx \tfrac12 t^2
#   \operatorname{Var}(\text{proxy})$, so over $\sqrt{\mathrm{KL}}$ gold starts with the slope
#   $\sqrt2\,\rho\,\sigma_\text{gold}$, where ρ is the correlation under the reference.


# %%
def correlation(p):
    """Of gold and the proxy, under probabilities p [820]."""
    return gold_slope(p, proxy, gold) / (gold_slope(p, proxy, proxy) * gold_slope(p, gold, gold)).sqrt()


@show.style()
def turning():
    fig, axes = show.new_figure("√KL", size=(10, 3.6), panels=2)
    across, rho = kl(family).sqrt(), [correlation(p).item() for p in family.exp()]
    axes[0].plot(across, gain, label="gold")
    first = math.sqrt(2) * rho[0] * gold_slope(ref, gold, gold).sqrt().item()
    axes[0].plot([0, 0.6], [gain[0].item(), gain[0].item() + 0.6 * first], "k:", label="√2·ρ·σ")
    axes[1].plot(across, rho, "--", color=show.plots.PALETTE[1], label="gold and proxy")
    axes[1].axhline(0, color="#000000", linewidth=0.8)
    axes[0].set_ylabel("gold")
    axes[1].set_ylabel("correlation")
    for ax in axes:
        ax.axvline(across[peak].item(), color="#000000", linestyle="-.", linewidth=1)
        ax.legend()
    return fig


show.figure(turning(), alt="Gold peaks at the distance where the correlation of gold and proxy falls through zero.")
before, after = (gold_slope(family[i].exp(), proxy, gold) for i in (peak - 1, peak + 1))
small = tilted(proxy, torch.tensor([1e-3]).double())[0]
start_slope = (small.exp() @ gold - ref @ gold) / kl(small).sqrt()
assert before > 0 > after
assert abs(start_slope / (math.sqrt(2) * correlation(ref) * gold_slope(ref, gold, gold).sqrt()) - 1) < 0.01

# %% [markdown]
# Could you have known without gold? The proxy's accuracy on fresh pairs of the reference, which is what reward models
# are usually judged by, is a statement about the left edge of the right panel. The rest of that line is made of texts
# that the reference hardly ever writes. Nothing in the labels speaks about them. What does help is a few gold labels of
# the *present* policy's texts, from which the covariance can be estimated. Section 6 pays for them.

# %% [markdown]
# ## 4 · Best of n, exactly
#
# Lesson 10's filter optimises the proxy too: draw $n$ texts from the reference, keep the one that the proxy likes best.
# Nothing is trained. Does a filter hack? Exercise 13.8 had its distribution: the best score is at most $s$ with
# probability $P(\text{score} \le s)^n$, and texts of equal score share in proportion to their probabilities.


# %%
def best_of_n_law(p, scores, n):
    """Probability [N] of each text to be the best of n independent draws from p [N]; a fair lot decides ties."""
    at_most = (p * (scores <= scores[:, None])).sum(1)
    tied = (p * (scores == scores[:, None])).sum(1)
    return p / tied * (at_most**n - (at_most - tied) ** n)


# %% [markdown]
# Its KL to the reference is quoted everywhere as $\log n - \frac{n-1}{n}$ (`best_of_n.kl_bound`). The derivation
# assumes that no two draws tie. Three rewards: our proxy; one that is different for every text; and a yes-or-no reward
# ("contains *great*").
#
# > **Predict before you run.** What is the KL of the best of 4,096 under the yes-or-no reward?

# %%
rounded = (proxy * 1e9).round()  # sums of the same words in another order are equal: let no rounding decide
three = {"proxy": rounded, "all different": -torch.arange(820.0), "yes or no": (counts[:, 0] > 0).double()}
rows = []
for n in (1, 2, 4, 16, 64, 256, 4096):
    exact = [kl(best_of_n_law(ref, scores, n).log()).item() for scores in three.values()]
    assert max(exact) <= best_of_n.kl_bound(n) + 1e-9
    rows.append((f"n = {n:,}", best_of_n.kl_bound(n), *exact))
columns = ["log n − (n − 1)/n", *three]
show.table(rows, ["", *columns], "KL of the best of n to the reference, nats", dict.fromkeys(columns, ".3f"))
assert abs(rows[-1][-1] + (ref @ three["yes or no"]).log().item()) < 1e-3

# %% [markdown]
# It is an **upper bound**, and a close one while draws hardly ever tie. Where they do (equal scores, or the same text
# drawn twice) the filter has less to choose from, and with a yes-or-no reward it can never cost more than
# $-\log P(\text{yes})$. Who plots such a best-of-n at the bound draws it too far to the right.
#
# **Exercise 14.3 · How many tries until the hack wins?** (derive · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# A draw from the reference is a hack with probability `p`: bad, and yet of a higher proxy than everything that is not
# one. Return the smallest `n`, a whole number, at which the best of `n` is a hack at least half of the time.


# %% tags=["exercise"]
def tries_until_hacked(p):
    """The smallest n at which the best of n is a hack with probability 1/2 or more."""
    ### BEGIN SOLUTION
    return math.ceil(math.log(1 / 2) / math.log(1 - p))
    ### END SOLUTION


# %%
tries_until_hacked = check("14.3", tries_until_hacked)

# %%
favourite = rounded == rounded.max()  # for once, call whatever the proxy likes best a hack
p = ref[favourite].sum().item()
n = tries_until_hacked(p)
share = [best_of_n_law(ref, rounded, tries)[favourite].sum().item() for tries in (n - 1, n)]
print(f"the proxy's favourite: P = {p:.1e}, and the best of {n - 1:,} in {share[0]:.4f}, of {n:,} in {share[1]:.4f}")
assert share[0] < 0.5 <= share[1]

# %% [markdown]
# About $0.7/p$ tries: what the reference hardly ever writes, a filter hardly ever finds. No text becomes more than $n$
# times likelier than it was.
#
# **Exercise 14.4 · Same distance, whose proxy is higher?** (predict · difficulty ●●●○○ · importance ●●●○○ · 5 min)
#
# Take best-of-$n$ and the Gibbs policy at exactly the same KL to the reference. Which has the higher expected
# *proxy*? Answer `"best of n"`, `"Gibbs"` or `"it depends on the proxy"`.

# %% tags=["exercise"]
higher = (
    ### BEGIN SOLUTION
    "Gibbs"
    ### END SOLUTION
)

# %%
higher = check("14.4", higher)

# %% [markdown]
# And gold? For that no theorem helps. Both ways, at the same exact KL, for the sixteen proxies of section 2:

# %%
ns = (2, 4, 8, 16, 64, 256, 1024)


def both_ways(proxy):
    """KL, and proxy and gold under best-of-n and under Gibbs at the same KL: [5, len(ns)]."""
    law = torch.stack([best_of_n_law(ref, (proxy * 1e9).round(), n) for n in ns])
    nats = kl(law.log())
    gibbs = at_kl(proxy, nats).exp()
    return torch.stack([nats, law @ proxy, gibbs @ proxy, law @ gold, gibbs @ gold])


found = {m: torch.stack([both_ways(proxy) for proxy in proxies[m]]) for m in (20, 320)}  # [16, 5, 7]
for m, both in found.items():
    assert (both[:, 2] >= both[:, 1] - 1e-6).all()
    gap = (both[:, 3] - both[:, 4]).T.tolist()
    assert runs.mean_interval(gap[3])[1] > 0  # n = 16
    show.table(
        [
            (f"n = {n}", *both[:, :, k].mean(0).tolist(), "{:+.2f} ({:+.2f} to {:+.2f})".format(*runs.mean_interval(g)))
            for k, (n, g) in enumerate(zip(ns, gap, strict=True))
        ],
        ["", "KL", "proxy, best of n", "proxy, Gibbs", "gold, best of n", "gold, Gibbs", "difference in gold (95 %)"],
        caption=f"Proxies of {m} pairs, means of 16",
    )

# %% [markdown]
# The proxies' columns keep the theorem: Gibbs is *the* policy with the most proxy at its KL. Now the last column. At
# $n = 2$ there is little to choose. From 4 to 64 tries the filter has **more gold** for the same nats, with either
# kind of proxy. A likely reason: no text becomes more than $n$ times likelier under best-of-$n$, while the weight
# $e^{\text{proxy}/\beta}$ has no ceiling, and the largest factors go to the proxy's few favourites, where hacks live.
#
# A filter is not safe in kind: at a large $n$ its gold turns as well. It is slow: its KL grows with $\log n$, and few
# people can pay for a thousand tries.

# %% [markdown]
# ## 5 · Many proxies
#
# If one proxy can be fooled, ask several. Train $k$ of them on different labels, and be paid by a summary of what they
# say: their **mean**; the **minimum** (the most sceptical member decides); or **mean minus standard deviation** (Coste
# et al. 2023 compared such rules).
#
# A trap comes first. Bradley–Terry scores have no zero of their own (lesson 09).

# %% [markdown]
# **Exercise 14.5 · The sceptic who is only grumpy** (find the bug · difficulty ●●○○○ · importance ●●●●○ · 8 min)
#
# `scores` `[K, N]` are what $K$ reward models say of a batch, `on_reference` `[K, M]` what each says of the reference's
# texts. The function pays the minimum, and the ensemble of three seems to work. The cell prints how many of the texts
# each member has the last word on. Repair it.


# %%
def sceptical_as_given(scores, on_reference):
    """The most sceptical member's opinion of each text. Looks right, is not."""
    return scores.min(0).values


raw = proxies[80][:3] + torch.tensor([[1.0], [6.0], [-4.0]])  # zeros as training happened to leave them
decides = (raw == sceptical_as_given(raw, raw)).double().mean(1)
print("share of texts that each member decides:", [f"{share:.0%}" for share in decides.tolist()])


# %% tags=["exercise"]
def sceptical(scores, on_reference):
    """The most sceptical member's opinion of each text: [K, N], [K, M] -> [N]."""
    ### BEGIN SOLUTION
    return (scores - on_reference.mean(1, keepdim=True)).min(0).values
    ### END SOLUTION


# %%
sceptical = check("14.5", sceptical)

# %% [markdown]
# (`scored` above has centred all our proxies on the reference from the start.)
#
# When do several help? When their mistakes **differ**. Three ways to make five members, thirty labelled pairs each:
#
# 1. *Own labels*: five draws of thirty pairs.
# 2. *A hole that all share*: the same, but no labelled text contains "not", so no label ever speaks about it. And all
#    five are fine-tuned from one pre-trained model, which happens to think that "not" is worth +2.
# 3. *A hole, own starts*: the hole is the same, but each member starts from weights of its own, with a random opinion
#    of "not".
#
# > **Predict before you run.** In which of the three does the minimum help?

# %%
MEMBERS, PAIRS = 5, 30
no_not = ref * (counts[:, world.actions.index("not")] == 0)
start = torch.zeros(10, dtype=torch.float64)
start[world.actions.index("not")] = 2.0


def ensemble(kind, seed):
    """The scores of five members [5, 820], and of one proxy that has all their labels [820]."""
    hole = kind != "own labels"
    labels = [labelled(PAIRS, 100 + seed, k, weight=no_not if hole else ref) for k in range(MEMBERS)]
    opinions = start * hole
    if kind == "hole, own starts":
        opinions = start * torch.randn(MEMBERS, 1, generator=runs.generator(seed, 99), dtype=torch.float64)
    members = fit(torch.stack(labels), opinions)
    pooled = fit(torch.cat(labels), opinions if opinions.dim() == 1 else opinions[0])
    return scored(members), scored(pooled)


rules = {
    "one member": lambda s: s[0],
    "mean": lambda s: s.mean(0),
    "minimum": lambda s: s.min(0).values,
    "mean − std": lambda s: s.mean(0) - s.std(0),
}

# %%
budget = torch.tensor([1.0, 4.0]).double()  # nats
kinds, reached = ("own labels", "hole, one start", "hole, own starts"), {}
for kind in kinds:
    made = [ensemble(kind, seed) for seed in range(DRAWS)]
    for name, rule in rules.items():
        reached[kind, name] = at_kl(torch.stack([rule(s) for s, _ in made]), budget).exp() @ gold  # [16, 2]
    reached[kind, "one, all labels"] = at_kl(torch.stack([pooled for _, pooled in made]), budget).exp() @ gold
names = [*rules, "one, all labels"]
for k, nats in enumerate(budget.tolist()):
    show.table(
        [
            (name, *["{:+.2f} ({:+.2f} to {:+.2f})".format(*runs.mean_interval(reached[kind, name][:, k].tolist()))
                     for kind in kinds])
            for name in names
        ],
        ["paid by", *kinds],
        caption=f"Gold at KL = {nats:g} nats: mean of 16 and 95 % interval",
    )  # fmt: skip


# %%
@show.style()
def help_of_many():
    fig, ax = show.new_figure("gold at 4 nats, less that of one member", size=(9, 3.8))
    for i, name in enumerate(names[1:]):
        for j, kind in enumerate(kinds):
            gap = reached[kind, name][:, 1] - reached[kind, "one member"][:, 1]
            mean, low, high = runs.mean_interval(gap.tolist())
            label = name if j == 0 else f"_{name}"
            y, colour = j + 0.17 * (i - 1.5), show.plots.PALETTE[i]
            ax.errorbar(
                mean, y, xerr=[[mean - low], [high - mean]], fmt="osD^"[i], color=colour, capsize=4, label=label
            )
    ax.axvline(0, color="#000000", linewidth=1)
    ax.set_yticks(range(len(kinds)), kinds)
    ax.invert_yaxis()
    fig.legend(loc="outside right upper")
    return fig


show.figure(
    help_of_many(),
    alt="With own labels and with own starts every rule lies above one member; with one start none does, and the "
    "sceptical rules lie below the mean.",
)

# %%
rows = []
for kind in kinds:
    for name in ("minimum", "mean − std"):
        gaps = [(reached[kind, name] - reached[kind, other])[:, 1].tolist() for other in ("mean", "one, all labels")]
        cells = ["{:+.2f} ({:+.2f} to {:+.2f})".format(*runs.mean_interval(gap)) for gap in gaps]
        rows.append((f"{kind}, {name}", *cells))
show.table(rows, ["the sceptical rules", "less the mean", "less one, all labels"], "Gold at 4 nats, paired, 95 %")

# %% [markdown]
# - **Own labels.** Their mistakes differ, and every rule gains (the mean's interval at 4 nats just holds 0). But mind
#   the row *one, all labels*: a single proxy that gets all 150 labels does as well as the mean of five that get 30
#   each. An ensemble's mean is a way to use more labels. Only the two sceptical rules do a little better than that.
#   They shy away from a word said three times over, because a disagreement about it is three times as large too. (They
#   do so by luck: none of the members can see the repetition.)
# - **A hole that all share.** Nothing helps. The sceptics do *worse* than the mean: the members quarrel about every
#   word that they have labels for, and agree about the one that they know nothing of. To a sceptic, "not" looks like
#   the safest word of all. Agreement is not knowledge.
# - **A hole, own starts.** Now there is quarrel where nobody knows anything, and all three rules cure most of it.
#
# Reward models that are fine-tuned from one pre-trained model are in the second column as far as their common
# ancestor goes. Eisenstein et al. (2023) found this at scale: ensembles over pre-training seeds beat ensembles over
# fine-tuning seeds, and neither ends hacking where all members err alike.

# %% [markdown]
# ## 6 · Stop in time
#
# The simplest cure: do not go so far. Lay the members of the Gibbs family side by side (checkpoints of a training run
# would do as well), show a few texts of each to people, and ship the one that they like best. What does it take?
#
# Let a rating be gold plus noise of standard deviation 1 (as far as one of our raters is from the panel's mean), and
# let it cost the lecture's 20 dollars. Eight candidates, $n$ ratings each; sixteen proxies of 20 pairs, twelve tries
# each.

# %%
stops = torch.tensor([0.0, 0.25, 0.5, 1.0, 1.75, 2.75, 4.0, 5.0]).double()  # KL of the candidates
candidates = at_kl(proxies[20], stops).exp()  # [16, 8, 820]
truth = candidates @ gold  # [16, 8]


def choose(n, seed, proxy):
    """Rate n texts of each candidate. The gold of the best-rated one, and what its ratings said."""
    generator = runs.generator(seed, 1000 * proxy + n)
    drawn = torch.multinomial(candidates[proxy], n, replacement=True, generator=generator)  # [8, n]
    ratings = (gold[drawn] + torch.randn(drawn.shape, generator=generator, dtype=torch.float64)).mean(1)
    chosen = ratings.argmax()
    return truth[proxy, chosen].item(), ratings[chosen].item()


best_stop = truth.max(1).values.mean().item()
rows = [("no KL price: the last candidate", truth[:, -1].mean().item(), None, None, 0)]
fixed = truth.mean(0).argmax()  # one KL for all: known only to who has gold
rows.append((f"always stop at {stops[fixed]:g} nats", truth[:, fixed].mean().item(), None, None, 0))
for n in (3, 10, 30, 100):
    got, said = torch.tensor([choose(n, s, k) for k in range(DRAWS) for s in range(12)]).T
    rows.append((f"{n} ratings each", got.mean().item(), said.mean().item(), (said - got).mean().item(), 20 * 8 * n))
rows.append(("an oracle", best_stop, None, None, None))
columns = ["stop by", "gold", "what the ratings say", "flattery", "dollars"]
show.table(rows, columns, formats={"dollars": ",.0f", "flattery": "+.2f"})
assert all(row[3] > 0 for row in rows[2:6])

# %% [markdown]
# Even a bad stopping rule beats going to the end. Two warnings come with it.
#
# - **Flattery.** The winner's ratings are too good: of eight noisy numbers the largest tends to be a lucky one.
#   Choosing is optimising too, and the ratings have become a proxy. Report the winner on *fresh* ratings.
# - Always stopping at one KL costs nothing, if somebody tells you at which. The best one differs from proxy to proxy,
#   and a handful of ratings does not find it either: the money begins to show at ten or thirty a candidate.
#
# And it is no cure of the proxy. An oracle, too, stops far below what the best texts are worth: for more gold one needs
# a better reward model, that is, labels of the texts that the *present* policy writes, and round again.

# %% [markdown]
# **Exercise 14.6 · How many ratings?** (experiment · difficulty ●●●○○ · importance ●●●○○ · 10 min)
#
# How many ratings of each candidate does it take to lose, on average, less than 0.1 of gold against the oracle? Find an
# $n$ of at most 60 for which the whole 95 % interval lies below 0.1, on sixteen new proxies. Then say how sure you are
# that five fewer would not do.

# %% tags=["exercise"]
ratings = (
    ### BEGIN SOLUTION
    50
    ### END SOLUTION
)

# %%
ratings = check("14.6", ratings)

# %% [markdown]
# ## 7 · On a language model
#
# The same experiment with the tiny model. **Gold is the panel's reward model of lesson 09, and it only stands in for
# people**: it is a model, trained on what people said, and can be fooled in its turn. To notice that there is a second
# opinion: the held-out judge, which nobody optimises and which labels nothing.
#
# Gold labels 25 pairs of the SFT policy's completions; a fresh reward model learns from them and is the proxy. All
# scores below are in standard deviations of the SFT policy's texts, so that three models with scales of their own fit
# in one picture.

# %%
sft_policy, people, judge = stages.sft_policy(), stages.panel_reward_model(), stages.judge()
pairs = experiments.shared.labelled_pairs(sft_policy, people, experiments.lesson_14.FEW, seed=4)
proxy_rm = stages.base_reward_model()
reward_model.train(proxy_rm, pairs, experiments.shared.LEARNING, runs.Run(progress=False))
first_is_better = [pair.ranks[0] == 0 for pair in pairs]
rows = [pair.texts if first else pair.texts[::-1] for pair, first in zip(pairs, first_is_better, strict=True)]
show.table(rows[:4], ["preferred by gold", "to"], caption=f"Four of {len(pairs)} labelled pairs")

# %%
prompts = reviews.openings("test", limit=24)
how = {"max_new_tokens": 24, "generator": runs.generator(4, 3)}
sampled = rollout.sample(sft_policy, prompts, samples_per_prompt=8, **how)  # the texts that set the scales
three_models = {"proxy": proxy_rm, "gold": people, "judge": judge}
score_of = {name: experiments.lesson_14.in_own_units(model, sampled) for name, model in three_models.items()}

stored = results.load("14_hacking")
kinds = [f"{n} pairs" for n in (experiments.lesson_14.FEW, experiments.lesson_14.MORE)]
for kind in kinds:
    print("proxy of {}: ρ with gold on SFT texts {:.2f} ({:.2f} to {:.2f})".format(
        kind, *runs.mean_interval(stored[kind]["correlation"])
    ))  # fmt: skip

# %% [markdown]
# The last lines are about stored proxies, four of 25 pairs and four of 200, each with its own labels and seed
# (`data/results/14_hacking.json`, which names the command that made it). Section 3 says what their ρ is worth: gold
# should start with a slope of $\sqrt2\,\rho$ over $\sqrt{\mathrm{KL}}$. Keep that for a moment.

# %% [markdown]
# **Exercise 14.7 · Every n from one set of samples** (implement · difficulty ●●●○○ · importance ●●●○○ · 15 min)
#
# Of one prompt you have $N$ sampled texts, with `proxy` `[N]` (all different) and `gold` `[N]`. Estimate the expected
# gold of the best of `n` by proxy, $n \le N$, without bias and using *all* samples: average over every set of `n`
# different samples. No need to list the sets: sort by proxy, and count in how many sets the $i$-th is the best
# (`math.comb`). By hand: proxy `[0, 1, 2]`, gold `[5, 1, 4]`, n = 2: the best have gold 1, 4 and 4, so the mean is 3.


# %% tags=["exercise"]
def best_of_n_gold(proxy, gold, n):
    """Mean gold of the best-by-proxy over all sets of n of the N samples: [N], [N] -> a number."""
    ### BEGIN SOLUTION
    size = len(proxy)
    ways = torch.tensor([math.comb(i, n - 1) for i in range(size)], dtype=gold.dtype)
    return ways @ gold[proxy.argsort()] / math.comb(size, n)
    ### END SOLUTION


# %%
best_of_n_gold = check("14.7", best_of_n_gold)

# %% [markdown]
# (`experiments.lesson_14.best_of` does it for several prompts at once; the stored runs used it.) Now RL against the
# proxy, at a KL price so low that it hardly counts. It is `reinforce.train`; gold and the judge only look on. The
# stored runs take 32 steps, yours stops sooner.
#
# > **Predict before you run.** How much of the proxy's gain will be gold's too, with 25 pairs and with 200? Will gold
# > turn?

# %%
from dataclasses import replace

policy = stages.sft_policy()
config = replace(experiments.lesson_14.HACK, steps=12, seed=4)
print(config)
live = experiments.lesson_14.overoptimise(policy, score_of, sft_policy, config, runs.Run())


# %%
def blocks(values, size=4):
    """Means of successive `size` steps, to see past the noise of 32 texts a step."""
    return [sum(values[i : i + size]) / size for i in range(0, len(values) - size + 1, size)]


def against_distance(ax, found, look, **options):
    """Draw a score of one run over √KL."""
    ax.plot([math.sqrt(max(0, v)) for v in blocks(found["KL"])], blocks(found[look["name"]]), look["line"], **options)


@show.style()
def over_distance():
    fig, axes = show.new_figure("√KL to the SFT policy", size=(10.5, 4.4), panels=2)
    tries = [math.sqrt(best_of_n.kl_bound(n)) for n in experiments.lesson_14.TRIES]
    looks = [{"name": "proxy", "line": "--", "marker": "s"}, {"name": "gold", "line": "-", "marker": "o"}]
    for ax, kind in zip(axes, kinds, strict=True):
        for look, colour in zip(looks, show.plots.PALETTE[1::-1], strict=True):
            name, runs_of = look["name"], stored[kind]["RL"]
            for k in range(4):
                one = {key: runs_of[key][k] for key in (name, "KL")}
                against_distance(ax, one, look, color=colour, lw=1.3, label="_" if k else f"{name}, four runs of RL")
            filtered = torch.tensor(stored[kind]["best of n"][name]).mean(0)
            ax.plot(tries, filtered, look["marker"], color=colour, label=f"{name}, best of 1, 2, 4, … 32")
            if ax is axes[0]:
                against_distance(ax, live, look, color="#000000", marker="x", label=f"{name}, your run")
        ax.axhline(0, color="#000000", linewidth=0.8)
        ax.set_title(f"proxy of {kind}", loc="left")
    axes[0].set_ylabel("standard deviations of SFT texts")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


# %%
show.figure(
    over_distance(),
    alt="The proxies rise by two to five standard deviations. Gold follows at a distance: with 200 pairs in all four "
    "runs; with 25 it stays near 0 for long and ends anywhere between 0 and 1.6. It does not turn.",
)
assert blocks(live["proxy"])[-1] > blocks(live["proxy"])[0]

# %%
rows = []
for kind in kinds:
    for name in ("proxy", "gold", "judge", "KL"):
        ends = [sum(run[-8:]) / 8 for run in stored[kind]["RL"][name]]
        rows.append((f"{kind}, {name}", *runs.mean_interval(ends)))
show.table(
    rows,
    ["", "last 8 of 32 steps", "95 % from", "to"],
    caption="Four stored runs of RL each, in standard deviations of SFT texts (KL: nats)",
)
late = {row[0]: row[1:] for row in rows}
assert min(late[f"{kind}, proxy"][1] for kind in kinds) > 0 and late[f"{kinds[1]}, gold"][1] > 0
assert late[f"{kinds[0]}, gold"][1] < 0  # with 25 pairs four runs cannot tell gold's gain from 0
assert late[f"{kinds[1]}, judge"][1] > 0

# %% [markdown]
# - **200 pairs**: gold rises in every run, by about half of what the proxy claims.
# - **25 pairs**: the proxy is nearly as pleased, and gold's interval holds 0. From the proxy's gain you could not tell
#   in which of the two cases you are.
# - **Gold does not turn** within these 32 steps. That is not what Gao et al. show, and not what the micro world led us
#   to expect. Wait for the explanation until you have read the texts.
#
# And what about the slope that section 3 promised?

# %%
rows, reach = [], math.sqrt(best_of_n.kl_bound(experiments.lesson_14.TRIES[-1]))
for kind in kinds:
    rho = sum(stored[kind]["correlation"]) / 4
    filtered = [run[-1] for run in stored[kind]["best of n"]["gold"]]
    early = [blocks(run)[1] for run in stored[kind]["RL"]["gold"]]  # steps 4 to 7
    spent = [blocks(run)[1] for run in stored[kind]["RL"]["KL"]]
    cells = ["{:.2f} ({:.2f} to {:.2f})".format(*runs.mean_interval(v)) for v in (filtered, early, spent)]
    rows.append((kind, math.sqrt(2) * rho * reach, *cells))
    assert runs.paired_interval(filtered, early)[0] > 0
show.table(
    rows,
    ["proxy", "√2·ρ·√KL at 2.5 nats", "gold, best of 32 (≤ 2.5 nats)", "gold, RL, steps 4 to 7", "its KL"],
    caption="Four seeds, 95 % intervals",
)

# %% [markdown]
# One number, the correlation on texts of the SFT policy, tells roughly what the best of 32 will gain. RL has spent more
# nats by its eighth step and has less gold to show; one reason is that its gradients come from 32 texts each, and what
# is noise in them costs nats too. Lesson 10 said it already: in nats, a filter is hard to beat.
#
# Now read what 32 steps of RL write, aloud if you can.

# %%
openings = [reviews.LECTURE_OPENING, *reviews.openings("test", limit=3)]
authors = [("SFT", "SFT", 0), *((f"RL, 25 pairs, run {k + 1}", kinds[0], k) for k in range(4))]
authors += [(f"RL, 200 pairs, run {k + 1}", kinds[1], k) for k in (0, 3)]
rows = [(name, *(stored[kind]["texts"][k][i] for i in (0, 2))) for name, kind, k in authors]
show.table(rows, ["author", *(f"{openings[i]} …" for i in (0, 2))], caption="One sample each, after 32 steps of RL")

# %% [markdown]
# Every proxy of 25 pairs has a tic of its own, whatever its few winners had in common: "the best of the best of the
# film", "performances by", "funny", or a string of invented names. With 200 pairs the tic is praise itself, which is
# at least what was meant, without a sentence around it. None of this is a review.
#
# **And gold applauds.** With 200 pairs it scores such texts far above the SFT policy's, and the judge, which took no
# part, agrees. So here is the likeliest reason why gold did not turn: it is being hacked as well. It was trained on
# whole sentences that people wrote, never saw a heap of adjectives, and calls it very positive. Nor is the judge a
# second opinion in this. Gold, judge and every proxy were fine-tuned from one pre-trained model: the second column of
# section 5. To know, one would have to ask people; would you have turned?
#
# Two gauges did not need any reward model. The KL: 40 nats on 24 tokens would make the average token $e^{40/24}$, or
# five, times as likely as the SFT policy finds it. And your eyes.

# %% [markdown]
# ## Recap
#
# - Along the Gibbs family of a proxy the proxy always rises; gold rises, turns and falls. It is what was asked for.
# - $d\,\mathbb{E}[\text{gold}]/d(1/\beta) = \operatorname{Cov}(\text{gold}, \text{proxy})$ under the *present* policy.
#   Accuracy on the reference's texts is a statement about the first step.
# - More labels cure noise. What the proxy cannot see stays unseen.
# - Best-of-n's KL is at most $\log n - \frac{n-1}{n}$, less where draws tie. At equal KL it had less proxy than Gibbs,
#   and here more gold.
# - Ensembles cure mistakes that differ. Where all members share a hole, sceptical rules walk into it.
# - Stop early, at a KL that fresh gold labels choose; then label the new policy's texts and go round again.
# - A gold model is a proxy too. Read the texts.
#
# | Claim | Section, exercise |
# |---|---|
# | Gao et al. 2022, arXiv 2210.10760: gold over $\sqrt{\mathrm{KL}}$, by number of labels | 2, 7 |
# | Korbak et al. 2022, arXiv 2205.11275: the optimum is $\pi_\text{ref}\,e^{R/\beta}/Z$ | 2, `tilted` |
# | $d\,\mathbb{E}[\text{gold}]/d(1/\beta)$ is a covariance; first slope $\sqrt2\,\rho\,\sigma$ | 3, 14.2 |
# | Beirami et al. 2024, arXiv 2401.01879: KL of best-of-n $\le \log n - \frac{n-1}{n}$ | 4 |
# | Coste et al. 2023, arXiv 2310.02743: mean, minimum, mean less spread | 5, `rules` |
# | Eisenstein et al. 2023, arXiv 2312.09244: shared mistakes survive an ensemble | 5, second column |
# | Nakano et al. 2021, arXiv 2112.09332, appendix I: every $n$ from $N$ samples | 7, 14.7 |
#
# <details><summary><b>Optional: four kinds of Goodhart</b></summary>
#
# Manheim and Garrabrant (2018, arXiv 1803.04585) sort them. *Regressional*: choosing the highest proxy chooses lucky
# noise as well; that is the flattery of section 6, and best-of-n's main trouble. *Extremal*: far out the relation that
# held near the reference no longer holds, as with three times "great". *Causal*: proxy and gold share a cause, and
# pushing the proxy does not push it. *Adversarial*: somebody else optimises against your proxy. RL against a reward
# model meets the first two at once.
# </details>
#
# <details><summary><b>Optional: what else is done about it</b></summary>
#
# Collect labels on the present policy's texts and retrain (Llama 2 did it weekly). Bound the reward, so that a few huge
# scores do not pay. Average the weights of several reward models (WARM, Ramé et al. 2024, arXiv 2401.12187). Use a
# checkable reward where there is one: a unit test cannot be flattered, though it can be special-cased.
# </details>

# %%
quiz(
    "The reward model orders 90 % of held-out pairs of the SFT policy's texts correctly. What does that say about RL "
    "against it?",
    {
        "That RL can be run until the reward stops rising": "The reward always rises: its slope is its own variance.",
        "How gold starts, not where it turns": "Accuracy on the reference's texts is a statement about the covariance "
        "there. The covariance that decides is the one under the policy you have reached.",
        "Nothing at all": "It tells about the first stretch, which may be the one you want to use.",
    },
    correct="How gold starts, not where it turns",
)
quiz(
    "Five reward models, fine-tuned from one base with different seeds, agree closely on a strange new text. Is its "
    "reward to be trusted?",
    {
        "Yes: five opinions beat one": "Five opinions with one source may be one opinion.",
        "Yes, if the minimum is used": "If all are wrong alike, so is the lowest.",
        "Only if their mistakes would differ": "Agreement tells about noise that differs between members. Where no "
        "label ever spoke and all began alike, they agree on what they began with.",
    },
    correct="Only if their mistakes would differ",
)
quiz(
    "Best of 64 with a reward that is 1 if a unit test passes and 0 if not; half of all samples pass. Its KL?",
    {
        "log 64 − 63/64, about 3.2 nats": "That is the bound without ties. Here nearly everything ties.",
        "About log 2": "The filter keeps the passing half: each of its texts becomes twice as likely, whatever n.",
        "0, for nothing was trained": "A filter changes the distribution of what is shown.",
    },
    correct="About log 2",
)

# %% [markdown]
# **Next:** 15 · Language agents: the reward comes from a game in which words are deeds, and nobody needs to be asked.
