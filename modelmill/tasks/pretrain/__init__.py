"""Pretraining: token shards and the scaling fit → a base model, at the stable learning rate."""
