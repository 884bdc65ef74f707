"""Token shards → scaling laws, and the size, tokens and learning rate that pretrain uses."""
