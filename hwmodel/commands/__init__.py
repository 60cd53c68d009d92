"""Subcommands that hwmodel adds to `graphopt`."""
