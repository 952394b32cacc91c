"""Medians and percentiles of samples."""

from statistics import median

__all__ = ["median", "percentile", "summary"]


def percentile(values, share):
    ordered = sorted(values)
    return ordered[round((len(ordered) - 1) * share)]


def summary(values):
    return {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "count": len(values)}
