"""Names to folders: local and bundled ones never touch the network, hub names ask huggingface_hub and nobody else."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from minibi import BiEncoder
from minibi.environment import weights_folder
from minibi.errors import ModelError
from minibi.models.locate import locate


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for huggingface_hub that records what it is asked for; `hub.answer` is returned or raised."""
    module = ModuleType("huggingface_hub")
    module.asked, module.answer = [], ConnectionError("no network")

    def snapshot_download(name, **options):
        module.asked.append((name, options))
        if isinstance(module.answer, Exception):
            raise module.answer
        return str(module.answer)

    module.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_bundled_and_local_names_never_ask_the_hub(hub, golden, tmp_path, monkeypatch):
    bundled = weights_folder() / "all-MiniLM-L6-v2"
    assert locate("all-MiniLM-L6-v2") == locate("sentence-transformers/all-MiniLM-L6-v2") == bundled
    assert locate(golden / "tiny-bert") == locate(str(golden / "tiny-bert")) == golden / "tiny-bert"
    monkeypatch.chdir(golden.parent)
    assert locate("golden/tiny-bert").resolve() == (golden / "tiny-bert").resolve(), "a path comes before a hub name"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert locate("~/mine") == tmp_path / "mine"
    assert hub.asked == []


@pytest.mark.parametrize(
    "name",
    ["no-such-model", "", ".", "./no/such", "/no/such", "../no", "~/none", "a/b/c", "a b/c", "owner/", "..", "\0/x"],
)
def test_what_is_no_hub_name_never_asks_the_hub(hub, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError):
        BiEncoder(name)
    assert hub.asked == []


def test_the_complaint_names_what_there_is(hub):
    with pytest.raises(ModelError, match=r"no model folder 'nothing': give a path.*\['all-MiniLM-L6-v2'\]"):
        locate("nothing")


def test_a_hub_name_is_fetched(hub, golden):
    hub.answer = golden / "tiny-bert"
    model = BiEncoder("somebody/a-model")
    assert model.dim == 36 and model.name == "somebody/a-model"
    ((name, options),) = hub.asked
    assert name == "somebody/a-model"
    patterns = options["allow_patterns"]
    assert "*.safetensors" in patterns and "*.json" in patterns
    assert not any(pattern.endswith((".bin", ".pt", ".pkl", ".py", "*")) for pattern in patterns), "nothing executable"


def test_trouble_with_the_hub_is_one_clear_line(hub):
    hub.answer = ConnectionError("cannot resolve host\nTraceback: much more")
    with pytest.raises(ModelError, match=r"could not be fetched from the hub: cannot resolve host$"):
        locate("somebody/a-model")
    hub.answer = TimeoutError()
    with pytest.raises(ModelError, match=r"hub: TimeoutError$"):
        locate("somebody/a-model")


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match="huggingface_hub is not installed"):
        locate("somebody/a-model")


@pytest.mark.parametrize("name", [None, 3, b"bytes", "x" * 5000, "a\0b", "\ud800", "~nobody-of-this-name/model"])
def test_what_can_be_no_name(hub, name):
    with pytest.raises(ModelError, match=r"a model is named by a string or a path|no model folder"):
        locate(name)
