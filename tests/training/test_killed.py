"""A real process that trains, killed at any moment: the next one ends with the same weights, bit for bit."""

import signal
import subprocess
import sys
import textwrap

import pytest
import torch

PROGRAM = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from time import sleep

    import numpy as np
    import torch
    from torch import nn

    from advtrack.processes import Terminated
    from advtrack.training.fit import Settings, fit

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs behind
    folder, eps = Path(sys.argv[1]), float(sys.argv[2])
    when, how, epoch, passes = sys.argv[3], getattr(signal, sys.argv[4]), 1, 0


    class Noise:
        classes = ("a", "b", "c")
        y = np.arange(80) % 3
        x = (np.random.default_rng(0).random((80, 1, 12, 12)) + y[:, None, None, None] / 9).astype(np.float32)

        def images(self, indices):
            return self.x[indices].clip(0, 1)


    class Bomb(nn.Module):
        # Goes off in the middle of a step: what comes after it has not been computed yet.
        def forward(self, x):
            global passes
            passes += self.training
            if f"{epoch}/{passes}" == when:
                os.kill(os.getpid(), how)
            return x


    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), Bomb(), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.3), nn.Linear(32, 3),
    )
    options = Settings(epochs=5, patience=0, batch_size=16, lr=1e-2, seed=1, eps=eps or None)
    told = []


    def tell(ended):
        global epoch, passes
        epoch, passes = ended.number + 1, 0
        told.append(ended)
        sleep(0.1)  # so short an epoch would not be written each time


    try:
        fit(network, Noise(), np.arange(64), np.arange(64, 80), options, folder / "state.pt", tell)
    except Terminated:
        sys.exit(99)
    except KeyboardInterrupt:
        sys.exit(98)
    torch.save({"network": network.state_dict(), "told": [vars(epoch) for epoch in told]}, folder / "weights.pt")
""")


def run(folder, eps, when="", how=signal.SIGKILL):
    """Train; ``when`` a signal comes is an epoch and how many times the network was passed in it: '2/3'."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROGRAM, str(folder), str(eps), when, how.name]
    return subprocess.run(command, timeout=120, check=False).returncode


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_weights_are_the_same_bit_for_bit(tmp_path, eps):
    """Four batches an epoch; adversarial training passes twice in each."""
    passes = 2 if eps else 1
    assert run(tmp_path / "undisturbed", eps) == 0
    folder = tmp_path / "killed"
    assert run(folder, eps, f"2/{3 * passes}") == -signal.SIGKILL
    assert run(folder, eps, f"3/{2 * passes}", signal.SIGTERM) == 99  # continues after that batch
    state = torch.load(folder / "state.pt", weights_only=True)
    assert len(state["history"]) == 2 and len(state["losses"]) == 2
    assert run(folder, eps, f"3/{passes}", signal.SIGINT) == 98
    state = torch.load(folder / "state.pt", weights_only=True)
    assert len(state["history"]) == 2 and len(state["losses"]) == 3
    assert run(folder, eps, f"4/{3 * passes}") == -signal.SIGKILL
    assert run(folder, eps) == 0
    whole, continued = (torch.load(place / "weights.pt") for place in (tmp_path / "undisturbed", folder))
    assert whole["told"] == continued["told"] and len(whole["told"]) == 5
    for name, tensor in whole["network"].items():
        assert torch.equal(tensor, continued["network"][name]), name
