"""Filters of a search: the same for every engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FILTERS = ("category", "brand", "color", "material")


@dataclass(frozen=True)
class Filters:
    """Which products a search may return; a product must pass all filters.

    Attributes:
        values: Field of `FILTERS` → accepted values, compared without case; "shoes" also accepts every category below
            shoes. No value accepts nothing.
        min_price, max_price: Lowest and highest price; None for no limit. A product without a price passes only
            without limits.
        available: Whether only products that are in stock pass; those of unknown stock do not.

    Raises:
        ValueError: a field is not in `FILTERS`, or the price range is invalid.
    """

    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    min_price: float | None = None
    max_price: float | None = None
    available: bool = False

    def __post_init__(self) -> None:
        for name in self.values:
            if name not in FILTERS:
                raise ValueError(f"'{name}' is not a filter; the filters are {', '.join(FILTERS)}")
        if self.has_price_limit and not 0 <= self.lowest <= self.highest:
            raise ValueError(
                f"prices from {self.lowest:g} to {self.highest:g}: give min_price ≤ max_price, 0 or more"
            )

    @property
    def has_price_limit(self) -> bool:
        """Whether prices are limited."""
        return self.min_price is not None or self.max_price is not None

    @property
    def lowest(self) -> float:
        """The lowest accepted price; 0 without a limit."""
        return 0.0 if self.min_price is None else self.min_price

    @property
    def highest(self) -> float:
        """The highest accepted price; infinite without a limit."""
        return float("inf") if self.max_price is None else self.max_price


NO_FILTERS = Filters()
