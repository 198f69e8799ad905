"""The shipped tiny language model, from nothing: python -m rlhf_lib.pretrain data/tiny

A Llama of 5.2 M parameters (8,192 byte-pair tokens, 4 layers, width 256) reads the review sentences of the "train"
and "judge" blocks and the Amazon reviews and newspaper editorials that come with them: half a million tokens, seen
many times. So little text makes a model overfit. Four things hold that back: dropout, an exponential average of the
weights, word vectors that start as those of SmolLM2, projected to 256 dimensions, so that rare words begin with a
meaning, and distillation: a linear map of the hidden state at each token (the end token too) is to be SmolLM2's hidden
state at the same place of the sentence, which knows more of what the sentence says than its next word tells. No
sentence of the "validation" and "test" blocks is read.
"""

import argparse
import json
import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlhf_lib import reviews
from rlhf_lib.metrics import bits_per_character
from rlhf_lib.models import Policy, dropout, load_model
from rlhf_lib.runs import Run, generator, write_text

VOCABULARY, WIDTH, LAYERS = 8192, 256, 4
MIXED_EPOCHS, REVIEW_EPOCHS = 3, 5  # passes over all text, then over the review sentences alone
BATCH, LR, WARMUP, WEIGHT_DECAY, DROPOUT, AVERAGE = 64, 2e-3, 100, 0.1, 0.1, 0.998
TEACHER_LAYER = 28  # of SmolLM2's 30
MIXED_DISTILLATION, REVIEW_DISTILLATION = 5.0, 1.0  # weight of the teacher's squared error in these passes
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


@dataclass
class Teacher:
    """SmolLM2's states: for sentence i at the places positions[i] of its token row, states[i] of unit variance."""

    positions: list[Tensor]  # [n_i], long
    states: list[Tensor]  # [n_i, 576], float16


def teacher_states(texts: list[str], tokenizer, file: Path) -> Teacher:
    """What SmolLM2 thinks wherever both tokenizers end a token, and at the end token. Kept in `file` for a rerun."""
    if not file.is_file():
        found = _states(texts, tokenizer)
        states = torch.cat([one for _, one in found])
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {
                "states": ((states - states.mean(0)) / states.std(0)).half(),
                "positions": torch.cat([where for where, _ in found]),
                "counts": torch.tensor([len(where) for where, _ in found]),
            },
            file,
        )
    kept = load_file(file)
    counts = kept["counts"].tolist()
    return Teacher(list(kept["positions"].split(counts)), list(kept["states"].split(counts)))


@torch.no_grad()
def _states(texts: list[str], tokenizer, batch: int = 32) -> list[tuple[Tensor, Tensor]]:
    """For each text the places (0 is the start token) of its row where SmolLM2 has a state too, and these states."""
    big = load_model("smol")
    body, found = big.lm.get_decoder(), {}
    own, its = (
        [{end: place for place, (_, end) in enumerate(row) if end} for row in code(texts, **options)["offset_mapping"]]
        for code, options in (
            (tokenizer, {"return_offsets_mapping": True}),
            (big.tokenizer, {"return_offsets_mapping": True, "add_special_tokens": False}),
        )
    )
    rows = big.tokenizer(texts, add_special_tokens=False)["input_ids"]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        ids, _ = padded([rows[i] for i in some])
        # padding is on the right, where a causal model does not look
        hidden = body(input_ids=ids, output_hidden_states=True).hidden_states[TEACHER_LAYER]
        for row, i in enumerate(some):
            ends = sorted(own[i].keys() & its[i].keys())
            last = max(own[i].values()) + 1  # the end token: it sees what the last word saw, and the sentence is over
            places = [own[i][end] for end in ends] + [last]
            sources = [its[i][end] for end in ends] + [len(rows[i]) - 1]
            found[i] = torch.tensor(places), hidden[row, sources].clone()
    return [found[i] for i in range(len(texts))]


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids [B, T], 0 after each row's end, and lengths [B]."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return ids, lengths


def batches(rows: list[list[int]], seed: int) -> list[list[int]]:
    """Shuffled batches of indices of sentences of similar length, so that little padding is computed."""
    random = generator(seed)
    order = torch.randperm(len(rows), generator=random).tolist()
    found = []
    for first in range(0, len(order), 20 * BATCH):
        alike = sorted(order[first : first + 20 * BATCH], key=lambda i: len(rows[i]))
        found += [alike[k : k + BATCH] for k in range(0, len(alike), BATCH)]
    return [found[i] for i in torch.randperm(len(found), generator=random).tolist()]


def losses(model: nn.Module, pupil: nn.Linear, rows: list[list[int]], teacher: Teacher, batch: list[int]):
    """Mean −log p of every token after the first, in nats; mean squared error of the pupil's guess of the teacher.

    `rows` are all token rows and `batch` the indices of those to learn from; the teacher knows the first ones only.
    """
    ids, lengths = padded([rows[i] for i in batch])
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    before_last = torch.arange(ids.shape[1] - 1) < (lengths - 1)[:, None]
    likelihood = F.cross_entropy(model.lm_head(hidden[:, :-1][before_last]), ids[:, 1:][before_last])
    taught = [(row, i) for row, i in enumerate(batch) if i < len(teacher.states)]
    if not taught:
        return likelihood, torch.zeros(())
    guess = pupil(torch.cat([hidden[row, teacher.positions[i]] for row, i in taught]))
    return likelihood, F.mse_loss(guess, torch.cat([teacher.states[i] for _, i in taught]).float())


def pretrain(folder: Path, workdir: Path) -> None:
    """Train, store the averaged weights as float16 in `folder`, and measure the stored file."""
    own, other = training_texts()
    tokenizer = make_tokenizer(own + other)
    torch.manual_seed(0)
    model = make_model(tokenizer)
    student, average = (Policy(lm, tokenizer, name="tiny") for lm in (model, make_model_like(model)))
    encode = lambda texts: [[*row, tokenizer.eos_token_id] for row in tokenizer(texts)["input_ids"]]  # noqa: E731
    rows = encode(own) + encode(other)
    mixed = [batch for epoch in range(MIXED_EPOCHS) for batch in batches(rows, epoch)]
    alone = [batch for epoch in range(REVIEW_EPOCHS) for batch in batches(rows[: len(own)], MIXED_EPOCHS + epoch)]
    plan = mixed + alone
    teacher = teacher_states(own, tokenizer, workdir / "teacher.safetensors")
    pupil = nn.Linear(WIDTH, teacher.states[0].shape[1])  # needed for training only
    data = reviews.load()
    validation = [data.texts[i] for i in data.rows("validation")]

    weights = [*model.parameters(), *pupil.parameters()]
    matrices, vectors = [p for p in weights if p.dim() > 1], [p for p in weights if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
        lr=LR,
        betas=(0.9, 0.98),
    )
    run = Run(workdir, checkpoint_every=200)
    run.track(model=model, average=average, pupil=pupil, optimizer=optimizer)
    for step in run.steps(len(plan)):
        began = time.perf_counter()
        progress = step / len(plan)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        with dropout(student, DROPOUT, seed=step):
            likelihood, distance = losses(model, pupil, rows, teacher, plan[step])
        optimizer.zero_grad()
        (likelihood + (MIXED_DISTILLATION if step < len(mixed) else REVIEW_DISTILLATION) * distance).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.lm.parameters()), list(model.parameters()), 1 - decay)
        metrics = {
            "loss": likelihood,
            "distance": distance,
            "tokens": sum(len(rows[i]) - 1 for i in plan[step]),
            "seconds": time.perf_counter() - began,
        }
        if (step + 1) % 200 == 0 or step + 1 == len(plan):
            metrics["validation_bits_per_character"] = bits_per_character(average, validation)
            print(step + 1, len(plan), metrics["validation_bits_per_character"], flush=True)
        run.log(step, **metrics)

    store(average, folder)
    write_text(folder / "training.json", json.dumps(report(folder, run, len(own), len(other)), indent=1) + "\n")


def make_model_like(model: nn.Module) -> nn.Module:
    """A copy with the same weights."""
    copy = type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def store(policy: Policy, folder: Path) -> None:
    """Save weights as float16 with the tokenizer; `load_model` reads them back as float32."""
    make_model_like(policy.lm).half().save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def report(folder: Path, run: Run, own: int, other: int) -> dict:
    """What the model card says, measured: the stored file on held-out blocks, and how it was trained."""
    stored, data = load_model(folder), reviews.load()
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
