"""Metrics in Prometheus' text format, as servers show them."""

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from harness.errors import HarnessError


def samples(text: str) -> list[Sample]:
    """Return all samples of a server's metrics.

    Raises:
        HarnessError: if the text is none of that format.

    """
    try:
        return [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]
    except ValueError as error:
        raise HarnessError(f"the server's metrics are no metrics: {str(error)[:80]!r}") from None


def states(text: str, gauge: str) -> dict[str, float]:
    """Return the values of a gauge by its label ``state``; raises as ``samples``."""
    return {
        sample.labels["state"]: sample.value for sample in samples(text) if sample.name == gauge
    }
