"""Held-out problem sets; a new benchmark is one file of a new kind, or one YAML of a kind there is.

benchmark      the record: problems, verifier, samples, sampling
countdown      held-out Countdown problems
math           MATH500, AMC23, AIME24, AIME25
choice         GPQA-Diamond and MMLU-Pro
reasoning_gym  procedural problems of the reasoning-gym package
"""
