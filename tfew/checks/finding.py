"""A finding, that is an error or a doubt about a task, and the report of findings."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from tfew.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """`is_error`: training would be useless."""

    is_error: bool
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{'error' if self.is_error else 'warning'}: {self.what}: {self.remedy}."


def report(findings: Sequence[Finding]) -> Sequence[Finding]:
    """Logs the findings and returns them; raises UserError with the first one if that is an error."""
    errors = [finding for finding in findings if finding.is_error]
    listed = [finding for finding in findings if finding not in errors[:1]]
    if listed:
        log.info("\n".join(["Check of the task:", *(f"  {finding}" for finding in listed)]))
    if errors:
        more = f" ({len(errors)} errors in all)" if len(errors) > 1 else ""
        raise UserError(f"Check of the task: {errors[0].what}: {errors[0].remedy}{more}.")
    return findings
