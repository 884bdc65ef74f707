"""A tiny recipe over a file of its own, and where the running stack is."""

import random
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelmill.services.login import server_login

_PROSE = (
    "the line reads pages and keeps those that people would want to read because they say something about it while "
    "others only repeat what was said before or list names and numbers without any sentence between them"
)
WORDS = _PROSE.split()


@dataclass(frozen=True)
class Tiny:
    """A recipe of two data stages over a folder of text files; without them, ingest fails."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / f"{self.folder.name}.yaml"

    @property
    def pages(self) -> Path:
        return self.folder / "pages"

    def write_recipe(self, min_words: int = 20) -> None:
        self.recipe.write_text(
            f"""
            name: {self.folder.name}
            description: two data stages over one file
            compute: process
            line: [ingest, clean]
            ingest:
              sources: [{{kind: text, name: notes, paths: ["{self.pages}"]}}]
            clean:
              gopher: {{min_words: {min_words}}}
              c4: {{enabled: false}}
              fineweb: {{enabled: false}}
            """
        )

    def write_pages(self, number: int = 20) -> None:
        draw = random.Random(f"{self.folder.name} {number}")
        self.pages.mkdir(exist_ok=True)
        for page in range(number):
            sentences = [" ".join(draw.choices(WORDS, k=12)).capitalize() for _ in range(12)]
            (self.pages / f"{page}.txt").write_text(". ".join(sentences) + ".")


@dataclass(frozen=True)
class Stack:
    """A running stack: its home, and name → address of its parts."""

    home: Path
    parts: dict[str, str]

    @property
    def api(self) -> str:
        return f"{self.parts['prefect']}/api"

    @property
    def login(self) -> tuple[str, str]:
        user, _, password = server_login(self.home).partition(":")
        return user, password

    def client(self) -> httpx.Client:
        """A client of Prefect's API that is logged in."""
        return httpx.Client(base_url=self.api, auth=self.login, timeout=60)

    def mlflow(self) -> httpx.Client:
        """A client of MLflow's server that is logged in."""
        return httpx.Client(base_url=self.parts["mlflow"], auth=self.login, timeout=60)
