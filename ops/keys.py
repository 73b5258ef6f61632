"""Create, list, rotate and revoke API keys.

  python -m ops keys create --stage prod --project shop --scopes write --label "web shop" --rate 100
  python -m ops keys list --stage prod --project shop
  python -m ops keys rotate --stage prod --project shop 1a2b3c4d --grace 7d
  python -m ops keys revoke --stage prod --project shop 1a2b3c4d

A key is shown once, when it is made; its id names it from then on. A revoked key stops working within a minute.
"""

import argparse
import re
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from chalicelib.access.access import ApiKey, Scope
from chalicelib.access.access_table import AccessTable, digest_of
from chalicelib.base.time_windows import month_of, to_ms
from infra.project import OperatorError
from ops.projects import access_table, known_project
from ops.stages import StageStores, add_common, add_limits, add_yes, confirm, described, new_limits, show, show_one

KEY_BYTES = 24  # of randomness
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `ops keys`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, work, what in (
        ("create", create, "make a key and show it, once"),
        ("list", list_all, "a project's keys, with this month's use of their quotas; ended ones for 90 days"),
        ("rotate", rotate, "make a key with the same scopes and limits, and let the old one end after a while"),
        ("revoke", revoke, "end a key; it stops working within a minute"),
    ):
        action = actions.add_parser(name, help=what, description=what)
        add_common(action)
        action.set_defaults(work=work)
        action.add_argument("--project", required=True, help="the project that the key is of")
        if name == "create":
            scopes = [scope.value for scope in Scope]
            action.add_argument("--scopes", nargs="+", required=True, choices=scopes, help="what it allows")
            action.add_argument("--label", default="", help="what it is for")
            add_limits(action)
        if name in ("rotate", "revoke"):
            action.add_argument("id", help="as `keys list` shows it")
            add_yes(action)
        if name == "rotate":
            help_text = "how long the old key still works: a number with s, m, h or d (24h)"
            action.add_argument("--grace", type=_duration, default=timedelta(days=1), metavar="TIME", help=help_text)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    arguments.work(arguments, access_table(arguments.stage))
    return 0


def create(arguments: argparse.Namespace, access: AccessTable) -> None:
    """Make a key."""
    known_project(access, arguments.project)
    scopes = tuple(scope for scope in Scope if scope.value in arguments.scopes)
    text, key = _new(ApiKey(arguments.project, "", scopes, arguments.label, datetime.now(UTC), new_limits(arguments)))
    if not access.put_key(key):
        raise OperatorError("the key's id is taken, by a chance of one in billions; nothing was made, try again")
    _show_new(arguments, text, key)


def list_all(arguments: argparse.Namespace, access: AccessTable) -> None:
    """The keys of a project."""
    default = known_project(access, arguments.project).limits
    counters, now = StageStores(arguments.stage).quotas, datetime.now(UTC)
    rows = []
    for key in access.keys(arguments.project):
        limits = key.limits.otherwise(default)
        counter = f"{key.project}#{key.counter}"
        used = None if limits.monthly_quota is None else counters.used(counter, month_of(to_ms(now)))
        ends = key.revoked_at or key.ends_at
        rows.append(
            {
                "id": key.id,
                "label": key.label,
                "scopes": [scope.value for scope in key.scopes],
                "created": key.created_at.isoformat(timespec="seconds"),
                "state": key.state(now),
                "ends": ends.isoformat(timespec="seconds") if ends else None,
                "replaced_by": key.replaced_by or None,
                **described(limits),
                "used": used,
            }
        )
    show(arguments, rows)


def rotate(arguments: argparse.Namespace, access: AccessTable) -> None:
    """Replace a key. Whoever loses the new one before it is shown rotates that one, or creates another."""
    old, now = _known(arguments, access), datetime.now(UTC)
    if old.state(now) != "active":
        by = f" by {old.replaced_by}; rotate that one" if old.replaced_by else ""
        raise OperatorError(f"key {old.id} is {old.state(now)} already{by}")
    ends_at = now + arguments.grace
    confirm(arguments, f"Key {old.id} ({old.label or 'no label'}) will end at {ends_at:%Y-%m-%d %H:%M:%S} UTC.")
    text, key = _new(replace(old, created_at=now, counter=old.counter))
    if not access.replace_key(old, key, ends_at):
        raise OperatorError(f"key {old.id} was replaced or revoked meanwhile; nothing was changed")
    _show_new(arguments, text, key, {"old": old.id, "old_ends": ends_at.isoformat(timespec="seconds")})


def revoke(arguments: argparse.Namespace, access: AccessTable) -> None:
    """End a key now."""
    key, now = _known(arguments, access), datetime.now(UTC)
    confirm(arguments, f"Key {key.id} ({key.label or 'no label'}) of {key.project} will stop working within a minute.")
    access.revoke_key(key, now)
    show_one(arguments, {"id": key.id, "state": "revoked", "stops": "within a minute"})


def _known(arguments: argparse.Namespace, access: AccessTable) -> ApiKey:
    found = access.key(arguments.project, arguments.id)
    if found is None:
        raise OperatorError(f"project {arguments.project!r} has no key {arguments.id!r}; `keys list` names them")
    return found


def _new(like: ApiKey) -> tuple[str, ApiKey]:
    """Return a new key's text, and what is kept of it."""
    text = f"tm_{secrets.token_urlsafe(KEY_BYTES)}"
    return text, replace(like, digest=digest_of(text))


def _show_new(arguments: argparse.Namespace, text: str, key: ApiKey, more: dict[str, Any] | None = None) -> None:
    scopes = [scope.value for scope in key.scopes]
    shown = {"key": text, "id": key.id, "project": key.project, "scopes": scopes, "label": key.label}
    show_one(arguments, shown | described(key.limits) | (more or {}))
    if not arguments.json:
        print("The key is shown this once; it is kept as its hash only.")


def _duration(text: str) -> timedelta:
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m, 24h or 7d")
    return timedelta(seconds=int(found[1]) * UNITS[found[2]])
