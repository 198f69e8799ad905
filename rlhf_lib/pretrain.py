"""The shipped tiny language model, from nothing: python -m rlhf_lib.pretrain data/tiny

A Llama of 5.2 M parameters (8,192 byte-pair tokens, 4 layers, width 256) reads the review sentences of the "train"
and "judge" blocks and the Amazon reviews and newspaper editorials that come with them: half a million tokens, seen
many times. So little text makes a model overfit. Three things hold that back: dropout, an exponential average of the
weights, and word vectors that start as those of SmolLM2, projected to 256 dimensions, so that rare words begin with a
meaning. No sentence of the "validation" and "test" blocks is read.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf_lib import reviews
from rlhf_lib.metrics import bits_per_character
from rlhf_lib.models import Policy, dropout, load_model
from rlhf_lib.runs import Run, generator, write_text

VOCABULARY, WIDTH, LAYERS = 8192, 256, 4
MIXED_EPOCHS, REVIEW_EPOCHS = 4, 6  # passes over all text, then over the review sentences alone
BATCH, LR, WARMUP, WEIGHT_DECAY, DROPOUT, AVERAGE = 64, 2e-3, 100, 0.1, 0.1, 0.998
SPECIAL = ["<pad>", "<bos>", "<eos>"]


def training_texts() -> tuple[list[str], list[str]]:
    """Review sentences and other sentences to train on, without any that also stands in a held-out block."""
    data, others = reviews.load(), reviews.other_texts()
    held_out = {data.texts[i].lower() for split in ("validation", "test") for i in data.rows(split)}
    own = [data.texts[i] for split in ("train", "judge") for i in data.rows(split)]
    other = [text for name in ("amazon", "nyt") for text in others[name]]
    return [t for t in own if t.lower() not in held_out], [t for t in other if t.lower() not in held_out]


def make_tokenizer(texts: list[str]):
    """Byte-level BPE: every string can be written, and pad, start and end are three different tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet)
    core.train_from_iterator(texts, trainer)
    core.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    pad, bos, eos = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=eos, padding_side="left"
    )


def make_model(tokenizer) -> nn.Module:
    """The Llama, its word vectors taken from SmolLM2's."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=672,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    vectors, known = smollm2_vectors(tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight[known] = vectors
    return model


@torch.no_grad()
def smollm2_vectors(tokenizer, spread: float = 0.04) -> tuple[Tensor, Tensor]:
    """Start vectors [n, WIDTH] for the n tokens (bool [V]) that are whole characters, with standard deviation `spread`.

    A token's is the mean of the vectors of SmolLM2's tokens for the same string, on their first principal components.
    """
    big = load_model("smol")
    table = big.lm.get_input_embeddings().weight
    known, rows = torch.zeros(len(tokenizer), dtype=torch.bool), []
    for index in range(len(SPECIAL), len(tokenizer)):
        pieces = big.tokenizer(tokenizer.decode([index]), add_special_tokens=False)["input_ids"]
        if "\ufffd" not in tokenizer.decode([index]) and pieces:
            known[index] = True
            rows.append(table[pieces].mean(0))
    centred = torch.stack(rows) - torch.stack(rows).mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    projected = centred @ directions[:WIDTH].T
    return projected * (spread / projected.std()), known


def batches(rows: list[list[int]], seed: int) -> list[list[list[int]]]:
    """Shuffled batches of sentences of similar length, so that little padding is computed."""
    random = generator(seed)
    order = torch.randperm(len(rows), generator=random).tolist()
    found = []
    for first in range(0, len(order), 20 * BATCH):
        alike = sorted(order[first : first + 20 * BATCH], key=lambda i: len(rows[i]))
        found += [[rows[i] for i in alike[k : k + BATCH]] for k in range(0, len(alike), BATCH)]
    return [found[i] for i in torch.randperm(len(found), generator=random).tolist()]


def next_token_loss(model: nn.Module, rows: list[list[int]]) -> Tensor:
    """Mean −log p of every token after the first, in nats."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    mask = torch.arange(ids.shape[1] - 1) < (lengths - 1)[:, None]
    return F.cross_entropy(model(input_ids=ids[:, :-1]).logits[mask], ids[:, 1:][mask])


def pretrain(folder: Path, workdir: Path) -> None:
    """Train, store the averaged weights as float16 in `folder`, and measure the stored file."""
    own, other = training_texts()
    tokenizer = make_tokenizer(own + other)
    torch.manual_seed(0)
    model = make_model(tokenizer)
    student, average = (Policy(lm, tokenizer, name="tiny") for lm in (model, make_model_like(model)))
    encode = lambda texts: [[*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]]  # noqa: E731
    own_rows, other_rows = encode(own), encode(other)
    plan = [batch for epoch in range(MIXED_EPOCHS) for batch in batches(own_rows + other_rows, epoch)]
    plan += [batch for epoch in range(REVIEW_EPOCHS) for batch in batches(own_rows, MIXED_EPOCHS + epoch)]
    data = reviews.load()
    validation = [data.texts[i] for i in data.rows("validation")]

    groups = [[p for p in model.parameters() if p.dim() > 1], [p for p in model.parameters() if p.dim() == 1]]
    optimizer = torch.optim.AdamW(
        [{"params": groups[0], "weight_decay": WEIGHT_DECAY}, {"params": groups[1], "weight_decay": 0.0}],
        lr=LR,
        betas=(0.9, 0.98),
    )
    run = Run(workdir, checkpoint_every=200)
    run.track(model=model, average=average, optimizer=optimizer)
    for step in run.steps(len(plan)):
        began = time.perf_counter()
        progress = step / len(plan)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        with dropout(student, DROPOUT, seed=step):
            loss = next_token_loss(model, plan[step])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.lm.parameters()), list(model.parameters()), 1 - decay)
        metrics = {
            "loss": loss,
            "tokens": sum(len(row) - 1 for row in plan[step]),
            "seconds": time.perf_counter() - began,
        }
        if (step + 1) % 200 == 0 or step + 1 == len(plan):
            metrics["validation_bits_per_character"] = bits_per_character(average, validation)
            print(step + 1, len(plan), metrics["validation_bits_per_character"], flush=True)
        run.log(step, **metrics)

    store(average, folder)
    write_text(folder / "training.json", json.dumps(report(run, len(own), len(other)), indent=1) + "\n")


def make_model_like(model: nn.Module) -> nn.Module:
    """A copy with the same weights."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def store(policy: Policy, folder: Path) -> None:
    """Save weights as float16 with the tokenizer; `load_model` reads them back as float32."""
    make_model_like(policy.lm).half().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def report(run: Run, own: int, other: int) -> dict:
    """What the model card says, measured: the stored file on held-out blocks, and how it was trained."""
    stored, data = load_model("tiny"), reviews.load()
    held_out = {
        split: bits_per_character(stored, [data.texts[i] for i in data.rows(split)]) for split in ("validation", "test")
    }
    return {
        "command": "python -m rlhf_lib.pretrain data/tiny",
        "bits_per_character": {split: round(value, 4) for split, value in held_out.items()},
        "parameters": sum(p.numel() for p in stored.lm.parameters()),
        "sentences": {"reviews": own, "other": other},
        "steps": len(run.history),
        "tokens": sum(run.column("tokens")),
        "seconds": round(sum(run.column("seconds"))),
        "machine": f"{torch.get_num_threads()} CPU threads, {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "curve": [
            [row["step"] + 1, round(row["validation_bits_per_character"], 4)]
            for row in run.history
            if "validation_bits_per_character" in row
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the finished model goes (the course reads data/tiny)")
    parser.add_argument("--workdir", type=Path, default=Path("build/pretrain"), help="checkpoints; a rerun resumes")
    arguments = parser.parse_args()
    pretrain(arguments.folder, arguments.workdir)


if __name__ == "__main__":
    main()
