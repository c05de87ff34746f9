"""What holds for every test."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """On networks this small, and on busy cores, several threads wait for each other."""
    torch.set_num_threads(1)
