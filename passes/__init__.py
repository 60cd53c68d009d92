"""Analyses and rewrites that plug into graphopt by entry point."""
