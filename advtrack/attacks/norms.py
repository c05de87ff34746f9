"""Perturbation norms, per sample, of inputs in [0, 1]."""

from torch import Tensor


def perturbation_norms(x_adv: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Per-sample norms of a perturbation.

    Parameters
    ----------
    x_adv, x : Tensor, shape (N, ...)
        Adversarial and legitimate inputs in [0, 1].

    Returns
    -------
    dict of str to Tensor, shape (N,)
        ``l0``: number of changed features; ``l2``: Euclidean norm; ``linf``: largest absolute change.
    """
    delta = (x_adv - x).flatten(1)
    return {
        "l0": (delta != 0).sum(1).to(delta.dtype),
        "l2": delta.norm(dim=1),
        "linf": delta.abs().amax(1),
    }
