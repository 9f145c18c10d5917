"""Trust on first use: each kernel is compared with the readable model once on each machine, before its first reply.

A compiler, driver or processor may break a kernel that is right on ours. The first time that a kernel is to run on a
machine it computes tiny random models (`tiny_models.py`), and its logits are compared with the readable model's
(`comparison.py`). The verdict is kept in the cache folder, beside the compiled kernels (`verdict.py`), for as long as
nothing changes that decides what the kernel computes (`identity.py`). A kernel that fails is not used: `first_use.py`
says so and the next slower path makes the replies. `guarded_step.py` does the same where a kernel raises an error at
its first pass of a real model.
"""
