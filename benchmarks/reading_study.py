"""Does a model that reads a person's log learn the person? The study of page 5.6b.

    python benchmarks/reading_study.py

Of one calm world, the sequences of 400 to 6,400 people are trained on, and the last
event of others is judged against the truth, with so many events of their past in sight.
The contenders: boosted trees that see the content alone, with the person's own rate,
and with what `urlm_helpers.model.evidence` counts; and `NextAction`, with three step
sizes of which the page takes the one with the lowest validation loss. The reader is
judged also with its past falsified: the actions shuffled among the events, or those of
somebody else.

A line of the result is written as soon as it is known, and skipped when the study is
started again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import keras
import lightgbm
import numpy as np
from results import Result
from scaling_study import WORLD as FULL

from urlm_helpers.model import NextAction, evidence, sequences
from urlm_helpers.preprocessing import world_inputs
from urlm_helpers.world import World, action_excess, best_on_observables

COLUMNS = ["people", "contender", "step_size", "passes", "valid_loss", "past"]
COLUMNS += ["excess", "gain", "half", "seconds"]
WORLD = {name: value for name, value in FULL.items() if name != "users"}
PEOPLE, VALID, TEST, ROWS = (1_600, 6_400, 400), 500, 2_100, 40
LENGTH, DIM, BATCH = 32, 32, 64
STEP_SIZES, VISITS, PASSES = (4e-3, 8e-3, 2e-3), 32_000, (5, 12)
PASTS = (0, 1, 2, 5, 10, 20, 31)


class People:
    """Sequences of one world, who is trained on, and the truth of the judged."""

    def __init__(self) -> None:
        users = max(PEOPLE) + VALID + TEST
        world = World(seed=100, users=users, **WORLD)  # type: ignore[arg-type]
        log = next(world.stream(users * ROWS, users * ROWS))
        x, _, spec = world_inputs(world, log.interactions)
        known = world.user_features  # what is known of the person stays out
        contents = {"fields": x["fields"][:, 1:], "numeric": x["numeric"][:, known:]}
        self.fields = dict(list(spec.fields.items())[1:])
        self.tasks = list(spec.tasks)
        self.x, rows = sequences(log.interactions, contents, self.tasks, LENGTH)
        order = np.random.default_rng(0).permutation(len(rows))
        test, self.valid, self.train = np.split(order, [TEST - 300, TEST + VALID - 300])
        self.judged = test[self.x["mask"][test].sum(axis=1) > 20]
        last = rows[self.judged, -1]
        self.truth = log.truth.iloc[last]
        given = [f"{task}_given" for task in self.tasks]
        best = best_on_observables(world, log.interactions.iloc[last])[given]
        self.best = best.to_numpy()
        self.reach = self.x["action"][..., None] > np.arange(len(self.tasks))

    def lost(self, logits: np.ndarray) -> np.ndarray:
        """Return the excess of each judged event."""
        return action_excess(self.truth, logits, self.tasks)

    def part(self, people: np.ndarray) -> dict[str, np.ndarray]:
        """Return the inputs of some people."""
        return {name: array[people] for name, array in self.x.items()}

    def hidden(self, past: int) -> dict[str, np.ndarray]:
        """Return the judged with so many events before the last in sight."""
        x = self.part(self.judged)
        x["mask"] = x["mask"].copy()
        x["mask"][:, : LENGTH - 1 - past] = 0
        return x


def falsified(x: Mapping[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    """Return the judged with the actions of their past shuffled, or somebody else's."""
    rng, action = np.random.default_rng(0), x["action"].copy()
    if how == "somebody else's":
        other = np.roll(rng.permutation(len(action)), 1)
        action[:, :-1] = action[other, :-1] * (x["mask"][:, :-1] > 0)
    else:
        for person, there in enumerate(x["mask"][:, :-1] > 0):
            action[person, :-1][there] = rng.permutation(action[person, :-1][there])
    return {**x, "action": action}


class Trees:
    """Boosted trees on the content, and on columns that were counted by hand."""

    def __init__(self, data: People, train: np.ndarray, columns: int) -> None:
        self.data, self.columns = data, columns
        x, there = data.x, data.x["mask"][train] > 0
        where = x["fields"][..., 1]
        expected = np.zeros(data.reach.shape)  # the rate of the scenario
        for place in np.unique(where[train][there]):
            own = there & (where[train] == place)
            expected[where == place] = data.reach[train][own].mean(axis=0)
        self.surprise = (data.reach - expected) * x["mask"][..., None]
        item, size = x["fields"][..., 0], x["fields"][..., 0].max() + 1
        total, seen = np.zeros((size, len(data.tasks))), np.zeros(size)
        np.add.at(total, item[train][there], self.surprise[train][there])
        np.add.at(seen, item[train][there], 1)
        own = np.zeros(len(item))
        own[train] = 1  # an item's rate is taken without the row itself
        own = own[:, None] * x["mask"]
        self.rate = (total[item] - self.surprise * own[..., None]) / (
            20 + seen[item] - own
        )[..., None]
        table = self.table(x, np.arange(len(item)))
        matrix = lightgbm.Dataset(table[train][there], x["action"][train][there])
        there = x["mask"][data.valid] > 0
        watched = matrix.create_valid(
            table[data.valid][there], x["action"][data.valid][there]
        )
        best = np.inf
        for leaves in (4, 8, 16):
            how = {"objective": "multiclass", "num_class": len(data.tasks) + 1}
            how |= {"num_leaves": leaves, "learning_rate": 0.05, "verbosity": -1}
            how |= {"num_threads": 1, "min_data_in_leaf": 50, "seed": 0}
            stop = [lightgbm.early_stopping(20, verbose=False)]
            model = lightgbm.train(how, matrix, 400, [watched], callbacks=stop)
            loss = model.best_score["valid_0"]["multi_logloss"]
            if loss < best:
                best, self.model, self.leaves = loss, model, leaves
        self.loss = best

    def table(self, x: Mapping[str, np.ndarray], people: np.ndarray) -> np.ndarray:
        """Return the columns of some people's events."""
        content = [x["fields"][..., 1:], x["numeric"], self.rate[people]]
        if self.columns:
            numbers = x["numeric"][..., :-2]  # of the item; the others are of the pair
            counted = evidence(x, self.surprise[people], numbers, 1)
            content.append(counted[..., : self.columns])
        return np.concatenate(content, axis=-1)

    def logits(self, past: int) -> np.ndarray:
        """Return logits of the judged events."""
        table = self.table(self.data.hidden(past), self.data.judged)[:, -1]
        return np.log(self.model.predict(table))


def shown(x: dict[str, np.ndarray], people: np.ndarray) -> dict[str, np.ndarray]:
    """Return all inputs as they are."""
    return x


def read(
    data: People,
    train: np.ndarray,
    step_size: float,
    seed: int = 0,
    seen: Callable[[dict[str, np.ndarray], np.ndarray], dict[str, np.ndarray]] = shown,
) -> tuple[Any, list[float]]:
    """Train a reader of what `seen` leaves; return it and its validation losses."""
    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    x, held = (seen(data.part(people), people) for people in (train, data.valid))
    numbers = x["numeric"].shape[-1]
    actions = len(data.tasks) + 1
    model = NextAction(data.fields, numbers, actions, LENGTH, dim=DIM)
    passes = int(np.clip(VISITS // len(train), *PASSES))
    steps = passes * -(-len(train) // BATCH)
    falling = keras.optimizers.schedules.CosineDecay(step_size, steps)
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(falling), entropy, jit_compile=True)
    stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    curve = model.fit(
        x,
        data.x["action"][train],
        batch_size=BATCH,
        sample_weight=x["mask"],
        epochs=passes,
        validation_data=(held, data.x["action"][data.valid], held["mask"]),
        verbose=0,
        callbacks=[stop],
    ).history["val_loss"]
    return model, curve


def main() -> None:
    """Run what is not in the result yet."""
    result = Result("reading.csv", COLUMNS, digits=5)
    done = {(int(r["people"]), r["contender"], r["step_size"]) for r in result.lines()}
    data = People()
    reach = np.cumprod(data.best, axis=1)
    chain = np.hstack([np.ones((len(reach), 1)), reach])
    features = np.log(np.hstack([chain[:, :-1] - chain[:, 1:], chain[:, -1:]]))
    for people in PEOPLE:
        train, start = data.train[:people], time.process_time()
        trees = {"content": 0, "own rate": 4, "counted": 10}
        content = None

        def keep(
            contender: str, past: int, logits: np.ndarray, more: Mapping[str, Any]
        ) -> None:
            lost = data.lost(logits)
            gain = plain - lost  # noqa: B023
            half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
            line = {"people": people, "contender": contender, "past": past}  # noqa: B023
            line |= {"excess": lost.mean(), "gain": gain.mean(), "half": half, **more}
            result.keep(line)
            print(line, flush=True)

        content = Trees(data, train, 0)
        plain = data.lost(content.logits(0))
        for name, columns in trees.items():
            if (people, name, "0") in done:
                continue
            model = content if name == "content" else Trees(data, train, columns)
            spent = time.process_time() - start
            more = {"step_size": 0, "passes": model.model.best_iteration}
            more |= {"valid_loss": model.loss, "seconds": spent}
            for past in PASTS if columns else (0,):
                keep(name, past, model.logits(past), more)
        if (people, "features", "0") not in done:
            keep("features", 0, features, {"step_size": 0})
        for step_size in STEP_SIZES:
            if (people, "reader", f"{step_size:.5g}") in done:
                continue
            start = time.process_time()
            reader, curve = read(data, train, step_size)
            more = {"step_size": step_size, "passes": len(curve)}
            more |= {"valid_loss": min(curve), "seconds": time.process_time() - start}

            def ask(x: Mapping[str, np.ndarray]) -> np.ndarray:
                found = reader.predict(x, batch_size=256, verbose=0)  # noqa: B023
                return np.asarray(found[:, -1], "float64")

            for past in PASTS:
                keep("reader", past, ask(data.hidden(past)), more)
            whole = data.hidden(LENGTH - 1)
            for how in ("shuffled", "somebody else's"):
                keep(f"reader, {how}", LENGTH - 1, ask(falsified(whole, how)), more)


if __name__ == "__main__":
    main()
