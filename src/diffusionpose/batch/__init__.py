"""Many videos: each in a process that can be killed, and a ledger of what is done.

`videos` says which files they are, `work` does one of them, `workers` runs several side by side within limits, `ledger`
remembers, `run` puts them together. Nothing here imports torch until a video needs it.
"""
