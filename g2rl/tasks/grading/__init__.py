"""Verifiers, which judge completions, and the worker processes in which they run.

verifier   the interface of a verifier
staged     the interface of a verifier that does its cheap part in the calling process
extract    the final answer in a completion
normalize  one spelling for mathematical answers
math       the verifier of mathematical answers
symbolic   equality by symbolic mathematics
choice     the verifier of multiple-choice answers
gym        the verifier of reasoning-gym answers
registry   verifiers by the name that a samples file gives them
grader     grades many completions, with a limit of time and memory on each
workers    what starts the worker processes, and the functions that run in them
"""
