"""The benchmark and the backbone that ship with the project: the files themselves, and the code that rebuilds them."""
