"""Exercises of lesson 12: NLPO."""

import math

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_number, draw_tensor


# 12.1 the mask
def _scored_words(generator):
    heights = torch.tensor([0.0, 0.2, 0.5, 1.4, 1.5, 2.2])  # no two alike
    logits = torch.stack([heights[torch.randperm(6, generator=generator)] for _ in range(3)])
    end = logits[0].argmin().item()  # in the first row the end is the least likely of all
    return logits, draw_number(generator, 0.5, 0.8), end


def _mask(logits, top_p, end):
    from rlhf_lib.algorithms.nlpo import nucleus

    allowed = nucleus(logits, top_p)
    allowed[:, end] = True
    return allowed


def _with_end(allowed, end):
    allowed[:, end] = True
    return allowed


def _end_banned(logits, top_p, end):
    from rlhf_lib.algorithms.nlpo import nucleus

    return nucleus(logits, top_p)


def _crossing_dropped(logits, top_p, end):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    keep = probability.cumsum(-1) <= top_p
    return _with_end(torch.zeros_like(keep).scatter(-1, order, keep), end)


def _in_sorted_order(logits, top_p, end):
    probability = logits.softmax(-1).sort(-1, descending=True).values
    return _with_end(probability.cumsum(-1) - probability < top_p, end)


def _unsorted(logits, top_p, end):
    probability = logits.softmax(-1)
    return _with_end(probability.cumsum(-1) - probability < top_p, end)


def _by_height(logits, top_p, end):
    return _with_end(logits.softmax(-1) >= 1 - top_p, end)


def _tail_kept(logits, top_p, end):
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    keep = probability.cumsum(-1) - probability >= top_p
    return _with_end(torch.zeros_like(keep).scatter(-1, order, keep), end)


# 12.3 log-probs under a stored mask
def _masked_words(generator):
    logits, tokens = draw_tensor(generator, 2, 3, 5), torch.randint(5, (2, 3), generator=generator)
    allowed = torch.rand(2, 3, 5, generator=generator) < 0.5
    first = torch.randint(5, (2, 3, 1), generator=generator)  # a second word, so that there is a choice
    allowed = allowed.scatter(-1, tokens[..., None], True).scatter(-1, first, True)
    allowed[0, 0] = torch.arange(5) != (tokens[0, 0] + 1) % 5
    return logits, tokens, allowed


def _pick(table, tokens):
    return table.gather(-1, tokens[..., None]).squeeze(-1)


def _masked_logprobs(logits, tokens, allowed):
    return _pick(logits.masked_fill(~allowed, -math.inf).log_softmax(-1), tokens)


def _not_renormalised(logits, tokens, allowed):
    return _pick(logits.log_softmax(-1).masked_fill(~allowed, -math.inf), tokens)


def _zero_for_banned(logits, tokens, allowed):
    return _pick((logits * allowed).log_softmax(-1), tokens)


def _shifted_mask(logits, tokens, allowed):
    return _masked_logprobs(logits, tokens, torch.cat([allowed[:, 1:], allowed[:, -1:]], 1))


def _allowed_share(logits, tokens, allowed):
    total = logits.logsumexp(-1)
    return _pick(logits, tokens) - total + logits.masked_fill(~allowed, -math.inf).logsumexp(-1) - total


# 12.4 the mean of ∇log π under the mask
def _choice(generator):
    p = draw_tensor(generator, 5).softmax(-1)
    return p, torch.tensor([True, False, True, True, False])[torch.randperm(5, generator=generator)]


def _masked_p(p, allowed):
    return p * allowed / (p * allowed).sum()


# 12.5 the KL of the masked policy
def _two_policies(generator):
    allowed = torch.rand(3, 5, generator=generator) < 0.5
    allowed[:, 0], allowed[:, 4] = True, False
    return draw_tensor(generator, 3, 5), draw_tensor(generator, 3, 5), allowed


def _masked_kl(logits, ref_logits, allowed):
    log_pi = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    return (log_pi.exp() * torch.where(allowed, log_pi - ref_logits.log_softmax(-1), 0.0)).sum(-1)


def _kl_of_unmasked_logprobs(logits, ref_logits, allowed):
    weights = logits.masked_fill(~allowed, -math.inf).softmax(-1)
    return (weights * (logits.log_softmax(-1) - ref_logits.log_softmax(-1))).sum(-1)


def _kl_times_infinity(logits, ref_logits, allowed):
    log_pi = logits.masked_fill(~allowed, -math.inf).log_softmax(-1)
    return (log_pi.exp() * (log_pi - ref_logits.log_softmax(-1))).sum(-1)


def _kl_part(logits, ref_logits, allowed):
    log_pi = logits.log_softmax(-1)
    return (log_pi.exp() * (log_pi - ref_logits.log_softmax(-1)) * allowed).sum(-1)


def _kl_without_mask(logits, ref_logits, allowed):
    return _masked_kl(logits, ref_logits, torch.ones_like(allowed))


# 12.6 a mask against a trap
BAR = 0.5  # true score to reach, by the interval's worse end

HABIT = {"great": 0.3, "good": 1.0, "dull": 2.0, "bad": 2.0, "awful": 1.6, "very": 1.3, "not": -0.8, "and": 1.9}
HABIT |= {"but": -0.7, ".": 1.5}  # logits of a policy that has learnt to write sour reviews, in every state


def habitual_policy():
    """A table over "awful" and three more words; in each state "dull" has 19 %, "but" and "not" 1 % each."""
    from rlhf_lib import models, reviews

    world = reviews.micro_mdp(horizon=3)
    policy = models.TablePolicy(world).double()
    policy.logits.data += torch.tensor([HABIT[word] for word in world.actions], dtype=torch.float64)
    return world, policy


def trapped_score(world, tokens, mask):
    """The true score, and 3 too many for each "not"."""
    return world.reward(tokens, mask) + 3.0 * ((tokens == world.actions.index("not")) & mask).sum(1)


def masked_run(top_p: float, seed: int, steps: int = 60, batch: int = 128, mask_every: int = 5) -> float:
    """True exact score after sampled policy gradient among the top-p words, rewarded by `trapped_score`."""
    from rlhf_lib import losses, mdp
    from rlhf_lib.algorithms.nlpo import nucleus

    (world, policy), generator = habitual_policy(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.15)

    def masked(tokens):
        banned = {"logits": policy.logits.masked_fill(~allowed, -math.inf)}
        return torch.func.functional_call(policy, banned, (tokens,))

    for step in range(steps):
        if step % mask_every == 0:
            allowed = _with_end(nucleus(policy.logits.detach(), top_p), world.eos)
        tokens, mask = mdp.sample_episodes(world, masked, batch, generator)
        scores = trapped_score(world, tokens, mask)
        others = (scores.sum() - scores) / (batch - 1)
        optimizer.zero_grad()
        logprobs = mdp.action_logprobs(world, masked, tokens, mask)
        losses.policy_gradient_loss(logprobs, scores - others, mask).backward()
        optimizer.step()
    with torch.no_grad():
        return mdp.exact_objective(world, masked).item()


def _escapes(top_p) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if not 0 < float(top_p) <= 1:
        return False, "p must be above 0 and at most 1: it is a probability."
    score, low, high = mean_interval([masked_run(float(top_p), seed) for seed in range(100, 104)])
    said = f"On 4 new seeds the true score is {score:.2f} (95 % interval {low:.2f} to {high:.2f}; the bar is {BAR})."
    return low > BAR, said


EXERCISES = [
    Exercise(
        id="12.1",
        title="The likeliest words, and the end",
        kind="implement",
        difficulty=3,
        importance=5,
        minutes=15,
        reference=_mask,
        inputs=_scored_words,
        mistakes={
            "crossing word dropped": Mistake(
                "The word with which the sum reaches p is missing. What would you allow in a state where the likeliest "
                "word alone has more than p?",
                _crossing_dropped,
            ),
            "end banned": Mistake(
                "The end token is allowed only where it happens to be likely. A text that must not end runs into the "
                "length limit.",
                _end_banned,
            ),
            "left in sorted order": Mistake(
                "The flags are those of the sorted words: column 0 stands for the likeliest word, not for word 0. Put "
                "them back where they came from.",
                _in_sorted_order,
            ),
            "never sorted": Mistake(
                "The probabilities are added up in the vocabulary's order. That allows the first words of the "
                "dictionary, likely or not.",
                _unsorted,
            ),
            "a bar for each word": Mistake(
                "Each word is compared with a fixed bar by itself. Top-p is about a sum: many small probabilities "
                "together may be worth keeping.",
                _by_height,
            ),
            "the tail": Mistake("These are the words to leave out: the flags are upside down.", _tail_kept),
        },
        hint="Sort, add up, and for each word ask what had been collected before it came.",
    ),
    Exercise(
        id="12.2",
        title="The first ratio",
        kind="predict",
        difficulty=2,
        importance=5,
        minutes=4,
        choices=("exactly 1", "below 1", "above 1"),
        reference="below 1",
        mistakes={
            "exactly 1": Mistake(
                "It is the same policy, but not the same distribution. Which of the two probabilities has been divided "
                "by the share of the allowed words?",
                "exactly 1",
            ),
            "above 1": Mistake(
                "The other way round: under the mask the allowed words share everything, so each has more.", "above 1"
            ),
        },
        remark="It is Z(s), the probability of the allowed words: for every word of a state the same, and at least p.",
    ),
    Exercise(
        id="12.3",
        title="Probabilities that do not add up",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=10,
        reference=_masked_logprobs,
        inputs=_masked_words,
        mistakes={
            "as given": Mistake(
                "Still not renormalised: in each state the probabilities of the allowed words add up to Z(s), not to "
                "1. At which point do the banned words have to go?",
                _not_renormalised,
            ),
            "zero for banned": Mistake(
                "A banned word has the logit 0 here, and so the weight e⁰ = 1: it still takes part. Which logit gives "
                "the weight 0?",
                _zero_for_banned,
            ),
            "mask shifted": Mistake(
                "Each word is judged by the mask of the next position, which belongs to another state.", _shifted_mask
            ),
            "Z on the wrong side": Mistake(
                "You have multiplied by Z(s). The allowed words must come out likelier than before, not rarer.",
                _allowed_share,
            ),
        },
        hint="exp of the result, added up over the allowed words of one state, must be 1.",
    ),
    Exercise(
        id="12.4",
        title="A pull out of nothing",
        kind="derive",
        difficulty=4,
        importance=4,
        minutes=12,
        reference=lambda p, allowed: _masked_p(p, allowed) - p,
        inputs=_choice,
        mistakes={
            "zero": Mistake(
                "E[∇log π] = 0 needs words drawn from π itself. These are drawn from its masked version.",
                lambda p, allowed: torch.zeros_like(p),
            ),
            "sign": Mistake(
                "The sign: words inside the mask are drawn too often for π, so they are pushed up.",
                lambda p, allowed: p - _masked_p(p, allowed),
            ),
            "not renormalised": Mistake(
                "The weights of the words drawn do not add up to 1.", lambda p, allowed: p * allowed - p
            ),
            "own softmax only": Mistake(
                "That is the distribution the words are drawn from. ∇log π(a) has a second part, the same for every a.",
                _masked_p,
            ),
        },
        hint="∇log π(a) with respect to the logits is (1 at a, 0 elsewhere) − p. Average it over the masked policy.",
    ),
    Exercise(
        id="12.5",
        title="The KL to report",
        kind="implement",
        difficulty=3,
        importance=4,
        minutes=12,
        reference=_masked_kl,
        inputs=_two_policies,
        mistakes={
            "unmasked log-probs": Mistake(
                "The words are weighed by the masked policy, but the logarithm is of the unmasked one. That is no KL: "
                "it may be negative.",
                _kl_of_unmasked_logprobs,
            ),
            "reference masked": Mistake(
                "The reference has been masked too. It was never asked to keep to our mask, and its words outside "
                "belong in the price.",
                lambda logits, ref_logits, allowed: _masked_kl(logits, ref_logits.masked_fill(~allowed, -1e9), allowed),
            ),
            "−∞ · 0": Mistake(
                "NaN: a banned word has log-probability −∞ and weight 0, and −∞ · 0 is not 0. Leave these words out "
                "before you multiply.",
                _kl_times_infinity,
            ),
            "not renormalised": Mistake(
                "Only the allowed words are summed, but with the probabilities they had before the others were banned.",
                _kl_part,
            ),
            "no mask": Mistake("This is KL(π‖ref) of the unmasked policy. Nobody samples from it.", _kl_without_mask),
        },
        hint="Write the masked log-probs first, then Σ over the allowed words only.",
    ),
    Exercise(
        id="12.6",
        title="A mask against a trap",
        kind="experiment",
        difficulty=3,
        importance=4,
        minutes=10,
        reference=0.9,
        accept=_escapes,
        mistakes={
            "everything allowed": Mistake('At p = 1 "not" is there to be found, and with it the trap.', 1.0),
            "hardly anything allowed": Mistake("At p = 0.6 the good words are banned together with the trap.", 0.6),
        },
        hint="Look at which words the first mask allows at each p, and at what is the best text they can make.",
    ),
    Exercise(
        id="12.7",
        title="Counting positions",
        kind="predict",
        difficulty=2,
        importance=3,
        minutes=6,
        reference=716_800,
        mistakes={
            "one pass": Mistake("That is one pass over the roll-out. How often is it gone through?", 143_360),
            "without the prompt": Mistake(
                "The sample of one word is the whole text before it, its prompt included.", 1280 * 48 * 5
            ),
            "each text once": Mistake(
                "That is what is needed if each text goes through the model once a pass. Here each *word* is a sample "
                "of its own.",
                15_120,
            ),
            "words": Mistake("Those are the words that are learnt from, not the positions evaluated.", 1280 * 5),
        },
        hint="Samples × positions of each × passes.",
    ),
]
