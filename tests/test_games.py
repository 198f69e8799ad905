"""Text games: recorded ones against TextWorld, exact values, a language model's episodes and their gradient."""

import itertools
import random
from dataclasses import replace

import pytest
import torch

from rlhf_lib import games, rollout
from rlhf_lib.algorithms import agent
from rlhf_lib.course import record_games
from rlhf_lib.course.experiments.lesson_15 import LOOKING, buttons, gradient_parts
from rlhf_lib.models import load_model
from rlhf_lib.runs import Run, generator

torch.set_num_threads(1)  # more threads only make models of this size wait for each other
NAMES = games.names()


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def snack():
    return buttons("snack")


@pytest.fixture(scope="module")
def listed(tiny, snack):
    """All 13 episodes of three turns."""
    return games.all_episodes(tiny, snack, 3)


@pytest.fixture(scope="module")
def played(tiny, snack):
    return games.play(tiny, [snack, buttons("kitchen")], horizon=4, episodes=6, generator=generator(0))


# Recorded games


def test_every_game_that_can_be_made_is_there():
    assert set(NAMES) == {*record_games.MADE_BY_HAND, *record_games.MADE_BY_TEXTWORLD}


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_game_is_whole_and_small(name):
    game, file = games.load(name), games.data_dir() / "games" / f"{name}.json"
    assert file.read_text(encoding="utf-8") == games.dump(game) and file.stat().st_size < 150_000
    assert game.made["textworld"] == "1.7.0" and game.made["recorded"].endswith(name)
    reached, waiting = {0}, [0]
    for state in waiting:
        assert bool(game.admissible(state)) is not game.done[state]
        assert list(game.admissible(state)) == sorted(game.admissible(state))
        for command in game.admissible(state):
            step = game.step(state, command)
            assert step.text and "\n" not in step.text and "turns" not in step.text
            if step.state not in reached:
                reached.add(step.state)
                waiting.append(step.state)
    assert reached == set(range(len(game))) and any(game.won)


def test_recorded_games_answer_as_textworld_does(tmp_path):
    pytest.importorskip("textworld", reason="TextWorld is not installed: pip install -e .[games]")
    random.seed(0)
    for name in ("snack", "sign-red"):
        file, made = record_games.compiled(name, tmp_path)
        game = games.load(name)
        assert games.dump(games.record(file, name, made)) == games.dump(game)  # the recording, again
        for _ in range(3):  # and from the start on, without copies
            environment, first = games.start(file)
            assert games.clean(first.feedback).endswith(games.clean(first.description))
            state, over, found = 0, False, first
            for _ in range(8):
                if over:
                    break
                assert sorted(found.admissible_commands) == list(game.admissible(state))
                command = random.choice(game.admissible(state))
                found, score, over = environment.step(command)
                text, _, state, _ = game.step(state, command)
                assert (text, game.scores[state], game.done[state]) == (games.clean(found.feedback), score, over)


def test_without_textworld_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "textworld", None)
    with pytest.raises(ImportError, match=r"rlhf-lib\[games\]"):
        games.start("nowhere.z8")


def test_unknown_games_and_commands_are_named():
    with pytest.raises(ValueError, match="kitchen"):
        games.load("zork")
    with pytest.raises(ValueError, match="'dance' is not admissible here; admissible: .*open oven"):
        games.load("snack").step(0, "dance")


def test_looking_changes_nothing_in_the_world():
    for name in NAMES:
        game = games.load(name)
        for state, here in enumerate(game.moves):
            assert all(to == state for command, (to, _) in here.items() if command.split()[0] in LOOKING)


# Exact values


def test_values_by_hand(snack):
    """Three turns with an apple in hand. Chance eats it at once (1/3), or after the door is open (1/3 · 1/4) ..."""
    greedy = games.exact_outcome(snack, games.greedy, 3)
    assert (greedy.score, greedy.won) == (1.0, 0.0)  # it eats
    chance = games.exact_outcome(snack, games.at_random, 3)
    assert chance.won == pytest.approx(1 / 3 * 1 / 4)  # only: open oven, insert (a detour takes five turns)
    assert games.exact_outcome(snack, games.at_random, 1).score == pytest.approx(1 / 3)
    assert [values[0] for values in games.best_scores(snack, 3)] == [0.0, 1.0, 2.0, 2.0]


def test_exact_values_are_those_of_listed_episodes(listed, snack):
    weights = []
    for commands in listed.commands:
        state, p = 0, 1.0
        for command in commands:
            p, state = p / len(snack.admissible(state)), snack.step(state, command).state
        weights.append(p)
    assert sum(weights) == pytest.approx(1)
    expected = games.exact_outcome(snack, games.at_random, 3)
    assert torch.tensor(weights) @ listed.scores == pytest.approx(expected.score)
    assert listed.scores.max() == games.best_scores(snack, 3)[3][0]


def test_best_is_at_least_every_player():
    game = games.load("butterfly")
    for turns, player in itertools.product((2, 4, 9), (games.at_random, games.greedy)):
        assert games.best_scores(game, turns)[turns][0] >= games.exact_outcome(game, player, turns).score


# Episodes of a language model


def test_an_episode_is_one_sequence_with_gaps(played, snack):
    row, first = played.rollout[0], played.commands[0]
    text = row.completions()[0]
    for command in first:
        assert f" {command}\n" in text
    own = row.tokenizer.decode(row.tokens[row.mask])
    assert own == "".join(f" {command}\n" for command in first)
    state = 0
    for command in first:
        step = snack.step(state, command)
        assert step.text in text
        state = step.state
    assert not (row.mask & row.observed).any() and row.mask[0, 0] and row.observed[row.real][-1]
    assert (
        played.rollout.prompts()[0].endswith("\n>")
        and len(row.sequences()[0]) == row.prompt_mask.sum() + row.real.sum()
    )


def test_rewards_stand_in_the_turn_that_earned_them(played, snack):
    for commands, rewards, taken in zip(played.commands[:6], played.rewards, played.taken, strict=False):
        state, wanted = 0, []
        for command in commands:
            step = snack.step(state, command)
            wanted.append(step.reward)
            state = step.state
        assert rewards[: len(wanted)].tolist() == wanted and taken.sum() == len(wanted)
    numbers = torch.arange(4.0).expand(len(played), 4)
    spread = played.per_token(numbers)
    assert (spread[played.rollout.real] == played.turn[played.rollout.real]).all()
    assert (spread[~played.rollout.real] == 0).all()


def test_the_sampler_scores_as_teacher_forcing_does(tiny, played):
    logprobs = rollout.score(tiny, played.rollout).logprobs.detach()
    torch.testing.assert_close(logprobs, played.rollout.logprobs, atol=1e-4, rtol=0)
    alone = torch.cat([rollout.score(tiny, played.rollout[i]).logprobs.detach() for i in range(3)])
    torch.testing.assert_close(alone, played.rollout.logprobs[:3], atol=1e-4, rtol=0)


def test_what_stands_at_pads_changes_nothing(tiny, played):
    dirty = played.rollout.tokens.masked_fill(~played.rollout.real, 77)
    found = rollout.score(tiny, replace(played.rollout, tokens=dirty)).logprobs.detach()
    torch.testing.assert_close(found, played.rollout.logprobs, atol=1e-4, rtol=0)


def test_answers_are_read(tiny, played):
    """Another word in an answer changes what the commands after it are worth, and nothing before it."""
    row = played.rollout[0]
    place = row.observed[0].nonzero()[0, 0]
    other = row.tokens.clone()
    other[0, place] = 300
    before, after = (rollout.score(tiny, one).logprobs.detach()[0] for one in (row, replace(row, tokens=other)))
    torch.testing.assert_close(after[:place], before[:place], atol=1e-5, rtol=0)
    assert (after[place:] - before[place:]).abs().max() > 1e-3


def test_probabilities_of_all_episodes_add_up_to_one(tiny, listed):
    with torch.no_grad():
        assert rollout.score(tiny, listed.rollout).logprobs.sum(1).exp().sum() == pytest.approx(1, abs=1e-5)
    assert len(listed) == len({tuple(commands) for commands in listed.commands}) == 13
    with pytest.raises(ValueError, match="shorten the horizon"):
        games.all_episodes(tiny, games.load("kitchen"), 6)


def test_a_command_may_be_the_beginning_of_another(tiny):
    writer = games.Writer(tiny.tokenizer)
    commands = ("take apple", "take apple from fridge")
    node = writer.tree(commands)
    for token in writer.command("take apple")[:-1]:
        (token_there,) = node
        assert token_there == token
        node = node[token]
    assert len(node) == 2 and node[writer.end] == {}


def test_commands_are_drawn_as_often_as_they_are_likely(tiny, snack):
    first = games.all_episodes(tiny, snack, 1)
    with torch.no_grad():
        p = rollout.score(tiny, first.rollout).logprobs.sum(1).exp()
    n = 400
    drawn = games.play(tiny, [snack], horizon=1, episodes=n, generator=generator(5)).commands
    for commands, chance in zip(first.commands, p.tolist(), strict=True):
        assert drawn.count(commands) / n == pytest.approx(chance, abs=5 * (chance * (1 - chance) / n) ** 0.5)


def test_greedy_decoding_and_seeds_repeat(tiny, snack):
    once, again = (games.play(tiny, [snack], horizon=3, temperature=0).commands for _ in range(2))
    assert once == again
    a, b, c = (
        games.play(tiny, [snack], horizon=3, episodes=8, generator=generator(seed)).commands for seed in (0, 0, 1)
    )
    assert a == b != c


# The gradient


def test_the_estimate_is_unbiased_with_the_mask_and_biased_without(tiny, listed):
    parameters = [tiny.lm.model.norm.weight, tiny.lm.model.layers[2].mlp.down_proj.weight]
    logprobs = rollout.score(tiny, agent.everything(listed)).logprobs
    mask = listed.rollout.mask

    def gradient(x):
        return torch.cat([g.flatten() for g in torch.autograd.grad(x, parameters, retain_graph=True)])

    p = torch.where(mask, logprobs, 0.0).sum(1).exp()
    exact = gradient(p @ listed.scores)
    to_go = agent.reward_to_go(listed.rewards, listed.taken)
    weights = p.detach()[:, None] * listed.per_token(to_go - p.detach() @ to_go)
    masked, unmasked = (gradient((weights * logprobs.where(m, 0.0)).sum()) for m in (mask, listed.rollout.real))
    assert (masked - exact).norm() < 1e-3 * exact.norm() < 1e-3 * (unmasked - exact).norm()


def test_leave_one_out_of_turns_by_hand():
    rewards = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    taken = torch.tensor([[True, True], [True, False], [True, True]])
    found = agent.turn_advantages(rewards, taken, 3)
    assert found.tolist() == [[2 - 0.5, 2.0], [1 - 1.0, 0.0], [0 - 1.5, 0 - 1.0]]
    discounted = agent.turn_advantages(rewards, taken, 3, gamma=0.5)
    assert discounted[0].tolist() == [1 - 0.5, 2.0]


def test_both_parts_add_up_to_the_gradient_without_a_mask(tiny, snack):
    short = games.play(tiny, [snack], horizon=2, episodes=4, generator=generator(3))
    commands, answers = gradient_parts(tiny, short)
    parameters = [p for p in tiny.parameters() if p.requires_grad]
    weights = short.per_token(agent.turn_advantages(short.rewards, short.taken, 4))
    logprobs = rollout.score(tiny, agent.everything(short)).logprobs
    whole = torch.autograd.grad((weights * logprobs).sum() / 4, parameters)
    torch.testing.assert_close(torch.cat([g.flatten() for g in whole]), commands + answers, atol=1e-4, rtol=1e-3)


def test_it_learns_and_microbatches_change_nothing(snack):
    found = []
    for microbatch in (32, 5):
        policy, run = load_model("tiny"), Run(progress=False)
        config = agent.Config(steps=3, episodes=12, horizon=2, lr=3e-4, microbatch=microbatch)
        agent.train(policy, [snack], config, run)
        found.append(run.column("score"))
        assert {"won", "turns", "entropy", "answers", "grad_norm"} <= run.history[0].keys()
    assert found[0][0] == found[1][0] and found[0][1] == pytest.approx(found[1][1], abs=0.2)


def test_a_resumed_run_goes_on_exactly(tmp_path, snack):
    config = agent.Config(steps=1, episodes=4, horizon=1, lr=1e-4)
    straight, run = load_model("tiny"), Run(progress=False)
    agent.train(straight, [snack], replace(config, steps=2), run)
    for steps in (1, 2):
        policy, stopped = load_model("tiny"), Run(tmp_path, progress=False)
        agent.train(policy, [snack], replace(config, steps=steps), stopped)
    assert stopped.history == run.history
    for a, b in zip(straight.parameters(), policy.parameters(), strict=True):
        assert torch.equal(a, b)
