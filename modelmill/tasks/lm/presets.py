"""The name of a published model → its shape. Needs pydantic only.

A count of parameters with and without embeddings tells which of the two a model's name means (`count_parameters`,
`count_embedding_parameters`).
"""

from modelmill.tasks.lm.shape import Experts, ModelShape, RopeScaling

# Llama 3.1 (arXiv:2407.21783, Table 3). Vocabulary 128K, rotary base 500,000 (§3.2); the frequency rescaling is in the
# released code (models/llama3/model.py), not in the paper: it belongs to the 128K context, not to pretraining at 8K.
_LLAMA_ROPE = RopeScaling(kind="llama3", factor=8.0)


def _llama(hidden: int, layers: int, heads: int, intermediate: int) -> ModelShape:
    return ModelShape(
        vocab_size=128_256,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=8,
        intermediate_size=intermediate,
        max_sequence_length=131_072,
        rope_theta=500_000.0,
        rope_scaling=_LLAMA_ROPE,
        tie_embeddings=False,
    )


# dots.llm1 (arXiv:2506.05767, §2 and Table 6); rotary base, scaling factor of the router, epsilon and positions are
# those of the released configuration. 142B in all, 14B active with both embeddings.
_DOTS = ModelShape(
    vocab_size=152_064,
    hidden_size=4096,
    num_layers=62,
    num_heads=32,
    num_kv_heads=32,
    intermediate_size=10_944,
    max_sequence_length=32_768,
    rope_theta=10_000_000.0,
    tie_embeddings=False,
    experts=Experts(num_routed=128, num_shared=2, top_k=6, intermediate_size=1408),
)

# baichuan-7B (README and modeling code of baichuan-inc/baichuan-7B): a Llama with a vocabulary of 64,000.
_BAICHUAN = ModelShape(
    vocab_size=64_000,
    hidden_size=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=32,
    intermediate_size=11_008,
    max_sequence_length=4096,
    tie_embeddings=False,
    norm_eps=1e-6,
)


# MiniCPM (arXiv:2404.06395, §6 and Table 2; context 4,096 of the model cards). The names count the parameters without
# embeddings. Its multipliers of embedding, residual and logits are folded into weights (`lm.model.initialise`).
def _minicpm(vocab: int, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int) -> ModelShape:
    return ModelShape(
        vocab_size=vocab,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        intermediate_size=intermediate,
        max_sequence_length=4096,
    )


SHAPES: dict[str, ModelShape] = {
    "llama-3.1-8b": _llama(4096, 32, 32, 14_336),
    "llama-3.1-70b": _llama(8192, 80, 64, 28_672),
    "llama-3.1-405b": _llama(16_384, 126, 128, 53_248),
    "dots.llm1": _DOTS,
    "baichuan-7b": _BAICHUAN,
    "minicpm-1.2b": _minicpm(73_440, 1536, 52, 24, 8, 3840),
    "minicpm-2.4b": _minicpm(122_753, 2304, 40, 36, 36, 5760),
}
