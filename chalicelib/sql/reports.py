"""The reports by their names, as in `GET /reports/{name}`."""

from collections.abc import Mapping

from chalicelib.sql import funnels, retention, session_reports, top_values
from chalicelib.sql.report_questions import Report

REPORTS: Mapping[str, Report] = {
    "funnel": funnels.REPORT,
    "retention": retention.REPORT,
    "sessions": session_reports.SESSIONS,
    "top": top_values.REPORT,
    "paths": session_reports.PATHS,
}
