"""The tables of one comparison, in Markdown that reads as text: rates, marks, recall by setting, what was lost.

Enters what compare.json holds; leaves text. `report.py compare.json` prints it again.
"""

import json
import sys
from statistics import median
from typing import NamedTuple

import levels
from levels import LEVELS

REFERENCE = "symphonyqg"
NOT_PEERS = ("noop", "kiln")  # beginnings of rows' names
MIB = 1 << 20


class Mark(NamedTuple):
    """What one of Kiln's rows is to reach."""

    name: str
    kind: str  # of Kiln's rows that it is for: "graph" or "ivf"
    against: tuple  # rows; the best of them counts. Empty: of all peers but the reference
    factors: dict  # level of recall -> least ratio of rates
    within_memory: bool = False  # and the index no larger


class BuildMark(NamedTuple):
    against: str
    most: float  # ratio of processor seconds


MARKS = (
    Mark("SymphonyQG, in no more memory", "graph", (REFERENCE,), {0.90: 1.3, 0.95: 1.4, 0.99: 1.5}, True),
    Mark("SymphonyQG, memory free", "graph", (REFERENCE,), {0.90: 1.5, 0.95: 1.7, 0.99: 2.0}),
    Mark("best of the others", "graph", (), {0.90: 2.0, 0.95: 2.0}),
    Mark("Faiss's IVF", "ivf", ("faiss-ivf",), {0.90: 1.3, 0.95: 1.3}),
    Mark("ScaNN", "ivf", ("scann",), {0.90: 1.3, 0.95: 1.3}),
)
BUILD_MARKS = (BuildMark(REFERENCE, 0.4), BuildMark("diskannpy", 0.15))


def kind(name):
    return "ivf" if name.startswith("kiln-ivf") else "graph"


def measured(raw):
    """Rows that have any setting, by name, and their points."""
    rows = {row["row"]: row for row in raw["rows"] if row["settings"]}
    return rows, {name: levels.points(row, raw["dataset"]["queries"]) for name, row in rows.items()}


def derived(raw):
    """The rates for programs: row -> level -> queries a second (0: never reached), and over the reference's."""
    _, curves = measured(raw)
    table = {}
    for name, curve in curves.items():
        table[name] = {}
        for level in LEVELS:
            rate, reference = levels.rate_at(curve, level), rate_or_zero(curves.get(REFERENCE, ()), level)
            qps = rate.qps if rate else 0.0
            over = qps / reference if reference else None
            table[name][short(level)] = {"qps": qps, "above": bool(rate and rate.above), f"over_{REFERENCE}": over}
    return table


def text(raw):
    """The whole report."""
    rows, curves = measured(raw)
    ours = [name for name in rows if name.startswith("kiln")]
    parts = [heading(raw), rates(rows, curves), *notes(raw, rows, curves)]
    if ours:
        parts += ["## Marks", marks(ours, rows, curves)]
    parts += ["## Recall by setting", *(by_setting(name, curves[name]) for name in rows)]
    lost = [f"- {row['row']}: {row['lost']}" for row in raw["rows"] if row["lost"]]
    if lost:
        parts += ["## Lost", "\n".join(lost)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(raw):
    data, host, options = raw["dataset"], raw["host"], raw["options"]
    return "\n".join(
        (
            f"# {data['name']}: {data['rows']:,} x {data['dim']} {data['dtype']}, {data['metric']}",
            "",
            f"recall@{data['k']} of {data['queries']:,} queries; one thread, the whole set in one call; median of "
            f"{options['rounds']} rounds; built with {options['threads_build']} threads.",
            f"{host['processor']}, {host['cpus']} processors, {host['system']}; {raw['started']}.",
        )
    )


# --- Rates -----------------------------------------------------------------------------------------------------------


def rates(rows, curves):
    header = ["row", *(f"QPS at {short(level)}" for level in LEVELS), f"x {REFERENCE}", "p50 / p99 us at .95"]
    header += ["build CPU-s", "wall s", "index MiB", "extra RSS MiB"]
    lines = []
    for name in sorted(rows, key=lambda name: rate_or_zero(curves[name], 0.95), reverse=True):
        latency, built = levels.latency_at(curves[name], 0.95), rows[name]["built"]
        line = [f"{name} ({rows[name]['version']})", *(rate_text(curves[name], level) for level in LEVELS)]
        line.append(" / ".join(ratio_text(curves, name, REFERENCE, level) for level in LEVELS))
        line.append(f"{latency['p50']:,.0f} / {latency['p99']:,.0f}" if latency else "-")
        line += [f"{built['cpu_seconds']:,.1f}", f"{built['wall_seconds']:,.1f}", f"{built['index_bytes'] / MIB:,.1f}"]
        extra = built.get("extra_rss_bytes")
        line.append("-" if extra is None else f"{extra / MIB:,.0f}")
        lines.append(line)
    return table(header, lines)


def rate_or_zero(curve, level):
    rate = levels.rate_at(curve, level)
    return rate.qps if rate else 0.0


def rate_text(curve, level):
    rate = levels.rate_at(curve, level)
    if rate is None:
        return f"max {short(max(point.recall for point in curve), 3)}"
    return f"{rate.qps:,.0f}" + ("*" if rate.above else "")


def ratio_text(curves, name, against, level):
    one, other = (rate_or_zero(curves.get(row, ()), level) for row in (name, against))
    return f"{one / other:.2f}" if one and other else "-"


def notes(raw, rows, curves):
    """What the reader of the table has to know, a line each."""
    if any((levels.rate_at(curve, level) or (0, False))[1] for curve in curves.values() for level in LEVELS):
        yield "`*`: the row is above this recall at its smallest setting; that setting's rate is given."
    spreads = {name: levels.spread(row) for name, row in rows.items()}
    wide = [f"{name} {100 * share:.0f}%" for name, share in spreads.items() if share and share > 0.1]
    if wide:
        yield f"Rounds differ by more than 10% of the median: {', '.join(wide)}."
    busy = [f"{name} {100 * share:.0f}%" for name in rows if (share := usual_share(rows[name])) and share < 0.95]
    if busy:
        yield f"The machine was busy. Share of a processor that rows had, median of their passes: {', '.join(busy)}."
    single = [name for name, row in rows.items() if any(setting["mode"] != "batch" for setting in row["settings"])]
    if single:
        yield f"One query a call, not the whole set, in the timed passes of: {', '.join(single)}."
    if "noop" in curves:
        point = curves["noop"][0]
        yield f"The harness itself: {point.latency_us['p50']:.1f} us a call, {point.qps:,.0f} queries/s for the set."


def usual_share(row):
    """The median over settings and rounds; None where the row does not know."""
    shares = [share for setting in row["settings"] for share in setting["cpu_share"] if share is not None]
    return median(shares) if shares else None


# --- Marks -----------------------------------------------------------------------------------------------------------


def marks(ours, rows, curves):
    lines = []
    for name in ours:
        lines += [[name, mark.name, *rate_mark(mark, name, rows, curves)] for mark in MARKS if mark.kind == kind(name)]
        if kind(name) == "graph":
            lines += [[name, f"build CPU-s of {mark.against}", *build_mark(mark, name, rows)] for mark in BUILD_MARKS]
    return table(["row", "against", "at", "wanted", "is", "verdict"], lines, left=(0, 1, 5))


def rate_mark(mark, name, rows, curves):
    """(at, wanted, is, verdict): a figure a level, between slashes."""
    against = [row for row in mark.against or others(rows) if row in rows]
    ratios, verdicts = [], []
    for level, factor in mark.factors.items():
        best = max((rate_or_zero(curves[row], level) for row in against), default=0.0)
        own = rate_or_zero(curves[name], level)
        ratios.append(f"{own / best:.2f}" if own and best else rate_text(curves[name], level) if not own else "-")
        verdicts.append("not known" if not best else "met" if own >= factor * best else "missed")
    verdict = " / ".join(verdicts)
    if mark.within_memory and against:
        own, allowed = (rows[row]["built"]["index_bytes"] for row in (name, *against))
        if own > allowed:
            verdict = f"missed: index of {own / MIB:,.0f} MiB against {allowed / MIB:,.0f}"
    wanted = " / ".join(f"{factor:.1f}" for factor in mark.factors.values())
    return " / ".join(map(short, mark.factors)), f">= {wanted}", " / ".join(ratios), verdict


def build_mark(mark, name, rows):
    wanted = f"<= {mark.most:.2f}"
    if mark.against not in rows:
        return "-", wanted, "-", "not known"
    ratio = rows[name]["built"]["cpu_seconds"] / rows[mark.against]["built"]["cpu_seconds"]
    return "-", wanted, f"{ratio:.2f}", "met" if ratio <= mark.most else "missed"


def others(rows):
    return [name for name in rows if name != REFERENCE and not name.startswith(NOT_PEERS)]


# --- Text ------------------------------------------------------------------------------------------------------------


def by_setting(name, curve):
    words = []
    for point in curve:
        setting = " ".join(f"{key} {value}" for key, value in point.setting.items())
        words.append(f"{setting}: {short(point.recall, 3)} ({point.qps:,.0f})")
    return f"**{name}** " + "; ".join(words)


def short(share, digits=2):
    """.90, as the field writes recall."""
    return f"{share:.{digits}f}".removeprefix("0")


def table(header, lines, left=(0,)):
    """Markdown with aligned columns: those of `left` to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (header, *lines)) for column in range(len(header))]
    rule = ["-" * width if column in left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]

    def row(cells):
        columns = enumerate(zip(cells, widths))
        padded = (cell.ljust(width) if column in left else cell.rjust(width) for column, (cell, width) in columns)
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(row, (header, rule, *lines)))


def selftest():
    def row(name, index_mib, cpu_seconds, *pairs, **more):
        told = dict(latency_us={"p50": 9, "p99": 99}, mode="batch", cpu_share=[1.0])
        settings = [
            told | dict(setting={"ef": number}, recall=recall, rounds=[[100 / qps]])
            for number, (recall, qps) in enumerate(pairs)
        ]
        built = dict(index_bytes=index_mib * MIB, cpu_seconds=cpu_seconds, wall_seconds=1.0)
        return dict(row=name, version="1", built=built, settings=settings, lost=None) | more

    raw = dict(
        dataset=dict(name="made", rows=5, dim=2, dtype="uint8", metric="euclidean", queries=100, k=10),
        host=dict(processor="a processor", cpus=2, system="a system"),
        options=dict(rounds=1, threads_build=2),
        started="today",
        rows=[
            row("symphonyqg", 100, 100.0, (0.8, 3000), (0.90, 1000), (0.95, 500), (0.99, 100)),
            row("faiss-ivf", 50, 10.0, (0.96, 400)),
            row("kiln-a", 100, 30.0, (0.90, 1400), (0.95, 690), (0.97, 600)),
            row("kiln-b", 101, 50.0, (0.90, 1600), (0.95, 900), (0.99, 210)),
            row("kiln-ivf", 1, 1.0, (0.90, 600), (0.95, 520), (0.96, 500)),
            row("gone", 0, 0.0, lost="killed by SIGKILL"),
        ],
    )
    report = text(raw)
    flat = [" ".join(line.replace("|", " ").split()) for line in report.splitlines()]
    for line in (
        "kiln-a SymphonyQG, in no more memory .90 / .95 / .99 >= 1.3 / 1.4 / 1.5 1.40 / 1.38 / max .970 "
        "met / missed / missed",
        "kiln-b SymphonyQG, in no more memory .90 / .95 / .99 >= 1.3 / 1.4 / 1.5 1.60 / 1.80 / 2.10 "
        "missed: index of 101 MiB against 100",
        "kiln-b SymphonyQG, memory free .90 / .95 / .99 >= 1.5 / 1.7 / 2.0 1.60 / 1.80 / 2.10 met / met / met",
        "kiln-b best of the others .90 / .95 >= 2.0 / 2.0 4.00 / 2.25 met / met",
        "kiln-a build CPU-s of symphonyqg - <= 0.40 0.30 met",
        "kiln-a build CPU-s of diskannpy - <= 0.15 - not known",
        "kiln-ivf Faiss's IVF .90 / .95 >= 1.3 / 1.3 1.50 / 1.30 met / met",
        "kiln-ivf ScaNN .90 / .95 >= 1.3 / 1.3 - / - not known / not known",
        "- gone: killed by SIGKILL",
        "faiss-ivf (1) 400* 400* max .960 0.40 / 0.80 / - 9 / 99 10.0 1.0 50.0 -",
    ):
        assert line in flat, f"{line}\nis not in\n{report}"
    assert derived(raw)["kiln-b"][".99"] == {"qps": 210.0, "above": False, "over_symphonyqg": 2.1}, "for programs"
    assert "kiln-ivf SymphonyQG" not in " ".join(flat), "marks of graphs are not for lists"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: report.py compare.json")
    with open(sys.argv[1]) as file:
        print(text(json.load(file)), end="")
