"""How long a context the sampler is started with."""

from pathlib import Path

from modelmill.tasks.align.config import Config, SamplingConfig, SupervisedConfig
from modelmill.tasks.align.desk import sampling_length


def test_the_sampler_never_asks_for_more_positions_than_the_model_has(base: Path):
    short = SupervisedConfig(sequence_length=64)
    config = Config(difficulty=1, instructions=1, sampling=SamplingConfig(prompts=1), supervised=short)
    assert sampling_length(base, config) == 128  # all of a short model, longer than any conversation of training
    assert sampling_length(base, config.model_copy(update={"supervised": SupervisedConfig()})) == 128
