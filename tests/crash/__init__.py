"""Rounds of SIGKILL: a mirror on a small cache is killed at chosen moments, started again, and held to its promises.

known      what a mirror must still know after a crash
load       clients that pull while it lasts
moments    when to kill
damage     what befalls the ledger between a kill and the next start
recovery   what has to hold after a restart
lane       one cache's life: round after round
"""
