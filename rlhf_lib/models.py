"""Policies and reward models: any Hugging Face causal LM, at three scales, with value head, reward head and LoRA.

A policy is evaluated with dropout off (it stays in eval mode, also while it trains): the log-probabilities that a
roll-out was sampled with must be those that the update computes again. Weights are float32 whatever the file stores.
"""

import bisect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf_lib import checkpoints
from rlhf_lib.mdp import TokenMDP

# families that keep the texts of one row apart; others (OPT, Bloom, Mamba) would let them see each other
PACKED = ("gemma2", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi", "qwen2", "qwen3", "smollm3")
ROW = 64  # tokens of a row that texts share; where one is longer up to twice as many, beyond it has a row of its own


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, else the environment's RLHF_DEVICE, else CUDA where there is one, else the CPU.

    MPS (Apple) is used when it is named. Raises ValueError for a device that this machine does not have.
    """
    name = str(device or os.environ.get("RLHF_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu"))
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes, each of which has a GPU of its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        where = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}: torch knows no such device. Use 'cpu', 'cuda' or 'mps'.") from error
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: torch sees no such CUDA GPU here. Use device='cpu', or unset RLHF_DEVICE.")
    if where.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device {name!r}: torch sees no Apple GPU here. Use device='cpu', or unset RLHF_DEVICE.")
    return where


class Policy(nn.Module):
    """A causal language model and its tokenizer, with a value head where a critic is wanted.

    Attributes:
        lm: the Hugging Face causal LM (a PEFT model of it under LoRA). tokenizer: its tokenizer.
        value_head: Linear(hidden, 1), zero at the start so that the first values are 0, or None.
    """

    def __init__(self, lm: nn.Module, tokenizer, *, name: str, value_head: bool = False, autocast: bool = False):
        super().__init__()
        self.lm, self.tokenizer, self.name, self.autocast = lm, tokenizer, name, autocast
        self.value_head = None
        if value_head:
            weight = lm.get_input_embeddings().weight
            self.value_head = nn.Linear(lm.config.hidden_size, 1, dtype=weight.dtype)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.lm.get_input_embeddings().weight.device

    @property
    def vocabulary(self) -> int:
        """Width of the logits, which may exceed the number of tokens that the tokenizer knows."""
        return self.lm.get_output_embeddings().weight.shape[0]

    def forward(self, ids: Tensor, attention_mask: Tensor, last: int, cache=None) -> tuple[Tensor, Tensor | None]:
        """Logits [B, last, V] in float32 (float64 stays) and values [B, last] (or None) at the last `last` positions.

        Positions count real tokens only, so left padding changes nothing. With a `cache`, `ids` holds the new tokens
        and `attention_mask` all of them.
        """
        positions = (attention_mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            out = self.lm(
                input_ids=ids,
                attention_mask=attention_mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=last,
                output_hidden_states=self.value_head is not None,
            )
        values = None
        if self.value_head is not None:  # the head stays out of autocast: values are regressed, not classified
            hidden = out.hidden_states[-1][:, -last:]
            values = self.value_head(hidden.to(self.value_head.weight.dtype)).squeeze(-1)
        logits = out.logits if out.logits.dtype == torch.float64 else out.logits.float()
        return logits, values

    def train(self, mode: bool = True) -> "Policy":
        """Eval mode always: dropout would make the update's log-probabilities differ from the sampler's."""
        return super().train(False)

    def save(self, path: str | Path) -> None:
        """Write the folder that `load_model(path)` reads: Hugging Face's format, and the value head beside it."""
        checkpoints.save(self, path, {"kind": "policy", "base": self.name}, self.value_head)


class AdaptersOff(Policy):
    """A policy under LoRA as it was before its adapters: the same weights, with the adapters switched off.

    The reference of a run that trains adapters only, at no memory: its log-probs follow none of the training.
    """

    def __init__(self, policy: Policy):
        if not hasattr(policy.lm, "peft_config"):
            raise ValueError("this policy has no adapters to switch off: load it with lora=, or load a second model")
        super().__init__(policy.lm, policy.tokenizer, name=policy.name, autocast=policy.autocast)

    def forward(self, ids: Tensor, attention_mask: Tensor, last: int, cache=None) -> tuple[Tensor, Tensor | None]:
        with self.lm.disable_adapter():
            return super().forward(ids, attention_mask, last, cache)


class RewardModel(nn.Module):
    """A language model's body with one number at its last token: the score of a whole text.

    Called with a roll-out it returns scores [B] of prompt + completion. A completion that was cut off is closed with
    an end token first, so that the score is read where it was trained to be. `score_texts` does the same for strings.
    Bradley–Terry's loss leaves a constant open: `centre` fixes it.
    """

    def __init__(self, lm: nn.Module, tokenizer, *, name: str, autocast: bool = False):
        super().__init__()
        self.lm, self.tokenizer, self.name, self.autocast = lm, tokenizer, name, autocast
        hidden, weight = lm.config.hidden_size, lm.get_input_embeddings().weight
        self.head = nn.Linear(hidden, 1, dtype=weight.dtype)
        # a generator of its own, so that the same training gives the same reward model
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(hidden + 1), generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.head.bias)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, rollout) -> Tensor:
        """Scores [B] of the roll-out's prompts with their completions; differentiable in the weights."""
        if _same_tokens(rollout.tokenizer, self.tokenizer):
            rows = rollout.sequences()
        else:
            rows = self.encode([p + c for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)])
        return self.score_ids(rows)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text (with the tokenizer's own start token); an empty text is a ValueError."""
        if any(not text.strip() for text in texts):
            raise ValueError("a reward model cannot score an empty text: remove it, or give it a score of your own")
        return [_without_end(ids, self.tokenizer.eos_token_id) for ids in self.tokenizer(texts)["input_ids"]]

    def score_ids(self, rows: list[list[int]], chunk: int = 32) -> Tensor:
        """Scores [B] of token lists, in the order given; each list is closed by one end token.

        Short texts share a row, each blind to the others, where the model's family can (`PACKED`): hardly a pad is
        computed then. Elsewhere texts of like length are scored together. A forward pass takes `chunk` rows.
        """
        end = self.tokenizer.eos_token_id
        texts = [row if row[-1] == end else [*row, end] for row in rows]
        lengths = [len(text) for text in texts]
        check_length(self, max(lengths))
        room = min(max(ROW, *lengths), 2 * ROW) if self.lm.config.model_type in PACKED else 0
        packs = _packs(lengths, room)
        parts = [
            self._score_rows([[texts[i] for i in pack] for pack in packs[k : k + chunk]], packed=room > 0)
            for k in range(0, len(packs), chunk)
        ]
        order = torch.tensor([i for pack in packs for i in pack], device=self.device)
        return torch.cat(parts)[order.argsort()]

    def _score_rows(self, packs: list[list[list[int]]], packed: bool) -> Tensor:
        """Scores [B] in one forward pass of rows of texts, each read at its text's last token, never at a pad."""
        width = max(sum(len(text) for text in pack) for pack in packs)
        ids = torch.full((len(packs), width), self.tokenizer.pad_token_id)
        positions, mask, last = torch.zeros_like(ids), torch.zeros_like(ids), []
        for row, pack in enumerate(packs):
            begin = 0
            for text in pack:
                place = slice(begin, begin := begin + len(text))
                ids[row, place], positions[row, place] = torch.tensor(text), torch.arange(len(text))
                mask[row, place] = 1
                last.append((row, begin - 1))
        # where positions do not go on by 1, Transformers begins a new text; but not if it is given a mask
        inputs = {"input_ids": ids, **({"position_ids": positions} if packed else {"attention_mask": mask})}
        body = self.lm.get_decoder()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            hidden = body(**{name: x.to(self.device) for name, x in inputs.items()}, use_cache=False).last_hidden_state
        row, place = torch.tensor(last, device=self.device).T
        return self.head(hidden[row, place].to(self.head.weight.dtype)).squeeze(-1)

    @torch.no_grad()
    def score_texts(self, texts: list[str]) -> Tensor:
        """Scores [N] on the CPU, in the order given."""
        return self.score_ids(self.encode(texts)).float().cpu()

    @torch.no_grad()
    def centre(self, texts: list[str]) -> float:
        """Shift the scores so that their mean over `texts` is 0; returns what the mean was.

        Only differences of scores are learnt, but RL sees the number itself: it decides, for one, whether ending
        early beats going on. Centre on completions of the policy that RL starts from.
        """
        mean = self.score_texts(texts).mean().item()
        self.head.bias.sub_(mean)
        return mean

    def train(self, mode: bool = True) -> "RewardModel":
        """Eval mode always, as for a policy: a text has one score."""
        return super().train(False)

    def save(self, path: str | Path) -> None:
        """Write the folder that `load_reward_model(path)` reads."""
        checkpoints.save(self, path, {"kind": "reward_model", "base": self.name}, self.head)


class TablePolicy(nn.Module):
    """A softmax table over an MDP's states: one row of logits a state, in the order of `exact_values(...).states`.

    Called with tokens [N, T] it returns log-probs [N, T, A] of the action at each position given all before it. It
    starts uniform (zero logits). Rows after an end token do not exist; there it answers with the first row.
    """

    def __init__(self, mdp: TokenMDP):
        super().__init__()
        self.actions, self.horizon, self.eos = len(mdp.actions), mdp.horizon, mdp.eos
        self.branches = self.actions - (mdp.eos is not None)  # actions after which the sentence goes on
        states = sum(self.branches**t for t in range(mdp.horizon))
        self.logits = nn.Parameter(torch.zeros(states, self.actions))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits[self.rows(tokens)].log_softmax(-1)

    def rows(self, tokens: Tensor) -> Tensor:
        """Row of the table, [N, T], of the state before each of the tokens [N, T]."""
        _check_tokens(tokens, self.horizon)
        digits, ended = tokens, torch.zeros_like(tokens, dtype=torch.bool)
        if self.eos is not None:
            digits, ended = tokens - (tokens > self.eos).long(), (tokens == self.eos).cumsum(1) > 0
        state, first = torch.zeros_like(tokens[:, 0]), 0  # position within a length, and where that length starts
        rows = []
        for t in range(tokens.shape[1]):
            dead = ended[:, t - 1] if t else torch.zeros_like(ended[:, 0])
            rows.append(torch.where(dead, 0, first + state))
            first += self.branches**t
            state = torch.where(ended[:, t], 0, state * self.branches + digits[:, t])
        return torch.stack(rows, 1)


def as_policy(model: Policy, prompt: str | list[int], mdp: TokenMDP, batch_size: int = 4096) -> Callable:
    """A language model as a policy over an MDP's actions: its next-token distribution, renormalised to them.

    Each action must be one token of the model's (with a space before it where the tokenizer has such tokens); the
    end action is the model's end token. Differentiable. Raises ValueError for an action of several tokens.
    """
    tokenizer = model.tokenizer
    codes = [
        tokenizer.eos_token_id if index == mdp.eos else _single_token(tokenizer, word)
        for index, word in enumerate(mdp.actions)
    ]
    codes = torch.tensor(codes, device=model.device)
    start = torch.tensor(encode_prompt(tokenizer, prompt), device=model.device)

    def policy(tokens: Tensor) -> Tensor:
        _check_tokens(tokens, mdp.horizon)
        parts = []
        for chunk in tokens.split(batch_size):
            history = codes[chunk.to(model.device)[:, :-1]]
            ids = torch.cat([start.expand(len(chunk), -1), history], 1)
            logits, _ = model(ids, torch.ones_like(ids), last=tokens.shape[1])
            parts.append(logits[..., codes].log_softmax(-1))
        return torch.cat(parts)

    return policy


@contextmanager
def dropout(model: nn.Module, rate: float, seed: int) -> Iterator[None]:
    """Train with dropout inside the block: on the word vectors and on what each layer adds to the stream.

    A feature is dropped from all words of a row or from none (Gal & Ghahramani 2016, arXiv 1512.05287; a reward model's
    short texts share a row): a draw for every word would take nearly a tenth of the training time. Drawn from `seed`
    and nothing else, so that a resumed step drops what it would have dropped. Afterwards the model is in eval mode and
    torch's global generator where it was. Models with dropout of their own use that too. Rate 0 is no dropout at all.
    """
    if rate == 0:
        yield
        return

    def drop(module: nn.Module, inputs: tuple, output):
        if isinstance(output, tuple):
            return (drop(module, inputs, output[0]), *output[1:])
        return output * nn.functional.dropout(torch.ones_like(output[:, :1]), rate)

    layers = getattr(model.lm.get_decoder(), "layers", [])
    parts = [getattr(layer, name, None) for layer in layers for name in ("self_attn", "mlp")]
    hooks = [part.register_forward_hook(drop) for part in (model.lm.get_input_embeddings(), *parts) if part is not None]
    nn.Module.train(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            model.eval()
            for hook in hooks:
                hook.remove()


def encode_prompt(tokenizer, prompt: str | list[int]) -> list[int]:
    """Token ids of a prompt: ids as they are; a string raw, with the start token where the model uses one.

    An empty prompt is a ValueError: there is no position to read the first token's distribution from.
    """
    if isinstance(prompt, str):
        ids = encode_text(tokenizer, prompt) if prompt else []
    else:
        ids = [int(i) for i in prompt]
    if not ids:
        raise ValueError("an empty prompt: give at least one word, or [tokenizer.bos_token_id] to start from nothing")
    return ids


def encode_text(tokenizer, text: str, **options) -> list[int]:
    """Token ids of a text, without the end token that some tokenizers add. An unknown word is a ValueError."""
    ids = _without_end(tokenizer(text, **options)["input_ids"], tokenizer.eos_token_id)
    if tokenizer.unk_token_id in ids and tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        raise ValueError(f"{text!r} has words that this model's tokenizer does not know: use words of its vocabulary")
    return ids


def check_length(model: "Policy | RewardModel", length: int) -> None:
    """Raise ValueError if the model has fewer positions than a text of `length` tokens needs."""
    limit = getattr(model.lm.config, "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise ValueError(f"the text needs {length} positions, the model has {limit}: shorten it, or max_new_tokens")


def load_model(
    name: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    value_head: bool = False,
    lora: int | dict | None = None,
) -> Policy:
    """A policy by name: "micro", "tiny", "smol", a folder, or a causal LM on the Hugging Face hub.

    Args:
        device: None is RLHF_DEVICE, else CUDA if there, else the CPU; "mps" by name.
        dtype: None is float32. torch.bfloat16 is autocast over float32 weights; torch.float64 is for exact checks.
        value_head: add a critic's head (zero at the start), or load the one saved with the folder.
        lora: train low-rank adapters instead of all weights: the rank, or keyword arguments of `peft.LoraConfig`.
    Raises:
        ValueError: an unknown name or type, a folder with a damaged or incomplete model, or with a reward model.
        AssetError: weights that can neither be found nor fetched.
    """
    where = choose_device(device)
    lm, tokenizer, manifest = checkpoints.load_lm(name, dtype)
    if manifest.get("kind") == "reward_model":
        raise ValueError(f"{name} holds a reward model: load it with load_reward_model")
    if lora is not None:
        lm = checkpoints.add_lora(lm, lora)
    policy = Policy(lm, tokenizer, name=manifest["base"], value_head=value_head, autocast=dtype == torch.bfloat16)
    if value_head and manifest.get("head"):
        checkpoints.load_head(policy.value_head, name)
    return policy.to(where)


def load_reward_model(
    path_or_base: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    lora: int | dict | None = None,
    layers: int | None = None,
) -> RewardModel:
    """The reward model saved at a folder; or, on a base model's name, one with a fresh head (std 1/√(H + 1)).

    Arguments and errors are those of `load_model`, and

    Args:
        layers: keep the lowest so many of the model's layers; None keeps all. A reward model may be smaller than the
            policy that it trains (Ouyang et al. 2022 took 6 B weights for a policy of 175 B). A ValueError where the
            model has not so many, and with adapters, which are saved without the model that they belong to.
    """
    where = choose_device(device)
    lm, tokenizer, manifest = checkpoints.load_lm(path_or_base, dtype)
    if layers is not None:
        if lora is not None or manifest.get("lora"):
            raise ValueError("layers= and adapters do not go together: leave one of them out")
        checkpoints.keep_layers(lm, layers)
    if lora is not None:
        lm = checkpoints.add_lora(lm, lora)
    rm = RewardModel(lm, tokenizer, name=manifest["base"], autocast=dtype == torch.bfloat16)
    if manifest.get("kind") == "reward_model":
        checkpoints.load_head(rm.head, path_or_base)
    return rm.to(where)


def _packs(lengths: list[int], room: int) -> list[list[int]]:
    """Which texts share a row of `room` tokens: the longest first, each where it leaves least room (best fit).

    A text that is longer has a row of its own; with no room, every text has.
    """
    packs, free = [], []  # free: (room left, number of the row), least first
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        at = bisect.bisect_left(free, (lengths[i],))
        left, row = free.pop(at) if at < len(free) else (room, len(packs))
        if row == len(packs):
            packs.append([])
        packs[row].append(i)
        bisect.insort(free, (left - lengths[i], row))
    return packs


def _single_token(tokenizer, word: str) -> int:
    for text in dict.fromkeys([word if word.startswith(" ") else f" {word}", word]):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            return ids[0]
    raise ValueError(f"action {word!r} is not one token of this model's: choose actions that are single tokens")


def _same_tokens(a, b) -> bool:
    return a is b or (a is not None and a.get_vocab() == b.get_vocab())


def _without_end(ids: list[int], end: int) -> list[int]:
    return ids[:-1] if ids and ids[-1] == end else ids


def _check_tokens(tokens: Tensor, horizon: int) -> None:
    if tokens.dim() != 2 or not 1 <= tokens.shape[1] <= horizon or tokens.dtype != torch.long:
        raise ValueError(
            f"tokens must be a long tensor [N, T] with 1 ≤ T ≤ {horizon}, not {tokens.dtype} {list(tokens.shape)}"
        )
