"""Held-out problem sets. Another data set of an existing kind needs a YAML file only.

benchmark      the record: problems, verifier, number of samples, sampling parameters
countdown      held-out Countdown problems
math           MATH500, AMC23, AIME24, AIME25
choice         GPQA-Diamond and MMLU-Pro
reasoning_gym  procedural problems of the reasoning-gym package
"""
