"""Held-out problem sets: one file per kind, one YAML per benchmark."""
