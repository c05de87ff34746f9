"""The contract every attack keeps, and its bridge to the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor

from advtrack.attacks import checks
from advtrack.attacks.batches import batchwise, check_running, in_batches
from advtrack.attacks.outcome import AttackOutcome
from advtrack.attacks.victim import frozen

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
    """A finite set of values of a searched parameter, with the place it comes from.

    ``nested`` says that a run with a smaller value is the beginning of one with a larger, which finds the nearer
    example, or the same.
    """

    values: tuple[float, ...]
    source: str
    nested: bool = False


Space = Mapping[str, Range | Choices]


_DEFAULT_EPS = 0.3
#: What every ART attack takes besides its own parameters: how it is run.
_RUNNING: Mapping[str, Any] = {"batch_size": 32, "precision": "fp32", "verbose": True}


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
    until_success : type of Attack or None
        Of an attack that goes on after a success: the same one that does not, up to each sample's first success.
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
    until_success: ClassVar[type[Attack] | None] = None
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

    def __init__(self, *victim: PyTorchClassifier, **params: Any) -> None:
        # Some of ART's attacks call it the estimator, others the classifier.
        victims = [*victim, *(params.pop(name) for name in ("estimator", "classifier") if name in params)]
        if len(victims) != 1:
            raise TypeError(f"{type(self).__name__} takes one classifier, and parameters by name")
        if unknown := params.keys() - self.defaults.keys() - _RUNNING.keys():
            known = ", ".join([*self.defaults, *_RUNNING])
            raise TypeError(f"{type(self).__name__} has no parameter {', '.join(sorted(unknown))}; it has {known}")
        estimator = victims[0]
        super().__init__(estimator=estimator)
        bounds = estimator.clip_values  # two numbers, or two arrays with one for each feature
        if bounds is None or np.any(bounds[0] != 0) or np.any(bounds[1] != 1):
            raise ValueError("clip_values of the classifier must be (0, 1): attacks work on inputs in [0, 1]")
        if not all(_is_identity(operation) for operation in estimator.preprocessing_operations):
            raise ValueError("the classifier has preprocessing: put it inside the network, where gradients see it")
        if estimator.postprocessing_defences:
            raise ValueError("the classifier has postprocessing: put it inside the network, where attacks see it")
        self.set_params(**{**self.defaults, **_RUNNING, **params})

    def set_params(self, **kwargs: Any) -> None:
        """Change parameters; if one is refused, none is changed.

        Raises
        ------
        ValueError
            If there is no such parameter, or it is out of range.
        """
        before = {name: getattr(self, name) for name in self.attack_params if hasattr(self, name)}
        try:
            super().set_params(**kwargs)
        except ValueError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _check_params(self) -> None:
        super()._check_params()
        check_running(self.batch_size, self.precision, self.verbose)
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
        inputs = self._as_tensor(x)
        checks.inputs("x", inputs)
        if y is None:
            if self.targeted:
                raise ValueError(
                    f"{type(self).__name__} aims at target classes and needs them as y; only with targeted=False, if "
                    "it can be that, are they the true classes, by default the predicted ones"
                )
            y = self._predict(inputs).argmax(1).cpu().numpy()
        labels = torch.as_tensor(_class_numbers(np.asarray(y), self.estimator.nb_classes), device=self.estimator.device)
        checks.labels(labels, len(inputs), self.estimator.nb_classes)
        if self.starts and "start" not in kwargs:
            kwargs["start"] = inputs[self._first_of(labels, self._predict(inputs))]
        params = {**self.native_params(), **{name: getattr(self, name) for name in _RUNNING}, **kwargs}
        params = {
            name: torch.tensor(value, device=inputs.device) if isinstance(value, np.ndarray) else value
            for name, value in params.items()
        }
        outcome = in_batches(type(self).native, self.estimator.model, inputs, labels, **params)
        return outcome.x_adv.cpu().numpy()

    def _as_tensor(self, values: np.ndarray) -> Tensor:
        """A float32 copy on the victim's device: torch wants a layout and byte order of its own, and to write."""
        return torch.from_numpy(np.array(values, dtype=np.float32, order="C")).to(self.estimator.device)

    def _predict(self, x: Tensor) -> Tensor:
        """Logits, shape (N, classes)."""
        if not len(x):  # which not every victim can take
            return x.new_empty(0, self.estimator.nb_classes)
        with frozen(self.estimator.model), torch.no_grad():
            return torch.cat(batchwise(lambda batch: self.estimator.model(x[batch].clone()), x, self.batch_size))

    def _first_of(self, targets: Tensor, logits: Tensor) -> Tensor:
        """For each target class, shape (N,), which of the inputs is the first predicted to be of it."""
        found = (logits.argmax(1) == targets[:, None]) & logits.isfinite().all(1)
        if missing := sorted(set(targets[~found.any(1)].tolist())):
            raise ValueError(
                f"the victim takes none of the inputs for class {', '.join(map(str, missing))}: "
                f"give {type(self).__name__}.generate start=..., an example of the target class for each input"
            )
        return found.long().argmax(1) if len(targets) else targets


def _class_numbers(y: np.ndarray, classes: int) -> np.ndarray:
    """Labels, int64 [N], from labels [N] or [N, 1], or from one-hot rows or scores [N, classes]."""
    if y.ndim == 2 and y.shape[1] > 1:
        if y.shape[1] != classes or ((y == y.max(1, keepdims=True)).sum(1) != 1).any():
            raise ValueError(
                f"y must be class numbers, or rows with a score for each of {classes} classes, one of them the highest"
            )
        return y.argmax(1)
    numbers = y[:, 0] if y.ndim == 2 else y
    if numbers.size and not (np.issubdtype(numbers.dtype, np.number) and np.array_equal(numbers, numbers.astype(int))):
        raise ValueError(f"y must be class numbers, or rows with a score for each of {classes} classes")
    return numbers.astype(np.int64)


def _is_identity(operation: object) -> bool:
    """ART gives every classifier a standardisation, with mean 0 and deviation 1 unless told otherwise."""
    mean, std = getattr(operation, "mean", None), getattr(operation, "std", None)
    return mean is not None and std is not None and bool(np.all(mean == 0) and np.all(std == 1))
