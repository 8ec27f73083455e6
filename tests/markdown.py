"""Markdown files as tests see them: links, the anchors of headings, and fenced blocks with the comment before them."""

import re
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block. mark: what the comment right before it says, or nothing."""

    file: Path
    line: int
    language: str
    mark: str
    text: str


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a file, from top to bottom."""
    text = file.read_text(encoding="utf-8")
    return [
        Block(file, text.count("\n", 0, found.start("text")), found["language"], found["mark"] or "", found["text"])
        for found in FENCE.finditer(text)
    ]


def prose(file: Path) -> str:
    """What stands outside of fenced blocks."""
    return FENCE.sub("", file.read_text(encoding="utf-8"))


def links(file: Path) -> list[str]:
    """The targets of all links and pictures."""
    return LINK.findall(prose(file))


def code(file: Path) -> list[str]:
    """The spans of code in the prose."""
    return CODE.findall(prose(file))


def anchors(file: Path) -> list[str]:
    """The anchors of the headings, as hosts of repositories make them."""
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(prose(file))]
