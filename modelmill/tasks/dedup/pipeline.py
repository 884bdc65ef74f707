"""Shards of documents → decisions of every level, each a map over shards, then a reduction over partitions.

Every step leaves files in the workspace and returns only counts, so the pool can resume it; no step holds more than
one shard or one partition in memory, except the components, which hold some ten bytes a document.
"""

from modelmill.tasks.dedup.exact_level import decide_exact
from modelmill.tasks.dedup.job import Job
from modelmill.tasks.dedup.line_level import decide_lines
from modelmill.tasks.dedup.minhash_level import decide_minhash
from modelmill.tasks.dedup.passage_level import decide_passages
from modelmill.tasks.dedup.shards import Decisions


def decide(job: Job) -> Decisions:
    """Run the levels that the recipe switches on, each on what the one before it kept."""
    decisions = Decisions()
    if job.config.url or job.config.exact:
        decisions = decide_exact(job, decisions)
    if job.config.lines.rule != "none":
        decisions = decide_lines(job, decisions)
    if job.config.minhash.enabled:
        decisions = decide_minhash(job, decisions)
    if job.config.passages.enabled:
        decisions = decide_passages(job, decisions)
    return decisions
