"""Readers of public benchmarks and of anybody's own files: from files as distributed to splits in the schema."""
