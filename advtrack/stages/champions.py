"""The line of champions of a registered model: kept at the model itself, whatever becomes of the runs that move it."""

from __future__ import annotations

from collections.abc import Sequence

from advtrack.tracking import registry

# Tag of a registered model: the versions that were champion, each in the place of the one before it.
_LINE = "champions"


def line(name: str) -> list[str]:
    """Versions that have been champion, the present one last; none without a champion.

    A promotion puts its victim on record before it moves the alias, and a rollback moves the alias first. So after one
    that was stopped between the two the record has one version too many at its end. Of a champion that was made by
    hand nothing tells what it replaced.
    """
    champion = registry.by_alias(name, registry.CHAMPION)
    recorded = registry.model_tag(name, _LINE).split()
    if champion is None:
        return []
    for known in (recorded, recorded[:-1]):
        if known[-1:] == [champion.version]:
            return known
    return [champion.version]


def succeed(champion: registry.Registered) -> str:
    """Make a version champion after those of the line; the version that it replaced, or nothing."""
    predecessors = line(champion.name)
    own = [*predecessors, champion.version]
    _record(champion.name, own)
    registry.set_alias(champion, registry.CHAMPION)
    found = registry.model_tag(champion.name, _LINE).split()
    if found != own:
        # Another promotion has written its line over this one. Whichever moved the alias last, this one comes after it.
        predecessors = found
        _record(champion.name, [*predecessors, champion.version])
        registry.set_alias(champion, registry.CHAMPION)
    return predecessors[-1] if predecessors else ""


def return_to(champion: registry.Registered, remaining: Sequence[str]) -> None:
    """Make a version champion again, the last of those that remain in the line."""
    registry.set_alias(champion, registry.CHAMPION)
    _record(champion.name, remaining)


def _record(name: str, versions: Sequence[str]) -> None:
    registry.tag_model(name, {_LINE: " ".join(versions)})
