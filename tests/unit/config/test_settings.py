"""Settings: order of the sources, and that what is not understood is refused with the way out."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from stablerep.config.settings import load_settings, setting_keys
from stablerep.errors import InvalidInput


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("STABLEREP_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "settings.yaml"
    monkeypatch.setenv("STABLEREP_CONFIG", str(path))
    return path


def test_defaults_listen_on_loopback_only() -> None:
    settings = load_settings()
    assert settings.gateway.address.startswith("127.0.0.1:")
    assert settings.generator.address.startswith("127.0.0.1:")
    assert settings.generator.lease_seconds == 60


def test_overrides_win_over_environment_and_environment_over_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("generator: {lease_seconds: 1, threads: 2, poll_seconds: 3}\nstore_url: s3://a/b\n")
    monkeypatch.setenv("STABLEREP_GENERATOR__THREADS", "4")
    monkeypatch.setenv("STABLEREP_GENERATOR__POLL_SECONDS", "5")
    settings = load_settings(["generator.poll_seconds=6"])
    generator = settings.generator
    assert (generator.lease_seconds, generator.threads, generator.poll_seconds) == (1, 4, 6)
    assert settings.store_url == "s3://a/b"


def test_settings_cannot_be_changed() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.generator.threads = 9
    with pytest.raises(ValidationError):
        settings.store_url = "elsewhere"


def test_an_unknown_key_in_the_file_is_refused_with_the_valid_ones(config: Path) -> None:
    config.write_text("gateway: {adress: '127.0.0.1:1'}\n")
    with pytest.raises(InvalidInput, match=r"gateway\.address") as caught:
        load_settings()
    assert caught.value.field == "gateway.adress"


@pytest.mark.parametrize(
    "name",
    ["STABLEREP_GATEWAY__ADRESS", "STABLEREP_STORE_ULR", "STABLEREP_NO__SUCH"],
)
def test_an_unknown_variable_is_refused_with_the_valid_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(InvalidInput, match=r"STABLEREP_GATEWAY__ADDRESS|gateway\.address"):
        load_settings()


def test_variables_that_kubernetes_sets_for_services_are_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_GATEWAY_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("STABLEREP_GATEWAY_PORT", "tcp://10.0.0.1:50051")
    assert load_settings().gateway.address == "127.0.0.1:50051"


@pytest.mark.parametrize("text", ["gateway.adress=1", "gateway=1", "nothing=1", "gateway.address"])
def test_an_override_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings([text])
    assert caught.value.field == text.split("=")[0]


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("generator.threads=0", "generator.threads"),
        ("generator.lease_seconds=-1", "generator.lease_seconds"),
        ("log_level=LOUD", "log_level"),
    ],
)
def test_a_value_that_does_not_fit_names_its_key(override: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings([override])
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


@pytest.mark.parametrize("content", [None, "- a list\n", "{ broken\n"])
def test_a_file_that_cannot_be_read_is_an_error(config: Path, content: str | None) -> None:
    if content is not None:
        config.write_text(content)
    with pytest.raises(InvalidInput) as caught:
        load_settings()
    assert caught.value.field == "STABLEREP_CONFIG"


def test_the_secret_is_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_S3__SECRET_KEY", "very-secret")
    settings = load_settings(["s3.access_key=12345"])
    assert (settings.s3.access_key, settings.s3.secret_key) == ("12345", "very-secret")
    assert "very-secret" not in repr(settings)


def test_s3_variables_may_be_written_with_one_underscore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_S3_ENDPOINT", "http://127.0.0.1:9000")
    monkeypatch.setenv("STABLEREP_S3_REGION", "here")
    monkeypatch.setenv("STABLEREP_S3__REGION", "there")
    settings = load_settings()
    assert (settings.s3.endpoint, settings.s3.region) == ("http://127.0.0.1:9000", "there")


def test_a_whole_part_in_one_variable_is_refused_unless_it_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_GATEWAY", "127.0.0.1:1")
    with pytest.raises(InvalidInput, match="STABLEREP_PART__KEY"):
        load_settings()


def test_every_key_can_be_set_by_an_override() -> None:
    keys = setting_keys()
    assert {"store_url", "redis_url", "s3.endpoint", "gateway.announce", "generator.device"} <= set(keys)
    settings = load_settings(["generator.device=cpu", "gateway.announce=/run/x.json"])
    assert settings.generator.device == "cpu"
    assert settings.gateway.announce == Path("/run/x.json")
