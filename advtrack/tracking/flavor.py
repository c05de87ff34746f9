"""A victim as an MLflow model that takes waveforms. MLflow runs this very file to serve it, so nothing is pickled."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Map

import advtrack
from advtrack.models import checkpoint
from advtrack.representations.image import ImageSettings, images

_REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "safetensors", "librosa", "soundfile", "soxr", "numpy", "scipy", "tqdm",
)  # fmt: skip
#: Sampling rates in Hz that are taken; the ends keep a request's memory in bounds.
_SLOWEST, _FASTEST = 1_000, 1_000_000
#: Seconds that a waveform lasts at least: nothing of a shorter one is left at the sampling rates of images.
_SHORTEST = 1e-4
#: Characters of an answer that refuses: what was wrong may be long.
_MOST = 300
#: Samples beyond this, 20 dB over full scale, are on another scale: that of integers.
_LOUDEST = 10
_SIGNATURE = ModelSignature(
    # Of type object, MLflow lets waveforms of different lengths through, and leaves it to us to say what is wrong.
    inputs=Schema([TensorSpec(np.dtype(object), (-1,), "waveform")]),
    outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")]),
    params=ParamSchema([ParamSpec("sampling_rate", DataType.double, None)]),
)
_EXAMPLE_RATE = 8_000
_EXAMPLE = np.sin(2 * np.pi * 440 / _EXAMPLE_RATE * np.arange(800), dtype=np.float32)[None].round(3)


def _serialize_in_one_line(error: MlflowException) -> str:
    """What a client is told of a request that cannot be answered.

    MLflow's server puts all samples before the reason, and what does not fit the signature has them once more.
    """
    told = str(error)
    if told.startswith("Failed to enforce"):
        told = told.rpartition(" Error: ")[2]
    if told.startswith("Invalid parameters"):  # there is one
        told = "params.sampling_rate: " + told.rpartition("error: ")[2].rstrip("\"')}")
    error.message = " ".join(told.split())[:_MOST]
    return _serialize(error)


_serialize = MlflowException.serialize_as_json


class AudioClassifier(PythonModel):
    """Waveforms in, classes and their probabilities out, by the representation code of training."""

    #: The signature above says what goes in; MLflow would read it off type hints, and warn of those it cannot use.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Read the checkpoint, and see to it that the process that serves it answers in one line."""
        MlflowException.serialize_as_json = _serialize_in_one_line  # type: ignore[method-assign]
        self.victim = checkpoint.load(Path(context.artifacts["checkpoint"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify mono waveforms.

        A waveform shorter than the clips of training is filled with zeros, a longer one cut, as it was there. Silence
        is an image of zeros, and the answer what the network makes of that.

        Parameters
        ----------
        context : object
            MLflow's, unused.
        model_input : sequence of array_like, shape (samples,), or {'waveform': such}
            One or more waveforms, of any lengths, full scale from -1 to 1, whatever their type.
        params : dict
            ``sampling_rate`` in Hz, a whole number from 1,000 to 1,000,000, the same for all.

        Returns
        -------
        list of dict
            Per waveform the most probable ``label``, and ``probabilities`` by class, the most probable first.

        Raises
        ------
        MlflowException
            No waveforms, samples that are no numbers, NaN, infinite or far beyond full scale, a waveform that is empty
            or lasts less than 20 microseconds, one of several channels, or a sampling rate that is not given or out of
            range (status 400). A network whose answer is no number (status 500).
        """
        given = model_input["waveform"] if isinstance(model_input, dict) else model_input
        rate = _rate((params or {}).get("sampling_rate"))
        waveforms = _waveforms(given, rate)
        description = self.victim.description
        settings, name = ImageSettings(**description.clip), description.representation
        x = np.stack([images(waveform, rate, [name], settings)[name][0] for waveform in waveforms])
        with torch.inference_mode():
            scores = self.victim.network(torch.from_numpy(x)[:, None]).softmax(1)
        if not torch.isfinite(scores).all():
            raise MlflowException("the network's answer is no number: its weights are damaged or not finite")
        answers = []
        for probabilities in scores.tolist():
            falling = sorted(zip(description.classes, probabilities, strict=True), key=lambda pair: -pair[1])
            answers.append({"label": falling[0][0], "probabilities": dict(falling)})
        return answers


def _rate(given: Any) -> int:
    if given is None or not _SLOWEST <= given <= _FASTEST or given != int(given):
        raise MlflowException.invalid_parameter_value(
            f"params.sampling_rate: give that of the waveforms in Hz, a whole number from {_SLOWEST} to {_FASTEST}, "
            f"not {given}"
        )
    return int(given)


def _waveforms(given: Any, rate: int) -> list[np.ndarray]:
    """The waveforms of a request, float32 [samples] each."""
    form = "give a list of one or more waveforms, each a list of samples of one channel, as [[0.1, -0.2]]"
    try:
        # A list as it is: an array of numbers would hide what is text or true.
        arrays = [one if isinstance(one, np.ndarray) else np.asarray(one, object) for one in given]
    except (TypeError, ValueError):
        raise MlflowException.invalid_parameter_value(f"waveform: {form}") from None
    if not arrays or any(one.ndim != 1 or not _numbers(one) for one in arrays):
        raise MlflowException.invalid_parameter_value(f"waveform: {form}")
    for number, one in enumerate(arrays, 1):
        if not len(one):
            raise MlflowException.invalid_parameter_value(f"waveform {number} is empty")
        if len(one) < _SHORTEST * rate:
            raise MlflowException.invalid_parameter_value(
                f"waveform {number} is too short: {len(one)} samples at {rate} Hz last less than {_SHORTEST:g} s"
            )
        try:
            loudest = np.abs(one.astype(np.float64)).max()
        except OverflowError:  # a whole number of hundreds of digits
            loudest = np.inf
        if not loudest <= _LOUDEST:
            raise MlflowException.invalid_parameter_value(
                f"waveform {number} has samples that are NaN, infinite or beyond {_LOUDEST} ({loudest:g}); full scale "
                "is 1, so divide 16-bit samples by 32768"
            )
    return [one.astype(np.float32) for one in arrays]


def _numbers(samples: np.ndarray) -> bool:
    """Whether samples are numbers, or missing; text and truth values are none."""
    if samples.dtype == object:
        types = {type(sample) for sample in samples} - {type(None)}
        return all(issubclass(one, int | float | np.integer | np.floating) and one is not bool for one in types)
    return samples.dtype.kind in "iuf"


def log_victim(run_id: str, folder: Path) -> str:
    """Log the checkpoint in ``folder`` as a model of a run, with this package's code; its URI."""
    client = MlflowClient()
    run = client.get_run(run_id)
    made = client.create_logged_model(run.info.experiment_id, "victim", run_id, params=run.data.params)
    # Not mlflow.pyfunc.log_model, which knows no run but the active one, and a run that is no longer active has ended.
    logged = Model.log(
        artifact_path=None,
        flavor=mlflow.pyfunc,
        model_id=made.model_id,
        run_id=run_id,
        python_model=__file__,
        artifacts={"checkpoint": str(folder)},
        code_paths=[str(Path(advtrack.__file__).parent)],
        # Pinned by hand: to infer them, MLflow would load the model in a process of its own.
        pip_requirements=[f"{name}=={_version(name)}" for name in _REQUIREMENTS],
        signature=_SIGNATURE,
        input_example=({"waveform": _EXAMPLE}, {"sampling_rate": _EXAMPLE_RATE}),
    )
    return str(logged.model_uri)


def _version(distribution: str) -> str:
    return version(distribution).split("+")[0]


set_model(AudioClassifier())
