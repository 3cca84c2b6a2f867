"""What a run leaves on disk, and how it is known again.

    layout               the name of everything in a run's folder
    identity             what makes two runs the same run, or arms of a study the same arm
    inputs               fingerprints of what the configuration only names
    lock                 one process at a time in a folder
    files                files that appear whole or not at all; a full disk is named
    tracking             metrics.jsonl, the parquet tables, and a mirror beside them
    columns              what stands in the tables: every column with type, unit and meaning
    tables               the columns of rollouts/ and geometry/ from the records of a step
    metric_names         the metrics to look at first, and the score of a run
    metric_columns       every key of metrics.jsonl
    wandb_mirror         Weights & Biases as the mirror
    tensorboard_mirror   TensorBoard as the mirror
    csv_mirror           metrics.csv as the mirror
    checkpoints          what a run continues from, and the exported model
    sharded_checkpoints  the part of a checkpoint that is divided among processes
    shard_reader         reads that part without running a pickle
    interrupt            stop signals: finish the step, save, leave
    progress             the progress bar of every command
    terminal             tables on a terminal, in several where they are too wide

Importing layout, identity, inputs, lock, files, tracking, metric_names, interrupt or progress loads
no torch.
"""
