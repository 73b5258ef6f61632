"""The bugs: where each is planted, and what is to catch it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands once in the file and becomes `new`; `test` fails then, or some history of the simulation."""

    name: str
    file: str
    old: str
    new: str
    test: str | None = None  # as pytest names it; None: the simulation


CLOSE, PROTOCOL, LAKE = "tests/test_close.py", "tests/test_rollup_protocol.py", "tests/test_consolidate.py"

MUTANTS = (
    # Deltas
    Mutant(
        "an earlier attempt replaces a later one",
        "chalicelib/storage/rollups_table.py",
        "attribute_not_exists(tidemark) AND (attribute_not_exists(pk) OR attempt <= :attempt)",
        "attribute_not_exists(tidemark)",
        f"{PROTOCOL}::test_an_earlier_attempt_that_is_late_changes_nothing",
    ),
    Mutant(
        "a delta is put over a tombstone",
        "chalicelib/storage/rollups_table.py",
        '_EARLIER = "attribute_not_exists(tidemark) AND ',
        '_EARLIER = "(attribute_not_exists(pk) OR attribute_exists(pk)) AND ',
        "tests/test_killed.py",
    ),
    Mutant(
        "a tombstone is put whatever became of the delta",
        "chalicelib/storage/rollups_table.py",
        '"ConditionExpression": "attempt = :attempt AND #last = :last"',
        '"ConditionExpression": "attempt >= :attempt OR #last <> :last OR attribute_exists(pk)"',
        PROTOCOL,
    ),
    Mutant(
        "tombstones are shorter than the stream's retention",
        "chalicelib/storage/rollups_table.py",
        "TOMBSTONE_SECONDS = 48 * 3600",
        "TOMBSTONE_SECONDS = 3600",
        f"{PROTOCOL}::test_tombstones_outlive_what_the_stream_remembers",
    ),
    Mutant(
        "the rest of a batch that meets a tombstone is dropped",
        "chalicelib/aggregate.py",
        "            share = rest[place]",
        "            return",
        "tests/test_killed.py",
    ),
    Mutant(
        "a batch that meets a tombstone is counted whole",
        "chalicelib/aggregate.py",
        "if sequence_of(record) > there",
        "if sequence_of(record) > there - 10**9",
        "tests/test_killed.py",
    ),
    Mutant(
        "a delta is named by the batch's first record, whatever that holds",
        "chalicelib/aggregate.py",
        'found = self.shares[place] = Share(record["eventID"])',
        'found = self.shares[place] = Share(next(iter(self.shares.values())).first if self.shares else record["eventID"])',
        f"{PROTOCOL}::test_a_batch_that_begins_elsewhere_names_its_deltas_alike",
    ),
    Mutant(
        "bots are signed by one consumer only",
        "chalicelib/aggregate.py",
        "            received[number] = received.get(number, 0) + 1\n",
        '            if not (event.get("enrichment") or {}).get("bot"):\n'
        "                received[number] = received.get(number, 0) + 1\n",
        f"{CLOSE}::test_bots_and_erased_users_do_not_disturb_closing",
    ),
    Mutant(
        "rows of erased users are not signed",
        "chalicelib/archive.py",
        "tail.received.append((hash_of(chunk.event_id), len(rows)))",
        "tail.received.append((hash_of(chunk.event_id), len(tail.rows) and 0))",
        f"{CLOSE}::test_bots_and_erased_users_do_not_disturb_closing",
    ),
    # Compaction
    Mutant(
        "merge into a frozen epoch",
        "chalicelib/storage/rollups_table.py",
        '{"Update": change_of(first.project, merged.hour, now, frozen=merged.epoch - 1)}',
        '{"Update": change_of(first.project, merged.hour, now)}',
        f"{CLOSE}::test_nothing_joins_an_epoch_that_is_frozen",
    ),
    Mutant(
        "a merge notes no change of its hour",
        "chalicelib/storage/hours_table.py",
        'if_not_exists(written_at, :now) ADD changes :one"',
        'if_not_exists(written_at, :now), changed = :one"',
        CLOSE,
    ),
    Mutant(
        "fold without version",
        "chalicelib/storage/rollups_table.py",
        '"ConditionExpression": "version = :before",\n                "ExpressionAttributeValues": {":before": {"N": str(base.version - 1)}},',
        '"ConditionExpression": "version <> :before OR version = :before",\n                "ExpressionAttributeValues": {":before": {"N": str(base.version - 1)}},',
        f"{PROTOCOL}::test_two_folds_of_one_slot_lose_nothing",
    ),
    Mutant(
        "fold deletes unconditionally",
        "chalicelib/storage/rollups_table.py",
        'gone = ({"Delete": {"Key": _merged_key(project, item), **_THERE}} for item in items)',
        'gone = ({"Delete": {"Key": _merged_key(project, item)}} for item in items)',
        f"{PROTOCOL}::test_two_folds_of_one_slot_lose_nothing",
    ),
    Mutant(
        "the base forgets what it absorbed",
        "chalicelib/compact.py",
        "absorbed=lately(each for part in parts for each in part.absorbed.items()),",
        "absorbed={},",
        f"{PROTOCOL}::test_a_reader_that_has_read_deltas_before_they_were_folded_counts_them_once",
    ),
    Mutant(
        "the base forgets what it folded",
        "chalicelib/compact.py",
        "folded=lately(before.folded.items() if before else ()) | {item.name: now for item in old},",
        "folded={},",
        f"{PROTOCOL}::test_a_closing_that_reads_while_items_are_folded_counts_them_once",
    ),
    Mutant(
        "the base is signed without what it had",
        "chalicelib/compact.py",
        "signature=total(part.signature for part in parts),",
        "signature=total(part.signature for part in old),",
        f"{CLOSE}::test_an_hour_whose_items_were_folded_closes",
    ),
    # Readers
    Mutant(
        "readers count what a merged item took in",
        "chalicelib/domain/deltas.py",
        "[delta for delta in deltas if delta.id not in absorbed]",
        "list(deltas)",
        PROTOCOL,
    ),
    Mutant(
        "readers count what closed items cover",
        "chalicelib/domain/closing.py",
        "return epoch <= self.epoch and slot <= self.upto",
        "return epoch < self.epoch and slot <= self.upto",
        CLOSE,
    ),
    Mutant(
        "a closed item hides slots that it does not hold",
        "chalicelib/domain/closing.py",
        "return epoch <= self.epoch and slot <= self.upto",
        "return epoch <= self.epoch",
        f"{CLOSE}::test_open_deltas_do_not_delay_closing",
    ),
    Mutant(
        "read merged items before closed ones",
        "chalicelib/storage/history.py",
        "        name = event_type or ALL_TYPES\n        found: dict[str, Rollup] = {}\n        covers: dict[str, Cover] = {}\n        kept = _kept(name, facet, totals)\n        if facet == COUNTS:",
        "        name = event_type or ALL_TYPES\n        early = self.rollups.views(project, first, last, deltas, part)\n        self.rollups.__class__.views.__defaults__\n        found: dict[str, Rollup] = {}\n        covers: dict[str, Cover] = {}\n        kept = _kept(name, facet, totals)\n        if facet == COUNTS:",
        f"{CLOSE}::test_a_merge_and_a_closing_between_two_reads_count_once",
    ),
)
