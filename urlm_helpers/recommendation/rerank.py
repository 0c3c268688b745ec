"""Re-ranking (重排): a list is more than its items, one by one.

`best`, `mmr` and `dpp` fill a list place by place: each time they take the candidate
with the largest gain, given what stands there already. They differ in the gain alone,
and all obey the same rules. NumPy only; candidates are numbered 0 … n - 1.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from urlm_helpers.data.arrays import Floats, Ints

Rule = Callable[[list[int]], NDArray[np.bool_]]
"""From what is in the list to which candidates may be added, ``(n,)``."""

TINY = 1e-10
"""A share of a vector below this is rounding, not something new."""


def never(banned: ArrayLike) -> Rule:
    """Rule: these candidates may not be added.

    Parameters
    ----------
    banned : array of bool, shape (n,)
        Such as ``numpy.isin(item, bought)``.

    Examples
    --------
    >>> best([3.0, 2.0, 1.0], k=2, rules=[never([True, False, False])]).tolist()
    [1, 2]
    """
    mask = np.asarray(banned)
    if mask.ndim != 1 or mask.dtype != bool:
        raise ValueError(f"banned must be bool, (n,), got {mask.shape} of {mask.dtype}")
    return lambda chosen: ~mask


def at_most(limit: int, group: ArrayLike) -> Rule:
    """Rule: no more than `limit` of one group.

    Parameters
    ----------
    limit : int
    group : array, shape (n,)
        Each candidate's group, such as its category.

    Examples
    --------
    >>> rule = at_most(1, ["tea", "tea", "milk"])
    >>> best([3.0, 2.0, 1.0], k=2, rules=[rule]).tolist()
    [0, 2]
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    names, code = np.unique(np.asarray(group), return_inverse=True)

    def rule(chosen: list[int]) -> NDArray[np.bool_]:
        return np.bincount(code[chosen], minlength=len(names))[code] < limit

    return rule


def best(
    relevance: ArrayLike,
    k: int,
    *,
    rules: Iterable[Rule] = (),
    pinned: Mapping[int, int] | None = None,
) -> Ints:
    """Return the k most relevant candidates that the rules allow.

    Parameters
    ----------
    relevance : array, shape (n,)
        The more, the better. Finite.
    k : int
        Length of the list.
    rules : iterable of Rule
        Each maps the candidates in the list to a mask of those that may be added.
    pinned : mapping of int to int, optional
        Place (from 0) to candidate. The rules do not apply to it, and count it from
        the start.

    Returns
    -------
    ndarray of int64
        Candidates, first place first. Fewer than k where the rules allow no more;
        what is pinned further down moves up. Of equal candidates the first is taken.

    Raises
    ------
    ValueError
        A wrong shape, a value that is not finite, k below 1, a pinned place outside the
        list, a pinned candidate that does not exist or is pinned twice, a rule that
        returns something else than n bools.

    Examples
    --------
    >>> best([0.9, 0.8, 0.1], k=2, pinned={0: 2}).tolist()
    [2, 0]
    """
    score = _vector(relevance)
    return _fill(lambda chosen: score, lambda item: None, len(score), k, rules, pinned)


def mmr(
    relevance: ArrayLike,
    similarity: ArrayLike,
    k: int,
    trade: float,
    *,
    rules: Iterable[Rule] = (),
    pinned: Mapping[int, int] | None = None,
) -> Ints:
    r"""Maximal marginal relevance [1]_.

    .. math:: \arg\max_{i \notin S} \; \lambda\, r_i
              - (1 - \lambda) \max_{j \in S} s_{ij}

    for one place after the other, with the second term 0 while S, the list, is empty.

    Parameters
    ----------
    relevance : array, shape (n,)
        On the scale of the similarity: λ weighs one against the other.
    similarity : array, shape (n, n)
    k : int
        Length of the list.
    trade : float
        The λ above, from 0 to 1; at 1 the list is that of `best`.
    rules, pinned
        As of `best`.

    Returns
    -------
    ndarray of int64
        As of `best`.

    Raises
    ------
    ValueError
        As `best`; also where λ lies outside [0, 1].

    References
    ----------
    .. [1] J. Carbonell, J. Goldstein, "The Use of MMR, Diversity-Based Reranking for
       Reordering Documents and Producing Summaries", SIGIR 1998.
       doi:10.1145/290941.291025

    Examples
    --------
    >>> twins = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> mmr([0.9, 0.8, 0.3], twins, k=2, trade=0.5).tolist()
    [0, 2]
    """
    score, alike = _vector(relevance), _square(similarity, len(np.asarray(relevance)))
    if not 0 <= trade <= 1:
        raise ValueError(f"trade must lie in [0, 1], got {trade}")
    nearest = np.full(len(score), -np.inf)

    def gain(chosen: list[int]) -> Floats:
        return trade * score - (1 - trade) * (nearest if chosen else 0.0)

    def add(item: int) -> None:
        np.maximum(nearest, alike[item], out=nearest)

    return _fill(gain, add, len(score), k, rules, pinned)


def dpp(
    relevance: ArrayLike,
    similarity: ArrayLike,
    k: int,
    trade: float,
    *,
    rules: Iterable[Rule] = (),
    pinned: Mapping[int, int] | None = None,
) -> Ints:
    r"""Greedy MAP of a determinantal point process, in O(n k²) [1]_.

    .. math:: \arg\max_{i \notin S} \; \theta\, r_i + (1 - \theta) \left(
              \log\det S_{S \cup \{i\}} - \log\det S_S \right)

    for one place after the other. The bracket is the log of what is left of i's vector
    once its projection on the list's vectors is taken off, squared; a Cholesky factor
    that grows by one row per place keeps it up to date. It is the process with the
    kernel :math:`L = \mathrm{Diag}(e^{\alpha r})\, S\, \mathrm{Diag}(e^{\alpha r})`,
    :math:`\alpha = \theta / (2 (1 - \theta))`.

    Parameters
    ----------
    relevance : array, shape (n,)
    similarity : array, shape (n, n)
        S: symmetric and positive semidefinite, such as the products of vectors of
        length 1.
    k : int
        Length of the list.
    trade : float
        The θ above, from 0 to 1; towards 1 the list becomes that of `best`.
    rules, pinned
        As of `best`.

    Returns
    -------
    ndarray of int64
        As of `best`. Fewer than k where every further candidate lies in the span of
        the list: vectors of length d hold d of them at most.

    Raises
    ------
    ValueError
        As `best`; also where θ lies outside [0, 1), S is not symmetric or its diagonal
        not positive.

    References
    ----------
    .. [1] L. Chen, G. Zhang, E. Zhou, "Fast Greedy MAP Inference for Determinantal
       Point Process to Improve Recommendation Diversity", NeurIPS 2018.
       arXiv:1709.05135

    Examples
    --------
    >>> twins = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    >>> dpp([0.9, 0.8, 0.3], twins, k=2, trade=0.5).tolist()
    [0, 2]
    """
    score, kernel = _vector(relevance), _square(similarity, len(np.asarray(relevance)))
    own = kernel.diagonal()
    if not np.allclose(kernel, kernel.T) or (own <= 0).any():
        raise ValueError("similarity must be symmetric with a positive diagonal")
    if not 0 <= trade < 1:
        raise ValueError(f"trade must lie in [0, 1), got {trade}")
    left = own.copy()  # of each vector's squared length, outside the list's span
    factor = np.zeros((0, len(score)))

    def gain(chosen: list[int]) -> Floats:
        new = np.log(np.maximum(left, TINY * own))
        return np.where(left > TINY * own, trade * score + (1 - trade) * new, -np.inf)

    def add(item: int) -> None:
        nonlocal factor
        if left[item] <= TINY * own[item]:  # pinned, and nothing new
            return
        row = (kernel[item] - factor[:, item] @ factor) / np.sqrt(left[item])
        factor = np.vstack([factor, row])
        np.subtract(left, row**2, out=left)

    return _fill(gain, add, len(score), k, rules, pinned)


def _fill(
    gain: Callable[[list[int]], Floats],
    add: Callable[[int], None],
    n: int,
    k: int,
    rules: Iterable[Rule],
    pinned: Mapping[int, int] | None,
) -> Ints:
    """Fill the places that are not pinned, each with the largest gain allowed."""
    fixed, rules = dict(pinned or {}), list(rules)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    for place, item in fixed.items():
        if not 0 <= place < k or not 0 <= item < n:
            raise ValueError(
                f"candidate {item} is pinned to place {place}: there are {n} "
                f"candidates and {k} places"
            )
    chosen = list(fixed.values())
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"a candidate is pinned to two places: {fixed}")
    for item in chosen:
        add(item)
    while len(chosen) < min(k, n):
        value = np.array(gain(chosen))
        for rule in rules:
            allowed = np.asarray(rule(list(chosen)))
            if allowed.shape != (n,) or allowed.dtype != bool:
                raise ValueError(
                    f"a rule must return {n} bools, got shape {allowed.shape} of "
                    f"{allowed.dtype}"
                )
            value[~allowed] = -np.inf
        value[chosen] = -np.inf
        item = int(np.argmax(value))
        if value[item] == -np.inf:
            break
        chosen.append(item)
        add(item)
    rest = iter(chosen[len(fixed) :])
    order = [fixed[place] if place in fixed else next(rest, None) for place in range(k)]
    return np.array([item for item in order if item is not None], dtype=np.int64)


def _vector(values: ArrayLike) -> Floats:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
        raise ValueError(
            f"relevance must be finite numbers, (n,), at least one, got shape "
            f"{vector.shape}"
        )
    return vector


def _square(values: ArrayLike, n: int) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.shape != (n, n) or not np.isfinite(matrix).all():
        raise ValueError(
            f"similarity must be finite numbers, ({n}, {n}), got shape {matrix.shape}"
        )
    return matrix
