"""Sweeps of g2rl-train.

arms        every arm before the first one runs, and what became of it
callback    what Hydra calls: one stop for all arms, tables at the end
plugins     launchers that are packages of their own
worker      a worker process of a sweep
finished    whether a run is complete already, told without torch
"""
