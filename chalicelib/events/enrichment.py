"""What can be told of an event beyond its own words: browser and device, country, where the visitor came from.

The edge takes from a request what the pipeline may know of the client, its address only in part; `process` puts what
follows from it into each event, under `enrichment`. A property that the client sent itself counts before it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from chalicelib.events.addresses import anonymised

UTM = ("utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content")
CAMPAIGN = {"source": "utm_source", "medium": "utm_medium", "name": "utm_campaign", "term": "utm_term"}
MAX_USER_AGENT_LENGTH = 512
MAX_VALUE_LENGTH = 256
MAX_URL_LENGTH = 4096  # that is looked through for a campaign: parsing takes time with each character
DESKTOPS = frozenset({"Windows", "Mac OS X", "Linux", "Ubuntu", "Fedora", "Debian", "Chrome OS", "FreeBSD"})


@dataclass(frozen=True, slots=True)
class Client:
    """Where a request came from, as far as it may be kept."""

    ip: str = ""  # the network's first address
    visitor: str = ""  # the same for an address and browser for one day; nothing leads back from it
    country: str = ""  # ISO 3166-1 alpha-2
    user_agent: str = ""

    def to_json(self) -> dict[str, str]:
        """As it travels."""
        return {"ip": self.ip, "visitor": self.visitor, "country": self.country, "user_agent": self.user_agent}


NOBODY = Client()


def client_of(headers: Mapping[str, str], source_ip: str, salt: bytes, now: datetime) -> Client:
    """Return the client behind a request, by its headers (names in lower case).

    Only of what says it is a browser: behind a server's or a test's request there is no visitor.
    """
    # Whatever a gateway made of its bytes, it must be a text that can be written.
    user_agent = headers.get("user-agent", "")[:MAX_USER_AGENT_LENGTH].encode(errors="replace").decode()
    if not user_agent.startswith("Mozilla/"):
        return NOBODY
    # CloudFront's header is `address:port`; behind it, the gateway sees CloudFront's own address.
    address = headers.get("cloudfront-viewer-address", "").rpartition(":")[0].strip("[]") or source_ip
    network = anonymised(address)
    visitor = ""
    if network and salt:
        told = f"{now.date()}\n{address}\n{user_agent}".encode()
        visitor = blake2b(told, key=salt[:64], digest_size=8).hexdigest()
    return Client(network, visitor, headers.get("cloudfront-viewer-country", "")[:2], user_agent)


def enrich(event: dict[str, Any], client: Client) -> None:
    """Add `enrichment` to a stored event; what the SDK says of the client counts before the request's own."""
    context = event.get("context") or {}
    properties = event.get("properties") or {}
    found: dict[str, Any] = {}
    user_agent = context.get("userAgent") if context else None
    user_agent = user_agent if isinstance(user_agent, str) and user_agent else client.user_agent
    if user_agent:
        found.update(described(user_agent[:MAX_USER_AGENT_LENGTH]))
    ip = context.get("ip") if context else None
    if isinstance(ip, str) and ip:
        found["ip"] = ip
    elif client.ip:
        found["ip"] = client.ip
        if client.visitor:
            found["visitor"] = client.visitor
    if client.country:
        found["country"] = client.country
    page = context.get("page") if context else None
    page = page if isinstance(page, dict) else {}
    url = properties.get("url") or page.get("url")
    referrer = properties.get("referrer") or page.get("referrer")
    if isinstance(url, str) and "utm_" in url:
        found.update(_campaign_of(url[:MAX_URL_LENGTH]))
    if isinstance(referrer, str) and referrer and (host := _host(referrer)) and host != _host(url):
        found["referrer_host"] = host
    campaign = context.get("campaign") if context else None
    if isinstance(campaign, dict):
        found.update(
            (name, campaign[key][:MAX_VALUE_LENGTH])
            for key, name in CAMPAIGN.items()
            if isinstance(campaign.get(key), str)
        )
    if found:
        event["enrichment"] = found


@lru_cache(maxsize=4096)
def described(user_agent: str) -> dict[str, Any]:
    """`browser`, `os`, `device` and, for what is no person, `bot`; callers must not change it."""
    from ua_parser import parse  # takes a tenth of a second to be ready, and only `process` needs it

    parsed = parse(user_agent)
    browser = parsed.user_agent.family if parsed.user_agent else ""
    os = parsed.os.family if parsed.os else ""
    kind = parsed.device.family if parsed.device else ""
    bot = kind == "Spider" or "Headless" in user_agent
    found = {"browser": browser, "os": os, "device": _device(os, kind, user_agent)}
    return {name: value for name, value in found.items() if value} | ({"bot": True} if bot else {})


def _device(os: str, kind: str, user_agent: str) -> str:
    if kind == "iPad" or (os == "Android" and "Mobile" not in user_agent):
        return "tv" if "TV" in user_agent else "tablet"
    if os in ("iOS", "Android"):
        return "mobile"
    if "TV" in user_agent:
        return "tv"
    return "desktop" if os in DESKTOPS else "other"


def _campaign_of(url: str) -> Iterable[tuple[str, str]]:
    try:
        query = urlsplit(url).query
    except ValueError:
        return []
    return [(name, value[:MAX_VALUE_LENGTH]) for name, value in parse_qsl(query) if name in UTM and value]


def _host(url: object) -> str:
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")[:MAX_VALUE_LENGTH] if isinstance(url, str) else ""
    except ValueError:
        return ""
