"""The contract every attack keeps, and its bridge to the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar, get_args

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from advtrack.attacks import checks
from advtrack.attacks.outcome import AttackOutcome
from advtrack.errors import InputError

logger = logging.getLogger("advtrack")

Precision = Literal["fp32", "bf16"]
Norm = Literal["l0", "l2", "linf"]
Result = TypeVar("Result")


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
    """Attack a network in evaluation mode without gradients for its weights, and leave it as it came.

    Inputs have gradients inside, also where the caller is under `torch.no_grad`.
    """
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
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


def margin(logits: Tensor, y: Tensor, targeted: bool) -> Tensor:
    """Logits missing to success (Eq. 6), shape (N,): negative once the target leads, or the true class lags."""
    own = logits.gather(1, y[:, None]).squeeze(1)
    others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    return others - own if targeted else own - others


def rounded(values: Tensor) -> Tensor:
    """In float64, the first 16 bits: in the last ones a matrix product depends on the size of the batch."""
    if values.dtype != torch.float64:
        return values
    bits = values.detach().float().view(torch.int32)
    return ((bits + 0x80) & ~0xFF).view(torch.float32).double()


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
        With bf16 the attack sees the victim through bfloat16 autocast. One more forward in float32 tells which of its
        successes are successes; all other samples are attacked again in float32. So it saves time where it succeeds,
        and loses no example. ``success_at`` of the successes remains what bfloat16 showed.

    Raises
    ------
    ValueError
        If ``x`` is not within [0, 1], ``y`` not a label for each sample, or another parameter out of range.
    InputError
        If the device's memory is too small for a single sample.
    """
    check_running(batch_size, precision)
    run = partial(_in_bfloat16, attack) if precision == "bf16" else attack
    return AttackOutcome.concatenate(
        batchwise(
            lambda batch: run(network, x[batch], y[batch], targeted=targeted, **_rows(params, batch, len(x))),
            x,
            batch_size,
        )
    )


def batchwise(run: Callable[[slice], Result], x: Tensor, batch_size: int) -> list[Result]:
    """What ``run`` returns for consecutive batches of ``x``, at least one; smaller ones for want of memory."""
    results: list[Result] = []
    start = 0
    while not results or start < len(x):
        try:
            results.append(run(slice(start, start + batch_size)))
        except RuntimeError as error:
            batch_size = halved(min(batch_size, len(x) - start), error, x.device)
        else:
            start += batch_size
    return results


def check_running(batch_size: int, precision: str) -> None:
    """Refuse what `in_batches` cannot run with."""
    checks.whole_number("batch_size", batch_size)
    if precision not in get_args(Precision):
        raise ValueError(f"precision must be fp32 or bf16, not {precision!r}")


def halved(batch_size: int, error: RuntimeError, device: torch.device) -> int:
    """A smaller batch than the one that ``error`` ended, if it did for want of memory, which is logged.

    Raises
    ------
    RuntimeError
        ``error``, if it is another one.
    InputError
        If the batch was a single sample.
    """
    # PyTorch has a type of its own for some of these errors only.
    known = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")
    if not (isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in known)):
        raise error
    if batch_size == 1:
        raise InputError(
            f"{device} has too little memory for one sample: free some, or choose another --device"
        ) from error
    logger.warning("%s is out of memory: going on with %d samples at a time", device, batch_size // 2)
    return batch_size // 2


def _rows(params: Mapping[str, Any], rows: slice | Tensor, samples: int) -> dict[str, Any]:
    """The parameters for some of the samples: tensors with a row for each sample are split."""
    return {k: v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == samples else v for k, v in params.items()}


class _InBFloat16(nn.Module):
    """A network in bfloat16 autocast, with float32 logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


def _in_bfloat16(
    attack: Callable[..., AttackOutcome], network: nn.Module, x: Tensor, y: Tensor, *, targeted: bool, **params: Any
) -> AttackOutcome:
    """Attack in bfloat16, and in the network's own precision where that does not confirm a success."""
    outcome = attack(_InBFloat16(network), x, y, targeted=targeted, **params)
    with frozen(network), torch.no_grad():
        logits = network(outcome.x_adv)
    # An attack may have promised more than to cross the boundary.
    missing = margin(logits, y, targeted) + params.get("confidence", 0.0)
    left = ~(outcome.success & is_adversarial(logits, y, targeted) & (missing <= 0))
    outcome = replace(outcome, forwards=outcome.forwards + 1)
    if not left.any():
        return outcome
    again = attack(network, x[left], y[left], targeted=targeted, **_rows(params, left, len(x)))
    spent = {name: getattr(outcome, name)[left] + getattr(again, name) for name in ("forwards", "backwards")}
    return outcome.with_rows(left, replace(again, **spent))


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
    check : callable
        Refuses parameters that the native function cannot run with; takes all of them, by name, but ``start``.
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
    check: ClassVar[Callable[..., None]]
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
        super()._check_params()
        check_running(self.batch_size, self.precision)
        type(self).check(**self.native_params())

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
            ``start``: ndarray like ``x``, for attacks that start from an example of the target class. By default the
            first of ``x`` that the victim takes for it.

        Raises
        ------
        ValueError
            If inputs, labels or a start are not as the attack needs them.
        """
        if unknown := kwargs.keys() - ({"start"} if self.starts else set()):
            raise TypeError(f"{type(self).__name__}.generate takes no argument {', '.join(sorted(unknown))}")
        as_tensor = partial(torch.as_tensor, dtype=torch.float32, device=self.estimator.device)
        inputs = as_tensor(x)
        if y is None:
            if self.targeted:
                raise ValueError("a targeted attack needs y, the target classes")
            y = self._predict(inputs).cpu().numpy()
        labels = torch.as_tensor(_class_numbers(np.asarray(y)), device=self.estimator.device)
        checks.labels(labels, len(inputs), self.estimator.nb_classes)
        if self.starts and "start" not in kwargs:
            kwargs["start"] = inputs[self._first_of(labels, self._predict(inputs).argmax(1))]
        params = {**self.native_params(), **{name: getattr(self, name) for name in _RUNNING}, **kwargs}
        params = {name: as_tensor(value) if isinstance(value, np.ndarray) else value for name, value in params.items()}
        outcome = in_batches(type(self).native, self.estimator.model, inputs, labels, **params)
        return outcome.x_adv.cpu().numpy()

    def _predict(self, x: Tensor) -> Tensor:
        """Logits, shape (N, classes)."""
        with frozen(self.estimator.model), torch.no_grad():
            return torch.cat(batchwise(lambda batch: self.estimator.model(x[batch]), x, self.batch_size))

    def _first_of(self, targets: Tensor, predicted: Tensor) -> Tensor:
        """For each target class, shape (N,), which of the inputs is the first predicted to be of it."""
        found = predicted == targets[:, None]
        if missing := sorted(set(targets[~found.any(1)].tolist())):
            raise ValueError(
                f"the victim takes none of the inputs for class {', '.join(map(str, missing))}: "
                f"give {type(self).__name__}.generate start=..., an example of the target class for each input"
            )
        return found.long().argmax(1) if len(targets) else targets


def _class_numbers(y: np.ndarray) -> np.ndarray:
    """Labels, int64 [N], from labels [N] or [N, 1], or from one-hot rows or scores [N, classes]."""
    if y.ndim == 2 and y.shape[1] > 1:
        return y.argmax(1)
    numbers = y[:, 0] if y.ndim == 2 else y
    if numbers.size and not (np.issubdtype(numbers.dtype, np.number) and np.array_equal(numbers, numbers.astype(int))):
        raise ValueError("y must be class numbers, or rows with a score for each class")
    return numbers.astype(np.int64)


def _is_identity(operation: object) -> bool:
    """ART gives every classifier a standardisation, with mean 0 and deviation 1 unless told otherwise."""
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    return mean is not None and std is not None and bool(np.all(mean == 0) and np.all(std == 1))
