"""The one exception tree, split by whose fault it is.

    AttrError
    ├── RequestError            the caller must change the request
    │   ├── InvalidPath         400 invalid_path
    │   ├── InvalidParameter    400 invalid_parameter
    │   ├── NotRegular          400 not_regular
    │   ├── EmptyFile           400 empty_file
    │   ├── Unauthorized        401 unauthorized
    │   ├── Forbidden           403 forbidden
    │   ├── OutsideRoot         403 outside_root
    │   ├── NotReadable         403 not_readable
    │   ├── LogsDirNotReadable  403 logs_dir_not_readable
    │   ├── NotFound            404 not_found
    │   ├── BodyTooLarge        413 body_too_large
    │   └── RateLimited         429 rate_limited
    ├── BusyError               nobody's fault; the same request may succeed later
    │   ├── JobLimitReached     503 job_limit_reached
    │   ├── Overloaded          503 overloaded
    │   └── Unavailable         503 unavailable
    ├── DependencyError         a system outside this service
    │   ├── SinkError           502 sink_error (Elasticsearch, Slack, a webhook)
    │   ├── SinkRejected        502 sink_rejected (will be refused again)
    │   ├── ModelError          502 model_error
    │   │   └── ModelRejected   502 model_rejected (will be refused again, or the time is over)
    │   ├── SlurmError          502 slurm_error
    │   └── BadReply            502 bad_reply
    ├── OperatorError           settings or files that the operator must mend
    │   ├── BadSettings         500 bad_settings
    │   ├── BadSignature        500 bad_signature
    │   └── LedgerFault         503 ledger_fault
    │       ├── LedgerInUse     503 ledger_fault (another process has it)
    │       └── LedgerTakenOver 503 ledger_fault (a successor has it)
    └── AnalysisFailed          500 analysis_failed: this log cannot be analysed, even on a fresh process

Each error takes one positional message that is safe to show to a client. Keep constructors positional: Ray rebuilds
an exception from its ``args``, and one with required keyword arguments loses its type on the way. Read ``exc.message``,
not ``str(exc)``: the latter is the remote traceback once the error has crossed an actor.
"""

from __future__ import annotations


class AttrError(Exception):
    """Base of every error that this project raises on purpose."""

    code = "internal_error"
    http_status = 500
    retryable = False

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s)
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.message


class RequestError(AttrError):
    """The caller must change the request."""

    http_status = 400


class InvalidPath(RequestError):
    """The path is empty, relative, too long, or holds NUL or control characters."""

    code = "invalid_path"


class InvalidParameter(RequestError):
    """A parameter has the right type and a value that cannot be served."""

    code = "invalid_parameter"


class NotRegular(RequestError):
    """The path names a directory, FIFO, socket or device."""

    code = "not_regular"


class EmptyFile(RequestError):
    """The log has no bytes."""

    code = "empty_file"


class Unauthorized(RequestError):
    """The request carries no valid API key."""

    code = "unauthorized"
    http_status = 401


class Forbidden(RequestError):
    """The API key lacks the scope or the root directory for this request."""

    code = "forbidden"
    http_status = 403


class OutsideRoot(RequestError):
    """The resolved path lies outside the allowed root."""

    code = "outside_root"
    http_status = 403


class NotReadable(RequestError):
    """The service may not read the file."""

    code = "not_readable"
    http_status = 403


class LogsDirNotReadable(RequestError):
    """The service may not read the LOGS_DIR that the log names."""

    code = "logs_dir_not_readable"
    http_status = 403


class NotFound(RequestError):
    """There is no such file, or no such log file in a splitlog job."""

    code = "not_found"
    http_status = 404


class BodyTooLarge(RequestError):
    """The body is longer than any sensible request."""

    code = "body_too_large"
    http_status = 413


class RateLimited(RequestError):
    """The client sent more requests than its limit."""

    code = "rate_limited"
    http_status = 429
    retryable = True


class BusyError(AttrError):
    """The same request may succeed later."""

    http_status = 503
    retryable = True


class JobLimitReached(BusyError):
    """The tracker holds as many jobs as it may."""

    code = "job_limit_reached"


class Overloaded(BusyError):
    """A queue is full."""

    code = "overloaded"


class Unavailable(BusyError):
    """A part of the service is starting, restarting or unreachable."""

    code = "unavailable"


class DependencyError(AttrError):
    """A system outside this service failed."""

    http_status = 502
    retryable = True


class SinkError(DependencyError):
    """A sink could not take a delivery now; it is tried again."""

    code = "sink_error"


class SinkRejected(DependencyError):
    """A sink refuses a delivery and would refuse it again; the delivery is parked."""

    code = "sink_rejected"
    retryable = False


class ModelError(DependencyError):
    """The model endpoint failed or timed out."""

    code = "model_error"


class ModelRejected(ModelError):
    """The model endpoint would refuse the same call again, or there is no time left for another one."""

    code = "model_rejected"
    retryable = False


class SlurmError(DependencyError):
    """A Slurm command failed or did not end in time."""

    code = "slurm_error"


class BadReply(DependencyError):
    """The model answered something that is not an attribution."""

    code = "bad_reply"
    retryable = False


class OperatorError(AttrError):
    """Settings or files that the operator must mend."""


class BadSettings(OperatorError):
    """The settings are invalid; the message has one line per fault."""

    code = "bad_settings"


class BadSignature(OperatorError):
    """A signature row is invalid; the message names file, row and fault."""

    code = "bad_signature"


class LedgerFault(OperatorError):
    """The ledger cannot be opened or written (disk full, read-only, foreign schema, a second writer)."""

    code = "ledger_fault"
    http_status = 503
    retryable = True


class LedgerInUse(LedgerFault):
    """Another process has the ledger open, and only one may."""


class LedgerTakenOver(LedgerFault):
    """Another service asked for the ledger and has it now: this one answers what it has at hand until it ends."""


class AnalysisFailed(AttrError):
    """The log ended its reader several times and is not tried again until it changes."""

    code = "analysis_failed"
