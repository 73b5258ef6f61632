"""The clock that handlers hand to the stages."""

import time


def now_ms() -> int:
    """Unix milliseconds."""
    return int(time.time() * 1000)
