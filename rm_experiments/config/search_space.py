"""What a search varies: Hydra's sweep syntax as dimensions with a kind, bounds and texts to type."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rm_experiments.config.changes import is_free
from rm_experiments.config.schema import RunConfig
from rm_experiments.errors import ConfigError

REFUSED = (ConfigError, HydraException, OmegaConfBaseException, AssertionError)
"""What composing raises for values that do not go together; OmegaConf asserts that a section is not null."""
_DIGITS = 4
_EXAMPLE = "'optimizer.lr=tag(log,interval(1e-5,1e-3))'"


@dataclass(frozen=True)
class Choices:
    """Values without an order, as they are typed."""

    values: tuple[str, ...]

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return len(self.values)

    @property
    def ends(self) -> list[str]:
        """What is composed before anything runs."""
        return list(self.values)

    def at(self, share: float) -> str:
        """The value at a share in [0, 1) of the dimension."""
        return self.values[int(share * len(self.values))]

    def text(self, value: str | float) -> str:
        """A value as it is typed."""
        return str(value)


@dataclass(frozen=True)
class Numbers:
    """Numbers between two bounds, both of which are possible."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: float | None = None
    """Between neighbours; None: 1 for whole numbers, else none."""

    @property
    def size(self) -> int | None:
        """How many values there are; None: any number of them."""
        step = self.step or (1 if self.integer else None)
        return None if step is None else round((self.high - self.low) / step) + 1

    @property
    def ends(self) -> list[str]:
        """What is composed before anything runs."""
        return [self.text(self.low), self.text(self.high)]

    def at(self, share: float) -> str:
        """The value at a share in [0, 1) of the dimension."""
        size = self.size
        if size is not None and not self.log:
            return self.text(self.low + int(share * size) * (self.step or 1))
        # A whole number stands for the half unit on either side of it.
        half = 0.5 if self.integer else 0.0
        low, high = self.low - half, self.high + half
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        return self.text(min(max(value, self.low), self.high))

    def text(self, value: str | float) -> str:
        """A value as it is typed: numbers with four significant digits, so that names stay readable."""
        if self.integer:
            return str(round(float(value)))
        digits = 10 if self.step is not None else _DIGITS
        return repr(min(max(float(f"{float(value):.{digits}g}"), self.low), self.high))


Dimension = Choices | Numbers
Space = dict[str, Dimension]


def read_space(overrides: Sequence[Override]) -> tuple[Space, list[str]]:
    """What is searched, by its key, and the overrides that all runs share. The last one for a key counts.

    Raises:
        ConfigError: for bounds that make no sense, and when nothing is searched.
    """
    space: Space = {}
    fixed: dict[str, str] = {}
    for one in overrides:
        key, line = one.get_key_element(), str(one.input_line)
        space.pop(key, None)
        fixed.pop(key, None)
        if not one.is_sweep_override():
            fixed[key] = line
            continue
        bare = key.lstrip("+")
        if is_free(bare) or bare == "name":
            raise ConfigError(f"{line}: does not change what a run gives; choose one value")
        space[key] = _dimension(one, line)
    if not space:
        raise ConfigError(f"a search needs something to search; type for example {_EXAMPLE}")
    return space, list(fixed.values())


def _dimension(override: Override, line: str) -> Dimension:
    value = override.value()
    log = "log" in getattr(value, "tags", ())
    if strange := sorted(set(getattr(value, "tags", ())) - {"log"}):
        raise ConfigError(f"{line}: the tag {strange[0]} means nothing here; allowed is log")
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"{line}: an interval has two finite bounds, the lower one first")
        if log and low <= 0:
            raise ConfigError(f"{line}: on a log scale the bounds are above 0")
        return Numbers(low, high, log=log, integer=isinstance(low, int) and isinstance(high, int))
    if log:
        raise ConfigError(f"{line}: only an interval can have a log scale, as in {_EXAMPLE}")
    if isinstance(value, RangeSweep) and value.step > 0:
        found = list(value.range())
        if len(found) > 1:
            whole = all(isinstance(one, int) for one in found)
            return Numbers(found[0], found[-1], integer=whole, step=found[1] - found[0])
    texts = tuple(dict.fromkeys(override.sweep_string_iterator()))
    if not texts:
        raise ConfigError(f"{line}: holds no value")
    return Choices(texts)


def num_points(space: Space) -> int | None:
    """How many points there are; None: any number of them."""
    sizes = [one.size for one in space.values()]
    return None if None in sizes else math.prod(one for one in sizes if one is not None)


def typed(point: dict[str, str]) -> list[str]:
    """A point as overrides."""
    return [f"{key}={value}" for key, value in point.items()]


def check_space(compose: Callable[[list[str]], RunConfig], space: Space, fixed: list[str]) -> RunConfig:
    """Compose the first point, and every choice and bound with the others at their first or their last value.

    Returns:
        The config of the first point.

    Raises:
        ConfigError, or another of `REFUSED`: for a value that would be refused in any run.
    """
    first = {key: one.ends[0] for key, one in space.items()}
    last = {key: one.ends[-1] for key, one in space.items()}
    for key, dimension in space.items():
        for value in dimension.ends:
            if (error := _refused(compose, fixed, first | {key: value})) is None:
                continue
            if _refused(compose, fixed, last | {key: value}) is None:
                continue
            if isinstance(dimension, Numbers) and not dimension.integer and dimension.step is None:
                whole = {key: str(round(float(value)))}
                if _refused(compose, fixed, first | whole) is None or _refused(compose, fixed, last | whole) is None:
                    raise ConfigError(f"{key}={value}: is a whole number; try '{key}=int(interval(...))'")
            raise error
    found = compose([*fixed, *typed(first)]) if _refused(compose, fixed, first) is None else None
    return found or compose([*fixed, *typed(last)])


def _refused(compose: Callable[[list[str]], RunConfig], fixed: list[str], point: dict[str, str]) -> Exception | None:
    try:
        compose([*fixed, *typed(point)])
    except REFUSED as error:
        return error
    return None
