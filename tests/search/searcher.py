"""A process of its own that searches a budget on a victim whose smallest budgets are known; not a test.

python tests/search/searcher.py STORAGE_URL ATTACK SECONDS_A_PASS WORKERS HOLD

While there is a file HOLD, no pass ends.
"""

import json
import logging
import sys
import time
from pathlib import Path

import torch
from torch import nn

from advtrack.search.criterion import Criterion
from advtrack.search.space import Samples, Search
from advtrack.search.storage import open_storage
from advtrack.search.study import search_budget


class Slow(nn.Module):
    """Logits (0, sum of x - 0.5): the boundary is |mean of x - 0.5| away in l-inf; each pass takes its time."""

    def __init__(self, seconds, hold):
        super().__init__()
        self.seconds, self.hold = seconds, hold
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        time.sleep(self.seconds)
        while self.hold.exists():
            time.sleep(0.05)
        margin = self.weight * (x - 0.5).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(margin), margin], 1)


def samples(n=24):
    """Inputs between 0.002 and 0.2 away from the boundary, on both sides."""
    away = torch.logspace(-2.7, -0.7, n) * torch.tensor([1.0, -1.0]).repeat(n // 2)
    x = (0.5 + away)[:, None, None, None].expand(n, 1, 4, 4).contiguous()
    y = (away > 0).long()
    return Samples(x, y, 1 - y, x)


if __name__ == "__main__":
    url, attack, seconds, workers, hold = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, force=True)
    torch.set_num_threads(1)
    search = Search(attack, Criterion("fooling_rate", 0.9), 30, 0, max_iter=12)
    print("begun", flush=True)
    found = search_budget(
        Slow(float(seconds), Path(hold)),
        samples(),
        search,
        open_storage(url),
        "study",
        "title",
        workers=int(workers),
        url=url,
    )
    budget = found.budget
    spent = found.passes, found.cut_short
    print(json.dumps([budget.bound, budget.iterations, budget.settings, found.fooling_rate, *spent]), flush=True)
