"""Client authentication and access rules: users, failed logins, and which repositories a client may pull."""
