"""Command-line tests: warm, export, import, sync, ls, pin, rm, gc and verify, and bundles carried over an air gap."""
