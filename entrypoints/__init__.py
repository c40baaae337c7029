"""One click command for each MLproject entry point: read, call `cxr`, log."""
