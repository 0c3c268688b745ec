"""Write a reader's project: a schema, one script, one notebook, one page to read."""

from importlib import resources
from pathlib import Path

import numpy as np

from urlm_helpers.world import World


def new(folder: str | Path, *, example: bool = False) -> list[Path]:
    """Write a project into a new folder.

    Parameters
    ----------
    folder : path
        Must not exist.
    example : bool
        Also write three small tables of a simulated shop, with which it runs.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    FileExistsError
        The folder exists: nothing in it is touched.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    (folder / "data").mkdir()
    paths = []
    for source in (resources.files(__package__) / "template").iterdir():
        if source.is_file() and not source.name.startswith("_"):
            paths.append(folder / source.name)
            paths[-1].write_text(source.read_text("utf-8"), encoding="utf-8")
    if example:
        paths += write_example(folder / "data")
    return sorted(paths)


def write_example(folder: Path, rows: int = 20_000) -> list[Path]:
    """Write the log of a simulated app as the three files of a small shop."""
    app = World(seed=7, users=500, items=150, user_features=3).dataset(rows)
    log = app.interactions[
        ["user", "item", "scenario", "time", "click", "buy", "query"]
    ]
    ids = {"user": "u{:04d}".format, "item": "{:05d}".format}
    u, i = app.users, app.items
    users = u[["user"]].assign(
        age=np.clip(40 + 12 * u["u0"], 18, 90).round(),
        spend=(400 * np.exp(0.9 * u["u1"])).round(2),
    )
    items = i[["item", "category"]].assign(
        name=i["category"] + " no. " + i["item"].astype(str),
        price=(30 * np.exp(i["i0"])).round(2),
        rating=np.clip(3 + i["rating"], 1, 5).round(1),
    )
    paths = []
    for name, table in {"interactions": log, "users": users, "items": items}.items():
        shown = {c: table[c].map(ids[c]) for c in ids if c in table}
        paths.append(folder / f"{name}.csv")
        table.assign(**shown).to_csv(paths[-1], index=False)
    return paths
