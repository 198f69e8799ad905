"""Small random language models of two kinds, made offline, and the training loops at their smallest."""

import functools
import importlib
import os
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf_lib import reviews
from rlhf_lib.models import Policy, RewardModel, load_model, load_reward_model
from rlhf_lib.preferences import Ranking
from rlhf_lib.rewards import Reward, text_reward
from rlhf_lib.rollout import Rollout, pad_left, sample
from rlhf_lib.runs import Run

os.environ["RLHF_DEVICE"] = "cpu"  # also where there is a GPU: tests that want it name it
torch.set_num_threads(1)  # more threads only make models of this size wait for each other

KINDS = ("llama", "gpt2")  # rotary positions and a start token; learned positions and none
PROMPTS = ["a good movie", "bad", "a", "a bad bad movie a bad"]  # of different lengths
POSITIONS = 48


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 24 tokens, so few that a random model often draws the end token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=24, special_tokens=["<pad>", "<bos>", "<eos>"])
    core.train_from_iterator(["a good movie", "a bad movie"] * 5, trainer)
    if kind == "llama":
        core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def lm_of(kind: str, size: int, seed: int = 0):
    """A two-layer model whose weights are large, so that what it attends to matters, and which has dropout."""
    shared = {"vocab_size": size, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    torch.manual_seed(seed)
    if kind == "llama":
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        return LlamaForCausalLM(
            LlamaConfig(**shared, **sizes, max_position_embeddings=POSITIONS, attention_dropout=0.5)
        )
    return GPT2LMHeadModel(GPT2Config(**shared, n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS, attn_pdrop=0.5))


def policy_of(kind: str, seed: int = 0, value_head: bool = True) -> Policy:
    """A fresh policy of one of KINDS. Its value head is random: zero values would hide mistakes."""
    tokenizer = tokenizer_of(kind)
    policy = Policy(lm_of(kind, len(tokenizer), seed), tokenizer, name=kind, value_head=value_head)
    with torch.no_grad():  # the end token is made nearly as likely as a likely one, so that it is drawn often enough
        likely = unbatched(policy, tokenizer("a bad")["input_ids"])[0][-1].topk(2).indices[-1]
        vectors = policy.lm.get_output_embeddings().weight
        vectors[2] = 0.8 * vectors[likely]
    if value_head:
        torch.nn.init.normal_(policy.value_head.weight, generator=torch.Generator().manual_seed(seed))
    return policy


def reward_model_of(kind: str, seed: int = 0) -> RewardModel:
    tokenizer = tokenizer_of(kind)
    return RewardModel(lm_of(kind, len(tokenizer), seed), tokenizer, name=kind)


def mixed(policy: Policy, samples: int = 3, **options) -> Rollout:
    """A roll-out in which prompts and completions differ in length and some completions are cut off."""
    options = {"max_new_tokens": 10, "generator": torch.Generator().manual_seed(4)} | options
    rollout = sample(policy, PROMPTS, samples_per_prompt=samples, **options)
    assert rollout.finished.any() and not rollout.finished.all() and len(rollout.lengths.unique()) > 2
    return rollout


def unbatched(policy: Policy, row: list[int]) -> tuple[Tensor, Tensor]:
    """Logits [n, V] and last hidden states [n, H] of one sequence by the Hugging Face model alone: no pads, no mask."""
    out = policy.lm(input_ids=torch.tensor([row]), output_hidden_states=True)
    return out.logits[0], out.hidden_states[-1][0]


# --- the micro language -----------------------------------------------------------------------------------------------

MICRO_PROMPT = "awful"
MICRO_RANKINGS = [
    Ranking(("awful but great", "awful and bad", "awful"), (0, 1, 2)),
    Ranking(("very good", "not good"), (0, 1)),
    Ranking(("dull", "dull and dull"), (0, 0)),
    Ranking(("bad but very good", "bad and dull", "very bad but good", "bad"), (0, 2, 1, 3)),
]
MICRO_DEMONSTRATIONS = [("awful", " but very great"), ("bad", " but good"), ("dull", " and great"), ("not", " bad")]


def micro_reward() -> Reward:
    """`reviews.micro_score` of prompt and completion."""

    def score(prompts: list[str], completions: list[str]) -> list[float]:
        texts = [reviews.micro_ids((p + c).split()) for p, c in zip(prompts, completions, strict=True)]
        ids, mask = pad_left([text[::-1] for text in texts], 0)
        return reviews.micro_score(ids.flip(1), mask.flip(1)).tolist()

    return text_reward(score)


def end_soon(rollout: Rollout) -> Tensor:
    """A reward that is easy to learn: the sooner the text ends, the better."""
    return -rollout.lengths.float()


MICRO_PAIRS = [("awful", " but very great", " and bad"), ("bad", " but good", ""), ("not", " bad", " good")]
MICRO_PAIRS.append(("very", " good", " dull and bad"))
ALGORITHMS = ("sft", "reward_model", "dpo", "reinforce", "group", "actor_critic", "ppo", "nlpo")
RL = {"steps": 8, "prompts_per_step": 2, "samples_per_prompt": 4, "max_new_tokens": 4, "lr": 1e-2}
SPECIAL = {
    "reinforce": {"beta": 0.1},
    "group": {"epochs": 2},
    "actor_critic": {"beta": 0.1},
    "ppo": {"kl_target": 0.01},
    "nlpo": {"kl_target": 0.01, "top_p": 0.7, "mask_every": 2},  # the fourth step's mask is the third's
}


def train_micro(algorithm: str, run: Run | None = None, **settings):
    """One of the loops, for eight steps unless `settings` of its Config say otherwise; returns (model, run)."""
    run, loop = run or Run(progress=False), importlib.import_module(f"rlhf_lib.algorithms.{algorithm}")
    if algorithm in ("sft", "reward_model", "dpo"):
        config = loop.Config(**{"epochs": 4, "batch_size": 2, "lr": 1e-2} | settings)
    else:
        config = loop.Config(**RL | SPECIAL.get(algorithm, {}) | settings)
    if algorithm == "reward_model":
        rm = load_reward_model("micro", device="cpu")
        return rm, loop.train(rm, MICRO_RANKINGS, config, run)
    policy = load_model("micro", device="cpu", value_head=algorithm in ("actor_critic", "ppo", "nlpo"))
    reference = load_model("micro", device="cpu")
    if algorithm == "sft":
        return policy, loop.train(policy, MICRO_DEMONSTRATIONS, config, run)
    if algorithm == "dpo":
        return policy, loop.train(policy, MICRO_PAIRS, reference, config, run)
    return policy, loop.train(policy, [MICRO_PROMPT, "not very"], micro_reward(), config, reference, run)


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Equal to the last bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def folder_of(kind: str, folder: Path) -> Path:
    """The model of a kind as Hugging Face saves it."""
    lm_of(kind, len(tokenizer_of(kind))).save_pretrained(folder)
    tokenizer_of(kind).save_pretrained(folder)
    return folder
