"""Exercises of lesson 15: language agents."""

import torch

from rlhf_lib.course.exercises import Exercise, Mistake, draw_number


# 15.1 which tokens may come next
def _commands_and_beginning(generator):
    a, b, c, d, e = (torch.randperm(8, generator=generator)[:5] + 1).tolist()
    return [[a, b, 0], [a, b, c, d, 0], [a, e, 0], [c, b, d, 0], [e, c, b, a, 0]], [a, b]


def _next_tokens(commands, written):
    n = len(written)
    return tuple(sorted({command[n] for command in commands if command[:n] == written}))


def _prefix_ends_early(commands, written):
    n = len(written)
    ids = {command[n] for command in commands if command[:n] == written}
    return tuple(sorted(ids - {0} if len(ids) > 1 else ids))


def _by_position(commands, written):
    return tuple(sorted({command[len(written)] for command in commands if len(command) > len(written)}))


def _any_token(commands, written):
    return tuple(sorted({token for command in commands if command[: len(written)] == written for token in command}))


def _after_last_token(commands, written):
    after = {b for command in commands for a, b in zip(command, command[1:], strict=False) if a == written[-1]}
    return tuple(sorted(after))


def _next_state(commands, written):
    return tuple(sorted({command[0] for command in commands}))


# 15.2 the expected score of a player that chooses at random
def _little_game(generator):
    states = 5
    moves, points = [], []
    for state in range(states - 1):  # the last state is the end
        count = int(torch.randint(1, 4, (1,), generator=generator)) if state else 3
        moves.append(torch.randint(states, (count,), generator=generator).tolist())
        points.append(torch.randint(1, 4, (count,), generator=generator).tolist())
    moves[0][0], moves[0][1], moves[0][2] = 1, 1, states - 1  # two ways to the same state, and an early end
    moves[1] = [0, 2, 3]
    points[1] = [1, 3, 2]
    return [*moves, []], [*points, []], 3


def _random_score(moves, points, turns):
    chance, score = {0: 1.0}, 0.0
    for _ in range(turns):
        after = {}
        for state, p in chance.items():
            for to, gain in zip(moves[state], points[state], strict=True):
                score += p * gain / len(moves[state])
                after[to] = after.get(to, 0.0) + p / len(moves[state])
        chance = after
    return score


def _merged_overwrites(moves, points, turns):
    chance, score = {0: 1.0}, 0.0
    for _ in range(turns):
        after = {}
        for state, p in chance.items():
            for to, gain in zip(moves[state], points[state], strict=True):
                score += p * gain / len(moves[state])
                after[to] = p / len(moves[state])
        chance = after
    return score


def _every_episode_alike(moves, points, turns):
    scores = []

    def follow(state, left, score):
        if left == 0 or not moves[state]:
            scores.append(score)
        else:
            for to, gain in zip(moves[state], points[state], strict=True):
                follow(to, left - 1, score + gain)

    follow(0, turns, 0.0)
    return sum(scores) / len(scores)


def _begins_again(moves, points, turns):
    return _random_score([here or moves[0] for here in moves], [here or points[0] for here in points], turns)


# 15.3 returns of turns, for tokens
def _turns(generator):
    turn = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1, -1, -1]])
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 1, 1, 0], [1, 0, 0, 1, 1, 1, 0, 0, 0, 0]]).bool()
    rewards = torch.randint(1, 5, (2, 3), generator=generator).float()
    rewards[1, 2] = 0.0
    return turn, mask, rewards, draw_number(generator, 0.4, 0.8, 1)


def _returns_by_turn(turn, mask, rewards, gamma):
    running, to_go = torch.zeros(len(rewards)), torch.zeros_like(rewards)
    for k in reversed(range(rewards.shape[1])):
        running = rewards[:, k] + gamma * running
        to_go[:, k] = running
    return to_go.gather(1, turn.clamp(min=0)) * mask


def _token_rewards(turn, mask, rewards, first=False):
    out = torch.zeros(mask.shape)
    for row in range(len(turn)):
        for k in range(rewards.shape[1]):
            places = ((turn[row] == k) & mask[row]).nonzero().flatten()
            if len(places):
                out[row, places[0 if first else -1]] = rewards[row, k]
    return out


def _returns_by_token(turn, mask, rewards, gamma):
    from rlhf_lib.estimators import reward_to_go

    return reward_to_go(_token_rewards(turn, mask, rewards), mask, gamma)


def _returns_by_position(turn, mask, rewards, gamma):
    from rlhf_lib.estimators import reward_to_go

    placed, everywhere = _token_rewards(turn, mask, rewards), torch.ones_like(mask)
    return reward_to_go(placed, everywhere, gamma) * mask


def _reward_a_turn_late(turn, mask, rewards, gamma):
    late = torch.cat([torch.zeros_like(rewards[:, :1]), rewards[:, :-1]], 1)
    return _returns_by_turn(turn, mask, late, gamma)


def _answers_too(turn, mask, rewards, gamma):
    return _returns_by_turn(turn, turn >= 0, rewards, gamma)


def _own_reward_only(turn, mask, rewards, gamma):
    return _returns_by_turn(turn, mask, rewards, 0.0)


# 15.4 a rate for a table of commands
BAR = 1.7  # mean exact score to reach, by the interval's worse end


def table_run(lr: float, seed: int, steps: int = 60, episodes: int = 8, horizon: int = 6) -> float:
    """Exact score in the kitchen of a softmax table over states, after REINFORCE with leave-one-out by turns."""
    from rlhf_lib import games
    from rlhf_lib.algorithms.agent import turn_advantages
    from rlhf_lib.course.experiments.lesson_15 import buttons
    from rlhf_lib.runs import generator

    game = buttons("kitchen")
    width = max(len(here) for here in game.moves)
    offered = torch.tensor([[k < len(here) for k in range(width)] for here in game.moves])
    to = torch.tensor([[n for n, _ in here.values()] + [0] * (width - len(here)) for here in game.moves])
    scores, logits = torch.tensor(game.scores).double(), torch.zeros(len(game), width, dtype=torch.float64)
    logits.requires_grad_()
    table = lambda: logits.masked_fill(~offered, -1e9).log_softmax(-1)  # noqa: E731
    optimizer = torch.optim.Adam([logits], lr=lr)
    for step in range(steps):
        noise, state, drawn = generator(seed, step), torch.zeros(episodes, dtype=torch.long), []
        with torch.no_grad():
            p = table().exp()
            for _ in range(horizon):
                on = offered[state].any(1)
                choice = torch.multinomial(p[state], 1, generator=noise).squeeze(1)
                after = torch.where(on, to[state, choice], state)
                drawn.append((state, choice, scores[after] - scores[state], on))
                state = after
        states, choices, rewards, taken = (torch.stack(x, 1) for x in zip(*drawn, strict=True))
        weights = turn_advantages(rewards, taken, episodes)
        optimizer.zero_grad()
        logprobs = table()[states, choices].where(taken, 0.0)
        (-(weights * logprobs).sum() / episodes).backward()
        optimizer.step()
    final = table().exp().tolist()
    return games.exact_outcome(game, lambda g, s: final[s][: len(g.admissible(s))], horizon).score


def _learns(lr) -> tuple[bool, str]:
    from rlhf_lib.runs import mean_interval

    if not 0 < float(lr) <= 10:
        return False, "The learning rate must be above 0 and at most 10."
    score, low, high = mean_interval([table_run(float(lr), seed) for seed in range(100, 112)])
    said = f"On 12 new seeds the exact score is {score:.2f} (95 % interval {low:.2f} to {high:.2f}; the bar is {BAR})."
    return low > BAR, said


# 15.6 the bias of the unmasked estimator
def _one_turn(generator):
    p, first, second = (draw_number(generator, *span, 1) for span in ((0.2, 0.8), (1, 3), (-2, 0)))
    return p, first, second, draw_number(generator, 0.5, 2, 1), draw_number(generator, -2, -0.5, 1)


def _bias(p, first, second, a, b):
    return p * (1 - p) * (first - second) * (a - b)


EXERCISES = [
    Exercise(
        id="15.1",
        title="What may be written next",
        kind="implement",
        difficulty=2,
        importance=5,
        minutes=10,
        reference=_next_tokens,
        inputs=_commands_and_beginning,
        mistakes={
            "a prefix cannot end": Mistake(
                "The end is missing where a command is over and a longer one begins alike. Then the shorter one can "
                "never be given.",
                _prefix_ends_early,
            ),
            "by position": Mistake(
                "These are the tokens that some command has at this position, whatever was written before. Together "
                "with the beginning they may make a command that nobody admits.",
                _by_position,
            ),
            "any token of a match": Mistake(
                "The right commands, but all of their tokens. Only the next one of each may come now.", _any_token
            ),
            "after the last token": Mistake(
                "Only the last token was looked at. Commands that begin otherwise have it, too.", _after_last_token
            ),
            "from the beginning": Mistake(
                "These are first tokens, as if nothing had been written yet: the choice of the next command.",
                _next_state,
            ),
        },
        hint="A command counts if its first len(written) tokens are exactly the written ones.",
    ),
    Exercise(
        id="15.2",
        title="What chance scores",
        kind="implement",
        difficulty=3,
        importance=4,
        minutes=15,
        reference=_random_score,
        inputs=_little_game,
        mistakes={
            "merged states overwrite": Mistake(
                "Two commands lead to the same state, and only the last one's probability has been kept. What arrives "
                "at a state adds up.",
                _merged_overwrites,
            ),
            "every episode alike": Mistake(
                "This is the mean over the list of all episodes. They are not equally likely: an episode through "
                "states with few commands is likelier.",
                _every_episode_alike,
            ),
            "begins again": Mistake(
                "A game that is over earns nothing more. Here it seems to begin again from the start.",
                _begins_again,
            ),
            "one turn too many": Mistake(
                "More turns are played than there are: count the passes of the loop.",
                lambda moves, points, turns: _random_score(moves, points, turns + 1),
            ),
        },
        hint="Carry a dictionary {state: probability} from turn to turn, and add up p · points on the way.",
    ),
    Exercise(
        id="15.3",
        title="Discounted too much",
        kind="find the bug",
        difficulty=3,
        importance=5,
        minutes=12,
        reference=_returns_by_turn,
        inputs=_turns,
        mistakes={
            "as given": Mistake(
                "Still as given: each *token* of a command is discounted. How much is a point worth three turns ahead "
                "if the commands are long, and how much if they are short?",
                _returns_by_token,
            ),
            "positions": Mistake(
                "Now the answers' tokens count as time as well: a talkative game discounts more.", _returns_by_position
            ),
            "a turn late": Mistake(
                "Each reward has landed on the turn after the one that earned it; the last one is lost.",
                _reward_a_turn_late,
            ),
            "answers too": Mistake(
                "Answers have a return here. Where the mask is False the result must be 0.", _answers_too
            ),
            "own reward only": Mistake(
                "Each turn has its own reward only; later ones must reach it, too.", _own_reward_only
            ),
        },
        hint="First the returns of the turns, [B, K]; then give each token that of its turn.",
    ),
    Exercise(
        id="15.4",
        title="A hasty learner eats",
        kind="experiment",
        difficulty=2,
        importance=4,
        minutes=10,
        reference=0.2,
        accept=_learns,
        mistakes={
            "too small": Mistake("At 0.02 sixty updates are over before the table has moved far from chance.", 0.02),
            "too large": Mistake(
                "At 3 the first few lucky episodes decide. In some runs these ate the apple: one point, and for ever.",
                3.0,
            ),
        },
        hint="Try powers of ten first; then look at single runs, not at the mean alone.",
    ),
    Exercise(
        id="15.5",
        title="What a forgotten mask learns",
        kind="predict",
        difficulty=3,
        importance=5,
        minutes=4,
        choices=(
            "nothing: its mean is zero",
            "to expect all answers",
            "to expect the answers of good episodes, and not those of bad ones",
        ),
        reference="to expect the answers of good episodes, and not those of bad ones",
        mistakes={
            "nothing": Mistake(
                "E[∇log p] = 0 needs words drawn from p itself. Who has drawn the answers?", "nothing: its mean is zero"
            ),
            "all answers": Mistake(
                "So it would be if every weight were positive, as in supervised training. What is the sign of the "
                "advantage in a bad episode?",
                "to expect all answers",
            ),
        },
        remark="The model is pushed towards a forecast of success and away from a forecast of failure.",
    ),
    Exercise(
        id="15.6",
        title="One turn, one answer",
        kind="derive",
        difficulty=4,
        importance=4,
        minutes=15,
        reference=_bias,
        inputs=_one_turn,
        mistakes={
            "no bias": Mistake(
                "Zero would need a and b to be equal: the same answer to both commands.",
                lambda p, first, second, a, b: 0.0,
            ),
            "without baseline": Mistake(
                "That is E[R · ∇log q]. The baseline J is subtracted from R, for the answer's tokens, too.",
                lambda p, first, second, a, b: p * first * a + (1 - p) * second * b,
            ),
            "the whole estimate": Mistake(
                "Almost: this is the whole estimate, with the true gradient in it. Asked is what is too much.",
                lambda p, first, second, a, b: p * (1 - p) * (first - second) * (1 + a - b),
            ),
            "sign": Mistake(
                "The sign: which answer becomes likelier if the first command earns more?",
                lambda p, first, second, a, b: p * (1 - p) * (first - second) * (b - a),
            ),
        },
        hint="R − J is (1 − p)(r₁ − r₂) after the first command and −p(r₁ − r₂) after the second.",
    ),
    Exercise(
        id="15.7",
        title="Without memory",
        kind="predict",
        difficulty=2,
        importance=4,
        minutes=3,
        reference=0.5,
        mistakes={
            "1": Mistake("It has read the sign. But what does it see at the moment when it has to choose?", 1.0),
            "0": Mistake("One of the two boxes it has to open, and it is not always the wrong one.", 0.0),
        },
        hint="In front of the boxes both worlds look the same.",
    ),
]
