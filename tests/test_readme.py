"""README's examples run, one after the other, as they are printed."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_examples_run(capsys):
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 3
    names: dict[str, object] = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)
    out = capsys.readouterr().out
    assert names["hits"].ids[0] == "cats" and "rank 1" in out  # type: ignore[attr-defined]
    assert "fed at noon" in out.splitlines()[-1]
