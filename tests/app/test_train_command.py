"""`minibi train` as a user meets it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

TINY = Path(__file__).resolve().parents[1] / "golden" / "tiny-bert"
RECIPE = """
output = "trained"
[model]
base = {base}
[data]
train = "pairs.jsonl"
held_out = 0.25
[training]
steps = {steps}
batch_size = 4
"""


@pytest.fixture
def recipe(tmp_path):
    def recipe(steps: int = 2, base: str = str(TINY)) -> Path:
        rows = [{"query": f"river {i} stone", "positive": f"garden {i} letter"} for i in range(24)]
        (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "recipe.toml").write_text(RECIPE.format(base=json.dumps(base), steps=steps))
        return tmp_path / "recipe.toml"

    return recipe


def test_a_recipe_becomes_a_model(run, recipe):
    path = recipe()
    code, out, err = run("train", path)
    assert code == 0, err
    assert "2 steps" in out
    assert "mrr@10" in out
    assert (path.parent / "trained" / "model.safetensors").is_file()
    code, _, err = run("train", path)
    assert code == 1
    assert "exists already: remove it, or name another output in the recipe" in err


def test_json(run, recipe):
    code, out, err = run("train", recipe(), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["steps"] == 2
    assert {"output", "run", "loss", "tokens", "seconds", "metrics", "first_metrics"} <= found.keys()
    code, out, _ = run("train", recipe(), "--check", "--json")
    assert code == 0
    assert json.loads(out)["recipe"]["training"]["steps"] == 2


def test_what_is_wrong_is_said_in_one_line(run, recipe):
    path = recipe()
    code, out, _ = run("train", path, "--check")
    assert code == 0
    assert "sound" in out
    for old, new, message in (
        ("steps", "stepps", "recipe.toml: [training] unknown key 'stepps' (did you mean 'steps'?)"),
        ('train = "pairs.jsonl"', 'train = "none.jsonl"', "cannot read"),
        ("output = ", "output ", "is not TOML"),
    ):
        text = path.read_text()
        path.write_text(text.replace(old, new))
        code, out, err = run("train", path)
        assert (code, out) == (1, "")
        assert message in err
        assert len(err.strip().splitlines()) == 1
        path.write_text(text)
    (path.parent / "pairs.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": "a"}\n')
    code, _, err = run("train", path)
    assert code == 1
    assert "pairs.jsonl:2: no positive" in err


def test_control_c_leaves_a_checkpoint_and_says_so(spawn, recipe):
    path = recipe(steps=5000)
    log = path.parent / "trained.run" / "log.csv"
    process = spawn("from minibi.app.cli import main; main()", "train", path)
    while process.poll() is None and not (log.exists() and log.read_text().count("\n") > 3):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    text = err if isinstance(err, str) else err.decode()
    assert "stopped after step" in text
    assert "repeat the same to go on" in text
    assert (path.parent / "trained.run" / "checkpoint.safetensors").is_file()
