"""Reinforcement learning from human feedback, small enough to read and exact where it can be.

The ground floor is `mdp`, `estimators`, `losses`, `preferences` and `runs`: plain functions on torch tensors. Importing
this package imports nothing else; ask for the module you need, for example ``from rlhf_lib.losses import ppo_loss``.
"""

__version__ = "0.1.0"
