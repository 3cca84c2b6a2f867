"""Fidelity: how well cosines of gradient features predict cosines of the true gradients.

names.py            names in the tables
true_gradients.py   inner products of the responses' true gradients, exact or sketched
predictors.py       the features, and the cheaper similarities they are compared with
measure.py          both of them for graded groups, as tables of pairs and of responses
records.py          what fidelity.json holds
summary.py          correlations with intervals, from the tables
report.py           the summary in markdown
"""
