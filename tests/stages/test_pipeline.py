"""How the values of a preset reach the stages."""

import pytest

from advtrack.errors import InputError
from advtrack.stages import features, pipeline, train
from advtrack.stages.pipeline import Pipeline, settings


class Reached(BaseException):
    """The stage that is looked at was called."""


def options(overrides):
    return Pipeline("demo", overrides, "", "", 0, "cpu", "sqlite:///optuna.db", "work")


def test_repeats_are_a_value_of_presets_and_reach_training(store, monkeypatch):
    asked = []

    def training(given):
        asked.append(given.repeats)
        raise Reached

    monkeypatch.setattr(features, "run", lambda given: {"stft": "run", "dwt_tonnetz": "run"})
    monkeypatch.setattr(train, "run", training)
    for overrides in ("", "repeats=10"):
        with pytest.raises(Reached):
            pipeline.run(options(overrides), settings(options(overrides)))
    assert asked == [1, 10]
    with pytest.raises(InputError, match="repeats=many: 'many' is not a int"):
        settings(options("repeats=many"))


def test_a_value_that_is_overridden_twice_is_refused():
    with pytest.raises(InputError, match="--overrides epochs=6: epochs is given twice; give it once"):
        settings(options("epochs=5 folds=1 epochs=6"))
