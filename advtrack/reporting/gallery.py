"""The gallery of the report: what six attacks do to the same clips, victim by victim, with the sound to it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from advtrack.reporting.examples import Example
from advtrack.reporting.figures.drawing import CALLED
from advtrack.reporting.figures.examples import amplification
from advtrack.reporting.records import VictimRecord
from advtrack.reporting.sound import Sound

# Ours: the side in pixels that pictures are reduced to, and how many of them keep the report small.
_SIDE = 128
_VICTIMS_TIMES_CLIPS = 24
_MOST_CLIPS = 3


@dataclass(frozen=True)
class Shown:
    """A victim, and by attack the examples that its runs keep; all attacks have those of the same clips."""

    victim: VictimRecord
    examples: Mapping[str, Sequence[Example]]

    def of(self, clip: str) -> dict[str, Example]:
        """What each attack does to a clip."""
        return {name: one for name, found in self.examples.items() for one in found if one.clip == clip}


def clips_of(shown: Sequence[Shown], dataset: str) -> list[str]:
    """The clips of a data set, those first that most victims name correctly before any attack."""
    named: dict[str, int] = {}
    for one in shown:
        if one.victim.dataset == dataset:
            for example in next(iter(one.examples.values()), ()):
                correct = example.predicted(adversarial=False)[0] == example.true_class
                named[example.clip] = named.get(example.clip, 0) + correct
    return sorted(named, key=lambda clip: (-named[clip], clip))


def gallery(shown: Sequence[Shown], sounds: Mapping[tuple[str, str], Sound]) -> str:
    """Write the gallery as a fragment of HTML.

    Parameters
    ----------
    shown : sequence of Shown
        Victims in order.
    sounds : mapping of (str, str) to Sound
        By data set and clip; a clip without one is not played.

    Returns
    -------
    str
        Headings of the third level and below. The more victims, the fewer clips.
    """
    parts = []
    for dataset in dict.fromkeys(one.victim.dataset for one in shown):
        victims = [one for one in shown if one.victim.dataset == dataset]
        count = min(_MOST_CLIPS, max(1, _VICTIMS_TIMES_CLIPS // len(victims)))
        parts += [_clip(clip, victims, sounds.get((dataset, clip))) for clip in clips_of(victims, dataset)[:count]]
    return "\n".join(parts) or "<p>No attack run keeps examples.</p>"


def _clip(clip: str, victims: Sequence[Shown], sound: Sound | None) -> str:
    dataset = victims[0].victim.dataset
    held = [(one, examples) for one in victims if (examples := one.of(clip))]
    true_class = next(iter(held[0][1].values())).true_class
    parts = [f"<h3>{escape(true_class)}: {escape(clip)} of {escape(dataset)}</h3>"]
    if sound:
        source = f"data:audio/mpeg;base64,{base64.b64encode(sound.mp3).decode()}"
        label = f"{escape(true_class)}, {escape(clip)}"
        parts.append(
            f'<audio controls preload="metadata" src="{source}" aria-label="{label}"></audio>\n'
            f'<p class="dim">{escape(sound.credit)}</p>'
        )
    for representation in dict.fromkeys(one.victim.representation for one, _ in held):
        those = [(one, examples) for one, examples in held if one.victim.representation == representation]
        x = next(iter(those[0][1].values())).x
        name = f"{escape(representation)}, {escape(true_class)}"
        parts.append(
            f"<h4>{escape(representation)}</h4>\n"
            f'<figure class="one">{_image(_coloured(x), f"Legitimate image, {name}")}'
            f"<figcaption>legitimate</figcaption></figure>"
        )
        parts += [_victim(one.victim, examples) for one, examples in those]
    return "\n".join(parts)


def _victim(victim: VictimRecord, examples: Mapping[str, Example]) -> str:
    """A row of cards, one for each attack, that is folded up."""
    first = next(iter(examples.values()))
    name = f"{victim.model}, {CALLED[victim.training]}"
    mistaken = "" if first.predicted(adversarial=False)[0] == first.true_class else ", which is wrong already"
    return (
        f"<details><summary><strong>{escape(name)}</strong>: fooled by {sum(e.fooled for e in examples.values())} of "
        f"{len(examples)} attacks at their budgets; without attack says {_said(first, False)}{mistaken}</summary>\n"
        f'<ul class="cards">{"".join(_card(attack, name, example) for attack, example in examples.items())}</ul>'
        "</details>"
    )


def _card(attack: str, name: str, example: Example) -> str:
    difference = example.difference.astype(float)
    factor = amplification(difference)
    aim = f", wanted {escape(example.target_class)}" if example.target_class else ""
    what = f"{attack} against {name}"
    return (
        f'<li><figure><div class="pair">{_image(_coloured(example.x_adv), f"Adversarial image, {what}")}'
        f"{_image(_grey(factor * difference), f'Difference, {what}')}</div>"
        f"<figcaption><strong>{escape(attack)}</strong>: {_said(example, True)}{aim}. "
        f"{'Fooled' if example.fooled else 'Resists'}. Difference x {factor:g}.</figcaption></figure></li>"
    )


def _said(example: Example, adversarial: bool) -> str:
    label, probability = example.predicted(adversarial)
    return f"{escape(label)} (p = {probability:.2f})"


def _image(pixels: NDArray[np.uint8], alt: str) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "webp", quality=70)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f'<img alt="{escape(alt)}" width="{_SIDE}" height="{_SIDE}" src="{source}">'


def _coloured(image: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The colours that the figures have, the lowest frequency at the bottom."""
    from matplotlib import colormaps

    colours: NDArray[np.uint8] = colormaps["magma"](_reduced(image)[::-1].astype(float), bytes=True)
    return colours[..., :3]


def _grey(difference: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.round(127.5 * (1 + np.clip(_reduced(difference)[::-1], -1, 1))).astype(np.uint8)


def _reduced(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Of each block of pixels the one farthest from 0, so that single changed values do not vanish."""
    rows, columns = (-(-side // _SIDE) for side in image.shape)
    padded = np.pad(image, ((0, -image.shape[0] % rows), (0, -image.shape[1] % columns)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns).swapaxes(1, 2)
    flat = blocks.reshape(*blocks.shape[:2], -1)
    return np.take_along_axis(flat, np.abs(flat).argmax(-1)[..., None], -1)[..., 0]
