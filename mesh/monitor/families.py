"""Metrics as ``prometheus_client`` has them. Imported by it alone, for those who have it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING

from mesh.errors import ConfigError
from mesh.monitor.tally import BOUNDS, Pair, Spread, Tally

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

__all__ = ["Families", "exposition", "require_prometheus"]


def require_prometheus() -> None:
    """Raises ``ConfigError`` if the library is not there."""
    try:
        import prometheus_client  # noqa: F401
    except ImportError as error:
        raise ConfigError("metrics need it: pip install 'jobmesh[prometheus]'") from error


class Families:
    """Collects metrics: those of one name, whoever gives them, are one family."""

    def __init__(self) -> None:
        """Raises ``ConfigError`` if the library is not there."""
        require_prometheus()
        self._families: dict[str, Metric] = {}

    def gauge(self, name: str, text: str, value: float, **labels: str) -> None:
        self._family(name, text, "gauge").add_sample(name, labels, value)

    def counter(self, name: str, text: str, value: float, **labels: str) -> None:
        """``name`` without ``_total``."""
        self._family(name, text, "counter").add_sample(f"{name}_total", labels, value)

    def spread(self, name: str, text: str, spread: Spread, **labels: str) -> None:
        family = self._family(name, text, "histogram")
        bounds = [*map(str, BOUNDS), "+Inf"]
        for bound, count in zip(bounds, accumulate(spread.counts), strict=True):
            family.add_sample(f"{name}_bucket", labels | {"le": bound}, count)
        family.add_sample(f"{name}_count", labels, sum(spread.counts))
        family.add_sample(f"{name}_sum", labels, spread.sum)

    def tally(self, prefix: str, tally: Tally, texts: Mapping[str, str], **labels: str) -> None:
        """What was counted, under names that begin with ``prefix``; ``texts`` describes those
        that are wanted."""

        def named(pair: Pair) -> dict[str, str]:
            return labels | {"handler": pair[0], "lane": pair[1]}

        for what, counts in (
            ("jobs_enqueued", tally.enqueued),
            ("attempts_started", tally.started),
        ):
            for pair, count in counts.items() if what in texts else ():
                self.counter(f"{prefix}_{what}", texts[what], count, **named(pair))
        for (handler, lane, outcome), count in tally.ended.items():
            given = named((handler, lane)) | {"outcome": outcome}
            self.counter(f"{prefix}_attempts_ended", texts["attempts_ended"], count, **given)
        for what, spreads in (
            ("attempt_duration_seconds", tally.durations),
            ("attempt_wait_seconds", tally.waits),
        ):
            for pair, spread in spreads.items():
                self.spread(f"{prefix}_{what}", texts[what], spread, **named(pair))

    def collect(self) -> Iterator[Metric]:
        yield from self._families.values()

    def _family(self, name: str, text: str, kind: str) -> Metric:
        from prometheus_client.metrics_core import Metric

        family = self._families.get(name)
        if family is None:
            family = self._families[name] = Metric(name, text, kind)
        return family


def exposition(families: Families) -> tuple[bytes, str]:
    """The metrics, and those of the process itself, in Prometheus' text format, and its content
    type."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    python = ".".join(map(str, sys.version_info[:3]))
    text = "The version of jobmesh and of Python."
    families.gauge("jobmesh_build_info", text, 1, version=version("jobmesh"), python=python)
    return generate_latest(_Both([families, _process()])), CONTENT_TYPE_LATEST


class _Both:
    def __init__(self, parts: Sequence[Families | CollectorRegistry]) -> None:
        self._parts = parts

    def collect(self) -> Iterable[Metric]:
        for part in self._parts:
            yield from part.collect()


@cache
def _process() -> CollectorRegistry:
    from prometheus_client import CollectorRegistry, ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
