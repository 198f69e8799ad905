"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290): preferences train the policy itself.

Among all policies, the best for a reward r at a price β of KL is π ∝ π_ref · exp(r/β); so a policy tells its reward,
β·log(π/π_ref), and Bradley–Terry on that reward needs no reward model and no samples. Written like `sft`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lib.losses import dpo_loss
from rlhf_lib.models import Policy
from rlhf_lib.processes import clip_gradients, weight
from rlhf_lib.rollout import from_texts, score
from rlhf_lib.runs import Run, check_finite, shuffled_batches


@dataclass(frozen=True)
class Config:
    epochs: int = 1  # passes over the pairs
    batch_size: int = 32  # pairs an update
    microbatch: int = 16  # pairs a forward and backward pass, those of like length together; changes memory alone
    beta: float = 0.1  # the price of a nat of KL at which the policy would be the best one
    lr: float = 5e-5  # Adam's learning rate, falling linearly to 0
    max_grad_norm: float = 1.0  # gradients longer than this are shortened to it
    seed: int = 0  # decides the order of the pairs


def train(
    policy: Policy,
    pairs: Sequence[tuple[str, str, str]],
    reference: Policy,
    config: Config | None = None,
    run: Run | None = None,
) -> Run:
    """Fit `policy`, in place, to pairs (prompt, chosen completion, rejected completion).

    The prompt is tokenised once for both, log-probabilities are summed over a completion and its end token. Returns the
    run, whose history holds loss (nats a pair), accuracy (share of pairs that the implicit reward orders right), margin
    (of the implicit rewards), and chosen and rejected: the mean change of their log-probability from the reference's.
    """
    config, run = config or Config(), run or Run()
    if reference is policy:
        raise ValueError("the reference must not change while the policy trains: load it a second time")
    parameters = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.lr, fused=True)
    batches = shuffled_batches(len(pairs), config.batch_size, config.epochs, config.seed)
    run.track(config, policy=policy, optimizer=optimizer)

    for step in run.steps(len(batches)):
        batch = sorted((pairs[i] for i in batches[step]), key=lambda pair: max(len(text) for text in pair[1:]))
        optimizer.param_groups[0]["lr"] = config.lr * (1 - step / len(batches))
        optimizer.zero_grad()
        losses, changes = [], []
        for part in (batch[k : k + config.microbatch] for k in range(0, len(batch), config.microbatch)):
            new = text_logprobs(policy, part)
            with torch.no_grad():
                ref = text_logprobs(reference, part)
            loss = dpo_loss(*new, *ref, config.beta) * len(part) / len(batch)
            (weight(len(batch)) * loss).backward()
            losses.append(loss.detach())
            changes.append((new - ref).detach())
        norm = clip_gradients(parameters, config.max_grad_norm)
        check_finite(step, loss=sum(losses), gradient=norm)
        optimizer.step()

        chosen, rejected = torch.cat(changes, 1)
        run.log(
            step,
            loss=sum(losses),
            accuracy=(chosen > rejected).float().mean(),
            margin=config.beta * (chosen - rejected).mean(),
            chosen=chosen.mean(),
            rejected=rejected.mean(),
        )
    return run


def text_logprobs(policy: Policy, pairs: Sequence[tuple[str, str, str]]) -> Tensor:
    """Log-probabilities [2, N] of the chosen and of the rejected completions, each summed over its tokens."""
    both = [(prompt, chosen) for prompt, chosen, _ in pairs] + [(prompt, rejected) for prompt, _, rejected in pairs]
    return score(policy, from_texts(policy, both)).logprobs.sum(1).view(2, -1)
