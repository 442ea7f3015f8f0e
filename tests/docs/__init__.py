"""Tests of README.md, docs/ and deploy/*.md: commands are run, files are parsed, figures are compared with the program.

blocks.py       the commands and files in a document
machine.py      an isolated machine: namespaces, /etc, daemons
reader.py       runs all commands and writes all files of a document there
reference.py    writes docs/configuration.md and config/mirror.toml from the settings: `make reference`
"""
