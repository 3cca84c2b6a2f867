"""Sweeps of g2rl-train.

callback    Hydra's callback: arms known beforehand, one stop for all, tables at the end
worker      a worker process of a sweep
finished    whether an arm has finished already, told without torch
"""
