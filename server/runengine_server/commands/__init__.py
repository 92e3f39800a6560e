"""What callers ask of runs: check, one call of a repository, a typed refusal."""
