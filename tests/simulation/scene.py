"""What everything in a history has in common: its time, its faults, its trace, and what of it was reached."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.faults import Mix
from tests.simulation.scheduler import Scheduler
from tests.simulation.trace import Trace


@dataclass(frozen=True)
class Scene:
    """Shared by all parts; `mix` changes when the history comes to rest."""

    scheduler: Scheduler
    mix: Mix
    trace: Trace
    reached: Callable[[str], None]
