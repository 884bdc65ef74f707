"""Recipe part `dedup` → which levels run and what counts as a duplicate."""

from typing import Literal

from pydantic import Field

from modelmill.tasks.dedup.earlier import earlier_digests
from modelmill.tasks.stage import StageConfig


class LineRule(StageConfig):
    """Removal of lines that repeat across documents."""

    rule: Literal["none", "llama", "dots"] = "dots"
    """llama: remove every occurrence of a line that appears more than `max_per_bucket` times in its bucket of
    documents (Llama 3 §3.1.1, after ccNet). dots: among the first and last `edge_lines` lines of each document keep
    the first `max_occurrences` of a line, remove the rest (dots.llm1 C.2)."""
    max_per_bucket: int = Field(default=6, ge=1)
    bucket_documents: int = Field(default=30_000_000, ge=1)
    """Documents are spread evenly over ceil(documents / this) buckets by their id."""
    edge_lines: int = Field(default=5, ge=1)
    max_occurrences: int = Field(default=200, ge=1)


class MinHash(StageConfig):
    """Near duplicates by MinHash and locality-sensitive hashing: a pair of Jaccard similarity s is found with
    probability 1 - (1 - s^rows)^bands."""

    enabled: bool = True
    bands: int = Field(default=14, ge=1)
    """14 × 8 finds half of the pairs at similarity 0.7 (FineWeb); dots.llm1 takes 128 × 16 (half at 0.72, steeper)."""
    rows: int = Field(default=8, ge=1)
    shingle_words: int = Field(default=5, ge=1)
    """Words in a shingle; a shorter text is one shingle."""
    unspaced_scripts: Literal["characters", "jieba"] = "characters"
    """What a word is in scripts written without spaces: each character, or (Chinese) a word found by jieba as in
    dots.llm1, which is some hundred times slower."""
    seed: int = Field(default=1, ge=0)


class Passages(StageConfig):
    """Removal of sentences or paragraphs that near-repeat across documents."""

    enabled: bool = False
    unit: Literal["sentences", "paragraphs"] = "sentences"
    max_documents: int = Field(default=3, ge=1)
    """A passage that more documents than this have stays in one of them only."""
    min_words: int = Field(default=8, ge=1)
    """Shorter passages stay: greetings, headings and the like say nothing about copying."""
    min_kept_share: float = Field(default=0.5, ge=0, le=1)
    """A document that keeps less than this share of its characters is dropped."""
    minhash: MinHash = MinHash(bands=10, rows=6, shingle_words=2)
    """Half of the pairs at similarity 0.64: one exchanged word in fifteen changes an eighth of the word pairs."""


class Config(StageConfig):
    """Levels in their order; each sees what the one before it kept."""

    url: bool = True
    """Keep the newest page of each address."""
    exact: bool = True
    """Keep one of the documents whose texts agree after NFD, lower case, without punctuation and extra space."""
    lines: LineRule = LineRule()
    minhash: MinHash = MinHash()
    passages: Passages = Passages()
    earlier: tuple[str, ...] = Field(default=(), json_schema_extra={"placement": True})
    """Artifacts that dedup left of earlier crawls, by digest (in this home) or folder; their digests enter the stage's
    key. What they have by address, text or MinHash is dropped, from their keys alone: their documents are not read.
    A page stays as the earlier crawl has it, even if this crawl has a newer version, since that artifact is final."""
    rows_per_shard: int = Field(default=50_000, ge=1)
    """Documents per output shard, on average; documents are placed and ordered by their id."""
    rows_per_call: int = Field(default=20_000, ge=1, json_schema_extra={"placement": True})
    """Documents of small input files that one call reads together (up to 25 MB of compressed files): each partition
    opens what each call wrote, so many small calls cost more than their rows. Does not change the result."""
    rows_per_partition: int = Field(default=1_000_000, ge=1, json_schema_extra={"placement": True})
    """Documents whose keys one global step holds in memory at a time. Does not change the result."""


def external_digests(config: Config) -> dict[str, str]:
    """Content digests of the earlier artifacts: where they lie and in which order they are named does not count."""
    return earlier_digests(config.earlier)
