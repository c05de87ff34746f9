"""The one exception for everything a user can put right, and what its messages are made of."""

import re


class InputError(Exception):
    """Bad input: a file, an option or a service that the user can change.

    The message is one line that names what is wrong and the way out. The command line prints it without a
    traceback, marks the MLflow run FAILED and exits with status 2.
    """


def reason(error: BaseException) -> str:
    """The first line of an error's text, for a message of our own; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(": ")


def redacted(text: str) -> str:
    """A text in which URLs show no passwords."""
    hidden = re.sub(r"(://[^:/@\s]*):[^@\s]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|passfile|sslpassword|passwd)=)[^&\s]*", r"\1***", hidden, flags=re.IGNORECASE)
