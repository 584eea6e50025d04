"""Every error this library raises on purpose, in one tree, so that callers can catch what they mean.

StableRepError
├── InvalidInput        a request, file or setting is wrong; `.field` names which
│   └── WrongState      the request is right, but not for the state that the job is in
├── NotFound            a job, dataset, run or object that does not exist
├── AlreadyExists       a name is taken by something different; `.field` names what differs
├── StoreError          the object store failed or refused
│   ├── TornObject      an object is there but is not what its index says
│   └── StoreRefused    it takes nothing now: disk full, credentials refused; also an Unavailable
├── Diverged            a training's loss is not a number any more
├── Unauthenticated     the server does not know who calls: no token, or one that it does not take
├── PermissionDenied    the server knows, and the caller's role may not do this
└── Unavailable         a server could not be reached; trying again may help
    └── DeadlineExceeded  no answer within the caller's own time limit; what was asked may still happen
"""


class StableRepError(Exception):
    """Base of all errors raised on purpose; its text says what was wrong and what to do."""


class InvalidInput(StableRepError, ValueError):
    """A request, file or setting is wrong; `field` names the part that is."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field


class WrongState(InvalidInput):
    """The request is right, but not for the state that the job is in."""


class NotFound(StableRepError, LookupError):
    """A job, dataset, run or object that does not exist."""


class AlreadyExists(StableRepError):
    """A name is taken by something different; `field` names what differs."""

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class StoreError(StableRepError, OSError):
    """The object store failed or refused."""


class TornObject(StoreError):
    """An object is there but is not what its index says."""


class Diverged(StableRepError):
    """The loss or a gradient is not a number any more; the last checkpoint is from before."""


class Unauthenticated(StableRepError):
    """The server does not know who calls: no token, or one that it does not take."""


class PermissionDenied(StableRepError):
    """The server knows who calls, and that one's role may not do this."""


class Unavailable(StableRepError, ConnectionError):
    """A server could not be reached; trying again may help."""


class DeadlineExceeded(Unavailable):
    """No answer within the caller's own time limit; what was asked may still happen."""


class StoreRefused(Unavailable, StoreError):
    """The store refuses whatever it is asked: a full disk, expired credentials, a policy.

    It says nothing about the object and passes once an operator fixes it. Callers wait, as for a server that
    is down, and it costs a shard none of its attempts.
    """
