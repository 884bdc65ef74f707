"""A checkpoint and its tokenizer → a chat model: instructions, then rounds of sampling, verifying and preferring."""
