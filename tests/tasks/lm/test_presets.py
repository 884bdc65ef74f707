import pytest
import torch
from transformers import AutoModelForCausalLM

from modelmill.tasks.lm.model import model_config
from modelmill.tasks.lm.presets import SHAPES
from modelmill.tasks.lm.shape import count_active_parameters, count_embedding_parameters, count_parameters

PUBLISHED = {"llama-3.1-8b": 8.03e9, "llama-3.1-70b": 70.6e9, "llama-3.1-405b": 405.9e9, "dots.llm1": 142.8e9}


@pytest.mark.parametrize("name", SHAPES)
def test_a_preset_is_built_with_the_parameters_that_are_counted(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(SHAPES[name]))
    assert sum(parameter.numel() for parameter in model.parameters()) == count_parameters(SHAPES[name])


def test_presets_have_the_published_sizes() -> None:
    for name, parameters in PUBLISHED.items():
        assert count_parameters(SHAPES[name]) == pytest.approx(parameters, rel=7e-4)
    assert count_active_parameters(SHAPES["dots.llm1"]) == pytest.approx(14.0e9, rel=3e-3)
    assert count_active_parameters(SHAPES["llama-3.1-8b"]) == count_parameters(SHAPES["llama-3.1-8b"])
    assert count_parameters(SHAPES["baichuan-7b"]) == 7_000_559_616
    for name, parameters in {"minicpm-1.2b": 1.2e9, "minicpm-2.4b": 2.4e9}.items():
        body = count_parameters(SHAPES[name]) - count_embedding_parameters(SHAPES[name])
        assert body == pytest.approx(parameters, rel=0.04)
