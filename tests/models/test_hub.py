"""A name that is no directory is asked for at the hub, and only then."""

import huggingface_hub
import pytest

from visa_jax.config import UserError
from visa_jax.models.hub import local_directory, name_and_revision


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The calls of the hub, which has the one model org/there; the test runs in an empty directory."""
    calls = []

    def snapshot_download(name, allow_patterns, revision):
        calls.append((name if revision is None else f"{name}@{revision}", allow_patterns))
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


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "0123456789abcdef0123456789abcdef01234567"])
def test_a_revision_is_asked_for(asked, tmp_path, revision):
    assert local_directory(f"org/there@{revision}") == tmp_path / "cache"
    assert asked[0][0] == f"org/there@{revision}"
    assert name_and_revision(f"org/there@{revision}") == ("org/there", revision)
    assert name_and_revision("org/there") == ("org/there", None)
    (tmp_path / "runs" / "a@b").mkdir(parents=True)  # a directory is a directory
    assert name_and_revision("runs/a@b") == ("runs/a@b", None) and local_directory("runs/a@b").samefile("runs/a@b")


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """huggingface_hub itself, kept off the network, with the one model org/kept in its cache."""
    snapshot = tmp_path / "hub" / "models--org--kept" / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(snapshot.name)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return snapshot


def test_the_cache_serves_a_commit(cache):
    """Two commits lie in the cache; main is the first."""
    other = cache.with_name("4567cdef" + "0" * 32)
    other.mkdir()
    assert local_directory(f"org/kept@{other.name}").samefile(other)
    assert local_directory("org/kept").samefile(cache)


def test_the_cache_serves_without_a_network(cache):
    assert local_directory("org/kept").samefile(cache)
    for field, start in (("", "org/none: "), ("--model", "--model: org/none: ")):
        with pytest.raises(UserError) as caught:
            local_directory("org/none", field, "visa-jax convert")
        assert str(caught.value) == (
            f"{start}no such directory, nor a model that the hub gives (it is not reached from here, and its cache has "
            "no such model); make it with visa-jax convert"
        )


def test_weights_are_left_where_they_are_not_read(asked):
    local_directory("org/there", weights=False)
    assert "config.json" not in asked[0][1] and {"*.json", "tokenizer.model"} <= set(asked[0][1])
    assert not any("safetensors" in pattern for pattern in asked[0][1] if pattern != "*.json")
