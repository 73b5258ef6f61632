"""Who visits: a population with countries, devices and habits, the same for the same seed."""

from dataclasses import dataclass
from random import Random

HOUR_MS = 3_600_000

# Country, hours ahead of UTC, weight.
COUNTRIES = (
    ("US", -5, 30),
    ("DE", 1, 16),
    ("GB", 0, 12),
    ("IN", 5, 12),
    ("BR", -3, 9),
    ("FR", 1, 8),
    ("JP", 9, 7),
    ("AU", 10, 4),
    ("ZA", 2, 2),
)
# Device, operating system, browser (None: the app), weight.
DEVICES = (
    ("desktop", "Windows", "Chrome", 22),
    ("desktop", "Windows", "Edge", 6),
    ("desktop", "macOS", "Safari", 9),
    ("desktop", "Linux", "Firefox", 4),
    ("mobile", "Android", "Chrome", 12),
    ("mobile", "iOS", "Safari", 10),
    ("tablet", "iPadOS", "Safari", 3),
    ("mobile", "Android", None, 18),
    ("mobile", "iOS", None, 14),
    ("tablet", "Android", None, 2),
)
# Where visitors come from: the referring host, the campaign's source, medium and name, weight.
SOURCES = (
    (None, None, None, None, 40),
    ("search.example", None, None, None, 28),
    ("news.example", None, None, None, 6),
    ("social.example", "social", "cpc", "autumn-sale", 12),
    (None, "newsletter", "email", "weekly", 10),
    ("partner.example", "partner", "referral", "bundle", 4),
)
APP_VERSIONS = (("4.2.0", 60), ("4.1.3", 25), ("4.0.0", 10), ("3.9.1", 5))

# How active people are in each hour of their own day: asleep at four, a peak at noon, the highest at nine.
RHYTHM = (22, 12, 7, 5, 4, 6, 14, 30, 46, 55, 60, 66, 72, 66, 60, 58, 60, 66, 76, 88, 97, 100, 78, 46)

WRONG_CLOCKS = 0.04  # of the apps' devices; servers see such clocks all the time
MAX_SKEW_MINUTES = 20


@dataclass(frozen=True, slots=True)
class Person:
    """One visitor. `user_id` is None for those without an account; `skew_ms` is how far the device's clock is ahead."""

    user_id: str | None
    anonymous_id: str
    country: str
    utc_offset_hours: int
    device: str
    os: str
    browser: str | None
    app_version: str | None
    source: tuple[str | None, str | None, str | None, str | None]
    skew_ms: int

    @property
    def uses_app(self) -> bool:
        """Whether this person comes by the app and not by a browser."""
        return self.browser is None

    def activity(self, at_ms: int) -> float:
        """Return how likely this person is to be active at an instant, from 0 to 1."""
        return RHYTHM[(at_ms // HOUR_MS + self.utc_offset_hours) % 24] / max(RHYTHM)


def population(random: Random, size: int) -> list[Person]:
    """As many people as asked for, drawn by the weights above."""
    return [_person(random, number) for number in range(size)]


def _person(random: Random, number: int) -> Person:
    country, offset, _ = random.choices(COUNTRIES, [row[-1] for row in COUNTRIES])[0]
    device, os, browser, _ = random.choices(DEVICES, [row[-1] for row in DEVICES])[0]
    host, source, medium, campaign, _ = random.choices(SOURCES, [row[-1] for row in SOURCES])[0]
    version = random.choices(APP_VERSIONS, [row[-1] for row in APP_VERSIONS])[0][0]
    wrong = random.random() < WRONG_CLOCKS
    skew_minutes = random.choice([-1, 1]) * random.randint(2, MAX_SKEW_MINUTES)
    return Person(
        user_id=f"u-{number:05d}" if random.random() < 0.6 else None,
        anonymous_id=f"a-{random.getrandbits(48):012x}",
        country=country,
        utc_offset_hours=offset,
        device=device,
        os=os,
        browser=browser,
        app_version=version if browser is None else None,
        source=(host, source, medium, campaign),
        skew_ms=skew_minutes * 60_000 if wrong and browser is None else 0,
    )
