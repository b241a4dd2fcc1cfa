import os
import stat

import pytest

from tailfleet_agent import config
from tailfleet_agent.config import Config
from tailfleet_schema.errors import ConfigurationError


def test_what_is_saved_is_loaded_and_kept_from_others(tmp_path):
    saved = Config("http://c:1", "b", "secret", "jetson-nano")
    config.save(str(tmp_path), saved)
    assert config.load(str(tmp_path)) == saved
    assert stat.S_IMODE(os.stat(config.path(str(tmp_path), "agent.json")).st_mode) == 0o600


def test_a_board_that_is_not_enrolled_is_told_how(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        config.load(str(tmp_path))
    assert "no board is enrolled" in caught.value.sentence
    assert "board enroll" in (caught.value.mend or "")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "agent.json").write_text('{"url": 3}')
    with pytest.raises(ConfigurationError, match=r"damaged: agent.json.url"):
        config.load(str(tmp_path))


def test_one_agent_a_home(tmp_path):
    with config.lock(str(tmp_path)), pytest.raises(ConfigurationError, match="another agent"):
        config.lock(str(tmp_path))
    config.lock(str(tmp_path)).close()
