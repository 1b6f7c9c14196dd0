"""The metrics of several worker processes as those of one service."""

from collections import Counter
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from typing_extensions import override

_SUMMED = frozenset({"counter", "histogram"})
_GAUGES: dict[str, Callable[[Iterable[float]], float]] = {
    "dispatcher_in_flight": sum,
    "dispatcher_tick_timestamp_seconds": min,
}
"""How a gauge is merged. The others describe the whole database, or are 0 or 1: the highest value counts."""
Key = tuple[str, tuple[tuple[str, str], ...]]
"""A series: its name and labels."""


class MergedMetrics(Collector):
    """Merges what the processes last said. What a process had counted when it ended is kept, because no counter may fall."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self._latest: dict[int, list[Metric]] = {}
        self._ended: Counter[Key] = Counter()

    def update(self, process: int, text: str) -> None:
        """Takes the metrics of a process, in Prometheus' text format."""
        # Without the times at which counters were created: in OpenMetrics their names would clash with the counters'.
        self._latest[process] = [
            family for family in text_string_to_metric_families(text) if not family.name.endswith("_created")
        ]

    def end(self, process: int) -> None:
        """Records that the process has ended; the next one with its number begins at 0."""
        for family in self._latest.pop(process, ()):
            if family.type in _SUMMED:
                self._ended.update({_key(sample.name, sample.labels): sample.value for sample in family.samples})

    @override
    def collect(self) -> Iterable[Metric]:
        families: dict[str, list[Metric]] = {}
        for process in sorted(self._latest):
            for family in self._latest[process]:
                families.setdefault(family.name, []).append(family)
        return [self._merge(same) for same in families.values()]

    def _merge(self, same: list[Metric]) -> Metric:
        first = same[0]
        merged = Metric(first.name, first.documentation, first.type)
        is_summed = first.type in _SUMMED
        combine = sum if is_summed else _GAUGES.get(first.name, max)
        values: dict[Key, list[float]] = {}
        for sample in (sample for family in same for sample in family.samples):
            values.setdefault(_key(sample.name, sample.labels), []).append(sample.value)
        for (name, labels), found in values.items():
            ended = self._ended[name, labels] if is_summed else 0.0
            merged.add_sample(name, dict(labels), combine(found) + ended)
        return merged


def _key(name: str, labels: dict[str, str]) -> Key:
    return name, tuple(labels.items())
