"""Lessons 07 and 10 to 15 on SmolLM2, by the one name that a reader would change: single steps, two layers."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_lib import assets, reviews
from rlhf_lib.course import experiments, stages
from rlhf_lib.models import Policy, RewardModel, load_model
from rlhf_lib.runs import Run

SOURCES = Path(__file__).parents[1] / "notebooks" / "src"
NAME = 'stages.SCALE = "tiny"'


@pytest.fixture(scope="module")
def kept(tmp_path_factory, smol):
    """An empty cache for the stages, with SmolLM2 cut down to the first two of its 30 layers."""
    cache = tmp_path_factory.mktemp("cache")
    lm = load_model("smol").lm
    lm.model.layers, lm.config.num_hidden_layers = lm.model.layers[:2], 2
    lm.config.layer_types = None
    lm.save_pretrained(cache / "smol")
    smol.tokenizer.save_pretrained(cache / "smol")
    return cache


@pytest.fixture
def few(monkeypatch, tmp_path, kept, rated):
    """Eight openings, one step a run, rankings of eight, and stages that leave the user's cache be."""
    openings, steps = reviews.openings, Run.steps
    monkeypatch.setattr(reviews, "openings", lambda *args, **options: openings(*args, **options)[:8])
    monkeypatch.setattr(Run, "steps", lambda self, count: steps(self, min(count, 1)))
    monkeypatch.setattr(assets, "smollm2_dir", lambda: kept / "smol")
    monkeypatch.setattr(stages, "cache_dir", lambda: kept)
    monkeypatch.setattr(stages, "workspace_dir", lambda: tmp_path)
    monkeypatch.setattr(stages, "SCALE", stages.SCALE)  # so that it is put back
    for name, value in {"GROUP": 8, "RATERS": 1, "SFT": replace(stages.SFT, batch_size=8)}.items():
        monkeypatch.setattr(stages, name, value)
    for lesson, name in {"shared": "RLHF", "lesson_11": "PPO", "lesson_12": "NLPO", "lesson_14": "HACK"}.items():
        module = getattr(experiments, lesson)
        monkeypatch.setattr(module, name, replace(getattr(module, name), prompts_per_step=2))
    rivals = {name: replace(config, prompts_per_step=2) for name, config in experiments.lesson_13.RIVALS.items()}
    monkeypatch.setattr(experiments.lesson_13, "RIVALS", rivals)
    monkeypatch.setattr(experiments.lesson_15, "AGENT", replace(experiments.lesson_15.AGENT, episodes=2))


class Unasserted(ast.NodeTransformer):
    """What a lesson asserts of its results, a few steps do not teach."""

    def visit_Assert(self, node):
        return ast.copy_location(ast.Pass(), node)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", ["07", "10", "11", "12", "13", "14", "15"])
def test_a_lessons_cells_run_on_smollm2(lesson, few):
    (file,) = SOURCES.glob(f"{lesson}_*.py")
    source = file.read_text(encoding="utf-8")
    assert source.count(NAME) == 1
    cells = Unasserted().visit(ast.parse(source.replace(NAME, 'stages.SCALE = "smol"')))
    space = {"__name__": "__main__"}
    exec(compile(cells, file.name, "exec"), space)
    used = {model.name for model in space.values() if isinstance(model, Policy | RewardModel)}
    assert "smol" in used and "tiny" not in used
