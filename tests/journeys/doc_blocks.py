"""Fenced blocks of README and docs/, and the commands in them."""

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")))
SHELL = ("", "bash", "console", "sh")
"""Languages of blocks that hold commands; other plain text is marked as `text`."""
_FENCE = re.compile(r'^( *)```(\w*)(?: +title="([^"]+)")?\n(.*?)^\1```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; its title, if any, is the name of the file that it shows."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def commands(self) -> list[str]:
        """Commands of a shell block, without comments and output; continued lines are joined."""
        if self.language not in SHELL:
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        if any(line.startswith("$ ") for line in lines):
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        lines = [re.sub(r"(^|\s+)#.*", "", line).strip() for line in lines]
        return [line for line in lines if line]


def blocks_of(page: str) -> list[Block]:
    """All blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, at.start()) + 1, at[2], at[3], textwrap.dedent(at[4]))
        for at in _FENCE.finditer(text)
    ]


def all_commands() -> list[tuple[str, str]]:
    """Return (page, command) for all shell blocks."""
    return [(page, line) for page in PAGES for one in blocks_of(page) for line in one.commands]


def inline_commands(page: str) -> list[str]:
    """Return the `diffusionpose ...` commands in the running text."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [re.sub(r"\s+", " ", found) for found in re.findall(r"`(diffusionpose [^`]+)`", text)]


def own_words(command: str) -> list[str]:
    """Return the arguments of `diffusionpose` in a command, also inside torchrun or docker."""
    words = shlex.split(command)
    for at, word in enumerate(words[:-1]):
        if word.split(":")[0] == "diffusionpose" and re.fullmatch(r"[a-z]+", words[at + 1]):
            return words[at + 1 :]
    return []
