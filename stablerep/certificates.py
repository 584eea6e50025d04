"""Certificate files in PEM, read and checked: gRPC itself says little about one that is missing or wrong."""

import ssl
from pathlib import Path

from stablerep.errors import InvalidInput


def read_identity(cert_file: Path, key_file: Path, *, fields: tuple[str, str]) -> tuple[bytes, bytes]:
    """A certificate chain and its private key, as they are in the files.

    Args:
        fields: what the two are called where the user gave them.

    Raises:
        InvalidInput: a file that cannot be read or is no PEM, an encrypted key, a key of another certificate.
    """
    chain, key = read_pem(cert_file, field=fields[0]), read_pem(key_file, field=fields[1])
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            text = f"{key_file} is not the key of the certificate in {cert_file}; give the two that were made"
            raise InvalidInput(f"{text} together", field=fields[1]) from None
        text = f"{cert_file} and {key_file} hold no certificate with its key in PEM ({error.reason or error})"
        raise InvalidInput(text, field=fields[0]) from None
    except ValueError as error:
        raise InvalidInput(f"{key_file}: {error}", field=fields[1]) from None
    if (chain, key) != (cert_file.read_bytes(), key_file.read_bytes()):
        raise InvalidInput(f"{cert_file} and {key_file} change while they are read", field=fields[0])
    return chain, key


def read_authority(path: Path, *, field: str) -> bytes:
    """The certificates of an authority. Raises InvalidInput when the file holds none."""
    data = read_pem(path, field=field)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode())
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise InvalidInput(f"{path} holds no certificate in PEM ({reason})", field=field) from None
    return data


def read_pem(path: Path, *, field: str) -> bytes:
    """The bytes of a file. Raises InvalidInput when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field=field) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted; give one without a password, in a file that only its owner reads")
