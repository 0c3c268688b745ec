"""The code that the book has already taught, one module per step.

Importing the package is cheap: neither TensorFlow nor Keras is loaded until a
module that needs them is imported.
"""

__version__ = "0.1.0"
