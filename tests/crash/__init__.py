"""Crash tests: a mirror with a small cache is killed with SIGKILL at random conditions, restarted and checked.

acknowledged      facts that the mirror must still have after a crash
load              clients that pull until the kill
kill_conditions   conditions on which the mirror is killed
ledger_damage     damage to the fact database between a kill and the next start
recovery          checks after a restart
rounds            one cache, killed and restarted round after round
"""
