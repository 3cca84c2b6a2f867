"""Analyses of finished runs and of single policies: numbers, tables and figures.

groups.py      draw whole groups of responses from a policy and grade them
comparison/    several runs joined: arms, differences between them, the end of a sweep
bakeoff/       stored rows of a bake-off of signals
geometry/      cosines between responses over sampling and scoring temperatures
fidelity/      how well gradient features predict the true gradients
figures/       every figure that is a file
report/        one HTML page about a run, or about several
loaded.py      a run on disk as data frames: g2rl.load_run
stored.py      read back what the commands wrote, for notebooks
tables.py      cells with intervals, tables in markdown
captions.py    how the responses behind a cosine were sampled and scored
columns.py     what stands in the tables of all of these, column by column
palette.py     colours of signals and pair classes
"""
