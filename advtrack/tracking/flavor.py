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
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import Map

import advtrack
from advtrack.data.clip import LOUDEST
from advtrack.models import checkpoint
from advtrack.representations.image import ImageSettings, images

_REQUIREMENTS = (
    "mlflow", "torch", "torchvision", "safetensors", "librosa", "soundfile", "soxr", "numpy", "scipy", "tqdm",
)  # fmt: skip
#: Sampling rates in Hz that are taken; the ends keep a request's memory in bounds.
_SLOWEST, _FASTEST = 1_000, 1_000_000
_SIGNATURE = ModelSignature(
    # Of type object, MLflow lets waveforms of different lengths through, and leaves it to us to say what is wrong.
    inputs=Schema([TensorSpec(np.dtype(object), (-1,), "waveform")]),
    outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")]),
    params=ParamSchema([ParamSpec("sampling_rate", DataType.double, None)]),
)
_EXAMPLE_RATE = 8_000
_EXAMPLE = np.sin(2 * np.pi * 440 / _EXAMPLE_RATE * np.arange(800), dtype=np.float32)[None].round(3)


class Refused(MlflowException):
    """A request that cannot be answered: status 400 and one line."""

    def serialize_as_json(self) -> str:
        """What the client is told. MLflow's server has put the samples before the line."""
        self.message = str(self)
        return str(super().serialize_as_json())


class AudioClassifier(PythonModel):
    """Waveforms in, classes and their probabilities out, by the representation code of training."""

    #: The signature above says what goes in; MLflow would read it off type hints, and warn of those it cannot use.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Read the checkpoint."""
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
            One or more waveforms, of any lengths, full scale from -1 to 1.
        params : dict
            ``sampling_rate`` in Hz, a whole number from 1,000 to 1,000,000, the same for all.

        Returns
        -------
        list of dict
            Per waveform the most probable ``label``, and ``probabilities`` by class, the most probable first.

        Raises
        ------
        Refused
            No waveforms, samples that are no numbers, NaN, infinite or far beyond full scale, an empty waveform, one
            of several channels, or a sampling rate that is not given or out of range.
        """
        given = model_input["waveform"] if isinstance(model_input, dict) else model_input
        rate, waveforms = _rate((params or {}).get("sampling_rate")), _waveforms(given)
        description = self.victim.description
        settings, name = ImageSettings(**description.clip), description.representation
        x = np.stack([images(waveform, rate, [name], settings)[name][0] for waveform in waveforms])
        with torch.inference_mode():
            scores = self.victim.network(torch.from_numpy(x)[:, None]).softmax(1)
        answers = []
        for probabilities in scores.tolist():
            falling = sorted(zip(description.classes, probabilities, strict=True), key=lambda pair: -pair[1])
            answers.append({"label": falling[0][0], "probabilities": dict(falling)})
        return answers


def _rate(given: Any) -> int:
    if given is None or not _SLOWEST <= given <= _FASTEST or given != int(given):
        raise Refused.invalid_parameter_value(
            f"params.sampling_rate: give that of the waveforms in Hz, a whole number from {_SLOWEST} to {_FASTEST}, "
            f"not {given}"
        )
    return int(given)


def _waveforms(given: Any) -> list[np.ndarray]:
    """The waveforms of a request, float32 [samples] each."""
    form = "give a list of one or more waveforms, each a list of samples of one channel, as [[0.1, -0.2]]"
    try:
        waveforms = [np.asarray(one, np.float32) for one in given]
    except (TypeError, ValueError):
        raise Refused.invalid_parameter_value(f"waveform: {form}") from None
    if not waveforms or any(one.ndim != 1 for one in waveforms):
        raise Refused.invalid_parameter_value(f"waveform: {form}")
    for number, one in enumerate(waveforms, 1):
        if not len(one):
            raise Refused.invalid_parameter_value(f"waveform {number} is empty")
        if not np.abs(one).max() <= LOUDEST:
            raise Refused.invalid_parameter_value(
                f"waveform {number} has samples that are NaN, infinite or beyond {LOUDEST:g}; full scale is 1"
            )
    return waveforms


def log_victim(run_id: str, folder: Path) -> str:
    """Log the checkpoint in ``folder`` as a model of a run, with this package's code; its URI."""
    # Not mlflow.pyfunc.log_model, which knows no run but the active one, and to make it that may end it.
    logged = Model.log(
        artifact_path=None,
        name="victim",
        flavor=mlflow.pyfunc,
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
