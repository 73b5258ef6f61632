import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.access.quota_table import QuotaTable
from chalicelib.access.quotas import LEAST_BURST, Allowance, Bucket, Limits
from chalicelib.access.throttle import PAUSE_MS, Throttle
from chalicelib.base.errors import MAX_RETRY_SECONDS, PayloadTooLarge, TooManyRequests
from chalicelib.events.events import MAX_EVENTS, MAX_MESSAGES
from tests.counters import Counters
from tests.stores import Stores, empty_stores

NOW_MS = 1_795_226_700_000  # 2026-11-21


@pytest.fixture
def stores() -> Iterator[Stores]:
    with empty_stores() as found:
        yield found


def counting(counters: Counters) -> QuotaTable:
    """A table that is in memory."""
    return cast(QuotaTable, counters)


def allowance(
    *, rate: float | None = None, burst: int | None = None, quota: int | None = None, counter: str = "shop#k"
) -> Allowance:
    return Allowance(counter, Limits(rate, burst, quota))


def accepted(throttle: Throttle, allowed: Allowance, events: int, now_ms: int = NOW_MS) -> bool:
    """Whether a request is let in."""
    try:
        throttle.take(allowed, events, now_ms)
    except TooManyRequests:
        return False
    return True


def test_a_key_without_limits_asks_no_counter() -> None:
    counters = Counters()

    Throttle(counting(counters)).take(None, 500, NOW_MS)

    assert counters.writes == 0


def test_the_quota_of_a_month_ends_to_the_event_and_begins_anew(stores: Stores) -> None:
    throttle, allowed = Throttle(stores.quotas), allowance(quota=100)
    throttle.take(allowed, 90, NOW_MS)

    with pytest.raises(TooManyRequests) as refusal:
        throttle.take(allowed, 11, NOW_MS)
    throttle.take(allowed, 10, NOW_MS)

    assert refusal.value.code == "quota_exceeded"
    assert refusal.value.retry_seconds == MAX_RETRY_SECONDS
    assert refusal.value.message == (
        "the request has 11 events; 10 are left in 2026-11 (UTC). The key's quota is 100 a month"
    )
    assert stores.quotas.used("shop#k", "2026-11") == 100
    throttle.take(allowed, 100, NOW_MS + 10 * 86_400_000)
    assert stores.quotas.used("shop#k", "2026-12") == 100


def test_shortly_before_a_month_ends_the_caller_is_told_when() -> None:
    throttle, allowed = Throttle(counting(Counters())), allowance(quota=1)
    throttle.take(allowed, 1, NOW_MS)

    with pytest.raises(TooManyRequests) as refusal:
        throttle.take(allowed, 1, 1_796_083_200_000 - 41_500)

    assert refusal.value.retry_seconds == 42


def test_a_burst_is_let_in_and_then_the_rate(stores: Stores) -> None:
    throttle, allowed = Throttle(stores.quotas), allowance(rate=10, burst=50)
    throttle.take(allowed, 50, NOW_MS)

    with pytest.raises(TooManyRequests) as refusal:
        throttle.take(allowed, 25, NOW_MS)

    assert refusal.value.code == "rate_limited"
    assert refusal.value.retry_seconds == 3
    assert refusal.value.message == (
        "the request has 25 events; the key may send 0 now. Its limit is 10 a second and 50 at once"
    )
    assert accepted(throttle, allowed, 25, NOW_MS + 3000)


def test_no_retry_is_asked_for_later_than_sdks_wait() -> None:
    throttle, allowed = Throttle(counting(Counters())), allowance(rate=0.1, burst=100)
    throttle.take(allowed, 100, NOW_MS)

    with pytest.raises(TooManyRequests) as refusal:
        throttle.take(allowed, 100, NOW_MS)

    assert refusal.value.retry_seconds == MAX_RETRY_SECONDS


def test_a_request_over_the_burst_is_refused_for_good() -> None:
    with pytest.raises(PayloadTooLarge, match=r"has 51 events; the key's burst is 50"):
        Throttle(counting(Counters())).take(allowance(rate=10, burst=50), 51, NOW_MS)


def test_the_burst_that_is_not_named_lets_the_largest_request_in() -> None:
    assert max(MAX_EVENTS, MAX_MESSAGES) == LEAST_BURST


def test_a_refused_request_counts_in_neither_limit() -> None:
    counters = Counters()
    throttle, allowed = Throttle(counting(counters)), allowance(rate=10, burst=50, quota=40)

    assert not accepted(throttle, allowed, 41)
    assert accepted(throttle, allowed, 40)

    assert counters.months["shop#k", "2026-11"] == 40


def test_a_burst_and_a_month_are_spent_by_the_same_request() -> None:
    throttle, allowed = Throttle(counting(Counters())), allowance(rate=10, burst=50, quota=400)

    assert accepted(throttle, allowed, 50)

    assert not accepted(throttle, allowed, 50)
    assert accepted(throttle, allowed, 50, NOW_MS + 5000)
    assert not accepted(throttle, allowed, 50, NOW_MS + 5000)


requests = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 500), st.booleans()), max_size=300)


@given(st.integers(1, 20_000), requests)
def test_no_month_exceeds_its_quota_and_what_dies_with_containers_is_a_tenth_of_what_was_sent(
    quota: int, requests: list[tuple[int, int, bool]]
) -> None:
    counters, allowed, sent, lost = Counters(), allowance(quota=quota), 0, 0
    containers = [Throttle(counting(counters)) for _ in range(10)]
    for number, events, dies in requests:
        if accepted(containers[number], allowed, events):
            sent += events
        else:
            held = containers[number].leases["shop#k"].month.held
            assert counters.months.get(("shop#k", "2026-11"), 0) - held + events > quota
        if dies:
            lost += sum(leases.month.held for leases in containers[number].leases.values())
            containers[number] = Throttle(counting(counters))

        stranded = lost + sum(leases.month.held for each in containers for leases in each.leases.values())
        assert counters.months.get(("shop#k", "2026-11"), 0) == sent + stranded <= quota
        assert stranded <= sent / 10


arrivals = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 4), st.integers(1, 60), st.booleans()), max_size=120)


@given(st.floats(0.5, 2000), st.integers(60, 3000), arrivals)
def test_over_any_interval_a_rate_is_exceeded_by_a_tenth_at_most(
    rate: float, burst: int, arrivals: list[tuple[int, int, int, bool]]
) -> None:
    counters, allowed, now_ms, let_in = Counters(), allowance(rate=rate, burst=burst), NOW_MS, []
    containers = [Throttle(counting(counters)) for _ in range(5)]
    for pause_ms, number, events, dies in arrivals:
        now_ms += pause_ms
        if accepted(containers[number], allowed, events, now_ms):
            let_in.append((now_ms, events))
        if dies:
            containers[number] = Throttle(counting(counters))

    for first, (begin_ms, _) in enumerate(let_in):
        total = 0
        for at_ms, events in let_in[first:]:
            total += events
            assert total <= 1.1 * (burst + rate * (at_ms - begin_ms) / 1000) + 1


def test_what_many_containers_kept_adds_a_tenth_to_a_later_burst_at_most() -> None:
    counters, allowed = Counters(), allowance(rate=100, burst=1000)
    containers = [Throttle(counting(counters)) for _ in range(30)]
    assert all(accepted(each, allowed, 1) for each in containers * 2)
    full_ms = NOW_MS + 9_000
    leased = (counters.full_at["shop#k"] / 1000 - NOW_MS) / 10
    assert 400 <= leased <= 500 + 60  # more than the 60 that were sent, and of those alone the lower half

    let_in = sum(10 for each in containers for _ in range(100) if accepted(each, allowed, 10, full_ms))

    assert 900 <= let_in <= 1100


def test_light_traffic_saves_nothing_up_for_a_later_burst() -> None:
    throttle, allowed = Throttle(counting(Counters())), allowance(rate=10, burst=100)
    assert all(accepted(throttle, allowed, 1, NOW_MS + second * 1000) for second in range(0, 600, 2))

    let_in = sum(accepted(throttle, allowed, 1, NOW_MS + 602_000) for _ in range(1000))

    assert let_in <= 110


@pytest.mark.parametrize("containers", [1, 5, 50])
def test_whoever_always_wants_more_gets_the_rate(containers: int) -> None:
    rng, counters, allowed = random.Random(1), Counters(), allowance(rate=100)
    throttles = [Throttle(counting(counters)) for _ in range(containers)]

    let_in = [n for n in range(20_000) if accepted(rng.choice(throttles), allowed, 1, NOW_MS + n * 5)]

    late = sum(1 for n in let_in if n >= 10_000) / 50  # of the last 50 seconds, when the burst is long used up
    assert 90 <= late <= 110


@pytest.mark.parametrize("store", ["table", "counters"])
def test_many_containers_and_threads_together_stay_within_the_quota(store: str, stores: Stores) -> None:
    counters = counting(Counters()) if store == "counters" else stores.quotas
    containers, quota = [Throttle(counters) for _ in range(8)], 2000
    allowed = allowance(quota=quota)

    def send(number: int) -> int:
        return sum(7 for turn in range(60) if accepted(containers[(number + turn) % 8], allowed, 7))

    with ThreadPoolExecutor(4) as threads:
        sent = sum(threads.map(send, range(6)))

    assert quota / 1.1 - 7 <= sent <= quota


def test_a_steady_sender_writes_once_in_many_requests() -> None:
    counters = Counters()
    throttle, allowed = Throttle(counting(counters)), allowance(rate=1000, quota=10**9)

    for number in range(10_000):
        throttle.take(allowed, 1, NOW_MS + number * 20)

    assert counters.writes < 10_000 * 0.05


def test_a_flood_that_is_refused_asks_the_counters_now_and_then_only() -> None:
    rng, counters, allowed = random.Random(1), Counters(), allowance(rate=100, burst=500)
    containers = [Throttle(counting(counters)) for _ in range(5)]

    let_in = sum(accepted(rng.choice(containers), allowed, 1, NOW_MS + n) for n in range(10_000))

    assert 1350 <= let_in <= 1650
    assert counters.writes < 0.15 * 10_000


def test_a_small_request_passes_where_a_large_one_was_refused() -> None:
    throttle, allowed = Throttle(counting(Counters())), allowance(rate=1, burst=500)
    throttle.take(allowed, 450, NOW_MS)

    assert not accepted(throttle, allowed, 100)
    assert accepted(throttle, allowed, 50)


def test_keys_do_not_share_what_they_may_send() -> None:
    throttle = Throttle(counting(Counters()))
    throttle.take(allowance(quota=10), 10, NOW_MS)

    assert not accepted(throttle, allowance(quota=10), 1)
    assert accepted(throttle, allowance(quota=10, counter="shop#other"), 10)


def test_events_are_let_in_while_the_counters_do_not_answer(stores: Stores) -> None:
    throttle, allowed, calls = Throttle(stores.quotas), allowance(rate=10, burst=20, quota=20), []
    throttle.take(allowed, 20, NOW_MS)

    def silent(operation: str, _arguments: Any) -> None:
        calls.append(operation)
        raise EndpointConnectionError(endpoint_url="nowhere")

    fresh = Throttle(stores.quotas)
    stores.calls.listeners.append(silent)
    fresh.take(allowed, 20, NOW_MS)
    fresh.take(allowed, 20, NOW_MS + PAUSE_MS - 1)
    assert calls == ["update_item"]

    stores.calls.listeners.remove(silent)
    assert not accepted(fresh, allowed, 20, NOW_MS + PAUSE_MS)


def test_the_table_and_its_stand_in_give_the_same_leases(stores: Stores) -> None:
    bucket, now = Bucket(10, 50), NOW_MS * 1000
    busy = 10**18  # a bucket that was last seen in use
    steps = [
        (5, 0, 0, 0),
        (45, 0, 0, 0),
        (20, 26, busy, 0),
        (20, 25, busy, 0),
        (25, 0, busy, 0),
        (1, 0, busy, 0),
        (10, 0, busy, 1),
        (50, 0, 0, 60),
        (50, 0, busy, 110),
    ]
    in_memory = counting(Counters())

    for tokens, kept, seen, seconds in steps:
        at = now + seconds * 1_000_000
        real = stores.quotas.lease_rate("k", bucket, tokens, kept, seen, at)
        assert real == in_memory.lease_rate("k", bucket, tokens, kept, seen, at)
    for events in (60, 50, 40, 1):
        real = stores.quotas.lease_month("k", "2026-11", events, 100)
        assert real == in_memory.lease_month("k", "2026-11", events, 100)
