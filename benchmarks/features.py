"""Representations against plain librosa and PyWavelets loops, on the same clips, in the same run.

    python benchmarks/features.py --data-dir path/to/ESC-50

Prints tables and writes the figures as JSON. Calls of ours and of the peers alternate; a figure is the median over
clips and repeats. ``--pool-clips`` says how many clips are extracted with their pitch-shifted copies (the whole of
ESC-10 has 400), ``--victim`` (a checkpoint folder) measures what the stored precision does to a trained network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import librosa
import numpy as np
import pywt
from threadpoolctl import threadpool_limits

from advtrack import data
from advtrack.data import clip
from advtrack.data.clip import Dataset
from advtrack.representations import REPRESENTATIONS, morlet, stft, tonnetz
from advtrack.representations.extract import extract
from advtrack.representations.image import ImageSettings, fit, images, resize, to_unit
from advtrack.representations.pitch_shift import pitch_shift


def timed(seconds: list[float], function: Callable[..., object], *arguments: Any) -> None:
    """Call, and note how long it took."""
    start = perf_counter()
    function(*arguments)
    seconds.append(perf_counter() - start)


def at(path: Path, rate: int, duration: float) -> np.ndarray:
    """A clip at a rate, as long as its data set's."""
    waveform, own = clip.decode(path)
    return fit(librosa.resample(waveform, orig_sr=own, target_sr=rate, res_type="soxr_hq"), rate, duration)


def pywt_scalogram(waveform: np.ndarray, rate: int, rows: int, columns: int) -> np.ndarray:
    """PyWavelets' transform at the full rate, pooled to the same image."""
    coefficients, _ = pywt.cwt(waveform, rate / morlet.frequencies(rate, rows), "cmor1.5-1.0", method="fft")
    edges = np.linspace(0, len(waveform), columns + 1).astype(int)
    return np.add.reduceat(np.abs(coefficients) ** 2, edges[:-1], axis=1) / np.diff(edges)


def plain_loop(path: Path, settings: ImageSettings) -> list[np.ndarray]:
    """The four images as a script would make them: each from the file, with librosa and PyWavelets alone."""
    found = []
    for representation in REPRESENTATIONS:
        if representation.startswith("stft"):
            waveform, _ = librosa.load(path, sr=stft.RATE)
            power = np.abs(librosa.stft(fit(waveform, stft.RATE, settings.duration), n_fft=2048, hop_length=512)) ** 2
            image = resize(to_unit(power, settings)[0], settings.height, settings.width)
        else:
            waveform, _ = librosa.load(path, sr=settings.wavelet_rate)
            waveform = fit(waveform, settings.wavelet_rate, settings.duration)
            power = pywt_scalogram(waveform, settings.wavelet_rate, settings.height, settings.width)
            image = to_unit(power, settings)[0]
        if representation.endswith("_tonnetz"):
            waveform, _ = librosa.load(path, sr=tonnetz.RATE)
            centroids = tonnetz.tonnetz(fit(waveform, tonnetz.RATE, settings.duration))
            image = np.concatenate([image, resize(centroids, settings.height // 4, settings.width)])
        found.append(image)
    return found


def scalograms(paths: list[Path], settings: ImageSettings, repeats: int) -> dict[str, float]:
    """768 scales pooled to 224 columns, and 2,048 points of each: ours against PyWavelets."""
    rows, columns, points = 768, 224, 2048
    seconds: dict[str, list[float]] = {"pooled": [], "points": [], "pywt": []}
    for path in paths:
        waveform = at(path, settings.wavelet_rate, settings.duration)
        arguments = waveform, settings.wavelet_rate, rows
        morlet.scalogram(*arguments, columns), morlet.point_scalogram(*arguments, points)  # plans are made once
        for _ in range(repeats):
            timed(seconds["pooled"], morlet.scalogram, *arguments, columns)
            timed(seconds["points"], morlet.point_scalogram, *arguments, points)
        timed(seconds["pywt"], pywt_scalogram, *arguments, columns)
    found = {f"{name}_ms": 1000 * median(values) for name, values in seconds.items()}
    return found | {
        "pooled_speed_up": found["pywt_ms"] / found["pooled_ms"],
        "points_speed_up": found["pywt_ms"] / found["points_ms"],
    }


def stages(paths: list[Path], settings: ImageSettings, repeats: int) -> dict[str, float]:
    """Milliseconds of each step for one clip; STFT, tonnetz and pitch shift are librosa's own."""
    seconds: dict[str, list[float]] = {}
    for path in paths:
        waveform, rate = clip.decode(path)
        low = at(path, stft.RATE, settings.duration)
        wavelet = at(path, settings.wavelet_rate, settings.duration)
        resample = partial(librosa.resample, orig_sr=rate, target_sr=stft.RATE, res_type="soxr_hq")
        steps: dict[str, tuple[Any, ...]] = {
            "decode": (clip.decode, path),
            "resample": (resample, waveform),
            "stft": (stft.stft_power, low),
            "tonnetz": (tonnetz.tonnetz, low),
            "scalogram": (morlet.scalogram, wavelet, settings.wavelet_rate, settings.height, settings.width),
            "pitch_shift": (pitch_shift, low, stft.RATE, 1.15),
            "plain_decode_and_resample": (partial(librosa.load, sr=stft.RATE), path),
            "plain_scalogram": (pywt_scalogram, wavelet, settings.wavelet_rate, settings.height, settings.width),
        }
        for name, step in steps.items():
            function, *given = step
            function(*given)  # the first call compiles
            for _ in range(repeats):
                timed(seconds.setdefault(f"{name}_ms", []), function, *given)
    return {name: 1000 * median(values) for name, values in seconds.items()}


def our_pass(path: Path, settings: ImageSettings) -> None:
    """The four images as the platform makes them."""
    images(*clip.decode(path), REPRESENTATIONS, settings)


def one_pass(paths: list[Path], settings: ImageSettings) -> dict[str, float]:
    """All four images of a clip: ours against the plain loop."""
    ours: list[float] = []
    plain: list[float] = []
    for path in paths:
        timed(ours, our_pass, path, settings)
        timed(plain, plain_loop, path, settings)
    return {"ours_ms": 1000 * median(ours), "plain_ms": 1000 * median(plain), "speed_up": median(plain) / median(ours)}


def extraction(dataset: Dataset, settings: ImageSettings, workers: int, augment: bool) -> tuple[float, dict[str, Any]]:
    """Seconds that the four stores take, and how large they are."""
    with tempfile.TemporaryDirectory() as root:
        start = perf_counter()
        clip.unusable(dataset)  # the stage checks every clip beforehand
        checksums = clip.checksums(dataset)
        stores = extract(
            dataset, REPRESENTATIONS, root, settings, decode=clip.decode, checksums=checksums,
            data_digest=clip.digest(dataset, checksums), augment=augment, workers=workers,
        )  # fmt: skip
        taken = perf_counter() - start
        size = {
            name: sum(file.stat().st_size for file in store.path.glob("*.npy")) / len(store)
            for name, store in stores.items()
        }
    return taken, {"bytes_per_image": size}


def workers(dataset: Dataset, settings: ImageSettings, clips: int) -> dict[str, Any]:
    """Extraction in this process and with a worker per core; the gain with and without the workers' start."""
    cores = len(os.sched_getaffinity(0))
    few, many = (replace(dataset, clips=dataset.clips[:n]) for n in (2 * cores, clips))
    begun, seconds = {}, {}
    for n in (1, cores):
        begun[n], _ = extraction(few, settings, n, augment=True)
        seconds[n], size = extraction(many, settings, n, augment=True)
    return {
        "cores": cores,
        "images_of_each": 5 * len(many.clips),
        "one_worker_s": seconds[1],
        "all_cores_s": seconds[cores],
        "gain": seconds[1] / seconds[cores],
        "gain_without_start": (seconds[1] - begun[1]) / (seconds[cores] - begun[cores]),
        **size,
    }


def precision(dataset: Dataset, folder: Path) -> dict[str, Any]:
    """What storing half floats or bytes instead of floats does to a victim's predictions, over all clips."""
    import torch  # here: worker processes import this file, and need neither

    from advtrack.models import checkpoint

    victim = checkpoint.load(folder)
    settings, name = ImageSettings(**victim.description.clip), victim.description.representation
    exact = np.stack([images(*clip.decode(one.path), [name], settings)[name][0] for one in dataset.clips])
    labels = np.array([one.label for one in dataset.clips])
    kinds = {
        "float32": exact,
        "float16": exact.astype(np.float16).astype(np.float32),
        "uint8": np.round(255 * exact).astype(np.uint8).astype(np.float32) / 255,
    }
    found: dict[str, Any] = {}
    predicted = {}
    for kind, inputs in kinds.items():
        with torch.inference_mode():
            parts = [victim.network(part[:, None]).softmax(1) for part in torch.from_numpy(inputs).split(64)]
        scores = torch.cat(parts).numpy()
        predicted[kind] = scores
        found[kind] = {
            "bytes_per_value": {"float32": 4, "float16": 2, "uint8": 1}[kind],
            "largest_error": float(np.abs(inputs - exact).max()),
            "accuracy": float((scores.argmax(1) == labels).mean()),
            "predictions_changed": int((scores.argmax(1) != predicted["float32"].argmax(1)).sum()),
            "largest_probability_change": float(np.abs(scores - predicted["float32"]).max()),
        }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="a folder in the ESC-50 layout")
    parser.add_argument("--clips", type=int, default=5, help="clips for the timings of single steps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pool-clips", type=int, default=100, help="clips extracted by one worker and by several")
    parser.add_argument("--victim", type=Path, help="a checkpoint folder, to measure the stored precision on")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/features.json"))
    arguments = parser.parse_args()

    dataset = data.load("esc50", arguments.data_dir)
    settings = ImageSettings(224, 224, dataset.duration, dataset.wavelet_rate)
    step = max(1, len(dataset.clips) // arguments.clips)
    paths = [one.path for one in dataset.clips[::step]][: arguments.clips]
    found: dict[str, Any] = {"machine": {"cores": os.cpu_count(), "processor": platform.machine()}}
    found["settings"] = asdict(settings)
    with threadpool_limits(1):
        found["scalogram_768"] = scalograms(paths, settings, arguments.repeats)
        found["steps"] = stages(paths, settings, arguments.repeats)
        found["one_pass_224"] = one_pass(paths, settings)
    found["workers"] = workers(dataset, settings, arguments.pool_clips)
    if arguments.victim:
        found["precision"] = precision(dataset, arguments.victim)
    for title, values in found.items():
        print(f"\n{title}")
        for name, value in values.items():
            print(f"  {name:28} {value:.4g}" if isinstance(value, float) else f"  {name:28} {value}")
    arguments.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
