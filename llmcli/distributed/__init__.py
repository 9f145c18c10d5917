"""A model that is split over several processes, the ranks, on one machine or several.

`load.py` loads a model so, and `part.py` the part of each rank. `launch.py` starts the ranks of this machine (their
program is `worker.py`), or takes those of torchrun. `group.py` holds what they compute together. Rank 0 runs the
program: its model (`leader.py`) tells the others about each pass and each change of a KV cache (`messages.py`), and
they repeat it with their parts (`follower.py`).
"""
