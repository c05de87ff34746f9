"""Ten classes of generated sounds, written as WAV files in the ESC-50 layout: the embedded default data set.

Each class is a small model of how such a sound comes about, whose pitch, tempo and colour differ from recording to
recording. Two clips are cut from each recording; they differ in timing, gain, background noise and in what else is
heard. That keeps a classifier well above chance and below 100%.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from advtrack.data import esc50
from advtrack.data.clip import Dataset
from advtrack.errors import InputError

VERSION = 1  # raised when the sounds change
RATE = 22_050  # Hz
SECONDS = 5
RECORDINGS = 6  # per class
TAKES = 2  # clips per recording

_N = RATE * SECONDS
_TIME = np.arange(_N) / RATE

Sound = Callable[[np.random.Generator, np.random.Generator], np.ndarray]  # (recording, take) -> float [_N]


def _noise(rng: np.random.Generator, low: float, high: float, slope: float = 0.0, n: int = _N) -> np.ndarray:
    """Noise between two frequencies in Hz, amplitude proportional to f ** slope, root mean square 1."""
    frequency = np.fft.rfftfreq(n, 1 / RATE)
    gain = np.zeros(len(frequency))
    band = (frequency >= low) & (frequency <= high)
    gain[band] = frequency[band] ** slope
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * gain, n)
    return noise / max(noise.std(), 1e-9)


def _harmonics(pitch: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Sum of the harmonics 1, 2, ... of a pitch contour in Hz, each silent where it passes Nyquist."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    return sum(
        gain * np.sin(k * phase) * (k * pitch < RATE / 2) for k, gain in enumerate(gains, start=1)
    ) + np.zeros_like(pitch)


def _events(times: np.ndarray, event: Callable[[int], np.ndarray]) -> np.ndarray:
    """Put the i-th event's sound at the i-th time in seconds."""
    clip = np.zeros(_N)
    for i, start in enumerate((times * RATE).astype(int)):
        if 0 <= start < _N:
            sound = event(i)[: _N - start]
            clip[start : start + len(sound)] += sound
    return clip


def _steps(take: np.random.Generator, interval: float, jitter: float) -> np.ndarray:
    """Times of a regular event with a random start, in seconds."""
    times = np.arange(take.uniform(0, interval), SECONDS, interval)
    return times + take.normal(0, jitter * interval, len(times))


def _decaying(duration: float, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Time axis of a short event and its exponential envelope with a 1 ms attack."""
    t = np.arange(int(duration * RATE)) / RATE
    return t, np.exp(-t / decay) * np.minimum(t / 0.001, 1)


def _siren(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    low, ratio, tempo = recording.uniform(400, 800), recording.uniform(1.4, 2.2), recording.uniform(0.2, 3)
    sweep = 0.5 + 0.5 * np.sin(2 * np.pi * (tempo * _TIME + take.random()))
    if recording.random() < 0.4:
        sweep = (sweep > 0.5).astype(float)  # two tones rather than a wail
    return _harmonics(low * ratio**sweep, 1.0 / np.arange(1, 6) ** recording.uniform(0.8, 2))


def _dog_bark(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitch, length, interval = recording.uniform(250, 700), recording.uniform(0.1, 0.25), recording.uniform(0.4, 1.2)

    def bark(_: int) -> np.ndarray:
        t = np.arange(int(length * take.uniform(0.8, 1.2) * RATE)) / RATE
        arch = np.sin(np.pi * t / t[-1])
        voice = _harmonics(pitch * take.uniform(0.9, 1.1) * (0.7 + 0.5 * arch), 1.0 / np.arange(1, 13) ** 0.7)
        return arch * (voice + 0.7 * _noise(take, 400, 4000, -0.3, len(t)))

    return _events(_steps(take, interval, 0.2), bark)


def _rain(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    drops, decay = recording.integers(100, 500), recording.uniform(0.001, 0.004)
    hiss = _noise(take, recording.uniform(300, 1500), 10_500, recording.uniform(-0.5, 0.0))
    t, envelope = _decaying(0.02, decay)
    pitches = take.uniform(1500, 8000, drops)
    patter = _events(
        take.uniform(0, SECONDS, drops),
        lambda i: 8 * take.random() ** 3 * envelope * np.sin(2 * np.pi * pitches[i] * t),
    )
    return hiss + recording.uniform(0.3, 1.5) * patter


def _engine(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    firing, drift = recording.uniform(25, 90), recording.uniform(0.01, 0.15)
    pitch = firing * (1 + drift * np.sin(2 * np.pi * (recording.uniform(0.1, 0.6) * _TIME + take.random())))
    hum = _harmonics(pitch, recording.uniform(0.3, 1, 25) / np.arange(1, 26) ** recording.uniform(0.5, 1))
    return hum + recording.uniform(0.2, 0.8) * _noise(take, 40, 3000, -0.6)


def _clock_tick(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitches = recording.uniform(1500, 6000, 3)
    t, envelope = _decaying(0.06, recording.uniform(0.004, 0.015))
    tick = envelope * np.sin(2 * np.pi * pitches[:, None] * t).sum(axis=0)
    tock = envelope * np.sin(2 * np.pi * 0.8 * pitches[:, None] * t).sum(axis=0)
    interval = float(recording.choice([0.2, 0.25, 0.5, 1.0]))
    return _events(_steps(take, interval, 0.005), lambda i: take.uniform(0.8, 1) * (tick if i % 2 else tock))


def _wind(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    gusts = np.interp(_TIME, np.linspace(0, SECONDS, 12), take.random(12) ** recording.uniform(0.5, 2))
    howl = recording.uniform(200, 700)
    whistle = _noise(take, howl * 0.9, howl * 1.1)
    return (0.2 + gusts) * (
        _noise(take, 20, 2500, recording.uniform(-1.2, -0.6)) + recording.random() * gusts * whistle
    )


def _bell(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    strike = recording.uniform(200, 900)
    partials = np.array([0.5, 1, 1.2, 1.5, 2, 2.67, 3.0, 4.1]) * recording.uniform(0.98, 1.02, 8)
    gains = recording.uniform(0.3, 1, 8)
    t = np.arange(2 * RATE) / RATE
    decay = recording.uniform(0.5, 1.5) / np.sqrt(partials)[:, None]
    ring = (gains[:, None] * np.exp(-t / decay) * np.sin(2 * np.pi * strike * partials[:, None] * t)).sum(axis=0)
    return _events(_steps(take, recording.uniform(0.8, 2.5), 0.03), lambda _: take.uniform(0.6, 1) * ring)


def _bird_chirp(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitch, bend, length = recording.uniform(2000, 6000), recording.uniform(-0.5, 0.5), recording.uniform(0.04, 0.15)
    trill, depth = recording.uniform(15, 50), recording.uniform(0, 0.15)

    def chirp(_: int) -> np.ndarray:
        t = np.arange(int(length * RATE)) / RATE
        contour = pitch * take.uniform(0.9, 1.1) * (1 + bend * t / length + depth * np.sin(2 * np.pi * trill * t))
        return take.uniform(0.4, 1) * np.sin(np.pi * t / length) * _harmonics(contour, np.array([1, 0.2]))

    phrase = np.arange(recording.integers(2, 6)) * length * recording.uniform(1.2, 2)
    times = (_steps(take, recording.uniform(0.8, 2), 0.15)[:, None] + phrase).ravel()
    return _events(times, chirp)


def _footsteps(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    low, high = recording.uniform(60, 200), recording.uniform(800, 4000)
    t, thud = _decaying(0.18, recording.uniform(0.015, 0.05))
    _, scrape = _decaying(0.18, 0.02)
    sole_gain = recording.uniform(0.2, 0.8)

    def step(_: int) -> np.ndarray:
        heel = thud * _noise(take, low, 4 * low, -0.5, len(t))
        sole = np.roll(scrape * _noise(take, 400, high, -0.3, len(t)), int(0.03 * RATE))
        return take.uniform(0.6, 1) * (heel + sole_gain * sole)

    return _events(_steps(take, recording.uniform(0.35, 0.8), 0.06), step)


def _water_drops(recording: np.random.Generator, take: np.random.Generator) -> np.ndarray:
    pitch, rise, decay = recording.uniform(600, 2500), recording.uniform(2, 12), recording.uniform(0.01, 0.05)

    def drop(_: int) -> np.ndarray:
        t, envelope = _decaying(0.2, decay)
        contour = pitch * take.uniform(0.8, 1.25) * (1 + rise * t)
        return take.uniform(0.4, 1) * envelope * _harmonics(contour, np.array([1.0]))

    return _events(_steps(take, recording.uniform(0.15, 0.9), 0.3), drop)


SOUNDS: dict[str, Sound] = {
    "siren": _siren,
    "dog_bark": _dog_bark,
    "rain": _rain,
    "engine": _engine,
    "clock_tick": _clock_tick,
    "wind": _wind,
    "church_bell": _bell,
    "bird_chirp": _bird_chirp,
    "footsteps": _footsteps,
    "water_drops": _water_drops,
}


def _clip(seed: int, label: int, recording: int, take: int) -> np.ndarray:
    """One clip, float [_N] with a peak below 1; clips of a recording share its parameters."""
    sounds = list(SOUNDS.values())
    rng = np.random.default_rng([seed, label, recording, take])
    clip = sounds[label](np.random.default_rng([seed, label, recording]), rng)
    clip = clip / clip.std()
    if rng.random() < 0.4:  # another class, more quietly, as in a street
        other = sounds[(label + int(rng.integers(1, len(sounds)))) % len(sounds)](rng, rng)
        clip = clip + 10 ** (rng.uniform(-20, -4) / 20) * other / max(other.std(), 1e-9)
    background = _noise(rng, 20, 10_500, rng.uniform(-1, 0))
    clip = clip + 10 ** (-rng.uniform(0, 25) / 20) * background  # signal-to-noise ratio of 0 to 25 dB
    return clip / np.abs(clip).max() * 10 ** (rng.uniform(-12, -0.5) / 20)


def generate(folder: Path | str, seed: int = 0) -> Path:
    """Write the data set, unless it is there: 120 clips of 5 s, mono, 16 bit, 22.05 kHz, ten classes, five folds.

    Parameters
    ----------
    folder
        Where it goes; it appears there as a whole or not at all.
    seed
        Decides every sample; the same seed gives the same bytes.

    Returns
    -------
    folder
        The same, as a path.

    Raises
    ------
    InputError
        If the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    made_by = {"synthetic": VERSION, "seed": seed}
    if _holds(folder, made_by):
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} exists and is not the synthetic data set of seed {seed}: delete it or choose another folder"
        )
    unfinished = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        unfinished.chmod(0o755)  # mkdtemp's folders are for their owner alone
        _write(unfinished, seed)
        (unfinished / "meta" / "synthetic.json").write_text(json.dumps(made_by))
        unfinished.rename(folder)
    except OSError as error:
        if not _holds(folder, made_by):  # else another process has just finished the same
            raise InputError(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    finally:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _holds(folder: Path, made_by: dict[str, int]) -> bool:
    try:
        return bool(json.loads((folder / "meta" / "synthetic.json").read_text()) == made_by)
    except (OSError, ValueError):
        return False


def _write(folder: Path, seed: int) -> None:
    (folder / "audio").mkdir()
    (folder / "meta").mkdir()
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for label, category in enumerate(SOUNDS):
            for recording in range(RECORDINGS):
                # Shifted from class to class, so that the extra recordings spread over the folds.
                fold = (recording + label) % 5 + 1
                source = f"{label:02d}{recording:02d}"
                for take in range(TAKES):
                    name = f"{fold}-{source}-{'AB'[take]}-{label}.wav"
                    soundfile.write(folder / "audio" / name, _clip(seed, label, recording, take), RATE, "PCM_16")
                    table.writerow([name, fold, label, category, False, source, "AB"[take]])


def load(folder: Path | str) -> Dataset:
    """Read the clips of a folder that `generate` has written.

    Raises
    ------
    InputError
        If it holds other clips, or as in `advtrack.data.esc50.load`.
    """
    if not (Path(folder) / "meta" / "synthetic.json").exists():
        raise InputError(f"--data-dir {folder}: not the generated data set; name yours, as --dataset esc50")
    return esc50.load(folder, name="synthetic")
