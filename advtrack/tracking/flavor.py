"""A victim as an MLflow model that takes waveforms. MLflow runs this very file to serve it, so nothing is pickled."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature, set_model
from mlflow.pyfunc import PythonModel
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import advtrack
from advtrack.models import checkpoint
from advtrack.representations.image import ImageSettings, images

_REQUIREMENTS = ("mlflow", "torch", "torchvision", "safetensors", "librosa", "soxr", "numpy", "scipy")
_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1), "waveform")]),
    outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(DataType.double, "probability")]),
    params=ParamSchema([ParamSpec("sampling_rate", DataType.long, 44_100)]),
)


class AudioClassifier(PythonModel):
    """Waveforms in, the most probable class and its probability out, by the representation code of training."""

    #: The signature above says what goes in; MLflow would read it off type hints, and warn of those it cannot use.
    _skip_type_hint_validation = True

    def load_context(self, context: Any) -> None:
        """Read the checkpoint."""
        self.victim = checkpoint.load(Path(context.artifacts["checkpoint"]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify mono waveforms.

        Parameters
        ----------
        context : object
            MLflow's, unused.
        model_input : array_like, shape (N, samples), or {'waveform': such}
            Samples in [-1, 1].
        params : dict
            ``sampling_rate`` in Hz.

        Returns
        -------
        list of dict
            ``label`` and ``probability`` per waveform.
        """
        waveforms = model_input["waveform"] if isinstance(model_input, dict) else model_input
        rate = int((params or {})["sampling_rate"])
        description = self.victim.description
        settings, name = ImageSettings(**description.clip), description.representation
        inputs = [
            images(waveform, rate, [name], settings)[name][0]
            for waveform in np.atleast_2d(np.asarray(waveforms, np.float32))
        ]
        with torch.inference_mode():
            scores = self.victim.network(torch.from_numpy(np.stack(inputs))[:, None]).softmax(1)
        best = scores.max(1)
        return [
            {"label": description.classes[int(label)], "probability": float(probability)}
            for label, probability in zip(best.indices, best.values, strict=True)
        ]


def log_victim(run_id: str, folder: Path) -> str:
    """Log the checkpoint in ``folder`` as a model of a run; its URI."""
    with mlflow.start_run(run_id=run_id, nested=True):
        logged = mlflow.pyfunc.log_model(
            name="victim",
            python_model=__file__,
            artifacts={"checkpoint": str(folder)},
            code_paths=[str(Path(advtrack.__file__).parent)],
            pip_requirements=[f"{name}=={_version(name)}" for name in _REQUIREMENTS],
            signature=_SIGNATURE,
        )
    MlflowClient().update_run(run_id, status="RUNNING")  # leaving start_run has ended it, which is not ours to say
    return logged.model_uri


def _version(distribution: str) -> str:
    return version(distribution).split("+")[0]


set_model(AudioClassifier())
