"""What the two matrices of an adapter are called in training."""

LOW, UP = "lora_a", "lora_b"
"""How their names end: y = W x + scale * up (low x), low (rank, in), up (out, rank) (Hu et al.
2021, arXiv:2106.09685, section 4.1)."""
