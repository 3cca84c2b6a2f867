"""Grading: extraction, equivalence and the pool of killable worker processes."""
