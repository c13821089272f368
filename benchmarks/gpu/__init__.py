"""What a GPU gives, table by table, each against the bare work in the same run: `python -m benchmarks.gpu`."""
