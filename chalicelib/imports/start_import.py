"""A file that was put below raw/ is imported by a workflow of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.base.workflows import Workflow
from chalicelib.imports.imports import Import


@dataclass(frozen=True, slots=True)
class ImportStarter:
    """Starts the workflow; told of a file twice, it starts one."""

    workflow: Workflow

    def start(self, notification: Mapping[str, Any]) -> None:
        """Start the import of what S3 says was put there; a mapping or a report of an import is none."""
        if one := Import.of_notification(notification):
            self.workflow.start(one.id, {"import": one.to_json()})
