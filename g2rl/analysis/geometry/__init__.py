"""Geometry: cosines between the responses to a problem, by temperature and by class of pairs.

strategies.py   which strategy a Countdown response follows; how many solutions were found
numbers.py      from features of groups to pairs, groups and numbers with intervals
records.py      what geometry.json holds
measure.py      a policy's responses over a grid of sampling and scoring temperatures
report.py       the numbers as JSON, in markdown and on the terminal
"""
