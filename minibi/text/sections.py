"""Where prose divides: the sections of Markdown and reStructuredText, each with the path of its headings.

Nothing is rendered and nothing is rewritten: a section is a span of the text as it stands. Headings inside fenced code
and front matter do not count.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

SEPARATOR = " › "
LONGEST_HEADING = 200  # characters kept of a heading


class Section(NamedTuple):
    """`text[start:end]` is the body without surrounding space; `key` is its anchor, unique in the text; line from 1."""

    key: str
    title: str
    start: int
    end: int
    line: int


class Heading(NamedTuple):
    line: int  # all lines count from 0 in here
    body: int  # the line after the heading
    level: int
    title: str


def sections(text: str, kind: str, name: str) -> Iterator[Section]:
    """Sections of `text` with a body, in order; `kind` is "markdown", "rst" or "plain" (one section, the whole).

    Titles read "Document › Section › Subsection". The document's own title is its top heading or the front matter's
    title; where there is neither, `name` (of the file) stands in.
    """
    found = list(re.finditer(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+", text))
    offsets = [m.start() for m in found] + [len(text)]
    lines = [m.group().rstrip("\r\n") for m in found]
    first, meta, headings = 0, "", []
    if kind == "plain":
        name = _standing_title(lines) or name
    elif kind == "rst":
        headings = _rst_headings(lines)
    else:
        first, meta = _front_matter(lines)
        headings = _markdown_headings(lines, first)
    has_top = bool(headings) and headings[0].level == 1 and not meta
    root = "" if has_top else meta or name
    above: list[Heading] = []
    used: dict[str, int] = {}
    ends = [h.line for h in headings] + [len(lines)]
    for heading, end in zip([Heading(0, first, 0, ""), *headings], ends, strict=True):
        if heading.level:
            above = [h for h in above if h.level < heading.level] + [heading]
        key = _anchor(heading.title if heading.level else "top", used)
        a, b = offsets[heading.body], offsets[end]
        body = text[a:b]
        if body.strip():
            a += len(body) - len(body.lstrip())
            titles = [t for t in dict.fromkeys([root, *(h.title for h in above)]) if t] or [name]
            yield Section(key, SEPARATOR.join(titles), a, a + len(body.strip()), bisect_right(offsets, a))


def _anchor(title: str, used: dict[str, int]) -> str:
    """The heading as a link target, the way code hosts spell it: lower case, hyphens, -1 -2 … for repetitions."""
    slug = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") or "section"
    key = slug
    while key in used:
        used[slug] += 1
        key = f"{slug}-{used[slug]}"
    used[key] = 0
    return key


def _plain_words(heading: str) -> str:
    """A heading without its markup: links keep their words, code its letters."""
    words = re.sub(r"!?\[([^\[\]]*)\]\([^()]*\)", r"\1", heading[: 2 * LONGEST_HEADING])
    return re.sub(r"\*\*|``?", "", words).strip()[:LONGEST_HEADING]


def _standing_title(lines: list[str]) -> str:
    """The first line if it stands alone above the rest like a title, else nothing."""
    first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
    title, rest = "".join(lines[first : first + 1]).strip(), lines[first + 1 :]
    alone = len(rest) > 1 and not rest[0].strip() and any(line.strip() for line in rest)
    return title if alone and len(title) <= 80 and title[-1] not in ".,;:!…" and any(map(str.isalpha, title)) else ""


def _front_matter(lines: list[str]) -> tuple[int, str]:
    """(first line after a YAML or TOML block at the top, the title given in it)."""
    if not lines or (fence := lines[0].rstrip()) not in ("---", "+++"):
        return 0, ""
    closing = ("---", "...") if fence == "---" else ("+++",)
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() in closing), 0)
    inner = [line for line in lines[1:end] if line.strip() and not line.startswith("#")]
    if not end or (inner and not re.match(r"[\w\"'.-]+\s*[:=]", inner[0])):
        return 0, ""  # a rule across the page, not data
    title = next((m[1] for line in inner if (m := re.match(r"title\s*[:=]\s*(\S.*)", line))), "")
    return end + 1, title.strip().strip("\"'").strip()[:LONGEST_HEADING]


def _markdown_headings(lines: list[str], first: int) -> list[Heading]:
    """ATX headings (# …) and one-line setext headings (underlined by === or ---), none of them inside fenced code."""
    headings: list[Heading] = []
    fence = ""
    for i in range(first, len(lines)):
        line = lines[i].rstrip()
        bare = line.lstrip(" ")
        if not bare or len(line) - len(bare) > 3:
            continue
        run = len(bare) - len(bare.lstrip(bare[0]))
        if bare[0] in "`~" and run >= 3:
            if not fence and not (bare[0] == "`" and "`" in bare[run:]):
                fence = bare[:run]
            elif fence and bare.startswith(fence) and run == len(bare):
                fence = ""
        elif fence:
            continue
        elif bare[0] == "#" and run <= 6 and (run == len(bare) or bare[run] in " \t"):
            title = bare[run:].strip()
            closed = title.rstrip("#")  # "## Title ##" closes with a run of its own
            if closed != title and (not closed or closed[-1] in " \t"):
                title = closed.strip()
            headings.append(Heading(i, i + 1, run, _plain_words(title)))
        elif run == len(bare) and ((bare[0] == "=" and run >= 2) or (bare[0] == "-" and run >= 3)) and i > first:
            above = lines[i - 1]
            alone = i - 2 < first or not lines[i - 2].strip() or (headings and headings[-1].body == i - 1)
            if alone and re.match(r" {0,3}(?![-*+>|#=`~ \t]|\d+[.)])\S", above):
                headings.append(Heading(i - 1, i + 1, 1 if bare[0] == "=" else 2, _plain_words(above)))
    return headings


def _rst_headings(lines: list[str]) -> list[Heading]:
    """Titles underlined, or under- and overlined, by a run of punctuation; styles take levels as they appear."""
    headings: list[Heading] = []
    levels: dict[tuple[str, bool], int] = {}
    for i in range(1, len(lines)):
        under, title = lines[i].rstrip(), lines[i - 1].rstrip()
        after_heading = bool(headings) and headings[-1].body == i - 1  # then the line above is that one's underline
        over = "" if i < 2 or after_heading else lines[i - 2].rstrip()
        if not _is_rule(under) or not title or _is_rule(title) or len(under) < min(len(title.strip()), 4):
            continue
        both = over == under
        if both or (not over and not title[0].isspace() and len(under) >= len(title)):
            level = levels.setdefault((under[0], both), len(levels) + 1)
            headings.append(Heading(i - 2 if both else i - 1, i + 1, level, _plain_words(title)))
    return headings


def _is_rule(line: str) -> bool:
    return len(line) > 1 and line == line[0] * len(line) and not line[0].isalnum() and not line[0].isspace()
