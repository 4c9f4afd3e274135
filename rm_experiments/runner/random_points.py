"""Points drawn at random. The i-th one depends on the seed and i only, so a search that goes on repeats none."""

from __future__ import annotations

import random
from collections.abc import Iterable

from rm_experiments.config.search_space import Space, num_points
from rm_experiments.runner.search import Point

_MOST_DRAWS = 10_000


class RandomPoints:
    """A `Source` that learns nothing."""

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._next = 0
        self._known: set[tuple[str, ...]] = set()

    def earlier(self) -> Iterable[Point]:
        """None: asked again, it gives the same ones."""
        return ()

    def ask(self) -> Point | None:
        """The next point that was not drawn before."""
        if len(self._known) == num_points(self._space):
            return None
        for _ in range(_MOST_DRAWS):
            values = self._draw(self._next)
            self._next += 1
            if (key := tuple(values.values())) not in self._known:
                self._known.add(key)
                return Point(values=values)
        return None

    def _draw(self, index: int) -> dict[str, str]:
        # A generator per key: one more dimension does not change the others.
        return {key: one.at(random.Random(f"{self._seed}/{index}/{key}").random()) for key, one in self._space.items()}

    def report(self, point: Point, evaluation: int, value: float) -> str | None:
        """Nothing is stopped."""
        return None

    def tell(self, point: Point, value: float | None, pruned: bool) -> None:
        """Nothing is learned."""
