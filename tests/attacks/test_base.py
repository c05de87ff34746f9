"""What every attack may rely on, and what every entry of ATTACKS must say about itself."""

import inspect
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from art.defences.postprocessor import ReverseSigmoid
from art.estimators.classification import PyTorchClassifier
from torch import nn

from advtrack.attacks import ATTACKS, TABLE_ATTACKS, checks
from advtrack.attacks.base import Attack, Choices, Range
from advtrack.attacks.batches import in_batches
from advtrack.attacks.victim import is_adversarial
from advtrack.models.zoo import build


def test_preprocessing_outside_the_network_is_refused(art_classifier, linear_victim):
    classifier = art_classifier(linear_victim(dtype=torch.float32), preprocessing=(0.5, 0.25))
    with pytest.raises(ValueError, match="inside the network"):
        ATTACKS["fgsm"](classifier)


@pytest.mark.parametrize("name", TABLE_ATTACKS)
def test_iterations_may_be_a_whole_number_of_numpy(name, linear_victim, clips):
    network, x, spec = linear_victim(), clips(3), ATTACKS[name]
    y = (network(x).argmax(1) + spec.targets) % 3
    given = {"targeted": spec.targets} | ({"start": x} if spec.starts else {})
    given |= {"eps": 0.1} if name.startswith("bim") else {}
    one, other = (spec.native(network, x, y, max_iter=kind(3), **given) for kind in (int, np.int64))
    assert torch.equal(one.x_adv, other.x_adv) and torch.equal(one.first_success, other.first_success)


@pytest.mark.parametrize("clip_values", [None, (0.0, 255.0), (-1.0, 1.0)])
def test_other_ranges_of_inputs_are_refused(art_classifier, linear_victim, clip_values):
    classifier = art_classifier(linear_victim(dtype=torch.float32), clip_values=clip_values)
    with pytest.raises(ValueError, match="clip_values"):
        ATTACKS["fgsm"](classifier)


def test_the_range_may_be_given_for_each_feature(art_classifier, linear_victim):
    network, low = linear_victim(dtype=torch.float32), np.zeros((1, 4, 4))
    ATTACKS["fgsm"](art_classifier(network, clip_values=(low, low + 1)))
    low[0, 1, 1] = 0.1
    with pytest.raises(ValueError, match="clip_values"):
        ATTACKS["fgsm"](art_classifier(network, clip_values=(low, np.ones((1, 4, 4)))))


@pytest.mark.parametrize("name", list(ATTACKS))
def test_the_classifier_may_bear_either_of_arts_names(name, art_classifier, linear_victim):
    classifier = art_classifier(linear_victim(dtype=torch.float32))
    for attack in (
        ATTACKS[name](classifier),
        ATTACKS[name](estimator=classifier),
        ATTACKS[name](classifier=classifier),
    ):
        assert attack.estimator is classifier
    for given, named in (((), {}), ((classifier, 0.1), {}), ((classifier,), {"classifier": classifier})):
        with pytest.raises(TypeError, match="takes one classifier, and parameters by name"):
            ATTACKS[name](*given, **named)


BAD = {
    "batch_size": (0, 2.5, True, None, "8"),
    "max_iter": (0, 2.5, math.inf, math.nan, "ten", None, True),
    "targeted": ("yes", 1, None),
    "abort_early": ("no", 0),
    "eps": (-0.1, 1.5, math.nan, math.inf, "a", None, True, np.array([0.1, math.nan])),
    "eps_step": (-0.1, 2.0, math.nan),
    "verbose": ("yes", 1),
    "theta": (0, 2, math.nan, "a"),
    "gamma": (0, 1.1, None),
    "features_per_step": (0, 2.5),
    "confidence": (-1, math.inf, "a"),
    "learning_rate": (0, -1, math.nan, None),
    "initial_const": (0, math.inf, "a"),
    "binary_search_steps": (0, 2.5),
    "sigma": (0, "a"),
    "samples_per_draw": (0, 3, 2.5, True),
    "top_k": (0, 1.5),
    "query_batch": (0,),
    "seed": (-1, 0.5),
    "norm": ("l1", None),
    "precision": ("fp8", None),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_bad_parameters_are_refused_by_name(name, art_classifier, linear_victim):
    classifier = art_classifier(linear_victim(dtype=torch.float32))
    ours = {art: native for native, art in ATTACKS[name].art_names.items()}
    refusable = {ours.get(art, art) for art in ATTACKS[name].attack_params}
    for parameter, values in {**BAD, "epsilon": (-0.1, "a"), "nb_grads": (0, 2.5)}.items():
        if parameter in ATTACKS[name].attack_params:
            for value in values:
                if name in ("deepfool", "carlini_wagner") and value is None and parameter == "initial_const":
                    continue
                with pytest.raises(ValueError, match=ours.get(parameter, parameter)):
                    ATTACKS[name](classifier, **{parameter: value})
    assert refusable - {"tensor_board", "summary_writer"} <= {*BAD, "overshoot", "candidates"}  # none is forgotten


@pytest.mark.parametrize("name", list(ATTACKS))
def test_numpy_numbers_are_numbers(name, art_classifier, linear_victim):
    defaults = ATTACKS[name].defaults
    numbers = {k: v for k, v in defaults.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    given = {k: np.int64(v) if isinstance(v, int) else np.float32(v) for k, v in numbers.items()}
    ATTACKS[name](art_classifier(linear_victim(dtype=torch.float32)), batch_size=np.int32(4), **given)


def test_jsma_makes_no_more_than_the_papers_iterations(art_classifier, linear_victim):
    with pytest.raises(ValueError, match="at most 1000"):
        ATTACKS["jsma"](art_classifier(linear_victim(dtype=torch.float32)), max_iter=1001)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.full((2, 1, 4, 4), 1.01), None, r"x must be .* in \[0, 1\]"),
        (np.full((2, 1, 4, 4), math.nan), None, r"x must be .* in \[0, 1\]"),
        (np.zeros((2, 1, 4, 4)), np.array([0, 4]), "y must be labels from 0 to 3"),
        (np.zeros((2, 1, 4, 4)), np.array([0, -1]), "y must be labels from 0 to 3"),
        (np.zeros((2, 1, 4, 4)), np.array([0]), "y must be 2 labels"),
        (np.zeros((2, 1, 4, 4)), np.array([0.5, 1]), "y must be class numbers"),
        (np.zeros((2, 1, 4, 4)), np.eye(3)[:2], "a score for each of 4 classes"),
        (np.zeros((2, 1, 4, 4)), np.full((2, 4), math.nan), "a score for each of 4 classes"),
        (np.zeros((2, 1, 4, 4)), np.array([[0, 1, 0, 0], [0, 0, 0, 0]]), "one of them the highest"),
    ],
)
def test_bad_inputs_are_refused(art_classifier, linear_victim, x, y, message):
    attack = ATTACKS["fgsm"](art_classifier(linear_victim(dtype=torch.float32)))
    with pytest.raises(ValueError, match=message):
        attack.generate(x.astype(np.float32), y)


def test_a_refused_parameter_changes_nothing(art_classifier, linear_victim):
    attack = ATTACKS["bim_a"](art_classifier(linear_victim(dtype=torch.float32)), eps=0.1)
    with pytest.raises(ValueError, match="max_iter"):
        attack.set_params(eps=0.2, max_iter=0)
    assert (attack.eps, attack.max_iter) == (0.1, 100)
    with pytest.raises(ValueError, match="eps"):
        attack.set_params(targeted=False, eps=7)
    assert attack.targeted


def test_defences_that_attacks_would_not_see_are_refused(linear_victim):
    classifier = PyTorchClassifier(
        linear_victim(dtype=torch.float32), nn.CrossEntropyLoss(), (1, 4, 4), 4, clip_values=(0, 1),
        postprocessing_defences=ReverseSigmoid(),
    )  # fmt: skip
    with pytest.raises(ValueError, match="postprocessing"):
        ATTACKS["pia"](classifier)


class Viewing(nn.Module):
    """A victim that cannot take an empty batch."""

    def forward(self, x):
        return x.view(len(x), -1)[:, :4]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(ATTACKS))
def test_arrays_of_any_layout_and_length(name, precision, art_classifier, clips):
    attack = (
        ATTACKS[name](art_classifier(Viewing()), max_iter=2, precision=precision)
        if name != "fgsm"
        else ATTACKS[name](art_classifier(Viewing()), precision=precision)
    )
    x = clips(4, dtype=torch.float32).numpy()
    y = np.zeros(4, int)
    np.testing.assert_array_equal(attack.generate(x[::-1], y), attack.generate(x[::-1].copy(), y))
    assert attack.generate(x[:0], y[:0]).shape == (0, 1, 4, 4)
    sealed = x.copy()
    sealed.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # torch's, once a process, of arrays that it cannot write to
        for given in (sealed, x.astype(">f4")):
            np.testing.assert_array_equal(attack.generate(given, y), attack.generate(x, y))


class Lost(nn.Module):
    """A victim that loses its mind over inputs with a first feature of 1."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).masked_fill(x[:, 0, 0, :1] == 1, math.nan)


@pytest.mark.parametrize("name", ["fgsm", "bim_a", "bim_b", "deepfool", "carlini_wagner"])
def test_without_labels_an_input_without_a_prediction_costs_the_others_nothing(
    name, art_classifier, linear_victim, clips
):
    x = clips(4, dtype=torch.float32).clamp(max=0.9).numpy()
    x[2, 0, 0, 0] = 1
    attack = ATTACKS[name](art_classifier(Lost(linear_victim(dtype=torch.float32))), targeted=False, verbose=False)
    others = [0, 1, 3]
    np.testing.assert_allclose(attack.generate(x)[others], attack.generate(x[others]), atol=1e-6)


def test_an_input_without_a_prediction_is_nobodys_start(art_classifier, linear_victim, clips):
    network, x = linear_victim(dtype=torch.float32), clips(8, dtype=torch.float32).clamp(max=0.9)
    x[0, 0, 0, 0] = 1  # argmax of NaN is class 0
    predicted = network(x).argmax(1)
    assert (predicted[1:] == 0).any() and (predicted[1:] != 0).any()
    attack = ATTACKS["pia"](art_classifier(Lost(network)), max_iter=1, verbose=False)
    x_adv = torch.from_numpy(attack.generate(x.numpy(), np.zeros(8, int)))
    assert (network(x_adv)[1:].argmax(1) == 0).all()


def test_half_precision_is_refused(linear_victim, clips):
    with pytest.raises(ValueError, match="x must be float32 or float64"):
        ATTACKS["fgsm"].native(linear_victim(), clips(2).half(), torch.zeros(2).long(), eps=0.1)


@pytest.mark.parametrize(("verbose", "shown"), [(True, True), (False, False)])
def test_progress_is_shown_as_art_shows_it(art_classifier, clips, capfd, verbose, shown):
    ATTACKS["fgsm"](art_classifier(Viewing()), verbose=verbose).generate(clips(4, dtype=torch.float32).numpy())
    assert ("fgsm" in capfd.readouterr().err) == shown


def test_what_generate_needs_and_does_not_know(art_classifier, linear_victim):
    classifier, x = art_classifier(linear_victim(dtype=torch.float32)), np.zeros((2, 1, 4, 4), np.float32)
    other = int(1 - linear_victim(dtype=torch.float32)(torch.zeros(1, 1, 4, 4)).argmax().clamp(max=1))
    with pytest.raises(ValueError, match=rf"takes none of the inputs for class {other}: give PIA\.generate start="):
        ATTACKS["pia"](classifier).generate(x, np.full(2, other))
    with pytest.raises(ValueError, match=r"start must be .* in"):
        ATTACKS["pia"](classifier).generate(x, np.zeros(2, int), start=x - 1)
    with pytest.raises(TypeError, match=r"BIMa\.generate takes no argument mask"):
        ATTACKS["bim_a"](classifier).generate(x, np.zeros(2, int), mask=x)


@pytest.mark.parametrize("name", ["fgsm", "bim_a", "bim_b"])
def test_each_sample_may_have_its_own_eps(name, art_classifier, linear_victim, clips):
    classifier, x = art_classifier(linear_victim(dtype=torch.float32)), clips(4, dtype=torch.float32).numpy()
    y, eps = np.arange(4), np.array([0.0, 0.01, 0.1, 0.2], np.float32)
    together = ATTACKS[name](classifier, eps=eps, targeted=True).generate(x, y)
    for i in range(4):
        alone = ATTACKS[name](classifier, eps=float(eps[i]), targeted=True).generate(x[i : i + 1], y[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
    with pytest.raises(ValueError, match="eps must have one row, or one for each of 3 samples, not 4"):
        ATTACKS[name](classifier, eps=eps, targeted=True).generate(x[:3], y[:3])
    one = ATTACKS[name](classifier, eps=np.array([0.1]), targeted=True).generate(x, y)
    np.testing.assert_array_equal(one, ATTACKS[name](classifier, eps=0.1, targeted=True).generate(x, y))
    in_arts_shape = ATTACKS[name](classifier, eps=eps[:, None, None, None], targeted=True).generate(x, y)
    np.testing.assert_array_equal(in_arts_shape, together)


@pytest.mark.parametrize("eps", [1e-4, 0.06889097440, 0.1, 0.3])
@pytest.mark.parametrize("name", ["fgsm", "bim_a", "bim_b"])
def test_no_rounding_leads_out_of_the_ball(name, eps, mlp_victim, clips):
    network, x = mlp_victim(dtype=torch.float32), clips(50, dtype=torch.float32)
    outcome = ATTACKS[name].native(network, x, torch.arange(50) % 4, eps=eps)
    assert (outcome.linf.double() <= eps).all() and outcome.linf.max() >= eps * (1 - 1e-3)


@pytest.mark.parametrize("name", list(ATTACKS))
def test_gradients_switched_off_outside_do_not_matter(name, mlp_victim, clips):
    network, x, y = mlp_victim(dtype=torch.float32), clips(6, dtype=torch.float32), torch.arange(6) % 4
    start = clips(6, dtype=torch.float32, seed=7)
    expected = struck(name, network, x, y, start)
    with torch.no_grad():
        assert torch.equal(struck(name, network, x, y, start).x_adv, expected.x_adv)
    from_a_graph = struck(name, network, x.clone().requires_grad_(), y, start)
    for field in ("x_adv", "l0", "l2", "linf"):
        assert not getattr(from_a_graph, field).requires_grad


@pytest.mark.parametrize("name", list(ATTACKS))
def test_a_mode_that_forbids_gradients_is_refused_in_one_line(name, linear_victim, clips):
    network, x, y = linear_victim(), clips(4), torch.zeros(4, dtype=torch.int64)
    with torch.inference_mode():
        made_there = x.clone()
        with pytest.raises(ValueError, match=r"under torch\.inference_mode.*: use torch\.no_grad"):
            struck(name, network, x, y, x)
    with pytest.raises(ValueError, match="tensors made there"):
        struck(name, network, made_there, y, x)


class Deaf(nn.Module):
    """What it answers does not depend on the input."""

    def forward(self, x):
        return torch.tensor([0.0, 2.0, 1.0], dtype=x.dtype).expand(len(x), 3)


@pytest.mark.parametrize(
    ("name", "targeted"),
    [(name, ATTACKS[name].defaults["targeted"]) for name in ATTACKS]
    + [("fgsm", True), ("bim_a", False), ("bim_b", False), ("carlini_wagner", False)],
)
def test_a_victim_that_does_not_look_at_its_input_is_not_fooled(name, targeted, clips):
    x, y = clips(3), torch.full((3,), 2 if targeted else 1)
    given = {"start": x.flip(0)} if ATTACKS[name].starts else {}
    given |= {"eps": 0.1} if not ATTACKS[name].minimises else {}
    given |= {"max_iter": 10} if name != "fgsm" else {}
    outcome = ATTACKS[name].native(Deaf(), x, y, targeted=targeted, **given)
    assert not outcome.success.any() and (outcome.first_success == -1).all()
    assert outcome.x_adv.isfinite().all() and ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()


@pytest.mark.parametrize("name", list(ATTACKS))
def test_labels_are_checked_once_for_all_forwards(name, mlp_victim, clips, predict, monkeypatch):
    """The question waits for a GPU to finish."""
    asked = []
    monkeypatch.setattr(checks, "labels", lambda y, count, classes=math.inf: asked.append(classes))
    network, x = mlp_victim(), clips(6)
    y = (predict(network, x) + ATTACKS[name].defaults["targeted"]) % 4
    given = {"start": x.flip(0)} if ATTACKS[name].starts else {}
    given |= {"eps": 0.1} if not ATTACKS[name].minimises else {}
    given |= {"max_iter": 10} if name != "fgsm" else {}
    ATTACKS[name].native(network, x, y, **given)
    assert asked == [math.inf, 4]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_native_attacks_refuse_what_is_no_input(name, linear_victim, clips):
    x, y = clips(4), torch.zeros(4, dtype=torch.int64)
    for bad_x, bad_y, named in (
        (3 * x, y, "x must be"),
        (x, y[:2], "y must be 4 labels"),
        (x, y - 1, "y must be labels"),
        (x, y + 4, "y must be labels from 0 to 3"),
    ):
        with pytest.raises(ValueError, match=named):
            struck(name, linear_victim(), bad_x, bad_y, x)


@pytest.mark.parametrize("name", [name for name in ATTACKS if not ATTACKS[name].defaults["targeted"]])
def test_without_y_the_victim_is_left_as_it_came_and_nothing_is_no_trouble(name, art_classifier, mlp_victim, clips):
    classifier = art_classifier(mlp_victim(dtype=torch.float32))
    classifier.model.train()
    attack = ATTACKS[name](classifier)
    attack.generate(clips(3).numpy())  # float64
    assert all(module.training for module in classifier.model.modules())
    empty = np.zeros((0, 1, 4, 4), np.float32)
    assert attack.generate(empty).shape == attack.generate(empty, np.zeros((0, 1))).shape == empty.shape


@pytest.mark.parametrize("name", [name for name in ATTACKS if ATTACKS[name].defaults["targeted"]])
def test_without_y_an_attack_is_untargeted_or_refused(name, art_classifier, linear_victim, clips, predict):
    network, x = linear_victim(dtype=torch.float32), clips(6, dtype=torch.float32)
    attack = ATTACKS[name](art_classifier(network), verbose=False)
    with pytest.raises(ValueError, match=r"aims at target classes and needs them as y; only with targeted=False"):
        attack.generate(x.numpy())
    if name not in ("jsma", "pia"):
        attack.set_params(targeted=False)
        y = predict(network, x)
        x_adv = attack.generate(x.numpy())
        np.testing.assert_array_equal(x_adv, attack.generate(x.numpy(), y.numpy()))
        assert (predict(network, torch.from_numpy(x_adv)) != y).any()


def test_generate_takes_labels_one_hot_labels_or_predictions(art_classifier, linear_victim, clips, predict):
    network = linear_victim(dtype=torch.float32)
    x = clips(6, dtype=torch.float32)
    y = predict(network, x)
    attack = ATTACKS["fgsm"](art_classifier(network), eps=0.1)
    from_labels = attack.generate(x.numpy(), y.numpy())
    np.testing.assert_array_equal(from_labels, attack.generate(x.numpy(), np.eye(4)[y.numpy()]))
    np.testing.assert_array_equal(from_labels, attack.generate(x.numpy(), y.numpy()[:, None]))
    np.testing.assert_array_equal(from_labels, attack.generate(x.numpy()))
    assert from_labels.dtype == np.float32

    attack.set_params(targeted=True)
    with pytest.raises(ValueError, match="target classes"):
        attack.generate(x.numpy())


def test_the_paper_attacks_are_the_registry_without_fgsm():
    assert set(TABLE_ATTACKS) == set(ATTACKS) - {"fgsm"}


@pytest.fixture(scope="module")
def trained():
    """A ResNet-18 in float32 that tells four noisy patterns apart, and inputs it classifies correctly."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand((4, 1, 32, 32), generator=generator)

    def draw(n):
        y = torch.randint(4, (n,), generator=generator)
        noise = torch.rand((n, 1, 32, 32), generator=generator)
        return 0.3 * patterns[y] + 0.7 * noise, y

    torch.manual_seed(0)
    network = build("resnet18", 4)
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(60):
        x, y = draw(32)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    network.eval()
    x, y = draw(40)
    with torch.no_grad():
        correct = network(x).argmax(1) == y
    assert correct.sum() >= 30
    return network, x[correct], y[correct]


class Sick(nn.Module):
    """A victim whose logits overflow, or whose gradients are undefined, where the first feature is 1."""

    def __init__(self, network, what):
        super().__init__()
        self.network, self.what = network, what

    def forward(self, x):
        sick = x[:, :1, :1, :1] == 1
        if self.what == "gradients" and x.requires_grad:
            x.register_hook(lambda gradient: gradient.masked_fill(sick, math.nan))
        logits = self.network(x)
        return logits.masked_fill(sick.flatten(1), math.inf) if self.what == "logits" else logits


def struck(name, network, x, y, start):
    """The outcome of the shortest run of an attack, with its defaults otherwise."""
    attack = ATTACKS[name]
    params = {"eps": 0.1} if not attack.minimises else {}
    params |= {"max_iter": 1} if name != "fgsm" else {}
    return attack.native(network, x, y, **params, **({"start": start} if attack.starts else {}))


@pytest.mark.parametrize("name", list(ATTACKS))
class TestEveryAttack:
    def test_describes_itself_consistently(self, name):
        attack = ATTACKS[name]
        assert issubclass(attack, Attack)
        assert attack.norm in {"l0", "l2", "linf"}
        assert attack.shorter_runs in {"first_success", "iterates", "none"}
        assert isinstance(attack.minimises, bool)
        assert attack.targets is (name != "deepfool")  # DeepFool alone is untargeted in the paper
        assert attack.sample_limit is None or attack.sample_limit > 0

    def test_its_search_space_is_sourced_and_sane(self, name):
        for parameter, space in ATTACKS[name].space.items():
            assert parameter in ATTACKS[name].attack_params
            assert space.source
            if isinstance(space, Range):
                assert space.low < space.high
                assert space.low > 0 or not space.log
            else:
                assert isinstance(space, Choices)
                assert len(set(space.values)) == len(space.values) > 1

    def test_constructor_takes_exactly_the_attack_parameters(self, name, art_classifier, linear_victim):
        first, *others = inspect.signature(ATTACKS[name]).parameters
        assert first == "estimator"
        assert (
            set(others)
            == set(ATTACKS[name].attack_params)
            == {*ATTACKS[name].defaults, "batch_size", "precision", "verbose"}
        )
        classifier = art_classifier(linear_victim(dtype=torch.float32))
        assert all(getattr(ATTACKS[name](classifier), k) == v for k, v in ATTACKS[name].defaults.items())
        with pytest.raises(TypeError, match=r"has no parameter magic; it has .*batch_size"):
            ATTACKS[name](classifier, magic=1)

    def test_native_takes_what_the_class_passes_on(self, name, art_classifier, linear_victim):
        attack = ATTACKS[name](art_classifier(linear_victim(dtype=torch.float32)))
        accepted = inspect.signature(type(attack).native).parameters
        assert set(attack.native_params()) <= set(accepted)
        needed = {name for name, parameter in accepted.items() if parameter.default is parameter.empty}
        assert ("start" in needed) == attack.starts

    def test_in_float32_the_batch_hardly_matters(self, name, trained):
        # Rounding depends on the size of the batch, and sign() makes much of it.
        network, x, y = trained
        attack = ATTACKS[name]
        params = {} if attack.minimises else {"eps": 0.03}
        params |= {"fgsm": {}, "pia": {"max_iter": 3, "samples_per_draw": 10}}.get(name, {"max_iter": 15})
        params |= {"binary_search_steps": 2} if name == "carlini_wagner" else {}
        params |= {"start": x.roll(1, 0)} if attack.starts else {}
        targeted = attack.defaults["targeted"]
        labels = y.roll(1, 0).where(y.roll(1, 0) != y, (y + 1) % 4) if targeted else y
        whole, split = (
            in_batches(attack.native, network, x, labels, size, targeted=targeted, **params) for size in (len(x), 7)
        )
        assert whole.success.any()
        assert (whole.success == split.success).double().mean() >= 0.99
        for norm in ("l0", "l2", "linf"):
            means = [getattr(outcome, norm)[outcome.success].mean().item() for outcome in (whole, split)]
            assert means[1] == pytest.approx(means[0], rel=0.01)

    @pytest.mark.parametrize("classes", [1, 3])
    @pytest.mark.parametrize("sick", [None, "logits", "gradients"])
    @pytest.mark.parametrize("samples", [0, 7])
    def test_is_sound_whatever_it_meets(self, name, linear_victim, clips, classes, sick, samples):
        network = Sick(linear_victim(classes=classes, dtype=torch.float32), sick)
        x = clips(samples, dtype=torch.float32)
        x[::3, 0, 0, 0] = 1  # where the victim is sick, if it is
        x[1::3].round_()  # features at exactly 0 and 1
        before = x.clone()
        y = torch.arange(samples) % classes  # of the samples, some are of that class and some are not
        outcome = struck(name, network, x, y, clips(samples, dtype=torch.float32, seed=5))

        assert torch.equal(x, before)
        assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
        assert outcome.x_adv.shape == x.shape and outcome.x_adv.isfinite().all()
        assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()
        for field in ("success", "first_success", "forwards", "backwards", "l0", "l2", "linf"):
            assert getattr(outcome, field).shape == (samples,)
        verdict = is_adversarial(network(outcome.x_adv), y, ATTACKS[name].defaults["targeted"])
        assert torch.equal(outcome.success, verdict)
        if name != "bim_b":  # which may lose again what it had
            assert torch.equal(outcome.success, outcome.first_success >= 0)
        assert (outcome.first_success <= 1).all() or name in ("carlini_wagner", "deepfool")


class Cancelling(nn.Module):
    """Its last eight features reach the logits on two paths, which cancel but for rounding."""

    def __init__(self, network):
        super().__init__()
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.network, there, back = network, draw(8, 48), draw(48, 4)
        network[1].weight.data[:, 8:] = 0
        self.there, self.back = torch.cat([there, there], 1), torch.cat([back, -back])

    def forward(self, x):
        return self.network(x) + x.flatten(1)[:, 8:] @ self.there @ self.back


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("fgsm", {"eps": 0.1}),
        ("bim_a", {"eps": 0.1}),
        ("bim_b", {"eps": 0.1, "max_iter": 10}),
        ("jsma", {"theta": 0.3}),
        ("deepfool", {"norm": "l2"}),
        ("deepfool", {"norm": "linf"}),
        ("carlini_wagner", {}),
        ("carlini_wagner", {"targeted": False}),
    ],
)
def test_what_moves_the_logits_only_by_rounding_stays(name, params, linear_victim, clips):
    """Its slope has a sign, which depends on the batch."""
    network, x = Cancelling(linear_victim()), clips(23)
    params = {"targeted": ATTACKS[name].defaults["targeted"], **params}
    y = (network(x).argmax(1) + params["targeted"]) % 4
    whole = ATTACKS[name].native(network, x, y, **params)
    assert whole.success.any() and torch.equal(whole.x_adv.flatten(1)[:, 8:], x.flatten(1)[:, 8:])
    for batch_size in (1, 3):
        split = in_batches(ATTACKS[name].native, network, x, y, batch_size, **params)
        assert torch.equal(split.x_adv, whole.x_adv) and torch.equal(split.first_success, whole.first_success)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("deepfool", {"norm": "l2"}),
        ("deepfool", {"norm": "linf"}),
        ("carlini_wagner", {"targeted": False, "max_iter": 20}),
        ("carlini_wagner", {"targeted": True, "max_iter": 20}),
    ],
)
@pytest.mark.parametrize("features", [13, 16, 49])
def test_of_two_boundaries_equally_near_every_batch_takes_the_same(name, params, features):
    """Two classes are mirror images of each other, and so is each input its own: rounding alone tells them apart."""
    params = {"targeted": False, **params}
    x = torch.linspace(0.48, 0.52, 11, dtype=torch.float64).view(-1, 1, 1, 1).expand(11, 1, 1, features).contiguous()
    for seed in range(4):
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        own, other = draw(features), draw(features)
        network = nn.Sequential(nn.Flatten(), nn.Linear(features, 3, dtype=torch.float64))
        with torch.no_grad():
            network[1].weight.copy_(torch.stack([own + own.flip(0), other, other.flip(0)]))
            lead = -0.7 if params["targeted"] else 0.7
            network[1].bias.copy_(torch.tensor([lead + (other - 2 * own).sum() / 2, 0, 0]))
        y = torch.zeros(len(x), dtype=torch.int64)
        whole = ATTACKS[name].native(network, x, y, **params)
        assert ((network(x).argmax(1) == 0) != params["targeted"]).all() and whole.success.any()
        for batch_size in (1, 3):
            split = in_batches(ATTACKS[name].native, network, x, y, batch_size, **params)
            assert torch.equal(split.x_adv, whole.x_adv)


@pytest.mark.parametrize("scale", [1e-25, 1e20, 1e30])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("jsma", {}),
        ("deepfool", {"norm": "l2"}),
        ("deepfool", {"norm": "linf"}),
        ("carlini_wagner", {}),
        ("carlini_wagner", {"targeted": False}),
    ],
)
def test_the_scale_of_the_logits_does_not_matter(name, params, scale, linear_victim, clips):
    """Squares and products of such derivatives leave the range of float32."""
    network, x = linear_victim(dtype=torch.float32), clips(8, dtype=torch.float32)
    y = network(x).argmax(1)
    y = (y + 1) % 4 if params.get("targeted", ATTACKS[name].defaults["targeted"]) else y
    expected = ATTACKS[name].native(network, x, y, **params)
    with torch.no_grad():
        network[1].weight.mul_(scale)
        network[1].bias.mul_(scale)
    outcome = ATTACKS[name].native(network, x, y, **params)
    assert expected.success.any() and torch.equal(outcome.success, expected.success)
    torch.testing.assert_close(outcome.x_adv, expected.x_adv, rtol=0, atol=1e-4)


@pytest.mark.parametrize("params", [{}, {"initial_const": 1e10}, {"learning_rate": 1e30}])
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_moments_that_overflow_leave_carlini_wagner_within_the_box(params, scale, linear_victim, clips):
    network, x = linear_victim(dtype=torch.float32), clips(8, dtype=torch.float32)
    y = (network(x).argmax(1) + 1) % 4
    with torch.no_grad():
        network[1].weight.mul_(scale)
        network[1].bias.mul_(scale)
    outcome = ATTACKS["carlini_wagner"].native(network, x, y, max_iter=20, **params)
    assert ((outcome.x_adv >= 0) & (outcome.x_adv <= 1)).all()
    assert torch.equal(outcome.success, network(outcome.x_adv).argmax(1) == y)


def test_bounds_may_be_tensors_of_any_kind(linear_victim, clips):
    network, x = linear_victim(), clips(2)
    eps = torch.tensor([0.1, 0.2], dtype=torch.float64, requires_grad=True)  # NumPy refuses it, as it does a GPU's
    outcome = ATTACKS["bim_a"].native(network, x, torch.zeros(2, dtype=torch.int64), eps=eps, eps_step=eps / 4)
    assert (outcome.linf <= eps).all()
