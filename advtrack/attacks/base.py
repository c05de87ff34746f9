"""The contract every attack keeps, and its bridge to the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError

logger = logging.getLogger("advtrack")

Precision = Literal["fp32", "bf16"]
Norm = Literal["l0", "l2", "linf"]


@dataclass(frozen=True)
class Range:
    """A continuous or integer interval of a searched parameter, with the place it comes from."""

    low: float
    high: float
    source: str
    log: bool = False


@dataclass(frozen=True)
class Choices:
    """A finite set of values of a searched parameter, with the place it comes from."""

    values: tuple[float, ...]
    source: str


Space = Mapping[str, Range | Choices]


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Attack a network in evaluation mode without gradients for its weights, and leave it as it came."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, requires_grad in flags:
            parameter.requires_grad_(requires_grad)


def is_adversarial(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Success per sample, shape (N,): argmax is the target ``y``, or (untargeted) is not ``y``.

    Logits that are not finite decide nothing: such a sample is no success.
    """
    predicted = logits.argmax(1)
    fooled = predicted == y if targeted else predicted != y
    return fooled & logits.isfinite().all(1)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """One value per sample, shape (N,), as (N, 1, ...): it multiplies, or bounds, inputs like ``x``."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def in_batches(
    attack: Callable[..., AttackOutcome],
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    batch_size: int,
    *,
    targeted: bool,
    precision: Precision = "fp32",
    **params: Any,
) -> AttackOutcome:
    """Run ``attack`` on consecutive batches of ``x``.

    Parameters
    ----------
    attack : callable
        A native attack.
    network, x, y, targeted, **params
        Its arguments. Tensors in ``params`` with as many rows as ``x`` are split like it.
    batch_size : int
        Samples at a time. A batch for which the device's memory is too small is tried again with half as many, which
        is logged; the samples after it come in the smaller batches too.
    precision : {'fp32', 'bf16'}
        With bf16 the attack sees the victim through bfloat16 autocast, and one more forward in float32 tells which of
        its successes are successes. ``success_at`` remains what bfloat16 showed.

    Raises
    ------
    InputError
        If the device's memory is too small for a single sample.
    """
    seen = _InBFloat16(network) if precision == "bf16" else network
    outcomes: list[AttackOutcome] = []
    start = 0
    while not outcomes or start < len(x):
        batch = slice(start, start + batch_size)
        own = {k: v[batch] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for k, v in params.items()}
        try:
            outcome = attack(seen, x[batch], y[batch], targeted=targeted, **own)
            outcomes.append(_proven(outcome, network, y[batch], targeted) if precision == "bf16" else outcome)
        except torch.OutOfMemoryError as error:
            if batch_size == 1:
                raise InputError(
                    f"{x.device} has too little memory for one sample: free some, or choose --device cpu"
                ) from error
            batch_size //= 2
            logger.warning("%s is out of memory: going on with batches of %d", x.device, batch_size)
        else:
            start += batch_size
    return AttackOutcome.concatenate(outcomes)


class _InBFloat16(nn.Module):
    """A network in bfloat16 autocast, with float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


def _proven(outcome: AttackOutcome, network: nn.Module, y: Tensor, targeted: bool) -> AttackOutcome:
    """The outcome as the network itself, in its own precision, sees it: what it does not confirm is a failure."""
    with frozen(network), torch.no_grad():
        refuted = outcome.success & ~is_adversarial(network(outcome.x_adv), y, targeted)
    return replace(
        outcome,
        success=outcome.success & ~refuted,
        first_success=outcome.first_success.where(~refuted, -1),
        forwards=outcome.forwards + 1,
    )


_DEFAULT_EPS = 0.3
#: What every ART attack takes besides its own parameters: how it is run.
_RUNNING: Mapping[str, Any] = {"batch_size": 32, "precision": "fp32"}


class Attack(EvasionAttack):
    """An ART evasion attack over one of this package's batched torch functions.

    Class attributes describe the attack to the budget search.

    Attributes
    ----------
    native : callable
        ``native(network, x, y, *, targeted, max_iter, ...) -> AttackOutcome`` on tensors; ``y`` are labels, of the
        target class when targeted.
    norm : {'l0', 'l2', 'linf'}
        The attack's own norm, in which its budget is stated.
    targets : bool
        Whether the paper's protocol aims it at a random wrong label.
    minimises : bool
        True if one run finds each sample's smallest perturbation; False if ``eps`` bounds it beforehand.
    shorter_runs : {'first_success', 'iterates', 'none'}
        What one run tells of the same run stopped earlier: success from ``first_success`` on, success per iterate
        (``success_at``), or nothing.
    starts : bool
        Whether the native function needs ``start``, an input of the target class per sample.
    space : mapping
        The searched parameters (``eps`` and ``max_iter`` are the budget).
    sample_limit : int or None
        How many clips are attacked unless told otherwise; None for all.
    art_names : mapping
        What ART calls parameters that have another name in the native function.
    defaults : dict
        Parameters by ART's name, with their defaults: those of the native function, but for ``eps``, which has none
        there.
    """

    native: ClassVar[Callable[..., AttackOutcome]]
    norm: ClassVar[Norm]
    targets: ClassVar[bool] = True
    minimises: ClassVar[bool]
    shorter_runs: ClassVar[Literal["first_success", "iterates", "none"]]
    starts: ClassVar[bool] = False
    space: ClassVar[Space]
    sample_limit: ClassVar[int | None] = None

    art_names: ClassVar[Mapping[str, str]] = {}
    defaults: ClassVar[dict[str, Any]]

    _estimator_requirements = (PyTorchClassifier,)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        native = inspect.signature(cls.native).parameters.values()
        own = {p.name: p.default for p in native if p.kind is p.KEYWORD_ONLY and p.name != "start"}
        cls.defaults = {cls.art_names.get(name, name): default for name, default in own.items()}
        if own.get("eps") is inspect.Parameter.empty:
            cls.defaults["eps"] = _DEFAULT_EPS
        cls.attack_params = [*EvasionAttack.attack_params, *cls.defaults, *_RUNNING]
        given = inspect.Parameter("estimator", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        keywords = {**cls.defaults, **_RUNNING}.items()
        named = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in keywords]
        cls.__signature__ = inspect.Signature([given, *named])

    def __init__(self, estimator: PyTorchClassifier, **params: Any) -> None:
        if unknown := params.keys() - self.defaults.keys() - _RUNNING.keys():
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}")
        super().__init__(estimator=estimator)
        if estimator.clip_values is None or not np.array_equal(np.ravel(estimator.clip_values), [0.0, 1.0]):
            raise ValueError("clip_values of the classifier must be (0, 1): attacks work on inputs in [0, 1]")
        if not all(_is_identity(operation) for operation in estimator.preprocessing_operations):
            raise ValueError("the classifier has preprocessing: put it inside the network, where gradients see it")
        self.set_params(**{**self.defaults, **_RUNNING, **params})

    def _check_params(self) -> None:
        """Refuse what no attack can run with. Subclasses add what they alone know."""
        super()._check_params()
        for name in ("batch_size", "max_iter"):
            value = getattr(self, name, 1)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive integer, not {value}")
        if not isinstance(self.targeted, bool):
            raise ValueError(f"targeted must be True or False, not {self.targeted}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be fp32 or bf16, not {self.precision}")

    def native_params(self) -> dict[str, Any]:
        """The parameters of this attack under the names of its native function."""
        ours = {art: name for name, art in self.art_names.items()}
        return {ours.get(name, name): getattr(self, name) for name in self.defaults}

    def generate(self, x: np.ndarray, y: np.ndarray | None = None, **kwargs: Any) -> np.ndarray:
        """Adversarial inputs for ``x``, float32, shape (N, C, H, W), in [0, 1].

        Parameters
        ----------
        x : ndarray, shape (N, C, H, W)
            Inputs in [0, 1].
        y : ndarray, shape (N,) or (N, classes), optional
            Labels (or one-hot): target classes when targeted; true classes, by default the predicted ones, when not.
        **kwargs
            ``start``: ndarray like ``x``, for attacks that start from an example of the target class.
        """
        network, device = self.estimator.model, self.estimator.device
        inputs = torch.as_tensor(x, dtype=torch.float32, device=device)
        if y is None:
            if self.targeted:
                raise ValueError("a targeted attack needs y, the target classes")
            y = self.estimator.predict(x, batch_size=self.batch_size)
        labels = torch.as_tensor(np.asarray(y), device=device)
        labels = labels.argmax(1) if labels.ndim == 2 else labels.long()
        extra: dict[str, Any] = {k: torch.as_tensor(v, dtype=torch.float32, device=device) for k, v in kwargs.items()}
        running = {name: getattr(self, name) for name in _RUNNING}
        outcome = in_batches(type(self).native, network, inputs, labels, **running, **self.native_params(), **extra)
        return outcome.x_adv.cpu().numpy()


def _is_identity(operation: object) -> bool:
    """ART gives every classifier a standardisation, with mean 0 and deviation 1 unless told otherwise."""
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    return mean is not None and std is not None and bool(np.all(mean == 0) and np.all(std == 1))
