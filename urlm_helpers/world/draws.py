"""The random draws behind the simulated app: streams, rotations, views, births."""

import numpy as np

from urlm_helpers.data.arrays import Floats, Ints, Singles
from urlm_helpers.world.knobs import Knobs

EVERYWHERE = -1  # the home of a user or an item that all scenarios share
SEGMENT_COLUMNS = 3  # features whose signs cut the users into segments
# a random stream for each purpose, numbered from 1
STREAMS = ("users", "items", "friends", "taste", "maps", "log", "sample", "segments")


def generator(knobs: Knobs, what: str, number: int = 0) -> np.random.Generator:
    """Return the world's random stream for one purpose."""
    return np.random.default_rng([knobs.seed, STREAMS.index(what) + 1, number])


def normal(rng: np.random.Generator, *shape: int) -> Singles:
    """Draw standard normals and round them to float32."""
    return rng.standard_normal(shape).astype(np.float32)


def orthogonal(rng: np.random.Generator, size: int) -> Floats:
    """Draw a rotation or reflection, uniform over all of them, (size, size)."""
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    signed = q * np.sign(np.diag(r))  # makes the factorisation unique
    return signed.astype(np.float32).astype(np.float64)


def taste_maps(knobs: Knobs) -> Floats:
    r"""Return how scenarios and tasks turn a user's taste, (3, 3, latents, latents).

    .. math:: A_{s,t} = M_s T_t, \quad M_s = \cos\theta\, I + \sin\theta\, Q_s,
              \quad T_t = \cos\varphi\, I + \sin\varphi\, Q_t, \quad T_{click} = I

    with random orthogonal Q: at θ = 0 all scenarios share one taste, at φ = 0 all
    tasks do. A Q that happens to keep much of a taste helps the logging policy, which
    knows no scenario: click rates of a scenario differ between seeds.
    """
    rng, one = generator(knobs, "maps"), np.eye(knobs.latents)

    def turned(angle: float) -> Floats:
        q = orthogonal(rng, knobs.latents)
        return np.cos(angle) * one + np.sin(angle) * q

    scenario = [turned(knobs.scenario_shift) for _ in range(3)]
    task = [one, turned(knobs.task_shift), turned(knobs.task_shift)]
    maps = [[np.einsum("ij,jk->ik", m, t) for t in task] for m in scenario]
    return np.array(maps).astype(np.float32).astype(np.float64)


def segment_tables(knobs: Knobs) -> Floats:
    r"""Return what segments of users make of categories of items, beside their taste.

    .. math:: E_{s,t} = \cos\varphi\, (\cos\theta\, C + \sin\theta\, C_s)
              + \sin\varphi\, (\cos\theta\, D_t + \sin\theta\, D_{s,t}),
              \quad E_{s,click} = \cos\theta\, C + \sin\theta\, C_s

    with random tables whose rows and columns sum to 0, so that no segment and no
    category is better than another, and whose entries have variance 1: scenarios and
    tasks agree as much as they do in their maps.

    Returns
    -------
    ndarray, shape (3, 3, segments, item_features)
    """
    rng, theta = generator(knobs, "segments"), knobs.scenario_shift
    shape = 2 ** min(SEGMENT_COLUMNS, knobs.user_features), knobs.item_features

    def table() -> Floats:
        drawn = rng.standard_normal(shape)
        drawn -= drawn.mean(axis=0)
        drawn -= drawn.mean(axis=1, keepdims=True)
        return drawn / max(np.sqrt(np.mean(drawn**2)), 1e-12)

    def turned(shared: Floats) -> list[Floats]:
        return [np.cos(theta) * shared + np.sin(theta) * table() for _ in range(3)]

    click, like, buy = (turned(table()) for _ in range(3))
    phi = knobs.task_shift
    tables = [
        [c, *(np.cos(phi) * c + np.sin(phi) * other for other in others)]
        for c, *others in zip(click, like, buy, strict=True)
    ]
    return np.array(tables).astype(np.float32).astype(np.float64)


def view(rng: np.random.Generator, columns: int, latents: int) -> Floats:
    """Return the matrix that turns a taste into features, (columns, latents).

    Its columns are orthogonal (its rows, where there are fewer columns than latents)
    and a feature's variance is 1 on average before noise.
    """
    size = max(columns, latents)
    return orthogonal(rng, size)[:columns, :latents] * np.sqrt(size / latents)


def seen_through(matrix: Floats, noise: float) -> tuple[Floats, Floats]:
    r"""Return mean map and covariance of a taste given its noisy features.

    For :math:`z \sim N(0, I)` and :math:`x = W z + \sigma\varepsilon`,

    .. math:: E[z \mid x] = \frac{W^\top x}{c + \sigma^2}, \qquad
              \mathrm{Cov}[z \mid x] = I - \frac{W^\top W}{c + \sigma^2}

    where c is the one eigenvalue of :math:`W W^\top` that is not 0.

    Returns
    -------
    mean : ndarray, shape (latents, columns)
    covariance : ndarray, shape (latents, latents)
    """
    columns, latents = matrix.shape
    scale = max(columns, latents) / latents + noise**2
    gram = np.einsum("ci,cj->ij", matrix, matrix)
    return matrix.T / scale, np.eye(latents) - gram / scale


def homes(
    rng: np.random.Generator, n: int, overlap: float, traffic: tuple[float, ...]
) -> Ints:
    """Draw where each id lives: everywhere, or in one scenario by its traffic."""
    edges = np.cumsum(traffic) / np.sum(traffic)
    home = np.minimum(np.searchsorted(edges, rng.random(n), side="right"), 2)
    return np.where(rng.random(n) < overlap, EVERYWHERE, home).astype(np.int64)


def births(rng: np.random.Generator, n: int, late: float, days: int) -> Ints:
    """Draw the day of birth: 0, or for a share `late` any later day."""
    later, day = rng.random(n) < late, rng.integers(1, max(days, 2), n)
    return np.where(later & (days > 1), day, 0).astype(np.int64)


def tastes(
    rng: np.random.Generator, n: int, matrix: Floats, noise: float
) -> tuple[Singles, Singles, Singles]:
    """Draw tastes, their noisy features, and the mean taste given the features."""
    columns, latents = matrix.shape
    taste = normal(rng, n, latents)
    clean = np.einsum("nk,ck->nc", taste, matrix)
    features = (clean + noise * normal(rng, n, columns)).astype(np.float32)
    guess = np.einsum("nc,kc->nk", features, seen_through(matrix, noise)[0])
    return taste, features, guess.astype(np.float32)


class Pool:
    """Who or what can turn up in one scenario on each day, in order of birth."""

    def __init__(
        self, born: Ints, home: Ints, weight: Floats, scenario: int, days: int
    ) -> None:
        here = np.flatnonzero((home == EVERYWHERE) | (home == scenario))
        self.ids = here[np.argsort(born[here], kind="stable")]
        self.alive = np.cumsum(np.bincount(born[here], minlength=days))
        self.reach = np.cumsum(weight[self.ids])

    def weighted(self, day: Ints, u: Floats) -> Ints:
        """Pick an id alive on each `day` with its weight, by the uniforms `u`."""
        last = self.alive[day] - 1
        found = np.searchsorted(self.reach, u * self.reach[last], side="right")
        return self.ids[np.minimum(found, last)]

    def spread(self, day: Ints, start: Floats, u: Floats) -> Ints:
        """Pick different ids alive on each `day`: one from each of equal stretches.

        `start` (rows,) says where the first stretch begins and `u` (rows, picks)
        where in its stretch each pick lies, so that every id is equally likely.
        """
        picks, alive = u.shape[1], self.alive[day][:, None]
        length = alive // picks
        inside = (u * length).astype(np.int64) + np.arange(picks) * length
        return self.ids[((start[:, None] * alive).astype(np.int64) + inside) % alive]
