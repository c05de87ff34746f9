"""Where a stage computes."""

from __future__ import annotations

import logging

import torch

from advtrack.errors import InputError

logger = logging.getLogger("advtrack")


def choose_device(device: str) -> torch.device:
    """The device of an option: 'auto' takes a GPU if there is one and says so.

    Raises
    ------
    InputError
        'cuda' without a GPU.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        logger.info("device: %s", device)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; use --device cpu or auto")
    return torch.device(device)
