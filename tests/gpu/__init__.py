"""What only a GPU can show. Each test skips with the reason where there is none."""
