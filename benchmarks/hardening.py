"""What adversarial training costs in accuracy, and by how much it lowers the fooling rates of FGSM and BIM.

    advtrack adv-train --dataset esc50 --model resnet18 --folds 1       (after the commands named in victim.py)
    python benchmarks/hardening.py --model resnet18

The plain and the adversarially trained victim of a network, on the same test clips: test accuracy (the difference is
Table I's drop), and, at the eps of the training, the fooling rates of FGSM and of BIM-b with 20 iterations among the
clips that the victim classifies correctly. The attacks are untargeted, as the one of the training is, and towards the
wrong labels of the budget search. Robust accuracy counts clean errors too. Rates come with Wilson's 95% interval.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from victim import Chosen, add_options, choose

from advtrack.attacks import ATTACKS
from advtrack.intervals import wilson
from advtrack.stages.defaults import HARDENING
from advtrack.stages.samples import strike_list, victim_split

ITERATIONS = 20
STRIKES: dict[str, tuple[str, dict[str, Any]]] = {"FGSM": ("fgsm", {}), "BIM": ("bim_b", {"max_iter": ITERATIONS})}


def rate(count: int, of: int) -> dict[str, Any]:
    """A share, its numbers and its interval."""
    return {"rate": count / of, "count": count, "of": of, "interval": [float(end) for end in wilson(count, of)]}


def measure(chosen: Chosen, eps: float) -> dict[str, Any]:
    """Accuracy and fooling rates of a victim."""
    network = chosen.victim.network.eval()
    tests = len(victim_split(chosen.victim, chosen.store).test)
    samples = strike_list(chosen.victim, chosen.store, ATTACKS["fgsm"], 0, 0, chosen.device).samples
    found = {"accuracy": rate(len(samples), tests)}
    for name, (attack, params) in STRIKES.items():
        for kind, labels in ("untargeted", samples.y), ("targeted", samples.target):
            outcome = ATTACKS[attack].native(network, samples.x, labels, eps=eps, targeted=kind == "targeted", **params)
            fooled = int(outcome.success.sum())
            found[f"fooled by {name}, {kind}"] = rate(fooled, len(samples))
            if kind == "untargeted":
                found[f"robust accuracy, {name}"] = rate(len(samples) - fooled, tests)
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(victim="robust")
    parser.add_argument("--eps", type=float, default=HARDENING["eps"], help="l-inf bound; that of the training")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/hardening.json"))
    arguments = parser.parse_args()

    found: dict[str, Any] = {"eps": arguments.eps}
    for name in ("standard", arguments.victim):
        arguments.victim = name
        chosen = choose(arguments)
        print(chosen.title)
        found[name] = {"victim": chosen.title, **measure(chosen, arguments.eps)}
        for what, row in found[name].items():
            if what != "victim":
                low, high = row["interval"]
                print(f"  {what:28} {row['rate']:6.1%}  ({row['count']} of {row['of']}; {low:.1%} to {high:.1%})")
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
