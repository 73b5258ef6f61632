from base64 import b64encode

import pytest

from chalicelib.access.access import key_of


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "k1"},
        {"authorization": "Bearer k1"},
        {"authorization": "Basic " + b64encode(b"k1:").decode()},
        {"authorization": "basic " + b64encode(b"k1:secret").decode()},
    ],
)
def test_a_key_is_found_wherever_clients_send_it(headers: dict[str, str]) -> None:
    assert key_of(headers) == "k1"


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Basic ???"}, {"authorization": "Digest x"}, {"x-api-key": ""}]
)
def test_without_a_key_there_is_none(headers: dict[str, str]) -> None:
    assert key_of(headers) is None
