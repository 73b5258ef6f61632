"""What came of a soak, as text and as a picture."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chalicelib.base.metrics import METRICS
from tests.soak.balance import Row, table
from tests.soak.picture import Panel, draw
from tests.soak.samples import FLAT_MB, FLAT_MB_PER_HOUR, Sample, Trend, lag_seconds, trends
from tests.soak.sender import SoakSender
from tests.soak.troubles import Notes

SPAN_SECONDS = 10.0  # over which rates are told, and faults counted
STATEFUL = ("cloud", "soak")  # the first holds the tables, the second what was sent: they grow with the events


@dataclass(frozen=True, slots=True)
class Result:
    """All that is told."""

    options: argparse.Namespace
    sender: SoakSender
    seconds: float  # of sending
    samples: Sequence[Sample]
    notes: Notes
    faults: Sequence[tuple[float, str, str]]
    runs: Sequence[str]  # of the hourly workflow
    left: Sequence[str]  # what did not drain
    alarms: Mapping[str, int]  # metrics of the app's that should be 0
    rows: Sequence[Row]

    @property
    def sending(self) -> list[Sample]:
        """The samples of the time of the traffic."""
        return [sample for sample in self.samples if sample.at <= self.seconds]

    @property
    def growing(self) -> list[Trend]:
        """Processes whose memory is not flat."""
        return [trend for trend in trends(self.sending) if not trend.is_flat and trend.process not in STATEFUL]


def tell(result: Result) -> int:
    """Print it, draw it, and return the exit code."""
    sent, outcome = result.sender.sent, result.sender.outcome
    wrong = [row for row in result.rows if row.difference]
    lags = lag_seconds(result.sending)
    rate = sent.total / max(result.seconds, 1e-9)
    print(
        f"\n{sent.total:,} events acknowledged in {result.seconds:.0f} s, "
        f"{rate:.0f}/s of the {result.options.rate:g}/s that were asked for"
    )
    print(
        f"{sent.requests:,} requests, {outcome.retries:,} retries, {outcome.duplicates:,} events delivered again, "
        f"{sent.copies.total():,} of them in other groups, {sent.refused.total():,} refused on purpose"
    )
    if held := result.sender.held_seconds:
        print(f"The machine is too slow for this rate: for {held:.0f} s nothing was sent, because too much waited")
    print(f"faults: {_listed(Counter(kind for _, kind, _ in result.faults))}")
    print(f"besides: {_listed(Counter(f'{kind} {where}' for _, kind, where in result.notes.done))}")
    if lags:
        print(f"dashboards lag: median {sorted(lags)[len(lags) // 2]:.0f} s, at most {max(lags):.0f} s")
        print(f"queue: at most {max(sample.queued for sample in result.sending):,} messages")
    print(f"memory in the second half (flat: below {FLAT_MB_PER_HOUR:g} MB/h, or {FLAT_MB:g} MB in all):")
    for trend in trends(result.sending):
        verdict = "holds what was sent" if trend.process in STATEFUL else "flat" if trend.is_flat else "GROWS"
        print(
            f"  {trend.process:<11}{trend.last_mb:7.0f} MB  {trend.mb_per_hour:+8.0f} MB/h "
            f"over {trend.seconds:.0f} s  {verdict}"
        )
    for reason, number in sent.unexpected.most_common(5):
        print(f"REFUSED: {number} events, {reason}")
    for failure in result.sender.outcome.failures[:5]:
        print(f"NOT DELIVERED: {failure}")
    for name, number in sorted(result.alarms.items()):
        print(f"ALARM: {name} {number:,}: {METRICS[name][1]}")
    for what in result.left:
        print(f"NOT SETTLED: {what}")
    picture = result.options.folder / "soak.svg"
    picture.write_text(drawn(result))
    print(f"picture: {picture}")
    if wrong:
        print(f"\n{len(wrong)} of {len(result.rows)} numbers differ:\n\n{table(result.rows)}\n")
    elif not result.left:
        print(f"Exact: {len(result.rows):,} numbers of {sent.total:,} events agree, and none differs.")
    bad = wrong or result.left or result.alarms or result.growing or sent.unexpected or outcome.failures
    return 1 if bad or not sent.total else 0


def drawn(result: Result) -> str:
    """The picture."""
    samples, began = result.samples, result.notes.began_at
    seconds = samples[-1].at if samples else 0.0
    calls = Counter(int((at - began) // SPAN_SECONDS) for at, _, _ in result.faults)
    marks = {kind: [at for at, of, _ in result.notes.done if of == kind] for kind in ("killed", "hourly workflow")}
    processes = sorted({name for sample in samples for name in sample.memory_mb})
    title = (
        f"soak, seed {result.options.seed}: {result.sender.sent.total:,} events in {result.seconds / 60:.0f} minutes"
    )
    panels = [
        Panel(
            "events a second",
            {
                "acknowledged": _rates([(sample.at, sample.acknowledged) for sample in samples]),
                "shown": _rates([(sample.at, sample.shown) for sample in samples]),
            },
            {"traffic ends": [result.seconds]},
        ),
        Panel(
            "dashboards lag, seconds", {"lag": list(zip((s.at for s in samples), lag_seconds(samples), strict=True))}
        ),
        Panel("messages in the queue", {"queued": [(s.at, s.queued) for s in samples]}),
        Panel(
            "memory, MB",
            {name: [(s.at, s.memory_mb[name]) for s in samples if name in s.memory_mb] for name in processes},
        ),
        Panel(
            f"faults in {SPAN_SECONDS:.0f} seconds",
            {"calls and invocations": [((span + 0.5) * SPAN_SECONDS, count) for span, count in sorted(calls.items())]},
            marks,
            bars=True,
        ),
    ]
    return draw(title, panels, seconds)


def _rates(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    rates, first = [], 0
    for at, value in points:
        while at - points[first][0] > SPAN_SECONDS:
            first += 1
        then, before = points[first]
        if at > then:
            rates.append((at, (value - before) / (at - then)))
    return rates


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none"
