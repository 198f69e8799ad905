"""The shipped tiny language model and what its card claims about it."""

import json
import re

import pytest
import torch
from safetensors import safe_open

from rlhf_lib import pretrain
from rlhf_lib.metrics import bits_per_character
from rlhf_lib.models import load_model
from rlhf_lib.paths import data_dir
from rlhf_lib.rollout import sample
from rlhf_lib.runs import generator

FOLDER = data_dir() / "tiny"


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", device="cpu")


@pytest.fixture(scope="module")
def record():
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


def test_it_is_small_stored_in_half_and_loaded_in_full_precision(tiny):
    assert sum(p.numel() for p in tiny.lm.parameters()) <= 6_000_000
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000
    with safe_open(FOLDER / "model.safetensors", "pt") as stored:
        assert {stored.get_tensor(key).dtype for key in stored.keys()} == {torch.float16}
    assert {p.dtype for p in tiny.lm.parameters()} == {torch.float32}


def test_pad_start_and_end_are_three_tokens_and_every_string_can_be_written(tiny):
    tokenizer = tiny.tokenizer
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    for text in ("It isn't bad.", "naïve — 漢字 🙂\n\ttabs", "  two  spaces "):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer(text)["input_ids"] == [tokenizer.bos_token_id, *ids]


def test_it_predicts_held_out_sentences_as_well_as_its_record_says(tiny, rated, record):
    texts = [rated.texts[i] for i in rated.rows("test")]
    measured = bits_per_character(tiny, texts)
    assert measured <= 1.85
    assert measured == pytest.approx(record["bits_per_character"]["test"], abs=2e-3)


def test_no_training_text_stands_in_a_held_out_block(rated):
    own, other = pretrain.training_texts()
    held_out = {rated.texts[i].lower() for split in ("validation", "test") for i in rated.rows(split)}
    assert not held_out & {text.lower() for text in own + other}
    assert len(own) > 8_000 and len(other) > 8_000


def test_its_completions_end_and_differ(tiny):
    rollout = sample(tiny, ["The film"], max_new_tokens=60, samples_per_prompt=16, generator=generator(0))
    assert rollout.finished.float().mean() > 0.5
    assert len(set(rollout.completions())) > 12


def test_the_card_quotes_the_record(record):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    quoted = {
        name: float(value.replace(",", "")) for name, value in re.findall(r"^\| ([a-z ]+) \| ([\d.,]+)", card, re.M)
    }
    assert quoted["test bits per character"] == record["bits_per_character"]["test"]
    assert quoted["validation bits per character"] == record["bits_per_character"]["validation"]
    assert quoted["parameters"] == record["parameters"]
    assert quoted["training tokens"] == record["tokens"]
    assert quoted["steps"] == record["steps"]
    assert record["command"] in card


def test_training_is_reproducible_in_its_parts():
    rows = [[1, *range(3, 3 + n), 2] for n in range(1, 200)]
    once, again = pretrain.batches(rows, seed=5), pretrain.batches(rows, seed=5)
    assert once == again and once != pretrain.batches(rows, seed=6)
    assert sorted(i for batch in once for i in batch) == list(range(len(rows)))


def test_a_batch_learns_its_tokens_and_its_teacher_whatever_it_is_padded_with(tiny):
    rows = [[1, 40, 50, 60, 2], [1, 70, 2], [1, 80, 90, 2]]
    body, pupil = tiny.lm.get_decoder(), torch.nn.Linear(pretrain.WIDTH, 7)
    with torch.no_grad():
        alone = [body(input_ids=torch.tensor([row])).last_hidden_state[0] for row in rows]
        nats = [
            -tiny.lm.lm_head(h)[:-1].log_softmax(-1)[range(len(r) - 1), r[1:]] for h, r in zip(alone, rows, strict=True)
        ]
        positions = [torch.tensor([1, 3, 4]), torch.tensor([2])]  # of the first two rows; the third has no teacher
        states = [pupil(h[where]) for h, where in zip(alone, positions, strict=False)]
        exact = pretrain.Teacher(positions, states)
        off = pretrain.Teacher(positions, [states[0], states[1] + 2.0])
        likelihood, distance = pretrain.losses(tiny.lm, pupil, rows, exact, [2, 0, 1])
        assert likelihood.item() == pytest.approx(torch.cat(nats).mean().item(), rel=1e-5)
        assert distance.item() == pytest.approx(0.0, abs=1e-9)
        assert pretrain.losses(tiny.lm, pupil, rows, off, [1, 0])[1].item() == pytest.approx(4 / 4, rel=1e-5)
        assert pretrain.losses(tiny.lm, pupil, rows, off, [2])[1].item() == 0


@pytest.mark.slow
def test_the_teacher_speaks_where_both_tokenizers_end_a_token(tiny, smol):
    text = "An unforgettably gripping film, isn't it?"
    ((positions, states),) = pretrain._states([text], tiny.tokenizer)
    row, pieces = tiny.tokenizer(text)["input_ids"], smol.tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = {smol.tokenizer.decode(pieces[: k + 1]) for k in range(len(pieces))}
    said = [tiny.tokenizer.decode(row[1 : place + 1]) for place in positions.tolist()]
    assert set(said) <= ends and said[-1] == said[-2] == text  # the end token hears what the last word heard
    assert positions[-1] == len(row) and states.shape == (len(positions), 576)
