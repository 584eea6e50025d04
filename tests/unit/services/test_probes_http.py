"""Probes answer in time whatever they ask hangs, and say in one line what is wrong."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from services.health.heartbeat import Heartbeat
from services.health.http import Probes, serve_probes
from services.health.single_flight import SingleFlightCall
from stablerep.errors import InvalidInput, Unavailable
from tests.scrape import get


class Answers:
    """What the probes are told; to be changed by the test."""

    def __init__(self) -> None:
        self.ready = ""
        self.alive = ""


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def probes(answers: Answers) -> Iterator[Probes]:
    found = serve_probes("127.0.0.1:0", ready=lambda: answers.ready, alive=lambda: answers.alive, field="x")
    assert found
    yield found
    found.close()


def test_a_probe_answers_200_while_all_is_well_and_503_with_the_reason_otherwise(
    probes: Probes, answers: Answers
) -> None:
    assert get(probes.address, "/healthz") == get(probes.address, "/readyz") == (200, "ok\n")
    answers.ready = "the pipeline is being loaded"
    assert get(probes.address, "/readyz") == (503, "the pipeline is being loaded\n")
    assert get(probes.address, "/healthz") == (200, "ok\n")
    answers.alive = "stuck"
    assert get(probes.address, "/healthz?verbose=1") == (503, "stuck\n")


def test_an_error_raised_by_a_check_is_the_reason() -> None:
    def away() -> str:
        raise Unavailable("Redis is away\nfor long")

    probes = serve_probes("127.0.0.1:0", ready=away, alive=str, field="x")
    assert probes
    assert get(probes.address, "/readyz") == (503, "Redis is away\n")
    probes.close()


def test_a_silent_client_keeps_nobody_else_waiting(probes: Probes) -> None:
    host, _, port = probes.address.rpartition(":")
    with socket.create_connection((host, int(port))):
        assert get(probes.address, "/healthz")[0] == 200


def test_no_address_no_server_and_one_that_is_wrong_or_taken_is_named(probes: Probes) -> None:
    assert serve_probes("", ready=str, alive=str, field="x") is None
    for address in ("9100", "127.0.0.1:http", "127.0.0.1:70000", probes.address):
        with pytest.raises(InvalidInput) as raised:
            serve_probes(address, ready=str, alive=str, field="gateway.metrics_address")
        assert raised.value.field == "gateway.metrics_address"
        assert address in str(raised.value)


def test_an_answer_that_does_not_come_is_an_error_in_time_and_is_asked_for_once() -> None:
    asked, go_on = [], threading.Event()

    def hang() -> int:
        asked.append(1)
        go_on.wait(30)
        return 7

    timely = SingleFlightCall("the store", hang, wait_seconds=0.2)
    for _ in range(3):
        before = time.monotonic()
        with pytest.raises(Unavailable, match="the store does not answer"):
            timely.get()
        assert time.monotonic() - before < 5
    assert len(asked) == 1
    go_on.set()
    patient = time.monotonic() + 10
    while time.monotonic() < patient:
        try:
            assert timely.get() == 7
            break
        except Unavailable:
            continue


def test_an_answer_serves_for_a_while_and_an_error_too() -> None:
    asked: list[int] = []

    def count() -> int:
        asked.append(1)
        if len(asked) == 1:
            raise Unavailable("away")
        return len(asked)

    timely = SingleFlightCall("the queue", count, keep_seconds=0.3)
    for _ in range(2):
        with pytest.raises(Unavailable, match="away"):
            timely.get()
    assert len(asked) == 1
    time.sleep(0.4)
    assert timely.get() == timely.get() == 2


def test_a_heart_that_stops_beating_is_dead_after_its_time_and_lives_again_with_a_beat() -> None:
    heartbeat = Heartbeat(0.2)
    assert heartbeat.alive
    time.sleep(0.3)
    assert not heartbeat.alive
    heartbeat.beat(60)
    time.sleep(0.3)
    assert heartbeat.alive
