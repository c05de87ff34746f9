"""More samples than the memory holds, and bfloat16."""

import numpy as np
import pytest
import torch
from torch import nn

from advtrack.attacks import ATTACKS
from advtrack.attacks.batches import in_batches
from advtrack.attacks.fgsm import fgsm
from advtrack.attacks.victim import is_adversarial, margin
from advtrack.errors import InputError


def test_in_batches_splits_what_has_a_value_per_sample(clips):
    seen = []

    def spy(network, x, y, *, targeted, start, weights, eps):
        seen.append((len(x), len(start), len(weights)))
        return fgsm(network, x, y, eps=eps)

    x = clips(5)
    y = torch.zeros(5, dtype=torch.int64)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double()
    outcome = in_batches(spy, network, x, y, 2, targeted=False, start=x, weights=torch.ones(1), eps=0.1)
    assert seen == [(2, 2, 1), (2, 2, 1), (1, 1, 1)]
    assert torch.equal(outcome.x_adv, fgsm(network, x, y, eps=0.1).x_adv)
    with pytest.raises(ValueError, match="eps must have one row, or one for each of 5 samples, not 2"):
        in_batches(fgsm, network, x, y, 2, targeted=False, eps=torch.tensor([0.1, 0.2]))


def test_in_batches_of_nothing(clips, linear_victim):
    outcome = in_batches(fgsm, linear_victim(), clips(0), torch.zeros(0, dtype=torch.int64), 4, targeted=False, eps=0.1)
    assert outcome.x_adv.shape == (0, 1, 4, 4)
    assert len(outcome.success) == len(outcome.l2) == 0


class Small(nn.Module):
    """A network on a device that holds only so many samples."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room, self.batches = network, room, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(x) > self.room:
            raise torch.OutOfMemoryError
        return self.network(x)


def test_out_of_memory_halves_the_batch_and_says_so(clips, mlp_victim, caplog):
    x, y = clips(11), torch.arange(11) % 4
    network = mlp_victim()
    outcome = in_batches(fgsm, Small(network, 3), x, y, 8, targeted=False, eps=0.1)
    expected = fgsm(network, x, y, eps=0.1)
    assert torch.equal(outcome.x_adv, expected.x_adv) and torch.equal(outcome.forwards, expected.forwards)
    assert [record.getMessage() for record in caplog.records] == [
        "cpu is out of memory: going on with 4 samples at a time",
        "cpu is out of memory: going on with 2 samples at a time",
    ]


@pytest.mark.parametrize("name", ["deepfool", "pia"])
def test_out_of_memory_when_generate_asks_the_victim_itself(name, clips, linear_victim, art_classifier, caplog):
    """For labels that are not given, or for starts."""
    network = linear_victim(dtype=torch.float32)
    x = clips(12, dtype=torch.float32).numpy()
    y = np.roll(network(torch.from_numpy(x)).argmax(1).numpy(), 1) if name == "pia" else None
    expected = ATTACKS[name](art_classifier(network), max_iter=2).generate(x, y)
    attack = ATTACKS[name](art_classifier(Small(network, 5)), max_iter=2)
    np.testing.assert_allclose(attack.generate(x, y), expected, atol=1e-6)
    assert "cpu is out of memory" in caplog.text


@pytest.mark.parametrize("text", ["CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"])
def test_memory_that_a_library_of_the_device_lacks(text, clips, mlp_victim, caplog):
    class Failing(Small):
        def forward(self, x):
            if len(x) > self.room:
                raise RuntimeError(text)
            return self.network(x)

    network, x, y = mlp_victim(), clips(4), torch.arange(4)
    outcome = in_batches(fgsm, Failing(network, 2), x, y, 4, targeted=False, eps=0.1)
    assert torch.equal(outcome.x_adv, fgsm(network, x, y, eps=0.1).x_adv)


def test_a_sample_too_large_for_the_device_is_one_line(clips, mlp_victim):
    victim = Small(mlp_victim(), 0)
    with pytest.raises(InputError, match="too little memory for one sample"):
        in_batches(fgsm, victim, clips(5), torch.zeros(5, dtype=torch.int64), 4, targeted=False, eps=0.1)
    assert victim.batches == [4, 2, 1]


def test_what_only_bfloat16_takes_for_a_success_is_a_failure(clips, predict):
    class TwoFaced(nn.Module):
        """In bfloat16 it is fooled by everything, otherwise by inputs whose first feature is above one half."""

        def forward(self, x):
            fooled = torch.ones(len(x)) if torch.is_autocast_enabled("cpu") else (x[:, 0, 0, 0] > 0.5).float()
            return torch.stack([1 - fooled, fooled], 1) + 0 * x.flatten(1).sum(1, keepdim=True)

    x = clips(6, dtype=torch.float32)
    x[:3, 0, 0, 0], x[3:, 0, 0, 0] = 0.2, 0.8
    t = torch.ones(6, dtype=torch.int64)
    given = {"eps": 0.1, "max_iter": 3}
    outcome = in_batches(ATTACKS["bim_a"].native, TwoFaced(), x, t, 4, targeted=True, precision="bf16", **given)
    assert outcome.success.tolist() == [False] * 3 + [True] * 3
    assert outcome.first_success.tolist() == [-1] * 3 + [0] * 3
    assert outcome.forwards.tolist() == [2 + 4] * 3 + [2] * 3  # the attack's, the proof, and the attack in float32


@pytest.mark.parametrize(("name", "confidence"), [("deepfool", None), ("carlini_wagner", 0.0), ("carlini_wagner", 2.0)])
def test_what_bfloat16_gets_wrong_float32_puts_right(name, confidence, clips, mlp_victim, predict, other_labels):
    """Attacks that stop just beyond the boundary stop where rounding decides."""
    network, x = mlp_victim(dtype=torch.float32), clips(40, dtype=torch.float32)
    y = predict(network, x)
    targeted = ATTACKS[name].defaults["targeted"]
    labels = other_labels(y) if targeted else y
    params = {} if confidence is None else {"confidence": confidence}
    plain, half = (
        in_batches(ATTACKS[name].native, network, x, labels, 16, targeted=targeted, precision=precision, **params)
        for precision in ("fp32", "bf16")
    )
    assert half.success[plain.success].all()
    logits = network.eval()(half.x_adv)
    assert torch.equal(half.success, is_adversarial(logits, labels, targeted))
    assert (margin(logits, labels, targeted)[half.success] <= -(confidence or 0)).all()
    assert half.l2.median() <= 1.1 * plain.l2.median()


def test_bfloat16_sees_a_cheaper_victim_and_gives_float32_examples(clips, mlp_victim, predict, art_classifier):
    network = mlp_victim(dtype=torch.float32)
    x = clips(12, dtype=torch.float32)
    y = predict(network, x)
    seen = set()
    network[1].register_forward_hook(lambda module, given, result: seen.add(result.dtype))
    attack = ATTACKS["bim_b"](art_classifier(network), eps=0.3, targeted=False, precision="bf16", max_iter=10)
    x_adv = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
    assert seen == {torch.bfloat16, torch.float32} and x_adv.dtype == torch.float32
    assert (predict(network, x_adv) != y).float().mean() > 0.5
    with pytest.raises(ValueError, match="precision"):
        attack.set_params(precision="fp8")


def test_in_batches_refuses_what_it_cannot_run_with(clips, linear_victim):
    network, x, y = linear_victim(), clips(3), torch.zeros(3, dtype=torch.int64)
    for batch_size, precision, named in (
        (0, "fp32", "batch_size"),
        (-1, "fp32", "batch_size"),
        (2, "fp8", "precision"),
    ):
        with pytest.raises(ValueError, match=named):
            in_batches(fgsm, network, x, y, batch_size, targeted=False, precision=precision, eps=0.1)


def test_memory_that_the_cpu_lacks_halves_the_batch(clips, mlp_victim, caplog):
    class Hungry(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            if len(x) > 3:
                torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine has
            return self.network(x)

    x, y = clips(5), torch.arange(5) % 4
    network = mlp_victim()
    outcome = in_batches(fgsm, Hungry(network), x, y, 100, targeted=False, eps=0.1)
    assert torch.equal(outcome.x_adv, fgsm(network, x, y, eps=0.1).x_adv)
    assert [record.getMessage() for record in caplog.records] == [
        "cpu is out of memory: going on with 2 samples at a time"
    ]


@pytest.mark.parametrize("batch_size", [1, 5, 16])
@pytest.mark.parametrize(
    ("name", "params"),
    [("carlini_wagner", {}), ("carlini_wagner", {"targeted": False}), ("deepfool", {"norm": "l2"}), ("deepfool", {})],
)
def test_float64_is_bit_equal_however_samples_are_batched(name, params, batch_size, clips, predict):
    torch.manual_seed(4)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.Tanh(), nn.Linear(9, 4)).double()
    x = clips(33, shape=(1, 3, 4))
    y = predict(network, x)
    params = {"targeted": ATTACKS[name].defaults["targeted"], **params}
    y = (y + 1) % 4 if params["targeted"] else y
    together = in_batches(ATTACKS[name].native, network, x, y, 33, **params)
    split = in_batches(ATTACKS[name].native, network, x, y, batch_size, **params)
    assert torch.equal(split.x_adv, together.x_adv) and torch.equal(split.first_success, together.first_success)
