"""Does the reader read the person, or is it only another network? Page 5.6b.

    python benchmarks/reading_starts.py

The contest of `reading_study.py`, with several starts and two more contenders: the same
network that is told of every past event what was shown and never what was done
("blind"), and the reader with the counted averages among the numbers of its tokens
("reader + averages"). What is judged stays the same, and whom; the losses of each
judged person are kept in a scratch folder, so that contenders are compared person by
person, also over the mean of several starts.

The step size of a contender is that of the lowest validation loss at its first start.
The scratch folder holds what is done when the study is started again; the result is
written anew from all that lies there.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from reading_study import LENGTH, PASTS, People, Trees, falsified, read
from results import RESULTS, Result

from urlm_helpers.model import evidence

COLUMNS = ["people", "contender", "step_size", "start", "passes", "valid_loss", "past"]
COLUMNS += ["excess", "against", "gain", "half"]
SCRATCH = Path(tempfile.gettempdir()) / "reading_starts"
PLAN = [  # people, contender, step size, start: the most telling first
    *((n, who, 4e-3, s) for s in range(2) for n in (1_600, 6_400) for who in "rb"),
    *((1_600, "b", size, 0) for size in (2e-3, 8e-3)),
    *((6_400, who, size, 0) for size in (2e-3, 8e-3) for who in "rb"),
    *((n, who, 4e-3, 2) for n in (1_600, 6_400) for who in "rb"),
    *((n, "a", 4e-3, 0) for n in (1_600, 6_400)),
    *((n, who, 4e-3, s) for s in (3, 4) for n in (1_600, 6_400) for who in "rb"),
    *((n, "a", 4e-3, s) for s in (1, 2) for n in (1_600, 6_400)),
]
NAMES = {"r": "reader", "b": "blind", "a": "reader + averages"}
FALSE = ("shuffled", "somebody else's")


class Inputs:
    """What each contender is given of the same sequences."""

    def __init__(self, data: People, trees: Trees, train: np.ndarray) -> None:
        self.usual = data.reach * data.x["mask"][..., None] - trees.surprise
        inside = data.x["mask"][train] > 0
        known = self._averages(data.part(train), train)[inside]
        self.mean, self.std = known.mean(axis=0), known.std(axis=0)

    def _averages(self, x: dict[str, np.ndarray], people: np.ndarray) -> np.ndarray:
        did = x["action"][..., None] > np.arange(self.usual.shape[-1])
        surprise = did * x["mask"][..., None] - self.usual[people]
        surprise *= x["mask"][..., None]
        return evidence(x, surprise, x["numeric"][..., :-2], 1)

    def seen(self, who: str) -> Any:
        """Return the function that makes a contender's inputs."""

        def blind(x: dict[str, np.ndarray], people: np.ndarray) -> dict[str, Any]:
            return {**x, "action": 0 * x["action"]}

        def more(x: dict[str, np.ndarray], people: np.ndarray) -> dict[str, Any]:
            counted = (self._averages(x, people) - self.mean) / self.std
            both = [x["numeric"], counted.astype("float32")]
            return {**x, "numeric": np.concatenate(both, axis=-1)}

        return {"r": lambda x, people: x, "b": blind, "a": more}[who]


def name_of(people: int, who: str, step_size: float, start: int) -> Path:
    """Return the file of a run."""
    return SCRATCH / f"{people}-{who}-{step_size:g}-{start}.npz"


def train_all() -> None:
    """Run what does not lie in the scratch folder yet."""
    SCRATCH.mkdir(exist_ok=True)
    if all(name_of(*run).exists() for run in PLAN):
        return
    data, trees = People(), {}
    whole = data.hidden(LENGTH - 1)
    for people in (1_600, 6_400):
        path, train = SCRATCH / f"{people}-trees.npz", data.train[:people]
        plain = Trees(data, train, 0)
        trees[people] = Inputs(data, plain, train)
        if not path.exists():
            counted = Trees(data, train, 10)
            lost = [data.lost(counted.logits(past)) for past in PASTS]
            np.savez(path, content=data.lost(plain.logits(0)), counted=lost)
    for run in PLAN:
        people, who, step_size, start = run
        if name_of(*run).exists():
            continue
        seen, train = trees[people].seen(who), data.train[:people]
        model, curve = read(data, train, step_size, start, seen)

        def lost(x: dict[str, np.ndarray]) -> np.ndarray:
            x = seen(x, data.judged)  # noqa: B023
            found = model.predict(x, batch_size=256, verbose=0)  # noqa: B023
            return data.lost(np.asarray(found[:, -1], "float64"))

        kept = {"lost": [lost(data.hidden(past)) for past in PASTS]}
        kept |= {how: lost(falsified(whole, how)) for how in FALSE if who != "b"}
        np.savez(name_of(*run), valid=min(curve), passes=len(curve), **kept)
        print(run, min(curve), np.mean(kept["lost"], axis=1)[-1], flush=True)


def told(people: int, content: np.ndarray, counted: np.ndarray) -> Iterator[dict]:
    """Return the lines of the result for a number of people."""
    runs = {}
    for run in PLAN:
        if run[0] == people and name_of(*run).exists():
            with np.load(name_of(*run)) as file:
                runs[run[1:]] = {name: file[name] for name in file.files}
    means: dict[tuple[str, float], list[dict]] = {}
    for (who, size, _), run in sorted(runs.items(), key=lambda pair: pair[0][2]):
        means.setdefault((who, size), []).append(run)
    every: dict[tuple[str, float], dict[str, dict]] = {
        key: {str(start): run for start, run in enumerate(own)}
        for key, own in means.items()
    }
    for own in every.values():
        if len(own) > 1:
            parts = set.intersection(*(set(run) for run in own.values()))
            own["mean"] = {
                name: np.mean([run[name] for run in own.values()], axis=0)
                for name in parts
            }
    for (who, size), own in every.items():
        for start, run in own.items():
            line = {"people": people, "step_size": size, "start": start}
            line |= {"passes": float(run["passes"]), "valid_loss": float(run["valid"])}
            name = NAMES[who]
            rows = [
                (name, past, lost, "content", content)
                for past, lost in zip(PASTS, run["lost"], strict=True)
            ]
            last = run["lost"][-1]
            rows.append((name, PASTS[-1], last, "counted", counted[-1]))
            blind = every.get(("b", size), {}).get(start)
            if blind and who != "b":
                rows.append((name, PASTS[-1], last, "blind", blind["lost"][-1]))
            reader = every.get(("r", size), {}).get(start)
            if reader and who == "a":
                rows.append((name, PASTS[-1], last, "reader", reader["lost"][-1]))
            for how in FALSE:
                if how in run:
                    rows.append((f"{name}, {how}", PASTS[-1], run[how], name, last))
            for contender, past, lost, against, other in rows:
                gain = other - lost
                half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
                more = {"contender": contender, "past": past, "against": against}
                more |= {"excess": lost.mean(), "gain": gain.mean(), "half": half}
                yield line | more


def main() -> None:
    """Train, and write down what was found."""
    if "told" not in sys.argv:
        train_all()
    (RESULTS / "reading_starts.csv").unlink(missing_ok=True)
    result = Result("reading_starts.csv", COLUMNS, digits=5)
    for people in (1_600, 6_400):
        path = SCRATCH / f"{people}-trees.npz"
        if path.exists():
            with np.load(path) as file:
                result.keep(*told(people, file["content"], file["counted"]))


if __name__ == "__main__":
    main()
