"""Values and grammars of the OCI specifications and of RFC 9110. Pure: no I/O, no event loop, no clock."""
