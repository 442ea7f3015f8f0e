"""Crash tests: a mirror with a small cache is killed with SIGKILL at random conditions, restarted and checked.

acknowledged      facts that the mirror must still have after a crash
fact_damage       damage to the fact database between a kill and the next start
kill_conditions   conditions on which the mirror is killed
load              clients that pull until the kill
recovery          checks after a restart
rounds            one cache, killed and restarted round after round
"""
