"""`check` on exercises made up for the purpose: what it says, what it returns, what it never does."""

import sys
import warnings

import pytest
import torch

from rlhf_lib.course import check as check_module
from rlhf_lib.course.check import FEWEST_DRAWS, check, judge
from rlhf_lib.course.compare import difference
from rlhf_lib.course.exercises import Exercise, Mistake, draw_mask, draw_tensor, get

DOUBLE = Exercise(
    id="99.1",
    title="Double",
    kind="implement",
    difficulty=1,
    importance=1,
    minutes=1,
    reference=lambda x: 2 * x,
    inputs=lambda generator: (draw_tensor(generator, 4),),
    mistakes={
        "half": Mistake("It looks like a half.", lambda x: x / 2),
        "raises": Mistake("Never named.", lambda x: x["no such"]),
        "positive half": Mistake("A half, and the sign lost.", lambda x: x.abs() / 2),
    },
    hint="Add it to itself.",
    remark="Well done.",
)
GUESS = Exercise(
    id="99.2",
    title="Guess",
    kind="predict",
    difficulty=1,
    importance=1,
    minutes=1,
    reference=lambda: 40 + 2.0,
    mistakes={"half": Mistake("That is half.", 21)},
    rtol=0.1,
    hint="Think of a number.",
)
CHOICE = Exercise(
    id="99.3",
    title="Choose",
    kind="predict",
    difficulty=1,
    importance=1,
    minutes=1,
    reference="up",
    choices=("up", "down"),
    mistakes={"down": Mistake("The other way.", "down")},
)
KNOB = Exercise(
    id="99.4",
    title="Knob",
    kind="experiment",
    difficulty=1,
    importance=1,
    minutes=1,
    reference=5,
    accept=lambda knob: (knob > 3, f"It reached {knob}."),
)
GRADIENT = Exercise(
    id="99.5",
    title="Through the gradient",
    kind="implement",
    difficulty=1,
    importance=1,
    minutes=1,
    reference=lambda x: (x * x.detach()).sum(),
    inputs=lambda generator: (draw_tensor(generator, 3).requires_grad_(),),
    call=lambda loss, x: torch.autograd.grad(loss(x), x)[0],
    mistakes={"not detached": Mistake("The second factor carries a gradient too.", lambda x: (x * x).sum())},
)
ALL = {exercise.id: exercise for exercise in (DOUBLE, GUESS, CHOICE, KNOB, GRADIENT)}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(check_module, "get", ALL.__getitem__)


def test_right_returns_the_answer(capsys):
    def answer(x):
        return x + x

    assert check("99.1", answer) is answer
    assert check("99.1", answer, strict=True) is answer
    assert capsys.readouterr().out == "99.1 · right. Well done.\n" * 2


def test_wrong_returns_the_reference_and_names_the_mistake(capsys):
    assert check("99.1", lambda x: 0.5 * x) is DOUBLE.reference
    said = capsys.readouterr().out
    assert said.startswith("99.1 · not yet. It looks like a half.")
    assert "lambda" not in said
    with pytest.raises(AssertionError, match="It looks like a half"):
        check("99.1", lambda x: 0.5 * x, strict=True)


def test_first_listed_mistake_wins_only_when_it_fits_every_draw():
    assert judge(DOUBLE, lambda x: x / 2).mistake == "half"
    assert judge(DOUBLE, lambda x: x.abs() / 2).mistake == "positive half"


def test_unknown_mistake_shows_one_input_and_what_was_expected():
    verdict = judge(DOUBLE, lambda x: 2 * x + 1)
    assert verdict.status == "wrong" and verdict.mistake is None
    assert all(part in verdict.message for part in ("inputs:", "x = [", "expected:", "got:", "Add it to itself."))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: -2 * x, "right but for the sign"),
        (lambda x: 6 * x, "3 times the expected"),
        (lambda x: x.sum(), "shape is [] where [4] is expected"),
        (lambda x: (2 * x).long(), "a int64 tensor, where one of floating-point numbers"),
        (lambda x: 2 * x / 0 * 0, "4 of 4 values are NaN"),
        (lambda x: "text", "expected a tensor of shape [4], got 'text'"),
    ],
)
def test_what_differs_is_named(wrong, words):
    assert words in judge(DOUBLE, wrong).message


def test_an_answer_that_raises_says_on_which_input():
    verdict = judge(DOUBLE, lambda x: x[10])
    assert verdict.status == "wrong" and "IndexError" in verdict.message and "x = [" in verdict.message
    with pytest.raises(AssertionError, match="IndexError"):
        check("99.1", lambda x: x[10], strict=True)


def _stub(x): ...


def _half_done(x):
    scale = ...
    return scale * x


@pytest.mark.parametrize("blank", [None, ..., _stub, _half_done, lambda x: ..., (..., 2)])
def test_not_attempted(blank, capsys):
    assert check("99.1", blank) is DOUBLE.reference
    assert "not attempted" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="not attempted"):
        check("99.1", blank, strict=True)


def test_inputs_are_fresh_and_a_seed_repeats_them():
    def seen_with(seed=None):
        seen = []
        judge(DOUBLE, lambda x: seen.append(x.clone()) or 2 * x, seed)
        return torch.stack(seen)

    assert not torch.equal(seen_with(), seen_with())
    assert torch.equal(seen_with(3), seen_with(3))
    assert len(seen_with(3).unique(dim=0)) == FEWEST_DRAWS
    assert judge(DOUBLE, lambda x: torch.tensor([1.0, 2.0, 3.0, 4.0])).status == "wrong"


def test_draws_that_are_kind_to_a_mistake_do_not_settle_it():
    size = Exercise(
        id="99.9",
        title="Size",
        kind="implement",
        difficulty=1,
        importance=1,
        minutes=1,
        reference=abs,
        inputs=lambda generator: (draw_tensor(generator, 1),),
        mistakes={
            "sign kept": Mistake("The sign is still there.", lambda x: x),
            "turned round": Mistake("Only the sign was to go.", lambda x: -x),
            "squared": Mistake("A square is not a size.", lambda x: x * x),
        },
    )
    for seed in range(40):  # three draws have one sign on 10 of them, in expectation
        assert judge(size, abs, seed).status == "right"
        for name, mistake in size.mistakes.items():
            assert judge(size, mistake.wrong, seed).mistake == name


def test_a_printed_seed_gives_the_printed_inputs(capsys):
    check("99.1", lambda x: x + 1, seed=8)
    first = capsys.readouterr().out
    assert "seed=8" in first
    check("99.1", lambda x: x + 1, seed=8)
    assert capsys.readouterr().out == first


def test_an_answer_that_changes_its_input_is_judged_by_what_it_returns():
    assert judge(DOUBLE, lambda x: x.mul_(2)).status == "right"
    assert judge(DOUBLE, lambda x: x.div_(2)).mistake == "half"


def test_nothing_reaches_stderr_and_the_global_seed_is_left_alone(capfd):
    def noisy(x):
        warnings.warn("a warning", stacklevel=1)
        print("a line", file=sys.stderr)
        torch.rand(7)
        return 2 * x

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check("99.1", noisy)
    check("99.1", lambda x: x["no"])
    assert torch.equal(torch.rand(3), expected)
    assert capfd.readouterr().err == ""


def test_float64_and_lists_are_right_too():
    assert judge(DOUBLE, lambda x: 2 * x.double()).status == "right"
    assert judge(DOUBLE, lambda x: (2 * x).tolist()).status == "right"


def test_a_value_handed_in_where_a_function_is_asked_for():
    assert "the function itself" in judge(DOUBLE, 3.0).message
    assert "call it and hand in its result" in judge(GUESS, lambda: 42).message


def test_value_answers(capsys):
    assert check("99.2", 41.0) == 41.0
    assert check("99.2", 21) == 42.0 and "That is half." in capsys.readouterr().out
    assert check("99.2", 7) == 42.0
    said = capsys.readouterr().out
    assert "Think of a number." in said and "42" not in said  # a prediction is not given away
    assert check("99.2", ...) == 42.0
    assert judge(GUESS, "many").status == "wrong"
    assert judge(GUESS, True).status == "wrong"
    assert judge(GUESS, torch.tensor(42.0)).status == "right"


def test_choices():
    assert judge(CHOICE, " UP ").status == "right"
    assert judge(CHOICE, "down").mistake == "down"
    assert "'up', 'down'" in judge(CHOICE, "sideways").message
    assert "'up', 'down'" in judge(CHOICE, 3).message


def test_experiments_are_judged_by_their_own_predicate():
    assert judge(KNOB, 4).message == "right. It reached 4."
    assert judge(KNOB, 2).message == "not yet. It reached 2."
    assert "TypeError" in judge(KNOB, "high").message


def test_call_decides_what_is_compared():
    assert judge(GRADIENT, lambda x: (x.detach() * x).sum()).status == "right"
    assert judge(GRADIENT, lambda x: (x**2).sum()).mistake == "not detached"
    assert judge(GRADIENT, _stub).status == "not attempted"


def test_unknown_id_lists_the_lessons_exercises():
    with pytest.raises(ValueError, match=r'no exercise "04.99".*"04.1" \(Reward-to-go\)'):
        get("04.99")
    with pytest.raises(ValueError, match="no exercises"):
        get("98.1")


@pytest.mark.parametrize(
    ("got", "expected", "same"),
    [
        (3, 3, True),
        (1_000_001, 1_000_000, False),  # whole numbers exactly
        (1.00001, 1.0, True),
        (True, 1, False),
        (1, True, False),
        ((1, 2.0), (1, 2.0), True),
        ([1, 2.0], (1, 2.0), True),
        ((1,), (1, 2.0), False),
        ({"a": 1.0}, {"a": 1.0}, True),
        ({"b": 1.0}, {"a": 1.0}, False),
        ("B > C", "b  > c", True),
        (None, 1.0, False),
        (float("nan"), 1.0, False),
        (torch.tensor([1, 2]), torch.tensor([1, 2]), True),
        (torch.tensor([True]), torch.tensor([1.0]), False),
        (torch.tensor([[1.0]]), torch.tensor([1.0]), False),
        ((torch.ones(2), 1.0), (torch.ones(2), 1.0), True),
        ((torch.ones(2), 1.0), (torch.zeros(2), 1.0), False),
    ],
)
def test_difference(got, expected, same):
    assert (difference(got, expected) is None) == same


def test_drawn_masks_are_right_padded_episodes_of_different_length():
    for seed in range(20):
        mask = draw_mask(torch.Generator().manual_seed(seed), 3, 5)
        assert mask[0].all() and not mask[-1].all() and mask[:, 0].all()
        assert (mask.int().diff(dim=1) <= 0).all()
