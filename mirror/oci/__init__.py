"""The vocabulary of the OCI specifications and of RFC 9110, pure: text in, values out, no I/O, no clock."""
