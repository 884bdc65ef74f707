"""Recipe part of curate → what counts as good, which domains there are, how they are weighted and split."""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from modelmill.tasks.curate.labels import SHIPPED, check_labels, labels_path
from modelmill.tasks.curate.model_files import model_digest
from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest
from modelmill.tasks.names import domain_name
from modelmill.tasks.stage import StageConfig
from modelmill.tasks.suites.reader import suite_digest, suite_name, suite_path

OTHER = "other"
# What the extractor calls a page.
PAGE_TYPES = ("article", "collection", "documentation", "forum", "listing", "product", "service")
Share = Annotated[float, Field(gt=0, le=1)]


class Rule(StageConfig):
    """Documents that meet every condition given; within a condition any entry suffices. No condition: all documents."""

    urls: tuple[str, ...] = ()
    """Regular expressions (RE2), one of which the URL contains."""
    sources: tuple[str, ...] = ()
    """Names of ingest's sources."""
    languages: tuple[str, ...] = ()
    """Language codes that clean wrote."""
    min_prose: float | None = Field(default=None, ge=0, le=1)
    """Least share of the document's characters that lie in lines of running prose."""
    max_prose: float | None = Field(default=None, ge=0, le=1)
    """Greatest such share."""

    @field_validator("urls")
    @classmethod
    def _patterns_compile(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in urls:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return urls


class Teacher(StageConfig):
    """A chat model that reads a sample of the documents and labels them."""

    model: str = Field(json_schema_extra={"placement": True})
    """Folder of a Hugging Face chat model that vLLM serves; its content enters the stage's key."""
    documents: int = Field(default=5000, ge=20)
    """How many documents it reads, drawn by a hash of their id."""
    max_tokens: int = Field(default=1024, ge=16)
    """How much of the beginning of each it sees, in its own tokens."""


class QualityTeacher(Teacher):
    """A chat model that says of each document whether it is good."""

    requirements: str = Field(min_length=1)
    """What makes a document good, in words; the teacher answers yes or no."""


class Quality(StageConfig):
    """A student is trained on documents that rules or a teacher label, and then scores every document."""

    positive: Rule | None = None
    """Which documents show what is wanted: a trusted source or site, or prose-rich pages. Or give `teacher`."""
    negative: Rule = Rule()
    """Which documents show what is not wanted, among those that are not positive."""
    teacher: QualityTeacher | None = None
    """A model that labels instead of the rules."""
    threshold: float = Field(ge=0, lt=1, json_schema_extra={"after_scores": True})
    """Documents that score less are dropped as `low_quality`; 0 keeps all, scored."""
    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation that measures the AUC."""
    max_training_documents: int = Field(default=50_000, ge=20)
    """At most this many labelled documents are learnt from, half of them positive."""

    @model_validator(mode="after")
    def _labels_come_from_one_side(self) -> "Quality":
        if (self.positive is None) == (self.teacher is None):
            raise ValueError(
                "quality takes its labels either from `positive` (a rule) or from `teacher` (a chat model)"
            )
        return self


class Categories(StageConfig):
    """A student is trained on documents with known categories, and then names the category of every document."""

    labels: str = Field(default=SHIPPED, json_schema_extra={"placement": True})
    """The list of categories: `shipped` (236 in 24 topics), or the path of a .yaml file of that form; its content
    enters the stage's key."""
    reference: str | None = Field(default=None, json_schema_extra={"placement": True})
    """File of documents with known categories: .jsonl, .jsonl.gz or .parquet with the columns `text` and `label`; its
    content enters the stage's key. Or give `teacher`."""
    teacher: Teacher | None = None
    """A model that labels a sample of the documents instead: first the topic, then the category within it."""
    folds: int = Field(default=5, ge=2)
    """Parts of the cross-validation that measures the accuracy."""
    max_training_documents: int = Field(default=50_000, ge=20)
    """At most this many labelled documents are learnt from."""

    @model_validator(mode="after")
    def _labels_come_from_one_side(self) -> "Categories":
        if (self.reference is None) == (self.teacher is None):
            raise ValueError(
                "categories takes its labels either from `reference` (a file with text and label) or from `teacher` "
                "(a chat model)"
            )
        return self


class Shares(StageConfig):
    """Greatest share of the corpus' bytes that a group may have; what is over it is left out by a hash of the id.

    If all groups of a column are named and their shares make less than 1, they are taken as proportions.
    """

    page_type: dict[str, Share] = Field(default_factory=dict)
    """By page type, as the extractor wrote it: article, forum, product, service, collection, listing, documentation."""
    topic: dict[str, Share] = Field(default_factory=dict)
    """By topic (the first level of the categories)."""
    category: dict[str, Share] = Field(default_factory=dict)
    """By category, such as `arts/film`."""
    domain: dict[str, Share] = Field(default_factory=dict)
    """By domain of the recipe."""

    @property
    def columns(self) -> dict[str, dict[str, float]]:
        """Those that name a group, in the order in which they are applied."""
        return {name: shares for name, shares in self if shares}


class SemanticDedup(StageConfig):
    """Of documents that mean the same only the best stays: embeddings, k-means, cosine within a cluster."""

    threshold: float = Field(default=0.95, gt=0, le=1)
    """A document goes when its cosine to a better one of its cluster reaches this. 0.95 is dots.llm1's, with BGE-M3;
    hashed words lie further apart, and 0.9 found six times as many planted copies there at no visible cost."""
    model: str | None = Field(default=None, json_schema_extra={"placement": True})
    """Folder of a Hugging Face embedding model that is read at its first token, such as BGE-M3; its content enters the
    stage's key. Left out: hashed words (TF-IDF), which know no synonyms and no other language."""
    max_tokens: int = Field(default=512, ge=16)
    """A model sees this much of the beginning of a document."""
    documents_per_cluster: int = Field(default=1000, ge=2)
    """Average size of a cluster: fewer is faster, and misses more pairs that two clusters share."""
    clusters_per_call: int = Field(default=64, ge=1, json_schema_extra={"placement": True})
    """Clusters that one call holds in memory. Does not change the result."""


class Decontamination(StageConfig):
    """One suite that evaluate will run, or that a release will be measured on."""

    suite: str = Field(json_schema_extra={"placement": True})
    """Name of a shipped suite, or path of a .jsonl file; its name and content enter the stage's key."""
    ratio: float = Field(gt=0, le=1, json_schema_extra={"after_scores": True})
    """T_D of Llama 3: an item is contaminated if at least this share of its tokens lies in 8-grams that were found."""


class Mixture(StageConfig):
    """Share of each domain in what the model will read; the sampler draws by it, so a weight up- or downsamples."""

    weights: dict[str, float] = Field(default_factory=dict)
    """Weight by domain, in any unit; a domain that is left out is never drawn. Empty: from the corpus itself."""
    temperature: float = Field(default=1.0, gt=0)
    """Without weights: a domain's bytes to the power 1/temperature; 1 is proportional, more lifts small domains."""

    @model_validator(mode="after")
    def _weights_are_usable(self) -> "Mixture":
        if self.weights and (min(self.weights.values()) < 0 or sum(self.weights.values()) <= 0):
            raise ValueError(f"weights {self.weights} must not be negative, and one must be above 0")
        return self


class Config(StageConfig):
    """Quality, domains, mixture, decontamination and the validation split."""

    quality: Quality | None = None
    """Leave out to keep every document, with quality 1."""
    page_types: tuple[str, ...] = Field(default=(), json_schema_extra={"after_scores": True})
    """Types of pages to keep, as the extractor names them; pages of unknown type stay. Empty keeps every type."""
    categories: Categories | None = None
    """Leave out to name no categories."""
    shares: Shares = Field(default=Shares(), json_schema_extra={"after_scores": True})
    """Groups of documents to downsample."""
    domains: dict[str, Rule] = Field(default_factory=dict)
    """Rules tried in this order; the first that holds names the document's domain, else it is `other`."""
    mixture: Mixture = Field(default=Mixture(), json_schema_extra={"after_scores": True})
    """Weights by domain."""
    suites: tuple[Decontamination, ...] = ()
    """Suites whose items must not be in the corpus."""
    semantic: SemanticDedup | None = Field(default=None, json_schema_extra={"after_scores": True})
    """Leave out to keep documents that only mean the same."""
    validation_share: float = Field(default=0.02, gt=0, lt=0.5, json_schema_extra={"after_scores": True})
    """Share of documents held out for validation, drawn by a hash of their id."""
    min_validation_documents: int = Field(default=2, ge=1, json_schema_extra={"after_scores": True})
    """At least this many of each domain are held out (but never more than half of it)."""
    seed: int = Field(default=0, ge=0)
    """Salt of the hash that draws the split, the folds and the training sample."""

    @field_validator("domains")
    @classmethod
    def _domain_names_are_folders(cls, domains: dict[str, Rule]) -> dict[str, Rule]:
        for name in domains:
            if domain_name(name) == OTHER:
                raise ValueError(f"found a domain named {OTHER!r}, which is that of documents that no rule names")
        return domains

    @model_validator(mode="after")
    def _weights_name_domains(self) -> "Config":
        for part, given in (("mixture.weights", self.mixture.weights), ("shares.domain", self.shares.domain)):
            unknown = sorted(given.keys() - self.domains.keys() - {OTHER})
            if unknown:
                known = ", ".join([*self.domains, OTHER])
                raise ValueError(f"{part} names {', '.join(unknown)}; the domains are {known}")
        return self

    @model_validator(mode="after")
    def _groups_are_known(self) -> "Config":
        for part, given in (("page_types", self.page_types), ("shares.page_type", self.shares.page_type)):
            unknown = sorted(set(given) - set(PAGE_TYPES))
            if unknown:
                raise ValueError(f"{part} names {', '.join(unknown)}; the types are {', '.join(PAGE_TYPES)}")
        if self.categories is None and (self.shares.topic or self.shares.category):
            raise ValueError("shares by topic or category need `categories`, which names them")
        return self


def external_digests(config: Config) -> dict[str, str]:
    """Digest of each suite's items, by its place and name; of the models' files, and what runs the embedding."""
    digests = {
        f"suites[{index}] {suite_name(suite_path(each.suite))}": suite_digest(each.suite)
        for index, each in enumerate(config.suites)
    }
    if config.semantic is not None and config.semantic.model is not None:
        digests["semantic.model"] = model_digest(Path(config.semantic.model), "semantic.model")
        digests |= {name: version(name).split("+")[0] for name in ("torch", "transformers")}
    if config.quality is not None and config.quality.teacher is not None:
        digests["quality.teacher"] = model_digest(Path(config.quality.teacher.model), "quality.teacher.model")
    if config.categories is not None:
        digests |= _category_digests(config.categories)
        check_labels(config.categories.labels, "shares.category", config.shares.category)
        check_labels(config.categories.labels, "shares.topic", config.shares.topic)
    return digests


def _category_digests(categories: Categories) -> dict[str, str]:
    """Digests of the list of categories, and of what labels by it."""
    digests = {"categories.labels": file_digest(labels_path(categories.labels))}
    if categories.reference is not None:
        if not Path(categories.reference).is_file():
            raise InputError(f"categories.reference: no file {categories.reference}; give one with text and label")
        digests["categories.reference"] = file_digest(Path(categories.reference))
    if categories.teacher is not None:
        digests["categories.teacher"] = model_digest(Path(categories.teacher.model), "categories.teacher.model")
    return digests
