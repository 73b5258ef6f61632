"""What visitors do: a walk through a shop, step by step, each step a few events."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from demo.people import Person

Event = dict[str, Any]

PRODUCTS = tuple(
    (f"p-{number:02d}", kind, category, price)
    for number, (kind, category, price) in enumerate(
        (kind, category, round(base * factor, 2))
        for category, kinds, base in (
            ("socks", ("wool-socks", "hiking-socks", "running-socks"), 12.5),
            ("shirts", ("linen-shirt", "flannel-shirt", "tee"), 34.0),
            ("shoes", ("trail-shoes", "sandals", "boots"), 95.0),
            ("bags", ("daypack", "tote", "duffel"), 62.0),
        )
        for kind in kinds
        for factor in (1, 1.4)
    )
)
QUERIES = ("wool socks", "boots", "rain jacket", "daypack", "gift", "sandals 42", "linen", "returns", "running", "sale")
ARTICLES = ("/journal/how-wool-works", "/journal/packing-light", "/journal/repair-a-zip")

# From each place, where people go next; "leave" ends the visit.
NEXT = {
    "home": (("category", 40), ("search", 22), ("article", 12), ("account", 8), ("leave", 18)),
    "category": (("product", 60), ("category", 15), ("search", 8), ("leave", 17)),
    "search": (("product", 55), ("search", 20), ("category", 8), ("leave", 17)),
    "product": (("product", 28), ("cart", 24), ("category", 18), ("search", 8), ("leave", 22)),
    "cart": (("checkout", 48), ("product", 26), ("leave", 26)),
    "checkout": (("done", 62), ("cart", 12), ("leave", 26)),
    "account": (("home", 40), ("category", 30), ("leave", 30)),
    "article": (("product", 25), ("article", 30), ("home", 15), ("leave", 30)),
    "done": (("home", 20), ("leave", 80)),
}
LANDINGS = (("home", 38), ("product", 30), ("category", 16), ("article", 16))
ROUTES = (  # route, method, typical milliseconds, weight
    ("/products", "GET", 28, 30),
    ("/products/{id}", "GET", 18, 34),
    ("/search", "GET", 75, 14),
    ("/carts/{id}", "PUT", 35, 10),
    ("/orders", "POST", 140, 4),
    ("/session", "GET", 9, 20),
)
STATUSES = ((200, 940), (304, 30), (404, 14), (429, 4), (500, 8), (503, 4))


@dataclass(slots=True)
class Visit:
    """One visit of one person: where they are now, and what is in their cart."""

    person: Person
    place: str = "home"
    fresh: bool = True  # the first step says that a session began
    cart: list[tuple[str, str, str, float]] = field(default_factory=list)
    signed_up: bool = False

    @classmethod
    def begin(cls, person: Person, random: Random) -> "Visit":
        """Return a new visit, on the page that a link or the app's icon led to."""
        place = (
            "home" if person.uses_app else random.choices([row[0] for row in LANDINGS], [row[1] for row in LANDINGS])[0]
        )
        return cls(person, place)

    @property
    def over(self) -> bool:
        """Whether the person has left."""
        return self.place == "leave"

    def step(self, random: Random) -> list[Event]:
        """Return what happens at this place, and the way to the next; events without ids and times."""
        person = self.person
        product = random.choice(PRODUCTS)
        path, name = _address(self.place, product, random)
        events = []
        if self.fresh:
            events.append(
                _event("session_start", _known(path=path, os=person.os, browser=person.browser, **_origin(person)))
            )
        events.append(self._view(path, name, random))
        events += self._actions(path, product, random)
        if random.random() < 0.012:
            events.append(_error(person, path, random))
        self.fresh = False
        choices = NEXT[self.place]
        self.place = random.choices([row[0] for row in choices], [row[1] for row in choices])[0]
        return events

    def _view(self, path: str, name: str, random: Random) -> Event:
        person = self.person
        load_ms = round(random.lognormvariate(6.4 if person.device == "desktop" else 6.9, 0.5), 1)
        where = {"country": person.country, "device": person.device, "load_ms": load_ms}
        if person.uses_app:
            return _event("screen_view", {"name": name, "os": person.os, "app_version": person.app_version, **where})
        origin = _origin(person) if self.fresh else {}
        return _event("page_view", {"path": path, "title": name, **where, **origin})

    def _actions(self, path: str, product: tuple[str, str, str, float], random: Random) -> list[Event]:
        person = self.person
        device = person.device
        events = []
        if random.random() < 0.35:
            element = random.choice(("menu", "banner", "image", "size", "filter", "recommendation"))
            events.append(_event("click", {"element": element, "path": path, "device": device}))
        match self.place:
            case "search":
                found = int(random.paretovariate(0.9)) % 200
                latency_ms = round(random.lognormvariate(4.5, 0.4), 1)
                query = random.choice(QUERIES)
                events.append(
                    _event("search", {"query": query, "results": found, "latency_ms": latency_ms, "device": device})
                )
            case "product" if random.random() < 0.3:
                self.cart.append(product)
                events.append(_event("click", {"element": "buy-button", "path": path, "device": device}))
                events.append(_event("add_to_cart", _added(product, device)))
            case "product" if random.random() < 0.08:
                events.append(_event("wishlist_add", {"product_id": product[0]}))
            case "article" if random.random() < 0.25:
                events.append(
                    _event("video_play", {"video": path.rsplit("/", 1)[-1], "seconds": random.randint(3, 180)})
                )
            case "account" if person.user_id is None and not self.signed_up:
                self.signed_up = True
                events.append(_event("signup", _signup(person, random)))
            case "done":
                events.append(_event("purchase", _order(person, self.cart or [product], random)))
                self.cart = []
        return events


def api_request(random: Random) -> Event:
    """Return one request as the shop's server measured it."""
    route, method, typical_ms, _ = random.choices(ROUTES, [row[-1] for row in ROUTES])[0]
    status = random.choices([row[0] for row in STATUSES], [row[1] for row in STATUSES])[0]
    latency_ms = round(typical_ms * random.lognormvariate(0, 0.45) * (20 if random.random() < 0.005 else 1), 2)
    size = 0 if status == 304 else int(random.lognormvariate(7.5, 0.8))
    properties = {"route": route, "method": method, "status": status, "latency_ms": latency_ms, "response_bytes": size}
    return _event("api_request", {**properties, "service": "shop"})


def email_opened(random: Random) -> Event:
    """Return what a mail service reports; a type that has no contract."""
    return _event("email_opened", {"campaign": random.choice(("weekly", "autumn-sale"))})


def _event(event_type: str, properties: Event) -> Event:
    return {"event_type": event_type, "properties": properties}


def _known(**properties: object) -> Event:
    return {name: value for name, value in properties.items() if value is not None}


def _origin(person: Person) -> Event:
    host, source, medium, campaign = person.source
    return _known(
        referrer_host=host,
        utm_source=source,
        utm_medium=medium,
        utm_campaign=campaign,
        country=person.country,
        device=person.device,
    )


def _address(place: str, product: tuple[str, str, str, float], random: Random) -> tuple[str, str]:
    product_id, kind, category, _ = product
    return {
        "home": ("/", "Home"),
        "category": (f"/{category}", "Category"),
        "search": ("/search", "Search"),
        "product": (f"/products/{product_id}-{kind}", "Product"),
        "cart": ("/cart", "Cart"),
        "checkout": ("/checkout", "Checkout"),
        "account": ("/account", "Account"),
        "article": (random.choice(ARTICLES), "Journal"),
        "done": ("/checkout/done", "Thanks"),
    }[place]


def _added(product: tuple[str, str, str, float], device: str) -> Event:
    product_id, kind, category, price = product
    return {
        "product_id": product_id,
        "name": kind,
        "category": category,
        "price": price,
        "quantity": 1,
        "currency": "EUR",
        "device": device,
    }


def _order(person: Person, cart: list[tuple[str, str, str, float]], random: Random) -> Event:
    revenue = round(sum(price for *_, price in cart), 2)
    coupon = "autumn" if random.random() < 0.15 else None
    discount = round(revenue * 0.1, 2) if coupon else None
    revenue = round(revenue - (discount or 0), 2)
    return _known(
        order_id=f"o-{random.getrandbits(40):010x}",
        revenue=revenue,
        shipping=4.9,
        total=round(revenue + 4.9, 2),
        discount=discount,
        coupon=coupon,
        item_count=len(cart),
        currency="EUR",
        payment_method=random.choice(("card", "card", "paypal", "invoice")),
        country=person.country,
        device=person.device,
    )


def _signup(person: Person, random: Random) -> Event:
    method = random.choice(("email", "google", "apple"))
    return {"method": method, "plan": "free", **{k: v for k, v in _origin(person).items() if k != "referrer_host"}}


def _error(person: Person, path: str, random: Random) -> Event:
    kind, message, fatal = random.choice(
        (
            ("TypeError", "undefined is not a function", False),
            ("NetworkError", "the request was cancelled", False),
            ("PaymentDeclined", "the card was declined", True),
        )
    )
    source = "app" if person.uses_app else "browser"
    return _event(
        "error",
        _known(message=message, type=kind, source=source, fatal=fatal, path=path, app_version=person.app_version),
    )
