"""What a run leaves on disk, and how it is known again.

    layout               the name of everything in a run's folder
    identity             what makes two runs the same run, or the same arm
    files                files that appear whole or not at all
    tables               columns of rollouts/ and geometry/
    tracking             metrics.jsonl, tables and a mirror beside them
    wandb_mirror         Weights & Biases as that mirror
    metric_names         the metrics that a dashboard shows, with their meaning
    checkpoints          to continue from, and the exported model
    sharded_checkpoints  the same for weights divided among processes
    interrupt            stop signals
    progress             the progress bar of every command

layout, identity, files and interrupt load no torch.
"""
