"""One self-contained HTML page about one run or several side by side; a file a section."""
