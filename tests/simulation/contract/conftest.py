"""`cloud` is the ports in memory, moto, or the local cloud's services; a case says which of them has a gap, and why."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from tests.localcloud.services import Services
from tests.simulation.contract.clouds import Cloud, MemoryCloud


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gap(**reasons): by cloud, why a case does not hold there")


@pytest.fixture(params=["memory", "moto", "ministack"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    for mark in request.node.iter_markers("gap"):
        if reason := mark.kwargs.get(request.param):
            request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
    match request.param:
        case "memory":
            yield MemoryCloud()
        case "moto":
            with mock_aws():
                yield Cloud("moto", _moto)
        case _:
            running: Services = request.getfixturevalue("services")
            yield Cloud("ministack", running.client)


@cache
def _moto(service: str) -> Any:
    """A client for all cases: making one takes longer than most of them."""
    return boto3.client(
        service,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(account_id_endpoint_mode="disabled"),
    )
