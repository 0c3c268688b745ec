"""Tables with fewer rows than values: hashing, and quotient and remainder."""

from collections.abc import Sequence
from typing import Any

from keras import ops

from urlm_helpers.features.embedding import FieldEmbedding

SCHEMES = ("hash", "quotient_remainder")


def remainder_rows(values: int, rows: int) -> int:
    r"""Return the rows of the remainder's table: as many as fit.

    Parameters
    ----------
    values : int
        Values to tell apart.
    rows : int
        Rows of both tables together.

    Returns
    -------
    int
        The largest :math:`m` with :math:`m + \lceil values / m \rceil \le rows`.

    Raises
    ------
    ValueError
        If there are too few rows for any.

    Examples
    --------
    >>> remainder_rows(1_000_000, 2_000), remainder_rows(1_000_000, 10_100)
    (1000, 10000)
    """
    for m in range(rows - 1, 0, -1):
        if m + -(-values // m) <= rows:
            return m
    raise ValueError(
        f"{values:,} values need at least {2 * int(values**0.5):,} rows of quotients "
        f"and remainders, got {rows:,}"
    )


class CompactEmbedding(FieldEmbedding):
    r"""A vector per value of each field, from fewer rows than there are values.

    ``"hash"``: value :math:`i` has row :math:`i \bmod m` [1]_; values that meet there
    cannot be told apart. ``"quotient_remainder"``: :math:`E_{i \bmod m} \odot
    F_{\lfloor i / m \rfloor}`, a product that no two values share [2]_;
    :math:`F` starts at 1.

    Parameters
    ----------
    sizes : sequence of int
        Vocabulary size of each field, the unseen index 0 included.
    dim : int
        Length of a vector.
    rows : int
        Rows for all large fields together.
    how : str
        ``"hash"`` or ``"quotient_remainder"``.
    above : int
        Fields with more values than that are large; the others keep a row per value.

    Raises
    ------
    ValueError
        If ``how`` is neither, no field is large, or there are too few rows.

    References
    ----------
    .. [1] K. Weinberger et al., "Feature Hashing for Large Scale Multitask Learning",
       ICML 2009. arXiv:0902.2206
    .. [2] H.-J. M. Shi, D. Mudigere, M. Naumov, J. Yang, "Compositional Embeddings
       Using Complementary Partitions for Memory-Efficient Recommendation Systems", KDD
       2020. arXiv:1909.02107

    Examples
    --------
    >>> import numpy as np
    >>> layer = CompactEmbedding([50_000, 7], dim=4, rows=1000)
    >>> layer(np.array([[49_999, 6], [0, 0]])).shape, layer.count_params()
    (TensorShape([2, 2, 4]), 4028)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dim: int,
        rows: int,
        how: str = "hash",
        above: int = 10_000,
        **kwargs: Any,
    ) -> None:
        large = [size > above for size in sizes]
        if how not in SCHEMES or not any(large):
            raise ValueError(
                f"CompactEmbedding needs how in {SCHEMES} and a field with more than "
                f"above={above:,} values; got how={how!r} and sizes {list(sizes)}"
            )
        # Small fields come first in the table; then what the large ones share.
        self.large, self.rows, self.how = large, rows, how
        self.small_rows = sum(size for size in sizes if size <= above)
        values = sum(sizes) - self.small_rows
        self.modulus = rows if how == "hash" else remainder_rows(values, rows)
        super().__init__(sizes, dim, **kwargs)
        at = {True: 0, False: 0}
        for f, size in enumerate(self.sizes):
            self.offsets[f] = at[large[f]]  # among the large or the small ones
            at[large[f]] += size

    @property
    def table_rows(self) -> int:
        """Rows of the table, fewer than there are values."""
        return self.small_rows + self.rows

    def build(self, input_shape: Any = None) -> None:
        """Create the table; the quotients' rows start at 1."""
        super().build()
        if self.how == "quotient_remainder":
            is_quotient = ops.arange(self.table_rows) >= self.small_rows + self.modulus
            table = self.table.embeddings
            table.assign(ops.where(is_quotient[:, None], ops.ones_like(table), table))

    def vectors(self, index: Any, fields: Sequence[int]) -> Any:
        """Return the vectors of values that are numbered by the kind of their field."""
        large = ops.convert_to_tensor([self.large[f] for f in fields], "bool")
        row = ops.where(large, self.small_rows + index % self.modulus, index)
        vectors = super().vectors(row, fields)
        if self.how == "hash":
            return vectors
        quotient = self.small_rows + self.modulus + index // self.modulus
        factor = self.table(ops.where(large, quotient, 0))
        return ops.where(large[:, None], vectors * factor, vectors)
