"""What `doctor` looks at, one small file for each matter: a machine before it joins, and later."""
