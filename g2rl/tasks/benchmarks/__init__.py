"""Held-out problem sets. Another data set of an existing kind needs a YAML file only.

benchmark      the record: problems, verifier, number of samples, sampling parameters
lab            what detour, forked_skills and countdown_hard share: settings, subsets of problems
countdown      held-out Countdown problems
countdown_hard those that the tiny policy hardly solves
detour         held-out grids
forked_skills  held-out problems of eight families
arithmetic     held-out sums and targets
rows           held-out rows of one's own
math           MATH500, AMC23, AIME24, AIME25
choice         GPQA-Diamond and MMLU-Pro
reasoning_gym  procedural problems of the reasoning-gym package
taskset        held-out tasks of a taskset of the verifiers package
"""
