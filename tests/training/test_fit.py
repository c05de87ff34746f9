"""One fold: learning, the best epoch, patience, and being killed."""

import errno
import os
from contextlib import ExitStack
from itertools import pairwise
from threading import Event
from time import monotonic, sleep

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from advtrack.errors import InputError
from advtrack.training import fit as module
from advtrack.training import state as state_module
from advtrack.training.fit import Settings, classification_loss, fit, probabilities
from advtrack.training.state import Checkpoint

SIDE = 12


class Stripes:
    """Classes that differ by the row that is bright: no roll in time hides that."""

    def __init__(self, n=120, classes=3, noise=0.2, seed=0):
        generator = np.random.default_rng(seed)
        self.classes = tuple("abcdef"[:classes])
        self.y = np.arange(n) % classes
        self.x = generator.random((n, 1, SIDE, SIDE)).astype(np.float32) * noise
        for i, label in enumerate(self.y):
            self.x[i, 0, 3 * label : 3 * label + 3] += 0.7
        self.x = self.x.clip(0, 1)

    def images(self, indices):
        return self.x[indices]


def network(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((4, 1)),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(32, 3),
    )


def options(**changes):
    return Settings(**{"epochs": 6, "patience": 0, "batch_size": 16, "lr": 1e-2, "seed": 1, **changes})


def parts(data):
    return np.arange(90), np.arange(90, len(data.y))


def train(net, data, checkpoint, on_epoch=lambda epoch: None, **changes):
    best = fit(net, data, *parts(data), options(**changes), checkpoint, on_epoch)
    checkpoint.unlink()  # as a caller does who has the weights
    return best


def same_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(s, t) for (a, s), (b, t) in pairs)


@pytest.mark.parametrize("eps", [None, 0.02])
def test_learns_what_can_be_learnt(tmp_path, eps):
    data, net = Stripes(), network()
    best = train(net, data, tmp_path / "state.pt", epochs=12, eps=eps)
    assert best.stop_accuracy >= 0.95
    unseen = Stripes(seed=1)
    scores = probabilities(net, unseen, np.arange(120))
    assert (scores.argmax(1) == unseen.y).mean() >= 0.95
    assert np.allclose(scores.sum(1), 1, atol=1e-5)


def test_every_batch_of_adversarial_training_goes_through_eq_13(tmp_path, monkeypatch):
    calls, original = [], module.adversarial_backward

    def spy(*arguments, **parameters):
        calls.append(parameters)
        return original(*arguments, **parameters)

    monkeypatch.setattr(module, "adversarial_backward", spy)
    plain, robust = network(), network()
    train(plain, Stripes(), tmp_path / "state.pt", epochs=2)
    assert not calls
    train(robust, Stripes(), tmp_path / "state.pt", epochs=2, eps=0.1, alpha=0.3)
    assert calls == [{"eps": 0.1, "alpha": 0.3}] * 12
    assert not same_weights(plain, robust)


def test_keeps_the_best_epoch(tmp_path):
    data, net, kept = Stripes(noise=1.5), network(), {}

    def keep(epoch):
        kept[epoch.number] = (epoch, {name: t.clone() for name, t in net.state_dict().items()})

    best = train(net, data, tmp_path / "state.pt", keep, epochs=8, lr=3e-2)
    expected = max((epoch for epoch, _ in kept.values()), key=lambda e: (e.stop_accuracy, -e.stop_loss))
    assert best == expected
    assert all(torch.equal(t, kept[best.number][1][name]) for name, t in net.state_dict().items())
    assert not net.training
    _, stop = parts(data)
    scores = probabilities(net, data, stop)
    assert (scores.argmax(1) == data.y[stop]).mean() == pytest.approx(best.stop_accuracy)
    loss = functional.cross_entropy(torch.from_numpy(scores).log(), torch.from_numpy(data.y[stop])).item()
    assert loss == pytest.approx(best.stop_loss, rel=1e-4)


@pytest.mark.parametrize(("patience", "epochs"), [(2, 3), (4, 5), (0, 9)])
def test_patience_ends_training_that_does_not_improve(tmp_path, monkeypatch, patience, epochs):
    monkeypatch.setattr(module, "_evaluate", lambda *arguments: (1.0, 0.5))
    seen = []
    best = train(network(), Stripes(), tmp_path / "state.pt", seen.append, epochs=9, patience=patience)
    assert best.number == 1
    assert [epoch.number for epoch in seen] == list(range(1, epochs + 1))


def test_patience_counts_from_the_last_improvement(tmp_path, monkeypatch):
    script = iter([(1.0, 0.1), (1.0, 0.1), (0.9, 0.1), (1.0, 0.1), (1.0, 0.2), (9.0, 0.1), (9.0, 0.1), (9.0, 0.1)])
    monkeypatch.setattr(module, "_evaluate", lambda *arguments: next(script))
    seen = []
    best = train(network(), Stripes(), tmp_path / "state.pt", seen.append, epochs=20, patience=3)
    assert best.number == 5 and len(seen) == 8


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def long_epochs(monkeypatch):
    """Epochs that last as long as each must for its state to be written."""
    original = Checkpoint.write_behind

    def write_behind(self, progress):
        while self._written and not (self._written.done() and monotonic() >= self._written.result()):
            sleep(1e-3)
        original(self, progress)

    monkeypatch.setattr(Checkpoint, "write_behind", write_behind)


@pytest.mark.parametrize("eps", [None, 0.05])
@pytest.mark.parametrize("last", [1, 2, 5])
def test_killed_and_continued_training_ends_where_an_undisturbed_one_does(tmp_path, long_epochs, last, eps):
    data, undisturbed, whole = Stripes(noise=1.0), network(), []
    best = train(undisturbed, data, tmp_path / "whole.pt", whole.append, eps=eps)

    def die(epoch):
        if epoch.number == last + 1:
            raise Killed  # in the epoch after the last checkpoint

    state = tmp_path / "folder" / "state.pt"
    with pytest.raises(Killed):
        train(network(), data, state, die, eps=eps)
    assert len(torch.load(state, weights_only=True)["history"]) == last

    continued, seen = network(seed=99), []
    torch.rand(17)  # the state of the global generator must not matter
    assert train(continued, data, state, seen.append, eps=eps) == best
    assert seen == whole  # those before the kill are told again
    assert same_weights(continued, undisturbed)
    assert not list(state.parent.iterdir())


def test_a_run_killed_twice_ends_the_same(tmp_path):
    data, undisturbed = Stripes(noise=1.0), network()
    train(undisturbed, data, tmp_path / "whole.pt", patience=3)
    for last in (2, 4):

        def die(epoch, last=last):
            if epoch.number == last:
                raise Killed

        with pytest.raises(Killed):
            train(network(), data, tmp_path / "state.pt", die, patience=3)
    continued = network()
    train(continued, data, tmp_path / "state.pt", patience=3)
    assert same_weights(continued, undisturbed)


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 64), (1, 90), (2, 64), (3, 90)])
def test_a_training_of_few_steps_is_too_short_to_learn_but_ends(tmp_path, epochs, batch_size):
    best = train(network(), Stripes(), tmp_path / "state.pt", epochs=epochs, batch_size=batch_size)
    assert 1 <= best.number <= epochs


def test_finished_training_is_not_repeated_while_its_file_is_there(tmp_path, monkeypatch):
    data, net, state, told = Stripes(noise=1.0), network(), tmp_path / "state.pt", []
    best = fit(net, data, *parts(data), options(), state, lambda epoch: None)
    monkeypatch.setattr(module, "_train_epoch", None)
    again = network(seed=99)
    assert fit(again, data, *parts(data), options(), state, told.append) == best
    assert same_weights(again, net) and len(told) == 6 and not again.training


def test_the_state_on_disk_holds_no_code(tmp_path, long_epochs):
    def die(epoch):
        if epoch.number == 3:
            raise Killed

    with pytest.raises(Killed):
        train(network(), Stripes(), tmp_path / "state.pt", die)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert [epoch["number"] for epoch in state["history"]] == [1, 2]


def test_a_kill_while_the_state_is_written_leaves_the_one_before(tmp_path, monkeypatch, long_epochs):
    original, written = torch.save, []

    def save(content, file):
        written.append(file)
        original(content, file)
        if len(written) == 3:
            file.truncate(1000)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", save)
        with pytest.raises(Killed):
            train(network(), Stripes(), tmp_path / "state.pt")
    assert len(torch.load(tmp_path / "state.pt", weights_only=True)["history"]) == 2
    undisturbed, continued = network(), network(seed=9)
    train(undisturbed, Stripes(), tmp_path / "whole.pt")
    train(continued, Stripes(), tmp_path / "state.pt")
    assert same_weights(undisturbed, continued)


@pytest.mark.parametrize(("seconds", "expected"), [(5, [1, 3, 5, 7]), (9, [1, 2, 3, 4, 5, 6, 7, 8])])
def test_of_epochs_too_short_for_it_not_each_is_written(tmp_path, monkeypatch, seconds, expected):
    """The clock says that each writing takes a second: then ten must have passed since it began."""
    clock, written = [0.0], []
    original, behind = Checkpoint._replace, Checkpoint.write_behind

    def replace(self, state):
        written.append(len(state["history"]))
        clock[0] += 1
        original(self, state)

    def write_behind(self, progress):
        behind(self, progress)
        self._settle()

    def tick(epoch):
        clock[0] += seconds

    monkeypatch.setattr(Checkpoint, "_replace", replace)
    monkeypatch.setattr(Checkpoint, "write_behind", write_behind)
    monkeypatch.setattr(state_module, "monotonic", lambda: clock[0])
    train(network(), Stripes(), tmp_path / "state.pt", tick, epochs=8)
    assert written == [*expected, 8]  # at the end in any case


def test_training_goes_on_while_the_state_is_written_which_is_that_of_its_epoch(tmp_path, monkeypatch):
    """The first writing lasts until the end of epoch 4."""
    original, go_on, kept, net = Checkpoint._replace, Event(), [], network()

    def replace(self, state):
        assert go_on.wait(60)
        original(self, state)

    def told(epoch):
        kept.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        if epoch.number == 4:
            go_on.set()
            raise Killed

    monkeypatch.setattr(Checkpoint, "_replace", replace)
    with pytest.raises(Killed):
        train(net, Stripes(), tmp_path / "state.pt", told)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert [epoch["number"] for epoch in state["history"]] == [1]
    assert all(torch.equal(tensor, kept[0][name]) for name, tensor in state["network"].items())
    assert not torch.equal(state["network"]["0.weight"], kept[1]["0.weight"])


def test_a_full_disk_is_told_in_one_line_and_the_state_before_is_kept(tmp_path, long_epochs, full_disk):
    place, undisturbed = tmp_path / "folder" / "state.pt", network()
    with (
        pytest.raises(InputError, match=r"folder cannot be written \(File too large\): make room.*--work-dir"),
        ExitStack() as s,
    ):
        train(network(), Stripes(), place, lambda epoch: epoch.number == 3 and s.enter_context(full_disk(4000)))
    assert [file.name for file in place.parent.iterdir()] == ["state.pt"]
    assert len(torch.load(place, weights_only=True)["history"]) == 2
    train(undisturbed, Stripes(), tmp_path / "whole.pt")
    continued = network(seed=9)
    train(continued, Stripes(), place)
    assert same_weights(undisturbed, continued)


def test_a_full_disk_at_the_end_is_told_as_well(tmp_path, monkeypatch):
    def fsync(file):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        train(network(), Stripes(), tmp_path / "state.pt", epochs=1)


@pytest.mark.parametrize("damage", ["half", "nothing", "bit", "text", "another network", "another file"])
def test_a_damaged_state_is_named_and_training_begins_anew(tmp_path, caplog, damage):
    undisturbed, place = network(), tmp_path / "state.pt"
    fit(undisturbed, Stripes(), *parts(Stripes()), options(), place, lambda epoch: None)
    whole = place.read_bytes()
    if damage == "another network":
        state = torch.load(place, weights_only=True)
        torch.save({**state, "network": {"0.weight": state["network"]["0.weight"]}}, place)
    elif damage == "another file":
        torch.save([1, 2], place)
    else:
        spoilt = bytearray(whole)
        spoilt[whole.index(undisturbed.state_dict()["6.weight"].numpy().tobytes())] ^= 1
        content = {"half": whole[: len(whole) // 2], "nothing": b"", "bit": bytes(spoilt), "text": b"PK nonsense"}
        place.write_bytes(content[damage])
    again, told = network(), []
    train(again, Stripes(), place, told.append)
    assert f"{place} is damaged" in caplog.text and "trained from the start" in caplog.text
    assert len(told) == 6 and same_weights(again, undisturbed)


def test_seeds_decide(tmp_path):
    def weights(seed):
        net = network()
        train(net, Stripes(), tmp_path / "state.pt", epochs=2, seed=seed)
        return net

    assert same_weights(weights(2**31 + 9), weights(2**31 + 9))
    assert not same_weights(weights(4), weights(5))


def test_a_loss_that_is_not_finite_stops_at_once_and_names_epoch_batch_and_learning_rate(tmp_path):
    data, seen = Stripes(), []
    images, poisoned = data.images, 12 + 1 + 4  # an epoch, its evaluation, and the fourth batch of the next

    def read(indices):
        seen.append(indices)
        return images(indices) * np.float32(np.nan if len(seen) == poisoned else 1)

    data.images = read
    with pytest.raises(InputError, match=r"epoch 2, batch 4 of 12, at a learning rate of 0.00\d+: lower the peak"):
        fit(network(), data, np.arange(96), np.arange(96, 120), options(batch_size=8), tmp_path / "s.pt", print)
    assert len(seen) <= poisoned + 3  # those read ahead


@pytest.mark.parametrize(("batch_size", "lr"), [(90, 1e30), (45, 1e30), (90, 3e38)])
def test_a_network_that_the_last_step_ruined_is_refused(tmp_path, batch_size, lr):
    """Every training loss was that of weights before a step, and finite."""
    net, told = network(), []
    with pytest.raises(InputError, match=r"epoch 1, batch (\d) of \1, at a learning rate of \S+e\+\d\d: lower"):
        fit(net, Stripes(), *parts(Stripes()), options(batch_size=batch_size, lr=lr), tmp_path / "s.pt", told.append)
    assert not told


@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_and_statistics_that_are_not_finite_are_refused_even_where_the_loss_is(tmp_path, monkeypatch, name):
    """An infinite variance in BatchNorm makes a map of zeros, and a loss like any other."""
    net = network()

    def evaluate(*arguments):
        net.state_dict()[name].view(-1)[0] = torch.inf
        return 1.0, 0.5

    monkeypatch.setattr(module, "_evaluate", evaluate)
    with pytest.raises(InputError, match=r"the network is not finite after epoch 1, batch 6 of 6, at a learning rate"):
        train(net, Stripes(), tmp_path / "s.pt")


def test_an_eps_may_be_drawn_for_each_batch(tmp_path, monkeypatch):
    drawn, original = [], module.adversarial_backward

    def spy(*arguments, eps, alpha):
        drawn.append(eps)
        return original(*arguments, eps=eps, alpha=alpha)

    monkeypatch.setattr(module, "adversarial_backward", spy)
    train(network(), Stripes(), tmp_path / "state.pt", epochs=10, eps=0.1, random_eps=True)
    assert len(set(drawn)) == 60 and 0 <= min(drawn) < 0.02 and 0.08 < max(drawn) <= 0.1
    assert np.mean(drawn) == pytest.approx(0.05, abs=4 * 0.1 / np.sqrt(12 * 60))
    first, drawn[:] = drawn[:], []
    train(network(), Stripes(), tmp_path / "state.pt", epochs=10, eps=0.1, random_eps=True)
    assert drawn == first


def test_training_that_overfits_to_one_step_stops_with_the_weights_from_before(tmp_path, monkeypatch):
    script = iter([(0.3, 0.2), (0.5, 0.4), (0.9, 0.1), (1.0, 0.0), (1.0, 0.0)])
    monkeypatch.setattr(module, "accuracies_under_attack", lambda *arguments: next(script))
    monkeypatch.setattr(module, "_evaluate", lambda *arguments: (1.0, 0.5 + len(seen) / 10))
    monkeypatch.setattr(module, "_watched", lambda stop, *others: (stop, 1))
    net, seen, kept = network(), [], {}

    def keep(epoch):
        seen.append(epoch)
        kept[epoch.number] = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    best = train(net, Stripes(), tmp_path / "state.pt", keep, epochs=9, eps=0.1)
    assert len(seen) == 4 and best.number == 2  # though later ones were more accurate
    assert [(epoch.fgsm_accuracy, epoch.bim_accuracy) for epoch in seen[:2]] == [(0.3, 0.2), (0.5, 0.4)]
    assert all(torch.equal(tensor, kept[2][name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("stop", "trained", "clips", "every"), [(10, 20, 10, 2), (56, 224, 32, 3), (200, 5000, 32, 1), (64, 320, 32, 2)]
)
def test_all_early_stopping_clips_up_to_32_are_attacked_as_often_as_costs_little(stop, trained, clips, every):
    watched, found = module._watched(np.arange(stop), trained, options())
    assert len(set(watched)) == clips and found == every
    assert clips / every <= max(8, trained / 20)


def test_the_epochs_that_are_attacked_are_every_few_and_the_last(tmp_path, monkeypatch):
    """30 clips, of which 8 an epoch may be attacked."""
    told, sizes = [], []

    def accuracies(network, x, y, eps):
        sizes.append(len(x))
        return 0.5, 0.4

    monkeypatch.setattr(module, "accuracies_under_attack", accuracies)
    train(network(), Stripes(), tmp_path / "state.pt", told.append, epochs=10, eps=0.1)
    assert [epoch.number for epoch in told if epoch.bim_accuracy is not None] == [4, 8, 10] and sizes == [30] * 3


def test_training_that_runs_out_of_patience_between_attacks_ends_with_one(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(module, "accuracies_under_attack", lambda *arguments: (0.5, 0.4))
    monkeypatch.setattr(module, "_evaluate", lambda *arguments: (1.0, 0.5))
    best = train(network(), Stripes(), tmp_path / "state.pt", told.append, epochs=10, eps=0.1, patience=1)
    assert [epoch.attacked for epoch in told] == [False, True] and best.number == 2


def test_plain_training_is_not_attacked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "accuracies_under_attack", None)
    best = train(network(), Stripes(), tmp_path / "state.pt", epochs=1)
    assert best.fgsm_accuracy is None and best.bim_accuracy is None


def rates(monkeypatch, tmp_path, **changes):
    """The learning rate of each batch."""
    seen, original = [], torch.optim.AdamW.step

    def step(self, *arguments):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    train(network(), Stripes(), tmp_path / "state.pt", **changes)
    return np.array(seen)


def test_the_learning_rate_rises_and_falls_or_falls(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        one_cycle = rates(patch, tmp_path, epochs=4, lr=1e-2)
    assert len(one_cycle) == 24
    assert one_cycle.argmax() == 5 and one_cycle.max() == pytest.approx(1e-2)  # a quarter of 24 steps
    assert one_cycle[0] == pytest.approx(4e-4) and one_cycle[-1] < 1e-6
    cosine = rates(monkeypatch, tmp_path, epochs=4, lr=1e-2, schedule="cosine")
    assert np.allclose(cosine, 1e-2 * (1 + np.cos(np.pi * np.arange(24) / 24)) / 2)


@pytest.mark.parametrize("eps", [None, 0.05])
def test_what_is_pretrained_stays_in_the_first_epochs(tmp_path, eps):
    net, states = network(), []
    pretrained = [name for name, _ in net.named_parameters() if not name.startswith("6.")]
    states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})

    def keep(epoch):
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})

    training = options(epochs=3, freeze_epochs=2, eps=eps)
    fit(net, Stripes(), *parts(Stripes()), training, tmp_path / "s.pt", keep, pretrained)
    for name in states[0]:  # convolution and BatchNorm with its statistics, and the linear head
        changed = [not torch.equal(before[name], after[name]) for before, after in pairwise(states)]
        assert changed == ([True] * 3 if name.startswith("6.") else [False, False, True]), name
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_a_last_batch_of_one_is_left_out(tmp_path):
    data, net, sizes = Stripes(), network(), []
    net.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])) if module.training else None)
    fit(net, data, np.arange(33), np.arange(90, 120), options(epochs=3), tmp_path / "s.pt", lambda epoch: None)
    assert sizes == [16, 16] * 3


def test_the_loss_told_is_the_mean_of_what_was_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "classification_loss", lambda outputs, labels: 0 * outputs.sum() + 2)
    data = Stripes()
    best = fit(network(), data, np.arange(33), np.arange(90, 120), options(epochs=1), tmp_path / "s.pt", lambda e: None)
    assert best.train_loss == 2


def test_a_class_without_clips_is_still_a_class(tmp_path):
    """The last class lost all its clips to --skip-bad: networks have an output for it."""
    data = Stripes(classes=2)
    data.classes = ("a", "b", "gone")
    train(network(), data, tmp_path / "state.pt", epochs=1)


def test_auxiliary_heads_count_three_tenths():
    torch.manual_seed(0)
    heads = [torch.randn(4, 3) for _ in range(3)]
    labels = torch.rand(4, 3).softmax(1)
    losses = [classification_loss(head, labels) for head in heads]
    assert torch.allclose(classification_loss(tuple(heads), labels), losses[0] + 0.3 * (losses[1] + losses[2]))


def test_label_smoothing_of_a_tenth():
    logits, label = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    smooth = 0.9 * label + 0.1 / 3
    expected = -(smooth * logits.log_softmax(1)).sum()
    assert torch.allclose(classification_loss(logits, label), expected)
