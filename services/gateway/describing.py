"""What is understood of a caption source before a job is created."""

from dataclasses import asdict

from services.gateway.requests import below, checked_source
from stablerep.captions import describe
from stablerep.captions.remote.access import Remote
from stablerep.errors import InvalidInput, NotFound
from stablerep.jobs.planning.sources import look_up
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb


def describe_captions(store: Store, source: pb.CaptionSource, remote: Remote) -> pb.DescribeCaptionsResponse:
    """Reads the first records of a source. Raises InvalidInput with the field of the request."""
    checked = checked_source(store, source, remote)
    with below("source"):
        try:
            identity, opened = look_up(store, checked, remote)
            found = describe(opened, format=checked.format, column=checked.column, header=checked.header)
        except NotFound as error:
            raise InvalidInput(str(error), field="uri") from error
    return pb.DescribeCaptionsResponse(
        format=found.format,
        encoding=found.encoding,
        separator=found.separator,
        column=found.column,
        header=found.header,
        first=found.first,
        report=pb.CaptionReport(**asdict(found.report)),
        whole=found.whole,
        size=identity.size,
    )
