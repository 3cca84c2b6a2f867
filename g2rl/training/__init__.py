"""The training loop.

In reading order (docs/tour.md walks a step through it):

    trainer             a run: evaluate, step, write, save, again
    step                one step: sample, grade, score, shape, advantages, update, write
    stages              the stages of a step that are more than one call
    dynamic_sampling    replaces groups that are all right or all wrong (DAPO)
    policy_lag          draws with the weights of some steps ago
    observers           signals that only measure
    updater             mini-batches and the optimizer step
    micro_batch_update  forward, loss and backward of one micro-batch
    token_plans         what a signal wants of the tokens of one mini-batch
    validation          held-out accuracy and the geometry probe
    settings            settings of the loop
    optimizer           settings of the optimizer and its schedule
    step_metrics        metrics that no other stage reports
    alarms              what in the metrics deserves a look
    bad_numbers         numbers that are not finite
    profiling           seconds, work and memory of every stage, and a trace
    work                tokens and operations, forward by forward
    profile_table       the stages as a table
    console             what the user sees
    memory              how many bytes a job needs on a GPU
    host_memory         what a CPU's C library keeps for the next step
    disk                how much room checkpoints take
    memory_plan         does it fit, and which setting helps if not
"""
