"""The program: `python -m mirror`, and the `mirror` script.

Imported on every start, `mirror --help` included: see `mirror.cli` for what it may import.
"""

from __future__ import annotations

from mirror.cli import command_line
from mirror.cli.stdout import reported_output_failures


def main() -> None:
    """Run the command that the arguments name."""
    with reported_output_failures():
        command_line(prog_name="mirror")


if __name__ == "__main__":
    main()
