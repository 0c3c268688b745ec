"""The inputs of a simulated world, whose users and items are all known."""

import numpy as np
import pandas as pd

from urlm_helpers.data.checks import rows, show
from urlm_helpers.data.schema import SchemaError
from urlm_helpers.preprocessing.spec import InputSpec
from urlm_helpers.world.app import World


def world_inputs(
    world: World, log: pd.DataFrame
) -> tuple[dict[str, np.ndarray], np.ndarray, InputSpec]:
    """Encode rows of a world whose users and items are all known, without a history.

    Nothing is learned from the rows: ids are numbers already, and the features of a
    world have a variance near 1. So any number of rows is encoded the same way.

    Parameters
    ----------
    world : World
    log : DataFrame
        Its interactions.

    Returns
    -------
    x, y, spec : dict of str to ndarray, ndarray, InputSpec
        Of :class:`~urlm_helpers.model.UnifiedRecommender`.

    Raises
    ------
    SchemaError
        If the world does not have a user, an item, a scenario or a query of the log.

    Examples
    --------
    >>> world = World(users=100, items=300)
    >>> x, y, spec = world_inputs(world, world.sample(50, 1).interactions)
    >>> x["fields"].shape, x["numeric"].shape, y.shape
    ((50, 5), (50, 18), (50, 3))
    """
    schema = world.schema
    people, goods = world.people, world.goods
    user, item = log["user"].to_numpy(), log["item"].to_numpy()
    scenario = pd.Index(schema.scenarios).get_indexer(pd.Index(log["scenario"]))
    queries = pd.Index(["none", *world.categories])
    query = queries.get_indexer(pd.Index(log["query"]))
    for name, number, size in (
        ("user", user, world.users),
        ("item", item, world.items),
        ("scenario", scenario, len(schema.scenarios)),
        ("query", query, len(queries)),
    ):
        wrong = (number < 0) | (number >= size)
        if wrong.any():
            raise SchemaError(
                f"log: unknown {name!r} {show(log[name].iloc[wrong.argmax()])} in "
                f"{rows(log, pd.Series(wrong))}: the world has {size:,}"
            )
    fields = {  # each row's number, and how many there are
        "user": (user, world.users),
        "item": (item, world.items),
        "scenario": (scenario, len(schema.scenarios)),
        "category": (goods.category[item], len(world.categories)),
        "query": (query, len(queries)),
    }
    numeric = np.column_stack(
        [
            people.features[user],
            goods.features[item],
            goods.rating[item],
            log["query_match"],
            log["friend_match"],
        ]
    )
    spec = InputSpec(
        {name: size + 1 for name, (_, size) in fields.items()},
        tuple(f"n{c}" for c in range(numeric.shape[1])),
        (),
        0,
        tuple(schema.scenarios),
        tuple(schema.tasks),
        dict(schema.funnel),
        user_side=("user", *(f"n{c}" for c in range(world.user_features))),
        item_side=(
            "item",
            "category",
            *(f"n{world.user_features + c}" for c in range(world.item_features + 1)),
        ),
    )
    n, columns = len(log), [number + 1 for number, _ in fields.values()]
    x = {
        "fields": np.stack(columns, axis=1).astype("int32"),
        "numeric": numeric.astype("float32"),
        "history": np.zeros((n, 0, 0), "int32"),
        "history_age": np.zeros((n, 0), "float32"),
        "scenario": scenario.astype("int32"),
    }
    return x, log[list(schema.tasks)].to_numpy("int8"), spec
