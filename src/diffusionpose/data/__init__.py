"""Annotated data: files of the public data sets -> clips of three frames."""
