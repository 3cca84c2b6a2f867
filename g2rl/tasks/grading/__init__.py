"""Verifiers, which judge completions, and the worker processes in which they run.

verifier   the interface of a verifier
staged     the interface of a verifier that does its cheap part in the calling process
reasoning  markers of reasoning, and what is said behind them
extract    the final answer in a completion
spelling   ASCII and LaTeX for other characters
rewrites   LaTeX for functions, decimals and decoration as models write them
units      quantities: values with a unit
normalize  one spelling for mathematical answers
structure  lists, tuples, sets, tables and relations in an answer
numbers    exact numbers
bombs      signs of an answer on which mathematics could run away
compare    two answers part by part
symbolic   equality of expressions by symbolic mathematics
relations  equality of equations, inequalities and sets by their solutions
math       the verifier of mathematical answers
labels     letters and numbers that label parts of a text
choice     the verifier of multiple-choice answers
gym        the verifier of reasoning-gym answers
plain      the verifiers of plain words and of plain numbers
code_files  where the files of reward functions lie
reward_function  reward functions of one's own as a verifier
registry   verifiers by the name that a samples file gives them
grader     grades many completions, with a limit of time and memory on each
worker_pool  keeps the worker processes running, and says which calls were lost
workers    what starts the worker processes, and the functions that run in them
"""
