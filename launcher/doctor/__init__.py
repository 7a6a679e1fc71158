"""What `compact-ds doctor` looks at before a long run: facts of every node, and what must hold of them."""
