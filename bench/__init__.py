"""Benchmarks (`make bench`): compare this mirror with other caches on one machine, in one run, in one table.

machine.py        CPU seconds and memory of a process from the kernel; description of this machine
content.py        the blobs and manifests to pull
servers.py        start, readiness, observation and stop of a server process
upstreams.py      the upstream registry: a fast one, limited by the machine only, and one with limited bandwidth
throttled.py      the program of the upstream with limited bandwidth
line.py           network link with the bandwidth and latency of a distant registry
job.py            the images of a CI job, and their pull with dockerd
contestants.py    the compared caches: the mirror, nginx, docker-registry, drayage
client.py         the program that pulls: minimal CPU use, the same for all contestants
pulls.py          runs that client and reads its report
table.py          rows, targets, verdicts
stage.py          environment of a measurement: contestants with cold and warm caches
measurements/     one module per measurement
"""
