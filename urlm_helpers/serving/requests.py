"""What a service accepts: strict JSON, and models of it made from the tables.

The types of the ids, the scenarios and the context columns are those of the encoder,
so that the OpenAPI page of a service names them, and an id of another type is refused
instead of being an unknown one.
"""

import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    create_model,
)

from urlm_helpers.data.checks import Kind
from urlm_helpers.data.times import moment
from urlm_helpers.preprocessing.encode import Encoder

YEARS = (1700, 2200)
"""First and last year of a request; pandas counts nanoseconds in 64 bits."""

FAR = 1e6
"""Standard deviations from the mean of the training beyond which a number is none."""

MOST_EVENTS, MOST_REQUESTS = 1000, 100
"""Of one request that writes events, or asks for lists."""

KINDS: dict[str, Any] = {
    "integer": Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)],
    "string": Annotated[str, Field(strict=True)],
    "floating": Annotated[float, Field(strict=True, allow_inf_nan=False)],
    "boolean": Annotated[bool, Field(strict=True)],
}
"""How values of the types of a column come in JSON."""


TAG = re.compile(r"[\[-]|^(body|bool|float|int|str)$")
"""What pydantic puts between the names of fields: which of several types it means."""

TYPES = (Literal, Annotated, list, dict)


class Refused(ValueError):
    """A request that gets no answer: what would be right, and an HTTP status."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Strict(BaseModel):
    """A JSON object without fields that nobody reads."""

    model_config = ConfigDict(extra="forbid")


def parse(body: bytes) -> Any:
    """Read JSON, strictly: no NaN, no key twice, no text that is not Unicode.

    Raises
    ------
    Refused
    """

    def constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = [key for key, count in counts.items() if count > 1]
            raise ValueError(f"{show(twice)} given more than once")
        return found

    try:
        request = json.loads(
            body.decode("utf-8"), parse_constant=constant, object_pairs_hook=once
        )
        if b"\\u" in body:  # half characters
            json.dumps(request, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        text = "too deeply nested" if isinstance(error, RecursionError) else error
        raise Refused(f"the body must be JSON in UTF-8: {text}") from None
    return request


def show(value: Any) -> str:
    """Write a value of a request as Python does, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read(model: type[BaseModel], request: Any) -> Any:
    """Return a request as its model, if it is not one yet.

    Raises
    ------
    Refused
        With what is wrong, field by field.
    """
    if isinstance(request, BaseModel):
        return request
    try:
        return model.model_validate(request)
    except ValidationError as error:
        raise Refused(explain(error.errors(include_url=False))) from None


def explain(errors: Any) -> str:
    """Say what pydantic found wrong, at most three things."""
    texts = []
    for error in errors[:3]:
        where = ".".join(p for p in map(str, error["loc"]) if not TAG.search(p))
        where = where or "the body"
        got = "" if error["type"] == "missing" else f", got {show(error['input'])}"
        texts.append(f"{where}: {error['msg']}{got}")
    return "; ".join(texts)


def seconds_of(value: Any, unit: str | None) -> int:
    """Read the time of a request, UTC where it has no zone, in seconds since 1970.

    Examples
    --------
    >>> seconds_of("1970-01-01T01:00:05+01:00", None), seconds_of(2, "D")
    (5, 172800)
    """
    if unit and type(value) is int:
        return int(moment("time", value, unit).timestamp())
    wanted = f"ISO 8601 such as '2026-01-31T18:00:00', from {YEARS[0]} to {YEARS[1]}"
    try:
        when = datetime.fromisoformat(value)
        when = when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
        if YEARS[0] <= when.year <= YEARS[1]:
            return int(when.timestamp() // 1)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"must be {wanted}")


def now() -> int:
    """Return the second that it is."""
    return int(datetime.now(UTC).timestamp())


def iso(second: int) -> str:
    """Write a second since 1970 as ISO 8601, UTC without saying so."""
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat()


def models(
    encoder: Encoder, mixes: tuple[str, ...], max_items: int, max_k: int
) -> dict[str, Any]:
    """Make the models of the requests ``score``, ``recommend``, ``batch``, ``events``.

    Parameters
    ----------
    encoder : Encoder
    mixes : tuple of str
        What a list can be ordered by, beside weights of tasks.
    max_items, max_k : int
        Most items to score, longest list.
    """
    # made when the program runs, which is nothing for a type checker
    create: Any = create_model
    one_of, field, list_of, map_of = cast("tuple[Any, ...]", TYPES)
    schema = encoder.schema
    ids = {name: _type(encoder.kinds[name]) for name in ("user", "item")}
    one: dict[str, Any] = {}
    for name in schema.context_categorical:
        one[name] = (_type(encoder.kinds[name]), ...)
    for name in schema.context_numeric:
        at = encoder.numeric_names.index(name)
        mean, std = float(encoder.scaler.mean[at]), float(encoder.scaler.std[at])
        low, high = mean - FAR * std, mean + FAR * std
        fits = Field(strict=True, allow_inf_nan=False, ge=low, le=high)
        one[name] = (field[float, fits], ...)
    several = {name: (kind | list_of[kind], ...) for name, (kind, _) in one.items()}
    unit = schema.time_unit

    def context(name: str, fields: dict[str, Any]) -> Any:
        made = create(name, __base__=Strict, **fields)
        return (made, ...) if fields else (made, made())

    def check_time(value: Any) -> Any:
        return seconds_of(value, unit)

    stamp = KINDS["string"] | KINDS["integer"] if unit else KINDS["string"]
    when = field[stamp, AfterValidator(check_time)]
    common: dict[str, Any] = {
        "user": (ids["user"], ...),
        "scenario": (one_of[schema.scenarios], ...),
        "time": (when | None, None),
    }
    weights = map_of[one_of[schema.tasks], field[float, Field(strict=True, ge=0)]]
    task: dict[str, Any] = {"task": (one_of[mixes] | weights, schema.tasks[0])}
    task["explain"] = (field[bool, Field(strict=True)], False)
    count = field[int, Field(strict=True, ge=1)]
    columns = schema.item_categorical
    by: Any = one_of[columns] if columns else field[str, AfterValidator(_no_column)]
    item = ids["item"]
    items = field[list_of[item], Field(min_length=1, max_length=max_items)]
    score = create(
        "Score",
        __base__=Strict,
        **common,
        **task,
        items=(items, ...),
        context=context("ContextOfItems", several),
    )
    recommend = create(
        "Recommend",
        __base__=Strict,
        **common,
        **task,
        k=(field[int, Field(strict=True, ge=1, le=max_k)], ...),
        context=context("Context", one),
        exclude=(field[list_of[item], Field(max_length=max_items)], []),
        only=(map_of[by, list_of[bool | int | float | str]], {}),
        at_most=(map_of[by, count], {}),
        budget_ms=(field[float, Field(strict=True, gt=0, le=1e4)] | None, None),
    )
    label = field[int, Field(strict=True, ge=0, le=1)]
    event = create(
        "Event",
        __base__=Strict,
        **common,
        item=(item, ...),
        context=context("Context", one),
        labels=(map_of[one_of[schema.tasks], label], {schema.tasks[0]: 1}),
        id=(field[str, Field(strict=True, max_length=200)] | None, None),
    )

    def many(name: str, key: str, of: Any, most: int) -> Any:
        kind = field[list_of[of], Field(min_length=1, max_length=most)]
        return create(name, __base__=Strict, **{key: (kind, ...)})

    return {
        "score": score,
        "recommend": recommend,
        "batch": many("Batch", "requests", recommend, MOST_REQUESTS),
        "events": many("Events", "events", event, MOST_EVENTS),
    }


def _no_column(name: str) -> str:
    """Refuse a column where the items have none."""
    raise ValueError("the items have no categorical column")


def _type(kind: Kind) -> Any:
    return KINDS.get(kind.name, Any)
