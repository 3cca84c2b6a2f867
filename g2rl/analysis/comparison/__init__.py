"""Several runs side by side: which arms there are, how they differ, what a sweep came to.

runs.py                find runs, tell arms apart by their settings, one long table
alike.py               which runs were measured on the same problems, and so can be compared
choices.py             what a user may choose where runs are compared
compared.py            arms, tables and tests together: what compare prints and a page shows
paired.py              differences between arms, seed by seed
contrasts.py           the same with p values, adjusted over a family, and detectable differences
training_geometry.py   gradient cosines during training, from the files of runs
sweep.py               the tables at the end of a sweep
"""
