"""An answer that is not a success, raised wherever it becomes clear and answered in one place."""

from collections.abc import Mapping

from schemas.http import PROBLEMS, Code, Error, ErrorResponse
from schemas.reasons import Reason

_RETRY_STATUSES = {429, 503}
RETRY_AFTER_SECONDS = 1


class ProblemError(Exception):
    """A request cannot be answered; `detail` tells the client more than the code's meaning."""

    def __init__(
        self, code: Code | Reason, detail: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.status, meaning = PROBLEMS[code]
        super().__init__(code)
        error = Error(code, f"{meaning} {detail}".rstrip())
        self.body = ErrorResponse(success=False, error=error)
        self.headers = dict(headers or {})
        if self.status in _RETRY_STATUSES:
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
