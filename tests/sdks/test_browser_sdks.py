"""Unmodified browser SDKs deliver to the running stack, from a page of another origin in a real browser."""

import pytest

from tests.end_to_end.client import Api
from tests.localcloud.running import Stack
from tests.sdks.journey import Journey
from tests.sdks.running import run_browser, with_chromium

OF_THE_PAGE = frozenset({"path", "referrer", "search", "title", "url"})
OF_THE_VISIT = {"referring_domain", "tab_url", "initial_referrer", "initial_referring_domain"}
BATCHING = {"strategy": "batching", "config": {"size": 20, "timeout": 200}}


@with_chromium
@pytest.mark.parametrize("strategy", [None, BATCHING], ids=["standard", "batching"])
def test_each_call_of_analytics_js_arrives_once_with_every_field(stack: Stack, strategy: object) -> None:
    journey = Journey(tracks=60, one_user=True)

    run_browser("segment", stack.rest_url, journey.calls(), strategy=strategy)

    journey.check(Api(stack.rest_url), library="analytics.js", adds=OF_THE_PAGE)


@with_chromium
def test_each_call_of_the_rudderstack_browser_sdk_arrives_once_with_every_field(stack: Stack) -> None:
    journey = Journey(tracks=60, one_user=True, without=("screen",))

    run_browser("rudderstack", stack.rest_url, journey.calls())

    journey.check(Api(stack.rest_url), library="RudderLabs JavaScript SDK", adds=OF_THE_PAGE | OF_THE_VISIT)
