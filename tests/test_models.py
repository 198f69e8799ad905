"""Policies and reward models: positions, padding, precision, heads, and what a saved folder holds."""

import json
import shutil
import types
import warnings

import pytest
import torch
from small_models import KINDS, POSITIONS, folder_of, lm_of, mixed, policy_of, reward_model_of, tokenizer_of, unbatched
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tools import holistic
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rlhf_lib import reviews
from rlhf_lib.mdp import TokenMDP, enumerate_episodes, exact_objective, exact_values
from rlhf_lib.models import (
    PACKED,
    Policy,
    RewardModel,
    TablePolicy,
    _packs,
    as_policy,
    choose_device,
    dropout,
    encode_prompt,
    load_model,
    load_reward_model,
)
from rlhf_lib.paths import data_dir
from rlhf_lib.rollout import Rollout, pad_left, sample, score

ROWS = [[1, 5, 9, 4], [1, 7], [1, 3, 3, 8, 6, 11, 4]]
needs_tiny = pytest.mark.skipif(not (data_dir() / "tiny" / "model.safetensors").is_file(), reason="no data/tiny")


@pytest.fixture
def gpt2_like(tmp_path):
    """A folder as GPT-2's: one special token that is start, end and unknown at once, and no pad."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    end = "<|endoftext|>"
    core.train_from_iterator([], trainers.BpeTrainer(vocab_size=257, special_tokens=[end], initial_alphabet=alphabet))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=end, eos_token=end, unk_token=end)
    lm_of("gpt2", len(tokenizer)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


# --- positions, padding, precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(kind):
    policy = policy_of(kind)
    for right in (0, 2):
        ids, mask = pad_left(ROWS, 0)
        ids = torch.cat([ids, torch.full((len(ROWS), right), 17)], 1)  # garbage, not the pad token
        mask = torch.cat([mask, torch.zeros(len(ROWS), right, dtype=torch.bool)], 1)
        ids = torch.where(mask, ids, 17)
        logits, values = policy(ids, mask, last=ids.shape[1])
        for i, row in enumerate(ROWS):
            alone, hidden = unbatched(policy, row)
            torch.testing.assert_close(logits[i, mask[i]], alone, atol=1e-5, rtol=0)
            wanted = hidden @ policy.value_head.weight[0]
            torch.testing.assert_close(values[i, mask[i]], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_positions_count_real_tokens(kind):
    policy, seen = policy_of(kind), []
    policy.lm.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    ids, mask = pad_left([[1, 2], [3, 4, 5]], 0)
    policy(ids, mask, last=1)
    assert seen[0].tolist() == [[0, 0, 1], [0, 1, 2]]


def test_pad_start_and_end_are_three_tokens():
    tokenizer = load_model("micro").tokenizer
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer("good")["input_ids"][0] == tokenizer.bos_token_id


def test_a_tokenizer_without_pad_gets_one_that_is_not_its_end_and_loses_no_text(gpt2_like, tmp_path):
    text = 'Yes! "No!!" \x00 #1 Ā.'
    policy = load_model(gpt2_like)
    policy.save(tmp_path / "saved")
    for tokenizer in (policy.tokenizer, load_model(tmp_path / "saved").tokenizer):
        assert tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.batch_decode([ids], skip_special_tokens=True) == [text]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_dropout_is_off_even_after_train(kind):
    ids = torch.tensor([ROWS[0]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    policy, rm = policy_of(kind), reward_model_of(kind)
    before = policy(ids, mask, last=4)[0], rm.score_ids(ROWS)
    torch.nn.ModuleList([policy, rm]).train()
    assert policy.train() is policy and rm.train() is rm
    assert not any(module.training for module in [*policy.modules(), *rm.modules()])
    assert torch.equal(policy(ids, mask, last=4)[0], before[0]) and torch.equal(rm.score_ids(ROWS), before[1])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_dropout_is_on_where_it_is_asked_for_and_nowhere_else(kind):
    rm = reward_model_of(kind)
    plain, state = rm.score_ids(ROWS), torch.get_rng_state()

    def dropped(rate, seed):
        with dropout(rm, rate, seed):
            return rm.score_ids(ROWS)

    assert torch.equal(dropped(0.3, seed=1), dropped(0.3, seed=1))
    assert (dropped(0.3, seed=1) - dropped(0.3, seed=2)).abs().max() > 1e-3
    assert torch.equal(dropped(0.0, seed=1), plain)
    with pytest.raises(ZeroDivisionError), dropout(rm, 0.5, seed=1):
        1 / 0  # noqa: B018
    assert torch.equal(rm.score_ids(ROWS), plain) and not any(module.training for module in rm.modules())
    assert torch.equal(torch.get_rng_state(), state)


@torch.no_grad()
def test_dropout_takes_a_feature_from_all_words_of_a_row():
    rm, seen = reward_model_of("llama"), []
    with dropout(rm, 0.5, seed=1):
        hook = rm.lm.get_input_embeddings().register_forward_hook(lambda module, inputs, output: seen.append(output))
        rm.score_ids([[3, 4, 5] * 13, [5, 6, 7] * 13])
        hook.remove()
    gone = seen[0] == 0  # [2 rows, 40 tokens, features]
    assert torch.equal(gone, gone[:, :1].expand_as(gone)) and 0.2 < gone.float().mean() < 0.8
    assert not torch.equal(gone[0], gone[1])


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_autocast_over_float32_weights(kind, tmp_path):
    policy = load_model(folder_of(kind, tmp_path), dtype=torch.bfloat16, value_head=True)
    rollout = sample(policy, ["a good", "bad"], max_new_tokens=4, generator=torch.Generator().manual_seed(0))
    scores = score(policy, rollout)
    assert rollout.logprobs.dtype == scores.logprobs.dtype == scores.values.dtype == torch.float32
    exact = score(load_model(tmp_path), rollout).logprobs
    assert 1e-6 < (scores.logprobs - exact).abs().max() < 0.3  # it is bf16, and it is the same model
    (scores.logprobs.sum() + scores.values.sum()).backward()
    torch.optim.AdamW(policy.parameters(), lr=1e-3).step()
    for parameter in policy.parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.isfinite().all()
    rm = load_reward_model(tmp_path, dtype=torch.bfloat16)
    assert rm(rollout).dtype == torch.float32 and rm.head.weight.dtype == torch.float32


def test_float64_stays_float64():
    policy, rm = (
        load_model("micro", dtype=torch.float64, value_head=True),
        load_reward_model("micro", dtype=torch.float64),
    )
    ids = torch.tensor([[1, 4, 5]])
    logits, values = policy(ids, ids > 0, last=2)
    assert logits.dtype == values.dtype == rm.score_ids([[1, 4]]).dtype == torch.float64
    single, _ = load_model("micro")(ids, ids > 0, last=2)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), logits, atol=1e-5, rtol=0)


def test_a_file_of_half_precision_is_read_as_float32(tmp_path):
    folder_of("llama", tmp_path)
    lm_of("llama", len(tokenizer_of("llama"))).half().save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def test_devices_and_types_that_cannot_be_had(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.delenv("RLHF_DEVICE", raising=False)
    assert choose_device() == choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    for name in ("cuda", "cuda:1", "mps", "gpu"):
        with pytest.raises(ValueError, match=name):
            choose_device(name)
    monkeypatch.setenv("RLHF_DEVICE", "mps")
    for load in (load_model, load_reward_model):
        with pytest.raises(ValueError, match="unset RLHF_DEVICE"):
            load("micro")
        with pytest.raises(ValueError, match="float16"):
            load("micro", device="cpu", dtype=torch.float16)


# --- heads and the reward model's token -------------------------------------------------------------------------------


def test_the_value_head_starts_at_zero():
    policy = load_model("micro", value_head=True)
    ids = torch.tensor([[1, 4, 5]])
    assert policy(ids, ids > 0, last=3)[1].tolist() == [[0, 0, 0]]
    assert load_model("micro").value_head is None


def test_the_reward_head_starts_small_and_the_same():
    embedding = torch.nn.Embedding(2, 4095)
    lm = torch.nn.Module()
    lm.config = types.SimpleNamespace(hidden_size=4095)
    lm.get_input_embeddings = lambda: embedding
    weight = RewardModel(lm, None, name="wide").head.weight
    assert weight.std().item() == pytest.approx(1 / 64, rel=0.05) and abs(weight.mean().item()) < 1e-3
    torch.manual_seed(5)
    assert torch.equal(RewardModel(lm, None, name="wide").head.weight, weight)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_reward_model_reads_the_end_token_after_the_last_real_one(kind):
    rm = reward_model_of(kind)
    rows = [*ROWS, [1, 5, 0, 0]]  # a drawn pad token is a token like any other
    scores = rm.score_ids(rows)
    for row, got in zip(rows, scores, strict=True):
        hidden = rm.lm.get_decoder()(input_ids=torch.tensor([[*row, 2]])).last_hidden_state[0, -1]
        wanted = hidden @ rm.head.weight[0] + rm.head.bias[0]
        assert got.item() == pytest.approx(wanted.item(), abs=1e-5)
    assert torch.equal(rm.score_ids([[*row, 2] for row in rows]), scores)  # one end token, never two
    torch.testing.assert_close(rm.score_ids(rows, chunk=2), scores, atol=1e-5, rtol=0)
    rm.tokenizer = types.SimpleNamespace(eos_token_id=2, pad_token_id=17)
    assert torch.equal(rm.score_ids(rows), scores)


@pytest.mark.parametrize("kind", (*PACKED, "opt", "bloom"))
def test_texts_that_share_a_row_do_not_see_each_other(kind):
    rm = RewardModel(family(kind), types.SimpleNamespace(eos_token_id=2, pad_token_id=0), name=kind)
    body, sizes = rm.lm.get_decoder(), []
    texts = [[1, 5, 6, 7, 9], [4], [8, 9, 10, 11, 12, 13, 14], [3, 3], [5, 6, 7, 8, 9] * 6]

    def alone(text):
        return rm.head(body(input_ids=torch.tensor([[*text, 2]]), use_cache=False).last_hidden_state[0, -1])

    wanted = torch.cat([alone(text) for text in texts])
    hook = body.register_forward_hook(lambda module, inputs, output: sizes.append(len(output.last_hidden_state)))
    scores = rm.score_ids(texts)
    hook.remove()
    assert sizes == [1 if kind in PACKED else 5] and wanted.std() > 0.1
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)
    weights = list(body.parameters())
    gradients = [torch.autograd.grad(x.square().sum(), weights, allow_unused=True) for x in (scores, wanted)]
    for got, want in zip(*gradients, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(got, want, atol=1e-3 * wanted.abs().max().item(), rtol=1e-3)


def family(kind):
    """A two-layer model of any family, with weights so large that what a word attends to matters."""
    config = AutoConfig.for_model(kind, vocab_size=24, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    sizes = {"intermediate_size": 32, "num_key_value_heads": 2, "head_dim": 8, "word_embed_proj_dim": 16, "ffn_dim": 32}
    for name in sizes.keys() & vars(config).keys():
        setattr(config, name, sizes[name])
    config.pad_token_id = 0
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config)
    for weight in lm.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return lm


def test_rows_are_filled_and_never_beyond_their_room():
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 60, (400,), generator=draw).tolist()
    packs = _packs(lengths, 64)
    assert sorted(i for pack in packs for i in pack) == list(range(400))
    filled = [sum(lengths[i] for i in pack) for pack in packs]
    assert max(filled) <= 64 and sum(filled) > 0.95 * 64 * len(packs)
    assert _packs([20, 3, 9, 30], 12) == [[3], [0], [2, 1]]  # long texts alone, and nobody beside them
    assert _packs([5, 3, 9], 0) == [[2], [0], [1]] and _packs([5, 3, 9], 9) == [[2], [0, 1]]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_text_scores_the_same_alone_and_among_others(kind):
    rm = reward_model_of(kind)
    texts = ["a good movie", "bad", "a", "a bad bad movie a bad", "a good movie"]
    together = rm.score_texts(texts)
    torch.testing.assert_close(together, torch.cat([rm.score_texts([t]) for t in texts]), atol=1e-5, rtol=0)
    torch.testing.assert_close(together, rm.score_ids(rm.encode(texts), chunk=2), atol=1e-5, rtol=0)
    assert (together[0] - together[1]).abs() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_rollouts_are_those_of_their_ids(kind):
    rm, policy = reward_model_of(kind, seed=1), policy_of(kind)
    rollout = mixed(policy)
    rows = rollout.sequences()
    assert all((row[-1] == 2) == done for row, done in zip(rows, rollout.finished.tolist(), strict=True))
    scores = rm(rollout)
    for row, got in zip(rows, scores, strict=True):  # a completion that was cut off is closed first
        assert got.item() == pytest.approx(rm.score_ids([row if row[-1] == 2 else [*row, 2]]).item(), abs=1e-5)
    scores.sum().backward()
    assert rm.head.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_sampled_ids_are_not_decoded_and_encoded_again():
    rm = reward_model_of("llama")
    letters = [rm.tokenizer.convert_tokens_to_ids(letter) for letter in "bad"]
    assert rm.tokenizer("bad", add_special_tokens=False)["input_ids"] != letters
    mask = torch.ones(1, 3, dtype=torch.bool)
    rollout = Rollout(
        torch.tensor([[1]]),
        torch.ones(1, 1).bool(),
        torch.tensor([letters]),
        mask,
        mask * 0.0,
        mask[:, 0],
        tokenizer=rm.tokenizer,
    )
    assert rollout.completions() == ["bad"]
    torch.testing.assert_close(rm(rollout), rm.score_ids([[1, *letters]]))
    assert (rm(rollout) - rm.score_texts(["bad"])).abs() > 1e-3


@torch.no_grad()
def test_a_reward_model_with_another_tokenizer_reads_the_text():
    rm = load_reward_model("micro")
    policy = policy_of("llama")
    rollout = sample(policy, ["bad"], max_new_tokens=3, generator=torch.Generator().manual_seed(0))
    texts = [p + c for p, c in zip(rollout.prompts(), rollout.completions(), strict=True)]
    torch.testing.assert_close(rm(rollout), rm.score_texts(texts))


@torch.no_grad()
def test_centring_fixes_the_constant():
    rm = reward_model_of("llama")
    texts = ["a good movie", "bad", "a"]
    before = rm.score_texts(texts)
    assert rm.centre(texts) == pytest.approx(before.mean().item())
    torch.testing.assert_close(rm.score_texts(texts), before - before.mean(), atol=1e-6, rtol=0)


def test_texts_that_cannot_be_scored():
    rm = reward_model_of("llama")
    with pytest.raises(ValueError, match="empty text"):
        rm.score_texts(["a", " "])
    with pytest.raises(ValueError, match=str(POSITIONS)):
        rm.score_texts(["a" * (POSITIONS + 1)])


# --- policies over an MDP ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eos", [None, 0, 1, 2])
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_the_rows_of_a_table_are_the_states_of_exact_values(horizon, eos):
    mdp = TokenMDP(("a", "b", "c"), horizon, holistic, eos=eos)
    table = TablePolicy(mdp)
    states = exact_values(mdp, table).states
    assert table.logits.shape == (len(states), 3)
    assert torch.equal(
        table(enumerate_episodes(mdp)[0]).exp().sum(-1).round(decimals=5),
        torch.ones(()).expand(len(enumerate_episodes(mdp)[0]), horizon),
    )
    torch.nn.init.normal_(table.logits, generator=torch.Generator().manual_seed(0))
    for row, state in enumerate(states):
        found = table(torch.tensor([[*state, 0]]))[0, -1]
        torch.testing.assert_close(found, table.logits[row].log_softmax(-1))
    assert (torch.autograd.grad(exact_objective(mdp, table), table.logits)[0].abs().sum(1) > 0).all()


def test_a_table_starts_uniform_and_checks_its_tokens():
    table = TablePolicy(TokenMDP(("a", "b"), 3, holistic))
    torch.testing.assert_close(table(torch.tensor([[0, 1]])).exp(), torch.full((1, 2, 2), 0.5))
    for bad in (torch.zeros(1, 4).long(), torch.zeros(1, 2), torch.zeros(2).long()):
        with pytest.raises(ValueError, match="T ≤ 3"):
            table(bad)


def test_a_language_model_as_a_policy():
    model, mdp = load_model("micro"), reviews.micro_mdp(horizon=3)
    policy = as_policy(model, "awful but", mdp)
    tokens, _ = enumerate_episodes(mdp)
    logprobs = policy(tokens)
    torch.testing.assert_close(logprobs.exp().sum(-1), torch.ones(logprobs.shape[:2]))
    torch.testing.assert_close(as_policy(model, "awful but", mdp, batch_size=7)(tokens), logprobs, atol=1e-6, rtol=0)
    codes = [2 if word == "." else model.tokenizer.convert_tokens_to_ids(word) for word in mdp.actions]
    start = model.tokenizer("awful but")["input_ids"]
    for i in (0, 123, 500):
        for t in range(3):
            history = [codes[a] for a in tokens[i, :t].tolist()]
            logits, _ = unbatched(model, start + history)
            torch.testing.assert_close(logprobs[i, t], logits[-1, codes].log_softmax(-1), atol=1e-5, rtol=0)
    exact_objective(mdp, policy).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.lm.model.parameters())


def test_actions_must_be_single_known_tokens():
    for model, word in ((load_model("micro"), "movie"), (policy_of("llama"), "good bad")):
        with pytest.raises(ValueError, match="single tokens"):
            as_policy(model, "bad", TokenMDP((word,), 1, holistic))


def test_prompts_as_ids():
    tokenizer = load_model("micro").tokenizer
    assert encode_prompt(tokenizer, "awful but") == [1, *tokenizer.convert_tokens_to_ids(["awful", "but"])]
    assert encode_prompt(tokenizer, [5, 6]) == [5, 6]  # as they are: no start token is added
    for prompt in ("", []):
        with pytest.raises(ValueError, match="empty prompt"):
            encode_prompt(tokenizer, prompt)
    with pytest.raises(ValueError, match="does not know"):
        encode_prompt(tokenizer, "awful film")


def test_the_micro_model_is_the_same_on_every_call():
    state = torch.get_rng_state()
    first = load_model("micro")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    second = load_model("micro")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert first.lm.config.num_hidden_layers == 1


# --- saving and loading -----------------------------------------------------------------------------------------------


def only_safe_files(folder) -> bool:
    return {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md", ".jinja"}


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_policy_is_saved_with_its_value_head(kind, tmp_path):
    policy = policy_of(kind)
    policy.save(tmp_path / "policy")
    assert only_safe_files(tmp_path / "policy")
    ids, mask = pad_left(ROWS, 0)
    logits, values = policy(ids, mask, last=3)
    again = load_model(tmp_path / "policy", value_head=True)
    assert torch.equal(again(ids, mask, last=3)[0], logits) and torch.equal(again(ids, mask, last=3)[1], values)
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert load_model(str(tmp_path / "policy")).value_head is None
    load_model(tmp_path / "policy").save(tmp_path / "policy")  # the head in the folder is none of this policy's
    assert load_model(tmp_path / "policy", value_head=True)(ids, mask, last=3)[1].abs().sum() == 0


@torch.no_grad()
def test_a_reward_model_is_saved_with_its_head(tmp_path):
    rm = reward_model_of("llama")
    rm.centre(["a", "bad"])
    rm.save(tmp_path / "rm")
    assert only_safe_files(tmp_path / "rm")
    assert torch.equal(load_reward_model(tmp_path / "rm").score_ids(ROWS), rm.score_ids(ROWS))
    with pytest.raises(ValueError, match="load_reward_model"):
        load_model(tmp_path / "rm")


@torch.no_grad()
def test_a_reward_model_may_keep_the_lower_layers_only(tmp_path):
    whole, cut = load_reward_model("tiny"), load_reward_model("tiny", layers=2)
    texts = ["a good movie", "a bad one"]
    stream = whole.lm.model(torch.tensor(whole.encode(texts[:1])), output_hidden_states=True).hidden_states[2]
    below = cut.lm.model(torch.tensor(cut.encode(texts[:1])), output_hidden_states=True)
    torch.testing.assert_close(below.last_hidden_state, cut.lm.model.norm(stream))
    cut.save(tmp_path / "rm")
    again = load_reward_model(tmp_path / "rm")
    assert len(again.lm.model.layers) == 2 and torch.equal(again.score_texts(texts), cut.score_texts(texts))
    for layers in (0, 5):
        with pytest.raises(ValueError, match="this model has 4"):
            load_reward_model("tiny", layers=layers)
    with pytest.raises(ValueError, match="do not go together"):
        load_reward_model("tiny", layers=2, lora=4)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_saved_without_their_base(kind, tmp_path):
    pytest.importorskip("peft")
    base = folder_of(kind, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT tells what it makes of GPT-2's transposed layers
        policy = load_model(base, lora=2, value_head=True)
        twin = load_model(base, lora={"r": 2, "lora_alpha": 4})
    ids, mask = pad_left(ROWS, 0)
    logits, values = policy(ids, mask, last=3)
    torch.testing.assert_close(logits, load_model(base)(ids, mask, last=3)[0])  # adapters start as nothing
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name or "value_head" in name for name in trained)
    same = dict(twin.named_parameters())
    assert all(torch.equal(p, same[name]) for name, p in policy.named_parameters() if "lora_" in name)

    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], lr=0.5)
    (logits.logsumexp(-1).sum() + (values - 1).square().sum()).backward()
    optimizer.step()
    logits, values = policy(ids, mask, last=3)
    assert not torch.equal(logits, load_model(base)(ids, mask, last=3)[0])
    policy.save(tmp_path / "first")
    assert only_safe_files(tmp_path / "first") and not (tmp_path / "first" / "model.safetensors").exists()
    again = load_model(tmp_path / "first", value_head=True)
    again.save(tmp_path / "first")  # over itself, and elsewhere
    again.save(tmp_path / "second")
    for name in ("first", "second"):
        loaded = load_model(tmp_path / name, value_head=True)
        assert torch.equal(loaded(ids, mask, last=3)[0], logits) and torch.equal(loaded(ids, mask, last=3)[1], values)
        assert trained == {n for n, p in loaded.named_parameters() if p.requires_grad}
    with pytest.raises(ValueError, match="folder of their own"):
        policy.save(base)
    with pytest.raises(ValueError, match="adapters already"):
        load_model(tmp_path / "first", lora=2)


DAMAGE = {
    "config.json": None,
    "model.safetensors": None,
    "tokenizer.json": None,
    "head.safetensors": None,
    "rlhf.json": "{",
}


@pytest.mark.parametrize("file", [*DAMAGE])
def test_damaged_and_incomplete_folders_are_refused(file, tmp_path):
    policy_of("llama").save(tmp_path / "whole")
    for damage in ("missing", "cut off"):
        if (file, damage) == ("rlhf.json", "missing"):
            continue  # then it is an ordinary Hugging Face folder
        folder = tmp_path / damage
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / file
        content = path.read_bytes()
        path.unlink()
        if damage == "cut off":
            path.write_bytes(content[: len(content) // 2])
        elif file == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
        with pytest.raises(ValueError, match="(save|fetch).* again") as error:
            load_model(folder, value_head=True)
        assert str(folder) in str(error.value)


def test_pickled_weights_are_not_loaded(tmp_path):
    folder = folder_of("llama", tmp_path)
    torch.save(lm_of("llama", 24).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no complete model"):
        load_model(folder)


def test_unknown_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no complete model"):
        load_model(tmp_path / "empty")
    with pytest.raises(ValueError, match="'micro', 'tiny' or 'smol'"):
        load_model(str(tmp_path / "nothing"))


def test_what_a_folder_says_about_itself(tmp_path):
    policy_of("llama", value_head=False).save(tmp_path)
    assert json.loads((tmp_path / "rlhf.json").read_text(encoding="utf-8")) == {
        "kind": "policy",
        "base": "llama",
        "head": False,
        "lora": False,
    }


# --- the shipped model and SmolLM2 ------------------------------------------------------------------------------------


@needs_tiny
@torch.no_grad()
def test_the_shipped_model_samples_what_it_scores():
    policy = load_model("tiny")
    prompts = ["I loved the book but really hated the movie", "The acting is", "It"]
    rollout = sample(
        policy, prompts, max_new_tokens=12, samples_per_prompt=2, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(score(policy, rollout).logprobs, rollout.logprobs, atol=1e-5, rtol=0)
    assert rollout.prompts()[::2] == prompts


@pytest.mark.slow
@torch.no_grad()
def test_smol_samples_what_it_scores(smol):
    assert isinstance(smol, Policy) and smol.tokenizer.pad_token_id != smol.tokenizer.eos_token_id
    assert {p.dtype for p in smol.parameters()} == {torch.float32}
    prompts = ["I loved the book but really hated the movie", "The acting is", "It"]
    rollout = sample(smol, prompts, max_new_tokens=6, samples_per_prompt=2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(score(smol, rollout).logprobs, rollout.logprobs, atol=1e-4, rtol=0)
    assert rollout.prompts()[::2] == prompts
    greedy = sample(smol, ["The capital of France is"], max_new_tokens=1, temperature=0)
    assert greedy.completions() == [" Paris"]


@pytest.mark.slow
def test_smol_learns_and_is_saved_with_adapters(smol, tmp_path):
    pytest.importorskip("peft")
    from small_models import end_soon

    from rlhf_lib.algorithms import ppo
    from rlhf_lib.runs import Run

    policy = load_model("smol", lora=4, value_head=True)
    before = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    config = ppo.Config(steps=1, prompts_per_step=2, samples_per_prompt=2, max_new_tokens=4, epochs=1)
    run = ppo.train(policy, ["The movie is", "I"], end_soon, config, smol, Run(progress=False))
    assert run.history[0]["first_ratio"] < 1e-3 and abs(run.history[0]["kl"]) < 1e-3
    assert any(not torch.equal(p, before[name]) for name, p in policy.named_parameters() if p.requires_grad)
    policy.save(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000_000
    ids = torch.tensor([policy.tokenizer("The movie")["input_ids"]])
    again = load_model(tmp_path, value_head=True)
    with torch.no_grad():
        for a, b in zip(again(ids, ids >= 0, last=2), policy(ids, ids >= 0, last=2), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
