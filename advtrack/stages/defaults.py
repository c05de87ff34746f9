"""What options are unless told otherwise; nothing heavy is imported, since the command line shows it in its help."""

from __future__ import annotations

from typing import Any

SEED, PRECISION, DEVICE, STORAGE = 0, "fp32", "auto", "sqlite:///optuna.db"

#: Which folds of a training.
FOLDS: dict[str, Any] = {"folds": "all", "repeats": 1}

#: The options that a plain and a robust victim have in common.
TRAINING: dict[str, Any] = {
    "seed": SEED, "protocol": "paper", "weights": "none", "epochs": 0, "patience": 0, "batch_size": 32, "lr": 0.0,
    "schedule": "one_cycle", "freeze_epochs": 0, "augmentation": "all", "precision": PRECISION,
}  # fmt: skip

#: The options that make a training adversarial.
HARDENING: dict[str, Any] = {"eps": 8 / 255, "alpha": 0.5, "random_eps": False}

#: The options that make two searches comparable.
SEARCHING: dict[str, Any] = {
    "seed": SEED, "target_fooling_rate": 0.9, "criterion": "fooling_rate", "protocol": "test", "samples": "0",
    "max_iter": "0", "trials": 24, "tolerance": 0.05, "sampler": "bounds", "precision": PRECISION,
}  # fmt: skip

#: What else an attack is told.
ATTACKING: dict[str, Any] = {"workers": 1, "budget_from": "", "storage": STORAGE, "device": DEVICE}
