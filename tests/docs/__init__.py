"""What the documents say, checked against what is so.

blocks.py       the commands and files in a document
machine.py      a machine of its own, with a network, an /etc and daemons
reader.py       somebody who types all of it there
reference.py    writes docs/configuration.md and config/mirror.toml from the settings: `make reference`
"""
