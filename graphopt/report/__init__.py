"""What people and programs read of a run: tables for the terminal, JSON for the rest."""
