"""Settings: names, faults, precedence, masking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attr_actors import cli
from attr_actors.errors import BadSettings
from attr_actors.settings import Settings, masked, origins

PREDECESSOR = {
    "NVRX_ATTRSVC_HOST": ("host", "0.0.0.0"),
    "NVRX_ATTRSVC_PORT": ("port", 8123),
    "NVRX_ATTRSVC_LOG_LEVEL_NAME": ("log_level_name", "DEBUG"),
    "NVRX_ATTRSVC_LOG_LEVEL": ("log_level_name", "ERROR"),
    "NVRX_ATTRSVC_CLUSTER_NAME": ("cluster_name", "alpha"),
    "NVRX_ATTRSVC_DATAFLOW_INDEX": ("dataflow_index", "index"),
    "NVRX_ATTRSVC_RATE_LIMIT_SUBMIT": ("rate_limit_submit", "7/second"),
    "NVRX_ATTRSVC_RATE_LIMIT_ANALYZE": ("rate_limit_analyze", "8/hour"),
    "NVRX_ATTRSVC_RATE_LIMIT_PREVIEW": ("rate_limit_preview", "9/day"),
    "NVRX_ATTRSVC_LLM_MODEL": ("llm_model", "m"),
    "NVRX_ATTRSVC_LLM_BASE_URL": ("llm_base_url", "http://127.0.0.1:1/v1"),
    "NVRX_ATTRSVC_LLM_TEMPERATURE": ("llm_temperature", 0.5),
    "NVRX_ATTRSVC_LLM_TOP_P": ("llm_top_p", 0.5),
    "NVRX_ATTRSVC_LLM_MAX_TOKENS": ("llm_max_tokens", 17),
    "NVRX_ATTRSVC_COMPUTE_TIMEOUT": ("compute_timeout", 60.0),
    "NVRX_ATTRSVC_CACHE_FILE": ("cache_file", "/tmp/x.db"),
    "NVRX_ATTRSVC_CACHE_GRACE_PERIOD_SECONDS": ("cache_grace_period_seconds", 5.0),
    "NVRX_ATTRSVC_FAST_API_ROOT_PATH": ("fast_api_root_path", "/attr"),
    "NVIDIA_API_KEY_FILE": ("nvidia_api_key_file", "/k"),
    "SLACK_CHANNEL": ("slack_channel", "#alerts"),
}


@pytest.mark.parametrize("name", PREDECESSOR)
def test_each_variable_of_the_predecessor_is_read(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    field, value = PREDECESSOR[name]
    monkeypatch.setenv("NVRX_ATTRSVC_ALLOWED_ROOT", str(tmp_path))
    monkeypatch.setenv(name, str(value))
    settings = Settings.load()
    assert getattr(settings, field) == value
    assert origins()[field] == "environment"


@pytest.mark.parametrize("name", ["NVIDIA_API_KEY", "SLACK_BOT_TOKEN"])
def test_secrets_are_read_and_masked(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(name, "secret-value")
    settings = Settings.load(allowed_root=str(tmp_path))
    assert getattr(settings, name.lower()).get_secret_value() == "secret-value"
    assert "secret-value" not in json.dumps(masked(settings)) + repr(settings) + settings.fingerprint()


def test_each_fault_is_one_line_that_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVRX_ATTRSVC_PORT", "eighty")
    monkeypatch.setenv("NVRX_ATTRSVC_RATE_LIMIT_SUBMIT", "often")
    with pytest.raises(BadSettings) as caught:
        Settings.load()
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "NVRX_ATTRSVC_ALLOWED_ROOT",
        "NVRX_ATTRSVC_PORT",
        "NVRX_ATTRSVC_RATE_LIMIT_SUBMIT",
    ]


def test_wrong_settings_end_the_command_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 2
    assert "NVRX_ATTRSVC_ALLOWED_ROOT" in capsys.readouterr().err


def test_arguments_win_over_environment_and_that_over_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"NVRX_ATTRSVC_ALLOWED_ROOT={tmp_path}\nNVRX_ATTRSVC_PORT=1001\nNVRX_ATTRSVC_CLUSTER_NAME=dot\n")
    monkeypatch.setenv("NVRX_ATTRSVC_PORT", "1002")
    assert Settings.load().port == 1002
    settings = Settings.load(port=1003)
    where = origins()
    assert (settings.port, settings.cluster_name) == (1003, "dot")
    assert (where["port"], where["cluster_name"], where["host"]) == ("environment", ".env", "default")


def test_config_prints_values_with_their_origin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NVRX_ATTRSVC_ALLOWED_ROOT", str(tmp_path))
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-secret")
    assert cli.main(["config"]) == 0
    shown = capsys.readouterr().out
    assert "(environment)" in shown
    assert "127.0.0.1  (default)" in shown
    assert "xoxb-secret" not in shown


def test_the_service_listens_on_loopback_by_default(tmp_path: Path) -> None:
    assert Settings.load(allowed_root=str(tmp_path)).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"host": "127.0.0.1"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "node7"}, True),
        ({"host": "0.0.0.0", "allow_anonymous": True}, False),
        ({"host": "0.0.0.0", "api_keys_file": "/keys.json"}, False),
    ],
)
def test_listening_beyond_loopback_asks_for_keys_or_for_an_explicit_word(fields: dict[str, object], refused: bool, tmp_path: Path) -> None:
    settings = Settings.load(allowed_root=str(tmp_path), **fields)
    if not refused:
        settings.check_reach()
        return
    with pytest.raises(BadSettings, match="NVRX_ATTRSVC_ALLOW_ANONYMOUS"):
        settings.check_reach()
