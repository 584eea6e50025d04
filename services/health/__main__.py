"""`python -m services.health HOST:PORT`: exit status 0 when the process there is ready (HTTP /readyz).

For the health checks of containers, whose images have no other tool: only the standard library is imported.
"""

import http.client
import sys

TIMEOUT_SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """0 when ready, 1 when not (why stands on stderr), 2 for a wrong command line."""
    if len(arguments) != 1 or not arguments[0].rpartition(":")[2].isdigit():
        print("usage: python -m services.health HOST:PORT", file=sys.stderr)
        return 2
    try:
        status, text = ask(arguments[0])
    except (OSError, http.client.HTTPException) as error:
        print(f"{arguments[0]} does not answer: {error}", file=sys.stderr)
        return 1
    if status != 200:
        print(f"{arguments[0]} is not ready: {status} {text}", file=sys.stderr)
        return 1
    return 0


def ask(address: str) -> tuple[int, str]:
    """Status and first line of what `address` answers to GET /readyz. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status, answer.read(1000).decode(errors="replace").partition("\n")[0]
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
