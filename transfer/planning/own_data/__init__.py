"""A plan for own data, made by looking at the data, the machine and a short probe; every line says why it is there."""
