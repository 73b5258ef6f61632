"""`cloud` is the ports in memory, moto, or the local cloud's services; a case says which of them has a gap, and why."""

from collections.abc import Iterator

import boto3
import pytest
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
            with pytest.MonkeyPatch.context() as patch:
                for name, value in _MOTO.items():
                    patch.setenv(name, value)
                with mock_aws():
                    yield Cloud("moto", lambda service: boto3.client(service))
        case _:
            running: Services = request.getfixturevalue("services")
            yield Cloud("ministack", running.client)


_MOTO = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled",
}
