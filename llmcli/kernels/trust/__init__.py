"""Trust on first use: each kernel is compared with the readable model once on each machine, before its first reply.

A compiler, driver or processor may break a kernel that is right elsewhere. Before a kernel is first used on a machine,
it runs tiny random models (`tiny_models.py`), and its logits are compared with the readable model's (`comparison.py`).
The verdict is kept in the cache folder, beside the compiled kernels (`verdict.py`), until the kernel's source, compiler
or hardware changes (`identity.py`). A kernel that fails is not used: `first_use.py` reports it, and the next slower
path is used. `guarded_step.py` does the same where a kernel raises an error in the first pass of a real model.
"""
