"""Prepare, train, evaluate, recommend and export; README.md says what for.

Exit code: 0 fine, 1 an error of the program, 2 bad input data, 3 the model lost to a
simple rival.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from urlm_helpers import figures
from urlm_helpers.data import Dataset, from_frames
from urlm_helpers.preprocessing import Prepared, prepare
from urlm_helpers.project import (
    BadInput,
    Blend,
    Judgement,
    check_classes,
    fingerprint,
    judge,
    read_settings,
    read_tables,
    report,
    summary,
)
from urlm_helpers.recommendation import candidates
from urlm_helpers.recommendation import recommend as rank

figures.set_up()  # before TensorFlow loads
HERE = Path(__file__).resolve().parent
OUTPUT = HERE / "output"
NETWORK, BLEND = OUTPUT / "network.keras", OUTPUT / "blend.json"
SETTINGS, TUNING = OUTPUT / "settings.json", OUTPUT / "tuning.csv"


def tables() -> Dataset:
    """Read the three files and hold them against schema.toml. Mend them here."""
    settings = read_settings(HERE)
    frames: dict[str, Any] = read_tables(settings)
    # for example: frames["interactions"] = frames["interactions"].drop_duplicates()
    try:
        data = from_frames(**frames, schema=settings.schema, card=settings.card)
        # a log of what happened alone: data, _ = draw_negatives(data, rate=0.01)
        return data
    except ValueError as error:
        raise BadInput(str(error)) from error


@functools.cache
def rows() -> Prepared:
    """Encode the rows and cut them into training, validation and test period."""
    settings = read_settings(HERE)
    try:
        prepared = prepare(tables(), **settings.cuts, **settings.prepare)
    except (TypeError, ValueError) as error:  # an unknown option, or a bad value
        raise BadInput(str(error)) from error
    check_classes(prepared)
    return prepared


def check() -> None:
    """Say what the data are."""
    prepared = rows()
    print(prepared.encoder.dataset.card)
    print(summary(prepared).to_string())


def train() -> None:
    """Search for settings on the validation period, and keep the best model."""
    from urlm_helpers.project import tune

    prepared = rows()
    tuned = tune(prepared, **read_settings(HERE).tune)
    print(tuned.log.to_string(index=False))
    OUTPUT.mkdir(exist_ok=True)
    tuned.network.save(NETWORK)
    BLEND.unlink(missing_ok=True)
    if isinstance(tuned.model, Blend):
        tuned.model.save(BLEND)
    settings = {**tuned.settings, "encoder": fingerprint(prepared)}
    SETTINGS.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    tuned.log.to_csv(TUNING, index=False)


def trained() -> tuple[Any, Any]:
    """Read the model that `train` wrote, and the network in it."""
    if not NETWORK.exists():
        raise BadInput("there is no model: run `python run.py train` first")
    if json.loads(SETTINGS.read_text("utf-8"))["encoder"] != fingerprint(rows()):
        raise BadInput(
            "the training period or schema.toml has changed since the training: run "
            "`python run.py train` again"
        )
    import keras

    network = keras.models.load_model(NETWORK)
    blended = BLEND.exists()
    return Blend.load(BLEND, network) if blended else network, network


def evaluate() -> Judgement:
    """Hold the model against simple rivals on the test period; write the report."""
    model, _ = trained()
    judgement = judge(model, rows())
    settings = json.loads(SETTINGS.read_text(encoding="utf-8"))
    path = report(
        OUTPUT / "report.html", judgement, rows(), settings, pd.read_csv(TUNING)
    )
    judgement.table.to_csv(OUTPUT / "judgement.csv", index=False)
    print("\n".join(judgement.verdict), f"report: {path}", sep="\n")
    return judgement


def recommend(users: list[str] | None = None, k: int = 10) -> pd.DataFrame:
    """Write the k best items of some users, by default of the ten latest ones."""
    model, _ = trained()
    encoder = rows().encoder
    log = encoder.dataset.interactions.sort_values("time", kind="stable")
    known = set(encoder.dataset.users["user"])
    if users and (unknown := sorted(set(users) - known)):
        raise BadInput(f"users {unknown} are not in the table of users")
    users = users or log["user"].iloc[::-1].drop_duplicates().head(10).tolist()
    schema = encoder.schema
    context = schema.features("context")
    asked = []
    for scenario, own in log.groupby("scenario", sort=False):
        # what schema.toml's catalog says, otherwise what this scenario has shown
        items = None if scenario in schema.catalog else own["item"].unique()
        last = {c: own[c].iloc[-1] for c in context}  # its latest context
        now = log["time"].iloc[-1] + pd.Timedelta("1s")
        asked.append(candidates(encoder, users, str(scenario), now, items, **last))
    table = rank(model, encoder, pd.concat(asked, ignore_index=True), k=k)
    table.to_csv(OUTPUT / "recommendations.csv", index=False)
    print(table.head(k).to_string(index=False))
    return table


def export() -> None:
    """Write the network for other programs, checked against its own scores."""
    from urlm_helpers.serving import export as write

    model, network = trained()
    prepared = rows()
    written = write(
        network, OUTPUT / "export", prepared.take(prepared.parts["train"][-2000:])
    )
    for name, path in written.files.items():
        print(f"{name}: {path}, differs by {written.difference[name]:.1e} at most")
    if model is not network:
        print("the export is the network alone; blend.json says what was added to it")


STEPS: dict[str, Callable[..., object]] = {
    "prepare": check,
    "train": train,
    "evaluate": evaluate,
    "recommend": recommend,
    "export": export,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a step, or all; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=[*STEPS, "all"])
    parser.add_argument("users", nargs="*", help="for recommend: whom")
    try:
        given = parser.parse_args(arguments)
    except SystemExit as stop:
        return 1 if stop.code else 0
    lost = False
    try:
        for name in STEPS if given.step == "all" else [given.step]:
            done = STEPS[name](given.users) if name == "recommend" else STEPS[name]()
            lost |= isinstance(done, Judgement) and done.lost
    except BadInput as error:
        print(f"bad input: {error}", file=sys.stderr)
        return 2
    return 3 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
