"""Annotated data: public data sets, loaded as clips of three frames."""
