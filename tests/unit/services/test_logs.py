"""Logs are one JSON object a line, whoever logs, with what they are about and without secrets."""

import json
import subprocess
import sys
from typing import Any

import pytest

SET_UP = """
import logging, sys, threading, warnings
from contextvars import copy_context
from services.process.logs import about, set_up_logs
from stablerep.config.settings import load_settings
set_up_logs(load_settings(sys.argv[1:]))
logger = logging.getLogger("stablerep.test")
"""


def logged(code: str, *settings: str) -> list[str]:
    """Lines on standard error of a process that sets up its logs and runs the code."""
    command = [sys.executable, "-c", SET_UP + code, *settings]
    return subprocess.run(command, capture_output=True, text=True).stderr.splitlines()


def events(code: str, *settings: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged(code, "log_format=json", *settings)]


def test_a_line_has_time_level_logger_and_event() -> None:
    [line] = events('logger.warning("%d shards\\nleft é", 3)')
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "warning", "logger": "stablerep.test", "event": "3 shards\nleft é"}


def test_libraries_warnings_and_the_end_of_a_process_are_logged_in_the_same_form() -> None:
    code = """
logging.getLogger("urllib3").error("of a library")
warnings.warn("of Python")
thread = threading.Thread(target=lambda: 1 / 0, name="side")
thread.start()
thread.join()
raise KeyError("the end")
"""
    library, warning, thread, end = events(code)
    assert (library["logger"], library["event"]) == ("urllib3", "of a library")
    assert warning["level"] == "warning"
    assert "of Python" in warning["event"]
    assert thread["event"] == "thread side ended: division by zero"
    assert "ZeroDivisionError" in thread["exception"]
    assert end["level"] == "critical"
    assert "Traceback" in end["exception"]
    assert "KeyError" in end["exception"]


def test_what_a_line_is_about_reaches_threads_with_a_copied_context_alone() -> None:
    code = """
def log():
    logger.info("side")
with about(job="shoes", shard=3):
    logger.info("main")
    for target, args in ((copy_context().run, (log,)), (log, ())):
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join()
logger.info("after")
"""
    lines = events(code)
    assert [(line["event"], line.get("job"), line.get("shard")) for line in lines] == [
        ("main", "shoes", 3),
        ("side", "shoes", 3),
        ("side", None, None),
        ("after", None, None),
    ]


@pytest.mark.parametrize("form", ["json", "text"])
def test_secrets_are_masked_whoever_logs_them(form: str) -> None:
    code = """
logger.info("cannot reach redis://user:queue-word@host:6379/0, key %s", "store-word")
logger.info("metadata (('authorization', 'Bearer token-word'),)")
try:
    raise ValueError("signed with store-word")
except ValueError:
    logger.exception("failed")
logging.getLogger("lib").warning("-", extra={"url": "https://me:url-word@host/x", "key": "session-word"})
"""
    settings = (
        "redis_url=redis://user:queue-word@host:6379/0",
        "s3.secret_key=store-word",
        "s3.session_token=session-word",
    )
    text = "\n".join(logged(code, f"log_format={form}", *settings))
    assert text.count("***") >= 6
    assert "word" not in text
    assert "host:6379" in text


def test_text_is_for_people() -> None:
    [line] = logged('logger.warning("shards left")', "log_format=text")
    assert "[warning] shards left" in line
    with pytest.raises(ValueError):
        json.loads(line)


def test_a_file_gets_json_by_itself_and_the_level_counts() -> None:
    [line] = logged('logger.info("quiet"); logger.error("loud")', "log_level=WARNING")
    assert json.loads(line)["event"] == "loud"
