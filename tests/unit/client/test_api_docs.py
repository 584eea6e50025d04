"""The examples of docs/api.md fit the API: grpcurl calls their methods and messages, Python the clients."""

import ast
import inspect
import json
import re
import shlex

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from stablerep.client import AsyncClient, Client
from stablerep.client.runs_sync import Runs
from stablerep.v1 import generation_pb2, generator_pb2, training_pb2
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text()
CALLS = re.findall(r"^grpcurl .*$", TEXT, re.M)
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
SERVICES = {
    service.full_name: service
    for module in (generation_pb2, generator_pb2, training_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


@pytest.mark.parametrize("call", [call for call in CALLS if " -d " in call])
def test_a_grpcurl_call_sends_a_message_that_its_method_takes(call: str) -> None:
    words = shlex.split(call)
    service, _, method = words[-1].partition("/")
    request = GetMessageClass(SERVICES[service].methods_by_name[method].input_type)()
    ParseDict(json.loads(words[words.index("-d") + 1]), request)


@pytest.mark.parametrize("block", PYTHON)
def test_python_calls_methods_and_arguments_that_the_clients_have(block: str) -> None:
    tree = ast.parse(block)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    checked = 0
    for call in calls:
        function, client = call.func, Client
        if isinstance(function, ast.Name) and function.id in ("Client", "AsyncClient"):
            target = {"Client": Client, "AsyncClient": AsyncClient}[function.id].__init__
        elif isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "client":
            target = getattr(client, function.attr)
        elif isinstance(function, ast.Attribute) and ast.unparse(function.value) == "client.runs":
            target = getattr(Runs, function.attr)
        else:
            continue
        names = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(target).bind(None, *call.args, **names)
        checked += 1
    assert checked >= 2


def test_both_clients_have_every_method_that_is_named() -> None:
    named = set(re.findall(r"`(\w+_(?:jobs?|shards|captions|workers|jobs_page)|reconcile)`", TEXT))
    public = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert named == public == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"close"}
