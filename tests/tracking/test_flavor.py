"""A registered victim behind ``mlflow models serve``, over HTTP, on a machine without the project's code."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pytest
import requests
import soundfile
import torch
from mlflow.tracking import MlflowClient

from advtrack import data
from advtrack.data import clip
from advtrack.models.checkpoint import Description, save
from advtrack.models.zoo import build
from advtrack.representations.image import ImageSettings, images
from advtrack.tracking import flavor, registry

SETTINGS = ImageSettings(height=32, width=32, duration=1.0, wavelet_rate=8000)
CLASSES = ("dog", "rain", "sea_waves")
RATE = 8000
TONE = (0.5 * np.sin(np.arange(RATE) / 3)).astype(np.float32)
# Python runs this on its start: neither this checkout nor what only training needs can be imported then.
WITHOUT_CHECKOUT = """
import sys
from pathlib import Path
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
sys.path = [folder for folder in sys.path if not (Path(folder) / "advtrack").exists()]
sys.modules |= dict.fromkeys(["optuna", "optuna_dashboard", "art", "pywt"])
"""


@pytest.fixture(scope="module")
def network():
    """Untrained, but not sure of anything."""
    torch.manual_seed(0)
    network = build("resnet56", len(CLASSES)).eval()
    with torch.no_grad():
        *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Linear))
        last.bias.zero_()
        last.weight /= network(torch.rand(8, 1, 40, 32)).abs().max()
    return network


@pytest.fixture(scope="module")
def victim(network, empty_store, tmp_path_factory):
    """The folder of a tracking store with a champion, logged as training does."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    before, here = mlflow.get_tracking_uri(), Path.cwd()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    os.chdir(folder)
    description = Description("resnet56", "dwt_tonnetz", "synthetic", CLASSES, (1, 40, 32), asdict(SETTINGS))
    save(folder / "checkpoint", network, description)
    run = MlflowClient().create_run("0").info.run_id
    uri = flavor.log_victim(run, folder / "checkpoint")
    registry.set_alias(registry.register("sounds", uri, run, {}, ""), registry.CHAMPION)
    yield folder
    os.chdir(here)
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def environment(victim):
    """That of a process which knows the tracking store, and no code of this project."""
    (victim / "start").mkdir()
    (victim / "start" / "sitecustomize.py").write_text(WITHOUT_CHECKOUT)
    return {
        **os.environ,
        "PYTHONPATH": str(victim / "start"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{victim / 'mlflow.db'}",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="module")
def server(victim, environment, serving):
    """Ask the served champion; status and answer."""
    command = ["models", "serve", "-m", "models:/sounds@champion", "--env-manager", "local"]
    with serving(*command, folder=victim, answers_at="/ping", env=environment) as address:

        def ask(body):
            headers = {"Content-Type": "application/json"}
            answer = requests.post(f"{address}/invocations", data=json.dumps(body), headers=headers, timeout=60)
            return answer.status_code, answer.json()

        yield ask


def expected(network, waveform, rate):
    """The answer by the code of training."""
    image = images(waveform, rate, ["dwt_tonnetz"], SETTINGS)["dwt_tonnetz"][0]
    with torch.inference_mode():
        scores = network(torch.from_numpy(image)[None, None]).softmax(1)[0].tolist()
    return dict(zip(CLASSES, scores, strict=True))


def classified(server, waveforms, rate=RATE):
    """The probabilities of each waveform, whose order and label have been looked at."""
    status, answer = server({"inputs": {"waveform": waveforms}, "params": {"sampling_rate": rate}})
    assert status == 200, answer
    for one in answer["predictions"]:
        falling = list(one["probabilities"].items())
        assert [p for _, p in falling] == sorted((p for _, p in falling), reverse=True)
        assert one["label"] == falling[0][0] and set(one["probabilities"]) == set(CLASSES)
        assert sum(p for _, p in falling) == pytest.approx(1) and falling[0][1] < 0.99
    return [one["probabilities"] for one in answer["predictions"]]


def test_the_server_cannot_see_this_checkout(environment, victim):
    for module in ("advtrack", "optuna"):
        gone = subprocess.run([sys.executable, "-c", f"import {module}"], cwd=victim, env=environment, stderr=-3)
        assert gone.returncode == 1


@pytest.mark.parametrize("name", ["chirp", "esc10"])
def test_a_clip_is_classified_as_in_training(server, network, name, tmp_path, request):
    file = tmp_path / "chirp.wav"
    if name == "esc10":
        file = data.load("esc50", request.getfixturevalue("real_data") / "ESC-10").clips[0].path
    else:
        soundfile.write(file, np.sin(np.linspace(0, 200, 22_050) ** 2 / 10), 22_050)
    waveform, rate = clip.decode(file)
    (answer,) = classified(server, [waveform.tolist()], rate)
    assert answer == pytest.approx(expected(network, waveform, rate), abs=1e-5)


def test_waveforms_of_different_lengths_are_filled_and_cut_as_in_training(server, network):
    waveforms = [TONE[:3], TONE[:1000], np.zeros(10, np.float32), np.tile(TONE, 3)]
    answers = classified(server, [one.tolist() for one in waveforms])
    for one, answer in zip(waveforms, answers, strict=True):
        assert answer == pytest.approx(expected(network, one, RATE), abs=1e-5)
    filled, cut = classified(server, [np.pad(TONE[:1000], (0, 7000)).tolist(), TONE.tolist()])
    assert answers[1] == pytest.approx(filled, abs=1e-5) and answers[3] == pytest.approx(cut, abs=1e-5)


def test_silence_is_an_image_of_zeros_but_for_the_tonal_centroids(server, network):
    (answer,) = classified(server, [[0.0] * RATE])
    image = images(np.zeros(RATE, np.float32), RATE, ["dwt_tonnetz"], SETTINGS)["dwt_tonnetz"][0]
    assert not image[: SETTINGS.height].any()
    assert answer == pytest.approx(expected(network, np.zeros(RATE, np.float32), RATE), abs=1e-5)


def test_the_sampling_rate_matters(server, network):
    (slow,), (fast,) = (classified(server, [TONE.tolist()], rate) for rate in (RATE, 44_100.0))
    assert slow == pytest.approx(expected(network, TONE, RATE), abs=1e-5)
    assert fast == pytest.approx(expected(network, TONE, 44_100), abs=1e-5)
    assert max(abs(slow[name] - fast[name]) for name in CLASSES) > 1e-4


@pytest.mark.parametrize(
    ("waveform", "rate", "told"),
    [
        ([], RATE, "one or more waveforms"),
        ([[]], RATE, "waveform 1 is empty"),
        ([[0.1], []], RATE, "waveform 2 is empty"),
        ([0.1, 0.2], RATE, "each a list of samples"),
        ([[[0.1], [0.2]]], RATE, "of one channel"),
        ([[0.1, float("nan")]], RATE, "waveform 1 has samples that are NaN"),
        ([[0.1, None]], RATE, "waveform 1 has samples that are NaN"),
        ([[0.1], [float("inf")]], RATE, "waveform 2 has samples that are NaN, infinite"),
        ([[1e7]], RATE, "beyond 10 (1e+07)"),
        ([[0.1, 10**400]], RATE, "beyond 10 (inf)"),
        ([[0.5] * 99], 1_000_000, "waveform 1 is too short: 99 samples at 1000000 Hz last less than 0.0001 s"),
        ([[32767, -32768]], RATE, "beyond 10 (32768); full scale is 1, so divide 16-bit samples by 32768"),
        ([["0.1", "0.2"]], RATE, "a list of samples"),
        ([[0.1], ["0.2", 0.3]], RATE, "a list of samples"),
        ([[True, False]], RATE, "a list of samples"),
        ([[0.1, True], [0.1]], RATE, "a list of samples"),
        ([TONE.tolist()], "abc", "`abc`"),
        ([TONE.tolist()], "8000", "`8000`"),
        ([TONE.tolist()], [8000], "`[8000]`"),
        ([TONE.tolist()], True, "`True`"),
        ([TONE.tolist()], {"rate": "x" * 9999}, "params.sampling_rate: "),
        ([["loud"]], RATE, "a list of samples"),
        ("loud", RATE, "a list of one or more waveforms"),
        ([TONE.tolist()], None, "params.sampling_rate: give that of the waveforms"),
        ([TONE.tolist()], 0, "not 0"),
        ([TONE.tolist()], -44_100, "not -44100"),
        ([TONE.tolist()], 44_100.5, "not 44100.5"),
        ([TONE.tolist()], 1, "from 1000 to 1000000"),
        ([TONE.tolist()], 10**9, "from 1000 to 1000000"),
        ([TONE.tolist()], float("nan"), "not nan"),
    ],
)
def test_what_cannot_be_classified_is_a_bad_request_of_one_line(server, waveform, rate, told):
    params = {} if rate is None else {"params": {"sampling_rate": rate}}
    status, answer = server({"inputs": {"waveform": waveform}, **params})
    assert status == 400 and told in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) <= 300 and "stack_trace" not in answer


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"wave": [TONE.tolist()]}, "Model is missing inputs ['waveform']"),
        ({"wave": [[0.1], [0.1, 0.2]]}, "Invalid input"),
        ({}, "Model is missing inputs ['waveform']"),
    ],
)
def test_a_request_that_does_not_fit_the_signature_is_answered_in_one_line(server, inputs, told):
    status, answer = server({"inputs": inputs, "params": {"sampling_rate": RATE}})
    assert status == 400 and told in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) < 200


def test_samples_of_any_type_have_full_scale_1(network, victim):
    model = mlflow.pyfunc.load_model("models:/sounds@champion")
    for samples in (np.array([1, 0, -1] * 100, np.int16), [1, 0, -1] * 100, np.array([1, 0, -1] * 100, np.float64)):
        (answer,) = model.predict({"waveform": np.asarray(samples)[None]}, params={"sampling_rate": RATE})
        wanted = expected(network, np.array([1, 0, -1] * 100, np.float32), RATE)
        assert answer["probabilities"] == pytest.approx(wanted, abs=1e-5)


def test_an_answer_that_is_no_number_is_never_given(network, victim, monkeypatch):
    model = flavor.AudioClassifier()
    monkeypatch.setattr(mlflow.exceptions.MlflowException, "serialize_as_json", flavor._serialize)  # put back after
    model.load_context(SimpleNamespace(artifacts={"checkpoint": victim / "checkpoint"}))
    with torch.no_grad():
        next(model.victim.network.parameters()).fill_(float("nan"))
    with pytest.raises(mlflow.exceptions.MlflowException, match="the network's answer is no number") as caught:
        model.predict(None, {"waveform": [TONE]}, {"sampling_rate": RATE})
    assert caught.value.get_http_status_code() == 500


def test_the_model_says_what_it_takes_and_needs(victim, network):
    folder = Path(mlflow.artifacts.download_artifacts("models:/sounds@champion"))
    info = mlflow.models.Model.load(str(folder))
    assert [spec.name for spec in info.signature.inputs] == ["waveform"]
    assert [spec.name for spec in info.signature.outputs] == ["label", "probabilities"]
    assert [spec.name for spec in info.signature.params] == ["sampling_rate"]
    needed = (folder / "requirements.txt").read_text().split()
    assert all("==" in line and "+" not in line for line in needed) and len(needed) == len(flavor._REQUIREMENTS)
    assert (folder / "code" / "advtrack" / "representations" / "image.py").exists()
    assert {path.suffix for path in (folder / "artifacts" / "checkpoint").iterdir()} == {".safetensors", ".json"}
    model = mlflow.pyfunc.load_model("models:/sounds@champion")
    example, params = info.load_input_example(str(folder)), info.load_input_example_params(str(folder))
    (answer,) = model.predict(example, params=params)
    waveform = np.asarray(example["waveform"], np.float32)[0]
    assert answer["probabilities"] == pytest.approx(expected(network, waveform, params["sampling_rate"]), abs=1e-5)


def test_requirements_are_not_inferred(network, victim, monkeypatch):
    """MLflow would load the model in a process of its own, for half a minute."""
    monkeypatch.setattr("mlflow.models.infer_pip_requirements", lambda *given, **options: 1 / 0)
    run = MlflowClient().create_run("0").info.run_id
    flavor.log_victim(run, victim / "checkpoint")
    assert MlflowClient().get_run(run).info.status == "RUNNING"
