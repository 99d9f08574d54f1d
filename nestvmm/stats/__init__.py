"""The counters of a run while it runs, read beside it: no exit waits for that.

snapshot   the counters at one moment, and rates between two of them
form       a snapshot as a line of JSON and as Prometheus's text
reporter   writes these at an interval
runtime    where a run's socket is, for its user alone
served     lets a run be asked for its counters, when it lasts
server     answers `nestvmm top`
client     asks

A run loads only what it needs of it, so nothing is imported here.
"""
