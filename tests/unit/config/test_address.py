"""HOST:PORT as users write it, right and wrong, wherever an address is asked for."""

import pytest

from services.health.http import serve_probes
from stablerep.client import Client
from stablerep.config.address import check_address
from stablerep.errors import InvalidInput

WRONG = {
    "127.0.0.1": "write 127.0.0.1:50051",
    "": "write 127.0.0.1:50051",
    "localhost:99999": "0..65535",
    "localhost:": "0..65535",
    "localhost:http": "0..65535",
    "http://127.0.0.1:50051": "leave out http://; write 127.0.0.1:50051",
    "https://gateway/": "leave out https://; write gateway",
    "::1:50051": "in brackets",
    "::1": "in brackets",
    "my gateway:50051": "not a host name",
}


@pytest.mark.parametrize(("address", "advice"), WRONG.items())
def test_a_wrong_address_is_refused_with_what_to_write(address: str, advice: str) -> None:
    with pytest.raises(InvalidInput, match=advice.replace("0..65535", "1..65535")) as caught:
        check_address(address, field="here")
    assert caught.value.field == "here"
    with pytest.raises(InvalidInput):
        Client(address)
    if address:
        with pytest.raises(InvalidInput):
            serve_probes(address, ready=str, alive=str, field="metrics_address")


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "[::1]:50051", "gateway-0.ns.svc:65535", "unix:/run/x", "a_b:5"]
)
def test_a_right_address_passes(address: str) -> None:
    assert check_address(address, field="here") == address


def test_port_0_and_no_host_are_for_listening_alone() -> None:
    for address in ("127.0.0.1:0", ":9100"):
        assert check_address(address, field="here", listening=True) == address
        with pytest.raises(InvalidInput):
            check_address(address, field="here")
