"""Our attacks against ART, Foolbox, torchattacks and adv-lib: same victim, clips, targets and budgets.

    pip install --no-deps -r benchmarks/requirements.txt
    advtrack features --dataset esc50 --data-dir path/to/ESC-10 --height 128 --width 128
    advtrack train --dataset esc50 --model resnet18 --folds 1
    python benchmarks/attacks.py --model resnet18

Libraries take turns; a time is the median over ``--repeats`` of the calls that ended within ``--limit`` seconds. It is
given in units of one forward and backward pass of all clips, measured in the same turns. Every result is judged in the
same way: predicted class, within [0, 1], within eps. The network is given to all as `advtrack.models.checkpoint.load`
gives it, in evaluation mode and in the layout channels_last: whether its weights are spared their gradients is the
library's affair. The overhead is a library's time over that of the passes it made, each at its cost in a full batch;
the floor of ours is what its passes cost in the batches, of samples that are left, in which it makes them.
The JSON file holds, for each case, all of the table, the ratio of our time to every peer's, and what was needed.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import peers
import torch
from torch import Tensor, nn
from victim import add_options, choose

from advtrack.attacks import ATTACKS
from advtrack.attacks.norms import perturbation_norms
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import is_adversarial
from advtrack.search.space import Samples
from advtrack.stages.samples import strike_list

OURS = "advtrack"


@dataclass(frozen=True)
class Case:
    """One comparison: our attack, what it is held against, and what is asked of it."""

    title: str
    #: By name: with the peers' budget, and where that buys more than they have, with less.
    ours: dict[str, Callable[..., AttackOutcome]]
    peers: dict[str, peers.PeerAttack]
    targeted: bool
    norm: str
    #: Largest ratio of times: to the fastest peer as good as ours, and to ART.
    to_best: float
    to_art: float
    eps: float | None = None


@dataclass
class Measured:
    """One library's results in a case."""

    seconds: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    passes: peers.Passes = field(default_factory=peers.Passes)
    #: Of each clip's example in the case's norm; infinite where there is none.
    distances: np.ndarray = field(default_factory=lambda: np.array([]))
    ended: bool = True


class _TimeIsUpError(Exception):
    pass


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Leave the block after so many seconds."""

    def leave(*_: object) -> None:
        raise _TimeIsUpError

    before = signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def timed(function: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds that a call takes, the device's work included, and its result."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = perf_counter()
    result = function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start, result


def forward(network: nn.Module, x: Tensor) -> None:
    """The forward passes of one batch."""
    with torch.no_grad():
        network(x)


def forward_backward(network: nn.Module, x: Tensor) -> None:
    """The forward and backward passes of one batch."""
    given = x.clone().requires_grad_()
    torch.autograd.grad(network(given).logsumexp(1).sum(), given)


def judge(network: nn.Module, samples: Samples, x_adv: Tensor, case: Case) -> np.ndarray:
    """Distance of each clip's example in the case's norm; infinite where there is none."""
    with torch.no_grad():
        labels = samples.target if case.targeted else samples.y
        success = is_adversarial(network(x_adv), labels, case.targeted)
    norms = perturbation_norms(x_adv, samples.x)
    success &= ((x_adv >= -1e-6) & (x_adv <= 1 + 1e-6)).flatten(1).all(1)
    if case.eps is not None:
        success &= norms["linf"] <= case.eps + 1e-6
    return norms[case.norm].double().where(success, torch.inf).cpu().numpy()


def measure(network: nn.Module, samples: Samples, case: Case, repeats: int, limit: float) -> dict[str, Any]:
    """All libraries in turns, and the cost of the passes beside them."""
    labels, device = (samples.target if case.targeted else samples.y), samples.x.device
    calls = {name: _example_of(ours, case.targeted) for name, ours in case.ours.items()} | case.peers
    found = {name: Measured() for name in calls}
    pass_seconds: list[float] = []
    both_seconds: list[float] = []
    for repeat in range(repeats + 1):  # the first turn warms up and is judged
        for name, call in calls.items():
            one = found[name]
            if not one.ended:
                continue
            forward_seconds, _ = timed(partial(forward, network, samples.x), device)
            unit, _ = timed(partial(forward_backward, network, samples.x), device)
            try:
                with within(limit), peers.counted(network) as passes:
                    seconds, x_adv = timed(partial(call, network, samples.x.clone(), labels), device)
            except _TimeIsUpError:
                one.ended = False
                continue
            if repeat == 0:
                one.passes = passes
                one.distances = judge(network, samples, x_adv, case)
            else:
                one.seconds.append(seconds)
                pass_seconds.append(forward_seconds)
                both_seconds.append(unit)
    unit, single = median(both_seconds), median(pass_seconds)
    floors = {name: _floor(network, samples.x, found[name].passes) / unit for name in case.ours if found[name].ended}
    rows = {name: _row(one, len(samples), unit, single, limit) for name, one in found.items()}
    return {
        "libraries": rows,
        "eps": case.eps,
        "unit_seconds": unit,
        "forward_seconds": single,
        "floors": floors,
        "compared": {
            name: _compared(rows[name], {peer: rows[peer] for peer in case.peers}, case) for name in case.ours
        },
        "needed": {"to_best": case.to_best, "to_art": case.to_art},
    }


def _floor(network: nn.Module, x: Tensor, passes: peers.Passes) -> float:
    """Seconds that these passes take by themselves, in batches of their sizes."""
    seconds = 0.0
    for size in passes.forward_sizes | passes.backward_sizes:
        batch = x[:size]
        alone = median(timed(partial(forward, network, batch), x.device)[0] for _ in range(3))
        both = median(timed(partial(forward_backward, network, batch), x.device)[0] for _ in range(3))
        seconds += passes.forward_sizes[size] * alone + passes.backward_sizes[size] * (both - alone)
    return seconds


def _example_of(ours: Callable[..., AttackOutcome], targeted: bool) -> peers.PeerAttack:
    return lambda network, x, y: ours(network, x, y, targeted=targeted).x_adv


def _compared(ours: dict[str, Any], others: dict[str, dict[str, Any]], case: Case) -> dict[str, Any]:
    """Ratios of times: to each peer, to the fastest that fools as many, as near if there is one, and to ART.

    To a peer that was broken off it is an upper bound.
    """
    rivals = {name: row for name, row in others.items() if row["ended"] and row["success"] >= ours["success"]}
    as_good = {name: row for name, row in rivals.items() if _as_near(row, ours, case)}
    best = min(as_good or rivals, key=lambda name: rivals[name]["seconds"], default=None)
    art = min((row["seconds"] for name, row in others.items() if name.startswith("ART")), default=None)
    return {
        "best_peer": best,
        "as_near": best in as_good,
        "to_best": ours["seconds"] / rivals[best]["seconds"] if best else None,
        "to_art": ours["seconds"] / art if art else None,
        "to_each": {name: ours["seconds"] / row["seconds"] for name, row in others.items()},
    }


def _row(one: Measured, samples: int, unit: float, single: float, limit: float) -> dict[str, Any]:
    seconds = median(one.seconds) if one.ended else limit
    forwards, backwards = one.passes.forwards / samples, one.passes.backwards / samples
    passes = forwards * single + backwards * (unit - single)
    reached = one.distances[np.isfinite(one.distances)]
    return {
        "ended": one.ended,
        "success": len(reached) / samples,
        "distance": median(reached) if len(reached) else None,
        "distances": one.distances.tolist(),
        "forwards": forwards,
        "backwards": backwards,
        "overhead": seconds / passes if one.ended and passes else None,
        "seconds": seconds,
        "units": seconds / unit,
    }


def _as_near(row: dict[str, Any], ours: dict[str, Any], case: Case) -> bool:
    """Whether a peer's examples of the clips that we fool lie no farther away (1% is rounding), on the median.

    Where eps is given, that is the bound.
    """
    fooled = np.isfinite(ours["distances"])
    theirs = np.median(np.array(row["distances"])[fooled]) if fooled.any() else np.inf
    return case.eps is not None or bool(theirs <= 1.01 * (ours["distance"] or 0))


def eps_for(network: nn.Module, samples: Samples, rate: float, iterations: int) -> float:
    """The eps at which BIM-a fools about this share of the clips, by bisection."""
    low, high = 1e-4, 0.3
    for _ in range(9):
        eps = (low * high) ** 0.5
        outcome = ATTACKS["bim_a"].native(network, samples.x, samples.target, eps=eps, max_iter=iterations)
        low, high = (low, eps) if outcome.success.double().mean() >= rate else (eps, high)
    return high


def cases(network: nn.Module, samples: Samples, classes: int, iterations: int) -> Iterator[Case]:
    """The comparisons, one at a time."""
    native = {name: attack.native for name, attack in ATTACKS.items()}
    for rate, to_best, to_art in ((0.6, 0.7, 0.45), (0.95, 0.4, 0.3)):
        eps = eps_for(network, samples, rate, iterations)
        given = peers.bim(eps, iterations, True, classes)
        ours = partial(native["bim_a"], eps=eps, max_iter=iterations)
        yield Case(f"BIM-a at {rate:.0%}", {OURS: ours}, given, True, "linf", to_best, to_art, eps)
    ours = partial(native["bim_b"], eps=eps, max_iter=iterations)
    yield Case("BIM-b", {OURS: ours}, given, True, "linf", 1.1, 0.7, eps)
    for norm in ("linf", "l2"):
        ours = partial(native["deepfool"], norm=norm, max_iter=50, candidates=classes - 1)
        yield Case(f"DeepFool {norm}", {OURS: ours}, peers.deepfool(norm, 50, classes), False, norm, 0.8, 0.1)
    for targeted in (True, False):
        ours = {
            name: partial(native["carlini_wagner"], max_iter=50, binary_search_steps=constants)
            for name, constants in ((OURS, 3), (f"{OURS}, one constant", 1))
        }
        kind = "targeted" if targeted else "untargeted"
        peer = peers.carlini_wagner(50, 3, targeted, classes)
        yield Case(f"Carlini-Wagner {kind}", ours, peer, targeted, "l2", 0.7, 0.2)
    most = 130  # features; the peers change two at a time and have no other limit
    gamma = most / samples.x[0].numel()
    ours = partial(native["jsma"], gamma=gamma, features_per_step=2, max_iter=most // 2)
    yield Case("JSMA", {OURS: ours}, peers.jsma(gamma, classes), True, "l0", 0.6, 0.6)


def show(title: str, found: dict[str, Any]) -> None:
    """Print one comparison."""
    eps = f", eps {found['eps']:.4g}" if found["eps"] else ""
    print(f"\n{title}{eps}: a unit is {1000 * found['unit_seconds']:.0f} ms")
    print(
        f"  {'':26} {'success':>8} {'distance':>9} {'forwards':>9} {'backwards':>9} {'overhead':>9} {'units':>8}  "
        f"time of {' and of '.join(found['compared'])} over this"
    )
    for name, row in found["libraries"].items():
        distance = math.nan if row["distance"] is None else row["distance"]
        overhead = "" if row["overhead"] is None else f"{row['overhead']:.2f}"
        bound = "" if row["ended"] else "<"
        ratios = [f"{bound}{one['to_each'][name]:.2f}" for one in found["compared"].values() if name in one["to_each"]]
        print(
            f"  {name:26} {row['success']:8.0%} {distance:9.4g} {row['forwards']:9.1f} {row['backwards']:9.1f} "
            f"{overhead:>9} {' ' if row['ended'] else '>'}{row['units']:7.1f}  "
            f"{' '.join(ratios)}"
        )
    needed = found["needed"]
    for name, one in found["compared"].items():
        to_best = "no peer that fools as many ended"
        if one["best_peer"]:
            nearness = "" if one["as_near"] else " (whose examples lie farther away, as those of all such peers do)"
            to_best = f"{one['to_best']:.2f} of {one['best_peer']}{nearness}, needed {needed['to_best']}"
        to_art = "" if one["to_art"] is None else f"; {one['to_art']:.2f} of ART, needed {needed['to_art']}"
        floor = f"; {found['floors'][name]:.1f} units is the floor" if name in found["floors"] else ""
        print(f"  {name}: {to_best}{to_art}{floor}")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=20, help="of BIM")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a call is broken off")
    parser.add_argument("--only", default="", help="cases whose title holds this")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/attacks.json"))
    arguments = parser.parse_args()

    chosen = choose(arguments)
    network, classes = chosen.victim.network, len(chosen.store.classes)
    given = strike_list(chosen.victim, chosen.store, ATTACKS["bim_a"], arguments.clips, 0, chosen.device)
    found: dict[str, Any] = {"victim": chosen.title, "clips": len(given.samples)}
    print(f"{chosen.title}, {len(given.samples)} clips")
    for case in cases(network, given.samples, classes, arguments.iterations):
        if arguments.only in case.title:
            found[case.title] = measure(network, given.samples, case, arguments.repeats, arguments.limit)
            show(case.title, found[case.title])
            arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
