from datetime import UTC, datetime, timedelta

import pytest

from chalicelib.events.addresses import anonymised
from chalicelib.events.enrichment import NOBODY, Client, client_of, described, enrich

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.2 Mobile/15E148 Safari/604.1"
)
GOOGLEBOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
TABLET = "Mozilla/5.0 (Linux; Android 13; SM-T500) AppleWebKit/537.36 Chrome/120.0 Safari/537.36"
TODAY = datetime(2026, 11, 21, 10, tzinfo=UTC)
SALT = b"s" * 32


def headers(user_agent: str = FIREFOX, **more: str) -> dict[str, str]:
    return {"user-agent": user_agent, **{name.replace("_", "-"): value for name, value in more.items()}}


def test_a_browser_is_a_visitor_for_a_day_and_never_its_address() -> None:
    client = client_of(headers(cloudfront_viewer_country="DE"), "203.0.113.77", SALT, TODAY)

    again = client_of(headers(), "203.0.113.77", SALT, TODAY)
    others = [
        client_of(headers(), "203.0.113.78", SALT, TODAY),
        client_of(headers(SAFARI), "203.0.113.77", SALT, TODAY),
        client_of(headers(), "203.0.113.77", SALT, TODAY + timedelta(days=1)),
        client_of(headers(), "203.0.113.77", b"t" * 32, TODAY),
    ]
    assert (client.ip, client.country, client.visitor) == ("203.0.113.0", "DE", again.visitor)
    assert len({client.visitor, *(other.visitor for other in others)}) == 5
    assert "203.0.113.77" not in str(client.to_json())


def test_behind_cloudfront_the_viewer_is_the_client() -> None:
    four = client_of(headers(cloudfront_viewer_address="203.0.113.77:46532"), "10.0.0.1", SALT, TODAY)
    six = client_of(headers(cloudfront_viewer_address="2001:db8:1:2:3:4:5:6:46532"), "10.0.0.1", SALT, TODAY)

    assert (four.ip, six.ip) == ("203.0.113.0", "2001:db8:1::")


@pytest.mark.parametrize("user_agent", ["", "analytics-python/2.2.2", "python-requests/2.31", "okhttp/4.9", "curl/8"])
def test_a_server_is_no_visitor(user_agent: str) -> None:
    assert client_of(headers(user_agent), "203.0.113.77", SALT, TODAY) is NOBODY


@pytest.mark.parametrize(
    ("user_agent", "browser", "os", "device", "bot"),
    [
        (FIREFOX, "Firefox", "Windows", "desktop", None),
        (SAFARI, "Mobile Safari", "iOS", "mobile", None),
        (GOOGLEBOT, "Googlebot", None, "other", True),
        (FIREFOX.replace("Firefox", "HeadlessChrome"), "HeadlessChrome", "Windows", "desktop", True),
        (TABLET, "Chrome", "Android", "tablet", None),
        ("", None, None, "other", None),
    ],
)  # fmt: skip
def test_a_user_agent_tells_browser_system_device_and_bot(
    user_agent: str, browser: str | None, os: str | None, device: str, bot: bool | None
) -> None:
    found = described(user_agent)

    assert (found.get("browser"), found.get("os"), found["device"], found.get("bot")) == (browser, os, device, bot)


def test_an_event_learns_from_its_request_its_context_and_its_addresses() -> None:
    event = {
        "properties": {
            "url": "https://shop.example/a?utm_source=news&utm_medium=mail&x=1",
            "referrer": "https://www.news.example/today?q=secret",
        },
        "context": {"userAgent": SAFARI, "campaign": {"name": "spring", "source": 7}},
    }

    enrich(event, Client(ip="203.0.113.0", visitor="v", country="DE", user_agent=FIREFOX))

    assert event["enrichment"] == {
        "browser": "Mobile Safari",
        "os": "iOS",
        "device": "mobile",
        "ip": "203.0.113.0",
        "visitor": "v",
        "country": "DE",
        "utm_source": "news",
        "utm_medium": "mail",
        "utm_campaign": "spring",
        "referrer_host": "news.example",
    }


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"url": "http://[", "referrer": "http://["},
        {"url": 7, "referrer": {"a": 1}},
        {"url": "https://www.shop.example/b", "referrer": "https://shop.example/a"},
        {"referrer": ""},
    ],
)
def test_what_tells_nothing_adds_nothing(properties: dict[str, object]) -> None:
    event: dict[str, object] = {"properties": properties, "context": {"page": 7, "campaign": [], "ip": ""}}

    enrich(event, NOBODY)

    assert "enrichment" not in event


@pytest.mark.parametrize("address", ["2002:cb00:7107::1", "::ffff:203.0.113.7", "2001:0:4136:e378:8000:63bf:34ff:8ef8"])
def test_an_ipv4_address_inside_of_an_ipv6_one_is_cut_as_such(address: str) -> None:
    assert anonymised(address) == "203.0.113.0"
