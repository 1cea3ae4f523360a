"""The trainer's Scorer as the reward of other engines: verl, OpenRLHF, ms-swift.

None of them is imported here. A module has the name of its engine, so never put this folder itself
on `sys.path` (as running a file in it would): import `trainer.adapters.…`, or use `python -m`.
"""
