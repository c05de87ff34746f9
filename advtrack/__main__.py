"""``python -m advtrack``."""

from advtrack.cli import cli


def main() -> None:
    """Run the command line."""
    cli(prog_name="advtrack")


if __name__ == "__main__":
    main()
