"""How signs come back from the runs that looked."""

import math

from advtrack.attacks.sign import Sign
from advtrack.stages.masking import read_signs, write_signs
from advtrack.tracking import lookup, runs


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
