"""An option's value with exceptions by name: '12,pia=4' is 4 for pia and 12 for all others."""

from __future__ import annotations

from collections.abc import Collection

from advtrack.errors import InputError


def by_name(option: str, text: str, names: Collection[str]) -> dict[str, str]:
    """Parse such a value.

    Parameters
    ----------
    option : str
        Name of the option, for messages.
    text : str
        The value, as in 'imagenet,resnet56=none'. Without a common value, the exceptions are all there is.
    names : collection of str
        Names that may have exceptions.

    Returns
    -------
    dict of str to str
        Values by name; the common one under ''.

    Raises
    ------
    InputError
        An unknown name, or more than one common value.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            name, value = "", name
        if (name and name not in names) or name in values:
            known = ", ".join(names)
            raise InputError(f"--{option} {text}: give one value and exceptions as NAME=VALUE, NAME one of {known}")
        values[name] = value
    return values


def whole_number_for(option: str, text: str, name: str, names: Collection[str]) -> tuple[int, bool]:
    """The number of ``name`` in such a value, 0 if it has none, and whether it was given for this very name.

    Raises
    ------
    InputError
        One of the values, whosever it is, is not a whole number of at least 0.
    """
    values = by_name(option, text, names)
    for value in values.values():
        if not value.isdecimal():
            raise InputError(f"--{option} {text}: {value!r} is not a whole number of at least 0")
    return int(values.get(name, values.get("", "0"))), name in values
