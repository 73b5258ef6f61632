import math
import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.rollups.sketches import (
    EXACT_LIMIT,
    QUANTILE_ERROR,
    UNIQUES_STANDARD_ERROR,
    Uniques,
    bucket_of,
    hash_user,
    quantile,
)


def uniques(users: Iterable[object]) -> Uniques:
    return Uniques(hash_user(str(user)) for user in users)


def test_up_to_the_limit_the_count_of_users_is_exact() -> None:
    assert uniques(range(EXACT_LIMIT)).estimate() == EXACT_LIMIT


@pytest.mark.parametrize("size", [300, 1_000, 5_000, 20_000, 100_000])
def test_beyond_it_the_count_is_within_three_standard_errors(size: int) -> None:
    error = uniques(range(size)).estimate() / size - 1

    assert abs(error) < 3 * UNIQUES_STANDARD_ERROR


def test_over_many_sets_the_error_is_the_one_stated() -> None:
    errors = [uniques(f"{run}-{i}" for i in range(3_000)).estimate() / 3_000 - 1 for run in range(60)]

    assert math.sqrt(sum(e * e for e in errors) / len(errors)) < 1.3 * UNIQUES_STANDARD_ERROR


@given(st.integers(0, 600), st.integers(0, 600), st.integers(0, 600))
def test_merging_users_is_associative_commutative_and_idempotent(a: int, b: int, c: int) -> None:
    def merged(*parts: range) -> bytes:
        whole = Uniques()
        for part in parts:
            whole.merge(uniques(part))
        return whole.to_bytes()

    x, y, z = range(a), range(300, 300 + b), range(100, 100 + c)

    assert merged(x, y, z) == merged(z, x, y) == merged(x, y, z, x, z)


@pytest.mark.parametrize("size", [0, 1, EXACT_LIMIT, EXACT_LIMIT + 1, 5_000])
def test_users_survive_being_bytes(size: int) -> None:
    whole = uniques(range(size))

    assert Uniques.from_bytes(whole.to_bytes()).to_bytes() == whole.to_bytes()


@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=300), st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_its_relative_error(values: list[float], q: float) -> None:
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1

    true = sorted(values)[max(math.ceil(q * len(values)) - 1, 0)]
    found = quantile(buckets, q)

    assert found is not None
    assert abs(found - true) <= QUANTILE_ERROR * abs(true) + 1e-9


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_buckets_are_in_the_order_of_their_values(values: list[float]) -> None:
    buckets = [bucket_of(value) for value in sorted(values)]

    assert buckets == sorted(buckets)


def test_a_tail_of_latencies_is_found() -> None:
    rng = random.Random(7)
    values = [rng.lognormvariate(3, 2) for _ in range(20_000)]
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1

    found = quantile(buckets, 0.999)

    assert found == pytest.approx(sorted(values)[math.ceil(0.999 * 20_000) - 1], rel=QUANTILE_ERROR)


@pytest.mark.parametrize(("q", "slowest"), [(0.0, 10), (0.5, 10), (0.51, 5000), (0.95, 5000), (1.0, 5000)])
def test_of_few_values_a_quantile_is_that_of_the_nearest_rank(q: float, slowest: float) -> None:
    assert quantile({bucket_of(10): 1, bucket_of(5000): 1}, q) == pytest.approx(slowest, rel=QUANTILE_ERROR)


@pytest.mark.parametrize("hundredths", range(1, 101))
def test_a_rank_is_not_lost_to_rounding(hundredths: int) -> None:
    values = [1.1**n for n in range(100)]

    found = quantile({bucket_of(value): 1 for value in values}, hundredths / 100)

    assert found == pytest.approx(values[hundredths - 1], rel=QUANTILE_ERROR)


def test_of_nothing_there_is_no_quantile() -> None:
    assert quantile({}, 0.5) is None
