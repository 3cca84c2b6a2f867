"""g2rl: a test bench for exploration signals in reinforcement learning with verifiable rewards."""

__version__ = "0.1.0"
