"""What layers, models and losses of the package have in common: how they are saved."""

import inspect
from typing import Any, Self

import keras

PACKAGE = "urlm_helpers"


class Configured:
    """First base of a Keras class: saved as the arguments that it was made with.

    A class that names it is registered with Keras, as ``urlm_helpers>MMoE``, so that
    ``keras.models.load_model`` finds it, and needs no ``get_config`` of its own.

    Examples
    --------
    >>> class Scale(Configured, keras.layers.Layer):
    ...     def __init__(self, factor, offset=0.0, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.numbers = factor, offset
    >>> config = Scale(3.0).get_config()
    >>> config["factor"], config["offset"], Scale.from_config(config).numbers
    (3.0, 0.0, (3.0, 0.0))
    """

    _given: inspect.BoundArguments

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(PACKAGE)(cls)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note the arguments, before the constructor makes something of them."""
        self = super().__new__(cls)
        signature = inspect.signature(cls.__init__)
        self._given = signature.bind_partial(None, *args, **kwargs)
        self._given.apply_defaults()
        return self

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, defaults included; lists as tuples.

        So it is the same for what was made and for what was loaded from a file, which
        knows no tuples. A precision is in it only where one was asked for: otherwise
        what was trained in half precision is loaded in that of the machine.
        """
        _, *given = self._given.arguments.items()  # all but self
        config = dict(given)
        config |= config.pop("kwargs", {})
        kept = super().get_config()  # type: ignore[misc]
        if "dtype" not in config:
            kept.pop("dtype", None)
        config = {n: tuple(v) if isinstance(v, list) else v for n, v in config.items()}
        return {**config, **kept}


def built(layer: Any, *shapes: Any) -> Any:
    """Return the layer with its weights, for inputs of these shapes.

    One that has its weights already, since it was loaded, stays as it is.
    """
    if not layer.built:
        layer.build(*shapes)
    return layer


def dense(units: int, shape: Any, name: str, **options: Any) -> keras.layers.Dense:
    """Return a dense layer with its weights, for inputs of a shape."""
    return built(keras.layers.Dense(units, name=name, **options), shape)
