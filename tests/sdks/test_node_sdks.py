"""Unmodified server SDKs for node deliver to the running stack."""

import pytest

from tests.end_to_end.client import Api
from tests.localcloud.running import Stack
from tests.sdks.journey import Journey
from tests.sdks.running import run_node, with_node


@with_node
@pytest.mark.parametrize(
    ("sdk", "library", "compressed"),
    [
        ("segment", "@segment/analytics-node", False),
        ("rudderstack", "analytics-node", False),
        ("rudderstack", "analytics-node", True),
    ],
)
def test_each_call_of_a_node_sdk_arrives_once_with_every_field(
    stack: Stack, sdk: str, library: str, compressed: bool
) -> None:
    journey = Journey()

    run_node(sdk, stack.rest_url, journey.calls(), gzip=compressed)

    journey.check(Api(stack.rest_url), library=library)
