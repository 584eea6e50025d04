"""TLS of the gRPC servers: certificates are read again when their files change, with the next connection."""

from pathlib import Path

import grpc

from services.rpc.reload import ReloadedFiles
from stablerep.certificates import read_authority, read_identity
from stablerep.config.settings import Tls
from stablerep.errors import InvalidInput

_FIELDS = ("tls.cert_file", "tls.key_file")


def server_credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """Credentials of a server; None where no certificate is set, which means clear text.

    With `tls.client_ca_file` every client must show a certificate of that authority.

    Raises:
        InvalidInput: a setting that lacks the others, or a file that does not serve.
    """
    if tls.cert_file is None or tls.key_file is None:
        missing = _FIELDS[tls.cert_file is not None]
        if tls.cert_file or tls.key_file or tls.client_ca_file:
            raise InvalidInput("is missing: TLS needs a certificate and its key", field=missing)
        return None
    files = [file for file in (tls.cert_file, tls.key_file, tls.client_ca_file) if file is not None]
    fresh = ReloadedFiles(files, lambda: _read(tls))
    # grpc asks at every handshake, in a thread of its own.
    return grpc.dynamic_ssl_server_credentials(
        fresh.get(), fresh.get, require_client_authentication=tls.client_ca_file is not None
    )


def _read(tls: Tls) -> grpc.ServerCertificateConfiguration:
    cert_file, key_file = tls.cert_file, tls.key_file
    assert cert_file is not None
    assert key_file is not None
    chain, key = read_identity(cert_file, key_file, fields=_FIELDS)
    authority = _authority(tls.client_ca_file)
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authority)


def _authority(path: Path | None) -> bytes | None:
    return None if path is None else read_authority(path, field="tls.client_ca_file")
