"""`make bench`: this mirror beside the caches it competes with, on one machine, in one run, as one table.

machine.py        what the kernel knows of a process: CPU seconds, resident memory; and of this machine
content.py        the blobs and manifests that are pulled
servers.py        a server process: started, awaited, watched, stopped
upstreams.py      the registry they all pull from: one as fast as the machine, one with a narrow line
throttled.py      the narrow one, a program of its own
line.py           a line as long and as wide as one to a registry far away
job.py            the images of a CI job, and dockerd that pulls them
contestants.py    the mirror, nginx, docker-registry, drayage
client.py         the pulling client, a program of its own, as cheap as it can be and the same for all
pulls.py          starts that client and reads its report
table.py          rows, targets, verdicts
stage.py          what a measurement is given: contestants on cold and on warm caches
measurements/     one file each
"""
