"""A config that is misspelt, incomplete or of the wrong type is refused with the full name of the field."""

import dataclasses
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from visa_jax.config import (
    FieldError,
    UserError,
    config_differences,
    from_config_dict,
    from_json,
    load_config,
    require,
    save_config,
    to_config_dict,
    to_json,
)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    learning_rate: float
    kind: Literal["adam", "sgd"] = "adam"
    clip: float | None = None

    def __post_init__(self):
        require(self.learning_rate > 0, "learning_rate", f"must be positive, got {self.learning_rate}")


@dataclasses.dataclass(frozen=True)
class Run:
    steps: int
    name: str
    resume: bool
    optimizer: Optimizer
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 0.5)
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    stages: tuple[Optimizer, ...] = ()
    extra: Any = None


def given(**changes: Any) -> ConfigDict:
    config = ConfigDict({"steps": 3, "name": "x", "resume": False, "optimizer": {"learning_rate": 0.1}})
    config.update(changes)
    return config


def refusal(config: Any) -> str:
    with pytest.raises(UserError) as caught:
        from_config_dict(Run, config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nested_sections_become_dataclasses():
    run = from_config_dict(Run, given(optimizer={"learning_rate": 1, "clip": 2}, weights={"jsr": 1}))
    assert run == Run(3, "x", False, Optimizer(1.0, "adam", 2.0), weights={"jsr": 1.0})
    # An int is welcome where a float is expected, and is one afterwards.
    assert type(run.optimizer.learning_rate) is float and type(run.weights["jsr"]) is float


def test_misspelt_key_names_the_near_one():
    assert refusal(given(optimizer={"learning_rat": 0.1})) == (
        "config.optimizer.learning_rat: no such field; did you mean 'learning_rate'?"
    )
    assert refusal(given(zzz=1)).startswith("config.zzz: no such field; there are: steps, name, resume, optimizer")


def test_missing_key_is_named_with_its_type():
    assert refusal(ConfigDict({"steps": 3, "name": "x", "resume": True})) == (
        "config.optimizer: missing (expected Optimizer)"
    )
    assert refusal(given(stages=[{"kind": "sgd"}])) == "config.stages[0].learning_rate: missing (expected float)"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1.5}, "config.steps: expected int, got float 1.5"),
        ({"steps": True}, "config.steps: expected int, got bool True"),
        ({"resume": 1}, "config.resume: expected bool, got int 1"),
        ({"name": 7}, "config.name: expected str, got int 7"),
        ({"steps": None}, "config.steps: expected int, got NoneType None"),
        ({"optimizer": 3}, "config.optimizer: expected a section with fields, got int 3"),
        ({"optimizer": {"learning_rate": True}}, "config.optimizer.learning_rate: expected float, got bool True"),
        ({"optimizer": {"learning_rate": "1"}}, "config.optimizer.learning_rate: expected float, got str '1'"),
        ({"optimizer": {"learning_rate": 1, "clip": "no"}}, "config.optimizer.clip: expected float, got str 'no'"),
        ({"sizes": (1, 2.5)}, "config.sizes[1]: expected int, got float 2.5"),
        ({"sizes": 4}, "config.sizes: expected tuple[int, ...], got int 4"),
        ({"pair": ("a",)}, "config.pair: expected 2 entries, got 1"),
        ({"weights": {"jsr": "x"}}, "config.weights.jsr: expected float, got str 'x'"),
    ],
)
def test_wrong_type_names_field_and_value(changes, message):
    plain = {"steps": 3, "name": "x", "resume": False, "optimizer": {"learning_rate": 0.1}}
    complaint = refusal({**plain, **changes})
    # An optional field says float or float | None, as it likes, but names field and value.
    assert complaint == message


def test_literal_lists_the_choices():
    message = refusal(given(optimizer={"learning_rate": 0.1, "kind": "adan"}))
    assert message == "config.optimizer.kind: got str 'adan', expected one of 'adam', 'sgd'"


def test_own_validation_gets_the_full_path():
    assert refusal(given(optimizer={"learning_rate": -1.0})) == (
        "config.optimizer.learning_rate: must be positive, got -1.0"
    )
    with pytest.raises(FieldError, match="^learning_rate: must be positive"):
        Optimizer(0.0)


def test_placeholder_counts_as_what_it_holds():
    config = given()
    config.optimizer = ConfigDict({"learning_rate": 0.1, "clip": placeholder(float)})
    assert from_config_dict(Run, config).optimizer.clip is None
    config.optimizer.clip = 2.0
    assert from_config_dict(Run, config).optimizer.clip == 2.0


def test_json_round_trip_keeps_every_type(tmp_path):
    run = from_config_dict(Run, given(sizes=[3, 4], stages=[{"learning_rate": 0.2}], weights={"a": 0.5}))
    assert from_config_dict(Run, to_config_dict(run)) == run
    assert from_config_dict(Run, from_json(to_json(run))) == run
    save_config(tmp_path / "run", run)
    assert from_config_dict(Run, load_config(tmp_path / "run")) == run
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_damaged_or_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="not a run"):
        load_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"steps": 3,')
    with pytest.raises(UserError, match=r"config\.json: not JSON \(line 1"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="expected a JSON object, got list"):
        from_json("[1]")


def test_differences_are_listed_by_field():
    old = given()
    new = given(optimizer={"learning_rate": 0.2}, extra=1)
    assert config_differences(old, new) == ["optimizer.learning_rate: 0.1 -> 0.2", "extra: (absent) -> 1"]
    assert config_differences(given(sizes=(1, 2)), from_json(to_json(given(sizes=[1, 2])))) == []
