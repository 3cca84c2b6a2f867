"""Every figure; the only package that loads matplotlib.

style.py         the backend, and what all figures have in common
one_run.py       learning curves of a run, its gradient cosines before and after
curves.py        several arms over training
ends.py          where the runs of several arms end
bakeoff.py       coverage against accuracy through training, every arm of a bake-off
differences.py   arms minus one arm, seed by seed
geometry.py      cosines of one policy, by class of pairs and over temperatures
group.py         the cosines inside one group beside its responses
fidelity.py      gradient features against true gradients
"""
