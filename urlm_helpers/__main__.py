"""``python -m urlm_helpers new FOLDER`` writes a project for a reader's own data."""

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 1 with a message where it can't be done."""
    parser = argparse.ArgumentParser(prog="python -m urlm_helpers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("new", help="write a project into a new folder")
    new.add_argument("folder")
    new.add_argument(
        "--example",
        action="store_true",
        help="with three small tables, so that it runs",
    )
    given = parser.parse_args(arguments)

    from urlm_helpers.project.scaffold import new as write  # --help needs no pandas

    try:
        paths = write(given.folder, example=given.example)
    except OSError as error:
        print(f"{given.folder}: {error.strerror}; nothing was changed", file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in paths))
    print(f"next: read {given.folder}/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
