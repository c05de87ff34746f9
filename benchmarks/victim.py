"""The registered victim that a benchmark attacks, chosen on the command line.

advtrack features --dataset esc50 --data-dir path/to/ESC-10 --height 128 --width 128
advtrack train --dataset esc50 --model resnet18 --folds 1
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch

from advtrack.models import checkpoint
from advtrack.models.checkpoint import Victim
from advtrack.representations.store import SpectrogramSet
from advtrack.stages.device import choose_device
from advtrack.stages.features import find_store
from advtrack.stages.victims import find_victim
from advtrack.tracking import registry
from advtrack.tracking.connection import connect


@dataclass(frozen=True)
class Chosen:
    """A victim, the spectrograms it was trained on, where it computes, and what it is called."""

    victim: Victim
    store: SpectrogramSet
    device: torch.device
    title: str


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a victim."""
    parser.add_argument("--dataset", default="esc50")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--representation", default="stft")
    parser.add_argument("--victim", default="standard", help="alias or version")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))


def choose(arguments: argparse.Namespace) -> Chosen:
    """The victim meant, from the registry of the tracking store in use."""
    connect()
    version = find_victim(arguments.dataset, arguments.representation, arguments.model, arguments.victim)
    device = choose_device(arguments.device)
    victim = checkpoint.load(registry.download(version), device)
    digest = victim.description.training["store_digest"]
    store, _ = find_store(victim.description.dataset, arguments.representation, store_digest=digest)
    return Chosen(victim, store, device, f"{version} on {device} with {torch.get_num_threads()} threads")
