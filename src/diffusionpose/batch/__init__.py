"""Batch processing of videos in worker processes, with a ledger of finished work.

`videos` finds the files, `work` processes one of them, `workers` runs several in parallel within
limits, `ledger` records outcomes, `run` puts these together. torch is only imported once a video
needs it.
"""
