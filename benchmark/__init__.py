"""Many runs: what the runs of a protocol wrote, as the tables that papers print."""
