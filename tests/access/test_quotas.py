import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.access.quotas import LEAST_BURST, SECOND, UNLIMITED, Bucket, Limits, MonthLease


@given(st.integers(0, 3_000_000), st.integers(1, 500), st.floats(0.001, 1e6), st.integers(500, 10**7))
def test_taking_tokens_lowers_the_level_by_as_many(used: int, tokens: int, rate: float, burst: int) -> None:
    bucket, now = Bucket(rate, burst), 1_795_226_700 * SECOND
    full_at = now + used

    if full_at <= bucket.latest(tokens, now):
        assert bucket.level(full_at, now) >= tokens - 1  # to a microsecond of the rate
        fewer = bucket.level(full_at, now) - bucket.level(full_at + bucket.cost(tokens), now)
        assert tokens <= fewer <= tokens + 1 + rate / SECOND


def test_a_bucket_that_nobody_used_for_long_holds_its_burst_and_no_more() -> None:
    bucket, now = Bucket(10, 100), 1_795_226_700 * SECOND

    assert bucket.level(0, now) == 100
    assert bucket.level(now + 10 * SECOND, now) == 0
    assert bucket.level(now + 4 * SECOND, now) == 60


def test_a_container_that_has_spent_little_leases_no_more_than_it_needs() -> None:
    lease = MonthLease("2026-11")
    assert lease.ask(1000, 7, more=True) == 7

    lease.take(7, 7)
    lease.spend(7)
    lease.spent = 500

    assert lease.ask(1000, 7, more=True) == 50
    assert lease.ask(1000, 7, more=False) == 7
    lease.leased = 980
    assert lease.ask(1000, 7, more=True) == 20
    assert lease.ask(1000, 21, more=True) == 0


@pytest.mark.parametrize(
    ("own", "default", "both"),
    [
        (UNLIMITED, UNLIMITED, UNLIMITED),
        (Limits(5, None, None), Limits(100, 1000, 7), Limits(5, None, 7)),
        (Limits(None, None, 3), Limits(100, 1000, 7), Limits(100, 1000, 3)),
        (Limits(5, 50, 3), Limits(100, 1000, 7), Limits(5, 50, 3)),
    ],
)
def test_a_keys_own_limits_come_before_its_projects(own: Limits, default: Limits, both: Limits) -> None:
    assert own.otherwise(default) == both


def test_a_burst_that_is_not_named_takes_ten_seconds_of_the_rate_and_any_request() -> None:
    assert Limits(rate_per_second=1000).bucket == Bucket(1000, 10_000)
    assert Limits(rate_per_second=2).bucket == Bucket(2, LEAST_BURST)
    assert Limits(rate_per_second=2, burst=10).bucket == Bucket(2, 10)
    assert Limits(monthly_quota=2).bucket is None
