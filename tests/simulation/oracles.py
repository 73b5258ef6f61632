"""What must hold: while a history goes on, for whoever looks; and once it has come to rest, for good.

All answers are taken where users get them: GET /analytics, POST /query, sockets; and the metrics that alarms watch.
"""

import zlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation import resources
from tests.simulation.dashboards import Dashboard
from tests.simulation.gateway import Answer
from tests.simulation.truth import Row
from tests.simulation.workload import MANY, PROJECTS

Hours = Counter[tuple[str, str]]  # events by type and hour
LAG_SECONDS = 320.0  # of an index, at most, and what it takes until its reader is answered
NEVER_ARE = ("EventsMissing", "LakeOldestDirtySeconds")
SILENT_SECONDS = 4 * 3600.0  # a batch that is still tried again may put its numbers right by itself before
PROMPT_SECONDS = 3600.0  # from the answer to the numbers, at most: a message that failed five times took as long
LATEST = timedelta(hours=6)  # how far back events go …
BEFORE = timedelta(hours=60)  # … and those of imports
AFTER = timedelta(hours=8)
PATH = "path"


class Broken(Exception):
    """Something that must hold does not."""


class Oracles:
    """Asks the system, and compares what it says with what is known from outside."""

    def __init__(self, world: Any, dashboards: list[Dashboard], log: Any) -> None:
        self.world, self.truth, self.gateway = world, world.truth, world.gateway
        self.dashboards, self.log = dashboards, log
        self.checks = 0
        self.told: dict[tuple[Any, ...], Answer] = {}  # what was answered at one step of the history
        self.told_at = -1
        self.over: dict[tuple[str, str, str], float] = {}  # hours that show more than there was: since when

    # While it goes on

    def read(self, number: int) -> None:
        """A reader: what it sees lies between what was delivered when it began and what was stored when it ended."""
        project = PROJECTS[number % len(PROJECTS)]
        for event_type in self._types(project):
            before = self.world.scheduler.now
            least = self.truth.least(before - LAG_SECONDS)
            answer = self.gateway.send("GET", "/analytics", f"{project}-read", **self._question(event_type))
            if answer.status == 200:
                self._between(project, event_type, _by_hour(answer), least, f"a reader that began at {before:.3f}")

    def look(self) -> None:
        """The same from outside, at one moment."""
        least = self.truth.least(self.world.scheduler.now - LAG_SECONDS)
        for project in PROJECTS:
            types = self._types(project)
            for event_type in types:
                found = _by_hour(self._ask(project, event_type))
                self._between(project, event_type, found, least, "a look")
            if types:  # who sends nothing is looked at once, at rest
                self._query_now(project)
        self._prompt()
        self._surplus()
        if self.log.crashes:
            raise Broken(f"a handler crashed: {self.log.crashes[0]}")
        if failures := self.world.functions.failures:
            raise Broken(failures[0])

    def _prompt(self) -> None:
        """What is acknowledged is in the numbers within an hour, whatever trouble another project has."""
        begun = [each.resumes_at for each in self.world.streams if each.function == "aggregate"]
        before = self.world.scheduler.now - PROMPT_SECONDS
        if max(begun) > before:
            return  # it stood still until then
        if self.world.options.shape in MANY:
            return  # a request of hundreds of events takes so many calls that each try may be killed at one of them
        done = {(row.project, row.id) for row in self.truth.delivered["aggregate"]}
        for each, at in self.truth.acknowledged.items():
            if at <= before and each not in done and each not in self.truth.trimmed and not self._is_erased(each):
                raise Broken(f"{each} was acknowledged {self.world.scheduler.now - at:.0f} s ago, and is in no number")

    def _surplus(self) -> None:
        """Nothing is ever counted twice, so far as `audit` looked, but for what guarantees except."""
        most = self.truth.accounts.surplus()
        found = self.log.metrics.get("EventsSurplus", 0)
        if found > most and not self.truth.doubtful:
            raise Broken(f"EventsSurplus is {found}, of {most} that there are")

    def _query_now(self, project: str) -> None:
        """SQL sees what `archive` is done with, and nothing twice in an hour."""
        found = self._sql(project)
        if twice := [key for key, count in found.items() if count > 1]:
            raise Broken(f"SQL of {project} sees twice {twice[:3]}")
        ids = {key[0] for key in found}
        before = self.world.scheduler.now - LAG_SECONDS
        for row, at in self.truth.delivered["archive"].items():
            if at <= before and row.project == project and row.id not in ids and not self.truth.is_gone(row):
                raise Broken(f"SQL of {project} does not see {row}")

    def _between(self, project: str, event_type: str, found: Counter[str], least: Any, who: str) -> None:
        self.checks += 1
        most, exact = self.truth.most(), self.truth.most(doubts=False)
        for hour in {*found, *(h for p, t, h in least if (p, t) == (project, event_type))}:
            key = (project, event_type, hour)
            self._alarmed(key, is_over=found[hour] > exact[key])
            if not least[key] <= found[hour] <= most[key]:
                wanted = f"between {least[key]} and {most[key]}"
                raise Broken(f"{who}: {project} {event_type} of {hour} is {found[hour]}, and must be {wanted}")

    def _alarmed(self, key: tuple[str, str, str], *, is_over: bool) -> None:
        """What guarantees except is never silent: who shows too much for hours has said so once it is put right."""
        now = self.world.scheduler.now
        if is_over:
            self.over.setdefault(key, now)
        elif now - self.over.pop(key, now) > SILENT_SECONDS and not self.log.alarming & {"EventsDrift"}:
            raise Broken(f"{key} showed too much for hours, and no metric told")

    # At rest

    def rest(self) -> None:
        """Nothing is under way: everybody says the same, and it is the truth."""
        self.look()
        self._metrics()  # early, for it costs little: mostly something is still to be done
        self._end_imports()
        stored = self.truth.stored()
        for project in PROJECTS:
            rows = self._lake(project, [rows for (owner, _), rows in stored.items() if owner == project])
            self._analytics(project, rows)
            self._paths(project, rows)
        missing = [each for each in self.truth.acknowledged if each not in stored and not self._is_erased(each)]
        if missing:
            raise Broken(f"acknowledged and lost: {missing[:5]}")
        self._sockets()
        self._ledger()
        self._erased()

    def _end_imports(self) -> None:
        self.truth.imported.clear()
        for project, files in self.truth.files.items():
            for one in self._look("GET", "/imports", project).body["imports"]:
                if one["state"] == "done":
                    ids = {(project, each) for each in files[one["file"]]}
                    if one["rejected"]:  # what the door would not take either
                        ids = {each for each in ids if not self.truth.events[each].is_large}
                    self.truth.imported |= ids

    def _analytics(self, project: str, rows: list[Row]) -> None:
        types = self._types(project)
        expected: Hours = Counter((row.type, row.hour) for row in rows if row.type in types)
        found: Hours = Counter()
        for event_type in types:
            series = _by_hour(self._ask(project, event_type))
            found.update({(event_type, hour): count for hour, count in series.items()})
        self._same(f"GET /analytics of {project}", found, expected)
        every = _by_hour(self._ask(project, "events"))
        self._same(f"GET /analytics of all events of {project}", every, Counter(row.hour for row in rows))

    def _paths(self, project: str, rows: list[Row]) -> None:
        """A dimension's values in each hour: all, or those that are more frequent than what is too much."""
        events = self.truth.events
        viewed = [row for row in rows if row.type == "page_view"]
        paths: Hours = Counter((events[project, row.id].properties[PATH], row.hour) for row in viewed)
        answer = self._ask(project, "page_view", group_by=PATH, limit="1000")
        found: Hours = Counter()
        for group in answer.body.get("groups", []):
            found.update({(group["key"], b["start"][:13]): b["value"] for b in group["series"] if b["value"]})
        most = self.world.options.bounds.get("MAX_DIMENSION_VALUES", 1000)
        for hour in {hour for _, hour in paths}:
            counts = sorted((count for (_, at), count in paths.items() if at == hour), reverse=True)
            often = {key: n for key, n in paths.items() if key[1] == hour and (len(counts) <= most or n > counts[most])}
            self._same(f"paths of {project}", Counter({key: found[key] for key in often}), Counter(often))

    def _lake(self, project: str, stored: list[list[Row]]) -> list[Row]:
        """SQL sees each event once; returns what everybody has to see.

        Where copies of an event differ, SQL says which one is it. Of imports that failed it may see some rows.
        """
        found = self._sql(project)
        rows = [next((row for row in copies if row[1:4] in found), copies[0]) for copies in stored]
        known = {row.id for row in rows}
        files = self.truth.files.get(project, {})
        open_ids = {each for file in files.values() for each in file} - known
        rows += [Row(project, *row, None) for row in found if row[0] in open_ids]
        self._same(f"SQL of {project}", found, Counter(row[1:4] for row in rows))
        return rows

    def _sql(self, project: str) -> Counter[tuple[str, str, str]]:
        """Id, type and hour of the events that SQL sees."""
        body = {"sql": "SELECT event_id, event_type, dt, hr FROM events", "limit": 1000}
        answer = self._look("POST", "/query", project, body)
        found: Counter[tuple[str, str, str]] = Counter()
        while True:
            if answer.status != 200:
                raise Broken(f"POST /query answered {answer.status}: {answer.body}")
            found.update((row[0], row[1], f"{row[2]}T{row[3]}") for row in answer.body["rows"])
            if not answer.body["next"]:
                return found
            page = {"limit": "1000", "page": answer.body["next"]}
            answer = self._look("GET", f"/query/{answer.body['id']}", project, **page)

    def _sockets(self) -> None:
        for dashboard in self.dashboards:
            view = dashboard.view
            if dashboard.connection and view.ready:
                since = view.since[:13]
                shown = Counter({key: n for key, n in view.counts().items() if n and key[1] >= since})
                least: Hours = Counter()
                for event_type in self._types(dashboard.project):
                    for hour, count in _by_hour(self._ask(dashboard.project, event_type)).items():
                        if hour >= since:
                            least[_METRICS.get(event_type, event_type), hour] = count
                most = self._most_of(dashboard.project)
                for key in {*shown, *least}:
                    if not least[key] <= shown[key] <= max(most[key], least[key]):
                        wanted = f"{least[key]} to {most[key]}"
                        raise Broken(f"the socket of {dashboard.project} shows {shown[key]} of {key}, not {wanted}")

    def _most_of(self, project: str) -> Hours:
        found: Hours = Counter()
        for (owner, event_type, hour), count in self.truth.most().items():
            if owner == project:
                found[_METRICS.get(event_type, event_type), hour] += count
        return found

    def _ledger(self) -> None:
        """What the ledger says of each hour of receipt is so, term by term; and what it lacks, `audit` says as well."""
        from chalicelib import wiring

        hours: dict[str, set[str]] = {project: set() for project in PROJECTS}
        for key, _ in self.world.services.dynamodb.tables[f"tidemark-{resources.STAGE}-rollups"].every():
            project, _, kind = key[0].partition("#")
            if kind == "ledger":
                hours[project].add(key[1].partition("#")[0])
        missing = 0
        for project in PROJECTS:
            balances = {}
            for hour in hours[project] | {h for owner, h in self.truth.accounts.hours if owner == project}:
                ledger = wiring.stores().history.ledger(project, hour)
                receipts = wiring.stores().ledger.receipts(project, hour, hour).get(hour, ())
                ledger.note(*receipts)
                self.truth.accounts.hours[project, hour].told = {each.container: each.received for each in receipts}
                balances[hour] = ledger.balance()
                missing += balances[hour]["in_flight"]
            erases = any(owner == project for owner, _ in self.truth.erased)
            doubtful = bool(self.truth.doubtful)
            self.checks += 1
            if wrong := self.truth.accounts.wrong(project, balances, erases=erases, doubtful=doubtful):
                raise Broken(wrong)
        if self.log.metrics.get("EventsMissing", 0) != missing:
            raise Broken(f"at rest EventsMissing is {self.log.metrics.get('EventsMissing')}, and {missing} are")

    def _metrics(self) -> None:
        """No alarm is on without a reason, and what was lost on the way to one side has raised one.

        Of what is counted twice, `_surplus` knows the reason.
        """
        if self.truth.trimmed and not self.log.alarming & {"EventsDrift", "EventsMissing"}:
            raise Broken(f"{sorted(self.truth.trimmed)[:3]} never came to a consumer, and no metric told")
        for name in NEVER_ARE:
            if self.log.metrics.get(name) and not self.truth.doubtful:
                raise Broken(f"at rest {name} is {self.log.metrics[name]}")

    def _erased(self) -> None:
        """Nobody who asked to be forgotten is in any byte, but for the markers that keep them out."""
        users = [user for _, user in self.truth.erased]
        if not users:
            return
        words = [user.encode() for user in users]
        for name, bucket in self.world.services.s3.buckets.items():
            for key, found in bucket.objects.items():
                if any(word in _plain(found.content) or word in key.encode() for word in words):
                    raise Broken(f"an erased user is in s3://{name}/{key}")
        for table in self.world.services.dynamodb.tables.values():
            for key, item in table.every():
                if any(word in _bytes_of(key, item) for word in words):
                    raise Broken(f"an erased user is in {table.name} {key}")

    # Asking

    def _look(self, method: str, path: str, project: str, body: Any = None, **query: str) -> Answer:
        """Ask from outside. At one moment nobody writes in between, so each question is asked once."""
        moment, question = self.world.scheduler.steps, (method, path, project, str(body), *sorted(query.items()))
        if self.told_at != moment:
            self.told.clear()
            self.told_at = moment
        if question not in self.told:
            self.told[question] = self.gateway.look(method, path, f"{project}-read", body, **query)
        return self.told[question]

    def _types(self, project: str) -> list[str]:
        types = {event.type for event in self.truth.events.values() if event.project == project}
        return sorted(types)[:6]

    def _ask(self, project: str, metric: str, **more: str) -> Answer:
        answer = self._look("GET", "/analytics", project, **self._question(metric), **more)
        if answer.status not in (200, 404):
            raise Broken(f"GET /analytics of {metric} answered {answer.status}: {answer.body}")
        return answer

    def _question(self, metric: str) -> dict[str, str]:
        start = datetime.fromtimestamp(self.world.options.started_at, UTC).replace(minute=0, second=0)
        times = {"start": start - (BEFORE if self.truth.files else LATEST), "end": start + AFTER}
        return {"metric": metric, "interval": "hour", **{n: f"{at:%Y-%m-%dT%H:%M:%SZ}" for n, at in times.items()}}

    def _is_erased(self, event_id: tuple[str, str]) -> bool:
        event = self.truth.events[event_id]
        return (event.project, event.user) in self.truth.erased

    def _same(self, what: str, found: Counter[Any], expected: Counter[Any]) -> None:
        self.checks += 1
        found, expected = (
            Counter({k: n for k, n in found.items() if n}),
            Counter({k: n for k, n in expected.items() if n}),
        )
        if found != expected:
            more, less = found - expected, expected - found
            raise Broken(f"{what}: too much {dict(list(more.items())[:5])}, missing {dict(list(less.items())[:5])}")


_METRICS = {"page_view": "page_views", "purchase": "purchases"}


def _by_hour(answer: Answer) -> Counter[str]:
    if answer.status == 404:
        return Counter()
    return Counter({bucket["start"][:13]: bucket["value"] for bucket in answer.body["series"] if bucket["value"]})


def _plain(content: bytes) -> bytes:
    """An object's bytes, unpacked where they are packed; Parquet is not, in the simulation."""
    if content[:2] == b"\x1f\x8b":
        return zlib.decompress(content, 31)
    return content


def _bytes_of(key: tuple[str, str], item: dict[str, Any]) -> bytes:
    found = [" ".join(key).encode()]
    for value in item.values():
        [(kind, content)] = value.items()
        if kind == "B":
            try:
                found.append(zlib.decompress(content))
            except zlib.error:
                found.append(content)
        else:
            found.append(repr(content).encode())
    return b" ".join(found)
