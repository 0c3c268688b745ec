"""Checkpoints: a run that is cut off goes on from its last one, bit for bit."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

PLAIN = ("epoch", "step", "order", "log")
"""What of a run is kept as it is."""


class Progress:
    """Where a run stands, and the file that remembers it.

    Parameters
    ----------
    model : Model
        Compiled; its weights and the state of its optimizer are part of the file.
    path : path or None
        The file; without one nothing is remembered.
    settings : mapping
        What must be the same in a run that goes on.
    """

    def __init__(
        self, model: keras.Model, path: str | Path | None, settings: Mapping[str, Any]
    ) -> None:
        self.model, self.settings = model, dict(settings)
        self.path = None if path is None else Path(path)
        self.epoch, self.step, self.loss_sum = 1, 0, 0.0
        self.order: list[int] = []
        self.log: list[dict[str, float]] = []
        self.best: list[np.ndarray] = []

    @property
    def best_epoch(self) -> int:
        """Pass with the lowest validation loss so far."""
        losses = [line["valid_loss"] for line in self.log]
        return int(self.log[int(np.argmin(losses))]["epoch"])

    def note(self, epoch: int, train_loss: float, valid_loss: float) -> bool:
        """Enter a pass; keep its weights if it is the best, and say whether it is."""
        better = all(valid_loss < line["valid_loss"] for line in self.log)
        losses = {"train_loss": train_loss, "valid_loss": valid_loss}
        self.log.append({"epoch": epoch, **losses})
        if better:
            self.best = []  # makes room for the new copy
            self.best = self.model.get_weights()
        return better

    @property
    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def save(self) -> None:
        """Write everything that the rest of the run depends on, or nothing."""
        if self.path is None:
            return
        state = {name: getattr(self, name) for name in ("settings", *PLAIN)}
        version, internal, gauss = random.getstate()
        state["random"] = [version, list(internal), gauss]
        state["loss_sum"] = float(self.loss_sum).hex()  # every bit
        arrays = {f"v{i}": v.numpy() for i, v in enumerate(self._variables)}
        arrays |= {f"b{i}": value for i, value in enumerate(self.best)}
        unfinished = self.path.with_name(self.path.name + ".part")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            np.savez(file, state=np.array(json.dumps(state)), **arrays)
        unfinished.replace(self.path)

    def load(self) -> bool:
        """Take up the run of the file, if there is one.

        Returns
        -------
        bool
            Whether there was one.

        Raises
        ------
        ValueError
            If the file holds a run with other settings.
        """
        if self.path is None or not self.path.exists():
            return False
        self.model.optimizer.build(self.model.trainable_variables)
        with np.load(self.path) as file:
            state = json.loads(str(file["state"]))
            for name, value in self.settings.items():
                if (was := state["settings"].get(name)) != value:
                    raise ValueError(
                        f"{self.path} holds a run with {name}={was}, this one has "
                        f"{name}={value}: it cannot go on from there; delete the file "
                        "to start anew"
                    )
            for i, variable in enumerate(self._variables):
                variable.assign(file[f"v{i}"])
            self.best = [file[name] for name in file.files if name.startswith("b")]
        for name in PLAIN:
            setattr(self, name, state[name])
        version, internal, gauss = state["random"]
        random.setstate((version, tuple(internal), gauss))
        self.loss_sum = float.fromhex(state["loss_sum"])
        return True

    def finish(self) -> None:
        """Remove the file of a run that is over."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
