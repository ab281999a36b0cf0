"""A name that is no directory is asked for at the hub, and only then."""

import huggingface_hub
import pytest

from visa_jax.config import UserError
from visa_jax.models.hub import local_directory


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The calls of the hub, which has the one model org/there; the test runs in an empty directory."""
    calls = []

    def snapshot_download(name, allow_patterns):
        calls.append((name, allow_patterns))
        if name != "org/there":
            raise OSError(f"404\n{name} is not here")
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_name_is_fetched(asked, tmp_path):
    assert local_directory("org/there") == tmp_path / "cache"
    (name, patterns), *more = asked
    assert name == "org/there" and not more
    assert "*.safetensors" in patterns and not any(p.endswith((".bin", ".py", "*")) for p in patterns)


def test_what_is_here_is_not_asked_for(asked, tmp_path):
    (tmp_path / "org" / "there").mkdir(parents=True)
    assert local_directory("org/there").samefile(tmp_path / "org" / "there")
    assert asked == []


@pytest.mark.parametrize("name", ["runs/missing", "missing", "/no/such/place", "./org/there", "org/there/more", "../x"])
def test_a_mistyped_path_is_not_asked_for(asked, tmp_path, name):
    (tmp_path / "runs").mkdir()
    with pytest.raises(UserError, match=f"^{name}: no such directory$"):
        local_directory(name)
    assert asked == []


def test_what_the_hub_has_not_is_told_in_one_line(asked):
    with pytest.raises(UserError, match="org/else: no such directory, nor a model that the hub gives") as caught:
        local_directory("org/else")
    assert "\n" not in str(caught.value) and len(asked) == 1
