"""Proof that a rewritten model computes what the original computes: numerically and by algebra."""
