"""The benchmark and the backbone that ship with the project: the files themselves, and what builds them anew."""
