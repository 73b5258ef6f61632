"""Files of history, through every task: what is read, judged, stored and told; again, and after any death."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chalicelib.base.object_keys import hour_folder
from chalicelib.base.time_windows import day_of, hour_start_ms
from chalicelib.events.chunks import Message, chunks_of
from chalicelib.hours.compact import Compactor
from chalicelib.hours.new_days import NewDays
from chalicelib.imports import importing, imports
from chalicelib.imports.imports import Import, ImportRefused
from chalicelib.ingest.aggregate import Aggregator
from chalicelib.ingest.archive import Archiver
from tests.imports.importing import FILE, World, a_world, ndjson, view
from tests.mortal import Died, Mortal
from tests.stores import stream_record

# 12 events in six hours of three days.
EVENTS = [view(f"2013-0{1 + n % 3}-07T{n % 2 + 9:02}:05:00Z", user_id=f"u{n % 4}", event_id=f"e{n}") for n in range(12)]
MAPPING = {
    "event_type": "purchase",
    "event_id": ["shop", "order"],
    "user_id": "customer",
    "timestamp": {"columns": ["day", "time"], "format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"},
    "properties": {"revenue": {"column": "amount", "type": "number"}, "currency": "currency"},
}
TABLE = [
    ["shop", "order", "customer", "day", "time", "amount", "currency"],
    ["a", "1", "ada", "01.07.2013", "01:30", "10", "EUR"],
    ["a", "2", "bob", "01.07.2013", "09:00", "2.5", "EUR"],
    ["b", "1", "ada", "02.07.2013", "09:00", "NA", "USD"],
]


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as found:
        yield found


def as_csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def as_parquet(events: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(events), sink)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.Codec("zstd").compress(content, asbytes=True)
    return packed


def test_a_file_is_in_the_numbers_and_in_the_lake_each_event_once(world: World) -> None:
    report = world.drop(ndjson(*EVENTS))

    assert report["stored"] == 12
    assert world.total() == 12
    assert world.total(agg="users") == 4
    assert [point["value"] for point in world.ask()["series"][:4]] == [4, 4, 4, 0]
    assert world.total(group_by="path") == 12
    hours = {event["timestamp"][:13] for event in EVENTS}
    assert sorted(event_id for hour in hours for event_id in world.ids(hour)) == sorted(e["event_id"] for e in EVENTS)


def test_sessions_of_history_are_counted_also_over_hours_and_days(world: World) -> None:
    at = ["2013-01-07T09:50:00Z", "2013-01-07T10:10:00Z", "2013-01-07T23:50:00Z", "2013-01-08T00:10:00Z"]
    views = [view(moment, event_id=f"s{n}") for n, moment in enumerate([*at, "2013-03-01T12:00:00Z"])]

    world.drop(ndjson(*views))

    assert world.total("sessions") == 3
    asked = {"start": "2013-01-07", "end": "2013-01-09", "interval": "day"}
    assert [point["value"] for point in world.ask("sessions", **asked)["series"]] == [2, 0, 0]
    assert world.total("sessions", agg="avg", measure="pages") == pytest.approx(5 / 3)
    world.drop(ndjson(view("2013-01-08T00:30:00Z", event_id="late"), view("2013-01-08T12:00:00Z", event_id="alone")))
    assert [point["value"] for point in world.ask("sessions", **asked)["series"]] == [2, 1, 0]
    assert world.total("sessions", agg="avg", measure="pages") == pytest.approx(7 / 4)


def test_sessions_of_a_neighbouring_range_that_reach_into_a_new_day_are_in_its_numbers(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finish, runs = NewDays.finish, iter(range(9))

    def overtaken(self: NewDays, *of: Any) -> bool:
        if next(runs) == 0:  # one session with what follows in the new day
            world.drop(ndjson(view("2013-01-06T23:50:00Z", event_id="before")), key="raw/demo/another.ndjson")
            assert world.stores.closed.noted_days("demo").keys() == {"2013-01-07"}
        return finish(self, *of)

    monkeypatch.setattr(NewDays, "finish", overtaken)
    world.drop(ndjson(view("2013-01-07T00:10:00Z", event_id="after"), view("2013-01-07T12:00:00Z", event_id="later")))

    asked = {"start": "2013-01-06", "end": "2013-01-08", "interval": "day"}
    assert [point["value"] for point in world.ask("sessions", **asked)["series"]] == [1, 1, 0]
    assert world.total() == 3
    assert world.stores.closed.noted_days("demo") == {}
    assert "somebody came in between" not in caplog.text


@pytest.mark.parametrize("timezone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("interval", ["hour", "day", "month"])
def test_every_way_to_ask_finds_the_same_events(world: World, interval: str, timezone: str) -> None:
    world.drop(ndjson(*EVENTS))

    asked = {"interval": interval, "timezone": timezone, "start": "2013-01-01T00:00:00Z", "end": "2013-04-01T00:00:00Z"}
    if interval == "hour":
        asked["end"] = "2013-01-31T00:00:00Z"
    told = world.ask(**asked)

    assert sum(point["value"] for point in told["series"]) == (4 if interval == "hour" else 12)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (ndjson(*EVENTS), "a.ndjson"),
        (gzip.compress(ndjson(*EVENTS)), "a.ndjson.gz"),
        (gzip.compress(ndjson(*EVENTS[:6]) + b"\n") + gzip.compress(ndjson(*EVENTS[6:])), "members.json.gz"),
        (zstd(ndjson(*EVENTS)), "a.zst"),
        (json.dumps(EVENTS, indent=2).encode(), "array.json"),
        (zstd(json.dumps(EVENTS).encode()), "array.json.zst"),
        (as_parquet(EVENTS), "a.parquet"),
        (b"\xef\xbb\xbf" + ndjson(*EVENTS).replace(b"\n", b"\r\n\r\n"), "windows.jsonl"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_format_gives_the_same_events(world: World, content: bytes, name: str) -> None:
    world.drop(content, f"raw/demo/2013/{name}")

    assert world.total() == 12
    assert world.total(agg="users") == 4


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_a_table_becomes_events_by_its_mapping(world: World, pack: Callable[[bytes], bytes]) -> None:
    key = "raw/demo/orders.csv"
    world.stores.bucket.put(f"{key}.mapping.json", json.dumps(MAPPING).encode())

    report = world.drop(pack(as_csv(TABLE)), key)

    assert (report["stored"], report["rejected"]) == (3, 0)
    assert world.total("purchases", agg="sum", measure="revenue") == 12.5
    assert world.total("purchases", agg="users") == 2
    assert world.ids("2013-06-30T23") == ["a-1"]  # 01:30 in Berlin
    assert {g["key"]: g["total"] for g in world.ask("purchases", group_by="currency")["groups"]} == {"EUR": 2, "USD": 1}


def test_a_mapping_of_the_folder_holds_for_each_file_in_it(world: World) -> None:
    world.stores.bucket.put("raw/demo/orders/mapping.json", json.dumps(MAPPING).encode())

    world.drop(as_csv(TABLE[:2]), "raw/demo/orders/1.csv")
    world.drop(as_csv([TABLE[0], TABLE[2]]), "raw/demo/orders/2.csv")

    assert world.total("purchases") == 2


def test_a_mapping_holds_for_parquet_too(world: World) -> None:
    rows = [dict(zip(TABLE[0], row, strict=True)) for row in TABLE[1:]]
    world.stores.bucket.put("raw/demo/orders.parquet.mapping.json", json.dumps(MAPPING).encode())

    world.drop(as_parquet(rows), "raw/demo/orders.parquet")

    assert world.total("purchases") == 3


# What is not taken


def test_a_bad_row_costs_the_others_nothing_and_is_kept_with_its_reason(world: World) -> None:
    lines = ndjson(*EVENTS[:3], {"event_type": "page_view", "timestamp": "yesterday"}, {"no": "type"}) + b"\nno json\n"

    report = world.drop(lines)

    assert (report["rows"], report["stored"], report["rejected"]) == (6, 3, 3)
    assert report["reasons"] == {"invalid_time": 1, "contract_violation": 1, "malformed_json": 1}
    shown = json.loads(world.stores.bucket.get(f"{FILE}.report.json") or b"")
    assert [(r["row"], r["code"]) for r in shown["rejections"]] == [
        (4, "invalid_time"),
        (5, "contract_violation"),
        (6, "malformed_json"),
    ]
    (kept,) = world.stores.objects("quarantine/project=demo/")
    records = gzip.decompress(world.stores.bucket.get(kept) or b"").splitlines()[1:]
    assert [json.loads(record)["code"] for record in records] == [
        "invalid_time",
        "contract_violation",
        "malformed_json",
    ]
    assert world.shown()[0]["rejected"] == 3


LISTS = b"[" + b"[]," * 30_000 + b"0]"
STRANGE = [  # as a row may have it, and as it is stored; None: the row is rejected
    (b'"\\ud83d!"', "\ufffd!"),
    (b"NaN", None),
    (b"-Infinity", None),
    (b"1e999", None),
    (b"18446744073709551616", 18446744073709551616.0),
    (b"-9223372036854775809", -9223372036854775808.0),
    (b"9" * 5000, None),
    (b'"\\ud83d\\ude00"', "\U0001f600"),
]
REJECTED = [(LISTS, "too_many_values"), (b"[" * 300 + b"]" * 300, "malformed_json")]
REJECTED.append((b'{"a":' * 990 + b"0" + b"}" * 990, "malformed_json"))


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_row_that_json_hardly_takes_costs_the_others_nothing(world: World, form: str) -> None:
    rows = [
        b'{"event_type": "wave", "event_id": "%d", "timestamp": "2013-01-07T09:00:00Z", "properties": {"x": %s}}'
        % (number, value)
        for number, (value, _) in enumerate([*STRANGE, *REJECTED])
    ]
    content = b"\n".join(rows) if form == "lines" else b"[" + b", ".join(rows) + b"]"

    report = world.drop(content, "raw/demo/a.json")

    assert (report["rows"], report["stored"], report["rejected"]) == (len(rows), len(STRANGE), len(REJECTED))
    assert report["reasons"] == {"malformed_json": 2, "too_many_values": 1}
    folder = hour_folder("demo", "2013-01-07T09")
    found = world.lake.rows([folder + name for name in world.lake.files(folder)])
    assert {row.event["event_id"]: row.event["properties"]["x"] for row in found} == {
        str(number): stored for number, (_, stored) in enumerate(STRANGE)
    }


def test_a_row_of_a_parquet_file_that_json_hardly_takes_costs_the_others_nothing(world: World) -> None:
    texts = pa.array([b"\xff\xfe", b"a", b"b"], pa.binary()).view(pa.string())
    lists = pa.array([[], [], [[]] * 30_000], pa.list_(pa.list_(pa.int64())))
    properties = pa.StructArray.from_arrays([texts, lists], ["x", "y"])
    columns = {
        "event_id": ["1", "2", "3"],
        "event_type": ["wave"] * 3,
        "timestamp": ["2013-01-07T09:00:00Z"] * 3,
        "properties": properties,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)

    report = world.drop(sink.getvalue(), "raw/demo/a.parquet")

    assert (report["stored"], report["reasons"]) == (1, {"malformed_json": 1, "too_many_values": 1})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (",".join(f"c{n}" for n in range(10_001)).encode(), "the header names 10001 columns; the limit is 10000"),
        (b'order,x,y\n1,"' + b'a,"\n' * 0 + b"a\n" * 600_000 + b'","' + b"b\n" * 600_000 + b'"\n', "a row has over"),
    ],
)
def test_a_table_whose_rows_would_fill_the_memory_is_refused(world: World, content: bytes, words: str) -> None:
    mapping = {"event_type": "order", "timestamp": "order"}
    world.stores.bucket.put("raw/demo/a.csv.mapping.json", json.dumps(mapping).encode())
    one = world.put(content, "raw/demo/a.csv")

    with pytest.raises(ImportRefused, match=words):
        world.importer.validate({"import": one.to_json()})


def test_an_integer_of_a_table_that_no_store_takes_is_rejected(world: World) -> None:
    key = "raw/demo/orders.csv"
    mapping = {**MAPPING, "properties": {"amount": {"column": "amount", "type": "integer"}}}
    world.stores.bucket.put(f"{key}.mapping.json", json.dumps(mapping).encode())
    rows = [["a", "7", "ada", "01.07.2013", "01:30", "1e300", "EUR"], ["a", "8", "ada", "01.07.2013", "01:30", "7", ""]]

    report = world.drop(as_csv([TABLE[0], *rows]), key)

    assert (report["stored"], report["reasons"]) == (1, {"invalid_value": 1})


def test_a_part_holds_no_more_than_memory_should_and_rows_keep_their_numbers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [view(f"2013-01-07T09:00:{n:02}Z", path="/" + "x" * n * 100) for n in range(20)]  # without ids
    bad = {"no": "type"}
    first = world.drop(ndjson(*rows, bad))
    monkeypatch.setattr(importing, "PART_HELD_BYTES", 20_000)
    one = world.put(ndjson(*rows, bad))

    parts = world.importer.validate({"import": one.to_json()})["parts"]
    again = world.run(one)

    assert len(parts) > 3
    assert (first["stored"], again["stored"], again["duplicates"]) == (20, 0, 20)
    shown = json.loads(world.stores.bucket.get(f"{FILE}.report.json") or b"")
    assert [rejection["row"] for rejection in shown["rejections"]] == [21]


def test_rejected_rows_are_kept_in_files_of_a_bounded_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "QUARANTINED_BYTES", 10_000)

    report = world.drop(ndjson(*({"no": "type", "text": "x" * 900} for _ in range(50)), *EVENTS))

    assert report["rejected"] == 50
    sizes = [len(gzip.decompress(world.stores.bucket.get(key) or b"")) for key in world.stores.objects("quarantine/")]
    assert len(sizes) > 3
    assert max(sizes) < 13_000


def test_rejected_rows_are_in_quarantine_once_however_often_the_task_runs(world: World) -> None:
    one = world.put(ndjson({"no": "type"}, {"no": "type"}, *EVENTS))
    whose = {"import": one.to_json()}
    file = world.importer.validate(whose)

    for _ in range(3):
        world.importer.transform({**whose, "digest": file["digest"], "part": 1})

    assert len(world.stores.objects("quarantine/")) == 1


def test_rows_of_a_table_are_rejected_by_the_mapping_with_the_column(world: World) -> None:
    key = "raw/demo/orders.csv"
    world.stores.bucket.put(f"{key}.mapping.json", json.dumps(MAPPING).encode())
    bad = [["a", "3", "", "99.07.2013", "09:00", "1", ""], ["a", "4", "", "03.07.2013", "09:00", "much", ""], ["a"]]
    bad.append(["", "5", "", "03.07.2013", "09:00", "1", ""])

    report = world.drop(as_csv([*TABLE, *bad]), key)

    assert report["reasons"] == {"invalid_time": 1, "invalid_value": 1, "wrong_columns": 1, "missing_value": 1}
    assert report["stored"] == 3


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (b"", "a.json", "is empty"),
        (b"hello", "a.txt", "begins with b'hello'"),
        (b"a,b\n1,2\n", "a.csv", "has no mapping"),
        (b"[]", "a.json", "has no row"),
        (b'[{"event_type": "a"}, ', "a.json", "ends too early, after 1 elements"),
        (b'[{"event_type": "a"} {}]', "a.json", "follows element 1 of the array"),
        (gzip.compress(ndjson(*EVENTS))[:-12], "a.gz", "cannot be read further"),
        (b"PAR1 not really PAR1", "a.parquet", "cannot be read further"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_what_is_wrong(
    world: World, content: bytes, name: str, words: str
) -> None:
    one = world.put(content, f"raw/demo/{name}")

    with pytest.raises(ImportRefused, match=words):
        world.importer.validate({"import": one.to_json()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event_type": {"columns": "x"}}, "event_type is"),
        ({"timestamp": {"columns": ["day"], "format": "%d", "zone": "Mars/Base"}}, "not a time zone"),
        ({"timestamp": {"columns": ["day"]}}, "needs a format"),
        ({"properties": {"a": {"column": "a", "type": "money"}}}, "must be one of text, integer, number, boolean"),
        ({"colour": "red"}, "Unknown field"),
        ({"user_id": "kunde"}, "the mapping names kunde, and the file has shop, order, customer, day, time, amount"),
        ({"delimiter": ";"}, "the mapping names amount, currency, customer.*what parts them is ';'"),
    ],
)
def test_a_wrong_mapping_is_refused_with_what_is_wrong(world: World, change: dict[str, Any], words: str) -> None:
    key = "raw/demo/orders.csv"
    world.stores.bucket.put(f"{key}.mapping.json", json.dumps({**MAPPING, **change}).encode())
    one = world.put(as_csv(TABLE), key)

    with pytest.raises(ImportRefused, match=words):
        world.importer.validate({"import": one.to_json()})


def test_a_file_of_no_project_is_refused(world: World) -> None:
    one = world.put(ndjson(*EVENTS), "raw/nobody/a.ndjson")

    with pytest.raises(ImportRefused, match="there is no project 'nobody'"):
        world.importer.validate({"import": one.to_json()})


def test_a_file_that_is_replaced_while_it_is_read_is_refused(world: World) -> None:
    one = world.put(ndjson(*EVENTS))
    world.put(ndjson(*EVENTS[:2]))

    with pytest.raises(ImportRefused, match="has been replaced or removed"):
        world.importer.validate({"import": one.to_json()})


def test_a_file_that_is_replaced_between_two_of_its_reads_is_refused(world: World) -> None:
    one = world.put(ndjson(*EVENTS))
    replaced: list[str] = []

    def replace_it(operation: str, arguments: dict[str, Any]) -> None:
        if "put" in operation and not replaced and not str(arguments.get("Key", "raw/")).startswith("raw/"):
            replaced.append(arguments["Key"])
            world.put(ndjson(*EVENTS, EVENTS[0] | {"event_id": "another"}))

    world.stores.calls.listeners.append(replace_it)
    with pytest.raises(ImportRefused, match="has been replaced or removed"):
        world.importer.validate({"import": one.to_json()})

    assert replaced


@pytest.mark.parametrize(("name", "words"), [("MAX_ROWS", "over 10 rows"), ("MAX_FILE_BYTES", "the limit is 10")])
def test_a_file_beyond_a_limit_is_refused(world: World, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setattr(importing, name, 10)
    one = world.put(ndjson(*EVENTS))

    with pytest.raises(ImportRefused, match=words):
        world.importer.validate({"import": one.to_json()})


def test_a_file_of_which_no_row_can_be_taken_is_refused(world: World) -> None:
    one = world.put(ndjson({"a": 1}, {"b": 2}))
    with pytest.raises(ImportRefused, match="none of the 2 rows could be taken: 2 contract_violation") as caught:
        world.run(one)

    error = {"Error": "ImportRefused", "Cause": json.dumps({"errorMessage": str(caught.value)})}
    world.importer.fail({"import": one.to_json(), "error": error}, world.now_ms)
    told = json.loads(world.stores.bucket.get(f"{FILE}.report.json") or b"")
    assert (told["reasons"], [each["row"] for each in told["rejections"]]) == ({"contract_violation": 2}, [1, 2])
    assert world.shown()[0]["reasons"] == {"contract_violation": 2}


def test_a_failure_is_told_beside_the_file_which_stays(world: World) -> None:
    one = world.put(b"hello")
    error = {"Error": "ImportRefused", "Cause": json.dumps({"errorMessage": "it begins with hello"})}

    world.importer.fail({"import": one.to_json(), "error": error}, world.now_ms)

    assert world.stores.objects("raw/") == [FILE, f"{FILE}.report.json"]
    assert world.told.details == [
        {
            "id": one.id,
            "project": "demo",
            "file": "a.ndjson",
            "state": "failed",
            "code": "ImportRefused",
            "error": "it begins with hello",
        }
    ]
    assert [(i["state"], i["error"]) for i in world.shown()] == [("failed", "it begins with hello")]


def test_an_import_that_is_done_cannot_fail_any_more(world: World) -> None:
    one = world.put(ndjson(*EVENTS))
    world.run(one)

    world.importer.fail({"import": one.to_json(), "error": {"Error": "x", "Cause": "y"}}, world.now_ms)

    assert world.shown()[0]["state"] == "done"


# Once


def test_a_task_of_an_import_that_is_late_leaves_it_as_far_as_it_is(world: World) -> None:
    one = world.put(ndjson(*EVENTS))
    world.run(one)
    done = world.table.get("demo", one.id)

    for state in ("transforming", "storing"):
        world.table.advance(one, state, rows=1)

    assert done is not None
    assert done["state"] == "done"
    assert world.table.get("demo", one.id) == done


def test_a_file_dropped_twice_counts_once(world: World) -> None:
    world.drop(ndjson(*EVENTS))
    report = world.drop(ndjson(*EVENTS))

    assert (report["stored"], report["duplicates"]) == (0, 12)
    assert world.total() == 12


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_events_without_ids_count_once_as_well_however_the_file_is_packed(
    world: World, pack: Callable[[bytes], bytes]
) -> None:
    events = [{name: value for name, value in event.items() if name != "event_id"} for event in EVENTS]
    world.drop(ndjson(*events))

    world.drop(pack(ndjson(*events)), "raw/demo/again")

    assert world.total() == 12


def test_events_without_ids_are_others_in_each_share_of_a_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ADMITTED_AT_ONCE", 5)
    events = [{name: value for name, value in event.items() if name != "event_id"} for event in EVENTS]
    in_one_hour = [{**event, "timestamp": EVENTS[0]["timestamp"]} for event in events]

    report = world.drop(ndjson(*in_one_hour))

    assert (report["stored"], report["duplicates"]) == (12, 0)
    assert world.total() == 12


def test_a_second_file_adds_what_is_new_in_it(world: World) -> None:
    world.drop(ndjson(*EVENTS[:8]))
    report = world.drop(ndjson(*EVENTS[4:]))

    assert (report["stored"], report["duplicates"]) == (4, 4)
    assert world.total() == 12
    assert world.total(agg="users") == 4


def test_an_event_that_is_twice_in_a_file_counts_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PART_ROWS", 10)

    report = world.drop(ndjson(*EVENTS, *EVENTS))

    assert (report["stored"], report["duplicates"]) == (12, 12)
    assert world.total() == 12


@pytest.mark.parametrize("part_rows", [1, 25_000])
def test_an_id_with_several_timestamps_is_an_event_in_each_of_their_hours(
    world: World, monkeypatch: pytest.MonkeyPatch, part_rows: int
) -> None:
    monkeypatch.setattr(importing, "PART_ROWS", part_rows)
    at = ["2013-01-07T09:05:00Z", "2013-01-07T09:50:00Z", "2013-01-07T10:05:00Z", "2013-01-08T09:05:00Z"]

    report = world.drop(ndjson(*(view(moment, event_id="e") for moment in at)))

    assert (report["stored"], report["duplicates"]) == (3, 1)
    assert world.total() == 3


def test_parts_and_ranges_of_any_size_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PART_ROWS", 5)
    monkeypatch.setattr(imports, "RANGE_ROWS", 5)

    report = world.drop(ndjson(*EVENTS))

    assert report["stored"] == 12
    assert world.total() == 12
    assert world.shown()[0]["progress"] == 1.0


def test_dates_without_a_time_of_day_are_each_days_first_moment(world: World) -> None:
    columns = {"user_id": "customer", "timestamp": {"columns": ["day"], "format": "%Y-%m-%d"}}
    mapping = {"event_type": "page_view", "event_id": ["order"], **columns, "properties": {}}
    world.stores.bucket.put("raw/demo/days.csv.mapping.json", json.dumps(mapping).encode())
    days = ["2025-03-04", "2025-03-05", "2025-03-05", "2025-03-06"]
    rows = [["order", "customer", "day"], *([f"{number}", "ada", day] for number, day in enumerate(days))]

    report = world.drop(as_csv(rows), "raw/demo/days.csv")

    assert (report["stored"], report["duplicates"], report["rejected"]) == (4, 0, 0)
    shown = world.ask(start="2025-03-04", end="2025-03-06", interval="day")["series"]
    assert [point["value"] for point in shown] == [1, 2, 1]
    assert [len(world.ids(f"{day}T00")) for day in sorted({*days})] == [1, 2, 1]


def test_a_day_that_is_too_large_for_memory_goes_hour_by_hour(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chalicelib.imports.backfill.DAY_ROWS", 5)
    monkeypatch.setattr(importing, "PART_ROWS", 7)

    world.drop(ndjson(*EVENTS, *EVENTS[:10]))

    assert world.total() == 12


def test_recent_history_is_added_to_what_came_live(world: World) -> None:
    live = [view("2026-11-21T07:10:00Z", event_id=f"live{n}") for n in range(3)]
    world.drop(ndjson(*live))  # stands for an hour that has been closed

    world.drop(ndjson(view("2026-11-21T07:20:00Z", event_id="late"), live[0]))

    assert world.total() == 4


def test_what_comes_live_into_an_hour_that_an_import_brought_is_closed_each_time(world: World) -> None:
    """The import's version has no manifest; those that follow it have one."""
    hour = EVENTS[0]["timestamp"][:13]
    world.drop(ndjson(*EVENTS))
    for number in range(2):
        event = {"event_id": f"live{number}", "event_type": "page_view", "occurred_at": hour_start_ms(hour)}
        [chunk] = chunks_of(Message("demo", world.now_ms, [{**event, "user_id": f"u{number}"}]))
        records = [stream_record(chunk, number)]
        Aggregator(world.contracts, world.rollups, world.stores.bucket).aggregate(records, world.now_ms)
        Archiver(world.lake, world.hours, world.stores.erased).archive(records)
        world.now_ms += 2 * 3_600_000
        Compactor(world.rollups, world.hours).compact(world.now_ms // 1000)

        assert world.finisher.finish("demo", hour, world.now_ms).closed
        assert not world.hours.get("demo", hour).is_dirty
        assert world.total() == 13 + number
        world.now_ms += 2 * 3_600_000
        world.finisher.consolidate_due(world.now_ms)

    assert len(world.stores.objects(f"lake/project=demo/dt={hour[:10]}/hr={hour[11:]}/")) == 1


def test_an_hour_that_is_not_over_waits_for_the_hourly_workflow(world: World) -> None:
    report = world.drop(ndjson(view("2026-11-21T10:01:00Z", event_id="now"), *EVENTS[:3]))

    assert report["waiting_hours"] == 1
    assert world.total() == 3
    assert world.hours.get("demo", "2026-11-21T10").is_dirty
    world.now_ms += 2 * 3_600_000
    world.finisher.finish_all(world.finisher.consolidate_due(world.now_ms)["hours"], world.now_ms)
    assert world.total() == 4


def test_other_projects_see_nothing_of_it(world: World) -> None:
    world.drop(ndjson(*EVENTS))

    assert world.shown("shop") == []
    assert world.stores.objects("lake/project=shop/") == []


def test_the_queries_see_an_imported_hour_until_it_is_settled(world: World) -> None:
    world.drop(ndjson(*EVENTS))
    hours = {event["timestamp"][:13] for event in EVENTS}

    world.finisher.consolidate_due(world.now_ms + 59 * 60_000)
    assert {hour.hour for hour in world.hours.unsettled("demo")} == hours  # younger files of settled hours are not seen
    world.finisher.consolidate_due(world.now_ms + 61 * 60_000)
    assert world.hours.unsettled("demo") == []


def test_a_day_that_somebody_came_into_is_not_taken(world: World) -> None:
    """Nor is it finished: whatever came before or meanwhile would be closed without having been counted."""
    days, hour = NewDays(world.rollups.client, "rollups"), "2013-01-07T09"
    assert days.take("demo", day_of(hour), [hour], "run", world.now_ms)
    before = world.hours.get("demo", hour)

    assert not days.take("demo", day_of(hour), ["2013-01-07T10", hour], "another", world.now_ms)

    assert world.hours.get("demo", hour) == before
    assert world.hours.between("demo", day_of(hour), "2013-01-08") == [before]


def test_a_day_that_somebody_came_into_is_not_finished(world: World) -> None:
    days, hours = NewDays(world.rollups.client, "rollups"), ["2013-01-07T09", "2013-01-07T10"]
    assert days.take("demo", "2013-01-07", hours, "run", world.now_ms)
    world.hours.note("demo", hours[1])

    assert not days.finish("demo", dict.fromkeys(hours, "version"), world.now_ms)

    assert all(hour.is_dirty for hour in world.hours.between("demo", *hours))


# Deaths


def run_dying(world: World, one: Import, before: int) -> int:
    """Run the tasks; the process dies before the write of a number, and the task that it was in runs again."""
    writes = 0

    def count(operation: str, _arguments: Any) -> None:
        nonlocal writes
        if operation in Mortal.WRITES:
            writes += 1
            if writes == before:
                raise Died

    world.stores.calls.listeners.append(count)
    try:
        world.run(one)
    finally:
        world.stores.calls.listeners.remove(count)
    return writes


# Of a type without a contract, of which less is kept: six events in three hours of two days.
PLAIN = [{**view(f"2013-01-0{1 + n // 4}T{9 + n // 2 % 2:02}:05:00Z"), "event_type": "visit"} for n in range(6)]
PLAIN = [{**event, "event_id": f"p{n}", "user_id": f"u{n % 2}"} for n, event in enumerate(PLAIN)]


@pytest.mark.parametrize("known", [False, True], ids=["new days", "days with events"])
def test_a_death_before_any_write_counts_nothing_twice_and_loses_nothing(known: bool) -> None:
    for before in range(1, 200):
        with a_world() as world:
            if known:
                world.drop(ndjson(*PLAIN[:3]))
            one = world.put(ndjson(*PLAIN))
            try:
                run_dying(world, one, before)
                died = False
            except Died:
                died = True
                world.now_ms += 20 * 60_000  # another run's lease is over; of its own, an import knows
                world.run(one)
            assert world.total("visit") == 6, f"before write {before}"
            assert world.total("visit", agg="users") == 2
            assert world.total("sessions") == 6
            assert world.told.details[-1]["stored"] == (3 if known else 6)
            if not died:
                return
    raise AssertionError("an import takes more writes than were tried")
