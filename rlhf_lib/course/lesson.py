"""What every lesson imports, in one line: `from rlhf_lib.course.lesson import *`."""

import math
import time

import torch

from rlhf_lib import (
    assets,
    estimators,
    games,
    labels,
    losses,
    mdp,
    metrics,
    models,
    preferences,
    reviews,
    rewards,
    rollout,
    runs,
    show,
)
from rlhf_lib.algorithms import (
    actor_critic,
    agent,
    best_of_n,
    dpo,
    group,
    nlpo,
    ppo,
    q_learning,
    reinforce,
    reward_model,
    sft,
)
from rlhf_lib.course import details, experiments, results, stages
from rlhf_lib.course.check import check
from rlhf_lib.course.quiz import quiz

__all__ = [
    "actor_critic",
    "agent",
    "assets",
    "best_of_n",
    "check",
    "details",
    "dpo",
    "estimators",
    "experiments",
    "games",
    "group",
    "labels",
    "losses",
    "math",
    "mdp",
    "metrics",
    "models",
    "nlpo",
    "ppo",
    "preferences",
    "q_learning",
    "quiz",
    "reinforce",
    "results",
    "reviews",
    "reward_model",
    "rewards",
    "rollout",
    "runs",
    "sft",
    "show",
    "stages",
    "time",
    "torch",
]
