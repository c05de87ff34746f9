"""Options with exceptions by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advtrack.errors import InputError
from advtrack.stages.by_name import by_name, whole_number_for

NAMES = ("pia", "bim_a", "jsma")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imagenet", {"": "imagenet"}),
        ("12,pia=4", {"": "12", "pia": "4"}),
        (" 12 , pia = 4 ", {"": "12", "pia": "4"}),
        ("pia=4,12", {"": "12", "pia": "4"}),
        ("pia=4,jsma=5", {"pia": "4", "jsma": "5"}),
        ("pia=a=b", {"pia": "a=b"}),
        ("/some/file.pth,pia=none", {"": "/some/file.pth", "pia": "none"}),
    ],
)
def test_a_common_value_and_exceptions(text, expected):
    assert by_name("samples", text, NAMES) == expected


@pytest.mark.parametrize("text", ["12,nobody=4", "12,13", "pia=4,pia=5", "12,", "12,pia=4,12"])
def test_anything_else_names_option_value_and_names(text):
    with pytest.raises(InputError, match=f"--samples {text}: give one value") as caught:
        by_name("samples", text, NAMES)
    assert str(caught.value).endswith("NAME one of pia, bim_a, jsma")


@given(
    common=st.integers(0, 10**6),
    exceptions=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10**6)),
    order=st.randoms(use_true_random=False),
)
def test_numbers_are_those_of_the_name_or_the_common_one(common, exceptions, order):
    parts = [str(common), *(f"{name}={number}" for name, number in exceptions.items())]
    order.shuffle(parts)
    for name in NAMES:
        expected = (exceptions.get(name, common), name in exceptions)
        assert whole_number_for("samples", ",".join(parts), name, NAMES) == expected


def test_a_name_without_a_number_has_zero():
    assert whole_number_for("samples", "pia=4", "jsma", NAMES) == (0, False)


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "", "pia=", "1e3"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(InputError, match=f"--samples {text}: .* is not a whole number of at least 0"):
        whole_number_for("samples", text, "pia", NAMES)


@pytest.mark.parametrize("text", ["3,pia=many", "pia=", "3,pia=", "3,jsma=4,pia="])
def test_a_wrong_exception_is_told_whosever_turn_it_is(text):
    with pytest.raises(InputError, match=f"--samples {text}: .* is not a whole number of at least 0"):
        whole_number_for("samples", text, "jsma", NAMES)


def test_an_unknown_name_is_told_whosever_turn_it_is():
    with pytest.raises(InputError, match="nobody"):
        whole_number_for("samples", "3,nobody=4", "jsma", NAMES)
