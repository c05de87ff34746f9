"""How near each library's attacks come to the smallest perturbations known: the optimality of AttackBench.

    pip install --no-deps -r benchmarks/requirements.txt
    python benchmarks/optimality.py --model alexnet        (after the commands named in victim.py)

Untargeted, on test clips fixed beforehand, misclassified ones (distance 0) among them. For each clip the smallest
distance that any attack of the run reaches makes the lower envelope (Cinà et al. 2024, arXiv:2404.19460); an attack's
optimality is 1 if it reaches the envelope everywhere and 0 if it fools nothing. Each attack may take a clip through
2,000 passes, forwards plus backwards, counted on the network; one that takes more, on average over the clips, is left
out. Judged is what an attack returns, not what it may have
met on its way. Writes JSON too, with each clip's distance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from torch import Tensor, nn
from tqdm import tqdm
from victim import add_options, choose

from advtrack.attacks import ATTACKS
from advtrack.attacks.norms import perturbation_norms
from advtrack.attacks.victim import frozen
from advtrack.stages.samples import victim_split

BUDGET = 2000
#: The smallest bound with which BIM or APGD fools a clip is bisected between these.
RANGES = {"linf": (1e-4, 0.5), "l2": (1e-3, 20.0)}
BIM_ITERATIONS = 100

Distances = np.ndarray  # float64 [N]: 0 for a clean error, infinite for a failure


def optimality(distances: Distances, envelope: Distances) -> float:
    """AttackBench's measure: 1 - (A - A*) / (acc x eps_max - A*), with areas A under robust accuracy."""
    largest = envelope[np.isfinite(envelope)].max()
    area, smallest = distances.clip(max=largest).mean(), envelope.clip(max=largest).mean()
    return float(1 - (area - smallest) / ((envelope > 0).mean() * largest - smallest))


def distances(network: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str) -> Distances:
    """Distance of each example that is one and lies in [0, 1]; infinite for others."""
    with torch.no_grad():
        fooled = (network(x_adv).argmax(1) != y) & ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).flatten(1).all(1)
    return perturbation_norms(x_adv, x)[norm].double().where(fooled, torch.inf).cpu().numpy()


def once(attack: peers.PeerAttack, norm: str) -> Callable[[nn.Module, Tensor, Tensor], Distances]:
    """An attack that minimises the norm itself."""
    return lambda network, x, y: distances(network, x, y, attack(network, x, y), norm)


def bisected(at: Callable[[Tensor], peers.PeerAttack], norm: str) -> Callable[[nn.Module, Tensor, Tensor], Distances]:
    """An attack with a bound: each clip's smallest one that works, by bisection as long as the passes last."""

    def search(network: nn.Module, x: Tensor, y: Tensor) -> Distances:
        found = np.full(len(x), np.inf)
        low, high = (np.full(len(x), eps) for eps in RANGES[norm])
        for _ in range(BUDGET // (2 * BIM_ITERATIONS + 1)):  # a forward and a backward each, and a last forward
            eps = np.sqrt(low * high)
            x_adv = at(torch.from_numpy(eps).to(x))(network, x, y)
            reached = distances(network, x, y, x_adv, norm)
            found = np.minimum(found, reached)
            fooled = np.isfinite(reached)
            high, low = np.where(fooled, eps, high), np.where(fooled, low, eps)
        return found

    return search


def contenders(norm: str, classes: int) -> dict[str, Callable[[nn.Module, Tensor, Tensor], Distances]]:
    """Attack and library: those compared, and those that only lower the envelope."""
    native = {name: attack.native for name, attack in ATTACKS.items()}
    found: dict[str, Any] = {}

    def ours(name: str, **params: Any) -> peers.PeerAttack:
        def attack(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            outcome = native[name](network, x, y, targeted=False, **params)
            assert (outcome.forwards + outcome.backwards).max() <= BUDGET
            return outcome.x_adv

        return attack

    found["DeepFool advtrack"] = once(ours("deepfool", norm=norm, candidates=classes - 1), norm)
    for name, attack in peers.deepfool(norm, 100, classes).items():
        found[f"DeepFool {name}"] = once(attack, norm)
    if norm == "linf":
        found["BIM advtrack"] = bisected(lambda eps: ours("bim_a", eps=eps, max_iter=BIM_ITERATIONS), norm)
        for name in peers.bim(0.1, 1, False, classes):
            found[f"BIM {name}"] = bisected(
                lambda eps, name=name: peers.bim(eps, BIM_ITERATIONS, False, classes)[name], norm
            )
    else:
        constants, iterations, rates = 9, 110, (0.05, 0.1)
        found["C&W advtrack"] = once(
            ours("carlini_wagner", binary_search_steps=constants, max_iter=iterations, learning_rate=rates[0]), norm
        )
        for name, attack in peers.carlini_wagner(iterations, constants, False, classes, rates).items():
            if not name.startswith("ART"):
                found[f"C&W {name}"] = once(attack, norm)
        # ART looks for a step size in each iteration, with up to a dozen forwards: fewer fit into the budget.
        for name, attack in peers.carlini_wagner(20, 4, False, classes, rates).items():
            if name.startswith("ART"):
                found[f"C&W {name}"] = once(attack, norm)
        found["DDN adv-lib"] = once(partial(peers.adv_lib.ddn, steps=990, levels=None), norm)
    order = float("inf") if norm == "linf" else 2
    found["APGD adv-lib"] = bisected(
        lambda eps: lambda network, x, y: peers.adv_lib.apgd(network, x, y, eps, order, n_iter=95), norm
    )
    found["FMN adv-lib"] = once(partial(peers.adv_lib.fmn, norm=order, steps=990), norm)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--norm", choices=("linf", "l2"), action="append", help="both unless given")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/optimality.json"))
    arguments = parser.parse_args()

    chosen = choose(arguments)
    network, store = chosen.victim.network, chosen.store
    test = victim_split(chosen.victim, store).test
    listed = np.random.default_rng(0).permutation(test)[: arguments.clips]
    x, y = torch.from_numpy(store.images(listed)).to(chosen.device), torch.from_numpy(store.y[listed]).to(chosen.device)
    with torch.no_grad():
        correct = network(x).argmax(1) == y
    if correct.sum() < 2:
        parser.error(
            "the victim classifies fewer than two of the clips correctly: train it longer, or give more --clips"
        )
    print(f"{chosen.title}: {len(x)} clips, {int(correct.sum())} of them classified correctly")
    found: dict[str, Any] = {"victim": chosen.title, "clips": len(x), "correct": int(correct.sum())}
    for norm in arguments.norm or ("linf", "l2"):
        reached, passes_each = {}, {}
        with frozen(network):
            for name, attack in tqdm(contenders(norm, len(store.classes)).items(), desc=norm):
                torch.manual_seed(0)
                reached[name] = np.zeros(len(x))
                with peers.counted(network) as passes:
                    reached[name][correct.cpu().numpy()] = attack(network, x[correct], y[correct])
                passes_each[name] = (passes.forwards + passes.backwards) / int(correct.sum())
                if passes_each[name] > BUDGET:
                    print(f"{name}: left out, {passes_each[name]:.0f} passes a clip")
                    del reached[name]
        envelope = np.min(list(reached.values()), axis=0)
        rows = {
            name: {
                "optimality": optimality(distance, envelope),
                "success": float(np.isfinite(distance[distance > 0]).mean()),
                "median_distance": float(np.median(distance[np.isfinite(distance) & (distance > 0)])),
                "passes": passes_each[name],
                "distances": distance.tolist(),
            }
            for name, distance in reached.items()
        }
        print(f"\n{norm}: median of the envelope {np.median(envelope[envelope > 0]):.4g}")
        print(f"  {'':32} {'optimality':>10} {'success':>8} {'median':>9} {'passes':>7}")
        for name, row in sorted(rows.items(), key=lambda item: -item[1]["optimality"]):
            print(
                f"  {name:32} {row['optimality']:10.3f} {row['success']:8.0%} {row['median_distance']:9.4g} "
                f"{row['passes']:7.0f}"
            )
        found[norm] = rows
        arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
