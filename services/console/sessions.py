"""Sessions in encrypted cookies, and protection of forms against requests from other sites."""

import hmac
import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken
from starlette.requests import Request
from starlette.responses import Response

from stablerep.errors import InvalidInput, PermissionDenied

COOKIE = "stablerep-console"
SESSION_SECONDS = 12 * 3600
CSRF_FIELD = "csrf"


@dataclass(frozen=True)
class Session:
    """What a browser keeps, unreadable to it: the token it signed in with, and the secret of its forms."""

    token: str = ""
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(24))


class Sessions:
    """Cookies under one key, encrypted and signed (Fernet: AES-CBC and HMAC-SHA256)."""

    def __init__(self, key_file: Path | None, path: str) -> None:
        self._fernet = Fernet(_read_key(key_file) if key_file else Fernet.generate_key())
        self._path = path or "/"

    def read(self, request: Request) -> Session | None:
        """What the cookie of a request holds; None where there is none, or an expired or foreign one."""
        cookie = request.cookies.get(COOKIE, "")
        try:
            content = json.loads(self._fernet.decrypt(cookie.encode(), ttl=SESSION_SECONDS))
            return Session(**content)
        except (InvalidToken, ValueError, TypeError):
            return None

    def write(self, request: Request, response: Response, session: Session) -> None:
        """Sets the cookie."""
        response.set_cookie(
            COOKIE,
            self._fernet.encrypt(json.dumps(asdict(session)).encode()).decode(),
            max_age=SESSION_SECONDS,
            path=self._path,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )

    def forget(self, response: Response) -> None:
        """Removes the cookie."""
        response.delete_cookie(COOKIE, path=self._path, httponly=True, samesite="lax")


def _read_key(file: Path) -> bytes:
    try:
        key = file.read_bytes().strip()
        Fernet(key)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"{file} holds no key: {error}; make one with `openssl rand -base64 32 | tr +/ -_`",
            field="console.key_file",
        ) from None
    return key


def check_origin(request: Request) -> None:
    """Raises PermissionDenied for a request that another site's page has sent."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site:  # which a browser sets, and no page can
        same = site in ("same-origin", "none")
    else:
        same = not origin or urlsplit(origin).netloc == request.headers.get("host", "")
    if not same:
        raise PermissionDenied("the request came from another site; use the console's own pages")


def check_csrf(session: Session, sent: str) -> None:
    """Raises PermissionDenied unless a form carries its session's secret."""
    if not hmac.compare_digest(sent.encode(), session.csrf.encode()):
        raise PermissionDenied("the page is too old to act from; load it again")
