"""Tasks: problems with verifiable answers, and the verifiers that judge the answers.

task               the interface of a training task, and checks of its problems
rows               rows of a data set from the hub or a file
math               MATH-style problems
countdown          the built-in task: reach a target with given numbers
countdown_grammar  the parser of its answers
countdown_traces   written solutions for the warm start of the tiny policy
countdown_policy   the tiny policy's tokenizer and architecture
benchmarks/        held-out problem sets
grading/           verifiers, and the processes in which they run
"""
