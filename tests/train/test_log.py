"""The log of a run: exact numbers, resuming after any step, torn lines, and the picture."""

from __future__ import annotations

import builtins
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.train import log as log_module
from minibi.train.log import COLUMNS, Log, plot_log, read_log, running_mean


def fill(log: Log, steps) -> None:
    for step in steps:
        row = {"step": step, "epoch": step / 7, "loss": 1 / step, "learning_rate": 2e-5 * step}
        log.write(row | ({"spearman": 0.1 * step} if step % 5 == 0 else {}))


@given(values=st.lists(st.floats(allow_nan=False), min_size=1))
def test_numbers_come_back_as_they_went(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    log = Log(path)
    for step, value in enumerate(values):
        log.write({"step": step, "loss": value})
    table = read_log(path)
    assert table["loss"] == values
    assert table["step"] == list(range(len(values)))
    assert all(map(math.isnan, table["learning_rate"]))


@pytest.mark.parametrize("killed_at", [0, 1, 12, 20])
@pytest.mark.parametrize("torn", [False, True])
def test_resumed_equals_uninterrupted(killed_at, torn, tmp_path):
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    fill(Log(whole, ["spearman"]), range(1, 21))
    fill(Log(cut, ["spearman"]), range(1, 16))
    if torn:
        with cut.open("a") as file:
            file.write("16,2.28")
    resume = min(killed_at, 15)
    fill(Log(cut, ["spearman"], resume_after=resume), range(resume + 1, 21))
    assert cut.read_bytes() == whole.read_bytes()
    assert read_log(whole)["spearman"][4] == 0.5


def test_what_a_log_refuses(tmp_path):
    path = tmp_path / "log.csv"
    log = Log(path, ["ndcg"])
    for row, message in (
        ({"step": 1, "los": 2}, "no column 'los'"),
        ({"loss": 2}, "needs its step"),
        ({"step": 1, "loss": "low"}, "not 'low'"),
        ({"step": True}, "not True"),
    ):
        with pytest.raises(InputError, match=message):
            log.write(row)
    assert path.read_text() == ",".join(COLUMNS) + ",ndcg\n"
    with pytest.raises(InputError, match="exists: resume"):
        Log(path)
    with pytest.raises(FormatError, match="other columns than this run: resume with the metrics ndcg"):
        Log(path, resume_after=0)
    with pytest.raises(InputError, match="one name"):
        Log(tmp_path / "x.csv", ["loss"])
    with pytest.raises(InputError, match="cannot read"):
        read_log(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FormatError, match="must begin step,epoch,loss"):
        read_log(tmp_path / "other.csv")
    path.write_text(",".join(COLUMNS) + "\n1,1,1,1,1,1,1\n2,1,one,1,1,1,1\n")
    with pytest.raises(FormatError, match=r"log\.csv:3: not a row of 7 numbers"):
        read_log(path)


def test_running_mean():
    assert running_mean([], 0.9) == []
    assert running_mean([3, 3, 3], 0.9) == pytest.approx([3, 3, 3])
    assert running_mean([2, math.nan, 4], 0.5) == pytest.approx([2, 2, (0.25 * 2 + 0.5 * 4) / 0.75])
    assert running_mean([5, 1, 7], 0.0) == [5, 1, 7]
    assert math.isnan(running_mean([math.nan], 0.5)[0])
    with pytest.raises(InputError, match="below 1"):
        running_mean([1], 1.0)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(suffix, tmp_path):
    pytest.importorskip("matplotlib")
    for name in "ab":
        fill(Log(tmp_path / f"{name}.csv", ["spearman"]), range(1, 30))
    runs = {"one": tmp_path / "a.csv", "other": tmp_path / "b.csv"}
    plot_log(runs, tmp_path / f"curve.{suffix}", metrics=["spearman"])
    assert (tmp_path / f"curve.{suffix}").stat().st_size > 5000
    plot_log(tmp_path / "a.csv", tmp_path / f"single.{suffix}")
    with pytest.raises(InputError, match="no column 'ndcg'"):
        plot_log(runs, tmp_path / "x.png", metrics=["ndcg"])
    with pytest.raises(InputError, match="cannot write the picture"):
        plot_log(runs, tmp_path / "x.nonsense")
    with pytest.raises(InputError, match="cannot write the picture"):
        plot_log(runs, tmp_path / "none" / "x.png")


def test_without_matplotlib(tmp_path, monkeypatch):
    fill(Log(tmp_path / "a.csv", ["spearman"]), range(1, 3))
    real = builtins.__import__

    def missing(name, *args, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(InputError, match="pip install matplotlib"):
        plot_log(tmp_path / "a.csv", tmp_path / "a.png")


def test_the_mean_that_is_drawn_keeps_up_with_a_short_run(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []
    real = log_module.running_mean
    monkeypatch.setattr(log_module, "running_mean", lambda v, smooth: drawn.append(smooth) or real(v, smooth))
    header = "step,epoch,loss,learning_rate,gradient_norm,tokens_per_second,seconds\n"
    for steps in (5, 200, 5000):
        path = tmp_path / f"{steps}.csv"
        path.write_text(header + "".join(f"{i},0,{1 / i},0,0,0,0\n" for i in range(1, steps + 1)))
        plot_log(path, tmp_path / "curve.png")
    assert drawn == [0.0, pytest.approx(0.95), 0.98]
