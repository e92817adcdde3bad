"""What other processes tell: their metrics, read as Prometheus does, and summed.

Used by `check-dedup status`, by the bench and by the tests.
"""

import urllib.request
from collections.abc import Iterable
from typing import Final, Self

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS: Final = 5.0
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"

Labels = tuple[tuple[str, str], ...]


class Scrape:
    """The numbers of one or several processes."""

    def __init__(self, texts: Iterable[str]) -> None:
        """Parse scrapes in Prometheus's text format."""
        self.samples: list[tuple[str, dict[str, str], float]] = [
            (sample.name, sample.labels, sample.value)
            for text in texts
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    @classmethod
    def of(cls, *urls: str) -> Self:
        """Read endpoints; one that does not answer is left out."""
        return cls(text for url in urls if (text := read(url)) is not None)

    def total(self, name: str, **labels: str) -> float:
        """Sum a series over all that has these labels; 0 where there is none."""
        return sum(self.values(name, **labels))

    def values(self, name: str, **labels: str) -> list[float]:
        """Give the values of all that has these labels."""
        wanted = labels.items()
        ours = ((given, value) for found, given, value in self.samples if found == name)
        return [value for given, value in ours if wanted <= given.items()]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Sum a series by these labels."""
        sums: dict[tuple[str, ...], float] = {}
        for found, given, value in self.samples:
            if found == name:
                key = tuple(given.get(label, "") for label in labels)
                sums[key] = sums.get(key, 0.0) + value
        return sums


def read(url: str, accept: str = "text/plain") -> str | None:
    """Give what an endpoint says; None where it does not answer."""
    try:
        request = urllib.request.Request(url, headers={"Accept": accept})  # noqa: S310 - ours
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text
    except (OSError, ValueError):
        return None
