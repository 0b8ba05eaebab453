"""From timed passes to queries a second at a level of recall. Pure functions over what compare.json holds."""

import math
from statistics import median
from typing import NamedTuple

LEVELS = (0.90, 0.95, 0.99)


class Point(NamedTuple):
    """One setting of one row."""

    recall: float
    qps: float  # median over rounds of the median pass
    setting: dict
    latency_us: dict  # p50 and p99 of one query a call


class Rate(NamedTuple):
    """Queries a second at a level of recall, or better."""

    qps: float
    above: bool  # no setting was as low as the level: this is the lowest, which is above it


def points(row, queries):
    """Every judged setting of a row of compare.json."""
    found = []
    for setting in row["settings"]:
        qps = queries / median(median(seconds) for seconds in setting["rounds"])
        found.append(Point(setting["recall"], qps, setting["setting"], setting["latency_us"]))
    return found


def frontier(points):
    """The points that no other beats in both recall and rate, by ascending recall."""
    best = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.qps)):
        if not best or point.qps > best[-1].qps:
            best.append(point)
    return best[::-1]


def rate_at(points, level):
    """The rate at `level`: between the two points of the frontier around it, in log scale. None: never reached."""
    best = frontier(points)
    for low, high in zip(best, best[1:]):
        if low.recall <= level < high.recall:
            share = (level - low.recall) / (high.recall - low.recall)
            return Rate(math.exp((1 - share) * math.log(low.qps) + share * math.log(high.qps)), above=False)
    if not best or best[-1].recall < level:
        return None
    if best[-1].recall == level:
        return Rate(best[-1].qps, above=False)
    return Rate(best[0].qps, above=True)


def latency_at(points, level):
    """Percentiles of the fastest setting that reaches `level`; None: there is none."""
    return next((point.latency_us for point in frontier(points) if point.recall >= level), None)


def spread(row):
    """How far rounds differ: the largest (slowest - fastest) / median over the settings; None of a single round."""
    rounds = [[median(seconds) for seconds in setting["rounds"]] for setting in row["settings"]]
    spreads = [(max(times) - min(times)) / median(times) for times in rounds if len(times) > 1]
    return max(spreads, default=None)


def selftest():
    def made(*pairs):
        return [Point(recall, qps, {}, {"p50": qps}) for recall, qps in pairs]

    line = made((0.80, 1000), (0.90, 100), (1.0, 1))
    assert rate_at(line, 0.90) == Rate(math.exp(math.log(100)), False), "at a point"
    assert math.isclose(rate_at(line, 0.95).qps, 10), "half-way in log scale"
    assert math.isclose(rate_at(line, 0.99).qps, 10 ** (2 * 0.1)), "nine tenths of the way"
    assert rate_at(line, 0.70) == Rate(1000, True), "above the level at its smallest setting"
    assert rate_at(line[:2], 0.95) is None and rate_at([], 0.5) is None, "never reached, never extrapolated"
    assert rate_at(line, 1.0) == Rate(1, False), "the last point"

    # A setting that another beats in both is no part of the curve, in whatever order they come.
    beaten = made((0.95, 40), (0.85, 30), (0.90, 100), (0.90, 90))
    assert [(point.recall, point.qps) for point in frontier(beaten)] == [(0.90, 100), (0.95, 40)], "frontier"
    assert rate_at(beaten, 0.85) == Rate(100, True), "a beaten setting is no anchor"
    assert latency_at(beaten, 0.92) == {"p50": 40} and latency_at(beaten, 0.96) is None, "latency"

    rounds = [[4, 1, 2], [8, 8, 9], [3, 4, 9]]
    row = {"settings": [{"setting": {}, "recall": 0.9, "latency_us": None, "rounds": rounds}]}
    assert points(row, 100)[0].qps == 25, "the median round's median pass"
    assert spread(row) == (8 - 2) / 4 and spread({"settings": []}) is None, "spread"
