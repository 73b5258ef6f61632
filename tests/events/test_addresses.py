import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.events.addresses import anonymised, hidden_in_text, hide_addresses

JSON = st.recursive(
    st.text() | st.integers(-(2**63), 2**63), lambda each: st.lists(each) | st.dictionaries(st.text(), each)
)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0"),
        (" 203.0.113.77 ", "203.0.113.0"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:203.0.113.77", "203.0.113.0"),
        ("not an address", ""),
        (None, ""),
        ({"a": 1}, ""),
    ],
)
def test_of_an_address_only_its_network_is_kept(address: object, network: str) -> None:
    assert anonymised(address) == network


def test_an_address_that_an_sdk_sends_is_cut_before_anything_is_kept() -> None:
    events = [{"context": {"ip": "203.0.113.77", "locale": "de"}}, {"context": {"ip": 7}}, {"context": None}, {}, 7]

    hide_addresses(events)

    assert events == [
        {"context": {"ip": "203.0.113.0", "locale": "de"}},
        {"context": {"ip": ""}},
        {"context": None},
        {},
        7,
    ]


@pytest.mark.parametrize(
    "name", ["ip", "sourceIPAddress", "source-ip-address", "client_ip", "ip_address", "remoteIpAddr"]
)
@pytest.mark.parametrize("address", ["203.0.113.77", " 203.0.113.77", "2001:db8:1:2:3:4:5:77"])
def test_in_what_could_not_be_read_addresses_are_cut_by_their_names(name: str, address: str) -> None:
    plain = orjson.dumps([{"context": {name: address, "zip": "90210", "version": "1.2.3.4"}}])
    quoted = orjson.dumps({"sent": plain.decode() + ", not JSON"})

    for content in (plain, quoted, plain[:-3], plain.replace(b'":', b'" : ')):
        hidden = hidden_in_text(content)

        assert b"77" not in hidden
        assert anonymised(address).encode() in hidden
        assert b"90210" in hidden or len(content) < len(plain)
        assert b"1.2.3.4" in hidden


@given(JSON)
def test_what_has_no_address_is_left_as_it_is(document: object) -> None:
    content = orjson.dumps(document)

    assert hidden_in_text(content) == content
