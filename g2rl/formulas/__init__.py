"""Pure functions, each with an oracle in its tests: no disk, no configuration, no model.

tensors       unit rows, cosines, min-max, ranks, sums over segments
pairs         pairs of responses of a group and their classes; loads no torch
feature_sums  inner products of summed features, identical responses
advantages    from rewards to advantages
overlong      what the length of a response costs (DAPO)
losses        the policy-gradient loss and its published settings
estimators    pass@k, maj@k and bootstrap intervals; numpy alone
intervals     t-intervals over training runs that differ in their seed
contrasts     paired tests over seeds, Holm's adjustment, detectable differences
correlation   correlations over pairs, with intervals over groups
diversity     effective rank, Vendi score and other numbers of a group
"""
