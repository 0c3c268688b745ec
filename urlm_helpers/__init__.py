"""The code that the book has already taught, one module per step.

Importing the package is cheap: neither TensorFlow nor Keras is loaded until a
module that needs them is imported. From then on `keras.models.load_model` knows every
class of the package, whichever of its modules were imported.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__version__ = "0.1.0"

SAVED = ("urlm_helpers.training", "urlm_helpers.recommendation.towers")
"""Modules with all that a saved model may name, themselves or by what they import."""


class _Registers:
    """A finder of modules that adds those of `SAVED` as soon as Keras is there.

    Keras finds a class in a file by a name under which its module has registered it.
    The modules are added once no import of the package is half done: it may be one of
    them that imports Keras.
    """

    def __init__(self) -> None:
        self._loading = 0

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """Find Keras and modules of the package as Python does; watch their end."""
        if name != "keras" and not name.startswith(f"{__name__}."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def watched(module: ModuleType) -> None:
            self._loading += 1
            try:
                execute(module)
            finally:
                self._loading -= 1
            self.complete()

        spec.loader.exec_module = watched  # type: ignore[method-assign]
        return spec

    def complete(self) -> None:
        """Import what is saved, once, if Keras is there and nothing is half done."""
        if "keras" in sys.modules and not self._loading and self in sys.meta_path:
            sys.meta_path.remove(self)
            for name in SAVED:
                importlib.import_module(name)


sys.meta_path.insert(0, _registers := _Registers())
_registers.complete()
