"""Tasks: problems with verifiable answers, and the verifiers that judge the answers.

task               the interface of a training task, and checks of its problems
rows               rows of a data set from the hub or a file
places             lines and rows of files in the words of a message
rehearsal          gold answers graded against themselves
rows_task          rows of one's own, with a verifier or with reward functions of one's own
math               MATH-style problems
reasoning_gym      procedural problems of the reasoning-gym package
streams            random streams that are named by a key
countdown          the built-in task: reach a target with given numbers
countdown_grammar  the parser of its answers
countdown_hard     a fixed list of Countdown problems that the tiny policy hardly solves
countdown_solutions  all solutions of a Countdown problem
detour             walk around walls: many right paths in every grid
forked_skills      choose a strategy and carry it out: some that work are rare
arithmetic         sums of two-digit numbers, and two numbers that make a target
countdown_traces   written solutions for the warm start of the tiny policy
countdown_policy   the tiny policy's tokenizer and architecture
detour_traces      demonstrations for the warm start of the detour policy
word_policy        tokenizer and architecture of all policies that ship with g2rl
recipes            how these policies are made from nothing
taskset            tasksets of the package verifiers as tasks
benchmarks/        held-out problem sets
grading/           verifiers, and the processes in which they run
"""
