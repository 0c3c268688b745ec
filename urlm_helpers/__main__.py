"""What a command line asks for: a project for a reader's own data, or a service."""

import argparse
import logging
import sys
from pathlib import Path


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
    serve = commands.add_parser("serve", help="answer over HTTP with a model's folder")
    serve.add_argument("folder", help="float32.tflite, spec.json and encoder.npz")
    where = "file of the events, or redis://HOST:6379/0; default in the folder"
    serve.add_argument("--store", help=where)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    given = parser.parse_args(arguments)
    if given.command == "serve":
        return run(given)

    from urlm_helpers.project.scaffold import new as write  # --help needs no pandas

    try:
        paths = write(given.folder, example=given.example)
    except OSError as error:
        print(f"{given.folder}: {error.strerror}; nothing was changed", file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in paths))
    print(f"next: read {given.folder}/README.md")
    return 0


def run(given: argparse.Namespace) -> int:
    """Serve until the process is told to stop; SIGHUP reads the folder again."""
    from urlm_helpers.serving import StoreError, from_bundle

    logging.basicConfig(level=logging.INFO)
    store = given.store or Path(given.folder) / "events.db"
    try:
        service = from_bundle(
            given.folder, store=store, host=given.host, port=given.port
        )
        service.run()
    except (OSError, ValueError, StoreError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
