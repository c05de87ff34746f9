"""What two searches say together of a victim's gradients, and how signs come back from the runs that looked."""

import math
from dataclasses import fields

import pytest

from advtrack.attacks.sign import Sign
from advtrack.stages.masking import black_box_sign, read_signs, write_signs
from advtrack.stages.sample_table import SampleRow
from advtrack.tracking import lookup, runs


def rows(**columns):
    """A table of three samples."""
    given = {"clip": "abc", "target_class": "ddd", "success": [True] * 3, **columns}
    each = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
    return [SampleRow(**{**dict.fromkeys(f.name for f in fields(SampleRow)), **values}) for values in each]


WHITE = rows(resisted_at=[0.2, 0.2, 0.0], fooled_at=[0.21, 0.22, 0.02])


@pytest.mark.parametrize(
    ("pia", "nearer", "median"),
    [
        ({"linf": [0.1, 0.3, 0.1]}, 1 / 3, 0.1),
        ({"linf": [0.1, 0.15, 0.12]}, 2 / 3, 0.12),
        # The bound itself was resisted, but whatever lies within it was not shown to be nearer.
        ({"linf": [0.2, 0.3, 0.1]}, 0, 0.2),
        ({"linf": [0.1, 0.1, 0.1], "success": [False, True, True]}, 1 / 3, 0.1),
        ({"linf": [0.1, 0.1, 0.1], "success": [False, False, True]}, 0, math.inf),
    ],
)
def test_a_black_box_is_nearer_where_the_white_box_is_known_to_have_failed(pia, nearer, median):
    sign = black_box_sign(WHITE, rows(**pia))
    measured = {"black_box_nearer": nearer, "pia_median_eps": median, "bim_a_median_eps": 0.21, "clips": 3}
    assert sign == Sign(nearer > 0.1, pytest.approx(measured))


def test_only_clips_with_the_same_target_are_held_against_each_other():
    assert black_box_sign(WHITE, rows(linf=[0.1, 0.1, 0.3], target_class="dee")).numbers["clips"] == 1
    assert black_box_sign(WHITE, rows(linf=[0.1, 0.1, 0.1], clip="xyz")) is None


def looked(signs):
    with runs.stage_run("attack", 1, {}, title="t", params={}, tags={}, force=True) as stage:
        write_signs(stage, signs)
    return lookup.get(stage.run_id)


def test_a_sign_stands_in_the_tags_of_its_run_beside_its_numbers_and_comes_back(store):
    signs = {
        "black_box_beats_white_box": Sign(False, {"black_box_nearer": 0.0, "pia_median_eps": math.inf, "clips": 4}),
        "unbounded_fails": Sign(True, {"unbounded": 0.95}),
    }
    run = looked(signs)
    assert lookup.prefixed_tags(run, "masking.") == {"black_box_beats_white_box": "False", "unbounded_fails": "True"}
    assert lookup.tag(run, "masking_numbers.unbounded_fails") == '{"unbounded": 0.95}'
    assert read_signs([run]) == signs


def test_of_several_looks_one_that_saw_the_sign_counts_and_else_the_last(store):
    first, second, third = (looked({"a": Sign(there, {"n": n})}) for n, there in enumerate([True, True, False]))
    assert read_signs([third, first, second]) == {"a": Sign(True, {"n": 1})}
    assert read_signs([looked({"a": Sign(False, {"n": 9})}), third]) == {"a": Sign(False, {"n": 9})}
