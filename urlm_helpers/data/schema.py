"""One data shape for every log: three tables and a schema that names their columns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd


class SchemaError(ValueError):
    """The tables and the schema do not fit together, or the schema is not sound."""


RESERVED = ("user", "item", "scenario", "time")
RESERVED_CONTEXT = ("encoder", "users", "items")
"""Arguments of `urlm_helpers.recommendation.candidates`, as the context columns are."""

TIME_UNITS = {"s": 1, "D": 86_400}
"""What a whole number in `time` may count, in seconds."""

SIDES = ("user", "item", "context")
KINDS = ("categorical", "numeric")
COLUMN_FIELDS = ("tasks", *(f"{side}_{kind}" for side in SIDES for kind in KINDS))


@dataclass(frozen=True)
class Schema:
    """Which columns are what, which tasks exist, and which task needs which.

    Parameters
    ----------
    scenarios : tuple of str
        The values that the column `scenario` may have.
    tasks : tuple of str
        0/1 columns of the interactions, parents before children.
    funnel : mapping of str to str
        Task to the task that it needs: ``{"buy": "click"}``.
    user_categorical, user_numeric : tuple of str
        Feature columns of the users.
    item_categorical, item_numeric : tuple of str
        Feature columns of the items.
    context_categorical, context_numeric : tuple of str
        Feature columns of the interactions, known before the outcome.
    item_name : str, optional
        Column of the items to show to people.
    catalog : mapping of str to str
        Scenario to the 0/1 column of the items that says which of them it can show:
        ``{"men": "for_men"}``. A scenario that isn't named shows all items.
    consumed_again : bool
        Groceries are bought again, books are not.
    negative_rate : float
        Share, in (0, 1], of the rows with no event at all that the log keeps.
    timed : bool
        False when the log has no column `time`. Such a log can be described, not
        prepared: if it has at least an order (terms, rounds), number its steps in a
        column `time` and set ``time_unit="D"``.
    time_unit : str, optional
        What a whole number counts, in `time` or as a cut: "s", seconds since 1970, or
        "D", days or steps: a look-back of the last 7 days then counts the last 7
        steps. Not set, whole numbers are seconds, and those within a year of 1970 are
        refused: they are no times.

    Raises
    ------
    SchemaError
        A name is used twice or reserved, a funnel's parent is missing or comes
        after its child, or `negative_rate` lies outside (0, 1].

    Examples
    --------
    >>> Schema(("home",), ("click", "buy"), funnel={"buy": "click"}).tasks
    ('click', 'buy')
    >>> Schema(("home",), ("buy", "click"), funnel={"buy": "click"})
    Traceback (most recent call last):
        ...
    urlm_helpers.data.schema.SchemaError: funnel: 'buy' needs 'click', so 'click' must \
come before 'buy' in tasks; tasks are ('buy', 'click')
    """

    scenarios: tuple[str, ...]
    tasks: tuple[str, ...]
    funnel: Mapping[str, str] = field(default_factory=dict)
    user_categorical: tuple[str, ...] = ()
    user_numeric: tuple[str, ...] = ()
    item_categorical: tuple[str, ...] = ()
    item_numeric: tuple[str, ...] = ()
    context_categorical: tuple[str, ...] = ()
    context_numeric: tuple[str, ...] = ()
    item_name: str | None = None
    catalog: Mapping[str, str] = field(default_factory=dict)
    consumed_again: bool = False
    negative_rate: float = 1.0
    timed: bool = True
    time_unit: str | None = None

    def __post_init__(self) -> None:
        for name in ("scenarios", *COLUMN_FIELDS):
            value = getattr(self, name)
            if isinstance(value, str) or not all(isinstance(v, str) for v in value):
                raise SchemaError(f"{name} must be a tuple of names, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        columns = [column for name in COLUMN_FIELDS for column in getattr(self, name)]
        for name in ("scenarios", "tasks"):
            if not getattr(self, name):
                raise SchemaError(f"{name} is empty: name at least one")
        for names in (self.scenarios, columns):
            twice = sorted({n for n in names if names.count(n) > 1})
            if twice:
                raise SchemaError(
                    f"{twice} stand more than once in the schema: every scenario, task "
                    "and feature column needs a name of its own"
                )
        if reserved := [c for c in columns if c in RESERVED]:
            raise SchemaError(
                f"{reserved} can be neither a task nor a feature: {RESERVED} are "
                "always there and have their own meaning"
            )
        if taken := [c for c in self.features("context") if c in RESERVED_CONTEXT]:
            raise SchemaError(
                f"{taken} can be no context column: `candidates` has arguments of the "
                "same name; rename the column"
            )
        object.__setattr__(self, "catalog", dict(self.catalog))
        if unknown := [s for s in self.catalog if s not in self.scenarios]:
            raise SchemaError(
                f"catalog: {unknown} are no scenarios; scenarios are {self.scenarios}"
            )
        if self.time_unit not in (None, *TIME_UNITS):
            raise SchemaError(
                f"time_unit must be one of {list(TIME_UNITS)}, got {self.time_unit!r}"
            )
        object.__setattr__(self, "funnel", dict(self.funnel))
        for child, parent in self.funnel.items():
            for task in (child, parent):
                if task not in self.tasks:
                    raise SchemaError(
                        f"funnel: {task!r} is not a task; tasks are {self.tasks}"
                    )
            if self.tasks.index(parent) >= self.tasks.index(child):
                raise SchemaError(
                    f"funnel: {child!r} needs {parent!r}, so {parent!r} must come "
                    f"before {child!r} in tasks; tasks are {self.tasks}"
                )
        if not 0 < self.negative_rate <= 1:
            raise SchemaError(
                f"negative_rate must lie in (0, 1], got {self.negative_rate!r}: it is "
                "the share of the rows without any event that the log keeps"
            )

    def features(self, side: str) -> tuple[str, ...]:
        """Return all feature columns of the "user", the "item" or the "context"."""
        return sum((getattr(self, f"{side}_{kind}") for kind in KINDS), ())


@dataclass(frozen=True)
class DataCard:
    """Where a dataset comes from, on what terms, and what is wrong with it.

    Parameters
    ----------
    title, origin, license, citation : str
        Plain text. `license` states the conditions, not only a name.
    known_problems : tuple of str
        What a reader must know before drawing a conclusion.
    counts : mapping of str to int
        The dataset's own counts ("ratings": 100000).

    Examples
    --------
    >>> print(DataCard("Toy", "made up", "none needed", counts={"rows": 1200}))
    Toy
      Origin: made up
      License: none needed
      Counts: 1,200 rows
    """

    title: str
    origin: str
    license: str
    citation: str = ""
    known_problems: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)

    def _lines(self) -> list[tuple[str, str]]:
        counts = ", ".join(f"{n:,} {what}" for what, n in self.counts.items())
        lines = [
            ("Origin", self.origin),
            ("License", self.license),
            ("Citation", self.citation),
            ("Counts", counts),
            *(("Known problem", problem) for problem in self.known_problems),
        ]
        return [(head, text) for head, text in lines if text]

    def __str__(self) -> str:
        return "\n".join([self.title, *(f"  {h}: {t}" for h, t in self._lines())])

    def _repr_markdown_(self) -> str:
        rows = "\n".join(f"- **{head}:** {text}" for head, text in self._lines())
        return f"**{self.title}**\n\n{rows}"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Three tidy tables, the schema that explains them, and their data card.

    Parameters
    ----------
    name : str
    interactions : DataFrame
        Columns `user`, `item`, `scenario`, `time` (datetime64[ns], when the schema
        is timed), tasks (int8, 0/1), context; one row per impression or event.
    users, items : DataFrame
        One row per id: column `user` or `item`, then the features.
    schema : Schema
    events : DataFrame
        What users did: `user`, `item`, `time` (+ extra). The source of histories and
        popularity. A shop also has purchases outside any logged impression.
    card : DataCard
    extra : mapping of str to DataFrame
        Further tables ("friends").
    """

    name: str
    interactions: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    schema: Schema
    events: pd.DataFrame
    card: DataCard
    extra: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    def shown_in(self, scenario: str) -> pd.Series:
        """Return the ids of the items that a scenario can show."""
        column = self.schema.catalog.get(scenario)
        ids = self.items["item"]
        return ids if column is None else ids[self.items[column] == 1]

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {len(self.interactions):,} interactions, "
            f"{len(self.users):,} users, {len(self.items):,} items, "
            f"scenarios {self.schema.scenarios}, tasks {self.schema.tasks})"
        )
