"""Sampling and scoring: every off-by-one that RLHF code is known for."""

import dataclasses
import types

import pytest
import torch
from small_models import KINDS, POSITIONS, PROMPTS, mixed, policy_of, tokenizer_of, unbatched
from tools import chi_square_p, holistic

from rlhf_lib import reviews
from rlhf_lib.mdp import TokenMDP, action_logprobs, enumerate_episodes
from rlhf_lib.models import as_policy, load_model
from rlhf_lib.rollout import Rollout, from_texts, pack_bits, pad_left, prompt_batch, sample, score, unpack_bits

TENSORS = ("prompt_ids", "prompt_mask", "tokens", "mask", "logprobs", "finished")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def same(a: Rollout, b: Rollout) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def by_hand(policy, rollout, row, temperature=1.0):
    """Log-probs and values of one row, each from the history before the token, without batch or cache."""
    prompt = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
    drawn = rollout.tokens[row][rollout.mask[row]].tolist()
    logprobs, values = [], []
    for t, token in enumerate(drawn):
        logits, hidden = unbatched(policy, prompt + drawn[:t])
        logprobs.append((logits[-1].double() / temperature).log_softmax(-1)[token])
        values.append((hidden[-1] @ policy.value_head.weight[0] + policy.value_head.bias[0]).double())
    return torch.stack(logprobs), torch.stack(values)


# --- sampler and scorer agree, with each other and with the plain model -----------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_samplers_logprobs_are_the_teacher_forced_ones(kind, temperature):
    policy = policy_of(kind)
    for samples in (1, 5):
        rollout = sample(
            policy,
            PROMPTS * 2,
            max_new_tokens=9,
            samples_per_prompt=samples,
            temperature=temperature,
            generator=seeded(1),
        )
        assert rollout.temperature == temperature
        scores = score(policy, rollout)
        torch.testing.assert_close(scores.logprobs, rollout.logprobs, atol=1e-5, rtol=0)
        for row in range(0, len(rollout), 7):
            logprobs, values = by_hand(policy, rollout, row, temperature)
            n = len(logprobs)
            torch.testing.assert_close(scores.logprobs[row, :n].double(), logprobs, atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.values[row, :n].double(), values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_is_1_and_kl_is_0_before_the_first_update(kind):
    policy, reference = policy_of(kind), policy_of(kind)
    rollout = mixed(policy)
    new, ref = score(policy, rollout).logprobs, score(reference, rollout).logprobs
    assert ((new - rollout.logprobs).exp() - 1).abs().max() < 1e-5
    assert torch.equal(new, ref)
    assert new.requires_grad


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_row_does_not_depend_on_which_others_have_finished(kind):
    policy, rows = policy_of(kind), [tokenizer_of(kind)(p)["input_ids"] for p in PROMPTS]
    options = {"max_new_tokens": 10, "samples_per_prompt": 4}
    ending = sample(policy, rows, **options, generator=seeded(4))
    assert ending.finished.any() and not ending.finished.all()
    policy.tokenizer = types.SimpleNamespace(eos_token_id=-1, pad_token_id=0)
    endless = sample(policy, rows, **options, generator=seeded(4))
    assert endless.mask.all() and endless.tokens.shape == (16, 10) and not endless.finished.any()
    width = ending.tokens.shape[1]
    assert torch.equal(ending.tokens[ending.mask], endless.tokens[:, :width][ending.mask])
    torch.testing.assert_close(
        ending.logprobs[ending.mask], endless.logprobs[:, :width][ending.mask], atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_finished_rows_and_further_samples_of_a_prompt_cost_nothing():
    policy, sizes = policy_of("llama"), []
    policy.lm.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    rollout = mixed(policy, samples=6)
    assert sizes[0] == rollout.prompt_ids[::6].shape  # one prefill a prompt
    going = [int((rollout.lengths > t).sum()) for t in range(1, rollout.tokens.shape[1])]
    assert sizes[1:] == [(n, 1) for n in going]


def test_the_same_seed_gives_the_same_rollout():
    policy = policy_of("llama")
    torch.manual_seed(0)
    first = mixed(policy, generator=seeded(4))
    torch.manual_seed(1)
    assert same(mixed(policy, generator=seeded(4)), first)
    assert not torch.equal(sample(policy, PROMPTS, max_new_tokens=10, generator=seeded(5)).tokens, first.tokens[::3])
    torch.manual_seed(7)
    free = sample(policy, PROMPTS, max_new_tokens=4)
    torch.manual_seed(7)
    assert same(sample(policy, PROMPTS, max_new_tokens=4), free)
    assert not first.logprobs.requires_grad


@torch.no_grad()
def test_samples_follow_the_distribution():
    model, mdp = load_model("micro"), reviews.micro_mdp(horizon=2)
    codes = model.tokenizer.convert_tokens_to_ids([w if w != "." else "<eos>" for w in mdp.actions])
    may = torch.zeros(model.lm.config.vocab_size, dtype=torch.bool)
    may[codes] = True
    tokens, mask = enumerate_episodes(mdp)
    exact = action_logprobs(mdp, as_policy(model, "awful but", mdp), tokens, mask).sum(1).double().exp()
    rollout = sample(
        model,
        ["awful but"],
        max_new_tokens=2,
        samples_per_prompt=20_000,
        generator=seeded(),
        action_mask=lambda ids, attention, rows: may.expand(len(ids), -1),
    )
    drawn = torch.where(rollout.mask, rollout.tokens, 2)
    listed = torch.tensor(codes)[tokens]
    counts = (drawn[:, None] == listed).all(-1).sum(0).double()
    assert counts.sum() == 20_000
    assert chi_square_p(counts, 20_000 * exact) > 1e-4
    assert chi_square_p(counts, 20_000 * exact.roll(1)) < 1e-4  # this many samples can tell


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@torch.no_grad()
def test_the_first_token_follows_the_softmax_at_the_temperature(temperature):
    policy = policy_of("gpt2")
    rollout = sample(
        policy, ["bad"], max_new_tokens=1, samples_per_prompt=20_000, temperature=temperature, generator=seeded(5)
    )
    logits, _ = unbatched(policy, tokenizer_of("gpt2")("bad")["input_ids"])
    expected = 20_000 * (logits[-1].double() / temperature).softmax(-1)
    counts = torch.bincount(rollout.tokens[:, 0], minlength=len(expected)).double()
    seldom = expected < 5  # chi-square needs a few in every bin: the seldom tokens share one
    counts, expected = (torch.cat([x[~seldom], x[seldom].sum(0, keepdim=True) + 1e-9]) for x in (counts, expected))
    assert chi_square_p(counts, expected) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_temperature_0_takes_the_likeliest_token(kind):
    policy = policy_of(kind)
    rollout = sample(policy, PROMPTS, max_new_tokens=5, samples_per_prompt=2, temperature=0)
    assert torch.equal(rollout.tokens[::2], rollout.tokens[1::2])
    for row in range(len(rollout)):
        history = rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist()
        for token in rollout.tokens[row][rollout.mask[row]].tolist():
            assert unbatched(policy, history)[0][-1].argmax() == token
            history.append(token)
        logprobs, _ = by_hand(policy, rollout, row)
        torch.testing.assert_close(rollout.logprobs[row, : len(logprobs)].double(), logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(score(policy, rollout).logprobs, rollout.logprobs, atol=1e-5, rtol=0)


# --- what a roll-out holds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_layout_of_a_rollout(kind):
    policy = policy_of(kind)
    rollout = mixed(policy, samples=4)
    assert len(rollout) == 16 and rollout.samples_per_prompt == 4 and rollout.allowed is None
    encoded = [tokenizer_of(kind)(p)["input_ids"] for p in PROMPTS]
    for row in range(16):
        prompt, length = encoded[row // 4], int(rollout.lengths[row])
        assert rollout.prompt_mask[row].tolist() == [False] * (rollout.prompt_ids.shape[1] - len(prompt)) + [
            True
        ] * len(prompt)
        assert rollout.prompt_ids[row][rollout.prompt_mask[row]].tolist() == prompt
        assert rollout.mask[row].tolist() == [True] * length + [False] * (rollout.tokens.shape[1] - length)
        drawn = rollout.tokens[row, :length].tolist()
        assert 2 not in drawn[:-1] and (drawn[-1] == 2) == rollout.finished[row].item()  # the end token is masked in
        assert rollout.finished[row] or length == 10
        assert rollout.sequences()[row] == prompt + drawn
    assert rollout.tokens.shape[1] == rollout.lengths.max()
    assert not rollout.logprobs[~rollout.mask].any() and (rollout.logprobs[rollout.mask] < 0).all()
    assert rollout.mask.dtype == rollout.prompt_mask.dtype == rollout.finished.dtype == torch.bool


def test_an_end_token_at_the_last_step_counts_as_finished():
    policy = policy_of("llama")
    end = torch.arange(24) == 2
    rollout = sample(policy, PROMPTS, max_new_tokens=1, action_mask=lambda ids, *_: end.expand(len(ids), -1))
    assert rollout.finished.all() and rollout.tokens.tolist() == [[2]] * 4 and rollout.completions() == [""] * 4
    rollout = sample(policy, PROMPTS, max_new_tokens=3, action_mask=lambda ids, *_: ~end.expand(len(ids), -1))
    assert not rollout.finished.any() and rollout.lengths.tolist() == [3] * 4


def test_rows_can_be_picked():
    rollout = mixed(policy_of("llama"))
    assert same(rollout[:], rollout)
    for rows in ([3, 0], torch.tensor([3, 0]), slice(2, 5), torch.arange(12) % 2 == 0):
        for name in TENSORS:
            assert torch.equal(getattr(rollout[rows], name), getattr(rollout, name)[rows])
    assert torch.equal(rollout[-1].tokens, rollout.tokens[-1:]) and torch.equal(rollout[0].tokens, rollout.tokens[:1])
    with pytest.raises(IndexError):
        rollout[12]
    assert len([row for row in rollout]) == 12
    assert rollout[[1]].tokenizer is rollout.tokenizer and rollout[[1]].temperature == rollout.temperature


def test_prompts_and_completions_as_text():
    rollout = mixed(policy_of("llama"))
    assert rollout.prompts() == [p for p in PROMPTS for _ in range(3)]
    for row, whole in enumerate(rollout.tokenizer.batch_decode(rollout.sequences(), skip_special_tokens=True)):
        assert rollout.prompts()[row] + rollout.completions()[row] == whole
    model = load_model("micro")  # whose tokenizer decodes a first word without the space before it
    texts = from_texts(model, [("awful", " but great"), ("very", " very good")])
    assert texts.prompts() == ["awful", "very"] and texts.completions() == [" but great", " very good"]
    with pytest.raises(ValueError, match="tokenizer"):
        dataclasses.replace(rollout, tokenizer=None).completions()


# --- action masks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 7, 8, 9, 24, 50])
def test_packed_masks_round_trip(width):
    flags = torch.rand(3, 4, width, generator=seeded()) < 0.5
    packed = pack_bits(flags)
    assert packed.dtype == torch.uint8 and packed.shape == (3, 4, -(-width // 8))
    assert torch.equal(unpack_bits(packed, width), flags)


def test_the_bits_of_a_packed_mask():
    assert pack_bits(torch.tensor([1, 0, 1, 0, 0, 0, 0, 0, 0, 1]).bool()).tolist() == [0b101, 0b10]
    assert pack_bits(torch.ones(8).bool()).tolist() == [255]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_of_the_actions_is_in_the_ratio(kind):
    policy, calls, given = policy_of(kind), [], {}

    def action_mask(ids, attention, rows):
        may = (torch.arange(24) + ids[:, -1:]) % 4 != 0  # depends on the history
        may[:, 2] = True
        calls.append((ids, attention, rows))
        for i, row in enumerate(rows.tolist()):
            given[row, int(attention[i].sum())] = may[i]
        return may

    rollout = mixed(policy, action_mask=action_mask, temperature=0.8, max_new_tokens=7)
    allowed = unpack_bits(rollout.allowed, 24)
    assert rollout.allowed.dtype == torch.uint8 and rollout.allowed.shape == (*rollout.tokens.shape, 3)
    for row in range(len(rollout)):
        start = int(rollout.prompt_mask[row].sum())
        for t in range(int(rollout.lengths[row])):
            assert torch.equal(allowed[row, t], given[row, start + t])
            assert allowed[row, t, rollout.tokens[row, t]]
    for t, (ids, attention, rows) in enumerate(calls):  # the callback sees each running row's own history
        assert rows.tolist() == (rollout.lengths > t).nonzero().flatten().tolist() and attention.dtype == torch.bool
        for i, row in enumerate(rows.tolist()):
            assert ids[i][attention[i]].tolist() == rollout.sequences()[row][: int(rollout.prompt_mask[row].sum()) + t]

    logprobs = score(policy, rollout).logprobs
    torch.testing.assert_close(logprobs, rollout.logprobs, atol=1e-5, rtol=0)
    logits, _ = unbatched(policy, rollout.sequences()[0])
    t0 = int(rollout.prompt_mask[0].sum()) - 1
    wanted = (logits[t0] / 0.8).masked_fill(~allowed[0, 0], -torch.inf).log_softmax(-1)[rollout.tokens[0, 0]]
    assert rollout.logprobs[0, 0].item() == pytest.approx(wanted.item(), abs=1e-5)
    free = score(policy, dataclasses.replace(rollout, allowed=None)).logprobs
    assert (free[rollout.mask] < logprobs[rollout.mask]).all()
    logprobs.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in policy.parameters())


def test_action_masks_that_make_no_sense():
    policy = policy_of("llama")
    nothing = torch.zeros(4, 24, dtype=torch.bool)
    nothing[0] = True
    for action_mask, complaint in [
        (lambda *_: nothing, "every action"),
        (lambda *_: torch.ones(4, 24), "bool"),
        (lambda *_: torch.ones(4, 23, dtype=torch.bool), "24"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            sample(policy, PROMPTS, max_new_tokens=2, action_mask=action_mask)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "options", "complaint"),
    [
        (["a", ""], {}, "empty prompt"),
        ([[]], {}, "empty prompt"),
        ([], {}, "at least one prompt"),
        ("a good movie", {}, "a list"),
        (["a"], {"max_new_tokens": POSITIONS}, f"{POSITIONS}"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens"),
        (["a"], {"samples_per_prompt": 0}, "samples_per_prompt"),
        (["a"], {"temperature": -1.0}, "temperature"),
        (["a"], {"temperature": float("nan")}, "temperature"),
    ],
)
def test_calls_that_make_no_sense(prompts, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        sample(policy_of("gpt2"), prompts, **{"max_new_tokens": 2} | options)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_position_can_be_used(kind):
    policy = policy_of(kind)
    start = len(tokenizer_of(kind)("a")["input_ids"])
    options = {"action_mask": lambda ids, *_: (torch.arange(24) != 2).expand(len(ids), -1)}
    rollout = sample(policy, ["a"], max_new_tokens=POSITIONS - start, **options)
    assert rollout.tokens.shape == (1, POSITIONS - start)
    torch.testing.assert_close(score(policy, rollout).logprobs, rollout.logprobs, atol=1e-5, rtol=0)


# --- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_at_pads_changes_nothing(kind):
    policy = policy_of(kind)
    rollout = mixed(policy)

    def results(rollout):
        policy.zero_grad()
        scores = score(policy, rollout)
        (scores.logprobs * torch.arange(12.0)[:, None] + scores.values).sum().backward()
        return scores, [p.grad.clone() for p in policy.parameters()]

    scores, gradients = results(rollout)
    assert not scores.logprobs[~rollout.mask].any() and not scores.values[~rollout.mask].any()
    garbage = torch.randint(24, (12, 64), generator=seeded())
    dirty = dataclasses.replace(
        rollout,
        prompt_ids=torch.where(rollout.prompt_mask, rollout.prompt_ids, garbage[:, : rollout.prompt_ids.shape[1]]),
        tokens=torch.where(rollout.mask, rollout.tokens, garbage[:, : rollout.tokens.shape[1]]),
    )
    again, same_gradients = results(dirty)
    torch.testing.assert_close(again.logprobs, scores.logprobs, atol=1e-6, rtol=0)
    torch.testing.assert_close(again.values, scores.values, atol=1e-5, rtol=0)
    for a, b in zip(same_gradients, gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_rows_score_the_same_in_any_order_and_company(kind):
    policy = policy_of(kind)
    rollout = mixed(policy)
    whole = score(policy, rollout)
    order = torch.randperm(12, generator=seeded())
    for rows in order.split(5):
        part = score(policy, rollout[rows])
        torch.testing.assert_close(part.logprobs, whole.logprobs[rows], atol=1e-5, rtol=0)
        torch.testing.assert_close(part.values, whole.values[rows], atol=1e-5, rtol=0)


def test_without_a_value_head_there_are_no_values():
    policy = policy_of("llama", value_head=False)
    assert score(policy, mixed(policy)).values is None


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_demonstrations_are_scored_like_samples(kind):
    policy, tokenizer = policy_of(kind), tokenizer_of(kind)
    pairs = [("a good", " movie"), ("a", ""), ("bad", " bad bad movie")]
    rollout = from_texts(policy, pairs)
    assert rollout.prompts() == [p for p, _ in pairs] and rollout.completions() == [c for _, c in pairs]
    for row, (prompt, text) in enumerate(pairs):
        wanted = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert rollout.sequences()[row] == tokenizer(prompt)["input_ids"] + wanted + [2]  # one end token
        logprobs, _ = by_hand(policy, rollout, row)
        got = score(policy, rollout).logprobs[row]
        torch.testing.assert_close(got[: len(logprobs)].double(), logprobs, atol=1e-5, rtol=0)
    assert rollout.finished.all() and not rollout.logprobs.any()
    assert from_texts(policy, [("a", " bad<eos>")]).sequences() == from_texts(policy, [("a", " bad")]).sequences()
    with pytest.raises(ValueError, match=f"{POSITIONS}"):
        from_texts(policy, [("a", "a" * POSITIONS)])
    with pytest.raises(ValueError, match="empty prompt"):
        from_texts(policy, [("", " bad")])
    with pytest.raises(ValueError, match="does not know"):
        from_texts(load_model("micro"), [("bad", " film")])


def test_pad_left():
    ids, mask = pad_left([[1, 2, 3], [4]], 9)
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]] and mask.tolist() == [[True] * 3, [False, False, True]]


# --- prompts of a step ------------------------------------------------------------------------------------------------


def test_the_prompts_of_a_step():
    prompts = [str(i) for i in range(7)]
    batches = [prompt_batch(prompts, step, 3, seed=1) for step in range(14)]
    drawn = [p for batch in batches for p in batch]
    passes = [drawn[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(one) == prompts for one in passes)  # every prompt once a pass
    assert len({tuple(one) for one in passes}) == 6  # each pass in an order of its own
    assert prompt_batch(prompts, 9, 3, seed=1) == batches[9] != prompt_batch(prompts, 9, 3, seed=2)
    assert sorted(prompt_batch(prompts, 0, 14)) == sorted(prompts * 2)
    with pytest.raises(ValueError, match="no prompts"):
        prompt_batch([], 0, 3)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(None, 1e-4), (torch.bfloat16, 0.1)])
def test_on_a_gpu(dtype, tolerance):
    policy = load_model("micro", device="cuda", dtype=dtype, value_head=True)
    rollout = sample(policy, ["awful", "not very"], max_new_tokens=6, samples_per_prompt=4, generator=seeded())
    scores = score(policy, rollout)
    torch.testing.assert_close(scores.logprobs, rollout.logprobs, atol=tolerance, rtol=0)
    assert scores.logprobs.is_cuda and scores.logprobs.dtype == torch.float32
    on_cpu = score(load_model("micro", device="cpu"), dataclasses.replace(rollout)).logprobs
    torch.testing.assert_close(scores.logprobs.cpu(), on_cpu, atol=tolerance, rtol=0)


def test_a_policy_over_all_tokens_is_what_is_sampled_from():
    model = policy_of("gpt2")
    mdp = TokenMDP(tuple(str(i) for i in range(24)), 2, holistic, eos=2)
    prompt = tokenizer_of("gpt2")("bad")["input_ids"]
    rollout = sample(model, [prompt], max_new_tokens=2, samples_per_prompt=8, generator=seeded())

    def policy(tokens):
        ids = torch.cat([torch.tensor(prompt).expand(len(tokens), -1), tokens[:, :-1]], 1)
        return model(ids, torch.ones_like(ids), last=tokens.shape[1])[0].log_softmax(-1)

    tokens = torch.where(rollout.mask, rollout.tokens, 2)
    torch.testing.assert_close(action_logprobs(mdp, policy, tokens, rollout.mask), rollout.logprobs, atol=1e-5, rtol=0)
