"""What some history has to reach: a simulation that reaches nothing proves nothing."""

from collections import Counter

ENOUGH_SEEDS = 1000  # with so many, everything is reached
MUST = (
    # What services may do
    "a page that ends early",
    "a batch carried out in part",
    "an index that is minutes behind",
    "items deleted by their TTL",
    "a shard that split",
    "a transaction that met another write",
    "dynamodb did not answer in 3 attempts",
    # What happens to a call
    *("kill_before", "kill_after", "refuse", "lose_request", "lose_answer", "late"),
    *(f"lose_answer {each}" for each in ("put_item", "update_item", "transact_write_items", "put_object")),
    *(f"late {each}" for each in ("put_item", "update_item", "put_object")),
    *(f"kill_after {each}" for each in ("put_item", "update_item", "transact_write_items", "put_object")),
    "a process that stands still",
    *(f"{each} killed" for each in ("process", "aggregate", "archive", "live", "compact", "consolidate", "close")),
    *(f"{each} killed" for each in ("erase", "api_handler", "socket_message", "import_store")),
    # What triggers do
    "a batch that comes again longer",
    "a batch that comes again shorter",
    "a batch delivered again though it was done",
    "a batch delivered again while it is under way",
    "a message that came back from its batch",
    "a message delivered again though it was done",
    "a message delivered while it is under way",
    *(f"{each} far behind" for each in ("aggregate", "archive", "live")),
    "a schedule that fires twice",
    "a schedule that fires late",
    "a task tried again as a whole",
    "a task that begins late",
    "a task that is done, and whose answer is lost",
    "a workflow caught a failure in Close",
    # What clients do
    "a batch sent again in other company",
    "a time pinned",
    "a time that an earlier try had pinned",
    "a user erased",
    "a file imported",
    "an event of the bus",
    "a chunk that nobody can read",
    "the gateway ended a connection",
    "a socket that broke",
    "a socket that hangs",
)


def unreached(reached: Counter[str]) -> list[str]:
    """What was to be reached, and was not."""
    return [what for what in MUST if not reached[what]]
