"""What messages show of addresses."""

import pytest

from advtrack.errors import redacted


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("mysql://me:sec/ret@host/db", "mysql://me:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?password=secret&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
        ("postgresql://host/db?sslpassword=secret", "postgresql://host/db?sslpassword=***"),
        ("sqlite:///folder/optuna.db", "sqlite:///folder/optuna.db"),
        ("http://host:5000/path, mail me@host", "http://host:5000/path, mail me@host"),
    ],
)
def test_no_address_is_shown_with_its_password(address, shown):
    assert redacted(address) == shown
    assert redacted(f"nothing at {address} answers") == f"nothing at {shown} answers"
