"""Signals where people already train: inside the trainers of other libraries.

hosted     a model of another trainer, scored as g2rl scores its own policy
rewards    a g2rl verifier as a reward function, and problems as rows of a data set
groups     a signal on outcome rewards that come in any order
trl        TRL's GRPOTrainer with any signal
trl_rloo   TRL's RLOOTrainer with signals of rewards and advantages
verl       what verl imports: an advantage estimator, an engine with features, a trainer

The modules `trl`, `trl_rloo` and `verl` import the library of their name, which g2rl does not
install; nothing else in g2rl imports them.
"""
