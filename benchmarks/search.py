"""Our budget search against Optuna's TPE and a geometric grid, both with ART's attacks: same clips, same tolerance.

    pip install --no-deps -r benchmarks/requirements.txt
    python benchmarks/search.py --model resnet18        (after the commands named in victim.py)

What is asked is the smallest perturbation bound that fools 90% of the clips. TPE proposes eps, with the target as a
constraint; a trial is one run of ART's attack on all clips. The grid goes up in steps of 5%, as armory's sweeps do, and
stops where the target is reached: it is tried where that happens, up to a point that reaches and down to one that
misses, and the cost of what lies below is that of the trials measured. Of Carlini-Wagner with ART, one trial is run,
the one with the fewest iterations of our search's space (3 constants of 50), and counted as often as TPE has trials;
beside it stands what trials drawn from all four settings of that space take on average, 2.25 times as many iterations.
Counted are samples that went backwards through the network. Ours are spread over the time of the others', so that what
else the machine does meanwhile slows both.
``--full`` searches the budgets of all six attacks on all test clips instead, and adds up the time of four of them.
``--attack`` picks attacks, of either. Every row is written to a JSON file as soon as it is there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import art.attacks.evasion as art
import numpy as np
import optuna
import peers
import torch
from torch import nn
from victim import Chosen, add_options, choose

from advtrack.attacks import ATTACKS, TABLE_ATTACKS
from advtrack.attacks.norms import perturbation_norms
from advtrack.search.criterion import Criterion
from advtrack.search.space import Samples, Search
from advtrack.search.study import search_budget
from advtrack.stages.samples import strike_list

TARGET, TOLERANCE, ITERATIONS = 0.9, 0.05, 100
OURS = "advtrack"
COMPARED = ("bim_a", "bim_b", "carlini_wagner")
# What --full adds up: the attacks whose searches are to end within 25 minutes.
TOGETHER = ("bim_a", "bim_b", "deepfool", "carlini_wagner")
# Iterations of 3 or 6 constants with 50 or 100 each, on average, in units of 3 x 50.
_MEAN_OF_SETTINGS = 2.25


def ours(network: nn.Module, samples: Samples, attack: str, trials: int, max_iter: int = 0) -> dict[str, Any]:
    """Our search; its bound, the rate confirmed there, and what it took."""
    search = Search(attack, Criterion("fooling_rate", TARGET), trials, 0, max_iter, TOLERANCE)
    storage = optuna.storages.InMemoryStorage()
    with peers.counted(network) as passes:
        start = perf_counter()
        result = search_budget(network, samples, search, storage, attack, attack)
        seconds = perf_counter() - start
    return {
        "bound": result.budget.bound,
        "iterations": result.budget.iterations,
        "fooling_rate": result.fooling_rate,
        "reached": result.reached,
        "settled": result.settled,
        "trials": len(result.trials),
        "contradictions": result.contradictions,
        "forwards": passes.forwards / len(samples),
        "gradients": passes.backwards / len(samples),
        "seconds": seconds,
    }


def struck(network: nn.Module, samples: Samples, classes: int, made: Any, norm: str) -> np.ndarray:
    """Perturbations of ART's examples in a norm, infinite for failures."""
    labels = np.eye(classes, dtype=np.float32)[samples.target.cpu().numpy()]
    x_adv = torch.from_numpy(made.generate(samples.x.cpu().numpy(), labels)).to(samples.x.device)
    with torch.no_grad():
        fooled = network(x_adv).argmax(1) == samples.target
    return perturbation_norms(x_adv, samples.x)[norm].where(fooled, torch.inf).cpu().numpy()


def bim_with_art(network: nn.Module, samples: Samples, classes: int, eps: float) -> float:
    """Fooling rate of ART's BIM."""
    classifier = peers.art_classifier(network, samples.x, classes)
    made = art.BasicIterativeMethod(classifier, eps, eps / 8, ITERATIONS, True, len(samples), verbose=False)
    return float((struck(network, samples, classes, made, "linf") <= eps * (1 + 1e-5)).mean())


def tpe_with_art(network: nn.Module, samples: Samples, classes: int, trials: int, run: int) -> Iterator[dict[str, Any]]:
    """Optuna's TPE over ART's BIM: after each trial of ``run``, the smallest eps, and what ``trials`` would cost."""
    eps_range = ATTACKS["bim_a"].space["eps"]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    seconds, gradients, bound, rate_there = [], 0.0, math.inf, 0.0
    for done in range(1, run + 1):
        trial = study.ask()
        eps = trial.suggest_float("eps", eps_range.low, eps_range.high, log=True)
        with peers.counted(network) as passes:
            start = perf_counter()
            rate = bim_with_art(network, samples, classes, eps)
            seconds.append(perf_counter() - start)
        gradients += passes.backwards / len(samples)
        trial.set_constraint("target_missed_by", TARGET - rate)
        study.tell(trial, eps)
        if rate >= TARGET and eps < bound:
            bound, rate_there = eps, rate
        yield {
            "bound": bound,
            "fooling_rate": rate_there,
            "trials": trials,
            "run": done,
            "gradients": gradients * trials / done,
            "seconds": sum(seconds) * trials / done,
            "seconds_each": median(seconds),
            "gradients_each": gradients / done,
        }


def grid_with_art(
    network: nn.Module, samples: Samples, classes: int, near: float, each: dict[str, Any]
) -> dict[str, Any]:
    """The grid's first eps that reaches the target, near one that does; what the points up to it cost.

    From there it goes up to a point that reaches the target, and then down until one misses it.
    """
    eps = ATTACKS["bim_a"].space["eps"]

    def rate(point: int) -> float:
        return bim_with_art(network, samples, classes, eps.low * (1 + TOLERANCE) ** point)

    last = math.floor(math.log(eps.high / eps.low) / math.log(1 + TOLERANCE))
    point = min(math.floor(math.log(near / eps.low) / math.log(1 + TOLERANCE)), last)
    reached = rate(point)
    while reached < TARGET and point < last:
        point += 1
        reached = rate(point)
    while reached >= TARGET and point > 0 and (below := rate(point - 1)) >= TARGET:
        point, reached = point - 1, below
    return {
        "bound": eps.low * (1 + TOLERANCE) ** point if reached >= TARGET else math.inf,
        "fooling_rate": reached,
        "trials": point + 1,
        "gradients": each["gradients_each"] * (point + 1),
        "seconds": each["seconds_each"] * (point + 1),
    }


def wagner_with_art(network: nn.Module, samples: Samples, classes: int, trials: int) -> dict[str, Any]:
    """One trial of ART's Carlini-Wagner, times the trials of a study."""
    classifier = peers.art_classifier(network, samples.x, classes)
    made = art.CarliniL2Method(classifier, 0.0, True, 0.1, 3, 50, 1.0, batch_size=len(samples), verbose=False)
    with peers.counted(network) as passes:
        start = perf_counter()
        distances = struck(network, samples, classes, made, "l2")
        seconds = perf_counter() - start
    bound = Criterion("fooling_rate", TARGET).smallest_bound(distances)
    return {
        "bound": bound,
        "fooling_rate": float((distances <= bound).mean())
        if math.isfinite(bound)
        else float(np.isfinite(distances).mean()),
        "trials": trials,
        "gradients": trials * passes.backwards / len(samples),
        "seconds": trials * seconds,
    }


def compared(chosen: Chosen, asked: argparse.Namespace, attacks: Sequence[str], found: Found) -> None:
    """Ours and the others. Our searches are spread over the time that the others' trials take, which is far longer."""
    network, classes = chosen.victim.network, len(chosen.store.classes)
    clips = asked.clips or 16
    samples = strike_list(chosen.victim, chosen.store, ATTACKS["bim_a"], clips, 0, chosen.device).samples
    if bims := [attack for attack in attacks if attack.startswith("bim")]:
        run = asked.peer_trials or asked.trials
        name = f"TPE with ART, {asked.trials} trials ({run} were run)"
        own = {attack: _Repeated(network, samples, attack, asked, ITERATIONS) for attack in bims}
        for done, tpe in enumerate(tpe_with_art(network, samples, classes, asked.trials, run), 1):
            for attack, searched in own.items():
                # As much of ours is done as of the others'.
                while searched.done < asked.repeats * done / run:
                    found.put(attack, OURS, searched.again())
                found.put(attack, name, tpe)
        grid = grid_with_art(network, samples, classes, min(one.row["bound"] for one in own.values()), tpe)
        for attack in bims:
            found.put(attack, "grid with ART (points below are computed)", grid)
            show(attack, found.rows[attack])
    if "carlini_wagner" in attacks:
        searched = _Repeated(network, samples, "carlini_wagner", asked)
        found.put("carlini_wagner", OURS, searched.again())
        wagner = wagner_with_art(network, samples, classes, asked.trials)
        found.put("carlini_wagner", f"TPE with ART, {asked.trials} trials of 3 x 50 (one was run)", wagner)
        costs = {name: _MEAN_OF_SETTINGS * wagner[name] for name in ("gradients", "seconds")}
        found.put("carlini_wagner", "the same, of all four settings (computed)", {**wagner, **costs})
        while searched.done < asked.repeats:
            found.put("carlini_wagner", OURS, searched.again())
        show("carlini_wagner", found.rows["carlini_wagner"])


class _Repeated:
    """One of our searches, done again and again; ``row`` has the median of the times so far."""

    def __init__(
        self, network: nn.Module, samples: Samples, attack: str, asked: argparse.Namespace, max_iter: int = 0
    ) -> None:
        self._search = partial(ours, network, samples, attack, asked.trials, max_iter)
        self._seconds: list[float] = []
        self.row: dict[str, Any] = {}

    @property
    def done(self) -> int:
        return len(self._seconds)

    def again(self) -> dict[str, Any]:
        row = self._search()
        self._seconds.append(row["seconds"])
        self.row = {**row, "seconds": median(self._seconds), "seconds_each": list(self._seconds)}
        return self.row


class Found:
    """What was measured, by attack and by who searched; written as it comes."""

    def __init__(self, out: Path, title: str) -> None:
        self._out, self._title = out, title
        self.rows: dict[str, dict[str, Any]] = {}

    def put(self, attack: str, name: str, row: dict[str, Any]) -> None:
        """Take in a row, in the place of an earlier one of the same name."""
        self.rows.setdefault(attack, {})[name] = row
        self._out.write_text(json.dumps({"victim": self._title, **self.rows}, indent=2) + "\n")


def show(attack: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print one comparison."""
    print(f"\n{attack}")
    print(f"  {'':56} {'bound':>8} {'rate':>6} {'trials':>7} {'gradients':>10} {'seconds':>9}")
    for name, row in rows.items():
        print(
            f"  {name:56} {row['bound']:8.4g} {row['fooling_rate']:6.1%} {row['trials']:7} {row['gradients']:10.0f} "
            f"{row['seconds']:9.1f}"
        )
    mine = rows[OURS]
    for name, row in rows.items():
        if name != OURS:
            # Of a peer that was not run to its end, or found none, the bound tells nothing.
            whole = math.isfinite(row["bound"]) and row.get("run", row["trials"]) == row["trials"]
            compared_bound = f"bound {mine['bound'] / row['bound']:.3f}, " if whole else ""
            gradients, seconds = row["gradients"] / mine["gradients"], row["seconds"] / mine["seconds"]
            print(
                f"  of {name}: {compared_bound}1/{gradients:.0f} of the gradients "
                f"(needed 1/20), 1/{seconds:.0f} of the time (needed 1/30)"
            )


def full(chosen: Chosen, asked: argparse.Namespace, attacks: Sequence[str], found: Found) -> None:
    """Each attack's search on as many test clips as it strikes by default, beside the cost of the passes alone."""
    network = chosen.victim.network
    for attack in attacks:
        spec = ATTACKS[attack]
        clips = asked.clips or spec.sample_limit or 0
        samples = strike_list(chosen.victim, chosen.store, spec, clips, 0, chosen.device).samples
        unit = passes_cost(network, samples.x[:32])
        row = ours(network, samples, attack, asked.trials)
        floor = len(samples) * (row["forwards"] * unit["forward"] + row["gradients"] * unit["backward"])
        found.put(attack, OURS, {**row, "clips": len(samples), "floor_seconds": floor})
        print(
            f"{attack}: {row['seconds']:.0f} s for {len(samples)} clips ({row['seconds'] / len(samples):.1f} s each), "
            f"passes alone {floor:.0f} s; bound {row['bound']:.4g}, rate {row['fooling_rate']:.1%}, "
            f"{row['trials']} trials, {row['forwards']:.0f} forwards and {row['gradients']:.0f} gradients a clip"
        )
    together = {attack: rows[OURS]["seconds"] for attack, rows in found.rows.items() if attack in TOGETHER}
    if together:
        print(f"{', '.join(together)} together {sum(together.values()) / 60:.1f} min")


def passes_cost(network: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """Seconds of a sample's forward and backward pass in a full batch."""

    def timed(function: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(4):
            start = perf_counter()
            function()
            seconds.append(perf_counter() - start)
        return median(seconds[1:]) / len(x)

    def forward() -> None:
        with torch.no_grad():
            network(x)

    def both() -> None:
        given = x.clone().requires_grad_()
        torch.autograd.grad(network(given).sum(), given)

    alone = timed(forward)
    return {"forward": alone, "backward": timed(both) - alone}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--clips", type=int, help="at most; 16 unless given, with --full what the attack strikes")
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--peer-trials", type=int, help="of TPE with BIM that are run; all unless given")
    parser.add_argument("--repeats", type=int, default=3, help="of our searches")
    parser.add_argument("--full", action="store_true", help="all test clips and attacks, ours alone")
    parser.add_argument("--attack", choices=TABLE_ATTACKS, action="append", help="all unless given")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/search.json"))
    arguments = parser.parse_args()

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if not arguments.full and not {*(arguments.attack or COMPARED)} <= {*COMPARED}:
        parser.error(f"--attack: only {', '.join(COMPARED)} are compared; others are searched with --full")
    chosen = choose(arguments)
    chosen.victim.network.eval()
    print(chosen.title)
    found = Found(arguments.out, chosen.title)
    if arguments.full:
        full(chosen, arguments, arguments.attack or TABLE_ATTACKS, found)
    else:
        compared(chosen, arguments, arguments.attack or COMPARED, found)


if __name__ == "__main__":
    main()
