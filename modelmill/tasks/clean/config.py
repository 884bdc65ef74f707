"""Recipe part `clean` → which rules judge a page and at which thresholds."""

from pathlib import Path

from pydantic import Field

from modelmill.tasks.errors import InputError
from modelmill.tasks.files import file_digest
from modelmill.tasks.stage import Amount, Count, Positive, Share, StageConfig


class UrlRules(StageConfig):
    """Pages dropped for where they come from, before their text is looked at (dots.llm1 C.1, Llama 3 §3.1.1)."""

    enabled: bool = True
    use_built_in_list: bool = True
    """Apply the small list that ships with Modelmill (clean/data/blocked_domains.txt)."""
    blocked_domains: tuple[str, ...] = ()
    """Domains to drop with all their subdomains, besides the built-in list."""
    allowed_domains: tuple[str, ...] = ()
    """Domains never dropped by address, even where a list or a word names them."""
    blocked_words: tuple[str, ...] = ()
    """Words that, alone between punctuation in the address, drop the page, besides the built-in ones."""
    block_list_files: tuple[str, ...] = Field(default=(), json_schema_extra={"placement": True})
    """Lists of domains: one a line, hosts files, `*.` wildcards or blockers' `||domain^` rules, also .gz, .bz2, .xz or
    .zst. To update one, replace the file: its content enters the stage's key."""


class GopherQuality(StageConfig):
    """Document statistics of Rae et al. 2021 (Gopher), table A1 and section A.1.1; null switches one off."""

    enabled: bool = True
    min_words: Count | None = 50
    """Words that are not only punctuation."""
    max_words: Count | None = 100_000
    min_mean_word_length: Amount | None = 3
    max_mean_word_length: Amount | None = 10
    max_symbol_word_ratio: Amount | None = 0.1
    """Hash signs per word, and ellipses per word, each."""
    max_bullet_lines: Share | None = 0.9
    """Share of lines that begin with a bullet or a hyphen."""
    max_ellipsis_lines: Share | None = 0.3
    """Share of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Share of words with at least one letter."""
    min_stop_words: Count | None = 2
    """Different stop words of the document's language; languages without a list are not judged."""


class GopherRepetition(StageConfig):
    """Repetition within a document (Rae et al. 2021, table A1); null or a missing length switches one off."""

    enabled: bool = True
    max_duplicate_paragraphs: Share | None = 0.3
    max_duplicate_paragraph_characters: Share | None = 0.2
    max_duplicate_lines: Share | None = 0.3
    max_duplicate_line_characters: Share | None = 0.2
    max_top_ngram_characters: dict[Positive, Share] = Field(default={2: 0.2, 3: 0.18, 4: 0.16})
    """Words → share of characters covered by the most frequent n-gram."""
    max_duplicate_ngram_characters: dict[Positive, Share] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """Words → share of characters in n-grams that occurred before."""


class C4(StageConfig):
    """Line and page rules of Raffel et al. 2020 (C4). Lines are removed, the rest of the page stays."""

    enabled: bool = True
    require_terminal_punctuation: bool = True
    """Remove lines that do not end in . ? ! or a quotation mark. FineWeb leaves this off: it costs 30 % of tokens."""
    min_words_per_line: Count | None = 3
    max_word_length: Count | None = 1000
    """Remove lines with a longer word."""
    min_sentences: Count | None = 5
    """Drop pages with fewer sentences in the lines that stay."""
    remove_citations: bool = True
    """Take out [1], [edit] and [citation needed]."""
    remove_javascript_lines: bool = True
    remove_policy_lines: bool = True
    """Remove lines about cookies, privacy policies and terms of use."""
    drop_lorem_ipsum: bool = True
    drop_curly_bracket: bool = True


class FineWeb(StageConfig):
    """FineWeb's own rules (Penedo et al. 2024, section 3.6); null switches one off."""

    enabled: bool = True
    min_line_punctuation: Share | None = 0.12
    """Share of lines that end in a sentence mark."""
    max_short_lines: Share | None = 0.67
    short_line_length: Count = 30
    """Characters up to which a line is short."""
    max_duplicate_line_characters: Share | None = 0.01
    max_newlines_per_word: Amount | None = 0.3


class DenseDomains(StageConfig):
    """Domains dropped whole for the density of personal data in their pages (Llama 3 §3.1.1)."""

    enabled: bool = False
    """Costs one more pass over the text: every page of a domain is counted before the first is judged. The stage does
    this; a single file that is cleaned outside the line is judged page by page only."""
    min_documents: int = Field(default=5, ge=1)
    """Domains with fewer pages stay."""
    max_density: float = Field(default=2.0, ge=0)
    """Different e-mail addresses, phones, cards, IBANs and national ids of a page per 1,000 characters, over all pages
    of the domain. Of 37 hosts with three or more pages in a sample of real ones none exceeded 0.17; a list with one
    address in a line of 100 characters has 10."""


class RefinedWeb(StageConfig):
    """Lines of page furniture (Penedo et al. 2023, appendix G.2), removed before C4's rules; off by default."""

    enabled: bool = False
    max_upper_case: Share | None = 0.5
    """Share of upper-case letters above which a line goes ("mainly composed of", in the paper)."""
    remove_numerals: bool = True
    remove_single_words: bool = True
    remove_furniture: bool = True
    """Remove short lines that clean/data/line_furniture.txt names: counters, navigation."""
    furniture_words: Count = 10
    """Words up to which a line is looked up there."""
    max_removed_words: Share | None = 0.05
    """Share of a page's words in removed lines above which the page is dropped."""


class RepeatedLines(StageConfig):
    """Lines made of what earlier lines of the page say, such as a log's (Llama 3 §3.1.1); removed, off by default."""

    enabled: bool = False
    ngram: int = Field(default=5, ge=1)
    """Words, compared without their digits."""
    max_coverage: float = Field(default=0.8, ge=0, le=1)
    """Share of a line's words in n-grams of earlier lines above which it goes."""
    min_words: Count = 12
    """Shorter lines stay: names, headings and rows of tables repeat for good reasons."""


class Diffs(StageConfig):
    """Pages that show changes of code or of a wiki page (dots.llm1 C.2)."""

    enabled: bool = True
    max_changed_lines: float = Field(default=0.3, ge=0, le=1)
    """Share of lines that begin with + or -, in a page with a patch's hunk, above which it is dropped."""
    min_wiki_line_numbers: Count = 2
    """Headings such as "Line 12:" from which a page that names two revisions is dropped."""


class TokenDistribution(StageConfig):
    """Pages whose words are far from those of all pages in their language (Llama 3 §3.1.1); off by default.

    The crawl is then read twice: its words are counted first.
    """

    enabled: bool = False
    max_divergence: float = Field(default=5.0, gt=0)
    """KL divergence in nats above which a page is dropped. Neither direction nor value is published."""


class PersonalData(StageConfig):
    """Personal data replaced in place by typed placeholders such as `<email>`."""

    enabled: bool = True
    email: bool = True
    """Addresses of the domains that are reserved for examples stay."""
    phone: bool = True
    ip: bool = True
    """Public addresses; those of private, loopback and documentation networks stay."""
    card: bool = True
    """Payment cards by issuer, length and check digit; the numbers that payment services publish for tests stay."""
    iban: bool = True
    national_id: bool = True
    """Ids of persons by form and check digits; weak forms only after a word that names them."""
    key: bool = True
    """Keys and tokens of the forms that services issue, private keys, and random values given to a name such as
    `password`."""
    dense_domains: DenseDomains = DenseDomains()


class Safety(StageConfig):
    """Pages dropped for the density of unsafe words (clean/data/unsafe_words.txt), or for their safety score."""

    enabled: bool = True
    max_density: Share = 0.005
    """Unsafe words per word of the page, from which it is dropped."""
    min_count: Count = 3
    """A page with fewer unsafe words than this is not dropped for their density."""
    max_score: float | None = Field(default=None, ge=0, le=1)
    """Drop pages whose `safety_score` (clean/data/safety_score.json) is higher, 0 to 1; null only scores."""


class Config(StageConfig):
    """What a page must pass, in this order, to become a document."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes to keep; empty keeps every language that is identified."""
    min_language_score: float = Field(default=0.65, ge=0, le=1)
    """Pages identified with less confidence are dropped (dots.llm1 C.1)."""
    url: UrlRules = UrlRules()
    gopher: GopherQuality = GopherQuality()
    repetition: GopherRepetition = GopherRepetition()
    c4: C4 = C4()
    fineweb: FineWeb = FineWeb()
    refinedweb: RefinedWeb = RefinedWeb()
    repeated_lines: RepeatedLines = RepeatedLines()
    diffs: Diffs = Diffs()
    token_distribution: TokenDistribution = TokenDistribution()
    safety: Safety = Safety()
    personal_data: PersonalData = PersonalData()


def external_digests(config: Config) -> dict[str, str]:
    """Digests of the block list files, so that an updated list runs the stage again."""
    for name in config.url.block_list_files:
        if not Path(name).is_file():
            raise InputError(f"block list {name} not found; expected a text file with one domain a line")
    found = sorted(file_digest(Path(name)) for name in config.url.block_list_files)
    return {f"block list {number}": digest for number, digest in enumerate(found, 1)}
