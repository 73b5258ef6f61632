"""The waits that must fit each other, in milliseconds, and the inequalities between them.

A wait of this module is compared with another one somewhere in the pipeline: what one part keeps, another part reads.
Each inequality below says what breaks when it does not hold. Waits that stand alone are kept where they are used.
"""

from chalicelib.base.time_windows import DAY_MS, HOUR_MS, MINUTE_MS

# What the platform gives: limits of AWS, and assumptions of docs/guarantees.md.
FUNCTION_MS = 15 * MINUTE_MS  # Lambda ends every attempt by then
QUERY_MS = 30 * MINUTE_MS  # Athena ends every query by then
CLOCKS_MS = MINUTE_MS  # clocks of functions differ by less
INDEX_MS = 5 * MINUTE_MS  # an index of DynamoDB lags by less; what lags more is late in live numbers, and not lost
RETENTION_MS = 24 * HOUR_MS  # for which a DynamoDB stream keeps a record
QUEUE_MS = 14 * DAY_MS  # for which the buffer, and then its dead-letter queue, keep a message

# Compaction of the rollups table.
MERGE_MS = MINUTE_MS  # after a delta was written: a batch that is still retried rewrites it; later that is rare
LOOK_BACK_MS = 5 * MINUTE_MS  # in which alerts and realtime need deltas apart by the minute they were written in
FOLD_MS = 6 * MINUTE_MS  # after a delta was merged its item becomes part of the base, which knows no minutes
READER_MS = 5 * MINUTE_MS  # in which a reader has read open deltas, closed items and, last, merged ones
NAMED_MS = 10 * MINUTE_MS  # a base, or a snapshot, names what it took in for as long
TRUSTED_MS = NAMED_MS // 2  # the age up to which readers take a delta from the index without looking into the table
MARGIN_MS = HOUR_MS  # beyond RETENTION_MS: for consumers that hold a batch, and calls that timed out and are yet done
TOMBSTONE_MS = 48 * HOUR_MS  # for which an absorbed delta's place stays taken

# Dashboards.
WRITTEN_MS = 70_000  # an invocation of `aggregate` ends, and its writes have come
STALE_MS = 8 * MINUTE_MS  # a delta that was written so long before a subscription is in its snapshot for sure
NOTED_MS = HOUR_MS  # for which a late delta's note is kept

# The life of an hour.
ARRIVAL_MS = 10 * MINUTE_MS  # after an hour's end most of its tail files have arrived
REST_MS = 30 * MINUTE_MS  # before late events have their hour written again
TURN_MS = 15 * MINUTE_MS  # for which a run may be alone at an hour; another run does other hours meanwhile
NIGHT_MS = 3 * HOUR_MS  # after a day's end `reconcile` compares the day's hours
CLEAN_MS = 10 * MINUTE_MS  # after an hour was closed its live items are deleted
KEPT_MS = 3 * HOUR_MS  # from an hour's begin: realtime tells the last hour by the minute, from live items alone

# Files of the lake.
MAX_RUN_MS = 40 * MINUTE_MS  # of one consolidation anywhere
GRACE_MS = HOUR_MS  # after a file was replaced it is deleted
ORPHAN_MS = MAX_RUN_MS + GRACE_MS  # after a consolidation began, what it did not commit is nobody's
VISIBLE_AGE_MS = 30 * MINUTE_MS  # a version of a settled hour is seen by queries that begin so long after it
IMPORT_MS = DAY_MS  # no import goes on for longer

# Erasure.
MARKERS_FRESH_MS = MINUTE_MS  # what a container knows of the markers of erased users may be as old
MARKERS_OVERLAP_MS = 20 * MINUTE_MS  # of markers are read again: some are put later than newer ones
READY_MS = 16 * MINUTE_MS  # after the markers were put nothing of their users is written any more
LINKED_MS = READY_MS // 2  # after a marker was put: links are still kept, for the eraser to follow
ERASER_TURN_MS = 16 * MINUTE_MS  # for which one run of the eraser has an erasure to itself
LAST_LOOK_MS = 65 * MINUTE_MS  # after the lake was looked through, the eraser looks once more
RESULTS_MS = 7 * DAY_MS  # for which the results of queries, and what was asked, are kept

# The ledger.
IN_FLIGHT_MS = 15 * MINUTE_MS  # after its receipt an event is counted and archived, unless something is wrong
SURPLUS_MS = 48 * HOUR_MS  # after an hour of receipt, what was counted twice is no more
RECEIPTS_MS = 15 * DAY_MS  # for which receipts are kept

# Pins.
FLAGS_FRESH_MS = 20_000  # what a container knows of a project's flags may be as old
EDGE_MS = 30_000  # a function of the edge ends, by its time-out: a flag is put by then, or nothing is stored
EDGE_CLOCKS_MS = 10_000  # clocks of the edge's functions differ by less
GUARD_MS = MINUTE_MS  # after a clamped event, events of its user are marked by themselves

_FORGOTTEN_MS = RETENTION_MS + MARGIN_MS  # after a slot's end

assert FOLD_MS >= LOOK_BACK_MS + MINUTE_MS, "alerts and realtime miss minutes that are in a base already"
assert MERGE_MS < TRUSTED_MS, "every delta is looked up in the table before it can have been merged"
assert TRUSTED_MS + READER_MS <= NAMED_MS, "a reader counts a delta beside a base that no longer names it"
assert READER_MS <= CLEAN_MS, (
    "a reader finds an hour neither closed, which it was not yet, nor live, which it is no longer"
)
assert 2 * HOUR_MS + READER_MS <= KEPT_MS, "realtime misses the minutes of the hour before this one"
assert FUNCTION_MS <= MARGIN_MS, "a slot becomes final while an attempt still writes records of it"
assert _FORGOTTEN_MS < TOMBSTONE_MS, "a retried batch finds no tombstone in its delta's place, and counts twice"
assert _FORGOTTEN_MS + 2 * HOUR_MS < SURPLUS_MS, "the ledger raises an alarm for what closing puts right yet"
assert QUEUE_MS < RECEIPTS_MS, "an event that is redriven late seems to have no origin"

assert WRITTEN_MS + INDEX_MS + CLOCKS_MS <= STALE_MS, "a delta is neither in a dashboard's snapshot nor pushed to it"
assert STALE_MS < NAMED_MS, "a dashboard adds a late delta to totals that hold it, and that no longer name it"
assert STALE_MS < NOTED_MS, "a snapshot misses a delta of an older hour whose note is gone"

assert ARRIVAL_MS + REST_MS + HOUR_MS <= NIGHT_MS, "hours are compared before their late events were closed"
assert FUNCTION_MS <= TURN_MS, "another run takes an hour up, and the work of the first one is lost"
assert MAX_RUN_MS <= GRACE_MS, "files are deleted that a consolidation is reading"
assert QUERY_MS + VISIBLE_AGE_MS <= GRACE_MS, "a file is deleted while a query reads it"
assert 2 * VISIBLE_AGE_MS <= GRACE_MS, "an hour is settled whose version queries do not see yet"
assert CLOCKS_MS < VISIBLE_AGE_MS, "a query sees a version that came after the query began"

assert FUNCTION_MS + MARKERS_FRESH_MS <= READY_MS, "a function that does not know a marker stores its user's events"
assert FUNCTION_MS + CLOCKS_MS < MARKERS_OVERLAP_MS, "a container never reads a marker that was put late"
assert LINKED_MS + MARKERS_FRESH_MS + CLOCKS_MS < READY_MS, "a link is put after the eraser followed the links"
assert FUNCTION_MS < ERASER_TURN_MS, "two runs carry out one erasure"
assert GRACE_MS + CLOCKS_MS < LAST_LOOK_MS, "an erasure is done before the files with the user's rows are deleted"

assert FLAGS_FRESH_MS + EDGE_MS + EDGE_CLOCKS_MS <= GUARD_MS, "an event whose try missed a flag is in two hours"
