"""The paper's six attacks, and FGSM. ``ATTACKS[name]`` is an ART evasion attack class, imported when asked for."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advtrack.attacks.base import Attack

_CLASSES = {
    "bim_a": "advtrack.attacks.bim:BIMa",
    "bim_b": "advtrack.attacks.bim:BIMb",
    "jsma": "advtrack.attacks.jsma:JSMA",
    "deepfool": "advtrack.attacks.deepfool:DeepFool",
    "carlini_wagner": "advtrack.attacks.carlini_wagner:CarliniWagner",
    "pia": "advtrack.attacks.pia:PIA",
    "fgsm": "advtrack.attacks.fgsm:FGSM",
}

#: The attacks that strike victims in the paper's tables, in the paper's order. FGSM only trains.
TABLE_ATTACKS = ("bim_a", "bim_b", "jsma", "deepfool", "carlini_wagner", "pia")


class _Attacks(Mapping[str, "type[Attack]"]):
    """Names are known without torch and ART; a class is imported on first access."""

    def __getitem__(self, name: str) -> "type[Attack]":
        module, _, attribute = _CLASSES[name].partition(":")
        return getattr(import_module(module), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


ATTACKS: Mapping[str, "type[Attack]"] = _Attacks()
