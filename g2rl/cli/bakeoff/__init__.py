"""The bake-off: every signal on the tasks of the lab, at its best rate, under one protocol.

plan       what is compared, written down before anything runs, and the runs that this makes
plan_file  reads the file of a plan, and says what is wrong with it
one_run    one training run whose held-out numbers become one stored row
publish    stored rows, the page and the figures
runner     all runs that are missing, one or more at a time, from a process that has all loaded
"""
