"""Sampling completions and scoring them again: the two places where off-by-one errors in RLHF live.

Prompts are padded on the left and completions on the right, so column 0 of `tokens` is every row's first generated
token. Masks come from lengths, never from comparing ids with the pad's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from rlhf_lib import processes
from rlhf_lib.losses import token_logprobs
from rlhf_lib.models import Policy, check_length, encode_prompt, encode_text


@dataclass(frozen=True)
class Rollout:
    """Completions sampled from a policy, with what is needed to compute with them again.

    prompt_ids [B, P] long, prompt_mask [B, P] bool: left-padded. tokens [B, T] long, mask [B, T] bool: right-padded,
    T the longest; the end token is an action and is masked in. logprobs [B, T]: of the distribution sampled from, 0
    where the mask is False. finished [B] bool: the end token was drawn, at the last step included. temperature: 0 is
    greedy. samples_per_prompt: rows of a prompt are contiguous. allowed: uint8 [B, T, ⌈V/8⌉], one bit an action, or
    None. tokenizer: turns ids into text. observed [B, T] bool or None: tokens between the actions that were read, not
    drawn, such as a game's answers. Indexing (a slice, a tensor, a list) picks rows.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    finished: Tensor
    temperature: float = 1.0
    samples_per_prompt: int = 1
    allowed: Tensor | None = None
    tokenizer: object = None
    observed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows) -> "Rollout":
        if isinstance(rows, int):
            row = range(len(self))[rows]  # beyond the end an IndexError, which is what ends a for loop over rows
            rows = slice(row, row + 1)
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{key: value[rows] for key, value in tensors.items() if isinstance(value, Tensor)})

    @property
    def real(self) -> Tensor:
        """bool [B, T]: the tokens that are no padding."""
        return self.mask if self.observed is None else self.mask | self.observed

    @property
    def lengths(self) -> Tensor:
        """Number of generated tokens [B], the end token included."""
        return self.mask.sum(1)

    def sequences(self) -> list[list[int]]:
        """Token ids of each row, prompt and completion without any padding."""
        ids = torch.cat([self.prompt_ids, self.tokens], 1).tolist()
        keep = torch.cat([self.prompt_mask, self.real], 1).tolist()
        return [[i for i, k in zip(row, flags, strict=True) if k] for row, flags in zip(ids, keep, strict=True)]

    def prompts(self) -> list[str]:
        """The prompts as text, special tokens left out."""
        return self._text(self.prompt_ids, self.prompt_mask)

    def completions(self) -> list[str]:
        """The completions as text, special tokens left out, each with the space that parts it from its prompt."""
        own, prompts = self._text(self.tokens, self.real), self.prompts()
        # some tokenizers decode a first word without its space, so the completion is cut out of the whole text
        whole = self._text(torch.cat([self.prompt_ids, self.tokens], 1), torch.cat([self.prompt_mask, self.real], 1))
        return [
            text[len(prompt) :] if text.startswith(prompt) else alone
            for text, prompt, alone in zip(whole, prompts, own, strict=True)
        ]

    def _text(self, ids: Tensor, mask: Tensor) -> list[str]:
        if self.tokenizer is None:
            raise ValueError("this roll-out carries no tokenizer: pass tokenizer=model.tokenizer when making it")
        rows = [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]
        return self.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class Scores(NamedTuple):
    """logprobs [B, T] and values [B, T] (None without a value head); 0 where the roll-out's mask is False."""

    logprobs: Tensor
    values: Tensor | None


@torch.no_grad()
def sample(
    model: Policy,
    prompts: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    samples_per_prompt: int = 1,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    action_mask: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Rollout:
    """Sample completions from the model's full distribution.

    A prompt's samples share its prefill, and finished rows leave the batch, so they cost nothing. One uniform number
    a row and step, drawn on the generator's device, decides each token: a row's completion does not depend on which
    other rows have finished.

    Args:
        model: a `Policy`. prompts: strings (raw, with the start token where the model's tokenizer adds one) or lists
            of ids; an empty one is a ValueError.
        max_new_tokens: a row that has not drawn the end token by then is cut off (`finished` False).
        samples_per_prompt: rows of a prompt are contiguous.
        temperature: > 0 divides the logits; 0 takes the likeliest token and returns log-probs at temperature 1.
        generator: a torch.Generator on the CPU for reproducible samples; None uses torch's global one.
        action_mask: called as action_mask(ids [b, t], attention_mask [b, t], rows [b]) with the rows still going;
            returns bool [b, V], True = allowed. A row of all False is a ValueError.
    Returns:
        Rollout with B = len(prompts) · samples_per_prompt rows.
    """
    if max_new_tokens < 1 or samples_per_prompt < 1:
        raise ValueError("max_new_tokens and samples_per_prompt must be at least 1")
    if not temperature >= 0:
        raise ValueError(f"temperature {temperature}: use 0 for greedy decoding, or a positive number")
    if not prompts or isinstance(prompts, str):
        raise ValueError("prompts must be a list with at least one prompt, such as [prompt]")
    device, end = model.device, model.tokenizer.eos_token_id
    prompt_ids, prompt_mask = pad_left(
        [encode_prompt(model.tokenizer, p) for p in prompts], model.tokenizer.pad_token_id
    )
    prompt_ids, prompt_mask = prompt_ids.to(device), prompt_mask.to(device)
    check_length(model, prompt_ids.shape[1] + max_new_tokens)

    cache = DynamicCache()
    logits = model(prompt_ids, prompt_mask, last=1, cache=cache)[0][:, -1]
    if samples_per_prompt > 1:
        cache.batch_repeat_interleave(samples_per_prompt)
        prompt_ids, prompt_mask, logits = (
            x.repeat_interleave(samples_per_prompt, 0) for x in (prompt_ids, prompt_mask, logits)
        )
    rows = torch.arange(len(prompt_ids), device=device)  # the rows still going
    ids, attention = prompt_ids, prompt_mask
    tokens = torch.full((len(rows), max_new_tokens), model.tokenizer.pad_token_id, device=device)
    mask = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
    logprobs = torch.zeros(tokens.shape, dtype=logits.dtype, device=device)
    finished = torch.zeros(len(rows), dtype=torch.bool, device=device)
    allowed = None
    if action_mask is not None:
        allowed = torch.zeros((*tokens.shape, (logits.shape[-1] + 7) // 8), dtype=torch.uint8, device=device)

    for t in range(max_new_tokens):
        logits = logits / (temperature or 1.0)
        if action_mask is not None:
            may = action_mask(ids, attention, rows)
            _check_allowed(may, logits)
            allowed[rows, t] = pack_bits(may)
            logits = logits.masked_fill(~may, -torch.inf)
        log_probs = logits.log_softmax(-1)
        uniform = torch.rand(
            len(tokens), generator=generator, dtype=torch.float64, device=generator.device if generator else "cpu"
        )
        drawn = log_probs.argmax(-1) if temperature == 0 else draw(log_probs, uniform[rows.to(uniform.device)])
        tokens[rows, t], mask[rows, t] = drawn, True
        logprobs[rows, t] = log_probs.gather(1, drawn[:, None]).squeeze(1)
        going = drawn != end
        finished[rows[~going]] = True
        if t + 1 == max_new_tokens or not going.any():
            break
        ids, attention = (
            torch.cat([ids, drawn[:, None]], 1),
            torch.cat([attention, torch.ones_like(attention[:, :1])], 1),
        )
        if not going.all():
            cache.batch_select_indices(going.nonzero().squeeze(1))
            rows, ids, attention = rows[going], ids[going], attention[going]
        logits = model(ids[:, -1:], attention, last=1, cache=cache)[0][:, -1]

    length = int(mask.sum(1).max())
    return Rollout(
        prompt_ids,
        prompt_mask,
        tokens[:, :length],
        mask[:, :length],
        logprobs[:, :length],
        finished,
        temperature,
        samples_per_prompt,
        None if allowed is None else allowed[:, :length],
        model.tokenizer,
    )


def score(model: Policy, rollout: Rollout) -> Scores:
    """Log-probs and values of a roll-out's tokens under `model`: teacher-forced, one forward a sequence.

    At the roll-out's temperature (1 where it was greedy) and under its stored action mask, so that for the policy
    that sampled it the log-probs are those of `sample`. Differentiable. The logits at position P−1 … end−1 score the
    completion; V at t is the value of the state before token t.
    """
    device, width = model.device, rollout.tokens.shape[1]
    ids = torch.cat([rollout.prompt_ids, rollout.tokens], 1).to(device)
    attention = torch.cat([rollout.prompt_mask, rollout.real], 1).to(device)
    mask, tokens = rollout.mask.to(device), rollout.tokens.to(device)
    logits, values = model(ids[:, :-1], attention[:, :-1], last=width)
    if rollout.temperature not in (0, 1):
        logits = logits / rollout.temperature
    if rollout.allowed is not None:
        may = unpack_bits(rollout.allowed.to(device), logits.shape[-1]) | ~mask[..., None]
        logits = logits.masked_fill(~may, -torch.inf)
    logprobs = torch.where(mask, token_logprobs(logits, tokens), 0.0)
    return Scores(logprobs, None if values is None else torch.where(mask, values, 0.0))


def from_texts(model: Policy, pairs: Sequence[tuple[str, str]]) -> Rollout:
    """Demonstrations (prompt, completion) as a finished roll-out, to be scored like a sampled one; log-probs are 0.

    The prompt is tokenised alone, as it is when sampling, and one end token closes the completion.
    """
    end = model.tokenizer.eos_token_id
    prompts = [encode_prompt(model.tokenizer, prompt) for prompt, _ in pairs]
    completions = [[*encode_text(model.tokenizer, text, add_special_tokens=False), end] for _, text in pairs]
    check_length(model, max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True)))
    pad = model.tokenizer.pad_token_id
    prompt_ids, prompt_mask = pad_left(prompts, pad)
    flipped, flipped_mask = pad_left([row[::-1] for row in completions], pad)
    tokens, mask = flipped.flip(1), flipped_mask.flip(1)
    device, finished = model.device, torch.ones(len(tokens), dtype=torch.bool)
    logprobs = torch.zeros(tokens.shape)
    tensors = (x.to(device) for x in (prompt_ids, prompt_mask, tokens, mask, logprobs, finished))
    return Rollout(*tensors, tokenizer=model.tokenizer)


def pad_left(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token lists as ids [B, P] padded on the left, and the bool mask of real tokens."""
    lengths = torch.tensor([len(row) for row in rows])
    width = int(lengths.max())
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    return ids, torch.arange(width) >= width - lengths[:, None]


def prompt_batch(prompts: Sequence[str], step: int, size: int, seed: int = 0) -> list[str]:
    """The `size` prompts of a step: shuffled passes over all of them, a function of seed and step alone.

    So a resumed run goes on with the very prompts that the interrupted one would have used. One of several processes
    gets its share of them.
    """
    if not prompts:
        raise ValueError("no prompts: give at least one")
    batch = []
    for position in range(step * size, (step + 1) * size):
        epoch, place = divmod(position, len(prompts))
        if place == 0 or not batch:
            order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        batch.append(prompts[order[place]])
    return processes.share(batch)


def pack_bits(flags: Tensor) -> Tensor:
    """bool [..., V] -> uint8 [..., ⌈V/8⌉], the first flag in the lowest bit."""
    padded = torch.nn.functional.pad(flags.to(torch.uint8), (0, -flags.shape[-1] % 8))
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=flags.device)
    return (padded.unflatten(-1, (-1, 8)) * weights).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, width: int) -> Tensor:
    """The bool [..., width] that `pack_bits` packed."""
    bits = (packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    return bits.flatten(-2)[..., :width].bool()


def draw(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF sampling [b]: the first action whose cumulative probability exceeds the uniform number.

    In float64 where the device has it, so that a sum over 50,000 actions does not round a rare one away; an action
    of probability 0 is never drawn.
    """
    wide = torch.float32 if log_probs.device.type == "mps" else torch.float64
    cumulative = log_probs.to(wide).exp().cumsum(-1)
    target = uniform.to(wide).to(log_probs.device)[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, target, right=True).squeeze(1)
    last_possible = (cumulative < cumulative[:, -1:]).sum(-1)  # rounding may push the target onto the very end
    return torch.minimum(drawn, last_possible)


def _check_allowed(may: Tensor, logits: Tensor) -> None:
    if may.shape != logits.shape or may.dtype != torch.bool:
        raise ValueError(
            f"action_mask gave {may.dtype} {list(may.shape)}: it must give bool {list(logits.shape)}, True = allowed"
        )
    if not may.any(-1).all():
        raise ValueError("action_mask forbids every action of a row: always allow at least the end token")
